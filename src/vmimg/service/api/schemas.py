"""JSON schemas of the API's resources, handed out and used: what is shown is what is checked.

    image_schema(formats)        an image: the fields of `fields`, and strings for custom properties
    collection(name, item)       a page of them
    check_image(formats, said)   HTTPError 400 in Glance's words where ``said`` does not match

Imports validating.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.fields import MEMBER, TASK, image_fields
from vmimg.service.api.validating import Schema
from vmimg.service.http.errors import not_found
from vmimg.service.http.operation import Call, Operation
from vmimg.service.settings import Formats

__all__ = ["OPERATIONS", "SCHEMAS", "check_image", "collection", "image_schema"]


def _object(name: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "properties": properties, **more}


@cache
def image_schema(formats: Formats) -> Mapping[str, Any]:
    """The schema of an image where these formats are allowed."""
    links = [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ]
    return _object(
        "image", image_fields(formats), additionalProperties={"type": "string"}, links=links
    )


def collection(name: str, item: Mapping[str, Any], *, paged: bool = True) -> dict[str, Any]:
    """The schema of a list of ``item``; ``paged``: with links to the next page."""
    ends = ("first", "next") if paged else ()
    return _object(
        name,
        {
            name: {"type": "array", "items": item},
            **{end: {"type": "string"} for end in ends},
            "schema": {"type": "string"},
        },
        links=[
            *({"rel": end, "href": f"{{{end}}}"} for end in ends),
            {"rel": "describedby", "href": "{schema}"},
        ],
    )


_MEMBER: Final = _object("member", MEMBER)
_TASK: Final = _object("task", TASK)
_SHORT_TASK: Final = _object(
    "task", {n: s for n, s in TASK.items() if n not in ("input", "result", "message")}
)
_FIXED: Final[Mapping[str, Mapping[str, Any]]] = {
    "member": _MEMBER,
    "members": collection("members", _MEMBER, paged=False),
    "task": _TASK,
    "tasks": collection("tasks", _SHORT_TASK, paged=False),
}


def schemas(formats: Formats) -> dict[str, Mapping[str, Any]]:
    """All schemas but those of metadata definitions, by name."""
    image = image_schema(formats)
    return {"image": image, "images": collection("images", image), **_FIXED}


SCHEMAS: Final = ("image", "images", *_FIXED)
"""Their names."""


@cache
def _checked(formats: Formats) -> Schema:
    return Schema("image", {"type": "object", **image_schema(formats)})


def check_image(formats: Formats, said: Any) -> None:
    """Raises HTTPError 400 unless ``said`` can be an image, or fields of one."""
    _checked(formats).check(said)


def show(call: Call) -> Response:
    """A schema."""
    found = schemas(call.service.settings.formats).get(call.path["name"])
    if found is None:
        raise not_found("The resource could not be found.")
    return JSONResponse(found)


OPERATIONS = (
    Operation(
        "GET", "/v2/schemas/{name}", show, "Show the JSON schema of a resource",
        {200: "the schema", 404: "there is none of this name"},
    ),
)  # fmt: skip
