"""SeSparseLayer: a space-efficient sparse extent of ESXi (seSparse), for reading.

Grains of 4 KiB, tables of 4096 entries of 64 bits. The directory says which of the tables in the
area of tables; a table entry has a state in its upper four bits and the number of the grain in the
area of grains in the rest, upper half first. VMware does not document it: the facts are from QEMU's
block/vmdk.c, and what is not known is refused as there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import Blocks
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError
from vmimg.formats.vmdk.sparse import Entries, SparseLayer

__all__ = ["SeSparseLayer"]

_STATE: Final = np.uint64(0xF000_0000_0000_0000)
_UNMAPPED: Final = np.uint64(0x1000_0000_0000_0000)
_ZERO: Final = np.uint64(0x2000_0000_0000_0000)
_ALLOCATED: Final = np.uint64(0x3000_0000_0000_0000)

_TABLE: Final = np.uint64(0x1000_0000_0000_0000)
"""What the upper 32 bits of a directory entry that names a table are."""
_UPPER_32: Final = np.uint64(0xFFFF_FFFF_0000_0000)
_LOWER_32: Final = np.uint64(0x0000_0000_FFFF_FFFF)


class SeSparseLayer(SparseLayer):
    """One seSparse extent."""

    def _table_offsets(self, entries: Entries) -> NDArray[np.int64]:
        named = entries != 0
        wrong = named & ((entries & _UPPER_32) != _TABLE)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.data.name}: entry {index} of the grain directory is "
                f"{int(entries[index]):#x}: it is damaged"
            )
        numbers = (entries & _LOWER_32).astype(np.int64)
        offsets = self.header.tables_offset + numbers * self.header.table_bytes
        return np.where(named, offsets, np.int64(0))

    def _decode_entries(self, first: int, entries: Entries) -> Blocks:
        state = entries & _STATE
        allocated = state == _ALLOCATED
        zero = (state == _ZERO) | (state == _UNMAPPED)
        wrong = ~allocated & ~zero & (entries != 0)
        high = (entries >> np.uint64(48)) & np.uint64(0x0FFF)
        low = (entries & np.uint64(0x0000_FFFF_FFFF_FFFF)) << np.uint64(12)
        numbers = high | low
        # More grains than a file has bytes.
        wrong |= allocated & (numbers >= np.uint64(1 << 50))
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.data.name}: the grain table entry of virtual offset "
                f"{(first + index) * self.block_size} is {int(entries[index]):#x}: it is damaged"
            )
        kinds = np.zeros(len(entries), np.uint8)
        kinds[zero] = Kind.ZERO
        kinds[allocated] = Kind.DATA
        offsets = np.full(len(entries), -1, np.int64)
        places = numbers[allocated].astype(np.int64) * self.block_size
        offsets[allocated] = self.header.grains_offset + places
        return Blocks(kinds, offsets)
