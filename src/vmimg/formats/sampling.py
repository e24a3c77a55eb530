"""Looks at samples of tables, and for data where there should be none, without reading all of it.

Tables are read whole up to 512 KiB, larger ones by samples: the first entries, the last, and some
in between. So the cost of vetting does not grow with what an image says of itself. No numpy.
Imports storage and findings.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage

__all__ = [
    "Table", "first_data", "hidden_data", "last_entry", "read_entries", "read_table", "spread",
    "unfinished",
]  # fmt: skip

# Of one table: 2^17 entries of 32 bits, a disk of 128 GiB in blocks of 1 MiB.
_MOST_BYTES: Final = 512 << 10
_SAMPLES: Final = 16
_TYPECODES: Final = {4: "I", 8: "Q"}
_MAX_EXTENTS: Final = 64
# Read whole at either end of a stretch of data.
_EDGE: Final = 64 << 10
_PIECE: Final = 4096
_PIECES: Final = 16
_BUDGET: Final = 1 << 20


# Tables


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of a table: ``pieces`` of (number of the first, entries); ``whole``: all of them."""

    pieces: tuple[tuple[int, Sequence[int]], ...]
    whole: bool

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(number, entry) of what was read."""
        for first, entries in self.pieces:
            yield from enumerate(entries, first)


def read_table(
    storage: Storage, offset: int, count: int, width: int, order: Literal["little", "big"]
) -> Table:
    """``count`` entries of ``width`` bytes (4 or 8) from ``offset``, all inside the file."""
    most = _MOST_BYTES // width
    if count <= most:
        return Table(((0, read_entries(storage, offset, count * width, width, order)),), True)
    each = most // _SAMPLES
    return Table(
        tuple(
            (first, read_entries(storage, offset + first * width, each * width, width, order))
            for first in spread(count - each + 1, _SAMPLES)
        ),
        False,
    )


def read_entries(
    storage: Storage, offset: int, length: int, width: int, order: Literal["little", "big"]
) -> array[int]:
    """Entries of ``width`` bytes (4 or 8): those of ``length`` bytes from ``offset`` that the file
    has.
    """
    entries = array(_TYPECODES[width])
    length = max(0, min(length, storage.size - offset)) // width * width
    if length:
        entries.frombytes(storage.read(offset, length))
        if sys.byteorder != order:
            entries.byteswap()
    return entries


def last_entry(
    pieces: Sequence[tuple[int, Sequence[int]]], width: int, wanted: Callable[[int], bool]
) -> int | None:
    """Where in the file the last entry is that is ``wanted``: of several that lead to one place,
    the one that was added. ``pieces``: (where in the file, entries), ``width`` bytes each.
    """
    for start, entries in reversed(pieces):
        for number in range(len(entries) - 1, -1, -1):
            if wanted(entries[number]):
                return start + width * number
    return None


def spread(total: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``total``: the first, the last, and between them."""
    if total <= most:
        return list(range(total))
    return [number * (total - 1) // (most - 1) for number in range(most)]


def unfinished(message: str, offset: int | None = None) -> Finding:
    """The finding that a sample is all that was looked at."""
    return Finding.of("unfinished", message, offset=offset, severity=Severity.NOTE)


# Data where there should be none


def hidden_data(storage: Storage, start: int, end: int, message: str) -> Iterator[Finding]:
    """The finding for data in [start, end), if any was seen there."""
    place = first_data(storage, start, end)
    if place is not None:
        yield Finding.of("hidden-data", message, offset=place)


def first_data(storage: Storage, start: int, end: int) -> int | None:
    """The place of the first byte that is not zero among those looked at in [start, end).

    Holes cost nothing; of what is stored, the beginning, the end and some pieces between are read.
    So None means "none was found", not "there is none".
    """
    start, end = max(0, start), min(end, storage.size)
    reached = start
    for place, length in _looked_at(storage, start, end):
        found = _first_in(storage, place, length)
        if found is not None:
            return found
        reached = place + length
    # Whatever is between: the end is where things are hung on.
    reached = max(reached, end - _EDGE)
    return _first_in(storage, reached, end - reached) if reached < end else None


def _looked_at(storage: Storage, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(place, length) of what is read of [start, end), in order, until the budget is spent."""
    budget = _BUDGET
    for low, high, hole in islice(storage.extents(start, end), _MAX_EXTENTS):
        if hole:
            continue
        for place, length in _pieces(low, high):
            budget -= length
            if budget < 0:
                return
            yield place, length


def _pieces(low: int, high: int) -> list[tuple[int, int]]:
    """(place, length) of what is read of a stretch of data, in order."""
    if high - low <= 4 * _EDGE:
        return [(low, high - low)]
    inner = high - low - 2 * _EDGE
    between = [low + _EDGE + inner * n // (_PIECES + 1) for n in range(1, _PIECES + 1)]
    return [(low, _EDGE), *((place, _PIECE) for place in between), (high - _EDGE, _EDGE)]


def _first_in(storage: Storage, place: int, length: int) -> int | None:
    data = storage.read(place, length)
    return place + length - len(data.lstrip(b"\0")) if any(data) else None
