"""Bodies of requests about metadata definitions, checked and brought into one form.

A default is text whatever was sent, as Glance keeps it: clients take it for text. Imports
validating.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from vmimg.service.api.metadefs.schemas import PROPERTY_IN_OBJECT, SCHEMAS, TAG_LIST
from vmimg.service.api.validating import Schema
from vmimg.service.http.errors import bad_request, forbidden
from vmimg.service.http.operation import Call

__all__ = [
    *("NAMESPACE", "OBJECT", "PROPERTY", "RESOURCE_TYPE", "TAG", "TAGS_AT_ONCE"),
    *("body_of", "checked_name", "nested_in_namespace", "object_of", "properties_of"),
    "property_of",
]


def _checked(schema: Mapping[str, Any]) -> Schema:
    return Schema(schema["name"], schema)


NAMESPACE: Final = _checked(SCHEMAS["namespace"])
OBJECT: Final = _checked(SCHEMAS["object"])
PROPERTY: Final = _checked(SCHEMAS["property"])
RESOURCE_TYPE: Final = _checked(SCHEMAS["resource_type"])
TAG: Final = _checked(SCHEMAS["tag"])
TAGS_AT_ONCE: Final = _checked(TAG_LIST)
_PROPERTY_IN_OBJECT: Final = _checked(PROPERTY_IN_OBJECT)

_NAME_LENGTH: Final = 80
_DEPTH: Final = 16
_TOLD: Final = 300

_STAMPS: Final = ("created_at", "updated_at")
_LINKS: Final = ("self", "schema")


def body_of(call: Call, schema: Schema, *, links: bool = False) -> dict[str, Any]:
    """The body, as the schema wants it.

    ``links``: the schema has ``self`` and ``schema``, which are not for clients to set.

    Raises HTTPError: 400, and 403 where it sets what only the service does.
    """
    said = call.json()
    if not isinstance(said, dict):
        raise bad_request("Unexpected body type. Expected an object.")
    _shallow(said)
    for key in (*(_LINKS if links else ()), *_STAMPS):
        if key in said:
            raise forbidden(f"Attribute '{key}' is read-only.")
    schema.check(said)
    return said


def checked_name(name: Any, what: str) -> str:
    """A name that is not checked by a schema.

    Raises HTTPError 400.
    """
    if not isinstance(name, str):
        raise bad_request(f"{what}: the name is missing.")
    if len(name) > _NAME_LENGTH:
        raise bad_request(f"{what}: the name is too long: {_short(name)}")
    if "\0" in name:
        raise bad_request(f"{what}: the name has a NUL character.")
    return name


def object_of(said: Mapping[str, Any], *, nested: bool = False) -> tuple[str, dict[str, Any]]:
    """An object's name, and its definition, as far as given.

    Raises HTTPError 400.
    """
    name = checked_name(said.get("name"), "object")
    known = ("name", "description", "required", "properties", *_STAMPS, *_LINKS)
    _only(said, known, f"object {name!r}")
    definition = {key: said[key] for key in ("description", "required") if key in said}
    if "properties" in said:
        if not nested:
            for given in said["properties"].values():
                _PROPERTY_IN_OBJECT.check(given)
        definition["properties"] = properties_of(said["properties"])
    return name, definition


def properties_of(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Properties by name.

    Raises HTTPError 400.
    """
    return {checked_name(name, "property"): property_of(said[name], name) for name in said}


def property_of(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A property's definition, which met its schema.

    Raises HTTPError 400.
    """
    _only(said, _READERS, f"property {name!r}")
    return {key: read(said[key], f"{key} of property {name!r}") for key, read in _READERS.items()
            if key in said}  # fmt: skip


def nested_in_namespace(
    said: Iterable[Mapping[str, Any]], what: str, *keys: str
) -> list[dict[str, Any]]:
    """Tags or associations in the body of a namespace, with these keys of them.

    Raises HTTPError 400.
    """
    found = []
    for given in said:
        _only(given, (*keys, *_STAMPS), what)
        checked_name(given.get("name"), what)
        for key in keys:
            if key in given:
                checked_name(given[key], f"{what}'s {key}" if key != "name" else what)
        found.append({key: given[key] for key in keys if key in given})
    return found


def _only(said: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise bad_request(f"Unknown attribute for {_short(what)}: {_short(unknown[0])}")


def _as_given(value: Any, where: str) -> Any:
    return value


def _text(value: Any, where: str) -> str | None:
    # Glance keeps no default that is a list or an object.
    return str(value) if isinstance(value, str | int | float) else None


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f"{_short(where)} is neither true nor false.")
    return value


def _number(value: Any, where: str) -> int | float:
    number: int | float = value
    if isinstance(number, int):
        return number
    if not math.isfinite(number):  # 1e999
        raise bad_request(f"{_short(where)} is too large.")
    return int(number) if number.is_integer() else number


def _texts(value: Any, where: str) -> list[str | None]:
    texts: list[str | None] = value
    if not all(item is None or isinstance(item, str) for item in texts):
        raise bad_request(f"{_short(where)}: what it lists must be strings.")
    return texts


def _items(value: Any, where: str) -> dict[str, Any]:
    _only(value, ("type", "enum"), where)
    if "type" not in value:
        raise bad_request(f"{_short(where)}: their type is missing.")
    return {key: _texts(value[key], where) if key == "enum" else value[key] for key in value}


_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "name": _as_given,
    "type": _as_given,
    "title": _as_given,
    "description": _as_given,
    "operators": _as_given,
    "default": _text,
    "readonly": _as_given,
    "minimum": _number,
    "maximum": _number,
    "enum": _texts,
    "pattern": _as_given,
    "minLength": _number,
    "maxLength": _number,
    "confidential": _flag,
    "items": _items,
    "uniqueItems": _as_given,
    "minItems": _number,
    "maxItems": _number,
    "additionalItems": _as_given,
}
"""What a property may say, and how it is brought into one form."""


def _shallow(said: Any) -> None:
    # No definition is deep, and what checks them goes as deep as they are.
    level = [said]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        if not below:
            return
        level = below
    raise bad_request("The request body is nested too deeply.")


def _short(text: str) -> str:
    return text if len(text) <= _TOLD else text[:_TOLD] + "..."
