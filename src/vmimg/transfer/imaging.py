"""Imaging: the stages that turn a disk into a new image file, through a format's Writer.

The layout follows from what the disk reads as, and from nothing else: not from the number of
threads, nor from what the source says of its zeros. Load reads a window, drops units of zeros (and,
above a backing file, those that are the same there) and compresses; commit asks the writer where
the rest goes, and moves it. Where to is a Sink: a file that can be written anywhere, a stream that
cannot (`vmimg.transfer.streaming`), or nothing, to measure. Knows no format.
"""

from __future__ import annotations

import math
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import Level
from vmimg.disk.extent import Kind
from vmimg.disk.runs import runs
from vmimg.disk.stack import Disk
from vmimg.errors import StorageError
from vmimg.formats.driver import Frame, Writer
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.engine import Progress, Window, run
from vmimg.transfer.windows import cell_size, data_spans, union, windows
from vmimg.transfer.zeros import nonzero_blocks
from vmimg.units import MIB, align_down, align_up

__all__ = ["FileSink", "Imaging", "NoSink", "Piece", "Sink"]

# Blocks reserved at a time when the whole disk is preallocated.
_RESERVE_BLOCKS = 1 << 16
_ZEROS = bytes(4 * MIB)
# Metadata that may wait for the guest data beside it.
_METADATA_BYTES = 4 * MIB

# Blocks up to this size are written whole: the holes in them are not worth a piece of their own.
_SMALL_BLOCK = 64 << 10
# Windows larger than this are worked on by one thread.
_LARGE_CELL = 4 * MIB

Numbers = NDArray[np.int64]
"""Of blocks or units, and addresses: int64[n]."""


@dataclass(slots=True)
class Piece:
    """Bytes for one contiguous stretch of the container (see Writer on addresses)."""

    offset: int
    parts: list[Buffer]


class Sink(Protocol):
    """Where an image goes. Called by one thread at a time, in the order of the layout."""

    sparse: bool
    """What is never written reads as zeros."""
    wants_data: bool
    """The guest's bytes matter, not only where they go."""

    def accept(self, pieces: list[Piece], settled: int) -> None:
        """Take these pieces; below ``settled`` only late metadata will come from now on.

        Their buffers are reused afterwards.
        """

    def reserve(self, offset: int, length: int, how: str) -> None:
        """Preallocate ``length`` bytes of guest data: ``how`` is "falloc" or "full"."""

    def finish(self, file_size: int, companion_sizes: Sequence[int]) -> None:
        """All is said: make the image, and its companions, as large as they shall be."""


class NoSink:
    """Takes everything and moves nothing: for measuring."""

    sparse = True
    wants_data = False

    def accept(self, pieces: list[Piece], settled: int) -> None:
        pass

    def reserve(self, offset: int, length: int, how: str) -> None:
        pass

    def finish(self, file_size: int, companion_sizes: Sequence[int]) -> None:
        pass


class FileSink(NoSink):
    """Writes to ``image`` and its ``companions``: each file with the address of its first byte."""

    wants_data = True

    def __init__(self, image: Storage, companions: Sequence[tuple[int, Storage]] = ()) -> None:
        self._files = [image, *(storage for _, storage in companions)]
        self._starts = [0, *(start for start, _ in companions)]
        self._sizes: tuple[int, ...] = ()
        self.sparse = not any(getattr(file, "is_device", False) for file in self._files)

    def accept(self, pieces: list[Piece], settled: int) -> None:
        for offset, parts in _joined(pieces):
            for storage, position, own in self._split(offset, parts):
                if len(own) == 1:
                    storage.write(position, own[0])
                else:
                    storage.write_all(position, own)

    def reserve(self, offset: int, length: int, how: str) -> None:
        while length:
            storage, position, room = self._locate(offset)
            count = min(length, room)
            if how == "falloc":
                storage.allocate(position, count)
            else:
                for start in range(0, count, len(_ZEROS)):
                    part = memoryview(_ZEROS)[: min(len(_ZEROS), count - start)]
                    storage.write(position + start, part)
            offset, length = offset + count, length - count

    def finish(self, file_size: int, companion_sizes: Sequence[int]) -> None:
        self._sizes = (file_size, *companion_sizes)
        for storage, size in zip(self._files, self._sizes, strict=True):
            storage.resize(size)

    def check_room(self) -> None:
        """Raise StorageError when a device, which cannot grow, turned out to be too small."""
        for storage, size in zip(self._files, self._sizes, strict=True):
            if getattr(storage, "is_device", False) and size > storage.size:
                raise StorageError(
                    f"{storage.name}: the device has {storage.size} bytes, the image needs {size}"
                )

    def _locate(self, address: int) -> tuple[Storage, int, int]:
        """(file, position in it, bytes from there to where the next file begins)."""
        number = bisect_right(self._starts, address) - 1
        end = self._starts[number + 1] if number + 1 < len(self._starts) else sys.maxsize
        return self._files[number], address - self._starts[number], end - address

    def _split(
        self, address: int, parts: list[Buffer]
    ) -> Iterator[tuple[Storage, int, list[Buffer]]]:
        """``parts``, which may go on from one file to the next, file by file."""
        storage, position, room = self._locate(address)
        if sum(map(len, parts)) <= room:
            yield storage, position, parts
            return
        for part in parts:
            view = memoryview(part)
            while len(view):
                storage, position, room = self._locate(address)
                count = min(len(view), room)
                yield storage, position, [view[:count]]
                view, address = view[count:], address + count


@dataclass(slots=True)
class _Loaded:
    """What a window holds: ``view`` is the window in whole units, the first of them ``first``.

    ``units`` have data; ``zeros`` are to hide the parent's.
    """

    first: int
    count: int
    view: memoryview
    units: Numbers
    zeros: Numbers
    packed: list[Frame | None]
    """What is stored of each of ``units``, None for one that does not shrink; empty when nothing
    is to be compressed."""


class Imaging:
    """One image being made: the engine's Stages, and `write` that drives them.

    ``base``: the disk that the new image stands above. ``sparse``: the smallest run of zeros, in
    bytes, that is left out; 0 stores zeros like everything else, and the image is fully allocated.
    ``level`` is None, or how hard to compress. After `write`: ``data_bytes`` of the guest were
    placed, and the image has ``file_size`` bytes, its companions ``companion_sizes``.
    """

    def __init__(
        self,
        source: Disk,
        writer: Writer,
        sink: Sink,
        *,
        base: Disk | None = None,
        sparse: int = 4096,
        level: Level | None = None,
    ) -> None:
        if writer.compressed_only and level is None:
            level = "default"
        self._source = source
        self._writer = writer
        self._sink = sink
        self._base = base
        self._sparse = sparse
        self._level = level
        self._codec = writer.codec if level is not None else None
        self._block = writer.block_size
        self._unit = self._unit_size()
        """Bytes that are looked at, left out or written by themselves: a block, or a part of a
        large one."""
        self._cell = cell_size(self._unit)
        self._open = (-1, 0)
        """The last block that was placed and its place: more of its units may come."""
        self._settled = 0
        """What the sink was told last."""
        self._reserved = 0
        """With preallocation: the first block that was neither placed nor reserved."""
        self.data_bytes = 0
        self.file_size = 0
        self.companion_sizes: tuple[int, ...] = ()

    def write(self, *, threads: int = 0, progress: Progress | None = None) -> None:
        """Make the image. Raises what reading, the writer and the sink raise."""
        size = self._source.size
        if self._cell > _LARGE_CELL:
            threads = 1  # each thread has buffers of this size
        run(
            windows(self._spans(), self._unit, size),
            self,
            buffer_size=self._cell,
            total=size,
            threads=threads,
            progress=progress,
        )
        pieces = list(self._reserve_to(-(-size // self._block)))
        pieces += self._metadata(self._writer.finish())
        self.file_size = self._writer.file_size
        self.companion_sizes = self._writer.companion_sizes
        self._sink.accept(pieces, self.file_size)
        self._sink.finish(self.file_size, self.companion_sizes)

    # The engine's stages

    def load(self, window: Window, buffer: memoryview) -> _Loaded:
        unit = self._unit
        length = window.end - window.start
        view = buffer[: align_up(length, unit)]
        self._source.read_into(window.start, view[:length])
        if length < len(view):
            np.frombuffer(view[length:], np.uint8)[:] = 0
        first, count = window.start // unit, len(view) // unit
        full = nonzero_blocks(view, unit) if self._sparse else np.ones(count, np.bool_)
        zeros = np.zeros(0, np.int64)
        if self._base is not None:
            differs = self._differs(window, view)
            if self._writer.hides_parent:
                zeros = first + np.flatnonzero(differs & ~full)
                full &= differs
            else:
                full = differs
        units = first + np.flatnonzero(full)
        return _Loaded(first, count, view, units, zeros, self._compress(view, first, units))

    def commit(self, window: Window, loaded: _Loaded) -> None:
        if not len(loaded.units) and not len(loaded.zeros):
            return  # so that the layout does not tell zeros from holes
        unit, block = self._unit, self._block
        cell = align_down(window.start, self._cell)
        pieces = self._drained(cell // block)
        pieces += self._reserve_to(cell // block)
        if loaded.packed:
            pieces += self._place_packed(loaded)
        elif len(loaded.units):
            offsets = self._place(loaded.units)
            rows = loaded.units - loaded.first
            if self._writer.encrypted and self._sink.wants_data:
                self._encrypt(loaded, offsets)
            pieces += _gather(loaded.view, rows, offsets, unit, self._writer.data_limit)
        if len(loaded.zeros):
            self._writer.place_zeros(loaded.zeros)
        if self._writer.preallocation != "off":  # units are blocks then
            taken = np.concatenate((loaded.units, loaded.zeros))
            last = min(cell + self._cell, align_up(self._source.size, block)) // block
            self._reserve(np.setdiff1d(np.arange(cell // block, last, dtype=np.int64), taken))
            self._reserved = last
        self.data_bytes += len(loaded.units) * unit
        end = (loaded.first + loaded.count) * unit
        settled = self._writer.settled
        number, place = self._open
        if number * block < end < (number + 1) * block:
            settled = min(settled, place + end - number * block)
        self._settled = settled
        self._sink.accept(pieces, settled)

    def _unit_size(self) -> int:
        """A block, where it is small or must be whole; else what zeros are looked for in."""
        whole = (
            self._codec is not None
            or self._base is not None
            or self._writer.preallocation != "off"
            or self._writer.whole_blocks
            or self._writer.encrypted  # a part that is never written would read as noise
            or not self._sink.sparse
        )
        if whole or self._block <= _SMALL_BLOCK:
            return self._block
        unit = math.gcd(self._block, self._sparse or _LARGE_CELL)
        return unit if unit >= 4096 else self._block

    def _place(self, units: Numbers) -> Numbers:
        """Addresses for the data of ``units``: int64[n]."""
        if self._unit == self._block:
            return self._writer.place(units)
        per_block = self._block // self._unit
        blocks, rows = np.unique(units // per_block, return_inverse=True)
        places = np.empty(len(blocks), np.int64)
        begun = int(blocks[0] == self._open[0])
        places[:begun] = self._open[1]
        if begun < len(blocks):
            places[begun:] = self._writer.place(blocks[begun:])
        self._open = (int(blocks[-1]), int(places[-1]))
        return np.asarray(places[rows] + units % per_block * self._unit)

    def _encrypt(self, loaded: _Loaded, addresses: Numbers) -> None:
        """Encrypt ``loaded.units``, which go to ``addresses``, where they are: in the window."""
        unit = self._unit
        rows = loaded.units - loaded.first
        for low, high in runs(addresses, unit):
            for a, b in runs(rows[low:high]):
                start, count = int(rows[low + a]) * unit, (b - a) * unit
                self._writer.encrypt(
                    int(addresses[low + a]),
                    int(loaded.units[low + a]) * unit,
                    loaded.view[start : start + count],
                )

    def _spans(self) -> Iterator[tuple[int, int]]:
        """What has to be looked at: the data of the source, and above a base that of both."""
        source, base = self._source, self._base
        if base is None:
            return data_spans(source.spans()) if self._sparse else iter([(0, source.size)])
        if len(source.layers) > 1 and _same_chain(source, base):
            # The new image stands above the same parent as the source: only what the source's own
            # layer has can differ.
            own = source.top.spans(0, source.size)
            return ((start, end) for start, end, kind in own if kind != Kind.ABSENT)
        shared = min(source.size, base.size)
        return union(data_spans(source.spans()), data_spans(base.spans(0, shared)))

    def _differs(self, window: Window, view: memoryview) -> NDArray[np.bool_]:
        """For each block whether it is not the same bytes as in the base, which reads as zeros
        behind its end.
        """
        assert self._base is not None
        below = memoryview(bytearray(len(view)))
        inside = max(0, min(window.end, self._base.size) - window.start)
        if inside:
            self._base.read_into(window.start, below[:inside])
        words = (np.frombuffer(view, np.uint64) != np.frombuffer(below, np.uint64)).reshape(
            -1, self._unit // 8
        )
        return np.asarray(words.any(axis=1))

    def _compress(self, view: memoryview, first: int, blocks: Numbers) -> list[Frame | None]:
        if self._codec is None or self._level is None:
            return []
        block, packed = self._block, list[Frame | None]()
        writer = self._writer
        for number in blocks.tolist():
            start = (number - first) * block
            plain = view[start : start + block]
            data = self._codec.compress(plain, self._level)
            small = len(data) < block or writer.compressed_only
            packed.append(writer.frame(number, data, plain) if small else None)
        return packed

    def _place_packed(self, loaded: _Loaded) -> list[Piece]:
        block, pieces = self._block, list[Piece]()
        for number, frame in zip(loaded.units.tolist(), loaded.packed, strict=True):
            part: Buffer
            if frame is not None:
                part = frame.data
                offset = self._writer.place_compressed(number, len(part), frame.note)
            else:
                start = (number - loaded.first) * block
                part = loaded.view[start : start + block]
                offset = int(self._writer.place(np.array([number], np.int64))[0])
            last = pieces[-1] if pieces else None
            if last is not None and last.offset + sum(map(len, last.parts)) == offset:
                last.parts.append(part)
            else:
                pieces.append(Piece(offset, [part]))
        return pieces

    def _reserve_to(self, end: int) -> Iterator[Piece]:
        """With preallocation: reserve the blocks in front of ``end`` that no window covered."""
        if self._writer.preallocation == "off":
            return
        while self._reserved < end:
            stop = min(end, self._reserved + _RESERVE_BLOCKS)
            self._reserve(np.arange(self._reserved, stop, dtype=np.int64))
            self._reserved = stop
            yield from self._drained(stop)

    def _reserve(self, blocks: Numbers) -> None:
        if not len(blocks):
            return
        offsets = self._writer.reserve(blocks)
        if self._writer.preallocation in ("falloc", "full"):
            for low, high in runs(offsets, self._block):
                length = (high - low) * self._block
                if self._writer.data_limit is not None:
                    length = min(length, self._writer.data_limit - int(offsets[low]))
                self._sink.reserve(int(offsets[low]), length, self._writer.preallocation)

    def _drained(self, done: int) -> list[Piece]:
        return self._metadata(self._writer.drain(done))

    def _metadata(self, parts: Iterator[tuple[int, bytes]]) -> list[Piece]:
        """Metadata to be sent. Tables may be large: what is more than a little is sent at once."""
        pieces, size = list[Piece](), 0
        holes = self._sink.sparse and not self._writer.whole_blocks
        for offset, data in parts:
            # A table of a large empty disk is zeros, and stays a hole.
            if holes and len(data) > 4096 and data.count(0) == len(data):
                continue
            pieces.append(Piece(offset, [data]))
            size += len(data)
            if size >= _METADATA_BYTES:
                self._sink.accept(pieces, self._settled)
                pieces, size = [], 0
        return pieces


def _joined(pieces: list[Piece]) -> Iterator[tuple[int, list[Buffer]]]:
    """(address, parts) in ascending order; what is adjacent goes out by one call."""
    held: tuple[int, list[Buffer]] | None = None
    end = 0
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        if held is not None and end == piece.offset:
            held[1].extend(piece.parts)
        else:
            if held is not None:
                yield held
            held = (piece.offset, list(piece.parts))
            end = piece.offset
        end += sum(map(len, piece.parts))
    if held is not None:
        yield held


def _gather(
    view: memoryview, rows: Numbers, offsets: Numbers, block: int, limit: int | None
) -> list[Piece]:
    """Blocks ``rows`` of ``view`` that go to ``offsets``, as a piece per stretch of the file."""
    pieces = []
    for low, high in runs(offsets, block):
        inside = runs(rows[low:high])
        parts: list[Buffer] = [
            view[int(rows[low + a]) * block : (int(rows[low + b - 1]) + 1) * block]
            for a, b in inside
        ]
        pieces.append(Piece(int(offsets[low]), parts))
    if limit is not None and pieces and int(offsets[-1]) + block > limit:
        last = pieces[-1].parts
        last[-1] = last[-1][: len(last[-1]) - (int(offsets[-1]) + block - limit)]
    return pieces


def _same_chain(source: Disk, base: Disk) -> bool:
    return os.path.realpath(source.layers[1].name) == os.path.realpath(base.top.name)
