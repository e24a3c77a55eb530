"""Records across the wall of the sandbox: dataclasses as JSON, and back by what they declare.

What comes back was written by a process that read a stranger's image. So nothing in it chooses a
class: the reader says which record it expects, every field is checked against the type that it is
declared with, and what does not fit is an error. Imports formats and probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vmimg.formats.descriptor import Format
from vmimg.formats.registry import find
from vmimg.formats.vetting import CODES, Finding
from vmimg.probe.detecting import Detection

__all__ = ["decode", "encode"]

_T = TypeVar("_T")


def encode(value: Any) -> Any:
    """``value``, a record or what records are made of, as JSON can hold it."""
    if isinstance(value, Format):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def decode(kind: type[_T], value: Any) -> _T:
    """The ``kind`` of record that `encode` made ``value`` of. Raises TypeError, ValueError,
    KeyError or OptionError for anything else.
    """
    record: _T = _decoded(kind, value)
    return record


def _decoded(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (other,) = (k for k in inner if k is not NoneType)  # only "or None" is used
        return None if value is None else _decoded(other, value)
    if origin is Literal:
        return _one_of(inner, value)
    if origin is tuple:
        return tuple(_decoded(inner[0], item) for item in _exactly(list, value))
    if origin in (dict, Mapping):
        items = _exactly(dict, value).items()
        return {key: _decoded(inner[1], item) for key, item in items}
    if kind is Format:
        return find(_exactly(str, value))
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return kind(_exactly(int, value))
    if is_dataclass(kind):
        return _record(kind, _exactly(dict, value))
    return _exactly(kind, value)


def _record(kind: Any, facts: dict[str, Any]) -> Any:
    types = _types(kind)
    made = kind(**{name: _decoded(types[name], facts[name]) for name in types})
    # What their users take for granted beyond the types.
    if isinstance(made, Finding) and made.code not in CODES:
        raise ValueError("a finding of no known code")
    if isinstance(made, Detection) and not made.claims:
        raise ValueError("a detection without a claim")
    return made


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError("none of the choices")
    return value


def _exactly(kind: type, value: Any) -> Any:
    # Not isinstance: True would be a size.
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
