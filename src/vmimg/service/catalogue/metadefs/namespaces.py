"""Namespaces of metadata definitions: made, found, listed, changed, deleted.

Whoever changes what is in a namespace finds it with ``lock``: then nobody else does at that time,
and it is not deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal, or_, select, update
from sqlalchemy import tuple_ as row_of
from sqlalchemy.exc import IntegrityError

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = ["SORT_KEYS", "Exists", "NamespaceRecord", "Wanted", "change", "create", "find", "page"]

_TABLE: Final = tables.metadef_namespaces

SORT_KEYS: Final = (
    *("created_at", "updated_at", "id", "namespace", "display_name", "description"),
    *("visibility", "protected", "owner"),
)
"""What a listing may be sorted by."""


class Exists(Exception):
    """There is one of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """A namespace, as the catalogue has it; fields as in the API."""

    id: int
    namespace: str
    display_name: str | None
    description: str | None
    visibility: str
    protected: bool
    owner: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which namespaces a listing is to have."""

    project: str | None = None
    everything: bool = False
    """Private ones of other projects too: for administrators."""
    visibility: str | None = None
    resource_types: Sequence[str] | None = None
    sort_key: str = "created_at"
    descending: bool = True
    limit: int = 25
    after: NamespaceRecord | None = None


def create(
    connection: Connection,
    namespace: str,
    *,
    display_name: str | None = None,
    description: str | None = None,
    visibility: str = "private",
    protected: bool = False,
    owner: str | None = None,
) -> NamespaceRecord:
    """A new namespace, with nothing in it.

    Raises Exists where there is one of this name.
    """
    time = now()
    values: dict[str, Any] = {
        "namespace": namespace,
        "display_name": display_name,
        "description": description,
        "visibility": visibility,
        "protected": protected,
        "owner": owner,
        "created_at": time,
        "updated_at": time,
    }
    try:
        key = connection.execute(insert(_TABLE).values(values)).inserted_primary_key
    except IntegrityError:
        raise Exists(namespace) from None
    assert key is not None
    return NamespaceRecord(id=key[0], **values)


def find(connection: Connection, namespace: str, *, lock: bool = False) -> NamespaceRecord | None:
    """The namespace of this name."""
    if "\0" in namespace:  # which PostgreSQL does not take, even to look for
        return None
    wanted = select(_TABLE).where(_TABLE.c.namespace == namespace)
    row = connection.execute(wanted.with_for_update() if lock else wanted).first()
    return NamespaceRecord(*row) if row is not None else None


def change(connection: Connection, record: NamespaceRecord, **values: Any) -> NamespaceRecord:
    """Other values in the namespace's columns; the record as it is now.

    Raises Exists where another one has the new name.
    """
    try:
        row = connection.execute(
            update(_TABLE)
            .where(_TABLE.c.id == record.id)
            .values(updated_at=now(), **values)
            .returning(*_TABLE.c)
        ).one()
    except IntegrityError:
        raise Exists(values["namespace"]) from None
    return NamespaceRecord(*row)


def remove(connection: Connection, record: NamespaceRecord) -> None:
    """Delete the namespace, and all that is in it."""
    connection.execute(delete(_TABLE).where(_TABLE.c.id == record.id))


def page(connection: Connection, wanted: Wanted) -> list[NamespaceRecord]:
    """Namespaces in order, up to the limit."""
    question = select(_TABLE)
    if not wanted.everything:
        seen = _TABLE.c.visibility == "public"
        if wanted.project is not None:
            seen = or_(seen, _TABLE.c.owner == wanted.project)
        question = question.where(seen)
    if wanted.visibility is not None:
        question = question.where(_TABLE.c.visibility == wanted.visibility)
    if wanted.resource_types is not None:
        a, r = tables.metadef_associations, tables.metadef_resource_types
        having = select(a.c.namespace_id).join(r, r.c.id == a.c.resource_type_id)
        question = question.where(
            _TABLE.c.id.in_(having.where(r.c.name.in_(wanted.resource_types)))
        )
    keys = [*dict.fromkeys([wanted.sort_key, "created_at", "id"])]
    columns = [_sorted_by(key) for key in keys]
    if wanted.after is not None:
        values = [_value(wanted.after, key) for key in keys]
        here, there = row_of(*columns), row_of(*values)
        question = question.where(here < there if wanted.descending else here > there)
    order = [column.desc() if wanted.descending else column.asc() for column in columns]
    rows = connection.execute(question.order_by(*order).limit(wanted.limit))
    return [NamespaceRecord(*row) for row in rows]


def _sorted_by(key: str) -> ColumnElement[Any]:
    # The two databases do not agree where NULL belongs, and it is neither more nor less than any.
    column = _TABLE.c[key]
    return func.coalesce(column, "") if column.nullable else column


def _value(record: NamespaceRecord, key: str) -> ColumnElement[Any]:
    column = _TABLE.c[key]
    value = getattr(record, key)
    return literal("" if value is None and column.nullable else value, column.type)
