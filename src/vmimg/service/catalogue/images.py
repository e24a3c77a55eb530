"""Images in the database: records, made, found, changed, and taken from one state to the next.

A change of state names the state that it starts from: of two requests that want the same image,
one gets it. Functions over a connection; nothing here knows of HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    any_,
    delete,
    func,
    insert,
    select,
    update,
)

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = ["COLUMNS", "ImageRecord", "Location", "create", "find", "find_all", "load", "transition"]


class Location(NamedTuple):
    """Where an image's bytes are: a key in a store of ours, or an address that a user gave."""

    id: int
    store: str | None
    key: str | None
    url: str | None
    metadata: Mapping[str, Any]


class ImageRecord(NamedTuple):
    """An image, as the catalogue has it; fields as in the API, and as in the table.

    A tuple, since a page may have a thousand.
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
    properties: Mapping[str, str | None]
    tags: Sequence[str]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    locations: Sequence[Location]


COLUMNS: Final = ImageRecord._fields[:-1]
assert tuple(column.name for column in tables.images.columns) == COLUMNS


def create(
    connection: Connection,
    values: Mapping[str, Any],
    properties: Mapping[str, str | None],
    tags: Iterable[str],
) -> None:
    """A new image; ``values`` by column, ``id`` among them.

    Raises sqlalchemy's IntegrityError where there was one of this id.
    """
    time = now()
    connection.execute(
        insert(tables.images).values(
            created_at=time,
            updated_at=time,
            properties=dict(properties),
            tags=sorted(set(tags)),
            **values,
        )
    )


def change_properties(
    connection: Connection,
    image_id: str,
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
) -> None:
    """``after`` in place of ``before``; what others wrote meanwhile stays."""
    gone = {name for name in before if name not in after}
    new = {n: v for n, v in after.items() if n not in before or before[n] != v}
    _rewrite(connection, image_id, gone, new)


def set_property(connection: Connection, image_id: str, name: str, value: str | None) -> None:
    """One property, whether it was there or not."""
    _rewrite(connection, image_id, (), {name: value})


def remove_property(connection: Connection, image_id: str, name: str) -> None:
    """No such property, whether it was there or not."""
    _rewrite(connection, image_id, (name,), {})


def add_properties(
    connection: Connection, image_id: str, properties: Mapping[str, str | None]
) -> None:
    """Those of these properties that it lacks: what its owner set stays."""
    if properties:
        _rewrite(connection, image_id, (), properties, keep=True)


def _rewrite(
    connection: Connection,
    image_id: str,
    gone: Collection[str],
    new: Mapping[str, str | None],
    *,
    keep: bool = False,
) -> None:
    """Without those ``gone``, with the ``new``; ``keep``: not in place of what was there."""
    i = tables.images.c
    # Nobody else writes them in between: SQLite has one writer, PostgreSQL holds the row.
    found = select(i.properties).where(i.id == image_id).with_for_update()
    properties = connection.execute(found).scalar()
    if properties is None:
        return
    kept = {name: value for name, value in properties.items() if name not in gone}
    after = {**new, **kept} if keep else {**kept, **new}
    connection.execute(update(tables.images).where(i.id == image_id).values(properties=after))


def set_tags(connection: Connection, image_id: str, tags: Iterable[str]) -> None:
    """These tags, and no others."""
    i = tables.images
    connection.execute(update(i).where(i.c.id == image_id).values(tags=sorted(set(tags))))


def find(connection: Connection, image_id: str, *, lock: bool = False) -> ImageRecord | None:
    """The image, unless it is deleted; ``lock``: nobody changes it before this transaction ends."""
    if "\0" in image_id:
        return None
    query = select(tables.images).where(
        tables.images.c.id == image_id, tables.images.c.deleted_at.is_(None)
    )
    row = connection.execute(query.with_for_update() if lock else query).first()
    return load(connection, [row])[0] if row is not None else None


def find_all(connection: Connection, ids: Sequence[str]) -> list[ImageRecord]:
    """Images that are not deleted, in the order of ``ids``."""
    i = tables.images
    found = connection.execute(
        select(i).where(_among(connection, i.c.id, ids), i.c.deleted_at.is_(None))
    )
    records = {record.id: record for record in load(connection, found.all())}
    return [records[each] for each in ids if each in records]


def load(connection: Connection, rows: Sequence[Row[Any]]) -> list[ImageRecord]:
    """Records of rows of the images' table, with where their bytes are."""
    locations: dict[str, list[Location]] = {}
    w = tables.locations.c
    ids = [row.id for row in rows]
    found = select(w.image_id, w.id, w.store, w.key, w.url, w.metadata).where(
        _among(connection, w.image_id, ids)
    )
    for row in connection.execute(found.order_by(w.id)).all():
        locations.setdefault(row[0], []).append(Location._make(row[1:]))
    return [ImageRecord._make((*row, locations.get(row[0], ()))) for row in rows]


def _among(
    connection: Connection, column: ColumnElement[str], ids: Sequence[str]
) -> ColumnElement[bool]:
    if connection.dialect.name == "postgresql":
        # One parameter, not a thousand for a page of a thousand. No identifier has a comma.
        return column == any_(func.string_to_array(",".join(ids), ","))
    return column.in_(ids)


def transition(
    connection: Connection, image_id: str, before: Sequence[str], after: str, **values: Any
) -> bool:
    """From one of the states ``before`` to ``after``; False if it was in none of them."""
    done = connection.execute(
        update(tables.images)
        .where(
            tables.images.c.id == image_id,
            tables.images.c.status.in_(before),
            tables.images.c.deleted_at.is_(None),
        )
        .values(status=after, updated_at=now(), **values)
    )
    return done.rowcount == 1


def change(connection: Connection, image_id: str, **values: Any) -> None:
    """Other values in the image's columns."""
    connection.execute(
        update(tables.images)
        .where(tables.images.c.id == image_id)
        .values(updated_at=now(), **values)
    )


def add_location(
    connection: Connection,
    image_id: str,
    store: str | None,
    key: str | None,
    url: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """One more place where the image's bytes are."""
    connection.execute(
        insert(tables.locations).values(
            image_id=image_id, store=store, key=key, url=url, metadata=dict(metadata or {})
        )
    )


def is_taken(connection: Connection, store: str, key: str) -> bool:
    """Whether bytes in a store are an image's, or on their way in or out."""
    where, j = tables.locations, tables.journal
    of_image = select(where.c.id).where(where.c.store == store, where.c.key == key)
    noted = select(j.c.key).where(j.c.store == store, j.c.key == key)
    return any(connection.execute(each).first() is not None for each in (of_image, noted))


def remove_location(connection: Connection, location_id: int) -> None:
    """The image is not there any more, as far as the catalogue knows."""
    connection.execute(delete(tables.locations).where(tables.locations.c.id == location_id))
