"""Qcow2Layer: the active state, or one snapshot, of a qcow2 image, for reading.

The L1 table is held whole (QEMU allows 32 MiB); L2 tables are read when needed and kept in a
bounded cache. All entries are decoded as arrays; nothing is believed before it is checked. Writing
is in `allocation`, a subclass. Imports the block machine of disk, and codecs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.blockmap import COMPRESSED, BlockLayer, Blocks
from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Kind
from vmimg.disk.layer import ParentRef
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.encryption import sealed_cipher
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.storage.base import Buffer, Storage

__all__ = ["Qcow2Layer"]

Entries = NDArray[np.uint64]

# Memory for L2 tables. 16 MiB map 128 GiB of plain 64 KiB clusters without a second read.
_L2_CACHE_BYTES: Final = 16 << 20

_OFFSET = np.uint64(s.OFFSET_MASK)
_COPIED = np.uint64(s.COPIED)
_COMPRESSED_FLAG = np.uint64(s.COMPRESSED_FLAG)
_ZERO_FLAG = np.uint64(s.ZERO_FLAG)
_LOW_32 = np.uint64(0xFFFF_FFFF)


class Qcow2Layer(BlockLayer):
    """One qcow2 file.

    ``data``: the external data file, or ``storage`` itself. ``cipher``: of an encrypted image, None
    to open it sealed. ``l1_table`` (offset, entries) and ``size`` name a snapshot's instead of the
    active ones.
    """

    format = "qcow2"

    def __init__(
        self,
        storage: Storage,
        header: Qcow2Header,
        data: Storage | None = None,
        *,
        cipher: DataCipher | None = None,
        l1_table: tuple[int, int] | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if header.crypt_method:
            self.cipher = cipher or sealed_cipher(storage.name, header)
        self.storage = storage
        self.header = header
        self.data = data if data is not None else storage
        self.name = storage.name
        self.size = header.size if size is None else size
        self.block_size = header.cluster_size
        self.unit_size = self.block_size // s.SUBCLUSTERS if header.extended_l2 else self.block_size
        self.granularity = self.unit_size
        if header.backing_file is not None:
            self.parent = ParentRef(header.backing_file, header.backing_format)
        self._codec = codec(s.COMPRESSION_CODECS[header.compression_type])
        offset, entries = l1_table or (header.l1_table_offset, header.l1_size)
        self._l1 = self._load_l1(offset, entries)
        self._present: NDArray[np.intp] | None = None
        self._l2 = PageCache(self._load_l2, _L2_CACHE_BYTES // header.cluster_size)

    def lookup(self, first: int, count: int) -> Blocks:
        entries, bitmaps = self._entries(first, count)
        compressed = (entries & _COMPRESSED_FLAG) != 0
        host = entries & _OFFSET
        host[compressed] = 0
        if self.header.external_data:
            allocated = (host != 0) | ((entries & _COPIED) != 0)
        else:
            allocated = host != 0
        kinds = np.where(allocated, np.uint8(Kind.DATA), np.uint8(Kind.ABSENT))
        if bitmaps is None:
            zero = ((entries & _ZERO_FLAG) != 0) & ~compressed
            kinds[zero] = Kind.ZERO
        offsets = np.where(allocated, host.view(np.int64), np.int64(-1))
        self._check(first, entries, kinds, offsets, compressed)
        shared = allocated & ((entries & _COPIED) == 0)
        blocks = Blocks(kinds, offsets, None, shared, bitmaps)
        if compressed.any():
            self._describe_compressed(first, blocks, entries, compressed)
        return blocks

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        assert blocks.detail is not None
        count = len(blocks.kinds)
        numbers = np.arange(s.SUBCLUSTERS, dtype=np.uint64)
        allocated = (blocks.detail[:, None] >> numbers) & np.uint64(1) != 0
        zero = (blocks.detail[:, None] >> (numbers + np.uint64(32))) & np.uint64(1) != 0
        compressed = blocks.kinds == COMPRESSED
        plain = (blocks.offsets >= 0) & ~compressed
        wrong = (allocated & zero).any(axis=1) | (allocated.any(axis=1) & ~plain)
        wrong &= ~compressed
        if wrong.any():
            bad = first + int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the subcluster bitmap of virtual offset {bad * self.block_size} "
                "contradicts itself: the L2 table is damaged"
            )
        kinds = np.where(allocated, np.uint8(Kind.DATA), np.uint8(Kind.ABSENT))
        kinds[zero] = Kind.ZERO
        kinds[compressed] = COMPRESSED
        places = blocks.offsets[:, None] + numbers.astype(np.int64) * self.unit_size
        offsets = np.where((allocated | zero) & plain[:, None], places, np.int64(-1))
        shared = None if blocks.shared is None else np.repeat(blocks.shared, s.SUBCLUSTERS)
        total = count * s.SUBCLUSTERS
        return Blocks(kinds.reshape(total), offsets.reshape(total), None, shared)

    def skip_absent(self, first: int) -> int:
        per_table = self.header.l2_entries
        index = first // per_table
        if index < len(self._l1) and self._l1[index] & _OFFSET:
            return first
        present = self._present
        if present is None:
            present = self._present = np.flatnonzero(self._l1 & _OFFSET)
        following = int(np.searchsorted(present, index))
        if following == len(present):
            return -(-self.size // self.block_size)
        return int(present[following]) * per_table

    def decode(self, data: memoryview) -> Buffer:
        return self._codec.decompress(data, self.block_size)

    def close(self) -> None:
        self.storage.close()
        if self.data is not self.storage:
            self.data.close()

    def _load_l1(self, offset: int, entries: int) -> Entries:
        if entries * 8 > s.MAX_L1_BYTES or offset % self.block_size:
            raise FormatError(
                f"{self.name}: an L1 table of {entries} entries at offset {offset} is not possible"
            )
        needed = -(-self.size // (self.block_size * self.header.l2_entries))
        if entries < needed:
            raise FormatError(
                f"{self.name}: the L1 table has {entries} entries, {needed} are needed"
            )
        if offset + entries * 8 > self.storage.size:
            raise FormatError(
                f"{self.name}: the L1 table at offset {offset} reaches behind the end of the file"
            )
        return np.frombuffer(self.storage.read(offset, entries * 8), ">u8").astype(np.uint64)

    def _load_l2(self, offset: int) -> Entries:
        """An L2 table: uint64[l2_entries], or uint64[l2_entries, 2] with subclusters."""
        cluster, header = self.block_size, self.header
        tables = (
            (0, cluster, "the header"),
            (header.l1_table_offset, header.l1_size * 8, "the L1 table"),
            (
                header.refcount_table_offset,
                header.refcount_table_clusters * cluster,
                "the refcount table",
            ),
        )
        if offset % cluster:
            raise FormatError(
                f"{self.name}: an L2 table is said to be at {offset}, not on a cluster boundary"
            )
        for start, length, what in tables:
            if start < offset + cluster and offset < start + length:
                raise FormatError(
                    f"{self.name}: an L2 table is said to be at {offset}, over {what}"
                )
        if offset + cluster > self.storage.size:
            raise FormatError(
                f"{self.name}: an L2 table is said to be at {offset}, but the file ends at "
                f"{self.storage.size}: it is truncated or damaged"
            )
        table = np.frombuffer(self.storage.read(offset, cluster), ">u8").astype(np.uint64)
        return table.reshape(-1, 2) if header.extended_l2 else table

    def _entries(self, first: int, count: int) -> tuple[Entries, Entries | None]:
        """L2 entries and subcluster bitmaps (None without them) of ``count`` clusters; 0 where the
        table is missing.
        """
        extended = self.header.extended_l2
        entries = np.zeros(count, np.uint64)
        bitmaps = np.zeros(count, np.uint64) if extended else None
        per_table = self.header.l2_entries
        position, end = first, first + count
        while position < end:
            index, start = divmod(position, per_table)
            stop = min(per_table, start + end - position)
            offset = int(self._l1[index] & _OFFSET)
            if offset:
                table = self._l2.get(offset)
                target = slice(position - first, position - first + stop - start)
                if bitmaps is None:
                    entries[target] = table[start:stop]
                else:
                    entries[target] = table[start:stop, 0]
                    bitmaps[target] = table[start:stop, 1]
            position += stop - start
        return entries, bitmaps

    def _describe_compressed(
        self, first: int, blocks: Blocks, entries: Entries, compressed: NDArray[np.bool_]
    ) -> None:
        """Fill in places and lengths: the descriptor counts sectors of 512 behind the first."""
        if self.header.external_data:
            bad = first + int(np.flatnonzero(compressed)[0])
            raise FormatError(
                f"{self.name}: virtual offset {bad * self.block_size} is compressed, which "
                "an image with an external data file cannot have"
            )
        shift = 62 - (self.header.cluster_bits - 8)
        places = (entries & np.uint64((1 << shift) - 1)).view(np.int64)
        sectors = (entries >> np.uint64(shift)) & np.uint64((1 << (62 - shift)) - 1)
        lengths = (sectors.astype(np.int64) + 1) * 512 - (places & 511)
        blocks.kinds[compressed] = COMPRESSED
        blocks.offsets[compressed] = places[compressed]
        blocks.lengths = np.where(compressed, lengths, 0)

    def _check(
        self,
        first: int,
        entries: Entries,
        kinds: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        compressed: NDArray[np.bool_],
    ) -> None:
        held = offsets >= 0
        wrong = held & ((offsets & (self.block_size - 1)) != 0)
        problem = "is not on a cluster boundary"
        if not wrong.any() and not self.header.external_data:
            wrong, problem = held & (offsets < self.block_size), "is inside the header"
        if not wrong.any() and self.header.external_data:
            numbers = np.arange(first, first + len(kinds), dtype=np.int64)
            wrong = held & (offsets != numbers * self.block_size)
            problem = "is not its place in the data file"
        if not wrong.any() and self.header.version < 3:
            wrong, problem = kinds == Kind.ZERO, "has a zero flag, which version 2 does not know"
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the L2 entry of virtual offset {(first + index) * self.block_size} "
                f"({int(entries[index]):#018x}) {problem}: the L2 table is damaged"
            )
