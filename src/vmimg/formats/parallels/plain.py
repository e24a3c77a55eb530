"""PlainLayer: an image of the type Plain: the bare bytes of the disk in a file. No numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmimg.disk.extent import Extent, Kind
from vmimg.disk.layer import Layer
from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = ["PlainLayer"]


class PlainLayer(Layer):
    """The first ``size`` bytes of ``data``; holes of the file are ZERO. ``others``: further files
    of the image, which are closed with this one.
    """

    format = "parallels"

    def __init__(
        self, data: Storage, size: int, *, writable: bool, others: Sequence[Storage] = ()
    ) -> None:
        self.data = data
        self.name = self._file = data.name
        self.size = size
        self.writable = writable and data.writable
        self._others = tuple(others)

    def map(self, start: int, end: int) -> Iterator[Extent]:
        held: Extent | None = None
        for low, high, hole in self.data.extents(start, end):
            kind = Kind.ZERO if hole else Kind.DATA
            if held is not None and held.kind == kind:
                low = held.start
            elif held is not None:
                yield held
            held = Extent(low, high - low, kind, low, file=self._file)
        if held is not None:
            yield held

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        if len(buffer):
            self.data.read_into(offset, buffer)
        return []

    def write(self, offset: int, data: Buffer) -> None:
        self._check(offset, memoryview(data).nbytes)
        self.data.write(offset, data)

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        self._check(offset, length)
        self.data.zero(offset, length)

    def flush(self) -> None:
        if self.writable:
            self.data.flush()

    def close(self) -> None:
        try:
            self.data.close()
        finally:
            for other in self._others:
                other.close()

    def _check(self, offset: int, length: int) -> None:
        if not self.writable:
            raise StorageError(f"{self.name}: it is open for reading only")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: {length} bytes at {offset} are not inside the disk, "
                f"which has {self.size}"
            )
