"""Members of a bundle that are a disk together, and members that are compressed.

A chunk of an OVF's disk, a piece of an old XVA's: files of which one goes on where the other ends.
What is compressed is compressed as a whole, or piece by piece, which with gzip is the same. Imports
storage and archives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vetting import printable
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.stream import HEAD_SIZE, outer_compression, spool
from vmimg.storage.view import ReadOnlyView

__all__ = ["RowStorage", "open_pieces"]


class RowStorage(ReadOnlyView):
    """``members`` of ``folder`` one behind the other. Each is opened when something in it is
    wanted: thousands of them would be thousands of open files.
    """

    def __init__(self, folder: Folder, members: Sequence[str], name: str) -> None:
        starts = [0, *accumulate(folder.size(member) for member in members)]
        super().__init__(MemoryStorage(b"", f"{folder.name}:{name}"), starts.pop())
        self.folder = folder
        self.member = name
        self._members = tuple(members)
        self._starts = starts

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        for member, base, start, end in self._pieces(offset, offset + len(buffer)):
            with self._open(member) as piece:
                piece.read_into(start - base, buffer[start - offset : end - offset])

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        for member, base, low, high in self._pieces(start, end):
            with self._open(member) as piece:
                for first, last, hole in piece.extents(low - base, high - base):
                    yield first + base, last + base, hole

    def allocated(self) -> int:
        return self.size

    def _open(self, member: str) -> Storage:
        assert self.folder is not None
        return self.folder.open(member)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[str, int, int, int]]:
        """(member, where it begins, and the range in all of it) of what [start, end) touches."""
        number = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            after = number + 1
            stop = min(end, self._starts[after] if after < len(self._starts) else self.size)
            if stop > start:
                yield self._members[number], self._starts[number], start, stop
                start = stop
            number = after


def open_pieces(
    folder: Folder, members: Sequence[str], name: str, *, compression: str, limit: int
) -> Storage:
    """``members`` of ``folder`` as one, unpacked where there is a ``compression`` ("gzip",
    "bzip2"): to ``limit`` bytes at the most.

    Raises UnsupportedFeature for another compression, FormatError for broken data, UnsafeImage for
    what unpacks to more.
    """
    if compression not in ("", "gzip", "bzip2"):
        raise UnsupportedFeature(
            f"{folder.name}:{name}: is compressed with '{printable(compression[:40])}'"
        )
    row = folder.open(members[0]) if len(members) == 1 else RowStorage(folder, members, name)
    if not compression:
        return row
    try:
        if outer_compression(row.read(0, min(HEAD_SIZE, row.size))) != compression:
            raise FormatError(
                f"{row.name}: is said to be compressed with {compression}, and is not"
            )
        if compression == "bzip2":
            # Nothing can begin in the middle of it.
            return _belonging(spool(row, row.name, limit=limit), row)
        unpacked = InflatedStorage(row, row.name, gzip=True, owns=True)
        unpacked.measure(limit=limit)
    except BaseException:
        row.close()
        raise
    return _belonging(unpacked, row)


def _belonging(storage: Storage, row: Storage) -> Storage:
    """``storage`` as the member that ``row`` is."""
    storage.folder, storage.member = row.folder, row.member
    return storage
