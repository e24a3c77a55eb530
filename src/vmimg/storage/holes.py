"""Holes: walking over a table in a file without reading its holes.

A table that was never written is a hole as large as the table. Asking where the next one is may
take as long as the data that is in between, so what was answered is kept. Imports nothing but
storage.
"""

from __future__ import annotations

from vmimg.storage.base import Storage

__all__ = ["Holes"]


class Holes:
    """The holes of ``storage`` in [start, end), asked for in ascending order, mostly.

    What is data once is taken for data from then on; a hole is asked for anew each time.
    """

    def __init__(self, storage: Storage, start: int, end: int) -> None:
        self._storage = storage
        self._start, self._end = start, end
        self._data = (start, start)

    def skip(self, offset: int) -> int:
        """The first byte from ``offset`` on that is not in a hole; ``end`` where there is none."""
        low, high = self._data
        if low <= offset < high:
            return offset
        for low, high, hole in self._storage.extents(offset, self._end):
            if not hole:
                self._data = (low, high)
                return low
        return self._end
