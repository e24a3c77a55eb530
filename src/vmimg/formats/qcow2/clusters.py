"""Clusters: which clusters of a qcow2 file are in use, and who gets the free ones.

Reference counts lie in refcount blocks, and the refcount table says where those are. Blocks are
kept in a bounded cache and written late; nothing here waits for the medium. In which order things
become durable is decided by `allocation`, which calls

1. `write_back`: counts that were raised, new refcount blocks, a new table; nobody points to them
   yet
2. `publish`: the table, or the header where the table has moved (if `unpublished`)
3. `settle`: counts that were lowered by `drop`, when nothing durable refers to those clusters any
   more

so a crash in between leaves clusters counted too high (leaks), never too low.

Spec: QEMU docs/interop/qcow2, "Host cluster management". Imports storage and numpy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import FormatError, StorageError
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.refcounts import pack_refcounts, unpack_refcounts
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["Clusters"]

# Memory for unpacked refcount blocks; two are held in any case.
_CACHE_BYTES: Final = 16 << 20
# Counts looked at in one step in search of a free cluster.
_SCAN: Final = 4096
# What L1 and L2 entries can point to: bits 9 to 55.
_END_OF_OFFSETS: Final = 1 << 56


@dataclass(slots=True)
class _Block:
    """A refcount block; [low, high) are the entries that the file does not have yet, if it is
    dirty.
    """

    offset: int
    counts: NDArray[Any]
    low: int = 0
    high: int = 0


class Clusters:
    """The allocator of one image file. Offsets in bytes, cluster numbers where it says so.

    ``l2_tables``: offsets of the active L2 tables, which must never be given out, whatever a
    damaged image's counts say. Not for several threads at once.
    """

    def __init__(
        self, storage: Storage, header: Qcow2Header, l2_tables: NDArray[np.uint64]
    ) -> None:
        self._storage = storage
        self._header = header
        self._cluster = header.cluster_size
        self._per_block = header.refcounts_per_block
        self._dtype = np.dtype(f"u{max(1, header.refcount_bits // 8)}")
        entry_bytes = self._per_block * self._dtype.itemsize
        self._capacity = max(2, _CACHE_BYTES // entry_bytes)
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._dirty: set[int] = set()
        # First fit: everything below is in use.
        self._hint = 0
        self._dropped: list[tuple[NDArray[np.int64], bool]] = []

        self._table = self._load_table()
        # Entries [low, high) of the table that the file does not have yet.
        self._table_low, self._table_high = len(self._table), 0
        # Where a table that outgrew its place goes: offset, clusters.
        self._moved: tuple[int, int] | None = None
        self._metadata = self._list_metadata(l2_tables)
        self._former_metadata: set[int] = set()

    # Giving out

    def allocate(self, count: int) -> NDArray[np.int64]:
        """Offsets (int64[count], ascending) of clusters that nothing refers to; counted once
        now.
        """
        found: list[NDArray[np.int64]] = []
        missing, position = count, self._hint
        try:
            while missing:
                index, row = divmod(position, self._per_block)
                block = self._block(index)
                stop = min(self._per_block, row + max(_SCAN, 2 * missing))
                rows = np.flatnonzero(block.counts[row:stop] == 0)[:missing] + row
                position = index * self._per_block + stop
                if not len(rows):
                    continue
                block.counts[rows] = 1
                self._touch(index, block, rows)
                found.append(rows + index * self._per_block)
                missing -= len(rows)
            numbers = np.concatenate(found) if found else np.empty(0, np.int64)
            offsets = numbers * self._cluster
            self.refuse_metadata(offsets)
        except (StorageError, FormatError):
            self.cancel(np.concatenate(found) * self._cluster if found else np.empty(0, np.int64))
            raise
        if count:
            self._hint = int(numbers[-1]) + 1
        return offsets

    def cancel(self, offsets: NDArray[np.int64]) -> None:
        """Take back clusters from `allocate` that nothing came to refer to. Never raises."""
        numbers = np.sort(offsets) // self._cluster
        try:
            for index, rows in self._by_block(numbers):
                block = self._block(index)
                block.counts[rows] = 0
                self._touch(index, block, rows)
                self._hint = min(self._hint, int(rows[0]) + index * self._per_block)
        except (StorageError, FormatError):
            pass  # they leak, which is harmless; what went wrong before is what the caller hears

    def drop(self, numbers: NDArray[np.int64], *, discard: bool = False) -> None:
        """One reference less to each of the clusters ``numbers`` (one may be named often).

        Takes effect with `settle`. ``discard``: give their space back to the system then.
        """
        if len(numbers):
            self._dropped.append((numbers, discard))

    @property
    def dropped(self) -> int:
        """How many references wait for `settle`."""
        return sum(len(numbers) for numbers, _ in self._dropped)

    def refuse_metadata(self, offsets: NDArray[np.int64]) -> None:
        """Raise FormatError if one of the clusters at ``offsets`` holds metadata.

        In a sound image it cannot; writing guest data there would destroy a damaged one for good.
        """
        wrong = self._metadata[np.searchsorted(self._metadata, offsets)] == offsets
        if not wrong.any():
            return
        for offset in offsets[wrong].tolist():
            if offset not in self._former_metadata:
                raise FormatError(
                    f"{self._storage.name}: the cluster at {offset} holds metadata, but its "
                    "refcount or an L2 entry says otherwise: the image is damaged; "
                    "run vmimg check --repair all"
                )

    # Bringing it to the file

    def write_back(self) -> None:
        """Write all counts that the file does not have, and a table that has a new place."""
        for index in sorted(self._dirty):
            self._write_block(index)
        if self._moved is not None:
            self._storage.write(self._moved[0], self._table.astype(">u8").tobytes())

    @property
    def unpublished(self) -> bool:
        """Whether the table in the file lacks refcount blocks that `write_back` wrote."""
        return self._moved is not None or self._table_low < self._table_high

    def publish(self) -> None:
        """Let the file's table name all refcount blocks."""
        header = self._header
        if self._moved is not None:
            offset, clusters = self._moved
            # Both fields lie side by side in one sector: no reader sees one without the other.
            place = s.Header.refcount_table_offset.offset
            self._storage.write(place, offset.to_bytes(8, "big") + clusters.to_bytes(4, "big"))
            first = header.refcount_table_offset // self._cluster
            self.drop(np.arange(first, first + header.refcount_table_clusters, dtype=np.int64))
            header.refcount_table_offset, header.refcount_table_clusters = offset, clusters
            self._moved = None
        else:
            entries = self._table[self._table_low : self._table_high]
            place = header.refcount_table_offset + self._table_low * 8
            self._storage.write(place, entries.astype(">u8").tobytes())
        self._table_low, self._table_high = len(self._table), 0

    def settle(self) -> None:
        """Lower the counts of what was dropped; clusters that come to zero may be given out
        again.
        """
        if not self._dropped:
            return
        numbers = np.concatenate([part for part, _ in self._dropped])
        discard = np.concatenate([np.full(len(part), flag) for part, flag in self._dropped])
        order = np.argsort(numbers, kind="stable")
        numbers, discard = numbers[order], discard[order]
        unused: list[NDArray[np.int64]] = []
        done = 0
        try:
            for index, rows in self._by_block(numbers):
                block = self._block(index)
                flags = discard[done : done + len(rows)]
                distinct, first, times = np.unique(rows, return_index=True, return_counts=True)
                held = block.counts[distinct]
                # A count that is too low already is damage that was there before; it stays at zero.
                lowered = held - np.minimum(held, times.astype(np.uint64)).astype(self._dtype)
                block.counts[distinct] = lowered
                self._touch(index, block, distinct)
                done += len(rows)
                free = distinct[lowered == 0] + index * self._per_block
                if len(free):
                    self._hint = min(self._hint, int(free[0]))
                    self._forget_metadata(free * self._cluster)
                    unused.append(free[flags[first][lowered == 0]])
        finally:
            # A failure must not let those that were done be counted down twice.
            rest, flags = numbers[done:], discard[done:]
            self._dropped = []
            self.drop(rest[~flags])
            self.drop(rest[flags], discard=True)
        self.write_back()
        self._punch(np.concatenate(unused) if unused else np.empty(0, np.int64))

    # Helpers

    def _punch(self, numbers: NDArray[np.int64]) -> None:
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        for run in np.split(numbers, breaks):
            if len(run):
                self._storage.discard(int(run[0]) * self._cluster, len(run) * self._cluster)

    def _forget_metadata(self, offsets: NDArray[np.int64]) -> None:
        """A table that is no longer one must not be taken for one when its cluster is given out."""
        found = self._metadata[np.searchsorted(self._metadata, offsets)] == offsets
        self._former_metadata.update(offsets[found].tolist())

    def _by_block(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(refcount block, entries in it) of ascending cluster numbers."""
        indexes = numbers // self._per_block
        breaks = np.flatnonzero(np.diff(indexes)) + 1
        for part in np.split(numbers, breaks):
            if len(part):
                index = int(part[0]) // self._per_block
                yield index, part - index * self._per_block

    def _list_metadata(self, l2_tables: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Offsets of the clusters that hold metadata when the image is opened, ascending.

        What becomes metadata later was free, and is counted as it is given out.
        """
        header, cluster = self._header, self._cluster
        ranges = (
            (0, cluster),
            (header.l1_table_offset, header.l1_size * 8),
            (header.refcount_table_offset, header.refcount_table_clusters * cluster),
        )
        parts = [np.arange(start, start + length, cluster) for start, length in ranges]
        parts += [part.astype(np.int64) for part in (l2_tables, self._table[self._table != 0])]
        # What ends a search that finds nothing.
        parts.append(np.array([np.iinfo(np.int64).max]))
        return np.sort(np.concatenate(parts))

    def _load_table(self) -> NDArray[np.uint64]:
        header = self._header
        length = header.refcount_table_clusters * self._cluster
        # The file may end inside the table's last cluster.
        here = min(length, self._storage.size - header.refcount_table_offset)
        data = self._storage.read(header.refcount_table_offset, here).ljust(length, b"\0")
        table = np.frombuffer(data, ">u8").astype(np.uint64)
        table &= np.uint64(s.REFTABLE_OFFSET_MASK)
        wrong = table[(table % np.uint64(self._cluster) != 0) | (table >= self._storage.size)]
        if len(wrong):
            raise FormatError(
                f"{self._storage.name}: a refcount block is said to be at {int(wrong[0])}, not on "
                "a cluster boundary or behind the end of the file; run vmimg check --repair all"
            )
        return table

    def _block(self, index: int) -> _Block:
        """The refcount block ``index``, made where there is none."""
        block = self._blocks.get(index)
        if block is not None:
            self._blocks.move_to_end(index)
            return block
        if index >= len(self._table):
            self._grow(index)
            return self._block(index)
        offset = int(self._table[index])
        if offset:
            here = min(self._cluster, self._storage.size - offset)
            data = self._storage.read(offset, here).ljust(self._cluster, b"\0")
            counts = unpack_refcounts(data, self._header.refcount_order, self._dtype)
            block = _Block(offset, counts)
            self._hold(index, block)
            return block
        # None of the clusters that it counts is in use, so it takes the first of them itself.
        offset = index * self._per_block * self._cluster
        self._check_end(offset + self._cluster)
        self.refuse_metadata(np.array([offset], np.int64))
        block = self._new_block(offset, 1)
        self._hold(index, block)
        self._enter(index, offset)
        return block

    def _new_block(self, offset: int, used: int) -> _Block:
        counts = np.zeros(self._per_block, self._dtype)
        counts[:used] = 1
        return _Block(offset, counts, 0, self._per_block)

    def _enter(self, index: int, offset: int) -> None:
        self._table[index] = offset
        self._table_low = min(self._table_low, index)
        self._table_high = max(self._table_high, index + 1)

    def _hold(self, index: int, block: _Block) -> None:
        while len(self._blocks) >= self._capacity:
            oldest = next(iter(self._blocks))
            # Counts may always be written early: raised ones are leaks at worst, and lowered ones
            # are lowered only when that is safe.
            self._write_block(oldest)
            del self._blocks[oldest]
        self._blocks[index] = block
        if block.low < block.high:
            self._dirty.add(index)

    def _touch(self, index: int, block: _Block, rows: NDArray[np.int64]) -> None:
        """The entries ``rows`` (ascending) have changed."""
        low, high = int(rows[0]), int(rows[-1]) + 1
        if index in self._dirty:
            low, high = min(low, block.low), max(high, block.high)
        block.low, block.high = low, high
        self._dirty.add(index)

    def _write_block(self, index: int) -> None:
        if index not in self._dirty:
            return
        block, order = self._blocks[index], self._header.refcount_order
        per_byte = max(1, 8 >> order)
        low, high = block.low // per_byte * per_byte, -(-block.high // per_byte) * per_byte
        place = block.offset + (low << order) // 8
        self._storage.write(place, pack_refcounts(block.counts[low:high], order))
        self._dirty.discard(index)

    def _grow(self, index: int) -> None:
        """A larger table, so that refcount block ``index`` has an entry.

        It lies at the start of what the old one could not count, refcount blocks for itself behind
        it.
        """
        cluster, per_block = self._cluster, self._per_block
        most = s.MAX_REFTABLE_BYTES // cluster
        tables = min(most, -(-(len(self._table) * 3 // 2) * 8 // cluster))
        blocks, total = 1, 0
        while tables <= most:
            total = tables + blocks
            if blocks * per_block < total:
                blocks = -(-total // per_block)
            elif (index + blocks) * 8 > tables * cluster:
                tables += 1
            else:
                break
        if tables > most:
            raise StorageError(
                f"{self._storage.name}: it cannot grow beyond "
                f"{format_size(index * per_block * cluster)}: its refcount table has reached "
                "QEMU's limit of 8 MiB; convert it to an image with a larger cluster_size"
            )
        start = index * per_block
        self._check_end((start + total) * cluster)
        self.refuse_metadata((start + np.arange(total, dtype=np.int64)) * cluster)
        table = np.zeros(tables * cluster // 8, np.uint64)
        table[: len(self._table)] = self._table
        try:
            for number in range(blocks):
                offset = (start + tables + number) * cluster
                used = min(per_block, total - number * per_block)
                self._hold(index + number, self._new_block(offset, used))
                table[index + number] = offset
        except StorageError:
            for number in range(blocks):
                self._blocks.pop(index + number, None)
                self._dirty.discard(index + number)
            raise
        outgrown, self._moved = self._moved, (start * cluster, tables)
        self._table = table
        self._table_low, self._table_high = len(table), 0
        if outgrown is not None:  # by now no table in the file: it was never published
            first, count = outgrown
            self.cancel(first + np.arange(count, dtype=np.int64) * cluster)

    def _check_end(self, end: int) -> None:
        if end > _END_OF_OFFSETS:
            raise StorageError(
                f"{self._storage.name}: no qcow2 file can be larger than "
                f"{format_size(_END_OF_OFFSETS)}"
            )
