"""Bytes that are no image's yet, or no more: none is lost track of.

A row is written before the bytes are, and goes in the transaction that makes them an image's. Bytes
to be deleted get a row in the transaction that takes them from their image, and lose it when they
are gone. What is left of a process that died is found by its node's name, or by its silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = [
    *("DELETING", "PENDING", "STAGING", "WRITING", "Entry", "abandoned", "alive", "close"),
    *("deleting", "give_up", "keep", "open", "settle", "staged", "to_delete", "turn"),
]

WRITING: Final = "writing"
STAGING: Final = "staging"
"""In the staging area, for an import: kept over a restart."""
DELETING: Final = "deleting"
PENDING: Final = "pending"
"""Of a deleted image, which can still be taken back."""

_SILENCE: Final = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes under ``key`` of ``store``, and what is to become of them."""

    store: str
    key: str
    image_id: str
    purpose: str
    node: str


def open(connection: Connection, entry: Entry) -> None:
    """Note bytes that are about to be written, or deleted."""
    time = now()
    connection.execute(
        insert(tables.journal).values(
            store=entry.store,
            key=entry.key,
            image_id=entry.image_id,
            purpose=entry.purpose,
            node=entry.node,
            created_at=time,
            alive_at=time,
        )
    )


def close(connection: Connection, store: str, key: str) -> None:
    """They are gone."""
    j = tables.journal
    connection.execute(delete(j).where(j.c.store == store, j.c.key == key))


def settle(connection: Connection, store: str, key: str) -> bool:
    """They are an image's now. False where they were given up meanwhile: by another process that
    took the silence of this one for its end.
    """
    j = tables.journal
    mine = (j.c.store == store, j.c.key == key, j.c.purpose == WRITING)
    return connection.execute(delete(j).where(*mine)).rowcount == 1


def give_up(connection: Connection, store: str, key: str) -> bool:
    """Nobody writes them any more: they are to be deleted. False where they are settled."""
    j = tables.journal
    mine = (j.c.store == store, j.c.key == key, j.c.purpose == WRITING)
    return connection.execute(update(j).where(*mine).values(purpose=DELETING)).rowcount == 1


def to_delete(connection: Connection, store: str, key: str) -> None:
    """They will not become an image's: they are to be deleted."""
    j = tables.journal
    connection.execute(update(j).where(j.c.store == store, j.c.key == key).values(purpose=DELETING))


def turn(connection: Connection, image_id: str, before: str, after: str) -> None:
    """What of the image's bytes was there for one purpose is for another."""
    j = tables.journal
    mine = j.c.image_id == image_id, j.c.purpose == before
    connection.execute(update(j).where(*mine).values(purpose=after))


def keep(connection: Connection, store: str, key: str) -> bool:
    """They are complete, and wait for an import. False where they were given up meanwhile."""
    j = tables.journal
    mine = (j.c.store == store, j.c.key == key, j.c.purpose == WRITING)
    return connection.execute(update(j).where(*mine).values(purpose=STAGING)).rowcount == 1


def staged(connection: Connection, image_id: str) -> list[Entry]:
    """What waits in the staging area for an import of the image."""
    j = tables.journal
    rows = connection.execute(select(j).where(j.c.image_id == image_id, j.c.purpose == STAGING))
    return [Entry(r.store, r.key, r.image_id, r.purpose, r.node) for r in rows]


def alive(connection: Connection, node: str) -> None:
    """What ``node`` has noted goes on."""
    j = tables.journal
    connection.execute(update(j).where(j.c.node == node).values(alive_at=now()))


def deleting(connection: Connection, image_id: str) -> list[Entry]:
    """What of the image's bytes waits to be deleted."""
    j = tables.journal
    rows = connection.execute(select(j).where(j.c.image_id == image_id, j.c.purpose == DELETING))
    return [Entry(r.store, r.key, r.image_id, r.purpose, r.node) for r in rows]


def abandoned(connection: Connection, node: str) -> list[Entry]:
    """What is being written by ``node``, which knows what of it is, and by others who fell silent;
    and all that waits to be deleted.
    """
    j = tables.journal
    whose = or_(j.c.alive_at < now() - _SILENCE, j.c.node == node)
    whose = or_(and_(j.c.purpose == WRITING, whose), j.c.purpose == DELETING)
    rows = connection.execute(select(j).where(whose))
    return [Entry(r.store, r.key, r.image_id, r.purpose, r.node) for r in rows]
