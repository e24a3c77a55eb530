"""Images that are deleted: at once, or after a while in which it can be taken back.

    bury      deleted, or, where its data is kept, pending_delete: nobody finds it either way
    restore   as it was, of one that is pending_delete
    overdue   those whose time is over
    purge     deleted, of one that was pending_delete

The journal has a row for each of an image's places from `bury` on: what is kept is PENDING, what is
to go is DELETING. The row of the image stays, so that its identifier is not given out again.
Functions over a connection; nothing here knows of HTTP.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, delete, select, update

from vmimg.service.catalogue import images, journal, tables
from vmimg.service.catalogue.database import now
from vmimg.service.catalogue.images import ImageRecord

__all__ = ["bury", "overdue", "purge", "restore"]

_PENDING: Final = "pending_delete"
# What has data that somebody could want back.
_KEPT: Final = ("active", "deactivated")
_BEFORE: Final = "os_glance_deleted_from"
"""The property that has the state which the image was in."""


def bury(connection: Connection, record: ImageRecord, node: str, *, keep: bool = False) -> bool:
    """The image is deleted. False if somebody else deleted it first.

    Its bytes are noted to be deleted; those that still arrive are, when they are all there.
    ``keep``: those of an image that is whole stay, until `purge`.
    """
    i = tables.images
    time = now()
    keep = keep and record.status in _KEPT
    done = connection.execute(
        update(i)
        .where(i.c.id == record.id, i.c.deleted_at.is_(None))
        .values(status=_PENDING if keep else "deleted", deleted_at=time, updated_at=time)
    )
    if done.rowcount != 1:
        return False
    if keep:
        images.set_property(connection, record.id, _BEFORE, record.status)
    purpose = journal.PENDING if keep else journal.DELETING
    for place in record.locations:
        if place.store and place.key:
            entry = journal.Entry(place.store, place.key, record.id, purpose, node)
            journal.open(connection, entry)
    journal.turn(connection, record.id, journal.STAGING, journal.DELETING)
    if not keep:
        _empty(connection, record.id)
    return True


def restore(connection: Connection, image_id: str) -> bool:
    """The image is as it was before it was deleted. False where it is not pending_delete."""
    i = tables.images
    of_it = i.c.id == image_id, i.c.status == _PENDING
    found = select(i.c.properties).where(*of_it).with_for_update()
    properties = connection.execute(found).scalar()
    if properties is None:
        return False
    kept = {name: value for name, value in properties.items() if name != _BEFORE}
    connection.execute(
        update(i)
        .where(*of_it)
        .values(
            status=properties.get(_BEFORE, "deactivated"), deleted_at=None, updated_at=now(),
            properties=kept,
        )
    )  # fmt: skip
    j = tables.journal
    kept_bytes = delete(j).where(j.c.image_id == image_id, j.c.purpose == journal.PENDING)
    connection.execute(kept_bytes)
    return True


def overdue(connection: Connection, seconds: float) -> list[str]:
    """Identifiers of what was deleted longer ago."""
    i = tables.images.c
    before = now() - timedelta(seconds=seconds)
    # Few are pending, and the journal is short where the images are many.
    noted = select(tables.journal.c.image_id).where(tables.journal.c.purpose == journal.PENDING)
    asked = select(i.id).where(i.id.in_(noted), i.status == _PENDING, i.deleted_at <= before)
    return list(connection.execute(asked).scalars())


def purge(connection: Connection, image_id: str) -> bool:
    """What was kept of the image is noted to be deleted. False where it is not pending_delete."""
    i = tables.images
    of_it = i.c.id == image_id, i.c.status == _PENDING
    done = connection.execute(update(i).where(*of_it).values(status="deleted", updated_at=now()))
    if done.rowcount != 1:
        return False
    journal.turn(connection, image_id, journal.PENDING, journal.DELETING)
    _empty(connection, image_id)
    return True


def _empty(connection: Connection, image_id: str) -> None:
    i, w, m = tables.images, tables.locations, tables.members
    connection.execute(update(i).where(i.c.id == image_id).values(properties={}, tags=[]))
    connection.execute(delete(w).where(w.c.image_id == image_id))
    connection.execute(delete(m).where(m.c.image_id == image_id))
