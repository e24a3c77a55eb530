"""Resource types, and which namespaces are for which of them.

A resource type comes to be when a namespace is first associated with it, and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now
from vmimg.service.catalogue.metadefs.namespaces import Exists

__all__ = ["Association", "ResourceType", "add", "every", "of_all", "remove", "types"]

_TABLE: Final = tables.metadef_associations
_TYPES: Final = tables.metadef_resource_types


@dataclass(frozen=True, slots=True)
class ResourceType:
    """What can have the properties of a namespace: ``OS::Nova::Flavor``."""

    name: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Association:
    """A namespace is for a resource type."""

    name: str
    """The resource type's."""
    prefix: str | None
    """What properties' names begin with on resources of this type."""
    properties_target: str | None
    """Which of the resource's sets of properties is meant, where it has several."""
    created_at: datetime
    updated_at: datetime


def add(
    connection: Connection,
    namespace_id: int,
    items: Sequence[tuple[str, str | None, str | None]],
) -> datetime:
    """Associate the namespace with types: name, prefix, properties' target; the time of it.

    Raises Exists for a type that it is associated with, or that is given twice.
    """
    time = now()
    taken = {association.name for association in every(connection, namespace_id)}
    for name, _, _ in items:
        if name in taken:
            raise Exists(name)
        taken.add(name)
    # In one order: two transactions that make the same types must not wait for each other.
    numbers = {name: _type(connection, name, time) for name in sorted(name for name, _, _ in items)}
    rows = [
        {
            "namespace_id": namespace_id,
            "resource_type_id": numbers[name],
            "prefix": prefix,
            "properties_target": target,
            "created_at": time,
            "updated_at": time,
        }
        for name, prefix, target in items
    ]
    if rows:
        connection.execute(insert(_TABLE), rows)
    return time


def every(connection: Connection, namespace_id: int) -> list[Association]:
    """The namespace's associations, as they were made."""
    return of_all(connection, [namespace_id])[namespace_id]


def of_all(connection: Connection, namespace_ids: Sequence[int]) -> dict[int, list[Association]]:
    """The associations of each of these namespaces."""
    found: dict[int, list[Association]] = {number: [] for number in namespace_ids}
    rows = connection.execute(
        select(_TABLE, _TYPES.c.name)
        .join(_TYPES, _TYPES.c.id == _TABLE.c.resource_type_id)
        .where(_TABLE.c.namespace_id.in_(namespace_ids))
        .order_by(_TABLE.c.id)
    )
    for row in rows:
        found[row.namespace_id].append(_association(row))
    return found


def remove(connection: Connection, namespace_id: int, name: str) -> None:
    """The namespace is not for this type any more."""
    number = select(_TYPES.c.id).where(_TYPES.c.name == name).scalar_subquery()
    connection.execute(
        delete(_TABLE).where(
            _TABLE.c.namespace_id == namespace_id, _TABLE.c.resource_type_id == number
        )
    )


def types(connection: Connection) -> list[ResourceType]:
    """All resource types, as they came to be."""
    rows = connection.execute(select(_TYPES).order_by(_TYPES.c.id))
    return [ResourceType(row.name, row.created_at, row.updated_at) for row in rows]


def _type(connection: Connection, name: str, time: datetime) -> int:
    wanted = select(_TYPES.c.id).where(_TYPES.c.name == name)
    found = connection.execute(wanted).scalar()
    if found is None:
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(_TYPES).values(name=name, created_at=time, updated_at=time)
                )
        except IntegrityError:  # somebody else made it just now
            pass
        found = connection.execute(wanted).scalar_one()
    return int(found)


def _association(row: Row[Any]) -> Association:
    return Association(row.name, row.prefix, row.properties_target, row.created_at, row.updated_at)
