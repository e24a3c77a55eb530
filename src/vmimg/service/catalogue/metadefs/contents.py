"""What has a name within a namespace: properties, objects and tags, which are kept alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, delete, insert, literal, select, update
from sqlalchemy import tuple_ as row_of
from sqlalchemy.exc import IntegrityError

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now
from vmimg.service.catalogue.metadefs.namespaces import Exists

__all__ = ["OBJECTS", "PROPERTIES", "SORT_KEYS", "TAGS", "Content", "add", "every", "find", "page"]

PROPERTIES: Final = tables.metadef_properties
OBJECTS: Final = tables.metadef_objects
TAGS: Final = tables.metadef_tags

SORT_KEYS: Final = ("created_at", "updated_at", "id", "name", "namespace_id")
"""What a listing may be sorted by."""


@dataclass(frozen=True, slots=True)
class Content:
    """A property, an object or a tag."""

    id: int
    name: str
    created_at: datetime
    updated_at: datetime
    definition: Mapping[str, Any] = field(default_factory=dict)
    """What it says, beside its name; nothing for a tag."""


def add(
    connection: Connection,
    kind: Table,
    namespace_id: int,
    items: Iterable[tuple[str, Mapping[str, Any]]],
) -> datetime:
    """New ones, with their definitions; the time they were made.

    Raises Exists for a name that there is, or that is given twice.
    """
    taken = set(
        connection.execute(select(kind.c.name).where(kind.c.namespace_id == namespace_id)).scalars()
    )
    time, rows = now(), []
    for name, definition in items:
        if name in taken:
            raise Exists(name)
        taken.add(name)
        row = {"namespace_id": namespace_id, "name": name, "created_at": time, "updated_at": time}
        rows.append(row | ({"definition": dict(definition)} if kind is not TAGS else {}))
    if rows:
        connection.execute(insert(kind), rows)
    return time


def every(connection: Connection, kind: Table, namespace_id: int) -> list[Content]:
    """All of the namespace, by name."""
    rows = connection.execute(
        select(kind).where(kind.c.namespace_id == namespace_id).order_by(kind.c.name)
    )
    return [_content(row) for row in rows]


def page(
    connection: Connection,
    kind: Table,
    namespace_id: int,
    *,
    sort_key: str = "created_at",
    descending: bool = True,
    limit: int | None = None,
    after: Content | None = None,
) -> list[Content]:
    """Those of the namespace in order, up to the limit."""
    question = select(kind).where(kind.c.namespace_id == namespace_id)
    keys = [*dict.fromkeys([sort_key, "created_at", "id"])]
    keys = [key for key in keys if key != "namespace_id"]  # which all have in common
    columns = [kind.c[key] for key in keys]
    if after is not None:
        values = [literal(getattr(after, key), kind.c[key].type) for key in keys]
        here, there = row_of(*columns), row_of(*values)
        question = question.where(here < there if descending else here > there)
    question = question.order_by(*(c.desc() if descending else c.asc() for c in columns))
    rows = connection.execute(question.limit(limit) if limit is not None else question)
    return [_content(row) for row in rows]


def find(connection: Connection, kind: Table, namespace_id: int, name: str) -> Content | None:
    """The one of this name."""
    if "\0" in name:  # which PostgreSQL does not take, even to look for
        return None
    row = connection.execute(
        select(kind).where(kind.c.namespace_id == namespace_id, kind.c.name == name)
    ).first()
    return _content(row) if row is not None else None


def change(
    connection: Connection,
    kind: Table,
    content: Content,
    name: str,
    definition: Mapping[str, Any] | None = None,
) -> Content:
    """Another name and definition; as it is now.

    Raises Exists where another one has the new name.
    """
    values: dict[str, Any] = {"name": name, "updated_at": now()}
    if kind is not TAGS:
        values["definition"] = dict(definition or {})
    where = update(kind).where(kind.c.id == content.id)
    try:
        row = connection.execute(where.values(values).returning(*kind.c)).one()
    except IntegrityError:
        raise Exists(name) from None
    return _content(row)


def remove(connection: Connection, kind: Table, content: Content) -> None:
    """Delete it."""
    connection.execute(delete(kind).where(kind.c.id == content.id))


def clear(connection: Connection, kind: Table, namespace_id: int) -> None:
    """Delete all of the namespace."""
    connection.execute(delete(kind).where(kind.c.namespace_id == namespace_id))


def _content(row: Row[Any]) -> Content:
    definition = getattr(row, "definition", {})
    return Content(row.id, row.name, row.created_at, row.updated_at, definition)
