"""What is wrong with the clusters of a disk, as tables map them that lead anywhere in the file.

For the vetting of formats whose clusters can be compressed, and share what they take (qcow2, qcow,
QED). It works on a sample of bounded size, in plain Python: importing numpy would take longer than
the answer. Imports regions, findings and storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmimg.formats.regions import Area, Blocks
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_up, format_size

__all__ = ["SHARED_EN_MASSE", "Clusters"]

SHARED_EN_MASSE: Final = 64
"""So many clusters of the disk in the place of another are a way to make a small file large."""
# Times its own size that a file may unpack to before a word is said about it.
_MUCH: Final = 1000
# Of one kind of trouble a few findings say enough.
_MAX_FINDINGS: Final = 4


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
    _plain: Blocks = field(init=False)
    # Of a compressed one its first byte: it may end anywhere in the sector that its entry names.
    _packed: Blocks = field(init=False)

    def __post_init__(self) -> None:
        self._plain = Blocks(((place, 0) for place in set(self.plain)), self.cluster)
        self._packed = Blocks(((start, 0) for start in {start for start, _ in self.packed}), 1)

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
        found = 0
        for area in areas:
            place = self._first_over(area.start, area.end)
            if place is not None:
                found += 1
                yield self._over(place, area.what)
            if found == _MAX_FINDINGS:
                return
        begun = {place // self.cluster * self.cluster: place for place in self._places}
        for what, starts in tables:
            both = starts & begun.keys()
            if both:
                yield self._over(begun[min(both)], what)

    def over_tables(self, what: str, tables: Iterable[int], width: int) -> Iterator[Finding]:
        """The first cluster in the place of one of ``tables``, which are ``width`` bytes long."""
        laid = Blocks(((start, 0) for start in tables), width)
        plain = set(self.plain)
        for place in self._places:
            length = self.cluster if place in plain else 1
            if laid.first_over(place, place + length) is not None:
                yield self._over(place, what)
                return

    def apart(self) -> Iterator[Finding]:
        """Clusters that lie partly over each other, and compressed ones in uncompressed ones."""
        crowded = self._plain.crowded()
        if crowded:
            place = crowded[0][0]
            yield self._over(place, f"the cluster at {self._plain.first_over(place - 1, place)}")
        for start in sorted({start for start, _ in self.packed}):
            plain = self._plain.first_over(start, start + 1)
            if plain is not None:
                yield self._over(start, f"the cluster at {plain}")
                break

    def expanding(self, storage: Storage) -> Iterator[Finding]:
        """Clusters of the disk that are in one place of the file; where there are none, whether
        what is mapped is much more than the file.
        """
        shared = list(self._shared())
        yield from shared or self._grown(storage)

    def _shared(self) -> Iterator[Finding]:
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

    def _grown(self, storage: Storage) -> Iterator[Finding]:
        mapped = int((len(self.plain) + len(self.packed)) * self.cluster / (self.share or 1))
        if mapped > _MUCH * storage.size:
            yield Finding.of(
                "expands",
                f"some {format_size(mapped)} of data come out of a file of "
                f"{format_size(storage.size)}",
            )

    @property
    def _places(self) -> list[int]:
        """Where clusters begin, ascending."""
        return sorted({*self.plain, *(start for start, _ in self.packed)})

    def _first_over(self, start: int, end: int) -> int | None:
        both = (blocks.first_over(start, end) for blocks in (self._plain, self._packed))
        return min((place for place in both if place is not None), default=None)

    def _over(self, place: int, what: str) -> Finding:
        return Finding.of(
            "tables-overlap",
            f"a cluster of the disk is said to be at {place}, over {what}",
            offset=self.locate(place),
        )


def _count(number: int) -> str:
    return "a cluster of the disk is" if number == 1 else f"{number} clusters of the disk are"
