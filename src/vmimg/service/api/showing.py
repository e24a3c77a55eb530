"""An image as the API shows it. Imports the catalogue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from vmimg.service.api.fields import RESERVED_PREFIX
from vmimg.service.api.places import told
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.catalogue.listing import Listed
from vmimg.service.http.operation import Call
from vmimg.service.identity.caller import Caller
from vmimg.service.policy import Target

__all__ = ["shown", "shown_in_list", "stamp", "target_of"]

_TOLD: Final = frozenset(
    {"os_glance_import_task", "os_glance_importing_to_stores", "os_glance_failed_import"}
)
"""What clients are told of an import; other properties of the service are its own."""


def stamp(time: datetime) -> str:
    """A time, to the second, in UTC."""
    return f"{time.isoformat()[:19]}Z"


def target_of(record: ImageRecord | Listed, caller: Caller) -> Target:
    """What rules look at; the caller is known to see the image.

    Who sees a shared image that is not his project's, sees it because it was shared with him.
    """
    return Target(
        owner=record.owner,
        visibility=record.visibility,
        is_member=record.visibility == "shared" and record.owner != caller.project,
    )


def shown(call: Call, record: ImageRecord) -> dict[str, Any]:
    """The image's JSON."""
    image = _properties(record.properties) | _fields(record)
    image["tags"] = record.tags
    # Where the bytes of an image out of use are is its administrators' business.
    locations = record.locations if _is_told(record, call.caller) else ()
    if call.service.settings.show_locations:
        image |= _places(call, record if locations else record._replace(locations=()))
    stores = [location.store for location in locations if location.store]
    if stores:
        image["stores"] = ",".join(stores)
    return image


def shown_in_list(record: Listed, caller: Caller) -> orjson.Fragment:
    """The same, encoded, where locations are not shown: what is JSON already is not decoded."""
    image = _fields(record)
    image["tags"] = orjson.Fragment(record.tags)
    if record.stores and _is_told(record, caller):
        image["stores"] = record.stores
    properties = record.properties
    if RESERVED_PREFIX in properties:
        properties = json.dumps(_properties(json.loads(properties)))
    encoded = orjson.dumps(image)
    if properties == "{}":
        return orjson.Fragment(encoded)
    return orjson.Fragment(b"%b,%b" % (properties[:-1].encode(), encoded[1:]))


def _is_told(record: ImageRecord | Listed, caller: Caller) -> bool:
    return record.status != "deactivated" or caller.is_admin


def _properties(properties: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        name: properties[name]
        for name in sorted(properties)
        if not name.startswith(RESERVED_PREFIX) or name in _TOLD
    }


def _fields(record: ImageRecord | Listed) -> dict[str, Any]:
    path = f"/v2/images/{record.id}"
    image = {
        "name": record.name,
        "disk_format": record.disk_format,
        "container_format": record.container_format,
        "visibility": record.visibility,
        "size": record.size,
        "virtual_size": record.virtual_size,
        "status": record.status,
        "checksum": record.checksum,
        "protected": record.protected,
        "min_ram": record.min_ram,
        "min_disk": record.min_disk,
        "owner": record.owner,
        "os_hidden": record.os_hidden,
        "os_hash_algo": record.os_hash_algo,
        "os_hash_value": record.os_hash_value,
        "id": record.id,
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.updated_at),
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }
    if record.message:
        image["message"] = record.message
    return image


def _places(call: Call, record: ImageRecord) -> dict[str, Any]:
    locations = told(call.service, record)
    first = {"direct_url": locations[0]["url"]} if locations else {}
    return {"locations": locations, **first}
