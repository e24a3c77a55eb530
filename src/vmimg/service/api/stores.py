"""The stores of a deployment, and taking an image out of one."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from vmimg.service.api.finding import image_for, require
from vmimg.service.catalogue import images, journal
from vmimg.service.data.removal import discard
from vmimg.service.http.errors import conflict, forbidden, not_found
from vmimg.service.http.operation import Call, Operation

__all__ = ["OPERATIONS"]


def listing(call: Call) -> Response:
    """The stores."""
    return JSONResponse({"stores": _stores(call)})


def _stores(call: Call) -> list[dict[str, Any]]:
    settings = call.service.settings
    found = []
    for name, store in settings.all_stores.items():
        told: dict[str, Any] = {"id": name}
        if store.description:
            told["description"] = store.description
        if name == settings.first_store:
            told["default"] = "true"
        if store.read_only:
            told["read-only"] = "true"
        found.append(told)
    return found


def detail(call: Call) -> Response:
    """The stores, with what only administrators are told."""
    if not call.allows("stores_info_detail"):
        raise forbidden("You are not authorized to complete stores_info_detail action.")
    found = _stores(call)
    for told in found:
        settings = call.service.settings.all_stores[told["id"]]
        kind, _, place = call.service.stores[told["id"]].url.partition("://")
        told["type"] = kind
        told["weight"] = settings.weight
        told["properties"] = {"data_dir": place} if kind == "file" else {"location": place}
        if settings.read_only:
            told["properties"] = {}
    return JSONResponse({"stores": found})


def remove(call: Call) -> Response:
    """Delete the image's data from one of its stores."""
    service, name = call.service, call.path["store_id"]
    if name not in service.stores:
        raise conflict(f"The selected store {name} is not available on this node.")
    with service.database.begin() as connection:
        record, target = image_for(
            call, connection, "get_image_location", lock=True, absent="Failed to find image {}"
        )
        require(call, "delete_image_location", target)
        if record.status != "active":
            raise conflict(
                "It's not allowed to remove image data from store if image status is not 'active'"
            )
        there = [each for each in record.locations if each.store == name]
        if len(record.locations) <= max(len(there), 1):
            raise forbidden(
                "Cannot delete image data from the only store containing it. "
                "Consider deleting the image instead."
            )
        if not there:
            raise not_found(f"Image {record.id} is not stored in store {name}.")
        for location in there:
            images.remove_location(connection, location.id)
            if location.key:
                entry = journal.Entry(name, location.key, record.id, journal.DELETING, service.node)
                journal.open(connection, entry)
    discard(service, record.id)
    return Response(status_code=204)


OPERATIONS = (
    Operation("GET", "/v2/info/stores", listing, "List the stores"),
    Operation("GET", "/v2/info/stores/detail", detail, "List the stores in detail"),
    Operation(
        "DELETE", "/v2/stores/{store_id}/{image_id}", remove, "Delete an image from a store",
        {204: "deleted", 403: "it is the only one", 404: "it is not there", 409: "not active"},
    ),
)  # fmt: skip
