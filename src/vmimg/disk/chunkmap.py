"""ChunkLayer: a layer of chunks that differ in length and coder, as archives of disks have them.

Where blocks are equal, `vmimg.disk.blockmap` is the machine; here every chunk says where it begins,
how long it is and how it is stored. The table is sorted by virtual offset, gaps in it are filled
with ABSENT, so that a look-up is one searchsorted and neighbours that go on are one extent.

Chunks are decoded by whoever reads them, in parallel. One that lies inside of what is asked for is
decoded and forgotten; one that sticks out is wanted again soon (the engine reads window by window),
so it is kept in a cache that is bounded in bytes, and whoever wants it meanwhile waits for the one
who decodes it. Of large chunks one at a time is decoded, so that memory stays bounded whatever the
number of threads.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED
from vmimg.disk.extent import Extent, Kind, Span, joined, joined_spans
from vmimg.disk.layer import Layer
from vmimg.errors import FormatError, StorageError, VmimgError
from vmimg.storage.base import Buffer, Storage

__all__ = ["COMPRESSED", "ChunkLayer", "ChunkTable"]

# Entries that map and spans look at in one go.
_WINDOW: Final = 1 << 16
# Decoded chunks that are kept. The last one is, however large.
_CACHE_BYTES: Final = 32 << 20
# Stored chunks up to this size are fetched into a buffer that each thread keeps: a new one each
# time is pages that the system has to clear.
_KEPT_BUFFER: Final = 2 << 20
# glibc gives each block of 128 KiB or more pages of its own, which are cleared anew, until one was
# freed that was larger. So one is, and decoding takes a fifth less time.
_LARGER: Final = 8 << 20
# From this size on, in bytes of the disk, a chunk is decoded alone.
_LARGE: Final = 8 << 20

_ABSENT = int(Kind.ABSENT)
_ZERO = int(Kind.ZERO)
_DATA = int(Kind.DATA)
_PUBLIC_KIND = (Kind.ABSENT, Kind.ZERO, Kind.DATA, Kind.DATA)


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """``n`` chunks in ascending order, none over another: arrays of length n.

    ``starts`` and ``lengths``: int64, virtual bytes. ``kinds``: uint8, a Kind or COMPRESSED.
    ``offsets`` and ``stored``: int64, place and bytes in the container, -1 and 0 where there are
    none. ``coders``: uint8, whatever the format wants to know again when it decodes.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    stored: NDArray[np.int64]
    coders: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> ChunkTable:
        """The chunks of these rows, in their order."""
        return ChunkTable(
            self.starts[rows],
            self.lengths[rows],
            self.kinds[rows],
            self.offsets[rows],
            self.stored[rows],
            self.coders[rows],
        )

    def filled(self, size: int) -> ChunkTable:
        """The same, with ABSENT chunks in the gaps, up to ``size``."""
        ends = np.append(0, self.starts + self.lengths)
        begins = np.append(self.starts, size)
        gaps = np.flatnonzero(begins > ends)
        if not len(gaps):
            return self
        count = len(gaps)
        return ChunkTable(
            np.insert(self.starts, gaps, ends[gaps]),
            np.insert(self.lengths, gaps, begins[gaps] - ends[gaps]),
            np.insert(self.kinds, gaps, np.full(count, _ABSENT, np.uint8)),
            np.insert(self.offsets, gaps, np.full(count, -1, np.int64)),
            np.insert(self.stored, gaps, np.zeros(count, np.int64)),
            np.insert(self.coders, gaps, np.zeros(count, np.uint8)),
        )


class ChunkLayer(Layer):
    """A layer of chunks. Subclasses set ``name`` and ``format`` and answer `decode`.

    ``table`` must lie inside of ``size``, and the places of its chunks inside of ``data``; whoever
    makes it has checked that. Closing the layer closes ``data``.
    """

    def __init__(self, size: int, table: ChunkTable, data: Storage) -> None:
        self.size = size
        self.data = data
        self.table = table.filled(size)
        self._ends = self.table.starts + self.table.lengths
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Buffer] = OrderedDict()
        self._held_bytes = 0
        self._running: dict[int, _Running] = {}
        self._one_large = threading.Lock()
        self._mine = threading.local()
        bytearray(_LARGER)

    @abstractmethod
    def decode(self, coder: int, data: memoryview, length: int) -> Buffer:
        """The ``length`` bytes that ``data`` holds, or FormatError. Any number of threads, and
        ``data`` is used for something else afterwards.
        """

    def map(self, start: int, end: int) -> Iterator[Extent]:
        return joined(self._extents(start, end))

    def spans(self, start: int, end: int) -> Iterator[Span]:
        return joined_spans(self._spans(start, end))

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        absent: list[tuple[int, int]] = []
        end = offset + len(buffer)
        if offset == end:
            return absent
        low = int(np.searchsorted(self._ends, offset, "right"))
        high = int(np.searchsorted(self.table.starts, end, "left"))
        part = self.table.take(slice(low, high))
        for first, last in _edges(_breaks(part)):
            kind = int(part.kinds[first])
            begin = max(offset, int(part.starts[first]))
            stop = min(end, int(self._ends[low + last - 1]))
            piece = buffer[begin - offset : stop - offset]
            if kind == _DATA:
                self._read_plain(low + first, begin, piece)
            elif kind == COMPRESSED:
                self._read_compressed(low + first, low + last, begin, piece)
            elif kind == _ZERO:
                np.frombuffer(piece, np.uint8)[:] = 0
            else:
                absent.append((begin, stop))
        return absent

    def close(self) -> None:
        self.data.close()

    def decoded(self, row: int) -> Buffer:
        """All of the chunk in this row of ``table``, which is COMPRESSED. Raises FormatError."""
        table = self.table
        start, length = int(table.starts[row]), int(table.lengths[row])
        offset, stored = int(table.offsets[row]), int(table.stored[row])
        alone: AbstractContextManager[object] = nullcontext()
        if max(length, stored) > _LARGE:
            alone = self._one_large
        with alone:
            fetched = self._buffer(stored)
            self.data.read_into(offset, fetched)
            try:
                return self.decode(int(table.coders[row]), fetched, length)
            except FormatError as error:
                raise FormatError(
                    f"{self.name}: the chunk of virtual offset {start}, at {offset} of the file, "
                    f"is damaged: {error}"
                ) from None

    def _buffer(self, size: int) -> memoryview:
        """So many bytes, this thread's until it asks again."""
        if size > _KEPT_BUFFER:
            return memoryview(bytearray(size))
        held: dict[str, bytearray] = self._mine.__dict__
        if "buffer" not in held:
            held["buffer"] = bytearray(_KEPT_BUFFER)
        return memoryview(held["buffer"])[:size]

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for low, high in self._windows(start, end):
            part = self.table.take(slice(low, high))
            for first, last in _edges(_breaks(part)):
                kind = int(part.kinds[first])
                begin = max(start, int(part.starts[first]))
                stop = min(end, int(self._ends[low + last - 1]))
                offset = int(part.offsets[first]) if kind == _DATA else -1
                yield Extent(
                    begin,
                    stop - begin,
                    _PUBLIC_KIND[kind],
                    offset + begin - int(part.starts[first]) if offset >= 0 else None,
                    kind == COMPRESSED,
                )

    def _spans(self, start: int, end: int) -> Iterator[Span]:
        for low, high in self._windows(start, end):
            kinds = np.minimum(self.table.kinds[low:high], _DATA)
            for first, last in _edges(kinds[1:] != kinds[:-1]):
                yield (
                    max(start, int(self.table.starts[low + first])),
                    min(end, int(self._ends[low + last - 1])),
                    _PUBLIC_KIND[int(kinds[first])],
                )

    def _windows(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(first, last + 1) rows, few at a time, of the chunks that [start, end) touches."""
        if start >= end:
            return
        low = int(np.searchsorted(self._ends, start, "right"))
        high = int(np.searchsorted(self.table.starts, end, "left"))
        for first in range(low, high, _WINDOW):
            yield first, min(high, first + _WINDOW)

    def _read_plain(self, row: int, virtual: int, part: memoryview) -> None:
        """Fill ``part`` from plain chunks one behind the other, the first of them in ``row``."""
        place = int(self.table.offsets[row]) + virtual - int(self.table.starts[row])
        self.data.read_into(place, part)

    def _read_compressed(self, row: int, last: int, virtual: int, part: memoryview) -> None:
        """Fill ``part``, virtual bytes from ``virtual``, all of it in compressed chunks."""
        end = virtual + len(part)
        for number in range(row, last):
            start, stop = int(self.table.starts[number]), int(self._ends[number])
            if virtual <= start and stop <= end:
                block = self._recall(number) or self.decoded(number)
            else:
                block = self._shared(number)
            begin, until = max(virtual, start), min(end, stop)
            part[begin - virtual : until - virtual] = memoryview(block)[
                begin - start : until - start
            ]

    def _recall(self, row: int) -> Buffer | None:
        with self._lock:
            return self._held.get(row)

    def _shared(self, row: int) -> Buffer:
        """The chunk, from the cache, or from who is decoding it, or decoded now and held."""
        with self._lock:
            block = self._held.get(row)
            if block is not None:
                self._held.move_to_end(row)
                return block
            running, mine = self._running.get(row), _Running()
            if running is None:
                self._running[row] = mine
        if running is not None:
            return running.result()
        try:
            block = self.decoded(row)
        except BaseException as error:
            with self._lock:
                del self._running[row]
            mine.error = error
            mine.done.set()
            raise
        with self._lock:
            del self._running[row]
            self._held[row] = block
            self._held_bytes += len(block)
            while self._held_bytes > _CACHE_BYTES and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self._held_bytes -= len(dropped)
        mine.block = block
        mine.done.set()
        return block


class _Running:
    """A chunk that one thread decodes and others wait for. concurrent.futures has the same, and
    takes 8 ms to import.
    """

    def __init__(self) -> None:
        self.done = threading.Event()
        self.block: Buffer | None = None
        self.error: BaseException | None = None

    def result(self) -> Buffer:
        self.done.wait()
        if self.block is None:
            # Another of its kind, for a traceback is one thread's.
            kind = type(self.error) if isinstance(self.error, VmimgError) else StorageError
            raise kind(str(self.error)) from self.error
        return self.block


def _breaks(part: ChunkTable) -> NDArray[np.bool_]:
    """For each chunk but the first, whether it does not go on where the one before it ends."""
    changes = part.kinds[1:] != part.kinds[:-1]
    jumps = part.offsets[1:] != part.offsets[:-1] + part.lengths[:-1]
    return np.asarray(changes | (jumps & (part.kinds[1:] == _DATA)))


def _edges(breaks: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the runs that ``breaks``, one for each but the first, cuts."""
    return pairwise([0, *(np.flatnonzero(breaks) + 1).tolist(), len(breaks) + 1])
