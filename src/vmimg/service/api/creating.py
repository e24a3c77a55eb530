"""A new image: what its maker says of it, checked in Glance's order."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.exc import IntegrityError
from starlette.responses import JSONResponse, Response

from vmimg.service.api.fields import (
    DISALLOWED,
    NAME_LENGTH,
    RESERVED,
    RESERVED_PREFIX,
    SETTABLE,
)
from vmimg.service.api.schemas import check_image
from vmimg.service.api.showing import shown
from vmimg.service.catalogue import images
from vmimg.service.http.errors import bad_request, conflict, forbidden
from vmimg.service.http.operation import Call
from vmimg.service.policy import Target
from vmimg.service.quota import check_count, check_properties, check_tags, of_project

__all__ = ["check_number", "check_property_name", "create", "require_visibility"]

# What the service says of data: a maker cannot.
_SAID_BY_US: Final = ("checksum", "created_at", "size", "status", "updated_at", "virtual_size")
# Told of data that exists elsewhere; nobody believes it here, as in Glance.
_IGNORED: Final = ("os_hash_algo", "os_hash_value")
_DEFAULTS: Final[Mapping[str, Any]] = {
    "status": "queued",
    "visibility": "shared",
    "min_disk": 0,
    "min_ram": 0,
    "protected": False,
    "os_hidden": False,
}
_LARGEST: Final = (1 << 31) - 1


def create(call: Call) -> Response:
    """Make an image, without data."""
    service = call.service
    settings = service.settings
    said = call.json()
    if isinstance(said, dict):
        for name in DISALLOWED:
            if name in said:
                raise forbidden(f"Attribute '{name}' is read-only.")
    check_image(settings.formats, said)
    tags = said.pop("tags", [])
    values = {name: said.pop(name) for name in (*SETTABLE, "id") if name in said}
    by_us = [name for name in _SAID_BY_US if said.pop(name, values) is not values]
    for name in _IGNORED:
        said.pop(name, None)
    for name in said:
        check_property_name(name)
    values = {**_DEFAULTS, "owner": call.caller.project, **values}
    values.setdefault("id", str(uuid.uuid4()))
    _require(call, values)
    if by_us:
        raise forbidden(f"Attribute '{by_us[0]}' is read-only.")
    if "locations" in said:
        raise forbidden("Attribute 'locations' is reserved.")
    for name in ("min_disk", "min_ram"):
        values[name] = check_number(name, values[name])
    values["owner"] = values["owner"] or None
    check_tags(settings.limits, tags)
    check_properties(settings.limits, said)
    allowed = of_project(service, call.caller.project)
    try:
        with service.database.begin() as connection:
            check_count(allowed, connection, call.caller.project)
            images.create(connection, values, said, tags)
            record = images.find(connection, values["id"])
    except IntegrityError:
        raise conflict(f"Image ID {values['id']} already exists!") from None
    assert record is not None
    headers = {
        "location": f"{call.base_url()}/v2/images/{record.id}",
        "openstack-image-store-ids": ",".join(settings.all_stores),
    }
    if settings.imports.methods:
        headers["openstack-image-import-methods"] = ",".join(settings.imports.methods)
    return JSONResponse(shown(call, record), 201, headers=headers)


def _require(call: Call, values: Mapping[str, Any]) -> None:
    target = Target(owner=values["owner"], visibility=values["visibility"])
    if not call.allows("add_image", target) and values["owner"] != call.caller.project:
        raise forbidden(f"You are not permitted to create images owned by '{values['owner']}'")
    call.require("add_image", target)
    require_visibility(call, values["visibility"], target)


def require_visibility(call: Call, visibility: str, target: Target) -> None:
    """Raises HTTPError 403 unless the caller may make an image that visible."""
    if visibility == "public":
        call.require("publicize_image", target)
    elif visibility == "community":
        call.require("communitize_image", target)


def check_property_name(name: str) -> None:
    """Raises HTTPError unless a client may set a custom property of this name: 400 or 403."""
    if len(name) > NAME_LENGTH:
        raise bad_request(f"Custom property should not be greater than {NAME_LENGTH} characters.")
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise forbidden(f"Attribute '{name}' is reserved.")


def check_number(name: str, value: float) -> int:
    """MiB or GiB that a machine needs: not negative, and what a column takes.

    JSON has one kind of number: 1.0 is an integer. Raises HTTPError 400.
    """
    number = int(value)
    if number < 0:
        raise bad_request(
            f"Invalid value '{number}' for parameter '{name}': Cannot be a negative value"
        )
    if number > _LARGEST:
        raise bad_request(f"'{name}' value out of range, must not exceed {_LARGEST}.")
    return number
