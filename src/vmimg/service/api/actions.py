"""Taking an image out of use, and back: its data is kept, and handed out to administrators only."""

from __future__ import annotations

from starlette.responses import Response

from vmimg.service.api.finding import image_for
from vmimg.service.catalogue import images
from vmimg.service.http.errors import forbidden
from vmimg.service.http.operation import Call, Operation

__all__ = ["OPERATIONS"]


def deactivate(call: Call) -> Response:
    """Nobody but administrators gets the data any more."""
    return _move(call, "deactivate", "active", "deactivated")


def reactivate(call: Call) -> Response:
    """Everybody who may gets the data again."""
    return _move(call, "reactivate", "deactivated", "active")


def _move(call: Call, rule: str, before: str, after: str) -> Response:
    with call.service.database.begin() as connection:
        record, _ = image_for(call, connection, rule, lock=True)
        if record.status not in (before, after):
            raise forbidden(f"Not allowed to {rule} image in status '{record.status}'")
        images.transition(connection, record.id, (before,), after)
    return Response(status_code=204)


OPERATIONS = (
    Operation(
        "POST", "/v2/images/{image_id}/actions/deactivate", deactivate, "Take out of use",
        {204: "out of use", 403: "not allowed, or not in this state", 404: "there is none"},
    ),
    Operation(
        "POST", "/v2/images/{image_id}/actions/reactivate", reactivate, "Put back in use",
        {204: "in use", 403: "not allowed, or not in this state", 404: "there is none"},
    ),
)  # fmt: skip
