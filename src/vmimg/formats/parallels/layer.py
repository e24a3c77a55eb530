"""ParallelsLayer: one expanding image file, for reading.

The BAT is read in pages when needed and kept in a bounded cache: with clusters of 1 MiB it has
4 MiB for each TiB. Writing is in `allocation`, a subclass. Imports the block machine of disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Extent, Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.header import ParallelsHeader
from vmimg.storage.base import Storage

__all__ = ["PAGE_ENTRIES", "Entries", "ParallelsLayer", "load_entries"]

Entries = NDArray[np.uint32]

PAGE_ENTRIES: Final = 1 << 16
"""Entries of a page of the BAT: 256 KiB, for 64 GiB of disk with the usual clusters."""
# 16 MiB of pages.
_CACHED_PAGES: Final = 64

_ABSENT, _DATA = np.uint8(Kind.ABSENT), np.uint8(Kind.DATA)


class ParallelsLayer(BlockLayer):
    """One .hds file. ``size``: less than the header says, where a bundle cuts it off.

    ``file``: what maps say of the file, where it is not the image's own. ``others``: further files
    of the image, which are closed with this one.
    """

    format = "parallels"

    def __init__(
        self,
        storage: Storage,
        header: ParallelsHeader,
        *,
        size: int | None = None,
        file: str | None = None,
        others: Sequence[Storage] = (),
    ) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size if size is None else size
        self.block_size = self.unit_size = self.granularity = header.block_size
        self._file = file
        self._others = tuple(others)
        self._pages: PageCache[Entries] = PageCache(self._load_page, _CACHED_PAGES)

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._entries(first, count)
        present = entries != 0
        offsets = np.where(present, entries.astype(np.int64) * self.header.unit, np.int64(-1))
        wrong = present & ((offsets >= self.storage.size) | (offsets < self.header.table_end))
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the cluster of virtual offset {(first + index) * self.block_size} "
                f"is said to be at {int(offsets[index])}, but clusters lie behind the BAT, which "
                f"ends at {self.header.table_end}, and the file ends at {self.storage.size}: "
                "it is truncated or damaged"
            )
        return Blocks(np.where(present, _DATA, _ABSENT), offsets)

    def skip_absent(self, first: int) -> int:
        blocks = -(-self.size // self.block_size)
        index, row = divmod(first, PAGE_ENTRIES)
        while first < blocks:
            first = max(first, self._after_hole(first))
            index, row = divmod(first, PAGE_ENTRIES)
            if first >= blocks:
                break
            page = self._pages.get(index)
            if page[row]:
                return first
            present = np.flatnonzero(page[row:])
            if len(present):
                return min(blocks, first + int(present[0]))
            first = (index + 1) * PAGE_ENTRIES
        return blocks

    def map(self, start: int, end: int) -> Iterator[Extent]:
        extents = super().map(start, end)
        if self._file is None:
            return extents
        return (
            extent if extent.offset is None else replace(extent, file=self._file)
            for extent in extents
        )

    def close(self) -> None:
        try:
            self.storage.close()
        finally:
            for other in self._others:
                other.close()

    def _after_hole(self, first: int) -> int:
        """The first entry behind ``first`` that the file holds, where a page would begin in a hole.

        A BAT of gigabytes may be one hole: reading it as zeros takes seconds.
        """
        if first % PAGE_ENTRIES or first >= self.header.entries:
            return first
        start = s.BAT_OFFSET + s.BAT_ENTRY * first
        for low, high, hole in self.storage.extents(start, self.header.table_end):
            if hole and low == start:
                return first + (high - start) // s.BAT_ENTRY
            break
        return first

    def _entries(self, first: int, count: int) -> Entries:
        """The BAT entries of ``count`` clusters; not to be changed."""
        index, row = divmod(first, PAGE_ENTRIES)
        if row + count <= PAGE_ENTRIES:
            return self._pages.get(index)[row : row + count]
        entries = np.empty(count, np.uint32)
        done = 0
        while done < count:
            part = self._pages.get(index)[row : row + count - done]
            entries[done : done + len(part)] = part
            done += len(part)
            index, row = index + 1, 0
        return entries

    def _load_page(self, index: int) -> Entries:
        first = index * PAGE_ENTRIES
        return load_entries(
            self.storage, self.header, first, min(PAGE_ENTRIES, self.header.entries - first)
        )


def load_entries(storage: Storage, header: ParallelsHeader, first: int, count: int) -> Entries:
    """``count`` entries of the BAT from ``first``, all inside it."""
    data = storage.read(s.BAT_OFFSET + s.BAT_ENTRY * first, s.BAT_ENTRY * count)
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
