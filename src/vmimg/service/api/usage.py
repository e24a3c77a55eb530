"""What the caller's project takes, and may take."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from vmimg.service.catalogue import usage
from vmimg.service.http.operation import Call, Operation
from vmimg.service.quota import limits_by_name

__all__ = ["OPERATIONS"]


def show(call: Call) -> Response:
    """Usage and limits, sizes in MiB; a limit of -1 is none."""
    with call.service.database.read() as connection:
        used = usage.of(connection, call.caller.project)
    by_name = {
        "image_size_total": used.size >> 20,
        "image_stage_total": used.staging >> 20,
        "image_count_total": used.count,
        "image_count_uploading": used.uploading,
    }
    limits = limits_by_name(call.service.settings.limits)
    return JSONResponse(
        {"usage": {n: {"usage": used, "limit": limits[n]} for n, used in by_name.items()}}
    )


OPERATIONS = (Operation("GET", "/v2/info/usage", show, "Show what the project takes"),)
