"""QedLayer: one QED image, for reading.

Of the L1 table as much is held as the disk has L2 tables; those are read in pages when needed and
kept in a bounded cache. Writing is in `allocation`, a subclass. Imports the block machine of disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import QedHeader, parent_ref
from vmimg.storage.base import Storage

__all__ = [
    "PAGE_ENTRIES", "Entries", "QedLayer", "impossible", "load_entries", "page_entries",
    "table_pieces",
]  # fmt: skip

Entries = NDArray[np.uint64]

PAGE_ENTRIES: Final = 1 << 15
"""Entries of a page of a table at most: 256 KiB, which is a whole table of the usual size."""
_CACHED_BYTES: Final = 16 << 20

_UNALLOCATED, _ZERO_CLUSTER = np.uint64(s.UNALLOCATED), np.uint64(s.ZERO)
_ABSENT, _ZERO, _DATA = np.uint8(Kind.ABSENT), np.uint8(Kind.ZERO), np.uint8(Kind.DATA)


class QedLayer(BlockLayer):
    """One QED file."""

    format = "qed"

    def __init__(self, storage: Storage, header: QedHeader) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size
        self.block_size = self.unit_size = self.granularity = header.cluster_size
        self.parent = parent_ref(header)
        self._per_page = page_entries(header)
        self._l1 = load_entries(storage, header.l1_offset, 0, header.tables)
        self._refuse_crowd()
        self._present: NDArray[np.intp] | None = None
        self._pages: PageCache[Entries] = PageCache(
            self._load_page, _CACHED_BYTES // (8 * self._per_page)
        )

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._entries(first, count)
        kinds = np.where(
            entries == _UNALLOCATED, _ABSENT, np.where(entries == _ZERO_CLUSTER, _ZERO, _DATA)
        )
        present = entries > _ZERO_CLUSTER
        wrong = impossible(self.header, entries, self.storage.size) & present
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the cluster of virtual offset {(first + index) * self.block_size} "
                f"is said to be at {int(entries[index])}, and the file, of {self.storage.size} "
                f"bytes, has no cluster there: {self._why}"
            )
        return Blocks(kinds, np.where(present, entries.view(np.int64), np.int64(-1)))

    def skip_absent(self, first: int) -> int:
        blocks, entries = self.header.blocks, self.header.entries
        while first < blocks:
            index = first // entries
            if not self._l1[index]:
                first = self._next_table(index) * entries
                continue
            key, row = divmod(first, self._per_page)
            page = self._pages.get(key)
            if page[row]:
                return first
            present = np.flatnonzero(page[row:])
            if len(present):
                return min(blocks, first + int(present[0]))
            first = self._behind_hole((key + 1) * self._per_page, index)
        return blocks

    def close(self) -> None:
        self.storage.close()

    @property
    def _why(self) -> str:
        if self.header.need_check:
            return "it was not closed properly; run vmimg check --repair all"
        return "it is truncated or damaged"

    def _refuse_crowd(self) -> None:
        """Refuse a small file that shows the same table again and again, as an enormous disk."""
        header = self.header
        held = ~impossible(header, self._l1, self.storage.size, table=True)
        count = int(np.count_nonzero(held))
        clusters = header.limit(self.storage.size) // header.cluster_size
        if count > clusters:
            raise FormatError(
                f"{self.name}: {count} L2 tables are said to be in a file of {clusters} clusters: "
                "the L1 table is damaged"
            )

    def _next_table(self, index: int) -> int:
        """The first L2 table at or behind ``index`` that there is, or how many there may be."""
        present = self._present
        if present is None:
            present = self._present = np.flatnonzero(self._l1)
        following = int(np.searchsorted(present, index))
        return int(present[following]) if following < len(present) else len(self._l1)

    def _behind_hole(self, first: int, index: int) -> int:
        """The block at or behind ``first`` in front of which the file has only a hole of table
        ``index``: the tables of huge clusters have up to 1 GiB.
        """
        entries = self.header.entries
        end = (index + 1) * entries
        if first >= end:
            return first
        start = int(self._l1[index]) + 8 * (first - index * entries)
        stop = int(self._l1[index]) + self.header.table_bytes
        for low, high, hole in self.storage.extents(start, stop):
            if not hole:
                return first + (low - start) // 8
            if high == stop:
                return end
        return first

    def _entries(self, first: int, count: int) -> Entries:
        """The L2 entries of ``count`` clusters; not to be changed."""
        key, row = divmod(first, self._per_page)
        if row + count <= self._per_page:
            return self._pages.get(key)[row : row + count]
        entries = np.empty(count, np.uint64)
        done = 0
        while done < count:
            part = self._pages.get(key)[row : row + count - done]
            entries[done : done + len(part)] = part
            done += len(part)
            key, row = key + 1, 0
        return entries

    def _load_page(self, key: int) -> Entries:
        """Entries of the clusters from ``key * self._per_page``: a page is never in two tables."""
        index, row = divmod(key * self._per_page, self.header.entries)
        table = int(self._l1[index])
        if not table:
            return np.zeros(self._per_page, np.uint64)
        if bool(
            impossible(self.header, self._l1[index : index + 1], self.storage.size, table=True)
        ):
            raise FormatError(
                f"{self.name}: the L2 table of virtual offset "
                f"{index * self.header.entries * self.block_size} is said to be at {table}, and "
                f"the file, of {self.storage.size} bytes, has no room for it there: {self._why}"
            )
        return load_entries(self.storage, table, row, self._per_page)


def page_entries(header: QedHeader) -> int:
    """Entries of a page: a power of two, and no more than a table has."""
    return min(PAGE_ENTRIES, header.entries)


def load_entries(storage: Storage, table: int, first: int, count: int) -> Entries:
    """``count`` entries from ``first`` of the table at offset ``table``, all inside the file."""
    data = storage.read(table + 8 * first, 8 * count)
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)


def table_pieces(storage: Storage, header: QedHeader, table: int) -> Iterator[tuple[int, Entries]]:
    """(number of the first entry, entries) of pieces of the table at ``table``, in order. What is a
    hole in the file is left out: all of its entries are 0.
    """
    for low, high, hole in storage.extents(table, table + header.table_bytes):
        first, last = (low - table) // 8, -(-(high - table) // 8)
        while not hole and first < last:
            count = min(PAGE_ENTRIES, last - first)
            yield first, load_entries(storage, table, first, count)
            first += count


def impossible(
    header: QedHeader, offsets: Entries, file_size: int, *, table: bool = False
) -> NDArray[np.bool_]:
    """Which of ``offsets`` are no place of a cluster (or of a table) in a file of that size."""
    limit = header.limit(file_size) - (header.table_bytes if table else header.cluster_size)
    wrong: NDArray[np.bool_] = (offsets & np.uint64(header.cluster_size - 1)) != 0
    wrong |= offsets < np.uint64(header.first_cluster)
    wrong |= offsets > np.uint64(max(0, limit))
    return wrong
