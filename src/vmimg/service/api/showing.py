"""An image as the API shows it. Imports the catalogue."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from vmimg.service.api.fields import RESERVED_PREFIX
from vmimg.service.api.places import told
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.http.operation import Call
from vmimg.service.identity.caller import Caller
from vmimg.service.policy import Target

__all__ = ["shown", "stamp", "target_of"]

_TOLD: Final = frozenset(
    {"os_glance_import_task", "os_glance_importing_to_stores", "os_glance_failed_import"}
)
"""What clients are told of an import; other properties of the service are its own."""


def stamp(time: datetime) -> str:
    """A time, to the second, in UTC."""
    return f"{time.isoformat(timespec='seconds')}Z"


def target_of(record: ImageRecord, caller: Caller) -> Target:
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
    path = f"/v2/images/{record.id}"
    image: dict[str, Any] = dict(sorted(record.properties.items()))
    for name in [name for name in image if name.startswith(RESERVED_PREFIX)]:
        if name not in _TOLD:
            del image[name]
    image |= {
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
        "tags": record.tags,
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }
    # Where the bytes of an image out of use are is its administrators' business.
    locations = record.locations if record.status != "deactivated" or call.caller.is_admin else ()
    if call.service.settings.show_locations:
        image |= _places(call, record if locations else record._replace(locations=()))
    stores = [location.store for location in locations if location.store]
    if stores:
        image["stores"] = ",".join(stores)
    if record.message:
        image["message"] = record.message
    return image


def _places(call: Call, record: ImageRecord) -> dict[str, Any]:
    locations = told(call.service, record)
    first = {"direct_url": locations[0]["url"]} if locations else {}
    return {"locations": locations, **first}
