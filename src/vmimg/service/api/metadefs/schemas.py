"""JSON schemas of metadata definitions: what bodies are checked against, and clients can ask for.

What they demand is what Glance's demand; the words are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg.service.http.operation import Call, Operation

__all__ = ["OPERATIONS", "PROPERTY_IN_OBJECT", "SCHEMAS", "TAG_LIST"]

Schema = dict[str, Any]

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string", None)
_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "maxLength": 80}
_FLAG: Final[Schema] = {"type": "boolean"}
_LINK: Final[Schema] = {"type": "string", "readOnly": True}
_NAMES: Final[Schema] = {"$ref": "#/definitions/stringArray"}
_COUNT: Final[Schema] = {"$ref": "#/definitions/positiveInteger"}
_COUNT_FROM_0: Final[Schema] = {"$ref": "#/definitions/positiveIntegerDefault0"}
_PROPERTIES: Final[Schema] = {"$ref": "#/definitions/property"}

_PROPERTY: Final[Schema] = {
    "name": _NAME,
    "title": _TEXT,
    "description": _TEXT,
    "operators": {"type": "array", "items": _TEXT},
    "type": {"type": "string", "enum": list(_TYPES)},
    "required": _NAMES,
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "maxLength": _COUNT,
    "minLength": _COUNT_FROM_0,
    "pattern": {"type": "string", "format": "regex"},
    "enum": {"type": "array"},
    "readonly": _FLAG,
    "default": {},
    "items": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": list(_TYPES)},
            "enum": {"type": "array"},
        },
    },
    "maxItems": _COUNT,
    "minItems": _COUNT_FROM_0,
    "uniqueItems": {"type": "boolean", "default": False},
    "additionalItems": _FLAG,
}
_NUMBERS: Final[Schema] = {
    "positiveInteger": {"type": "integer", "minimum": 0},
    "positiveIntegerDefault0": {"allOf": [_COUNT, {"default": 0}]},
}
_DEFINITIONS: Final[Schema] = {
    **_NUMBERS,
    "stringArray": {"type": "array", "items": _TEXT, "uniqueItems": True},
    "property": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["title", "type"],
            "properties": _PROPERTY,
        },
    },
}
_DEFINITIONS_OF_PROPERTY: Final[Schema] = {
    **_NUMBERS,
    "stringArray": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
}


def _stamps(what: str) -> Schema:
    def stamp(event: str) -> Schema:
        said = f"When the {what} was {event}."
        return {"type": "string", "readOnly": True, "description": said, "format": "date-time"}

    return {"created_at": stamp("made"), "updated_at": stamp("last changed")}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _object(
    name: str, properties: Schema, required: tuple[str, ...] = (), definitions: Schema | None = None
) -> Schema:
    schema: Schema = {"name": name, "properties": properties, "additionalProperties": False}
    if definitions:
        schema["definitions"] = definitions
    if required:
        schema["required"] = list(required)
    return schema


def _list(name: str, item: Schema, *, by_name: bool = False) -> Schema:
    item = dict(item)
    definitions = item.pop("definitions", None)
    many = (
        {"type": "object", "additionalProperties": item}
        if by_name
        else {"type": "array", "items": item}
    )
    links = (("first", "{first}"), ("next", "{next}"), ("describedby", "{schema}"))
    schema: Schema = {
        "name": name,
        "properties": {name: many, "first": _TEXT, "next": _TEXT, "schema": _TEXT},
        "links": [{"rel": relation, "href": href} for relation, href in links],
    }
    return schema | ({"definitions": definitions} if definitions else {})


_NAMESPACE: Final = _object(
    "namespace",
    {
        "namespace": _described(_NAME, "The name, of which there is one."),
        "display_name": _described(_NAME, "The name for people."),
        "description": {
            "type": "string",
            "description": "What the namespace is for.",
            "maxLength": 500,
        },
        "visibility": {
            "type": "string",
            "description": "Who can see it: everybody, or its owner's project.",
            "enum": ["public", "private"],
        },
        "protected": _described(_FLAG, "Whether it is kept from being deleted."),
        "owner": {"type": "string", "description": "The project it belongs to.", "maxLength": 255},
        **_stamps("namespace"),
        "schema": _LINK,
        "self": _LINK,
        "resource_type_associations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": _TEXT, "prefix": _TEXT, "properties_target": _TEXT},
            },
        },
        "properties": _PROPERTIES,
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": _TEXT,
                    "description": _TEXT,
                    "required": _NAMES,
                    "properties": _PROPERTIES,
                },
            },
        },
        "tags": {"type": "array", "items": {"type": "object", "properties": {"name": _TEXT}}},
    },
    ("namespace",),
    _DEFINITIONS,
)
_OBJECT: Final = _object(
    "object",
    {
        "name": _NAME,
        "description": _TEXT,
        "required": _NAMES,
        "properties": _PROPERTIES,
        "schema": _LINK,
        "self": _LINK,
        **_stamps("object"),
    },
    ("name",),
    _DEFINITIONS,
)
_SINGLE_PROPERTY: Final = _object(
    "property", _PROPERTY, ("type", "title", "name"), _DEFINITIONS_OF_PROPERTY
)
PROPERTY_IN_OBJECT: Final = {**_SINGLE_PROPERTY, "required": ["type", "title"]}
"""A property where its name is a key."""
_TAG: Final = _object("tag", {"name": _NAME, **_stamps("tag")}, ("name",))
TAG_LIST: Final = _object(
    "tags",
    {
        "tags": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": _TEXT},
                "required": ["name"],
                "additionalProperties": False,
            },
        }
    },
)
"""Tags that are made at once."""
_RESOURCE_TYPE: Final = _object(
    "resource_type_association",
    {
        "name": _described(_NAME, "The type, as Heat calls it: OS::Nova::Flavor."),
        "prefix": _described(
            _NAME,
            "What names of properties begin with on resources of this type; with its separator.",
        ),
        "properties_target": _described(
            _NAME,
            "Which set of properties is meant, of a type that has several: a volume has its own "
            "and those of its image.",
        ),
        **_stamps("association"),
    },
    ("name",),
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "namespace": _NAMESPACE,
    "namespaces": _list("namespaces", _NAMESPACE),
    "object": _OBJECT,
    "objects": _list("objects", _OBJECT),
    "property": _SINGLE_PROPERTY,
    "properties": _list("properties", PROPERTY_IN_OBJECT, by_name=True),
    "resource_type": _RESOURCE_TYPE,
    "resource_types": _list("resource_type_associations", _RESOURCE_TYPE),
    "tag": _TAG,
    "tags": _list("tags", _TAG),
}
"""By the last part of their paths."""


def _shower(name: str) -> Callable[[Call], Response]:
    def show(call: Call) -> Response:
        return JSONResponse(SCHEMAS[name])

    return show


OPERATIONS = tuple(
    Operation(
        "GET",
        f"/v2/schemas/metadefs/{name}",
        _shower(name),
        f"Show the JSON schema of a metadata definitions' {name.replace('_', ' ')}",
    )
    for name in SCHEMAS
)
