"""Pages of images: who may see which, filters, order, and where a page begins.

A page begins after an image, the marker, not after a number of images: however far it is, what
comes before it is not read. What a project may see lies in up to four places (its own, public,
community, shared with it), each with an index in the order of the listing, so a page reads as many
rows of each as it has, and no more. Nothing (NULL) comes before everything.

Functions over a connection; nothing here knows of HTTP.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from vmimg.service.catalogue import tables

__all__ = [
    "SORT_KEYS",
    "Listed",
    "Order",
    "Viewer",
    "Wanted",
    "at_least",
    "at_most",
    "equals",
    "one_of",
    "page",
    "query",
    "when",
    "with_property",
    "with_tag",
]

SORT_KEYS: Final = (
    *("name", "status", "container_format", "disk_format", "size", "id", "created_at"),
    "updated_at",
)
_LARGEST: Final = (1 << 63) - 1
_SECOND: Final = timedelta(seconds=1)

Operator = Literal["eq", "neq", "lt", "lte", "gt", "gte"]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks."""

    project: str | None
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One key of the order."""

    key: str
    descending: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be listed."""

    viewer: Viewer
    limit: int
    visibility: str | None = None
    """One of the four, or ``all``; None leaves out others' community images."""
    member_status: str = "accepted"
    """Which of the images that are shared with the project: ``all``, or by what it said to them."""
    hidden: bool = False
    conditions: Sequence[ColumnElement[bool]] = field(default_factory=tuple)
    order: Sequence[Order] = (Order("created_at", True), Order("id", True))
    """``id`` is among the keys, so that no two images are in the same place."""
    marker: Row[Any] | None = None
    """The image that the page comes after."""


class Listed(NamedTuple):
    """An image of a page, fields as in the table; what is JSON there is text, and stays it.

    Of a thousand images, taking all that apart would be half the work.
    """

    id: str
    name: str | None
    owner: str | None
    visibility: str
    status: str
    disk_format: str | None
    container_format: str | None
    size: int | None
    virtual_size: int | None
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None
    min_disk: int
    min_ram: int
    protected: bool
    os_hidden: bool
    message: str | None
    created_at: datetime
    updated_at: datetime
    properties: str
    tags: str
    stores: str | None
    """Those that have its bytes, by commas."""


_PLAIN: Final = Listed._fields[:-3]


def page(connection: Connection, wanted: Wanted) -> list[Listed]:
    """Images, in order."""
    rows = connection.execute(query(wanted, connection.dialect.name)).all()
    return [Listed._make(row) for row in rows]


def query(wanted: Wanted, dialect: str) -> Select[Any]:
    """The query of a page."""
    i = tables.images
    common = [
        i.c.deleted_at.is_(None),
        i.c.status != "killed",
        i.c.os_hidden == wanted.hidden,
        *wanted.conditions,
    ]
    places = [true()] if wanted.marker is None else _after(wanted.order, wanted.marker)
    parts = [
        _limited(select(i).where(part, place, *common), i.c, wanted, dialect)
        for part, place in itertools.product(_parts(wanted), places)
    ] or [select(i).where(false())]
    if len(parts) == 1:
        found = parts[0].subquery()
    else:
        together = union_all(*(select(part.subquery()) for part in parts)).subquery()
        found = _limited(select(together), together.c, wanted, dialect).subquery()
    return _limited(select(*_columns(found.c, dialect)), found.c, wanted, dialect)


def _columns(c: Any, dialect: str) -> list[Any]:
    plain = [c[name] for name in _PLAIN]
    return [*plain, cast(c.properties, Text), cast(c.tags, Text), _stores(c.id, dialect)]


def _stores(image_id: Any, dialect: str) -> Any:
    w = tables.locations.c
    # Neither SQLite of some years ago nor PostgreSQL agrees with the other on how to order them.
    ordered = (
        select(w.store).where(w.image_id == image_id, w.store != "").order_by(w.id)
        .correlate(image_id.table).subquery()
    )  # fmt: skip
    joined = func.string_agg if dialect == "postgresql" else func.group_concat
    return select(joined(ordered.c.store, ",")).scalar_subquery()


def _limited(found: Select[Any], columns: Any, wanted: Wanted, dialect: str) -> Select[Any]:
    keys = (_key(columns[order.key], order, dialect) for order in wanted.order)
    return found.order_by(*keys).limit(wanted.limit)


def _key(column: Any, order: Order, dialect: str) -> Any:
    key = column.desc() if order.descending else column.asc()
    if dialect != "postgresql" or not tables.images.c[order.key].nullable:
        return key
    return key.nulls_last() if order.descending else key.nulls_first()


def _parts(wanted: Wanted) -> Iterable[ColumnElement[bool]]:
    """What the viewer may see, in parts of which no two have an image in common."""
    i, m = tables.images.c, tables.members.c
    project, asked = wanted.viewer.project, wanted.visibility
    own = i.owner == project if project is not None else false()
    if wanted.viewer.is_admin:
        if asked is None:
            yield or_(own, i.visibility != "community")
        else:
            yield true() if asked == "all" else i.visibility == asked
        return
    others = i.owner.is_distinct_from(project)
    if project is not None:
        yield own if asked in (None, "all") else and_(own, i.visibility == asked)
    if asked in (None, "all", "public"):
        yield and_(i.visibility == "public", others)
    if asked in ("all", "community"):
        yield and_(i.visibility == "community", others)
    if asked in (None, "all", "shared") and project is not None:
        shared = select(m.image_id).where(m.member == project)
        if wanted.member_status != "all":
            shared = shared.where(m.status == wanted.member_status)
        yield and_(i.visibility == "shared", others, i.id.in_(shared))


def _after(order: Sequence[Order], marker: Row[Any]) -> Sequence[ColumnElement[bool]]:
    """What comes after the marker: in places of which no two have an image in common."""
    columns: list[Column[Any]] = [tables.images.c[one.key] for one in order]
    values = [getattr(marker, one.key) for one in order]
    same_way = len({one.descending for one in order}) == 1
    if same_way and None not in values:
        # Compared as rows, which is what an index finds; a row with nothing in it is not found.
        left, right = tuple_(*columns), tuple_(*values)
        if not order[0].descending:
            return [left > right]
        if not any(column.nullable for column in columns[1:]):
            return [left < right, *([columns[0].is_(None)] if columns[0].nullable else [])]
    after: ColumnElement[bool] = false()
    for one, column, value in reversed(list(zip(order, columns, values, strict=True))):
        same = column.is_(None) if value is None else column == value
        after = or_(_beyond(column, value, one.descending), and_(same, after))
    return [after]


def _beyond(column: Column[Any], value: Any, descending: bool) -> ColumnElement[bool]:
    if value is None:
        return false() if descending else column.is_not(None)
    later: ColumnElement[bool] = column < value if descending else column > value
    return or_(later, column.is_(None)) if descending and column.nullable else later


# Conditions ---------------------------------------------------------------------------------------


def equals(name: str, value: Any) -> ColumnElement[bool]:
    """The column has this value."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return false()
    found: ColumnElement[bool] = tables.images.c[name] == value
    return found


def one_of(name: str, values: Sequence[str]) -> ColumnElement[bool]:
    """The column has one of these values."""
    return tables.images.c[name].in_(values)


def at_least(name: str, value: int) -> ColumnElement[bool]:
    """The number is this or more."""
    return tables.images.c[name] >= max(-_LARGEST, min(value, _LARGEST))


def at_most(name: str, value: int) -> ColumnElement[bool]:
    """The number is this or less."""
    return tables.images.c[name] <= max(-_LARGEST, min(value, _LARGEST))


def when(name: str, operator: Operator, time: datetime) -> ColumnElement[bool]:
    """The time compared; ``time`` is UTC without a zone.

    A time without a fraction is the whole second, since that is what images show.
    """
    column = tables.images.c[name]
    end = time
    if not time.microsecond and time < datetime.max - _SECOND:
        end = time + _SECOND
    exact = end == time
    later = column > time if exact else column >= end
    match operator:
        case "gt":
            return later
        case "gte":
            return column >= time
        case "lt":
            return column < time
        case "lte":
            return column <= time if exact else column < end
        case "eq":
            return column == time if exact else and_(column >= time, column < end)
        case "neq":
            return or_(column < time, later)


def with_tag(tag: str, dialect: str) -> ColumnElement[bool]:
    """The image has the tag."""
    if dialect == "postgresql":
        return _contains("tags", [tag])
    each = func.json_each(tables.images.c.tags).table_valued("key", "value")
    return exists(select(1).select_from(each).where(each.c.value == tag))


def with_property(name: str, value: str, dialect: str) -> ColumnElement[bool]:
    """The image has the custom property, with this value."""
    if dialect == "postgresql":
        return _contains("properties", {name: value})
    each = func.json_each(tables.images.c.properties).table_valued("key", "value")
    return exists(select(1).select_from(each).where(each.c.key == name, each.c.value == value))


def _contains(column: str, part: Any) -> ColumnElement[bool]:
    return tables.images.c[column].op("@>", is_comparison=True)(literal(part, JSONB()))
