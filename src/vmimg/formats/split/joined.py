"""JoinedStorage: the parts of a disk as one container, for looking at what is on it.

To read only; a part is opened when something in it is wanted, which for most of them is never.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from vmimg import storage as storages
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["JoinedStorage"]


class JoinedStorage(ReadOnlyView):
    """``first``, which stays open when this is closed, and ``others``: (path, size) of files."""

    def __init__(self, first: Storage, others: Sequence[tuple[str, int]]) -> None:
        starts = list(accumulate([0, first.size, *(size for _, size in others)]))
        super().__init__(first, starts.pop())
        self._paths = [first.name, *(path for path, _ in others)]
        self._starts = starts
        self._files: dict[int, Storage] = {0: first}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self._check(offset, len(buffer))
        for number, start, stop in self._pieces(offset, end):
            base = self._starts[number]
            part = buffer[base + start - offset : base + stop - offset]
            self._file(number).read_into(start, part)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        for number, low, high in self._pieces(start, end):
            base = self._starts[number]
            for first, last, hole in self._file(number).extents(low, high):
                yield first + base, last + base, hole

    def close(self) -> None:
        for number, file in self._files.items():
            if number:
                file.close()
        self._files = {0: self._files[0]}

    def _file(self, number: int) -> Storage:
        file = self._files.get(number)
        if file is None:
            # No lock: it is looked at for a moment, like what `info` says of any file.
            file = self._files[number] = storages.open(self._paths[number], lock=False)
        return file

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(number of the part, start and end in it) of what [start, end) touches."""
        number = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            base = self._starts[number]
            limit = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
            stop = min(end, limit)
            if stop > start:
                yield number, start - base, stop - base
                start = stop
            number += 1
