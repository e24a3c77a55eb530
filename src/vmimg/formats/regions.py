"""Where the structures of an image lie in its file: which overlap, which lie outside. For vetting.

`Area` is one structure, with a name; `Blocks` are the many pieces of equal length that tables
place. What runs once per block runs in C: sorting, slicing, comprehensions; importing numpy would
take longer than the answer. Imports findings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

from vmimg.formats.vetting import Finding

__all__ = ["Area", "Blocks", "Found", "collisions", "overlaps"]

_MOST_OVER: Final = 64
# Numbers of blocks are below this power of two; they may be offsets in the file as well.
_BITS: Final = 64
_LOW: Final = (1 << _BITS) - 1

Found = list[tuple[int, int]]
"""(place in the file in bytes, number of the block), ascending."""


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes from ``start`` up to ``end`` of the file that belong to ``what`` ("the L1 table").
    ``said``: where in the file it says so, if a field does.
    """

    what: str
    start: int
    end: int
    said: int | None = None


def collisions(areas: Sequence[Area]) -> Iterator[tuple[Area, Area]]:
    """(what lies in front, what lies over it) of ``areas``; of those that start at one place, the
    one that is first in ``areas`` is in front.
    """
    order = sorted((area for area in areas if area.start < area.end), key=lambda area: area.start)
    reach: Area | None = None
    for area in order:
        if reach is not None and area.start < reach.end:
            yield reach, area
        if reach is None or area.end > reach.end:
            reach = area


def overlaps(areas: Sequence[Area], most: int = 4) -> Iterator[Finding]:
    """A finding for each two of ``areas`` that share bytes, ``most`` at the most.

    Of two the later one in ``areas`` is to blame, where a field says that it is there; of those
    that no field places, the one that begins later.
    """
    order = {id(area): number for number, area in enumerate(areas)}
    for front, over in islice(collisions(areas), most):
        first, second = sorted((front, over), key=lambda area: order[id(area)])
        if second.said is None:
            message = f"{over.what} at {over.start} lies over {front.what}, which ends at "
            yield Finding.of("tables-overlap", f"{message}{front.end}", offset=over.start)
        else:
            message = f"{second.what}, at {second.start}, lies over {first.what}, at {first.start} "
            yield Finding.of("tables-overlap", f"{message}to {first.end}", offset=second.said)


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

    def over(self, area: Area) -> Found:
        """Those that touch ``area``, the first 64 of them: an image can have many areas."""
        if area.start >= area.end:
            return []
        low = self._index(area.start - self.length + 1)
        return _pairs(self._found[low : min(self._index(area.end), low + _MOST_OVER)])

    def first_over(self, start: int, end: int) -> int | None:
        """Where the first one begins that has a byte from ``start`` up to ``end``."""
        low = self._index(start - self.length + 1)
        if low == len(self._found):
            return None
        place = self._found[low] >> _BITS
        return place if place < end else None

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
