"""FlatWriter: lays out disks whose data lies bare in files beside a descriptor.

::

    address 0          NAME.vmdk       the descriptor, written last
    FIRST              NAME-flat.vmdk  the disk; or NAME-f001.vmdk, NAME-f002.vmdk, ...: its pieces

The pieces follow each other in the row of addresses without gaps, so that guest byte n lies at
FIRST + n, and a block may well begin in one piece and end in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.driver import Companion, Writer
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.newdescriptor import ExtentLine, NewDescriptor
from vmimg.units import MIB

__all__ = ["FIRST_COMPANION", "SPLIT_SECTORS", "FlatWriter"]

FIRST_COMPANION: Final = 1 << 24
"""Where the files behind a descriptor begin: it has room for one of 60 TiB in pieces."""

SPLIT_SECTORS: Final = 2047 * MIB // s.SECTOR
"""Of a piece of a twoGbMaxExtent disk. QEMU cuts at 2 GiB; VMware a MiB before it, so that a sparse
piece with its tables, too, stays below the 2 GiB of old file systems."""

_PREALLOCATION: Final = {
    # ESX: zeroed thick has its space but is zeroed on first use, eager is zeroed now. The hosted
    # kinds are preallocated by Workstation, and sparse files here, as qemu-img makes them.
    "vmfs": "falloc",
    "vmfsEagerZeroedThick": "full",
}


class FlatWriter(Writer):
    """See Writer. Every block size will do: there are no tables."""

    any_block_size = True
    block_size = MIB

    def __init__(self, new: NewDescriptor) -> None:
        self._new = new
        self.preallocation = _PREALLOCATION.get(new.subformat, "off")
        self.data_limit = FIRST_COMPANION + new.size
        split = new.subformat == "twoGbMaxExtentFlat"
        most = SPLIT_SECTORS if split else max(1, new.sectors)
        starts = range(0, max(1, new.sectors), most)
        kind = "VMFS" if new.subformat.startswith("vmfs") else "FLAT"
        self._extents = [
            ExtentLine(
                min(most, new.sectors - start),
                kind,
                f"{new.stem}-f{number:03}.vmdk" if split else f"{new.stem}-flat.vmdk",
                # On VMFS a file is a whole disk: there is no offset, and QEMU refuses one.
                0 if kind == "FLAT" else None,
            )
            for number, start in enumerate(starts, 1)
        ]
        self.companions = tuple(
            Companion(extent.name, FIRST_COMPANION + start * s.SECTOR)
            for start, extent in zip(starts, self._extents, strict=True)
        )
        self._file_size = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        self._new.placed(blocks)
        return self.reserve(blocks)

    def reserve(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return FIRST_COMPANION + blocks * self.block_size

    def finish(self) -> Iterator[tuple[int, bytes]]:
        text = self._new.render(self._extents)
        self._file_size = len(text)
        yield 0, text

    def full_size(self) -> int:
        return len(self._new.render(self._extents)) + sum(self.companion_sizes)

    @property
    def file_size(self) -> int:
        return self._file_size

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return tuple(extent.sectors * s.SECTOR for extent in self._extents)
