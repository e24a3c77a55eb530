"""Placing without moving: a writer runs over a disk, and what comes of it is a map of the file.

In two ways. By the disk's data, everything is read and searched for zeros, and the map is that of
the file which convert makes: the engine does the work, into nothing. By the disk's own map nothing
is read, whatever it calls data is placed, and a window is as many blocks as are cheap at a time.

Imports formats and below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.stack import Disk
from vmimg.formats.driver import Writer
from vmimg.transfer.engine import Progress
from vmimg.transfer.filemap import FileMap, MapBuilder
from vmimg.transfer.imaging import Imaging, NoSink
from vmimg.transfer.windows import data_spans
from vmimg.units import KIB

__all__ = ["place_all", "place_data", "place_mapped"]

Numbers = NDArray[np.int64]

# Blocks placed between two calls of Writer.drain: part of the layout. 4 GiB with qcow2's clusters.
_WINDOW: Final = 64 * KIB
# Spans of the disk that are looked at together.
_BATCH: Final = 1 << 14


def place_data(
    disk: Disk, writer: Writer, *, threads: int = 0, progress: Progress | None = None
) -> FileMap:
    """The map of the file that convert makes of ``disk``. Reads all its data once."""
    recorder = _Recorder(writer, disk.size)
    Imaging(disk, recorder, NoSink()).write(threads=threads, progress=progress)
    return recorder.file_map()


def place_mapped(disk: Disk, writer: Writer, *, progress: Progress | None = None) -> FileMap:
    """The map of a file in which all has its place that the map of ``disk`` calls data."""
    recorder = _Recorder(writer, disk.size)
    size = writer.block_size
    count = -(-disk.size // size)
    preallocated = writer.preallocation != "off"
    filled = _by_window(data_spans(disk.spans()), size)
    for window, blocks in _all_windows(filled, count) if preallocated else filled:
        first = window * _WINDOW
        for _ in recorder.drain(first):
            pass
        if len(blocks):
            recorder.place(blocks)
        if preallocated:
            every = np.arange(first, min(first + _WINDOW, count), dtype=np.int64)
            others = np.setdiff1d(every, blocks, assume_unique=True)
            if len(others):
                recorder.reserve(others)
        if progress is not None:
            progress(min((first + _WINDOW) * size, disk.size), disk.size)
    for _ in recorder.finish():
        pass
    return recorder.file_map()


def place_all(disk: Disk, writer: Writer) -> FileMap:
    """The map of a file that is the bare disk with something before or behind it, whatever the disk
    holds: for writers of any block size that know beforehand what comes in front.
    """
    writer.block_size = max(writer.block_size, 1 << (disk.size // _WINDOW).bit_length())
    recorder = _Recorder(writer, disk.size)
    blocks = np.arange(-(-disk.size // writer.block_size), dtype=np.int64)
    if len(blocks):
        recorder.place(blocks)
    for _ in recorder.finish():
        pass
    return recorder.file_map()


class _Recorder(Writer):
    """``inner``, all of whose answers are noted. ``size``: of the disk.

    A large block is placed as a whole and written only where it holds something; the rest of it is
    a hole in the file and zeros on the disk, so that the run of the whole block is right for both.
    The same goes for what is reserved.
    """

    def __init__(self, inner: Writer, size: int) -> None:
        self._inner = inner
        self._size = size
        self._builder = MapBuilder()
        self.block_size = inner.block_size
        self.preallocation = inner.preallocation
        self.data_limit = inner.data_limit
        self.whole_blocks = inner.whole_blocks

    def file_map(self) -> FileMap:
        """What was noted; `finish` must be through."""
        return self._builder.finish(self.file_size)

    def place(self, blocks: Numbers) -> Numbers:
        return self._noted(blocks, self._inner.place(blocks))

    def reserve(self, blocks: Numbers) -> Numbers:
        return self._noted(blocks, self._inner.reserve(blocks))

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        return self._noting(self._inner.drain(done))

    def finish(self) -> Iterator[tuple[int, bytes]]:
        return self._noting(self._inner.finish())

    @property
    def settled(self) -> int:
        return self._inner.settled

    def full_size(self) -> int:
        return self._inner.full_size()

    @property
    def file_size(self) -> int:
        return self._inner.file_size

    def _noting(self, parts: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for place, data in parts:
            self._builder.add_metadata(place, data)
            yield place, data

    def _noted(self, blocks: Numbers, places: Numbers) -> Numbers:
        size = self.block_size
        apart = (blocks[1:] != blocks[:-1] + 1) | (places[1:] != places[:-1] + size)
        edges = np.concatenate(([0], np.flatnonzero(apart) + 1, [len(blocks)]))
        firsts, lengths = edges[:-1], np.diff(edges) * size
        sources = blocks[firsts] * size
        lengths = np.minimum(lengths, self._size - sources)
        if self.data_limit is not None:
            lengths = np.minimum(lengths, self.data_limit - places[firsts])
        self._builder.add_data(places[firsts], sources, lengths)
        return places


def _by_window(spans: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, Numbers]]:
    """(window, its blocks of ``size`` bytes that ``spans`` touch), ascending, none empty."""
    spans = iter(spans)
    held = np.empty((2, 0), np.int64)
    """Ranges of blocks of the last window: the next spans may belong to it, too."""
    while batch := list(islice(spans, _BATCH)):
        starts, ends = np.array(batch, np.int64).T
        ranges = np.concatenate((held, np.stack((starts // size, -(-ends // size)))), axis=1)
        np.maximum(ranges[0, 1:], ranges[1, :-1], out=ranges[0, 1:])  # a block is placed once
        ranges, windows = _cut(ranges[:, ranges[0] < ranges[1]])
        edges = np.flatnonzero(windows[1:] != windows[:-1]) + 1
        for low, high in pairwise([0, *edges.tolist()]):
            yield int(windows[low]), _blocks(ranges[:, low:high])
        held = ranges[:, edges[-1] if len(edges) else 0 :]
    if held.shape[1]:
        yield int(held[0, 0]) // _WINDOW, _blocks(held)


def _cut(ranges: Numbers) -> tuple[Numbers, Numbers]:
    """``ranges`` (firsts, lasts + 1) so that none goes beyond a window, and the window of each."""
    firsts = ranges[0] // _WINDOW
    counts = (ranges[1] - 1) // _WINDOW - firsts + 1
    windows = np.repeat(firsts, counts) + _counted(counts)
    cut = np.repeat(ranges, counts, axis=1)
    np.maximum(cut[0], windows * _WINDOW, out=cut[0])
    np.minimum(cut[1], windows * _WINDOW + _WINDOW, out=cut[1])
    return cut, windows


def _blocks(ranges: Numbers) -> Numbers:
    counts = ranges[1] - ranges[0]
    return np.repeat(ranges[0], counts) + _counted(counts)


def _counted(counts: Numbers) -> Numbers:
    """0, 1, ..., n - 1 for each n of ``counts``, one behind the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) - np.repeat(
        ends - counts, counts
    )


def _all_windows(
    filled: Iterable[tuple[int, Numbers]], count: int
) -> Iterator[tuple[int, Numbers]]:
    """``filled``, and the windows without blocks between them, of a disk of ``count`` blocks."""
    nothing, following = np.empty(0, np.int64), 0
    end = (-(-count // _WINDOW), nothing)
    for window, blocks in chain(filled, [end]):
        yield from ((number, nothing) for number in range(following, window))
        if window < end[0]:
            yield window, blocks
        following = window + 1
