"""VdiLayer: one VDI image, for reading.

The block map is read in pages when needed and kept in a bounded cache: with blocks of 1 MiB it has
4 MiB for each TiB. Writing is in `allocation`, a subclass. Imports the block machine of disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Extent, Kind, Span
from vmimg.disk.layer import Layer
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.vdi import structures as s
from vmimg.formats.vdi.header import NO_UUID, VdiHeader
from vmimg.formats.vdi.parents import parent_ref
from vmimg.storage.base import Storage

__all__ = ["FREE", "PAGE_ENTRIES", "ZERO", "Entries", "VdiLayer", "load_entries"]

Entries = NDArray[np.uint32]

PAGE_ENTRIES: Final = 1 << 16
"""Entries of a page of the map: 256 KiB, for 64 GiB of disk with the usual blocks."""
# 16 MiB of pages.
_CACHED_PAGES: Final = 64

FREE = np.uint32(s.BLOCK_FREE)
ZERO = np.uint32(s.BLOCK_ZERO)
_ABSENT, _ZERO, _DATA = np.uint8(Kind.ABSENT), np.uint8(Kind.ZERO), np.uint8(Kind.DATA)


class VdiLayer(BlockLayer):
    """One VDI file of any version and type."""

    format = "vdi"

    def __init__(self, storage: Storage, header: VdiHeader) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size
        self.block_size = self.unit_size = self.granularity = header.block_size
        self.parent = parent_ref(header)
        self._pages: PageCache[Entries] = PageCache(self._load_page, _CACHED_PAGES)

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._entries(first, count)
        kinds = np.where(entries == FREE, _ABSENT, np.where(entries == ZERO, _ZERO, _DATA))
        present = entries < ZERO
        header = self.header
        offsets = np.where(
            present, entries.astype(np.int64) * header.stride + header.data_start, np.int64(-1)
        )
        wrong = offsets >= self.storage.size
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the block of virtual offset {(first + index) * self.block_size} is "
                f"said to be at {int(offsets[index])}, but the file ends at {self.storage.size}: "
                "it is truncated or damaged"
            )
        return Blocks(kinds, offsets)

    def skip_absent(self, first: int) -> int:
        index, row = divmod(first, PAGE_ENTRIES)
        blocks = -(-self.size // self.block_size)
        while first < blocks:
            page = self._pages.get(index)
            if page[row] != FREE:
                return first
            present = np.flatnonzero(page[row:] != FREE)
            if len(present):
                return min(blocks, first + int(present[0]))
            index, row = index + 1, 0
            first = index * PAGE_ENTRIES
        return blocks

    def map(self, start: int, end: int) -> Iterator[Extent]:
        extents = super().map(start, end)
        return self._holes(extents) if self.header.image_type == s.FIXED else extents

    def spans(self, start: int, end: int) -> Iterator[Span]:
        if self.header.image_type == s.FIXED:
            return Layer.spans(self, start, end)
        return super().spans(start, end)

    def parent_mismatch(self, parent: Layer) -> str | None:
        if not isinstance(parent, VdiLayer):
            return f"is {parent.format}; that of a VDI image is a VDI image"
        child, other = self.header, parent.header
        if child.uuid_linkage != other.uuid_create:
            return f"is the image {other.uuid_create}, and {child.uuid_linkage} is wanted"
        if child.uuid_parent_modify not in (NO_UUID, other.uuid_modify):
            return (
                f"was changed since: its modification is {other.uuid_modify}, and "
                f"{child.uuid_parent_modify} is wanted"
            )
        return None

    def close(self) -> None:
        self.storage.close()

    def _holes(self, extents: Iterator[Extent]) -> Iterator[Extent]:
        """The same, with the holes of the file as zeros.

        A fixed image has a place for every block, and most of them are often holes. QEMU looks for
        them in fixed images, too; a growing image has places only for what was written.
        """
        for extent in extents:
            if extent.offset is None or extent.kind != Kind.DATA:
                yield extent
                continue
            shift = extent.start - extent.offset
            until = min(extent.offset + extent.length, self.storage.size)
            for low, high, hole in self.storage.extents(extent.offset, until):
                kind = Kind.ZERO if hole else Kind.DATA
                yield Extent(low + shift, high - low, kind, low)
            if until + shift < extent.end:  # cut off: reading it says what is wrong
                yield Extent(until + shift, extent.end - until - shift, Kind.DATA, until)

    def _entries(self, first: int, count: int) -> Entries:
        """The map entries of ``count`` blocks; not to be changed."""
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
            self.storage, self.header, first, min(PAGE_ENTRIES, self.header.blocks - first)
        )


def load_entries(storage: Storage, header: VdiHeader, first: int, count: int) -> Entries:
    """``count`` entries of the map from ``first``, all inside it."""
    data = storage.read(header.offset_blocks + 4 * first, 4 * count)
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
