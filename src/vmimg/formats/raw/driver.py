"""raw: byte n of the file is byte n of the disk; what lies behind the end of a file reads as zeros.

There is no structure and no magic, so this is the format of whatever no other format claims. Holes
of the file are zeros of the disk. A file whose length is not a multiple of 512 is a disk of the
next multiple, as for QEMU. Imports disk and storage; no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from vmimg.disk.extent import Extent, Kind, joined
from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.storage.base import Buffer, Storage
from vmimg.units import align_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vmimg.formats.vetting import Finding

__all__ = ["RawDriver", "RawLayer", "RawWriter"]

_SECTOR: Final = 512
# Holes of most file systems come in units of this size.
_BLOCK_SIZE: Final = 4096


class RawDriver(Driver):
    """The format of bytes that are nothing else."""

    def probe(self, storage: Storage) -> int:
        return 1

    def is_plain(self, storage: Storage) -> bool:
        return True

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.raw.vetting import vet_disk

        return vet_disk(storage)

    def inspect(self, storage: Storage) -> ImageInfo:
        from vmimg.formats.raw.contents import examine

        found = examine(storage)
        return ImageInfo(
            format="raw",
            virtual_size=align_up(storage.size, _SECTOR),
            details={"contents": found.to_json()},
            notes=tuple(found.lines()),
        )

    def open(
        self,
        storage: Storage,
        *,
        writable: bool,
        companions: Companions,
        snapshot: str | None = None,
        keys: Keys | None = None,
    ) -> RawLayer:
        if snapshot is not None:
            raise OptionError(f"{storage.name}: a raw image has no snapshots")
        return RawLayer(storage, writable=writable)

    def writer(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
        name: str = "disk",
        keys: Keys | None = None,
    ) -> RawWriter:
        if parent is not None:
            raise OptionError("a raw image cannot have a backing file")
        return RawWriter(size, preallocation=str(options.get("preallocation", "off")))


class RawLayer(Layer):
    """The bytes of ``storage`` as a disk; closing it closes ``storage``."""

    format = "raw"

    def __init__(self, storage: Storage, *, writable: bool = False) -> None:
        self.storage = storage
        self.name = storage.name
        self.size = align_up(storage.size, _SECTOR)
        self.writable = writable

    def map(self, start: int, end: int) -> Iterator[Extent]:
        return joined(
            Extent(first, last - first, Kind.ZERO if hole else Kind.DATA, first)
            for first, last, hole in self._pieces(start, end)
        )

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        inside = max(0, min(len(buffer), self.storage.size - offset))
        if inside:
            self.storage.read_into(offset, buffer[:inside])
        if inside < len(buffer):  # less than a sector
            buffer[inside:] = bytes(len(buffer) - inside)
        return []

    def write(self, offset: int, data: Buffer) -> None:
        self.storage.write(offset, data)

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        # Either way: a discarded range must read as zeros, and a hole is how zeros cost nothing.
        self.storage.zero(offset, length)

    def flush(self) -> None:
        self.storage.flush()

    def close(self) -> None:
        self.storage.close()

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        inside = min(end, self.storage.size)
        if start < inside:
            yield from self.storage.extents(start, inside)
        if max(start, inside) < end:
            yield max(start, inside), end, True


class RawWriter(Writer):
    """Each block goes to its own place; there is no metadata.

    ``size`` in bytes, rounded up to whole sectors of 512; ``block_size`` is the smallest hole that
    the file can get.
    """

    any_block_size = True
    late_metadata = False

    def __init__(
        self, size: int, *, block_size: int = _BLOCK_SIZE, preallocation: str = "off"
    ) -> None:
        self.size = size
        self.block_size = block_size
        self.preallocation = preallocation
        self.data_limit = self.file_size
        self.data_limit = align_up(size, _SECTOR)
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return blocks * self.block_size

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        self._settled = min(done * self.block_size, self.file_size)
        return iter(())

    def finish(self) -> Iterator[tuple[int, bytes]]:
        self._settled = self.file_size
        return iter(())

    def full_size(self) -> int:
        return self.file_size

    @property
    def file_size(self) -> int:
        return align_up(self.size, _SECTOR)
