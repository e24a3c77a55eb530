"""QcowLayer: one qcow image, for reading.

Both levels of tables are read in pages when needed and kept in bounded caches: the L1 table of a
large disk alone has 4 MiB for each TiB. All entries are decoded as arrays; nothing is believed
before it is checked. Writing is in `allocation`, a subclass. Imports the block machine of disk, and
codecs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.blockmap import COMPRESSED, BlockLayer, Blocks
from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.qcow import structures as s
from vmimg.formats.qcow.header import QcowHeader
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.holes import Holes

__all__ = ["L1_PAGE", "Entries", "QcowLayer", "load_table", "split_compressed"]

Entries = NDArray[np.uint64]

L1_PAGE: Final = 1 << 16
"""Entries of a page of the L1 table: 512 KiB, for 128 GiB of a disk as QEMU makes them."""
# 16 MiB of each level.
_L1_PAGES: Final = 32
_L2_CACHE_BYTES: Final = 16 << 20

_COMPRESSED_FLAG = np.uint64(s.COMPRESSED_FLAG)
_ABSENT, _DATA = np.uint8(Kind.ABSENT), np.uint8(Kind.DATA)


class QcowLayer(BlockLayer):
    """One qcow file; ``cipher`` where its clusters are encrypted."""

    format = "qcow"

    def __init__(
        self, storage: Storage, header: QcowHeader, cipher: DataCipher | None = None
    ) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.cipher = cipher
        self.name = storage.name
        self.size = header.size
        self.block_size = self.unit_size = self.granularity = header.cluster_size
        self.parent = header.parent
        self._codec = codec("deflate")
        self._holes = Holes(storage, header.l1_table_offset, header.l1_end)
        self._l1: PageCache[Entries] = PageCache(self._load_l1, _L1_PAGES)
        self._l2: PageCache[Entries] = PageCache(
            self._load_l2, max(2, _L2_CACHE_BYTES // header.l2_bytes)
        )

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._entries(first, count)
        compressed = entries >= _COMPRESSED_FLAG
        present = entries != 0
        kinds = np.where(present, _DATA, _ABSENT)
        offsets = np.where(present, entries.view(np.int64), np.int64(-1))
        lengths = None
        if compressed.any():
            places, sizes = split_compressed(entries, self.header.cluster_bits)
            kinds[compressed] = COMPRESSED
            offsets = np.where(compressed, places, offsets)
            lengths = np.where(compressed, sizes, np.int64(0))
        self._check(first, entries, present & ~compressed, compressed, offsets, lengths)
        return Blocks(kinds, offsets, lengths)

    def skip_absent(self, first: int) -> int:
        index, entries = first >> self.header.l2_bits, self.header.l1_entries
        while index < entries:
            page, row = divmod(index, L1_PAGE)
            present = np.flatnonzero(self._l1.get(page)[row:])
            if len(present):
                found = index + int(present[0])
                return max(first, found << self.header.l2_bits)
            following = (page + 1) * L1_PAGE
            if following < entries:
                following = self._following_entry(following)
            index = following
        return self.header.clusters

    def decode(self, data: memoryview) -> Buffer:
        return self._codec.decompress(data, self.block_size)

    def close(self) -> None:
        self.storage.close()

    def _entries(self, first: int, count: int) -> Entries:
        """L2 entries of ``count`` clusters, 0 where the table is missing: a new array."""
        entries = np.zeros(count, np.uint64)
        per_table = self.header.l2_entries
        index = first // per_table
        tables = self._tables(index, -(-(first + count) // per_table) - index)
        for number in np.flatnonzero(tables).tolist():
            start = (index + number) * per_table - first
            low, high = max(0, start), min(count, start + per_table)
            table = self._l2.get(int(tables[number]))
            entries[low:high] = table[low - start : high - start]
        return entries

    def _tables(self, first: int, count: int) -> Entries:
        """``count`` entries of the L1 table: a new array."""
        tables = np.empty(count, np.uint64)
        page, row = divmod(first, L1_PAGE)
        done = 0
        while done < count:
            part = self._l1.get(page)[row : row + count - done]
            tables[done : done + len(part)] = part
            done += len(part)
            page, row = page + 1, 0
        return tables

    def _following_entry(self, index: int) -> int:
        """The first entry of the L1 table, from ``index``, that may name a table."""
        start = self.header.l1_table_offset
        return max(index, (self._holes.skip(start + 8 * index) - start) // 8)

    def _load_l1(self, page: int) -> Entries:
        first = page * L1_PAGE
        count = min(L1_PAGE, self.header.l1_entries - first)
        return load_table(self.storage, self.header.l1_table_offset + 8 * first, count)

    def _load_l2(self, offset: int) -> Entries:
        header = self.header
        if offset < header.l1_end:
            raise FormatError(
                f"{self.name}: an L2 table is said to be at {offset}, over the header or the L1 "
                "table"
            )
        if offset + header.l2_bytes > self.storage.size:
            raise FormatError(
                f"{self.name}: an L2 table is said to be at {offset}, but the file ends at "
                f"{self.storage.size}: it is truncated or damaged"
            )
        return load_table(self.storage, offset, header.l2_entries)

    def _check(
        self,
        first: int,
        entries: Entries,
        plain: NDArray[np.bool_],
        compressed: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64] | None,
    ) -> None:
        problems = [
            (plain & ((offsets & (s.SECTOR - 1)) != 0), "is not on a sector boundary"),
            ((plain | compressed) & (offsets < self.header.l1_end), "is over the header or L1"),
            (
                (plain | compressed) & (offsets >= self.storage.size),
                f"is behind the end of the file ({self.storage.size})",
            ),
        ]
        if lengths is not None:
            problems.append((compressed & (lengths == 0), "is compressed to nothing"))
        for wrong, problem in problems:
            if wrong.any():
                index = int(np.flatnonzero(wrong)[0])
                raise FormatError(
                    f"{self.name}: the L2 entry of virtual offset "
                    f"{(first + index) * self.block_size} ({int(entries[index]):#018x}) {problem}: "
                    "it is truncated or damaged"
                )


def split_compressed(
    entries: Entries, cluster_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, lengths in bytes) of compressed clusters, by their L2 entries."""
    shift = 63 - cluster_bits
    places = (entries & np.uint64((1 << shift) - 1)).view(np.int64)
    lengths = (entries >> np.uint64(shift)) & np.uint64((1 << cluster_bits) - 1)
    return places, lengths.view(np.int64)


def load_table(storage: Storage, offset: int, count: int) -> Entries:
    """``count`` entries of a table at ``offset``, all of which the file must have."""
    return np.frombuffer(storage.read(offset, 8 * count), ">u8").astype(np.uint64)
