"""Layers without a file: nothing, and a range of another disk. Imports the layer interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vmimg.disk.extent import Extent, Kind, Span
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.units import align_up

__all__ = ["EmptyLayer", "RangeLayer"]


class EmptyLayer(Layer):
    """``size`` virtual bytes of which nothing is known: they read as zeros."""

    format = "none"

    def __init__(self, size: int) -> None:
        self.name = "an empty disk"
        self.size = size

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Kind.ABSENT)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        return [(offset, offset + len(buffer))]

    def close(self) -> None:
        pass


class RangeLayer(Layer):
    """``length`` bytes of ``disk`` from ``offset`` as a layer of their own, rounded up to a sector.

    What lies behind the end of ``disk`` reads as zeros. Does not own the disk.
    """

    def __init__(self, disk: Disk, offset: int, length: int) -> None:
        self._disk = disk
        self._offset = offset
        self._inside = max(0, min(length, disk.size - offset))
        self.size = align_up(length, 512)
        self.name = disk.name
        self.format = disk.format

    def map(self, start: int, end: int) -> Iterator[Extent]:
        inside = min(end, self._inside)
        if start < inside:
            for extent in self._disk.map(start + self._offset, inside + self._offset):
                yield replace(extent, start=extent.start - self._offset, depth=0)
        if max(start, inside) < end:
            first = max(start, inside)
            yield Extent(first, end - first, Kind.ABSENT)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        inside = min(end, self._inside)
        if start < inside:
            for low, high, kind in self._disk.spans(start + self._offset, inside + self._offset):
                yield low - self._offset, high - self._offset, kind
        if max(start, inside) < end:
            yield max(start, inside), end, Kind.ABSENT

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        end = offset + len(buffer)
        inside = max(0, min(end, self._inside) - offset)
        if inside:
            self._disk.read_into(offset + self._offset, buffer[:inside])
        return [(offset + inside, end)] if inside < len(buffer) else []

    def close(self) -> None:
        pass
