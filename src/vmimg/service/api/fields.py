"""What images, members and tasks are made of: one description, for validation and for schemas.

Names, types and bounds are those of Glance's schemas
(https://docs.openstack.org/api-ref/image/v2/#image-schemas). `schemas` makes JSON schemas of them,
`creating` and `patching` check what a client says against the same. Imports settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from vmimg.service.settings import Formats

__all__ = [
    "DISALLOWED",
    "LOCATION",
    "MEMBER",
    "READ_ONLY",
    "RESERVED",
    "RESERVED_PREFIX",
    "SETTABLE",
    "TASK",
    "UUID",
    "VISIBILITIES",
    "image_fields",
]

UUID: Final = (
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
)
VISIBILITIES: Final = ("community", "public", "private", "shared")
STATUSES: Final = (
    *("queued", "saving", "active", "killed", "deleted", "uploading", "importing"),
    *("pending_delete", "deactivated"),
)

SETTABLE: Final = (
    *("name", "visibility", "protected", "os_hidden", "owner", "container_format"),
    *("disk_format", "min_ram", "min_disk"),
)
"""What clients may set, besides tags and custom properties."""

READ_ONLY: Final = frozenset(
    {
        *("id", "status", "checksum", "size", "virtual_size", "os_hash_algo", "os_hash_value"),
        *("created_at", "updated_at", "direct_url", "self", "file", "schema", "stores", "message"),
    }
)
"""What no change may name: 403."""

DISALLOWED: Final = ("direct_url", "self", "file", "schema", "stores", "message")
"""What a new image may not bring, told before anything else is looked at: 403."""

RESERVED: Final = frozenset({"location", "deleted", "deleted_at"})
RESERVED_PREFIX: Final = "os_glance"
"""Custom properties that the service writes, to tell of imports: nobody else does."""

NAME_LENGTH: Final = 255
"""Of a custom property's name."""

_Schema = Mapping[str, Any]


def _field(type: Any, description: str, **more: Any) -> dict[str, Any]:
    return {"type": type, **more, "description": description}


def _seen(type: Any, description: str, **more: Any) -> dict[str, Any]:
    return _field(type, description, readOnly=True, **more)


_OPTIONAL_TEXT: Final = ["null", "string"]
_OPTIONAL_NUMBER: Final = ["null", "integer"]

LOCATION: Final[_Schema] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "maxLength": 255},
        "metadata": {"type": "object"},
        "validation_data": {
            "description": "Hashes that the image gets; what it has already must be the same.",
            "type": "object",
            "writeOnly": True,
            "additionalProperties": False,
            "properties": {
                "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                "os_hash_algo": {"type": "string", "maxLength": 64},
                "os_hash_value": {"type": "string", "maxLength": 128},
            },
            "required": ["os_hash_algo", "os_hash_value"],
        },
    },
    "required": ["url", "metadata"],
}


@cache
def image_fields(formats: Formats) -> _Schema:
    """The fields of an image, by name; everything else is a custom property."""
    return {
        "id": _field("string", "The image's identifier.", pattern=UUID),
        "name": _field(_OPTIONAL_TEXT, "A name for people.", maxLength=255),
        "status": _seen("string", "What state the image is in.", enum=list(STATUSES)),
        "visibility": _field("string", "Who may see the image.", enum=list(VISIBILITIES)),
        "protected": _field("boolean", "Whether the image cannot be deleted."),
        "os_hidden": _field("boolean", "Whether listings leave the image out unless asked for."),
        "checksum": _seen(_OPTIONAL_TEXT, "MD5 of the data, in hexadecimal.", maxLength=32),
        "os_hash_algo": _seen(_OPTIONAL_TEXT, "How os_hash_value is computed.", maxLength=64),
        "os_hash_value": _seen(
            _OPTIONAL_TEXT, "The data's hash by os_hash_algo, in hexadecimal.", maxLength=128
        ),
        "owner": _field(_OPTIONAL_TEXT, "The project that owns the image.", maxLength=255),
        "size": _seen(_OPTIONAL_NUMBER, "Bytes of the stored data."),
        "virtual_size": _seen(_OPTIONAL_NUMBER, "Bytes of the disk that a machine sees."),
        "container_format": _field(
            _OPTIONAL_TEXT, "What the disk travels in.", enum=[None, *formats.container]
        ),
        "disk_format": _field(
            _OPTIONAL_TEXT, "The format of the disk.", enum=[None, *formats.disk]
        ),
        "created_at": _seen("string", "When the image was made."),
        "updated_at": _seen("string", "When the image was changed last."),
        "tags": _field(
            "array", "Words to find the image by.", items={"type": "string", "maxLength": 255}
        ),
        "direct_url": _seen("string", "Where the data lies, if clients may know."),
        "min_ram": _field("integer", "MiB of memory that a machine needs at least."),
        "min_disk": _field("integer", "GiB of disk that a machine needs at least."),
        "self": _seen("string", "The image's address."),
        "file": _seen("string", "The address of its data."),
        "stores": _seen("string", "The stores that have the data, with commas between."),
        "schema": _seen("string", "The address of the image's schema."),
        "message": _seen("string", "Why the data that came last was refused."),
        "locations": {
            "type": "array",
            "items": LOCATION,
            "description": "Where the data lies, if clients may know.",
        },
    }


MEMBER: Final[_Schema] = {
    "member_id": _field("string", "The project that the image is shared with."),
    "image_id": _field("string", "The image's identifier.", pattern=UUID),
    "created_at": _field("string", "When the image was shared."),
    "updated_at": _field("string", "When the membership was changed last."),
    "status": _field(
        "string", "What the project says to it.", enum=["pending", "accepted", "rejected"]
    ),
    "schema": {"readOnly": True, "type": "string"},
}

TASK: Final[_Schema] = {
    "id": _field("string", "The task's identifier.", pattern=UUID),
    "type": _field(
        "string", "What the task does.", enum=["import", "api_image_import", "location_import"]
    ),
    "status": _field(
        "string", "How far it is.", enum=["pending", "processing", "success", "failure"]
    ),
    "input": _field(["null", "object"], "What it was given."),
    "result": _field(["null", "object"], "What came of it."),
    # Nobody's where nobody is asked who he is; glanceclient checks what it gets against this.
    "owner": _field(["null", "string"], "The project that the task is for."),
    "message": _field("string", "What happened, for people; of a failure above all."),
    "image_id": _field("string", "The image that the task is about."),
    "request_id": _field("string", "The request that asked for it."),
    "user_id": _field("string", "The user who asked for it."),
    "expires_at": _field(["null", "string"], "When the task is forgotten."),
    "created_at": _field("string", "When the task was made."),
    "updated_at": _field("string", "When the task was changed last."),
    "self": {"readOnly": True, "type": "string"},
    "schema": {"readOnly": True, "type": "string"},
}
