"""Tags of an image, one at a time."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from vmimg.service.api.finding import image_for
from vmimg.service.api.schemas import check_image
from vmimg.service.catalogue import images
from vmimg.service.http.errors import bad_request, not_found
from vmimg.service.http.operation import Call, Operation
from vmimg.service.quota import check_tags

__all__ = ["OPERATIONS"]

_ABSENT: Final = "Image {} not found."


def put(call: Call) -> Response:
    """Give the image the tag."""
    tag = call.path["tag"]
    if "\0" in tag:
        raise bad_request("The tag has a NUL.")
    check_image(call.service.settings.formats, {"tags": [tag]})
    with call.service.database.begin() as connection:
        record, _ = image_for(call, connection, "modify_image", lock=True, absent=_ABSENT)
        tags = {*record.tags, tag}
        check_tags(call.service.settings.limits, tags)
        images.change(connection, record.id)
        images.set_tags(connection, record.id, tags)
    return Response(status_code=204)


def remove(call: Call) -> Response:
    """Take the tag from the image."""
    tag = call.path["tag"]
    with call.service.database.begin() as connection:
        record, _ = image_for(call, connection, "modify_image", lock=True, absent=_ABSENT)
        if tag not in record.tags:
            raise not_found("The resource could not be found.")
        images.change(connection, record.id)
        images.set_tags(connection, record.id, [one for one in record.tags if one != tag])
    return Response(status_code=204)


OPERATIONS = (
    Operation(
        "PUT", "/v2/images/{image_id}/tags/{tag}", put, "Add a tag",
        {204: "tagged", 400: "too long", 404: "there is no such image", 413: "too many tags"},
    ),
    Operation(
        "DELETE", "/v2/images/{image_id}/tags/{tag}", remove, "Remove a tag",
        {204: "removed", 404: "there is no such image, or no such tag"},
    ),
)  # fmt: skip
