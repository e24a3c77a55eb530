"""Extents that need no tables: flat ones, extents of zeros, and those that may not be read.

A flat extent is the bare bytes of the disk, from some offset of some file or device.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.disk.extent import Extent, Kind
from vmimg.disk.layer import Layer
from vmimg.errors import StorageError, UnsupportedFeature
from vmimg.formats.vmdk.image import VmdkImage, VmdkLayer
from vmimg.storage.base import Buffer, Storage

__all__ = ["FlatLayer", "ForbiddenLayer", "ZeroLayer"]


class FlatLayer(VmdkLayer):
    """``size`` bytes of ``data`` from ``offset``; holes of the file are ZERO."""

    def __init__(
        self, data: Storage, offset: int, size: int, image: VmdkImage, *, file: str, writable: bool
    ) -> None:
        self.storage = self.data = data
        self.image = image
        self.name = data.name
        self.size = size
        self.writable = writable
        self._offset = offset
        self._file = file

    def map(self, start: int, end: int) -> Iterator[Extent]:
        shift = self._offset
        held: Extent | None = None
        for first, last, hole in self.data.extents(start + shift, end + shift):
            kind = Kind.ZERO if hole else Kind.DATA
            low = first - shift if held is None or held.kind != kind else held.start
            if held is not None and held.kind != kind:
                yield held
            held = Extent(low, last - shift - low, kind, low + shift, file=self._file)
        if held is not None:
            yield held

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        if len(buffer):
            self.data.read_into(self._offset + offset, buffer)
        return []

    def write(self, offset: int, data: Buffer) -> None:
        self._begin(offset, memoryview(data).nbytes)
        self.data.write(self._offset + offset, data)

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        self._begin(offset, length)
        self.data.zero(self._offset + offset, length)

    def flush(self) -> None:
        if self.writable:
            self.data.flush()

    def close(self) -> None:
        if self.owns_image:
            self.image.close()

    def _begin(self, offset: int, length: int) -> None:
        if not self.writable:
            raise StorageError(f"{self.name}: it is open for reading only")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: {length} bytes at {offset} are not inside the disk, "
                f"which has {self.size}"
            )
        if length:
            self.image.touch()


class ZeroLayer(VmdkLayer):
    """An extent of zeros, which no file holds; it hides the parent."""

    def __init__(self, size: int, image: VmdkImage) -> None:
        self.storage = image.storage
        self.image = image
        self.name = f"{image.storage.name}: an extent of zeros"
        self.size = size

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Kind.ZERO)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        buffer[:] = bytes(len(buffer))
        return []

    def write(self, offset: int, data: Buffer) -> None:
        if len(data):
            raise StorageError(f"{self.name} cannot be written")

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        pass

    def close(self) -> None:
        if self.owns_image:
            self.image.close()


class ForbiddenLayer(Layer):
    """An extent that the descriptor says nobody may read (NOACCESS).

    Its map says DATA: there is something, and it must not be taken for zeros.
    """

    format = "vmdk"

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Kind.DATA)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        if not len(buffer):
            return []
        raise UnsupportedFeature(f"{self.name}: the descriptor forbids to read it (NOACCESS)")

    def write(self, offset: int, data: Buffer) -> None:
        raise StorageError(f"{self.name}: the descriptor forbids to write it (NOACCESS)")

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        raise StorageError(f"{self.name}: the descriptor forbids to write it (NOACCESS)")

    def close(self) -> None:
        pass
