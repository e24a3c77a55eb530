"""ConcatLayer: one layer made of several, one behind the other.

For images in pieces: VMDKs split into files of 2 GiB, disks of partitions. Imports the layer
interface.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from vmimg.disk.extent import Extent, Span, joined_spans
from vmimg.disk.layer import Layer
from vmimg.storage.base import Buffer

__all__ = ["ConcatLayer"]


class ConcatLayer(Layer):
    """``parts`` one behind the other; it closes them.

    A caller that copies up from a parent counts units of granularity from the start of the disk:
    `aligned` says whether those of the parts are the same ones.
    """

    def __init__(self, parts: Sequence[Layer]) -> None:
        if not parts:
            raise ValueError("a row of layers needs one")
        self.parts = tuple(parts)
        self._starts = [0, *accumulate(part.size for part in self.parts)]
        self.size = self._starts.pop()
        self.granularity = max(part.granularity for part in self.parts)
        self.format = self.parts[0].format
        self.name = self.parts[0].name
        self.writable = all(part.writable for part in self.parts)

    @property
    def aligned(self) -> bool:
        """Whether every part begins on a multiple of the granularity of all of them."""
        return not any(start % self.granularity for start in self._starts) and all(
            self.granularity % part.granularity == 0 for part in self.parts
        )

    def map(self, start: int, end: int) -> Iterator[Extent]:
        held: Extent | None = None
        for part, base, low, high in self._pieces(start, end):
            for extent in part.map(low, high):
                extent = replace(extent, start=extent.start + base)
                # Neighbours in different parts are one only where they are nowhere in a file.
                if held is not None and held.offset is None and _like(held, extent):
                    held = replace(held, length=held.length + extent.length)
                    continue
                if held is not None:
                    yield held
                held = extent
        if held is not None:
            yield held

    def spans(self, start: int, end: int) -> Iterator[Span]:
        return joined_spans(
            (first + base, last + base, kind)
            for part, base, low, high in self._pieces(start, end)
            for first, last, kind in part.spans(low, high)
        )

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        absent: list[tuple[int, int]] = []
        for part, base, low, high in self._pieces(offset, offset + len(buffer)):
            view = buffer[low + base - offset : high + base - offset]
            absent += [(first + base, last + base) for first, last in part.read_present(low, view)]
        return absent

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        for part, base, low, high in self._pieces(offset, offset + len(view)):
            part.write(low, view[low + base - offset : high + base - offset])

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        for part, _, low, high in self._pieces(offset, offset + length):
            part.zero(low, high - low, discard=discard)

    def flush(self) -> None:
        for part in self.parts:
            part.flush()

    def close(self) -> None:
        """Close all parts. Raises what the first failure was, after closing the others."""
        failure: Exception | None = None
        for part in self.parts:
            try:
                part.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Layer, int, int, int]]:
        """(part, where it begins, and the range in it) of the parts that [start, end) touches."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            part, base = self.parts[index], self._starts[index]
            stop = min(end, base + part.size)
            if stop > start:
                yield part, base, start - base, stop - base
                start = stop
            index += 1


def _like(held: Extent, extent: Extent) -> bool:
    return (
        extent.offset is None and held.kind == extent.kind and held.compressed == extent.compressed
    )
