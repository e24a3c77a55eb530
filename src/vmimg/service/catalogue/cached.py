"""Which images each process of the service has in its cache, or is to have.

    queued -> cached

Functions over a connection; `vmimg.service.data.caching` has the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = [
    *("Cached", "cached", "forget", "has", "hit", "keep", "nodes", "of_deleted", "queue"),
    *("queued", "size"),
]


@dataclass(frozen=True, slots=True)
class Cached:
    """An image in a cache."""

    id: int
    image_id: str
    size: int
    checksum: str | None
    hits: int
    modified_at: datetime
    used_at: datetime


def has(connection: Connection, node: str, image_id: str) -> bool:
    """Whether the cache of ``node`` has the image, or is to have it."""
    c = tables.cache.c
    asked = select(c.id).where(c.node == node, c.image_id == image_id)
    return connection.execute(asked).first() is not None


def queue(connection: Connection, node: str, image_id: str) -> None:
    """The cache of ``node`` is to have the image, unless it has it."""
    c = tables.cache
    if has(connection, node, image_id):
        return
    time = now()
    try:
        with connection.begin_nested():
            connection.execute(
                insert(c).values(
                    node=node, image_id=image_id, state="queued", size=0, hits=0,
                    modified_at=time, used_at=time,
                )
            )  # fmt: skip
    except IntegrityError:
        pass  # somebody else asked for it at the same time


def queued(connection: Connection, node: str) -> list[str]:
    """Images that the cache is to have, in the order in which they were asked for."""
    c = tables.cache.c
    asked = select(c.image_id).where(c.node == node, c.state == "queued").order_by(c.id)
    return list(connection.execute(asked).scalars())


def keep(connection: Connection, node: str, image_id: str, size: int, checksum: str | None) -> bool:
    """The cache has it. False where nobody wants that any more."""
    c = tables.cache
    time = now()
    done = connection.execute(
        update(c)
        .where(c.c.node == node, c.c.image_id == image_id, c.c.state == "queued")
        .values(state="cached", size=size, checksum=checksum, modified_at=time, used_at=time)
    )
    return done.rowcount == 1


def cached(connection: Connection, node: str) -> list[Cached]:
    """What the cache has, what was not used for the longest time first."""
    c = tables.cache.c
    asked = select(c.id, c.image_id, c.size, c.checksum, c.hits, c.modified_at, c.used_at).where(
        c.node == node, c.state == "cached"
    )
    return [Cached(*row) for row in connection.execute(asked.order_by(c.used_at, c.id))]


def size(connection: Connection, node: str) -> int:
    """Bytes that the cache has."""
    c = tables.cache.c
    asked = select(func.sum(c.size)).where(c.node == node, c.state == "cached")
    return int(connection.execute(asked).scalar() or 0)


def hit(connection: Connection, node: str, image_id: str, checksum: str | None) -> bool:
    """Somebody is given it out of the cache. False where the cache has it not, or other bytes."""
    c = tables.cache
    done = connection.execute(
        update(c)
        .where(c.c.node == node, c.c.image_id == image_id, c.c.state == "cached")
        .where(c.c.checksum.is_not_distinct_from(checksum))
        .values(hits=c.c.hits + 1, used_at=now())
    )
    return done.rowcount == 1


def forget(
    connection: Connection, node: str, image_id: str | None = None, state: str | None = None
) -> None:
    """The cache has it no more, nor is it to; all images, unless one is named."""
    c = tables.cache
    asked = delete(c).where(c.c.node == node)
    if image_id is not None:
        asked = asked.where(c.c.image_id == image_id)
    if state is not None:
        asked = asked.where(c.c.state == state)
    connection.execute(asked)


def nodes(connection: Connection, image_id: str) -> list[str]:
    """Whose caches have the image."""
    c = tables.cache.c
    asked = select(c.node).where(c.image_id == image_id, c.state == "cached").order_by(c.node)
    return list(connection.execute(asked).scalars())


def of_deleted(connection: Connection, node: str) -> list[str]:
    """Images that the cache has, or is to have, and that are deleted."""
    c, i = tables.cache.c, tables.images.c
    live = exists().where(i.id == c.image_id, i.deleted_at.is_(None))
    return list(connection.execute(select(c.image_id).where(c.node == node, ~live)).scalars())
