"""Images: made, listed, shown, changed, deleted."""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.creating import create
from vmimg.service.api.finding import image_for, missing
from vmimg.service.api.listing import PARAMETERS, show_page
from vmimg.service.api.patching import MEDIA, patch
from vmimg.service.api.showing import shown
from vmimg.service.catalogue import deletion
from vmimg.service.data.removal import discard
from vmimg.service.http.errors import forbidden, not_found
from vmimg.service.http.operation import JSON, Call, Operation

__all__ = ["OPERATIONS"]

_ABSENT: Final = "Failed to find image {} to delete"


def show(call: Call) -> Response:
    """The image."""
    with call.service.database.read() as connection:
        record, _ = image_for(call, connection)
    return JSONResponse(shown(call, record))


def remove(call: Call) -> Response:
    """Delete the image and its data, whatever state it is in."""
    service = call.service
    with service.database.begin() as connection:
        record, _ = image_for(call, connection, "delete_image", lock=True, absent=_ABSENT)
        if record.protected:
            raise forbidden(f"Image {record.id} is protected and cannot be deleted.")
        keep = service.settings.catalogue.keep_deleted_seconds > 0
        if not deletion.bury(connection, record, service.node, keep=keep):
            raise not_found(_ABSENT.format(record.id))
    discard(service, record.id)
    service.cache.leave(record.id)
    return Response(status_code=204)


def restore(call: Call) -> Response:
    """Take the deletion of an image back, as long as its data is kept."""
    image_id = call.path["image_id"]
    call.require("restore_image")
    with call.service.database.begin() as connection:
        if not deletion.restore(connection, image_id):
            raise missing(image_id)
    return Response(status_code=204)


OPERATIONS = (
    Operation(
        "POST", "/v2/images", create, "Make an image",
        {201: "made", 400: "not an image", 403: "not allowed", 409: "the identifier is taken",
         413: "too many properties, tags or images"},
        body="image", answer="image", media=(JSON,),
    ),
    Operation(
        "GET", "/v2/images", show_page, "List images",
        {200: "a page", 400: "no such filter, order or marker"},
        answer="images", parameters=PARAMETERS, ignores_body=True,
    ),
    Operation(
        "GET", "/v2/images/{image_id}", show, "Show an image",
        {200: "the image", 404: "there is none, or not for the caller"}, answer="image",
    ),
    Operation(
        "PATCH", "/v2/images/{image_id}", patch, "Change an image",
        {200: "changed", 400: "no patch", 403: "not allowed", 404: "there is none",
         409: "what is to be changed is not there",
         413: "too many properties, tags or locations, or too many bytes there",
         415: "neither kind of patch, or what lies there is refused"},
        answer="image", media=MEDIA,
    ),
    Operation(
        "DELETE", "/v2/images/{image_id}", remove, "Delete an image",
        {204: "deleted", 403: "protected, or not allowed", 404: "there is none"},
    ),
    Operation(
        "POST", "/v2/images/{image_id}/actions/restore", restore, "Take a deletion back",
        {204: "as it was", 403: "not allowed", 404: "nothing is kept of such an image"},
    ),
)  # fmt: skip
