"""The cache of the process that is asked: what is in it, and what is to be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.finding import image_for
from vmimg.service.catalogue import cached
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.http.errors import bad_request, not_found
from vmimg.service.http.operation import Call, Operation, Parameter

__all__ = ["OPERATIONS"]

_ABSENT: Final = "Image {} not found."
_TARGET: Final = "x-image-cache-clear-target"
_STATES: Final = {"cache": "cached", "queue": "queued", "": None}


def listing(call: Call) -> Response:
    """What is in the cache, and what is to be."""
    _check(call, "cache_list")
    cache = call.service.cache
    with call.service.database.read() as connection:
        there = cached.cached(connection, cache.node)
        queued = cached.queued(connection, cache.node)
    return JSONResponse(
        {"cached_images": [_shown(each) for each in there], "queued_images": queued}
    )


def _shown(image: cached.Cached) -> dict[str, Any]:
    return {
        "id": image.id,
        "image_id": image.image_id,
        "last_accessed": _seconds(image.used_at),
        "last_modified": _seconds(image.modified_at),
        "size": image.size,
        "hits": image.hits,
        "checksum": image.checksum,
    }


def _seconds(time: datetime) -> float:
    return time.replace(tzinfo=UTC).timestamp()


def queue(call: Call) -> Response:
    """Fetch the image into the cache, in the background."""
    _check(call, "cache_image")
    cache = call.service.cache
    with call.service.database.begin() as connection:
        record, _ = image_for(call, connection, absent=_ABSENT)
        if record.status != "active":
            raise bad_request("Only images with status active can be targeted for queueing")
        cached.queue(connection, cache.node, record.id)
    cache.bell.set()
    return Response(status_code=202)


def drop(call: Call) -> Response:
    """Take the image out of the cache, or its queue."""
    _check(call, "cache_delete")
    record = _image(call)
    call.service.cache.drop(record.id)
    return Response(status_code=204)


def clear(call: Call) -> Response:
    """Empty the cache, its queue, or both."""
    _check(call, "cache_delete")
    target = call.headers.get(_TARGET, "").lower()
    if target not in _STATES:
        raise bad_request("If provided, x-image-cache-clear-target must be 'cache' or 'queue'.")
    call.service.cache.drop(state=_STATES[target])
    return Response(status_code=204)


def clean(call: Call) -> Response:
    """Remove what a process that died left in the cache."""
    _check(call, "cache_clean")
    call.service.cache.clean()
    return Response(status_code=200)


def prune(call: Call) -> Response:
    """Remove what was not used for long, where there is too much."""
    _check(call, "cache_prune")
    files, size = call.service.cache.prune()
    return JSONResponse({"total_files_pruned": files, "total_bytes_pruned": size})


def nodes(call: Call) -> Response:
    """Which processes have the image in their caches."""
    _check(call, "list_cached_nodes")
    record = _image(call)
    with call.service.database.read() as connection:
        found = cached.nodes(connection, record.id)
    return JSONResponse([f"http://{node}" for node in found])


def _check(call: Call, rule: str) -> None:
    call.require(rule)
    if not call.service.cache.most:
        raise not_found("Caching via API is not supported at this site.")


def _image(call: Call) -> ImageRecord:
    with call.service.database.read() as connection:
        return image_for(call, connection, absent=_ABSENT)[0]


_DONE: Final = {204: "done", 404: "there is no such image, or no cache"}

OPERATIONS = (
    Operation("GET", "/v2/cache", listing, "What is in the cache"),
    Operation(
        "DELETE", "/v2/cache", clear, "Empty the cache",
        {204: "empty", 400: "neither cache nor queue"},
        parameters=(Parameter(_TARGET, "only the cache, or only the queue", "header"),),
    ),
    Operation("POST", "/v2/cache/clean", clean, "Remove what is not whole"),
    Operation("POST", "/v2/cache/prune", prune, "Remove what was not used for long"),
    Operation("GET", "/v2/cache/nodes/{image_id}", nodes, "Who has an image in a cache"),
    Operation(
        "PUT", "/v2/cache/{image_id}", queue, "Fetch an image into the cache",
        {202: "it comes", 400: "it has no data", 404: "there is no such image, or no cache"},
    ),
    Operation("DELETE", "/v2/cache/{image_id}", drop, "Take an image out of the cache", _DONE),
)  # fmt: skip
