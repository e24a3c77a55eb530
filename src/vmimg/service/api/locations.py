"""Where an image's bytes are, for services: told, and added.

What is added lies in one of this deployment's stores already, under a key of its own (a service
wrote it there), or, where there is a store of web addresses, anywhere on the web; a task reads it,
checks it against its hash, judges it like an upload, and then the image is active.
"""

from __future__ import annotations

import string
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.finding import image_for, require
from vmimg.service.api.places import place_of, told
from vmimg.service.catalogue import images, tasks
from vmimg.service.http.errors import bad_request, conflict, forbidden
from vmimg.service.http.operation import JSON, Call, Operation
from vmimg.service.stores.web import WebStore

__all__ = ["OPERATIONS", "may_add"]

_LENGTHS: Final = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
_MOST_URL: Final = 2048


def listing(call: Call) -> Response:
    """The image's locations."""
    with call.service.database.read() as connection:
        record, target = image_for(call, connection)
        require(call, "fetch_image_location", target)
    return JSONResponse(told(call.service, record))


def add(call: Call) -> Response:
    """Give a queued image bytes that lie in a store."""
    url, algorithm, value = _checked(call.json())
    service = call.service
    with service.database.begin() as connection:
        record, target = image_for(call, connection, lock=True)
        if record.status != "queued":
            raise conflict(f"It's not allowed to add locations if image status is {record.status}.")
        require(call, "add_image_location", target)
        if not may_add(call, url):
            raise forbidden("http store must be enabled to use location API by normal user.")
        _check_hash(algorithm, value)
        place = place_of(service, url)
        if place is None:
            raise bad_request(f"URI for add location does not pass filtering: {url[:_MOST_URL]}")
        if place.key is not None and images.is_taken(connection, place.store, place.key):
            raise conflict("These bytes are another image's.")
        if tasks.of_image(connection, record.id, running=True):
            raise conflict("Image has active task")
        images.transition(connection, record.id, ("queued",), "importing", message=None)
        tasks.create(
            connection,
            "location_import",
            owner=call.caller.project,
            user_id=call.caller.user,
            request_id=call.request_id,
            image_id=record.id,
            input={
                "image_id": record.id, "loc_url": url, "store": place.store, "key": place.key,
                "validation_data": {"os_hash_algo": algorithm, "os_hash_value": value},
            },
        )  # fmt: skip
    with service.bell:
        service.bell.notify_all()
    return Response(status_code=202)


def may_add(call: Call, url: str) -> bool:
    """Whether the caller may name such an address: what lies in a store, only services know."""
    web = any(isinstance(s, WebStore) and s.has(url) for s in call.service.stores.values())
    return web or bool(call.caller.roles & {"service", "admin"})


def _checked(body: Any) -> tuple[str, str, str]:
    if not isinstance(body, dict) or not isinstance(body.get("url"), str):
        raise bad_request("Provided object does not match schema 'location': 'url' is required")
    said = body.get("validation_data") or {}
    if not isinstance(said, dict) or set(said) - {"os_hash_algo", "os_hash_value"}:
        raise bad_request("Provided object does not match schema 'location': validation_data")
    algorithm, value = said.get("os_hash_algo", ""), said.get("os_hash_value", "")
    if not isinstance(algorithm, str) or not isinstance(value, str):
        raise bad_request("Provided object does not match schema 'location': validation_data")
    if bool(algorithm) != bool(value) or (algorithm and algorithm not in _LENGTHS):
        raise bad_request("Provided object does not match schema 'location': os_hash_algo")
    return body["url"], algorithm, value


def _check_hash(algorithm: str, value: str) -> None:
    if not algorithm:
        return
    if len(value) % 2 or set(value) - set(string.hexdigits):
        raise bad_request(f"os_hash_value ({value[:128]}) is not a valid hexadecimal value")
    if len(value) != 2 * _LENGTHS[algorithm]:
        raise bad_request(
            f"os_hash_value: ({value[:128]}) is not the correct size for ({algorithm}) (should be "
            f"({_LENGTHS[algorithm]}) bytes)"
        )


OPERATIONS = (
    Operation("GET", "/v2/images/{image_id}/locations", listing, "List where the bytes are"),
    Operation(
        "POST", "/v2/images/{image_id}/locations", add, "Give an image bytes that lie somewhere",
        {202: "a task does it", 400: "wrong", 409: "the image has data, or gets some"},
        media=(JSON,),
    ),
)  # fmt: skip
