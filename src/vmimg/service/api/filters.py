"""What the query of a listing asks for: filters, order, and their mistakes, in Glance's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, get_args

from sqlalchemy import ColumnElement, false

from vmimg.service.catalogue import listing
from vmimg.service.catalogue.listing import SORT_KEYS, Operator, Order
from vmimg.service.http.errors import bad_request

__all__ = ["conditions", "member_status", "order", "page_size", "visibility", "yes_or_no"]

_Pairs = Sequence[tuple[str, str]]

_NUMBERS: Final = ("size", "virtual_size", "min_disk", "min_ram")
_TIMES: Final = ("created_at", "updated_at")
_LISTS: Final = ("name", "id", "status", "container_format", "disk_format")
_TEXTS: Final = ("owner", "checksum", "os_hash_algo", "os_hash_value")
# Taken by others, or not at all.
_ELSEWHERE: Final = frozenset({"visibility", "os_hidden", "deleted", "deleted_at"})
# Each is a look into another table.
_MOST: Final = 64
_OPERATORS: Final = get_args(Operator)
_QUOTED: Final = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)",?|([^,]+),?|,')


def conditions(pairs: _Pairs, tags: Sequence[str], dialect: str) -> list[ColumnElement[bool]]:
    """The filters, for a database; of one that is there twice the last counts."""
    said = {name: value for name, value in pairs if name not in _ELSEWHERE}
    if said.get("changes-since"):
        raise bad_request('The "changes-since" filter is no longer available on v2.')
    if len(said) + len(tags) > _MOST:
        raise bad_request(f"More than {_MOST} filters in one request.")
    found = [_condition(name, value, dialect) for name, value in said.items()]
    return found + [listing.with_tag(tag, dialect) for tag in dict.fromkeys(tags)]


def _condition(name: str, value: str, dialect: str) -> ColumnElement[bool]:
    base, _, end = name.rpartition("_")
    if base in _NUMBERS and end in _BOUNDS:
        return _BOUNDS[end](base, _bound(value))
    if name in _TIMES:
        return _time(name, value)
    if name in _LISTS:
        return _one_of(name, value)
    if name in _NUMBERS:
        number = _number(value)
        return false() if number is None else listing.equals(name, number)
    if name in _TEXTS:
        return listing.equals(name, value)
    if name == "protected":
        return listing.equals(name, yes_or_no(name, value))
    return listing.with_property(name, value, dialect)


_BOUNDS: Final[dict[str, Callable[[str, int], ColumnElement[bool]]]] = {
    "min": listing.at_least,
    "max": listing.at_most,
}


def _number(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _bound(value: str) -> int:
    number = _number(value)
    if number is None:
        raise bad_request("Unable to filter on a range with a non-numeric value.")
    return number


def _time(name: str, value: str) -> ColumnElement[bool]:
    operator, said = _split(value)
    time = _parsed(said)
    if time is None:
        raise bad_request(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.')
    for known in _OPERATORS:
        if operator == known:
            return listing.when(name, known, time)
    raise bad_request("Unable to filter on a unknown operator.")


def _one_of(name: str, value: str) -> ColumnElement[bool]:
    operator, said = _split(value)
    if operator == "eq":
        return listing.equals(name, said)
    if operator == "in":
        return listing.one_of(name, _values(said))
    raise bad_request(f"Unable to filter by unknown operator '{operator}'.")


def _split(value: str) -> tuple[str, str]:
    """The operator, and what it is about. A time has colons of its own."""
    left, colon, right = value.partition(":")
    if not colon or _parsed(value) is not None:
        return "eq", value
    return left, right


def _parsed(said: str) -> datetime | None:
    """A time in ISO 8601, as UTC without a zone; without one it is UTC."""
    if re.fullmatch(r"\d{4}", said):
        said = f"{said}-01-01"
    elif re.fullmatch(r"\d{4}-\d\d", said):
        said = f"{said}-01"
    try:
        time = datetime.fromisoformat(said)
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None


def _values(said: str) -> list[str]:
    """Values with commas between; one with a comma in it stands in double quotes."""
    outside = True
    for at, letter in enumerate(said):
        if letter != '"' or said[at - 1 : at] == "\\":
            continue
        if outside and at and said[at - 1] != ",":
            raise bad_request(
                f"Invalid filter value {said}. There is no comma before opening quotation mark."
            )
        if not outside and said[at + 1 : at + 2] not in ("", ","):
            raise bad_request(
                f"Invalid filter value {said}. There is no comma after closing quotation mark."
            )
        outside = not outside
    if not outside:
        raise bad_request(f"Invalid filter value {said}. The quote is not closed.")
    return [match[1] or match[2] or "" for match in _QUOTED.finditer(said)]


def yes_or_no(name: str, value: str) -> bool:
    """``true`` or ``false``."""
    if value not in ("true", "false"):
        raise bad_request(
            f"Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'."
        )
    return value == "true"


def visibility(value: str | None) -> str | None:
    """One of the four, or all."""
    if value and value not in ("community", "public", "private", "shared", "all"):
        raise bad_request(f"Invalid visibility value: {value}")
    return value


def member_status(value: str) -> str:
    """What the project says to what is shared with it."""
    if value not in ("pending", "accepted", "rejected", "all"):
        raise bad_request(f"Invalid status: {value}")
    return value


def page_size(value: str | None, default: int, most: int) -> int:
    """How many images a page has."""
    if value is None:
        return min(default, most)
    number = _number(value)
    if number is None:
        raise bad_request("limit param must be an integer")
    if number < 0:
        raise bad_request("limit param must be positive")
    return min(number, most)


def order(sort: str | None, keys: Sequence[str], directions: Sequence[str]) -> list[Order]:
    """The order, by either of two spellings: ``sort``, or ``sort_key`` and ``sort_dir``."""
    if sort is not None:
        if keys or directions:
            raise bad_request("Old and new sorting syntax cannot be combined")
        pairs = [one.partition(":") for one in sort.strip().split(",")]
        keys = [key for key, _, _ in pairs]
        directions = [direction or "desc" for _, _, direction in pairs]
    keys = [_sort_key(key.strip()) for key in keys]
    directions = [_direction(direction.strip()) for direction in directions]
    if len(directions) > 1 and len(directions) != len(keys):
        raise bad_request("Number of sort dirs does not match the number of sort keys")
    keys = keys or ["created_at"]
    # One direction is for all keys, also for those that make the order definite.
    rest = directions[0] if len(directions) == 1 else "desc"
    if len(directions) < 2:
        directions = [rest] * len(keys)
    found: dict[str, Order] = {}
    for key, direction in zip(keys, directions, strict=True):
        found.setdefault(key, Order(key, direction == "desc"))
    for key in ("created_at", "id"):
        found.setdefault(key, Order(key, rest == "desc"))
    return list(found.values())


def _sort_key(key: str) -> str:
    if key not in SORT_KEYS:
        raise bad_request(
            f"Invalid sort key: {key}. It must be one of the following: {', '.join(SORT_KEYS)}."
        )
    return key


def _direction(direction: str) -> str:
    if direction not in ("asc", "desc"):
        raise bad_request(f"Invalid sort direction: {direction}")
    return direction
