"""Imaging: the stages that turn a disk into a new image file, through a format's Writer.

Load reads a window, drops blocks of zeros (and, above a backing file, blocks that are the same
there) and compresses; commit asks the writer where the rest goes, and moves it. Where to is a
Sink: a file that can be written anywhere, a stream that cannot (`vmimg.transfer.streaming`), or
nothing, to measure. Knows no format.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import Level
from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.errors import StorageError
from vmimg.formats.driver import Writer
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.engine import Progress, Window, run
from vmimg.transfer.windows import cell_size, data_spans, union, windows
from vmimg.transfer.zeros import nonzero_blocks, runs
from vmimg.units import MIB, align_up

__all__ = ["FileSink", "Imaging", "NoSink", "Piece", "Sink", "check_room"]

# Blocks reserved at a time when the whole disk is preallocated.
_RESERVE_BLOCKS = 1 << 16
_ZEROS = bytes(4 * MIB)

Blocks = NDArray[np.int64]


@dataclass(slots=True)
class Piece:
    """Bytes for one contiguous stretch of the container; ``guest`` tells data from metadata."""

    offset: int
    parts: list[Buffer]
    guest: bool


class Sink(Protocol):
    """Where an image goes. Called by one thread at a time, in the order of the layout."""

    def accept(self, pieces: list[Piece], settled: int) -> None:
        """Take these pieces; below ``settled`` only late metadata will come from now on.

        Their buffers are reused afterwards.
        """

    def reserve(self, offset: int, length: int, how: str) -> None:
        """Preallocate ``length`` bytes of guest data: ``how`` is "falloc" or "full"."""

    def finish(self, file_size: int, data_size: int) -> None:
        """All is said: make the container (and an external data file) as large as it shall be."""


class NoSink:
    """Takes everything and moves nothing: for measuring."""

    def accept(self, pieces: list[Piece], settled: int) -> None:
        pass

    def reserve(self, offset: int, length: int, how: str) -> None:
        pass

    def finish(self, file_size: int, data_size: int) -> None:
        pass


class FileSink(NoSink):
    """Writes to ``image``, guest data to ``data`` where that is another file."""

    def __init__(self, image: Storage, data: Storage | None = None) -> None:
        self._image = image
        self._data = data if data is not None else image

    def accept(self, pieces: list[Piece], settled: int) -> None:
        for piece in pieces:
            storage = self._data if piece.guest else self._image
            if len(piece.parts) == 1:
                storage.write(piece.offset, piece.parts[0])
            else:
                storage.write_all(piece.offset, piece.parts)

    def reserve(self, offset: int, length: int, how: str) -> None:
        if how == "falloc":
            self._data.allocate(offset, length)
            return
        for start in range(0, length, len(_ZEROS)):
            count = min(len(_ZEROS), length - start)
            self._data.write(offset + start, memoryview(_ZEROS)[:count])

    def finish(self, file_size: int, data_size: int) -> None:
        self._image.resize(file_size)
        if self._data is not self._image:
            self._data.resize(data_size)


@dataclass(slots=True)
class _Loaded:
    """What a window holds: ``view`` is the window in whole blocks, the first of them ``first``."""

    first: int
    count: int
    view: memoryview
    blocks: Blocks
    zeros: Blocks
    packed: list[Buffer | None]
    """Compressed data for each of ``blocks``, None for one that does not shrink; empty when nothing
    is to be compressed."""


class Imaging:
    """One image being made: the engine's Stages, and `write` that drives them.

    ``base``: the disk that the new image stands above. ``sparse`` False stores zeros like
    everything else: the image is fully allocated. ``level`` is None, or how hard to compress. After
    `write`: ``data_bytes`` of the guest were placed, and the image has ``file_size`` bytes.
    """

    def __init__(
        self,
        source: Disk,
        writer: Writer,
        sink: Sink,
        *,
        base: Disk | None = None,
        sparse: bool = True,
        level: Level | None = None,
    ) -> None:
        self._source = source
        self._writer = writer
        self._sink = sink
        self._base = base
        self._sparse = sparse
        self._level = level
        self._codec = writer.codec if level is not None else None
        self._block = writer.block_size
        self._reserved = 0
        """With preallocation: the first block that was neither placed nor reserved."""
        self.data_bytes = 0
        self.file_size = 0

    def write(self, *, threads: int = 0, progress: Progress | None = None) -> None:
        """Make the image. Raises what reading, the writer and the sink raise."""
        size = self._source.size
        run(
            windows(self._spans(), self._block, size),
            self,
            buffer_size=cell_size(self._block),
            total=size,
            threads=threads,
            progress=progress,
        )
        pieces = list(self._reserve_to(-(-size // self._block)))
        pieces += [Piece(offset, [data], guest=False) for offset, data in self._writer.finish()]
        self.file_size = self._writer.file_size
        self._sink.accept(pieces, self.file_size)
        self._sink.finish(self.file_size, size)

    # The engine's stages

    def load(self, window: Window, buffer: memoryview) -> _Loaded:
        block = self._block
        length = window.end - window.start
        view = buffer[: align_up(length, block)]
        self._source.read_into(window.start, view[:length])
        if length < len(view):
            np.frombuffer(view[length:], np.uint8)[:] = 0
        first, count = window.start // block, len(view) // block
        full = nonzero_blocks(view, block) if self._sparse else np.ones(count, np.bool_)
        zeros = np.zeros(0, np.int64)
        if self._base is not None:
            differs = self._differs(window, view)
            if self._writer.hides_parent:
                zeros = first + np.flatnonzero(differs & ~full)
                full &= differs
            else:
                full = differs
        blocks = first + np.flatnonzero(full)
        return _Loaded(first, count, view, blocks, zeros, self._compress(view, first, blocks))

    def commit(self, window: Window, loaded: _Loaded) -> None:
        pieces = list(self._reserve_to(loaded.first))
        if loaded.packed:
            pieces += self._place_packed(loaded)
        elif len(loaded.blocks):
            offsets = self._writer.place(loaded.blocks)
            rows = loaded.blocks - loaded.first
            pieces += _gather(loaded.view, rows, offsets, self._block, self._writer.data_limit)
        if len(loaded.zeros):
            self._writer.place_zeros(loaded.zeros)
        end = loaded.first + loaded.count
        if self._writer.preallocation != "off":
            taken = np.concatenate((loaded.blocks, loaded.zeros))
            left = np.setdiff1d(np.arange(loaded.first, end, dtype=np.int64), taken)
            self._reserve(left)
            self._reserved = end
        pieces += self._drained(end)
        self.data_bytes += len(loaded.blocks) * self._block
        self._sink.accept(pieces, self._writer.settled)

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
            -1, self._block // 8
        )
        return np.asarray(words.any(axis=1))

    def _compress(self, view: memoryview, first: int, blocks: Blocks) -> list[Buffer | None]:
        if self._codec is None or self._level is None:
            return []
        block, packed = self._block, list[Buffer | None]()
        for number in (blocks - first).tolist():
            data = self._codec.compress(view[number * block : (number + 1) * block], self._level)
            packed.append(data if len(data) < block else None)
        return packed

    def _place_packed(self, loaded: _Loaded) -> list[Piece]:
        block, pieces = self._block, list[Piece]()
        for number, data in zip(loaded.blocks.tolist(), loaded.packed, strict=True):
            part: Buffer
            if data is not None:
                part, offset = data, self._writer.place_compressed(number, len(data))
            else:
                start = (number - loaded.first) * block
                part = loaded.view[start : start + block]
                offset = int(self._writer.place(np.array([number], np.int64))[0])
            last = pieces[-1] if pieces else None
            if last is not None and last.offset + sum(map(len, last.parts)) == offset:
                last.parts.append(part)
            else:
                pieces.append(Piece(offset, [part], guest=True))
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

    def _reserve(self, blocks: Blocks) -> None:
        if not len(blocks):
            return
        offsets = self._writer.reserve(blocks)
        if self._writer.preallocation in ("falloc", "full"):
            for low, high in runs(offsets, self._block):
                length = (high - low) * self._block
                if self._writer.data_file is not None:  # guest offsets: do not reach past the disk
                    length = min(length, self._source.size - int(offsets[low]))
                self._sink.reserve(int(offsets[low]), length, self._writer.preallocation)

    def _drained(self, done: int) -> list[Piece]:
        return [Piece(offset, [data], guest=False) for offset, data in self._writer.drain(done)]


def _gather(
    view: memoryview, rows: Blocks, offsets: Blocks, block: int, limit: int | None
) -> list[Piece]:
    """Blocks ``rows`` of ``view`` that go to ``offsets``, as a piece per stretch of the file."""
    pieces = []
    for low, high in runs(offsets, block):
        inside = runs(rows[low:high])
        parts: list[Buffer] = [
            view[int(rows[low + a]) * block : (int(rows[low + b - 1]) + 1) * block]
            for a, b in inside
        ]
        pieces.append(Piece(int(offsets[low]), parts, guest=True))
    if limit is not None and pieces and int(offsets[-1]) + block > limit:
        last = pieces[-1].parts
        last[-1] = last[-1][: len(last[-1]) - (int(offsets[-1]) + block - limit)]
    return pieces


def _same_chain(source: Disk, base: Disk) -> bool:
    return os.path.realpath(source.layers[1].name) == os.path.realpath(base.top.name)


def check_room(storage: Storage, needed: int) -> None:
    """Raise StorageError when a device, which cannot grow, is too small."""
    if getattr(storage, "is_device", False) and needed > storage.size:
        raise StorageError(
            f"{storage.name}: the device has {storage.size} bytes, the image needs {needed}"
        )
