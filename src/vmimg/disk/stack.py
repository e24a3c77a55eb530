"""Disk: a stack of layers, top first, and the only thing that the rest of vmimg sees.

It resolves what a layer does not have downwards, reads zeros where nobody has anything, and copies
up on write. A raw file is a stack of one. Imports storage and the layer interface.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from vmimg.disk.extent import Extent, Kind, Span, joined, joined_spans
from vmimg.disk.layer import Layer
from vmimg.errors import StorageError, UnsupportedFeature
from vmimg.storage.base import Buffer
from vmimg.units import align_down, align_up, format_size

__all__ = ["Disk"]

# The largest unit that is copied up, in memory: the largest block of VHDX. Other formats can be
# told larger ones, which nobody makes.
_LARGEST_UNIT: Final = 256 << 20


class Disk:
    """What the guest sees. ``size`` is in bytes; all offsets are virtual.

    Reads may come from many threads; writes are serialised by the top layer. Use it as a context
    manager, or close() it: an image written to is marked clean only then.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        if not layers:
            raise ValueError("a disk needs a layer")
        self.layers = tuple(layers)
        # To copy up is to read, change and write a unit: two threads that do it to one unit, or one
        # that writes all of it meanwhile, would undo each other's change.
        self._changing: AbstractContextManager[object] = nullcontext()
        if len(self.layers) > 1:
            self._changing = threading.Lock()

    @property
    def top(self) -> Layer:
        return self.layers[0]

    @property
    def size(self) -> int:
        return self.top.size

    @property
    def format(self) -> str:
        """Registry name of the top layer's format."""
        return self.top.format

    @property
    def name(self) -> str:
        return self.top.name

    def map(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Extents covering [start, end). ABSENT means that no layer has it: it reads as zeros."""
        end = self._checked_end(start, end)
        return joined(self._map(0, start, end))

    def spans(self, start: int = 0, end: int | None = None, *, depth: int = 0) -> Iterator[Span]:
        """(start, end, kind) covering [start, end), merged by kind alone; cheap on huge images.

        Counts only layers from ``depth`` downwards: 0 is the whole stack.
        """
        end = self._checked_end(start, end)
        return joined_spans(self._spans(depth, start, end))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (bytes, writable, contiguous) from ``offset``, all inside the disk."""
        self._check(offset, len(buffer))
        self._read(0, offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; must lie inside the disk."""
        self._check(offset, length)
        buffer = bytearray(length)
        self._read(0, offset, memoryview(buffer))
        return bytes(buffer)

    def write(self, offset: int, data: Buffer) -> None:
        """Store ``data`` at ``offset``, copying up what shares a block with it."""
        self._check(offset, len(data))
        view = memoryview(data).cast("B")
        with self._changing:
            self._write(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros; its space may stay reserved."""
        self._check(offset, length)
        with self._changing:
            self._zero(offset, length, discard=False)

    def discard(self, offset: int, length: int) -> None:
        """Make a range read as zeros and give its space back, as far as the format can."""
        self._check(offset, length)
        with self._changing:
            self._zero(offset, length, discard=True)

    def flush(self) -> None:
        """Everything written so far is durable when this returns."""
        self.top.flush()

    def close(self) -> None:
        """Close all layers. Raises what the first failure was, after closing the others."""
        failure: Exception | None = None
        for layer in self.layers:
            try:
                layer.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, offset: int, view: memoryview) -> None:
        for start, end, whole in self._pieces(offset, offset + len(view)):
            low, high = max(start, offset), min(end, offset + len(view))
            part = view[low - offset : high - offset]
            if whole:
                self.top.write(low, part)
                continue
            buffer = self._unit(start, end)
            buffer[low - start : high - start] = part
            self.top.write(start, buffer)

    def _zero(self, offset: int, length: int, *, discard: bool) -> None:
        for start, end, whole in self._pieces(offset, offset + length):
            low, high = max(start, offset), min(end, offset + length)
            if whole:
                self.top.zero(low, high - low, discard=discard)
                continue
            buffer = self._unit(start, end)
            buffer[low - start : high - start] = bytes(high - low)
            self.top.write(start, buffer)

    def _unit(self, start: int, end: int) -> bytearray:
        """The unit from ``start``, to be changed and written to the top layer."""
        size = min(end, self.size) - start
        if size > _LARGEST_UNIT:
            raise UnsupportedFeature(
                f"{self.name}: its blocks of {format_size(end - start)} are too large to be filled "
                "from its parent; convert it first"
            )
        buffer = bytearray(size)
        self._read(0, start, memoryview(buffer))
        return buffer

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut a range to be written into (start, end, may be written as it stands).

        False for a unit of the top layer that is cut by the range and ABSENT there: it has to be
        filled from below first.
        """
        grain = self.top.granularity
        if len(self.layers) == 1 or start == end:
            yield start, end, True
            return
        head, tail = align_down(start, grain), align_down(end, grain)
        if head != start and self._is_absent(head):
            yield head, head + grain, False
            start = head + grain
        if end != self.size and tail != end and tail >= start and self._is_absent(tail):
            if start < tail:
                yield start, tail, True
            yield tail, align_up(end, grain), False
        elif start < end:
            yield start, end, True

    def _is_absent(self, start: int) -> bool:
        end = min(start + self.top.granularity, self.size)
        return any(kind == Kind.ABSENT for _, _, kind in self.top.spans(start, end))

    def _map(self, depth: int, start: int, end: int) -> Iterator[Extent]:
        layer = self.layers[depth]
        for extent in layer.map(start, min(end, layer.size)):
            if extent.kind != Kind.ABSENT or depth + 1 == len(self.layers):
                yield replace(extent, depth=depth) if depth else extent
            else:
                yield from self._map(depth + 1, extent.start, extent.end)
        if layer.size < end:  # a parent may be shorter than its child: zeros follow
            first = max(start, layer.size)
            yield Extent(first, end - first, Kind.ABSENT, depth=depth)

    def _spans(self, depth: int, start: int, end: int) -> Iterator[Span]:
        layer = self.layers[depth]
        for piece in layer.spans(start, min(end, layer.size)):
            if piece[2] != Kind.ABSENT or depth + 1 == len(self.layers):
                yield piece
            else:
                yield from self._spans(depth + 1, piece[0], piece[1])
        if layer.size < end:
            yield max(start, layer.size), end, Kind.ABSENT

    def _read(self, depth: int, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if depth == len(self.layers):
            _clear(buffer)
            return
        layer = self.layers[depth]
        inside = max(0, min(end, layer.size) - offset)
        if inside < len(buffer):
            _clear(buffer[inside:])
        if inside:
            for low, high in layer.read_present(offset, buffer[:inside]):
                self._read(depth + 1, low, buffer[low - offset : high - offset])

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: {length} bytes at {offset} are not inside the disk, "
                f"which has {self.size}"
            )

    def _checked_end(self, start: int, end: int | None) -> int:
        end = self.size if end is None else end
        self._check(start, end - start)
        return end


def _clear(buffer: memoryview) -> None:
    if len(buffer):
        ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))
