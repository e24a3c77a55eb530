"""Areas of a file that structures claim, and clusters that tables map: what contradicts what.

For the vetting of formats whose tables lead to tables and clusters at any offset (qcow2, qcow,
QED). It works on a sample of bounded size, in plain Python: importing numpy would take longer than
the answer. Imports findings and storage.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_up, format_size

__all__ = [
    "MUCH", "SHARED_EN_MASSE", "Area", "Clusters", "first_data", "overlaps", "spread", "words",
]  # fmt: skip

SHARED_EN_MASSE: Final = 64
"""So many clusters of the disk in the place of another are a way to make a small file large."""
MUCH: Final = 1000
"""Times its own size that a file may unpack to before a word is said about it."""
# Of one kind of trouble a few findings say enough.
_MAX_FINDINGS: Final = 4
_LOOK: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes from ``start`` up to ``end`` that belong to ``what`` ("the L1 table"). ``said``: where
    in the file it says so.
    """

    what: str
    start: int
    end: int
    said: int = 0


def overlaps(areas: Sequence[Area]) -> Iterator[Finding]:
    """A finding for each two of ``areas`` that share bytes, a few at most. Of two the later one in
    ``areas`` is to blame.
    """
    order = {id(area): number for number, area in enumerate(areas)}
    found = 0
    furthest: Area | None = None
    for area in sorted(
        (a for a in areas if a.end > a.start), key=lambda a: (a.start, order[id(a)])
    ):
        if furthest is not None and area.start < furthest.end:
            first, second = sorted((furthest, area), key=lambda a: order[id(a)])
            yield Finding.of(
                "tables-overlap",
                f"{second.what}, at {second.start}, lies over {first.what}, at {first.start} to "
                f"{first.end}",
                offset=second.said,
            )
            found += 1
            if found == _MAX_FINDINGS:
                return
        if furthest is None or area.end > furthest.end:
            furthest = area


def words(
    storage: Storage, offset: int, length: int, order: Literal["big", "little"] = "big"
) -> array[int]:
    """Numbers of 64 bits: those of ``length`` bytes from ``offset`` that the file has."""
    length = max(0, min(length, storage.size - offset)) // 8 * 8
    numbers = array("Q")
    if length:
        numbers.frombytes(storage.read(offset, length))
        if sys.byteorder != order:
            numbers.byteswap()
    return numbers


def spread(total: int, most: int) -> list[int]:
    """``most`` of the numbers below ``total``, evenly: the first and the last are among them."""
    if total <= most:
        return list(range(total))
    return sorted({number * (total - 1) // (most - 1) for number in range(most)})


def first_data(storage: Storage, start: int, end: int) -> int | None:
    """Where in the range a byte is not zero: a look at both of its ends, None where none was seen
    there.
    """
    end = min(end, storage.size)
    pieces = [(start, min(end, start + _LOOK))]
    if end - start > _LOOK:
        pieces.append((max(start + _LOOK, end - _LOOK), end))
    for first, last in pieces:
        if first < last:
            data = storage.read(first, last - first)
            if any(data):
                return first + len(data) - len(data.lstrip(b"\0"))
    return None


@dataclass(slots=True)
class Clusters:
    """Clusters of the disk as the tables have them that were looked at. Offsets and sizes in bytes.

    ``plain``: where uncompressed ones begin; ``packed``: (start, end) of compressed ones.
    ``locate``: which place of the file says that a cluster is at this offset; None where that was
    not found again. ``share``: of the tables, the part that was looked at. ``counted``: whether a
    cluster may rightly be used by several, by its reference count.
    """

    cluster: int
    plain: list[int]
    packed: list[tuple[int, int]]
    locate: Callable[[int], int | None]
    share: float = 1.0
    counted: Callable[[int, int], bool] = field(default=lambda offset, users: False)

    def outside(self, storage: Storage, last: int) -> Iterator[Finding]:
        """``last``: from which offset on no cluster can begin any more, but for this one."""
        lost = [offset for offset in self.plain if offset > last]
        end = align_up(storage.size, 512)
        lost += [start for start, stop in self.packed if start >= storage.size or stop > end]
        if lost:
            yield Finding.of(
                "truncated",
                f"{_count(len(lost))} said to be behind the end of the file ({storage.size}), "
                f"the first at {lost[0]}",
                offset=self.locate(lost[0]),
            )

    def over(
        self, areas: Iterable[Area], tables: Sequence[tuple[str, set[int]]]
    ) -> Iterator[Finding]:
        """Clusters in the place of metadata. ``tables``: what they are, and where they begin: each
        is as long as a cluster.
        """
        plain = set(self.plain)
        places = sorted({*plain, *(start for start, _ in self.packed)})
        found = 0
        for area in areas:
            # A plain cluster may begin in front of the area and reach into it.
            first = bisect_left(places, area.start - self.cluster + 1)
            for place in places[first : first + 8]:
                if place >= area.end:
                    break
                if place >= area.start or place in plain:
                    found += 1
                    yield self._over(place, area.what)
                    break
            if found == _MAX_FINDINGS:
                return
        for what, starts in tables:
            begun = {place // self.cluster * self.cluster: place for place in places}
            both = starts & begun.keys()
            if both:
                yield self._over(begun[min(both)], what)

    def apart(self) -> Iterator[Finding]:
        """Clusters that lie partly over each other, and compressed ones in uncompressed ones."""
        places = sorted(set(self.plain))
        for one, other in pairwise(places):
            if other - one < self.cluster:
                yield self._over(other, f"the cluster at {one}")
                break
        for start in sorted({start for start, _ in self.packed}):
            before = bisect_right(places, start) - 1
            if before >= 0 and start - places[before] < self.cluster:
                yield self._over(start, f"the cluster at {places[before]}")
                break

    def shared(self) -> Iterator[Finding]:
        """Clusters of the disk that are in one place of the file."""
        starts = self.plain + [start for start, _ in self.packed]
        if len(set(starts)) == len(starts):
            return
        users = Counter(starts)
        packed = {start for start, _ in self.packed}
        often = [(place, count) for place, count in users.most_common() if count > 1]
        surplus = sum(count - 1 for _, count in often)
        # Looking counts up takes a read each.
        wrong = [
            place
            for place, count in often[:SHARED_EN_MASSE]
            if place in packed or not self.counted(place, count)
        ]
        place = wrong[0] if wrong else often[0][0]
        if surplus >= SHARED_EN_MASSE:
            yield Finding.of(
                "expands",
                f"{surplus} clusters of the disk are in the place of another, as the one at {place}"
                f" is {users[place]} times: nothing that makes images does that",
                offset=self.locate(place),
                severity=Severity.ERROR if wrong else None,
            )
        elif wrong:
            yield Finding.of(
                "tables-overlap",
                f"{users[place]} clusters of the disk are said to be at {place}: who writes one "
                "destroys the other",
                offset=self.locate(place),
            )

    def grown(self, storage: Storage) -> Iterator[Finding]:
        """Whether what is mapped is much more than the file."""
        mapped = int((len(self.plain) + len(self.packed)) * self.cluster / (self.share or 1))
        if mapped > MUCH * storage.size:
            yield Finding.of(
                "expands",
                f"some {format_size(mapped)} of data come out of a file of "
                f"{format_size(storage.size)}",
            )

    def _over(self, place: int, what: str) -> Finding:
        return Finding.of(
            "tables-overlap",
            f"a cluster of the disk is said to be at {place}, over {what}",
            offset=self.locate(place),
        )


def _count(number: int) -> str:
    return "a cluster of the disk is" if number == 1 else f"{number} clusters of the disk are"
