"""Values of XML-RPC: strings (numbers are strings for xapi), booleans, lists, and structures.

Imports XML.
"""

from __future__ import annotations

from typing import TypeAlias

from vmimg.errors import FormatError
from vmimg.machines.xml import (
    Element,
    child,
    children,
    encoded,
    local,
    make,
    printable,
    serialise,
    snippet,
)

__all__ = ["Typed", "Value", "from_text", "to_element", "to_text", "value_of", "whole"]


class Typed(str):
    """A scalar of another type than a string: its text, and the name of its element."""

    __slots__ = ("tag",)
    tag: str

    def __new__(cls, text: str, tag: str = "string") -> Typed:
        made = super().__new__(cls, text)
        made.tag = tag
        return made


Value: TypeAlias = "str | bool | list[Value] | dict[str, Value] | None"

_SCALARS = ("int", "i4", "i8", "double", "dateTime.iso8601", "base64")


def value_of(element: Element, name: str) -> Value:
    """What a <value> holds. Raises FormatError for what is none."""
    if local(element) != "value" or len(element) > 1:
        raise FormatError(
            f"{name}: <{local(element)[:40]}> in line {element.sourceline} is no value"
        )
    if not len(element):
        return element.text or ""
    inner = element[0]
    kind, text = local(inner), inner.text or ""
    if kind == "struct":
        found: dict[str, Value] = {}
        for member in children(inner, "member"):
            key, value = child(member, "name"), child(member, "value")
            if key is None or value is None:
                raise FormatError(f"{name}: a member in line {member.sourceline} is not whole")
            found[key.text or ""] = value_of(value, name)
        return found
    if kind == "array":
        data = child(inner, "data")
        return [] if data is None else [value_of(each, name) for each in children(data, "value")]
    if kind == "boolean":
        return text.strip() in ("1", "true")
    if kind == "nil":
        return None
    if kind == "string":
        return text
    if kind in _SCALARS:
        return Typed(text.strip(), kind)
    raise FormatError(f"{name}: XML-RPC has no <{kind[:40]}> (line {inner.sourceline})")


def to_element(value: Value, parent: Element | None = None) -> Element:
    """The <value>."""
    element = make("value", parent=parent)
    if isinstance(value, dict):
        struct = make("struct", parent=element)
        for key, each in value.items():
            member = make("member", parent=struct)
            make("name", content=key, parent=member)
            to_element(each, member)
    elif isinstance(value, list):
        data = make("data", parent=make("array", parent=element))
        for each in value:
            to_element(each, data)
    elif isinstance(value, bool):
        make("boolean", content=str(int(value)), parent=element)
    elif value is None:
        make("nil", parent=element)
    elif isinstance(value, Typed):
        make(value.tag, content=str(value), parent=element)
    elif value:
        element.text = printable(value)
    return element


def to_text(value: Value) -> str:
    """The <value> in one line, for a machine's extras."""
    return encoded(to_element(value))


def from_text(text: str) -> Value:
    """What `to_text` wrote. Raises FormatError."""
    return value_of(snippet(text), "extras")


def whole(value: Value) -> bytes:
    """A document that is the value."""
    return serialise(to_element(value), indent="")
