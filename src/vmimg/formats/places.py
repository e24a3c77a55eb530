"""Where the structures of an image lie: which overlap, which lie outside. For vetting; no numpy.

Tables are read whole up to 512 KiB, larger ones by samples: the first entries, the last, and some
in between. So the cost does not grow with what an image says of itself. What runs once per entry
runs in C: sorting, slicing, comprehensions. Imports storage and findings.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeVar

from vmimg.formats.vetting import Finding
from vmimg.storage.base import Storage

__all__ = [
    "Blocks",
    "Found",
    "Part",
    "Table",
    "collisions",
    "read_table",
    "sampled_data",
    "some",
    "spread",
]

# Of one table: 2^17 entries of 32 bits, a disk of 128 GiB in blocks of 1 MiB.
_MOST_BYTES: Final = 512 << 10
_SAMPLES: Final = 16
_TYPECODES: Final = {4: "I", 8: "Q"}
# At each end of a stretch that should be empty.
_GLANCE: Final = 64 << 10
_MOST_FINDINGS: Final = 8
_MOST_OVER: Final = 64
# Numbers of blocks are below this power of two; they may be offsets in the file as well.
_BITS: Final = 64
_LOW: Final = (1 << _BITS) - 1

_T = TypeVar("_T")

Found = list[tuple[int, int]]
"""(place in the file in bytes, number of the block), ascending."""


@dataclass(frozen=True, slots=True)
class Part:
    """A structure, called ``what``, from ``start`` to ``end`` of the file, in bytes."""

    what: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of a table: ``pieces`` of (number of the first, entries); ``whole``: all of them."""

    pieces: tuple[tuple[int, Sequence[int]], ...]
    whole: bool

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(number, entry) of what was read."""
        for first, entries in self.pieces:
            yield from enumerate(entries, first)


class Blocks:
    """Blocks of ``length`` bytes each, of which ``found`` tells (place in the file, number)."""

    def __init__(self, found: Iterable[tuple[int, int]], length: int) -> None:
        self.length = length
        # One number each: a quarter of the memory and the time that pairs take.
        self._found = sorted(place << _BITS | number for place, number in found)

    @property
    def count(self) -> int:
        return len(self._found)

    @property
    def end(self) -> int:
        """Where the last one ends; 0 where there is none."""
        return (self._found[-1] >> _BITS) + self.length if self._found else 0

    def behind(self, limit: int) -> Found:
        """Those that end behind ``limit``."""
        return _pairs(self._found[self._index(limit - self.length + 1) :])

    def over(self, part: Part) -> Found:
        """Those that touch ``part``, the first 64 of them: an image can have many parts."""
        if part.start >= part.end:
            return []
        low = self._index(part.start - self.length + 1)
        return _pairs(self._found[low : min(self._index(part.end), low + _MOST_OVER)])

    def crowded(self) -> Found:
        """Those that begin before the one in front of them ends."""
        length = self.length
        return _pairs(
            [two for one, two in pairwise(self._found) if (two >> _BITS) - (one >> _BITS) < length]
        )

    def sharing(self) -> float:
        """How many blocks there are for each place."""
        return len(self._found) / max(1, len({each >> _BITS for each in self._found}))

    def _index(self, place: int) -> int:
        """How many of them begin in front of ``place``."""
        return bisect_left(self._found, max(0, place) << _BITS)


def _pairs(found: list[int]) -> Found:
    return [(each >> _BITS, each & _LOW) for each in found]


def collisions(parts: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    """(what lies in front, what lies over it) of ``parts``; of those that start at one place, the
    one that is first in ``parts`` is in front.
    """
    order = sorted((part for part in parts if part.start < part.end), key=lambda part: part.start)
    reach: Part | None = None
    for part in order:
        if reach is not None and part.start < reach.end:
            yield reach, part
        if reach is None or part.end > reach.end:
            reach = part


def read_table(
    storage: Storage, offset: int, count: int, width: int, order: Literal["little", "big"]
) -> Table:
    """``count`` entries of ``width`` bytes (4 or 8) from ``offset``, all inside the file."""
    most = _MOST_BYTES // width
    if count <= most:
        return Table(((0, _entries(storage, offset, count, width, order)),), True)
    each = most // _SAMPLES
    return Table(
        tuple(
            (first, _entries(storage, offset + first * width, each, width, order))
            for first in spread(count - each + 1, _SAMPLES)
        ),
        False,
    )


def few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """``findings``, but no more than eight of one code: who wants all of them asks check."""
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.code] = counts.get(finding.code, 0) + 1
        if counts[finding.code] <= _MOST_FINDINGS:
            yield finding


def some(found: Sequence[_T], most: int = 4) -> Iterator[tuple[_T, str]]:
    """The first of ``found``, each with what to say behind it: with the last, how many are left."""
    for number, each in enumerate(found[:most], 1):
        left = len(found) - most
        yield each, f", and so are {left} more" if number == most and left > 0 else ""


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``: the first, the last, and between them."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]


def sampled_data(storage: Storage, start: int, end: int) -> int | None:
    """Where the first byte that is not zero is, near both ends of a stretch; None for no such."""
    end = min(end, storage.size)
    for low, high in ((start, min(start + _GLANCE, end)), (max(start, end - _GLANCE), end)):
        data = storage.read(low, high - low) if low < high else b""
        rest = data.lstrip(b"\0")
        if rest:
            return low + len(data) - len(rest)
    return None


def _entries(
    storage: Storage, offset: int, count: int, width: int, order: Literal["little", "big"]
) -> Sequence[int]:
    entries = array(_TYPECODES[width], storage.read(offset, count * width))
    if order != sys.byteorder:
        entries.byteswap()
    return entries
