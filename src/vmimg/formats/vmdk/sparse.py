"""SparseLayer: a sparse extent of a VMDK, for reading.

Hosted sparse (KDMV)::

    | header | descriptor | redundant GD, GTs | GD | GTs ... | grains ... |

    grain directory (GD): u32[n], sector of each grain table
    grain table (GT):     u32[512], sector of each grain; 0 is ABSENT, 1 is ZERO if flagged so

A stream has compressed grains with a marker in front of each, and the directory behind them. An ESX
COW disk (COWD) has the same tables, with 4096 entries. Writing is in `allocation`, a subclass;
seSparse, whose entries are of another kind, in `sesparse`.

The directory is held whole. Tables are read in pages of many (they lie one behind the other in all
files that were made by one program at one time) and kept in a bounded cache.

Spec: VMware "Virtual Disk Format 5.0". Imports the block machine of disk, and codecs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.blockmap import COMPRESSED, BlockLayer, Blocks
from vmimg.disk.extent import Extent, Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.header import SparseHeader
from vmimg.formats.vmdk.image import VmdkImage, VmdkLayer
from vmimg.storage.base import Buffer, Storage

__all__ = ["Entries", "SparseLayer"]

Entries = NDArray[Any]
"""Grain table entries: uint32, in seSparse uint64."""

# Memory for grain tables: 16 MiB map 256 GiB of 64 KiB grains without a second read.
_CACHE_BYTES: Final = 16 << 20
# What a page has of them. One read where the tables lie together, and 2 GiB of 64 KiB grains.
_PAGE_BYTES: Final = 128 << 10
# Further entries looked at to learn where a compressed grain ends: at the next one.
_AHEAD: Final = 16
# From so many tables on (32 GiB of 64 KiB grains) the holes of the file are asked for.
_MANY_TABLES: Final = 1024
_MARKER: Final = 12
"""Bytes of a GrainMarker."""


class SparseLayer(VmdkLayer, BlockLayer):
    """One sparse extent. ``size``: virtual bytes, at most what the header says.

    ``file``: what maps say of the file, where it is not the image's own.
    """

    def __init__(
        self,
        storage: Storage,
        header: SparseHeader,
        image: VmdkImage,
        *,
        size: int | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.image = image
        self.name = storage.name
        self.size = header.size if size is None else size
        self.block_size = self.unit_size = self.granularity = header.grain_size
        self._file = file
        self._codec = codec("zlib")
        self._entry = np.dtype(f"<u{header.entry_size}")
        self._blocks = -(-self.size // self.block_size)
        self._directory = self._load_directory()
        self._present: NDArray[np.intp] | None = None
        self._tables_per_page = max(1, _PAGE_BYTES // header.table_bytes)
        self._page_entries = self._tables_per_page * header.gtes_per_gt
        page_bytes = self._page_entries * header.entry_size
        self._pages = PageCache(self._load_page, max(2, _CACHE_BYTES // page_bytes))

    # BlockLayer

    def lookup(self, first: int, count: int) -> Blocks:
        if not self.header.compressed:
            return self._decode_entries(first, self._entries(first, count))
        # Where the last grain ends shows only in what follows it.
        entries = self._entries(first, min(count + _AHEAD, self._blocks - first))
        blocks = self._decode_entries(first, entries)
        self._describe_compressed(blocks)
        if len(entries) == count:
            return blocks
        lengths = blocks.lengths
        return Blocks(
            blocks.kinds[:count],
            blocks.offsets[:count],
            lengths[:count] if lengths is not None else None,
        )

    def skip_absent(self, first: int) -> int:
        index = first // self.header.gtes_per_gt
        present = self._present
        if present is None:
            present = self._present = self._present_tables()
        following = int(np.searchsorted(present, index))
        if following == len(present):
            return self._blocks
        table = int(present[following])
        return first if table == index else min(self._blocks, table * self.header.gtes_per_gt)

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if self._file is None:
            yield from super().map(start, end)
            return
        for extent in super().map(start, end):
            yield extent if extent.offset is None else replace(extent, file=self._file)

    def decode(self, data: memoryview) -> Buffer:
        lba = -1
        if self.header.markers:
            if len(data) < _MARKER:
                raise FormatError("the file ends inside its marker")
            marker = s.GrainMarker.from_buffer_copy(data[:_MARKER])
            lba = int(marker.lba)
            if not 0 < marker.size <= len(data) - _MARKER:
                raise FormatError(
                    f"its marker says {marker.size} bytes of data, which do not lie before the "
                    "next grain or the end of the file"
                )
            data = data[_MARKER : _MARKER + marker.size]
        try:
            return self._codec.decompress(data, self.block_size)
        except FormatError:
            # QEMU stores of the last grain only what lies inside the disk.
            rest = self.header.size % self.block_size
            if not rest or lba not in (-1, (self.header.size - rest) // s.SECTOR):
                raise
            return bytes(self._codec.decompress(data, rest)).ljust(self.block_size, b"\0")

    def close(self) -> None:
        if self.owns_image:
            self.image.close()

    def _decode_at(self, data: memoryview, virtual: int) -> Buffer:
        # Whoever reads the file as a stream goes by the markers, and would see another disk.
        if self.header.markers and len(data) >= _MARKER:
            lba = int.from_bytes(data[:8], "little")
            if lba * s.SECTOR != virtual:
                raise FormatError(
                    f"{self.data.name}: the grain of virtual offset {virtual} has a marker that "
                    f"says sector {lba}: the grain table or the marker is damaged"
                )
        return super()._decode_at(data, virtual)

    # Tables

    def _load_directory(self) -> NDArray[np.int64]:
        """Byte offset of each grain table, 0 where there is none: int64[gd_entries].

        From the redundant directory what the first one does not have, or places outside the file.
        """
        header = self.header
        first = self._read_directory(header.gd_offset)
        if header.rgd_offset is None:
            return first if first is not None else self._no_directory()
        if first is None:
            second = self._read_directory(header.rgd_offset)
            return second if second is not None else self._no_directory()
        wrong = (first == 0) | self._misplaced(first)
        if wrong.any():
            second = self._read_directory(header.rgd_offset)
            if second is not None:
                wrong &= ~self._misplaced(second) & (second != 0)
                first[wrong] = second[wrong]
        return first

    def _read_directory(self, offset: int) -> NDArray[np.int64] | None:
        """A grain directory; None where it is not in the file."""
        header = self.header
        length = header.gd_entries * header.entry_size
        if offset + length > self.data.size or (not offset and length):
            return None
        entries = np.frombuffer(self.data.read(offset, length), self._entry)
        return self._table_offsets(entries)

    def _table_offsets(self, entries: Entries) -> NDArray[np.int64]:
        tables = entries.astype(np.int64)
        tables *= s.SECTOR
        return tables

    def _misplaced(self, tables: NDArray[np.int64]) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = tables > self.data.size - self.header.table_bytes
        wrong &= tables != 0
        return wrong

    def _no_directory(self) -> NDArray[np.int64]:
        raise FormatError(
            f"{self.data.name}: the grain directory at offset {self.header.gd_offset} "
            f"({self.header.gd_entries} entries) is not in the file: it is truncated or damaged"
        )

    def _present_tables(self) -> NDArray[np.intp]:
        """Indexes of the tables that may have entries, ascending.

        Of an empty disk most writers make all tables. Those in a hole of the file have no entries:
        512 MiB of them in an empty disk of 8 TiB.
        """
        present = np.flatnonzero(self._directory)
        if len(present) < _MANY_TABLES:
            return present
        offsets = self._directory[present]
        size = self.header.table_bytes
        low, high = int(offsets.min()), min(int(offsets.max()) + size, self.data.size)
        ends: list[int] = []
        starts: list[int] = []
        for start, end, hole in self.data.extents(low, max(low, high)):
            if not hole:
                starts.append(start)
                ends.append(end)
            if len(starts) > _MANY_TABLES:
                return present
        # The first stretch of data that ends behind a table's start: does it begin before its end?
        following = np.searchsorted(np.array(ends, np.int64), offsets, side="right")
        begins = np.array([*starts, np.iinfo(np.int64).max], np.int64)[following]
        # What lies behind the end of the file is damage, and not to be passed over.
        return present[(begins < offsets + size) | (offsets + size > self.data.size)]

    def _load_page(self, page: int) -> Entries:
        """The entries of the grain tables of a page, one behind the other, 0 where there is none"""
        header = self.header
        first = page * self._tables_per_page
        tables = self._directory[first : first + self._tables_per_page]
        entries: Entries = np.zeros((self._tables_per_page, header.gtes_per_gt), self._entry)
        present = np.flatnonzero(tables)
        if not len(present):
            return entries.reshape(-1)
        follows = (np.diff(present) == 1) & (np.diff(tables[present]) == header.table_bytes)
        edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(present)]
        for low, high in pairwise(edges):
            offset, number = int(tables[present[low]]), high - low
            self._check_tables(first + int(present[low]), offset, number)
            rows = np.frombuffer(
                self.data.read(offset, number * header.table_bytes), self._entry
            ).reshape(number, -1)
            start = int(present[low])
            entries[start : start + number] = rows[:, : header.gtes_per_gt]
        return entries.reshape(-1)

    def _check_tables(self, index: int, offset: int, number: int) -> None:
        end = offset + number * self.header.table_bytes
        if offset >= s.SECTOR and end <= self.data.size:
            return
        covered = self.header.gtes_per_gt * self.block_size
        raise FormatError(
            f"{self.data.name}: the grain table of virtual offset {index * covered} is said to be "
            f"at {offset}, but the file ends at {self.data.size}: it is truncated or damaged"
        )

    def _entries(self, first: int, count: int) -> Entries:
        """The table entries of grains, as they stand in the file."""
        page, start = divmod(first, self._page_entries)
        if start + count <= self._page_entries:
            part: Entries = self._pages.get(page)[start : start + count]
            return part
        parts: list[Entries] = []
        while count > 0:
            table = self._pages.get(page)[start : start + count]
            parts.append(table)
            count -= len(table)
            page, start = page + 1, 0
        return np.concatenate(parts)

    def _decode_entries(self, first: int, entries: Entries) -> Blocks:
        held = entries != 0
        kinds = held.astype(np.uint8) * np.uint8(Kind.DATA)
        offsets = entries.astype(np.int64) * s.SECTOR
        if self.header.zero_grains:
            zero = entries == s.GTE_ZERO
            kinds[zero] = Kind.ZERO
            held &= ~zero
        offsets[~held] = -1
        return Blocks(kinds, offsets)

    def _describe_compressed(self, blocks: Blocks) -> None:
        """Say COMPRESSED, and how much to fetch: only the marker knows the length, but a grain ends
        where the next one begins.
        """
        held = blocks.kinds == Kind.DATA
        blocks.kinds[held] = COMPRESSED
        places = blocks.offsets[held]
        # A grain that does not shrink is stored with some more bytes than it has.
        most = 2 * self.block_size + 4096
        order = np.unique(places)
        following = np.append(order[1:], np.int64(np.iinfo(np.int64).max))
        ends = np.minimum(following, order + most)
        lengths = np.zeros(len(blocks.kinds), np.int64)
        lengths[held] = (ends - order)[np.searchsorted(order, places)]
        blocks.lengths = lengths
