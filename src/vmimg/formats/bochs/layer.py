"""BochsLayer: one growing image of Bochs, for reading.

The catalog, of 4 MiB at most, is held whole. An extent's bitmap says sector by sector what was
written; bitmaps are read when needed and kept in a bounded cache. Imports the block machine of
disk.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.bochs import structures as s
from vmimg.formats.bochs.header import BochsHeader
from vmimg.storage.base import Storage

__all__ = ["BochsLayer", "Entries", "impossible", "read_catalog"]

Entries = NDArray[np.uint32]
Bitmap = NDArray[np.uint8]

_BITMAP_CACHE_BYTES: Final = 8 << 20
_FREE = np.uint32(s.UNALLOCATED)


class BochsLayer(BlockLayer):
    """One Bochs file."""

    format = "bochs"

    def __init__(self, storage: Storage, header: BochsHeader) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size
        self.block_size = header.extent_size
        self.unit_size = self.granularity = s.SECTOR
        self._catalog = read_catalog(storage, header)
        self._refuse_crowd()
        self._present: NDArray[np.intp] | None = None
        # Sectors of a bitmap that mean nothing are not read.
        self._bitmap_bytes = -(-header.extent_size // s.SECTOR // 8)
        self._bitmaps = PageCache(
            self._load_bitmap, _BITMAP_CACHE_BYTES // max(512, self._bitmap_bytes)
        )

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._catalog[first : first + count]
        wrong = impossible(self.header, entries, self.storage.size)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the extent of virtual offset {(first + index) * self.block_size} "
                f"is said to be in place {int(entries[index])}, but the file ends at "
                f"{self.storage.size}: it is truncated or damaged"
            )
        present = entries != _FREE
        kinds = np.where(present, np.uint8(Kind.DATA), np.uint8(Kind.ABSENT))
        header = self.header
        places = entries.astype(np.int64) * header.stride + header.data_start + header.bitmap_size
        blocks = Blocks(kinds, np.where(present, places, np.int64(-1)))
        # Where a block is one sector, nobody else asks for its bitmap.
        return blocks if self.unit_size < self.block_size else self.refine(first, blocks)

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        units = self.block_size // s.SECTOR
        kinds = np.zeros((len(blocks.kinds), units), np.uint8)
        rows = np.flatnonzero(blocks.offsets >= 0)
        if len(rows):
            # In a damaged image all entries may name one place.
            places, which = np.unique(blocks.offsets[rows], return_inverse=True)
            bitmaps = np.stack([self._bitmaps.get(place) for place in places.tolist()])
            bits = np.unpackbits(bitmaps, axis=1, count=units, bitorder="little")
            kinds[rows] = bits[which.reshape(-1)] * np.uint8(Kind.DATA)
        steps = np.arange(units, dtype=np.int64) * s.SECTOR
        offsets = np.where(kinds == Kind.DATA, blocks.offsets[:, None] + steps, np.int64(-1))
        return Blocks(kinds.reshape(-1), offsets.reshape(-1))

    def skip_absent(self, first: int) -> int:
        if first < len(self._catalog) and self._catalog[first] != _FREE:
            return first
        present = self._present
        if present is None:
            present = self._present = np.flatnonzero(self._catalog != _FREE)
        following = int(np.searchsorted(present, first))
        return int(present[following]) if following < len(present) else len(self._catalog)

    def close(self) -> None:
        self.storage.close()

    def _refuse_crowd(self) -> None:
        """Refuse a small file that shows the same place again and again, as an enormous disk."""
        header, entries = self.header, self._catalog
        held = ~impossible(header, entries, self.storage.size) & (entries != _FREE)
        count = int(np.count_nonzero(held))
        room = -(-(self.storage.size - header.data_start) // header.stride)
        if count > room:
            raise FormatError(
                f"{self.name}: {count} extents are said to be in a file that has room for {room}: "
                "the catalog is damaged"
            )

    def _load_bitmap(self, place: int) -> Bitmap:
        """The bitmap of the extent whose first sector is at ``place``."""
        start = place - self.header.bitmap_size
        return np.frombuffer(self.storage.read(start, self._bitmap_bytes), np.uint8)


def read_catalog(storage: Storage, header: BochsHeader) -> Entries:
    """The entries of the catalog for the extents of the disk."""
    data = storage.read(header.catalog_offset, 4 * header.extents)
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)


def impossible(header: BochsHeader, entries: Entries, file_size: int) -> NDArray[np.bool_]:
    """Which of ``entries`` name a place whose bitmap the file does not hold.

    The data may end sooner: Bochs writes single sectors, QEMU looks no further either, and reading
    a sector that was cut off says so.
    """
    starts = entries.astype(np.int64) * header.stride + header.data_start
    wrong: NDArray[np.bool_] = starts + header.bitmap_size > file_size
    wrong &= entries != _FREE
    return wrong
