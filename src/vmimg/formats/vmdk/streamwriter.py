"""StreamWriter: lays out streamOptimized disks: compressed grains that are written in one go.

::

    header | descriptor | pad to 64 KiB |
    marker + grain | marker + grain | ... | marker | grain table |   for each 32 MiB that hold data
    marker | grain directory | marker | footer | end-of-stream marker

It is the form that vSphere exports and imports, AWS's import too: version 3, flags 0x30001, a
marker before everything, the directory at the end. qemu-img writes the directory in front, with the
flag of a redundant one, which ESX answers with "sparse VMDK version too old" or "400 Bad Request".
Every sector is final once it is written, so a file and a stream through a pipe are the same bytes.

Spec: VMware "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import Buffer, codec
from vmimg.errors import OptionError
from vmimg.formats.driver import Frame, Writer
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.newdescriptor import ExtentLine, NewDescriptor
from vmimg.formats.vmdk.sparsewriter import DESCRIPTOR_SECTORS, GRAIN, new_header
from vmimg.units import align_up

__all__ = ["StreamWriter"]

_VERSION: Final = 3
_FLAGS: Final = s.FLAG_NEWLINE_TEST | s.FLAG_COMPRESSED | s.FLAG_MARKERS
_GT_SECTORS: Final = s.GTES_PER_GT * 4 // s.SECTOR
# A stream has no name of its own; this is what vSphere calls all of them.
_EXTENT_NAME: Final = "generated-stream.vmdk"
_MARKER_BYTES: Final = 12
# A grain that does not shrink is stored: the marker and a few bytes more than the grain itself.
_LARGEST_GRAIN_SECTORS: Final = s.DEFAULT_GRAIN_SECTORS + 1


class StreamWriter(Writer):
    """See Writer. Memory: the grain directory, four bytes for 32 MiB of disk, and one table."""

    block_size = GRAIN
    compressed_only = True
    late_metadata = False
    hides_parent = False

    def __init__(self, new: NewDescriptor) -> None:
        grains = -(-new.sectors // s.DEFAULT_GRAIN_SECTORS)
        if grains > 0xFFFF_FFFF:
            raise OptionError("a streamOptimized disk has less than 256 TiB")
        self.codec = codec("zlib")
        self._grains = grains
        # Not `placed`: what is in front of the data cannot depend on it.
        extent = ExtentLine(new.sectors, "SPARSE", _EXTENT_NAME)
        self._header = new_header(new.sectors, _VERSION, _FLAGS)
        self._header.compressAlgorithm = s.COMPRESSION_DEFLATE
        self._header.descriptorOffset = 1
        self._header.descriptorSize = DESCRIPTOR_SECTORS
        self._header.gdOffset = s.GD_AT_END
        self._header.overHead = align_up(1 + DESCRIPTOR_SECTORS, s.DEFAULT_GRAIN_SECTORS)
        self._front: bytes | None = bytes(self._header) + new.render_embedded(
            [extent], DESCRIPTOR_SECTORS
        )
        """Header and descriptor; None once they were handed out."""
        self._next: int = self._header.overHead
        """The next free sector."""
        self._directory = np.zeros(-(-grains // s.GTES_PER_GT), "<u4")
        self._table = np.zeros(s.GTES_PER_GT, "<u4")
        self._index = -1
        """Number of that table; -1: none is open."""
        self._closed: list[tuple[int, bytes]] = []
        """Tables with their markers that have their place and were not handed out yet."""
        self._file_size = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """For estimates only: as if no grain got smaller."""
        return self._place(blocks, _LARGEST_GRAIN_SECTORS)

    def place_compressed(self, block: int, length: int, note: Any) -> int:
        return int(self._place(np.array([block], np.int64), -(-length // s.SECTOR))[0])

    def frame(self, block: int, data: Buffer, plain: memoryview) -> Frame:
        marker = s.GrainMarker(lba=block * s.DEFAULT_GRAIN_SECTORS, size=len(data))
        length = align_up(_MARKER_BYTES + len(data), s.SECTOR)
        return Frame(b"".join((marker, data)).ljust(length, b"\0"))

    @property
    def settled(self) -> int:
        if self._front is not None:
            return 0
        return self._closed[0][0] if self._closed else self._next * s.SECTOR

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        if self._front is not None:
            yield 0, self._front
            self._front = None
        if (self._index + 1) * s.GTES_PER_GT <= done:
            self._close_table()
        yield from self._closed
        self._closed.clear()

    def finish(self) -> Iterator[tuple[int, bytes]]:
        self._close_table()
        yield from self.drain(0)
        length = max(s.SECTOR, align_up(self._directory.nbytes, s.SECTOR))
        directory = self._directory.tobytes().ljust(length, b"\0")
        offset, part = self._append(s.MARKER_GRAIN_DIRECTORY, directory)
        yield offset, part
        footer = s.SparseExtentHeader.from_buffer_copy(self._header)
        footer.gdOffset = offset // s.SECTOR + 1
        yield self._append(s.MARKER_FOOTER, bytes(footer))
        yield self._append(s.MARKER_END_OF_STREAM, b"")
        self._file_size = self._next * s.SECTOR

    def full_size(self) -> int:
        tables = len(self._directory)
        directory = max(1, -(-self._directory.nbytes // s.SECTOR))
        sectors: int = self._header.overHead + self._grains * _LARGEST_GRAIN_SECTORS
        return (sectors + tables * (1 + _GT_SECTORS) + 1 + directory + 3) * s.SECTOR

    @property
    def file_size(self) -> int:
        return self._file_size

    def _place(self, blocks: NDArray[np.int64], each: int) -> NDArray[np.int64]:
        """Addresses for ``blocks``, each of so many sectors."""
        places = np.empty(len(blocks), np.int64)
        low = 0
        while low < len(blocks):
            index = int(blocks[low]) // s.GTES_PER_GT
            if index != self._index:
                # As late as here, where `drain` was not called in between; the place is the same.
                self._close_table()
                self._index = index
            high = int(np.searchsorted(blocks, (index + 1) * s.GTES_PER_GT))
            sectors = self._next + np.arange(high - low, dtype=np.int64) * each
            self._next += (high - low) * each
            self._check_room()
            self._table[blocks[low:high] - index * s.GTES_PER_GT] = sectors
            places[low:high] = sectors * s.SECTOR
            low = high
        return places

    def _close_table(self) -> None:
        """Give the open table its place, behind its grains."""
        if self._index < 0:
            return
        offset, part = self._append(s.MARKER_GRAIN_TABLE, self._table.tobytes())
        self._closed.append((offset, part))
        self._directory[self._index] = offset // s.SECTOR + 1
        self._check_room()
        self._table[:] = 0
        self._index = -1

    def _append(self, kind: int, data: bytes) -> tuple[int, bytes]:
        """A marker and the metadata behind it, at the end of what there is."""
        marker = s.MetadataMarker(numSectors=len(data) // s.SECTOR, size=0, type=kind)
        offset = self._next * s.SECTOR
        self._next += 1 + len(data) // s.SECTOR
        return offset, bytes(marker) + data

    def _check_room(self) -> None:
        if self._next > s.MAX_SPARSE_SECTORS:
            raise OptionError(
                "the compressed disk takes more than the 2 TiB that a streamOptimized file can "
                "have; subformat=twoGbMaxExtentSparse and monolithicFlat hold more"
            )
