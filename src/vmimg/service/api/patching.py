"""Changes of an image: JSON patches, in both media types that Glance takes.

    application/openstack-images-v2.1-json-patch   [{"op": "add", "path": "/name", "value": "x"}]
    application/openstack-images-v2.0-json-patch   [{"add": "/name", "value": "x"}]

The second is of a draft of JSON Patch; there, what is already there cannot be added. All changes
are checked before the image is looked for, and all are made or none is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import JSONResponse, Response

from vmimg.service import quota
from vmimg.service.api.creating import check_number, check_property_name, require_visibility
from vmimg.service.api.fields import READ_ONLY, SETTABLE
from vmimg.service.api.finding import image_for, require
from vmimg.service.api.locating import change_locations, new_ones, save_locations
from vmimg.service.api.prospecting import Found, look
from vmimg.service.api.schemas import check_image
from vmimg.service.api.showing import shown
from vmimg.service.catalogue import images
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.data.removal import discard
from vmimg.service.http.errors import HTTPError, bad_request, conflict, forbidden
from vmimg.service.http.operation import Call
from vmimg.service.policy import Target
from vmimg.service.quota import check_properties, check_tags

__all__ = ["MEDIA", "Change", "Draft", "patch"]

_NEW: Final = "application/openstack-images-v2.1-json-patch"
_OLD: Final = "application/openstack-images-v2.0-json-patch"
MEDIA: Final = (_OLD, _NEW)
_OPERATIONS: Final = ("add", "remove", "replace")
# Names below the top that may be changed, and by which operations: elements of locations.
_DEEPER: Final = {("locations", "add"): 2, ("locations", "remove"): 2}
_LOCKED: Final = ("disk_format", "container_format")
_UNLOCKED_IN: Final = ("queued", "importing")
# As many as an image can have fields, and room.
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """One change."""

    op: str
    path: Sequence[str]
    value: Any
    only_new: bool
    """Adding what is there is a conflict."""


@dataclass(slots=True)
class Draft:
    """The image, as it will be."""

    record: ImageRecord
    """As it is, with the locations as they will be, and what follows from them."""
    values: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, str | None] = field(default_factory=dict)
    tags: Sequence[str] = ()
    found: Mapping[str, Found] | None = None
    """What lies at addresses that it did not have before; None: nobody looked yet."""
    allowed: quota.Allowed | None = None
    """What its owner may take, where that counts."""

    @classmethod
    def of(cls, record: ImageRecord) -> Draft:
        """The image, unchanged."""
        return cls(record, {}, dict(record.properties), record.tags)


def patch(call: Call) -> Response:
    """Change the image."""
    if call.media_type not in MEDIA:
        accepted = ", ".join(MEDIA)
        raise HTTPError(
            415, f"Image PATCH expects Content-Type one of: {accepted}", {"accept-patch": accepted}
        )
    changes = _changes(call, call.json())
    found = _prospected(call, changes)
    allowed = quota.of_owner(call.service, call.path["image_id"]) if found else None
    with call.service.database.begin() as connection:
        record, target = image_for(call, connection, lock=True)
        if changes:
            draft = Draft.of(record)
            draft.found, draft.allowed = found, allowed
            for change in changes:
                _apply(call, draft, change, target)
            _save(call, connection, draft, record)
        changed = images.find(connection, record.id)
    assert changed is not None
    if changed.locations != record.locations:
        discard(call.service, record.id)
    return JSONResponse(shown(call, changed))


def _prospected(call: Call, changes: Sequence[Change]) -> Mapping[str, Found]:
    """What lies at the addresses that the changes bring.

    They are made for trial: who may not make them has nobody asked.
    """
    if not any(each.path[0] == "locations" and each.op != "remove" for each in changes):
        return {}
    with call.service.database.read() as connection:
        record, target = image_for(call, connection)
    draft = Draft.of(record)
    for change in changes:
        _apply(call, draft, change, target)
    return look(call.service, draft.record, new_ones(draft.record))


# Reading ------------------------------------------------------------------------------------------


def _changes(call: Call, said: Any) -> list[Change]:
    if not isinstance(said, list):
        raise bad_request("Request body must be a JSON array of operation objects.")
    if len(said) > _MOST:
        raise HTTPError(413, f"More than {_MOST} changes in one request.")
    return [_change(call, one) for one in said]


def _change(call: Call, said: Any) -> Change:
    if not isinstance(said, dict):
        raise bad_request("Operations must be JSON objects.")
    old = call.media_type == _OLD
    op, pointer = _old_operation(said) if old else _operation(said)
    path = _decoded(pointer)
    if len(path) != _DEEPER.get((path[0], op), 1):
        raise bad_request(f"Invalid JSON pointer for this resource: '/{'/'.join(path)}'")
    if op != "remove" and "value" not in said:
        raise bad_request(f'Operation "{op}" requires a member named "value".')
    change = Change(op, path, said.get("value"), only_new=old)
    _check(call, change)
    return change


def _operation(said: Mapping[str, Any]) -> tuple[str, Any]:
    op = said.get("op")
    available = f"It must be one of the following: {', '.join(_OPERATIONS)}."
    if op is None:
        raise bad_request(f"Unable to find `op` in JSON Schema change. {available}")
    if op not in _OPERATIONS:
        raise bad_request(f"Invalid operation: `{str(op)[:64]}`. {available}")
    if "path" not in said:
        raise bad_request("Unable to find 'path' in JSON Schema change")
    return op, said["path"]


def _old_operation(said: Mapping[str, Any]) -> tuple[str, Any]:
    ops = [op for op in _OPERATIONS if op in said]
    if len(ops) != 1:
        how = "exactly one" if not ops else "only one"
        raise bad_request(
            f'Operation objects must contain {how} member named "add", "remove", or "replace".'
        )
    return ops[0], said[ops[0]]


def _decoded(pointer: Any) -> list[str]:
    """The names in a JSON pointer (RFC 6901), in the narrow form that Glance takes."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise bad_request(f'Pointer `{pointer}` does not start with "/".')
    if re.search(r"/\s*?/", pointer[1:]):
        raise bad_request(f'Pointer `{pointer}` contains adjacent "/".')
    if len(pointer) > 1 and pointer.endswith("/"):
        raise bad_request(f'Pointer `{pointer}` end with "/".')
    if re.search("~([^01]|$)", pointer):
        raise bad_request(
            f'Pointer `{pointer}` contains "~" not part of a recognized escape sequence.'
        )
    parts = pointer.lstrip("/").split("/")
    return [part.replace("~1", "/").replace("~0", "~").strip() for part in parts]


def _check(call: Call, change: Change) -> None:
    name = change.path[0]
    if name in READ_ONLY:
        raise forbidden(f"Attribute '{name}' is read-only.")
    check_property_name(name)
    if change.op != "remove":
        value = [change.value] if len(change.path) > 1 else change.value
        check_image(call.service.settings.formats, {name: value})


# Applying -----------------------------------------------------------------------------------------


def _apply(call: Call, draft: Draft, change: Change, target: Target) -> None:
    name = change.path[0]
    if name == "locations":
        change_locations(call, draft, target, change)
        return
    if name == "owner" and change.op != "remove" and not call.caller.is_admin:
        raise forbidden("Owner can't be updated by non admin.")
    if name == "visibility" and change.op != "remove":
        require_visibility(call, change.value, target)
    require(call, "modify_image", target)
    is_base = name in SETTABLE or name == "tags"
    is_there = is_base or name in draft.properties
    if change.op == "remove":
        if is_base:
            raise forbidden(f"Property {name} may not be removed.")
        if not is_there:
            raise conflict(f"Property {name} does not exist.")
        del draft.properties[name]
        return
    if change.op == "replace" and not is_there:
        raise conflict(f"Property {name} does not exist.")
    if change.op == "add" and change.only_new and is_there:
        raise conflict(f"Property {name} already present.")
    _set(call, draft, name, change.value)


def _set(call: Call, draft: Draft, name: str, value: Any) -> None:
    if name == "tags":
        check_tags(call.service.settings.limits, value)
        draft.tags = value
    elif name not in SETTABLE:
        draft.properties[name] = value
    elif name in _LOCKED and draft.record.status not in _UNLOCKED_IN:
        raise forbidden(f"Attribute {name} can be only replaced for a queued image.")
    elif name in ("min_disk", "min_ram"):
        draft.values[name] = check_number(name, value)
    else:
        draft.values[name] = value


def _save(call: Call, connection: Connection, draft: Draft, record: ImageRecord) -> None:
    values = draft.values
    if set(draft.properties) - set(record.properties):
        check_properties(call.service.settings.limits, draft.properties)
    if "owner" in values:
        values["owner"] = values["owner"] or None
    images.change(connection, record.id, **values)
    if draft.properties != record.properties:
        images.change_properties(connection, record.id, record.properties, draft.properties)
    if set(draft.tags) != set(record.tags):
        images.set_tags(connection, record.id, draft.tags)
    save_locations(call, connection, draft, record.locations)
