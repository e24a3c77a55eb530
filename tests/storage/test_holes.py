"""Holes of a table are stepped over, and what was asked once is not asked again."""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.storage.holes import Holes
from vmimg.storage.memory import MemoryStorage


class Sparse(MemoryStorage):
    """Data in [300, 500) and [900, 1000) of 2000 bytes; counts how often it is asked."""

    asked = 0

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        self.asked += 1
        for low, high, hole in (
            (0, 300, True), (300, 500, False), (500, 900, True), (900, 1000, False),
            (1000, 2000, True),
        ):  # fmt: skip
            if max(low, start) < min(high, end):
                yield max(low, start), min(high, end), hole


def test_holes_are_stepped_over() -> None:
    holes = Holes(Sparse(bytes(2000)), 100, 1500)
    wanted = {100: 300, 300: 300, 499: 499, 500: 900, 950: 950, 1000: 1500, 1499: 1500, 1500: 1500}
    assert {offset: holes.skip(offset) for offset in wanted} == wanted
    assert holes.skip(350) == 350  # and back


def test_data_is_asked_for_once() -> None:
    storage = Sparse(bytes(2000))
    holes = Holes(storage, 0, 2000)
    assert [holes.skip(offset) for offset in range(300, 500)] == list(range(300, 500))
    assert storage.asked == 1


def test_storage_that_knows_no_holes_is_data_throughout() -> None:
    holes = Holes(MemoryStorage(bytes(2000)), 0, 2000)
    assert [holes.skip(offset) for offset in (0, 1, 1999, 2000)] == [0, 1, 1999, 2000]
