"""What the caller's project takes, and may take."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from vmimg.service import quota
from vmimg.service.catalogue import usage
from vmimg.service.http.operation import Call, Operation

__all__ = ["OPERATIONS"]


def show(call: Call) -> Response:
    """Usage and limits, sizes in MiB; a limit of -1 is none."""
    project = call.caller.project
    limits = quota.by_name(quota.of_project(call.service, project))
    with call.service.database.read() as connection:
        used = usage.of(connection, project)
    taken = (used.size >> 20, used.staging >> 20, used.count, used.uploading)
    return JSONResponse(
        {
            "usage": {
                name: {"usage": many, "limit": limits[name]}
                for name, many in zip(quota.RESOURCES, taken, strict=True)
            }
        }
    )


OPERATIONS = (Operation("GET", "/v2/info/usage", show, "Show what the project takes"),)
