"""The standard catalogue: definitions that OpenStack's services understand, put in at the start.

One JSON file for each namespace lies in ``metadef_catalogue``, as a client would POST it. Names,
types, values and prefixes are those that Glance 33 installs in ``etc/glance/metadefs``; mistakes of
fact in it are corrected (tests/service/test_metadefs_catalogue.py has the list).

A namespace is put in once. From then on it is the operator's: what was changed stays changed, what
was deleted stays away, and a namespace that he made before under the same name is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import Database, now
from vmimg.service.catalogue.metadefs import associations, contents, namespaces

__all__ = ["namespaces_of_the_catalogue", "seed"]

_OWNER: Final = "admin"
_SEEDS: Final = tables.metadef_seeds


def namespaces_of_the_catalogue() -> Iterator[dict[str, Any]]:
    """The namespaces, each as one would POST it, in the order of their names."""
    folder = resources.files("vmimg.service.catalogue") / "metadef_catalogue"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            yield json.loads(file.read_text("utf-8"))


def seed(database: Database) -> int:
    """Put in what was never put in; how many namespaces that were."""
    with database.read() as connection:
        missing = _missing(connection)
    if not missing:
        return 0
    try:
        with database.begin() as connection:
            missing = _missing(connection)
            for said in missing:
                connection.execute(
                    insert(_SEEDS).values(namespace=said["namespace"], seeded_at=now())
                )
                if namespaces.find(connection, said["namespace"]) is None:
                    _put(connection, said)
    except (IntegrityError, namespaces.Exists):
        # Another process of this service is at it, and faster.
        return 0
    return len(missing)


def _missing(connection: Connection) -> list[dict[str, Any]]:
    done = set(connection.execute(select(_SEEDS.c.namespace)).scalars())
    return [said for said in namespaces_of_the_catalogue() if said["namespace"] not in done]


def _put(connection: Connection, said: Mapping[str, Any]) -> None:
    record = namespaces.create(
        connection,
        said["namespace"],
        display_name=said.get("display_name"),
        description=said.get("description"),
        visibility=said.get("visibility", "private"),
        protected=said.get("protected", False),
        owner=_OWNER,
    )
    associations.add(
        connection,
        record.id,
        [
            (given["name"], given.get("prefix"), given.get("properties_target"))
            for given in said.get("resource_type_associations", ())
        ],
    )
    contents.add(connection, contents.PROPERTIES, record.id, said.get("properties", {}).items())
    objects = [
        (given["name"], {key: given[key] for key in given if key != "name"})
        for given in said.get("objects", ())
    ]
    contents.add(connection, contents.OBJECTS, record.id, objects)
    tags: list[tuple[str, Mapping[str, Any]]] = [
        (given["name"], {}) for given in said.get("tags", ())
    ]
    contents.add(connection, contents.TAGS, record.id, tags)
