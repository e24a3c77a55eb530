"""Members of shared images: the projects that an image is shared with, and what they say to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = ["STATUSES", "MemberRecord", "add", "answer", "count", "find", "has", "listing", "remove"]

STATUSES: Final = ("pending", "accepted", "rejected")
_TABLE: Final = tables.members


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """One project that an image is shared with."""

    image_id: str
    member: str
    status: str
    created_at: datetime
    updated_at: datetime


def add(connection: Connection, image_id: str, member: str) -> None:
    """Share the image with a project, which is to accept it.

    Raises sqlalchemy's IntegrityError if it is shared with it already.
    """
    time = now()
    values = {"image_id": image_id, "member": member, "status": "pending"}
    connection.execute(insert(_TABLE).values(created_at=time, updated_at=time, **values))


def find(connection: Connection, image_id: str, member: str) -> MemberRecord | None:
    """The membership of a project."""
    c = _TABLE.c
    if "\0" in member:
        return None
    query = select(_TABLE).where(c.image_id == image_id, c.member == member)
    row = connection.execute(query).first()
    return MemberRecord(**row._mapping) if row is not None else None


def has(connection: Connection, image_id: str, member: str) -> bool:
    """Whether the image is shared with a project, whatever that says to it."""
    c = _TABLE.c
    query = select(c.member).where(c.image_id == image_id, c.member == member)
    return connection.execute(query).first() is not None


def listing(connection: Connection, image_id: str) -> Sequence[MemberRecord]:
    """All members of the image, those first that were added first."""
    c = _TABLE.c
    query = select(_TABLE).where(c.image_id == image_id).order_by(c.created_at, c.member)
    return [MemberRecord(**row._mapping) for row in connection.execute(query)]


def count(connection: Connection, image_id: str) -> int:
    """How many projects the image is shared with."""
    query = select(func.count()).select_from(_TABLE).where(_TABLE.c.image_id == image_id)
    return int(connection.execute(query).scalar_one())


def answer(connection: Connection, image_id: str, member: str, status: str) -> None:
    """What the project says to it: one of `STATUSES`."""
    c = _TABLE.c
    connection.execute(
        update(_TABLE)
        .where(c.image_id == image_id, c.member == member)
        .values(status=status, updated_at=now())
    )


def remove(connection: Connection, image_id: str, member: str) -> None:
    """Share the image with the project no more."""
    c = _TABLE.c
    connection.execute(delete(_TABLE).where(c.image_id == image_id, c.member == member))
