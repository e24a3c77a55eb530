"""CowdWriter: lays out vmfsSparse disks, what ESX writes behind a snapshot.

::

    address 0    NAME.vmdk        the descriptor, written last
    FIRST        NAME-delta.vmdk  header | directory | table, sectors, table, sectors, ...

A grain is one sector, as on ESX, and a table has 4096 entries: it maps 2 MiB, and lies in front of
the sectors that it maps first.

Spec: VMware "Virtual Disk Format 5.0", "ESX Server Sparse Extents".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError
from vmimg.formats.driver import Companion, Writer
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.flatwriter import FIRST_COMPANION
from vmimg.formats.vmdk.geometry import disk_geometry
from vmimg.formats.vmdk.newdescriptor import ExtentLine, NewDescriptor
from vmimg.units import align_up, format_size

__all__ = ["CowdWriter"]

_GT_SECTORS: Final = s.COWD_GTES_PER_GT * 4 // s.SECTOR


class CowdWriter(Writer):
    """See Writer. Tables are handed out as soon as they are complete."""

    block_size = s.COWD_GRAIN_SECTORS * s.SECTOR
    hides_parent = False

    def __init__(self, new: NewDescriptor) -> None:
        self._new = new
        count = -(-new.sectors // s.COWD_GTES_PER_GT)
        self._directory = np.zeros(max(1, count), "<u4")
        self._tables_at = s.COWD_GD_OFFSET + align_up(self._directory.nbytes, s.SECTOR) // s.SECTOR
        self._full_sectors = self._tables_at + count * _GT_SECTORS + new.sectors
        if self._full_sectors > s.MAX_SPARSE_SECTORS:
            raise OptionError(
                f"a vmfsSparse disk holds less than 2 TiB, not {format_size(new.size)}; "
                "subformat=vmfs holds more"
            )
        # Below a descriptor of its own name ESX expects -flat for all of a disk and -delta for what
        # differs from a parent. A disk of this kind without a parent is a delta to nothing.
        extent = ExtentLine(new.sectors, "VMFSSPARSE", f"{new.stem}-delta.vmdk")
        self._extents = [extent]
        self.companions = (Companion(extent.name, FIRST_COMPANION),)
        self._tables: dict[int, NDArray[np.uint32]] = {}
        """Those that may still get entries."""
        self._next = self._tables_at
        """The next free sector."""
        self._file_size = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        self._new.placed(blocks)
        places = np.empty(len(blocks), np.int64)
        low = 0
        while low < len(blocks):
            index = int(blocks[low]) // s.COWD_GTES_PER_GT
            high = int(np.searchsorted(blocks, (index + 1) * s.COWD_GTES_PER_GT))
            table = self._tables.get(index)
            if table is None:
                table = self._tables[index] = np.zeros(s.COWD_GTES_PER_GT, "<u4")
                self._directory[index] = self._next
                self._next += _GT_SECTORS
            sectors = np.arange(self._next, self._next + high - low, dtype=np.int64)
            self._next += high - low
            table[blocks[low:high] - index * s.COWD_GTES_PER_GT] = sectors
            places[low:high] = FIRST_COMPANION + sectors * s.SECTOR
            low = high
        return places

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            if (index + 1) * s.COWD_GTES_PER_GT <= done:
                yield self._close(index)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            yield self._close(index)
        yield FIRST_COMPANION, self._header()
        directory = self._directory.tobytes()
        yield FIRST_COMPANION + s.COWD_GD_OFFSET * s.SECTOR, directory
        text = self._new.render(self._extents)
        self._file_size = len(text)
        yield 0, text

    def full_size(self) -> int:
        return len(self._new.render(self._extents)) + self._full_sectors * s.SECTOR

    @property
    def file_size(self) -> int:
        return self._file_size

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return (self._next * s.SECTOR,)

    def _close(self, index: int) -> tuple[int, bytes]:
        sector = int(self._directory[index])
        return FIRST_COMPANION + sector * s.SECTOR, self._tables.pop(index).tobytes()

    def _header(self) -> bytes:
        header = s.CowdHeader(
            magicNumber=s.COWD_MAGIC,
            version=s.COWD_VERSION,
            flags=s.COWD_FLAGS,
            numSectors=self._new.sectors,
            grainSize=s.COWD_GRAIN_SECTORS,
            gdOffset=s.COWD_GD_OFFSET,
            numGDEntries=len(self._directory),
            freeSector=self._next,
        )
        packed = bytearray(header)
        if not self._new.has_parent:
            # In a child the parent's name could stand here; the descriptor has it.
            geometry = disk_geometry(self._new.sectors, "lsilogic")
            root = s.CowdGeometry(geometry.cylinders, geometry.heads, geometry.sectors)
            start = s.CowdHeader.parentFileName.offset
            packed[start : start + len(bytes(root))] = bytes(root)
        return bytes(packed)
