"""FileMap: what a file holds that nobody wrote, in a form that does not grow with it.

Three things can be at a place of an image: guest data, metadata, zeros. Guest data is kept as runs
(place in the file, place in the disk, length), metadata as it is, zeros not at all. Both come page
by page, as they are placed, and full pages are kept packed: what goes on costs nothing, a run of a
fragmented disk a byte or two, a table whose entries go up by equal steps a hundredth of its size.
Pages are unpacked again where they are asked for; the last few stay so.

Imports codecs and numpy. Knows no format.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.errors import UnsupportedFeature
from vmimg.units import KIB

__all__ = ["FileMap", "MapBuilder"]

Numbers = NDArray[np.int64]
Run = tuple[int, int, int]
"""(place in the file, place in what it comes from, length), in bytes."""

# Runs of a page: 192 KiB while it is worked with.
_PAGE_RUNS: Final = 1 << 13
# Metadata of a page: as much as one L2 table of qcow2 takes, mostly.
_PAGE_BYTES: Final = 64 * KIB
# Pages that stay unpacked, of each of the two.
_RECENT: Final = 8
# Entries of tables have 4 or 8 bytes, in either order.
_ENTRY: Final = 8
# Below this the object costs more than its bytes.
_SMALL: Final = 1 * KIB
# Pieces of metadata whose places are noted at a time.
_NOTED: Final = 4096

T = TypeVar("T")


class FileMap:
    """``size`` bytes: `data` and `metadata` are ascending runs that never overlap; the rest is
    zeros. Made by MapBuilder, and the same forever: many threads may ask.
    """

    def __init__(self, size: int, data: _Runs, metadata: _Runs, bytes_: list[_Packed]) -> None:
        self.size = size
        self._data = data
        self._metadata = metadata
        self._bytes = bytes_
        self._recent = _Recent(lambda number: bytes_[number].unpacked())

    @property
    def held(self) -> int:
        """Bytes of memory that it takes, about."""
        return self._data.held + self._metadata.held + sum(page.held for page in self._bytes)

    @cached_property
    def digest(self) -> str:
        """Of all that it says (SHA-256, hexadecimal): where what is, and the metadata."""
        found = hashlib.sha256(b"%d" % self.size)
        for runs in (self._data, self._metadata):
            for page in runs.pages:
                found.update(page.runs().tobytes())
            found.update(b"end")
        for packed in self._bytes:
            found.update(packed.unpacked())
        return found.hexdigest()

    def data(self, start: int, end: int) -> Iterator[Run]:
        """(place in the file, place in the disk, length) of guest data in [start, end)."""
        return self._data.find(start, end)

    def metadata(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of metadata in [start, end)."""
        return ((place, place + length) for place, _, length in self._metadata.find(start, end))

    def metadata_into(self, offset: int, buffer: memoryview) -> None:
        """Put the metadata that there is from ``offset`` on where it belongs in ``buffer``."""
        for place, position, length in self._metadata.find(offset, offset + len(buffer)):
            at = place - offset
            while length:
                page, start = divmod(position, _PAGE_BYTES)
                count = min(length, _PAGE_BYTES - start)
                buffer[at : at + count] = self._recent.get(page)[start : start + count]
                at, position, length = at + count, position + count, length - count


class MapBuilder:
    """Collects what is where in a file. Places may come in any order, each once."""

    def __init__(self) -> None:
        self._data = _RunBuilder()
        self._metadata = _RunBuilder()
        self._noted: list[Run] = []
        self._pages: list[_Packed] = []
        self._open = bytearray()
        self._end = 0
        """Bytes of metadata so far."""
        self._last: tuple[bytes, int] = (b"", 0)
        """The last piece, and its place among all metadata."""

    def add_data(self, places: Numbers, sources: Numbers, lengths: Numbers) -> None:
        """Guest data (int64[n] each, in bytes): where it lies in the file, where in the disk."""
        kept = lengths > 0
        if len(places) and kept.any():
            self._data.add(np.stack((places, sources, lengths))[:, kept])

    def add_metadata(self, place: int, data: bytes) -> None:
        """``data`` at ``place``."""
        # Bitmaps of full blocks, pages of empty tables, redundant tables: the same again and again.
        if data != self._last[0]:
            if not len(data) or not np.frombuffer(data, np.uint8).any():
                return  # zeros need not be kept
            self._last = data, self._end
            self._open += data
            self._end += len(data)
            while len(self._open) >= _PAGE_BYTES:
                self._pages.append(_Packed(bytes(self._open[:_PAGE_BYTES])))
                del self._open[:_PAGE_BYTES]
        self._noted.append((place, self._last[1], len(data)))
        if len(self._noted) >= _NOTED:
            self._note()

    def finish(self, size: int) -> FileMap:
        """The map of a file of ``size`` bytes."""
        self._note()
        self._pages.append(_Packed(bytes(self._open)))
        return FileMap(size, self._data.finish(), self._metadata.finish(), self._pages)

    def _note(self) -> None:
        if self._noted:
            self._metadata.add(np.array(self._noted, np.int64).T)
            self._noted.clear()


class _RunBuilder:
    """Runs as int64[3, n]: rows of places, sources, lengths."""

    def __init__(self) -> None:
        self._pages: list[_RunPage] = []
        self._waiting: list[Numbers] = []
        self._count = 0
        self._held = np.empty((3, 0), np.int64)
        """The last run: it may go on."""
        self._ascending = True

    def add(self, runs: Numbers) -> None:
        runs = _merged(np.concatenate((self._held, runs), axis=1))
        self._ascending &= bool((runs[0, 1:] >= runs[0, :-1] + runs[2, :-1]).all())
        self._held = runs[:, -1:]
        self._wait(runs[:, :-1])

    def finish(self) -> _Runs:
        self._wait(self._held)
        if self._waiting:
            self._pages.append(_RunPage(np.concatenate(self._waiting, axis=1)))
        if self._ascending or not self._pages:
            return _Runs(self._pages)
        # A header that is known at the end, tables in front of what they map.
        runs = np.concatenate([page.runs() for page in self._pages], axis=1)
        sorter = _RunBuilder()
        sorter.add(runs[:, np.argsort(runs[0], kind="stable")])
        if not sorter._ascending:
            raise UnsupportedFeature("the format puts two things into one place of the file")
        return sorter.finish()

    def _wait(self, runs: Numbers) -> None:
        if not runs.shape[1]:
            return
        self._waiting.append(runs)
        self._count += runs.shape[1]
        if self._count < _PAGE_RUNS:
            return
        whole = np.concatenate(self._waiting, axis=1)
        for start in range(0, self._count - self._count % _PAGE_RUNS, _PAGE_RUNS):
            self._pages.append(_RunPage(whole[:, start : start + _PAGE_RUNS]))
        self._count %= _PAGE_RUNS
        self._waiting = [whole[:, whole.shape[1] - self._count :].copy()] if self._count else []


def _merged(runs: Numbers) -> Numbers:
    """``runs``, those as one that go on in the file and in what they come from."""
    ends = runs[:2, :-1] + runs[2, :-1]
    breaks = np.flatnonzero((runs[:2, 1:] != ends).any(axis=0)) + 1
    if len(breaks) == runs.shape[1] - 1:
        return runs
    starts = np.concatenate((np.zeros(1, np.int64), breaks))
    merged = runs[:, starts]
    merged[2] = np.add.reduceat(runs[2], starts)
    return merged


class _Runs:
    """Ascending runs, to be looked up."""

    def __init__(self, pages: list[_RunPage]) -> None:
        self.pages = pages
        self._firsts = [page.first for page in pages]
        self._recent = _Recent(lambda number: pages[number].runs())

    @property
    def held(self) -> int:
        return sum(page.held for page in self.pages)

    def find(self, start: int, end: int) -> Iterator[Run]:
        """The parts of runs that lie in [start, end)."""
        number = max(0, bisect_right(self._firsts, start) - 1)
        while number < len(self.pages) and self._firsts[number] < end:
            runs = self._recent.get(number)
            low = max(0, int(np.searchsorted(runs[0], start, "right")) - 1)
            high = int(np.searchsorted(runs[0], end))
            for place, source, length in runs[:, low:high].T.tolist():
                skip = max(0, start - place)
                count = min(length, end - place) - skip
                if count > 0:
                    yield place + skip, source + skip, count
            number += 1


class _RunPage:
    """Runs as what is between them, in the largest unit that all of it is a multiple of."""

    def __init__(self, runs: Numbers) -> None:
        self.first = int(runs[0, 0])
        self._source = int(runs[1, 0])
        steps = runs.copy()
        steps[:2, 0] = 0
        steps[:2, 1:] -= runs[:2, :-1] + runs[2, :-1]
        self._unit = int(np.gcd.reduce(steps, axis=None)) or 1
        steps //= self._unit
        # The one type, so that what is negative in a few keeps its sign.
        kind = np.result_type(np.min_scalar_type(steps.min()), np.min_scalar_type(steps.max()))
        self._kind = np.dtype(np.int64) if kind.kind == "f" else kind
        self._steps = _Packed(steps.astype(self._kind).tobytes())

    @property
    def held(self) -> int:
        return self._steps.held

    def runs(self) -> Numbers:
        """int64[3, n] again."""
        steps = np.frombuffer(self._steps.unpacked(), self._kind).reshape(3, -1)
        runs = steps.astype(np.int64) * self._unit
        ends = np.cumsum(runs[2])
        runs[:2] = np.cumsum(runs[:2], axis=1) + (ends - runs[2])
        runs[0] += self.first
        runs[1] += self._source
        return runs


class _Packed:
    """Bytes kept small: byte 0 of all entries, then byte 1 of all, and so on, deflated.

    The upper bytes of neighbours in a table are alike; side by side they come to nothing, in either
    order of bytes, so that nobody needs to say what the bytes are.
    """

    __slots__ = ("_data", "_deflated", "_length")

    def __init__(self, data: bytes) -> None:
        self._data, self._deflated, self._length = data, False, len(data)
        if len(data) >= _SMALL:
            whole = len(data) // _ENTRY * _ENTRY
            entries = np.frombuffer(data, np.uint8, whole).reshape(-1, _ENTRY)
            small = codec("deflate").compress(entries.T.tobytes() + data[whole:], "fast")
            if len(small) < len(data):
                self._data, self._deflated = bytes(small), True

    @property
    def held(self) -> int:
        return len(self._data)

    def unpacked(self) -> bytes:
        if not self._deflated:
            return self._data
        data = codec("deflate").decompress(self._data, self._length)
        whole = self._length // _ENTRY * _ENTRY
        entries = np.frombuffer(data, np.uint8, whole).reshape(_ENTRY, -1)
        return entries.T.tobytes() + bytes(data[whole:])


class _Recent(Generic[T]):
    """The last few results of ``make``. Two threads that ask for one at once may both make it."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._held: OrderedDict[int, T] = OrderedDict()

    def get(self, number: int) -> T:
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
                return self._held[number]
        made = self._make(number)
        with self._lock:
            self._held[number] = made
            while len(self._held) > _RECENT:
                self._held.popitem(last=False)
        return made
