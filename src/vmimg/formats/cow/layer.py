"""CowLayer: one COW image, for reading.

Sector n of the disk is always at the same place of the file; the bitmap says whether it is there.
Writing is in `allocation`, a subclass. Imports the block machine of disk.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Kind
from vmimg.disk.layer import Layer
from vmimg.disk.pages import PageCache
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.bitmap import PAGE_BYTES, PAGE_SECTORS, Bitmap, load_page
from vmimg.formats.cow.header import CowHeader
from vmimg.storage.base import Storage
from vmimg.storage.holes import Holes

__all__ = ["CowLayer"]

# 16 MiB of pages, for 64 GiB of disk.
_CACHED_PAGES: Final = 256


class CowLayer(BlockLayer):
    """One COW file."""

    format = "cow"

    def __init__(self, storage: Storage, header: CowHeader) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size
        self.block_size = self.unit_size = self.granularity = s.SECTOR
        self.parent = header.parent
        self._holes = Holes(storage, header.bitmap_offset, header.bitmap_end)
        self._pages: PageCache[Bitmap] = PageCache(self._load_page, _CACHED_PAGES)

    def lookup(self, first: int, count: int) -> Blocks:
        present = self._bits(first, count)
        places = np.arange(first, first + count, dtype=np.int64)
        places *= s.SECTOR
        places += self.header.data_offset
        np.putmask(places, present == 0, -1)
        return Blocks(present * np.uint8(Kind.DATA), places)

    def skip_absent(self, first: int) -> int:
        pages = -(-self.header.bitmap_bytes // PAGE_BYTES)
        page, row = divmod(first // 8, PAGE_BYTES)
        mask = 0xFF << first % 8 & 0xFF
        while page < pages:
            bits = self._pages.get(page)
            if bits[row] & mask:
                return self._lowest(page, row, int(bits[row]) & mask)
            following = np.flatnonzero(bits[row + 1 :])
            if len(following):
                row += 1 + int(following[0])
                return self._lowest(page, row, int(bits[row]))
            page, row, mask = page + 1, 0, 0xFF
            if page < pages:
                page = self._following_page(page)
        return self.header.sectors

    def parent_mismatch(self, parent: Layer) -> str | None:
        wanted = self.header.mtime
        storage = getattr(parent, "storage", None)
        modified = storage.modified() if isinstance(storage, Storage) else None
        if not wanted or modified is None or int(modified) & 0xFFFF_FFFF == wanted:
            return None
        return (
            f"was last modified at {int(modified)} (seconds since 1970), and the image was made "
            f"above what it was at {wanted}"
        )

    def close(self) -> None:
        self.storage.close()

    def _bits(self, first: int, count: int) -> NDArray[np.uint8]:
        """1 for each of ``count`` sectors that is here, else 0: a new array."""
        found = np.empty(count, np.uint8)
        done = 0
        while done < count:
            page, bit = divmod(first + done, PAGE_SECTORS)
            stop = min(PAGE_SECTORS, bit + count - done)
            part = self._pages.get(page)[bit // 8 : -(-stop // 8)]
            bits = np.unpackbits(part, bitorder="little")[bit % 8 :][: stop - bit]
            found[done : done + len(bits)] = bits
            done += stop - bit
        return found

    def _lowest(self, page: int, row: int, bits: int) -> int:
        return 8 * (page * PAGE_BYTES + row) + (bits & -bits).bit_length() - 1

    def _load_page(self, page: int) -> Bitmap:
        return load_page(self.storage, self.header, page)

    def _following_page(self, page: int) -> int:
        """The first page, from ``page``, in which a bit may be set."""
        start = self.header.bitmap_offset
        return max(page, (self._holes.skip(start + page * PAGE_BYTES) - start) // PAGE_BYTES)
