"""JSON schemas of the API's resources, handed out and used: what is shown is what is checked.

    image_schema(formats)        an image: the fields of `fields`, and strings for custom properties
    collection(name, item)       a page of them
    check_image(formats, said)   HTTPError 400 in Glance's words where ``said`` does not match

Imports jsonschema.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jsonschema
from jsonschema.exceptions import best_match
from starlette.responses import JSONResponse, Response

from vmimg.service.api.fields import MEMBER, TASK, image_fields
from vmimg.service.http.errors import bad_request, not_found
from vmimg.service.http.operation import Call, Operation
from vmimg.service.settings import Formats

__all__ = ["OPERATIONS", "SCHEMAS", "check_image", "collection", "image_schema", "mismatch"]

# A value in a message: what a client sent is no longer than needed to be recognised.
_SHOWN: Final = 400


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
def _validator(formats: Formats) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"type": "object", **image_schema(formats)})


def check_image(formats: Formats, said: Any) -> None:
    """Raises HTTPError 400 unless ``said`` can be an image, or fields of one."""
    error = best_match(_validator(formats).iter_errors(said))
    if error is not None:
        raise bad_request(mismatch("image", error))


def mismatch(schema: str, error: jsonschema.ValidationError) -> str:
    """What is told of something that does not match a schema."""
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    rule = "".join(f"[{part!r}]" for part in list(error.absolute_schema_path)[:-1])
    message = error.message
    if len(message) > _SHOWN:
        # The value comes first, what is wrong with it last.
        message = f"{message[: _SHOWN // 2]}...{message[-_SHOWN // 2 :]}"
    return (
        f"Provided object does not match schema '{schema}': {message}\n\n"
        f"Failed validating {error.validator!r} in schema{rule}\n\nOn instance{where}"
    )


def show(call: Call) -> Response:
    """A schema."""
    found = schemas(call.service.settings.formats).get(call.path["name"])
    if found is None:
        raise not_found("The resource could not be found.")
    return JSONResponse(found)


OPERATIONS = (
    Operation(
        "GET", "/v2/schemas/{name}", show, "Show the JSON schema of a resource",
        {200: "the schema", 404: "there is none of this name"}, bodyless=True,
    ),
)  # fmt: skip
