"""What a project's images take: for quotas, and to be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from vmimg.service.catalogue import tables

__all__ = ["Usage", "of", "owner"]

_COPYING: Final = "os_glance_importing_to_stores"
_GONE: Final = ("killed", "deleted", "pending_delete")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project has. Sizes are in bytes."""

    size: int
    """In stores, each copy counted."""
    staging: int
    """Waiting to be imported or copied."""
    count: int
    """Images."""
    uploading: int
    """Images whose data comes just now."""


def of(connection: Connection, project: str | None) -> Usage:
    """What the images of the project take."""
    i, w = tables.images.c, tables.locations.c
    live = (
        i.owner == project if project is not None else i.owner.is_(None),
        i.deleted_at.is_(None),
        i.status.not_in(_GONE),
    )
    coming = or_(i.status.in_(("uploading", "importing")), _copied())
    stored = select(func.sum(i.size)).join(tables.locations, w.image_id == i.id).where(*live)
    staged = select(func.sum(i.size)).where(*live, coming)
    many = select(func.count()).select_from(tables.images).where(*live)
    return Usage(
        size=_number(connection, stored),
        staging=_number(connection, staged),
        count=_number(connection, many),
        uploading=_number(connection, many.where(or_(i.status == "saving", coming))),
    )


def owner(connection: Connection, image_id: str) -> str | None:
    """The project that the image counts for; None: none, or there is no such image."""
    i = tables.images.c
    said = connection.execute(select(i.owner).where(i.id == image_id)).scalar()
    return None if said is None else str(said)


def _copied() -> ColumnElement[bool]:
    return func.coalesce(tables.images.c.properties[_COPYING].as_string(), "") != ""


def _number(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar() or 0)
