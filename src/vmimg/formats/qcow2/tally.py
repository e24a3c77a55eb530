"""How often each cluster of a qcow2 image is referred to, and what its refcount blocks say.

Memory is bounded: clusters are counted in windows of 16 Mi (1 TiB of 64 KiB clusters), each a pass
over the L2 tables that reach into it, with 64 MiB for the counts. Everything is arrays; loops turn
once per batch of L2 tables, per refcount block or per window. Imports references, l2scan and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.pages import PageCache
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.l2scan import L2_RESERVED, Entries, Indexes, Mask, scan
from vmimg.formats.qcow2.refcounts import unpack_refcounts
from vmimg.formats.qcow2.references import (
    Counts,
    Findings,
    References,
    Span,
    Words,
    read_padded,
)
from vmimg.storage.base import Storage

__all__ = ["PIECE", "DiskRefcounts", "Misplaced", "Piece", "Tally"]

# A multiple of the clusters that any refcount block describes: 2 MiB of 1-bit counts at most.
_WINDOW: Final = 1 << 24
PIECE: Final = 1 << 20
"""Clusters of a `Piece`, or those of a refcount block where that has fewer."""
_BLOCK_CACHE_BYTES: Final = 16 << 20
# QEMU cannot read beyond this offset.
_MAX_OFFSET: Final = (1 << 63) - (1 << 30)
# Entries for repair to look at are remembered; more than these need a second run.
_MAX_REMEMBERED: Final = 1 << 20

_CountArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """Clusters from ``first``: what their refcount block says (``stored``), how often they are
    referred to (``counted``), both uint64. ``stored`` goes on to the end of the block, or is None
    where the block cannot be read.
    """

    first: int
    stored: Words | None
    counted: Words


@dataclass(frozen=True, slots=True)
class Misplaced:
    """An L2 entry without data whose preallocated cluster is not aligned."""

    table_offset: int
    position: int
    bitmap: int


class DiskRefcounts:
    """The refcounts that stand in the file, as far as its blocks can be read."""

    def __init__(self, storage: Storage, references: References) -> None:
        self._storage = storage
        self._header = references.header
        self._blocks = references.refblocks
        cluster = references.header.cluster_size
        self._bad = (self._blocks & np.uint64(cluster - 1)) != 0
        self._bad |= self._blocks > np.uint64(_MAX_OFFSET - cluster)
        self._raw = PageCache(self._load, max(2, _BLOCK_CACHE_BYTES // cluster))

    def block(self, index: int) -> tuple[int, bool]:
        """Offset of the block ``index`` (0: none), and whether it can be read."""
        if index >= len(self._blocks):
            return 0, True
        return int(self._blocks[index]), not self._bad[index]

    def any_between(self, first: int, last: int) -> bool:
        """Whether there is a block for clusters of [first, last)."""
        per_block = self._header.refcounts_per_block
        return bool(self._blocks[first // per_block : -(-last // per_block)].any())

    def part(self, index: int, start: int, count: int) -> Words:
        """``count`` refcounts of the block ``index`` from its entry ``start``: multiples of 8."""
        order = self._header.refcount_order
        offset, _ = self.block(index)
        if not offset:
            return np.zeros(count, np.uint64)
        raw = self._raw.get(offset)
        return unpack_refcounts(
            memoryview(raw)[(start << order) // 8 : ((start + count) << order) // 8], order
        )

    def at(self, clusters: Indexes) -> tuple[Words, Mask]:
        """The refcounts of ``clusters``, and which are known. Zero where there is no block."""
        counts = np.zeros(len(clusters), np.uint64)
        known = np.ones(len(clusters), np.bool_)
        per_block, order = self._header.refcounts_per_block, self._header.refcount_order
        inside = np.flatnonzero(clusters < len(self._blocks) * per_block)
        block_of = clusters[inside] // per_block
        present = self._blocks[block_of] != 0
        inside, block_of = inside[present], block_of[present]
        bad = self._bad[block_of]
        known[inside[bad]] = False
        inside, block_of = inside[~bad], block_of[~bad]
        if (block_of[1:] < block_of[:-1]).any():
            order_of = np.argsort(block_of, kind="stable")
            inside, block_of = inside[order_of], block_of[order_of]
        cuts = np.flatnonzero(np.diff(block_of)) + 1
        for group in np.split(inside, cuts):
            if len(group):
                raw = self._raw.get(int(self._blocks[clusters[group[0]] // per_block]))
                counts[group] = _pick(raw, clusters[group] % per_block, order)
        return counts, known

    def _load(self, offset: int) -> bytearray:
        return read_padded(self._storage, offset, self._header.cluster_size)


class Tally:
    """Counts references. `pieces` is the one pass over everything; the first one also audits.

    After it, ``findings`` and the numbers below are complete; a second call counts again, without
    reporting. ``without_refcounts`` leaves out the refcount table and blocks (and the snapshot
    table): what a new set of them has to describe.
    """

    def __init__(
        self,
        storage: Storage,
        references: References,
        findings: Findings,
        disk: DiskRefcounts,
        *,
        without_refcounts: bool = False,
    ) -> None:
        self._storage = storage
        self._references = references
        self._header = references.header
        self._findings = findings
        self._disk = disk
        self._bare = without_refcounts
        self.limit = (1 << self._header.refcount_bits) - 1
        """The highest refcount."""
        self.clusters = references.clusters
        """Clusters that are compared; one more than the file has where something ends in it."""
        self.broken_refblocks = False
        """The refcount table or its blocks are damaged beyond mending in place."""
        self.distant_refblocks = False
        """There are refcount blocks past the end of the file; those in it are to be trusted."""
        self.allocated = self.fragmented = self.compressed = 0
        self.misplaced: list[Misplaced] = []
        self.dangling: Indexes = np.empty(0, np.int64)
        """First clusters of references past the end of the file."""
        self._reporting = not without_refcounts
        tables = len(references.l2.offset)
        # The clusters that each table's entries refer to; a first pass finds out.
        self._low = np.full(tables, np.iinfo(np.int64).max, np.int64)
        self._high = np.full(tables, -1, np.int64)
        self._scanned = False

    def pieces(self) -> Iterator[Piece]:
        """All clusters in ascending order, except for stretches that nothing is known of."""
        references = self._references
        spans = [span for span in self._spans() if self._inside(span)]
        # Everything that may lie anywhere, looked up window by window.
        singles = np.concatenate([references.l2.offset, references.bitmap_data]).astype(np.int64)
        times = np.concatenate(
            [references.l2.total, np.ones(len(references.bitmap_data), np.int64)]
        )
        inside = self._inside_file(
            singles, self._header.cluster_size, times, self._reporting and "L2 tables or bitmaps"
        )
        singles, times = singles[inside], times[inside]
        refblocks = np.empty(0, np.int64) if self._bare else self._refblocks()
        dtype = np.uint32 if self._references_at_most() < 1 << 32 else np.uint64
        last = references.clusters + 1
        for start in range(0, last, _WINDOW):
            end = min(start + _WINDOW, last)
            if not self._is_of_interest(start, end, spans, singles, refblocks):
                continue
            window = _Window(start, np.zeros(end - start, dtype), self._header)
            for span in spans:
                window.add_span(span)
            window.add(singles, self._header.cluster_size, times)
            self._add_data(window)
            self._count_overflows(window)
            self._add_refblocks(window, refblocks)
            yield from self._compare(window)
        self._reporting = False

    def _spans(self) -> list[Span]:
        spans, table = list(self._references.spans), self._references.snapshot_table
        if not self._bare:
            header = self._header
            size = header.refcount_table_clusters * header.cluster_size
            if size:
                spans.append(Span("refcount table", header.refcount_table_offset, size))
            if table is not None:
                spans.append(table)
        return spans

    def _inside(self, span: Span) -> bool:
        """Whether a span ends in the file, or in its last cluster; reports it if not."""
        if span.offset + span.size - self._references.file_bytes < self._header.cluster_size:
            return True
        if self._reporting:
            self._findings.corrupt(
                f"{span.what}: {span.size} bytes at {span.offset:#x} end behind the file",
                span.times,
            )
            # Offsets that do not fit are nowhere near the end.
            self._remember(np.array([min(span.offset, _MAX_OFFSET)], np.int64))
        return False

    def _inside_file(
        self, offsets: Indexes, size: int | Indexes, times: Counts, report: str | bool
    ) -> Mask:
        """Which of the ranges end in the file; ``report`` names those that do not: corruptions."""
        outside: Mask = offsets + size - self._references.file_bytes >= self._header.cluster_size
        if report and outside.any():
            number = int(times[outside].sum())
            self._findings.corrupt(
                f"{number} references to {report} past the end of the file; one is to "
                f"{int(offsets[outside][0]):#x}",
                number,
            )
            self._remember(offsets[outside])
        return ~outside

    def _remember(self, offsets: Indexes) -> None:
        clusters = np.union1d(self.dangling, offsets >> self._header.cluster_bits)
        # The nearest ones matter: they are where the file would grow.
        self.dangling = clusters[:_MAX_REMEMBERED]

    def _refblocks(self) -> Indexes:
        """The clusters of refcount blocks that count; reports what is wrong with the others."""
        reftable, cluster = self._references.reftable, self._header.cluster_size
        offsets = self._references.refblocks
        reserved = (reftable & np.uint64(0x1FF)) != 0
        skewed = ((offsets & np.uint64(cluster - 1)) != 0) & ~reserved
        beyond = offsets >= np.uint64(self._references.clusters * cluster)
        beyond &= ~reserved & ~skewed
        if self._reporting:
            for mask, what in (
                (reserved, "entries of the refcount table have reserved bits set"),
                (skewed, "refcount blocks are not on a cluster boundary"),
                (beyond, "refcount blocks lie past the end of the file"),
            ):
                number = int(np.count_nonzero(mask))
                if number:
                    first = int(np.flatnonzero(mask)[0])
                    self._findings.corrupt(
                        f"{number} {what}; the first is entry {first}, {int(reftable[first]):#x}",
                        number,
                    )
                    if mask is beyond:
                        self.distant_refblocks = True
                    else:
                        self.broken_refblocks = True
        good = offsets[~(reserved | skewed | beyond) & (offsets != 0)]
        clusters: Indexes = (good // np.uint64(cluster)).astype(np.int64)
        return clusters

    def _references_at_most(self) -> int:
        total = int(self._references.l2.total.sum()) * (self._header.l2_entries * 3 + 1)
        total += sum(span.times for span in self._references.spans) + len(self._references.reftable)
        return total + len(self._references.bitmap_data) + 4

    def _is_of_interest(
        self, start: int, end: int, spans: list[Span], singles: Indexes, refblocks: Indexes
    ) -> bool:
        low, high = start << self._header.cluster_bits, end << self._header.cluster_bits
        return (
            not self._scanned
            or self._disk.any_between(start, end)
            or any(span.offset < high and span.offset + span.size > low for span in spans)
            or bool(((self._low < end) & (self._high >= start)).any())
            or bool(((singles < high) & (singles + self._header.cluster_size > low)).any())
            or bool(((refblocks >= start) & (refblocks < end)).any())
        )

    def _add_data(self, window: _Window) -> None:
        tables = self._references.l2
        wanted = np.ones(len(tables.offset), np.bool_)
        if self._scanned:
            wanted = (self._low < window.end) & (self._high >= window.start)
        for entries in scan(self._storage, self._header, tables, wanted):
            reporting = self._reporting and not self._scanned
            if reporting:
                self._audit(entries)
            for offsets, sizes, numbers in self._references_of(entries):
                times = tables.total[numbers]
                inside = self._inside_file(offsets, sizes, times, reporting and "data clusters")
                offsets, numbers, times = offsets[inside], numbers[inside], times[inside]
                if isinstance(sizes, np.ndarray):
                    sizes = sizes[inside]
                if not self._scanned and len(offsets):
                    # Entries come table by table.
                    firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
                    bits, table = self._header.cluster_bits, numbers[firsts]
                    low = np.minimum.reduceat(offsets, firsts) >> bits
                    high = np.maximum.reduceat(offsets + sizes - 1, firsts) >> bits
                    self._low[table] = np.minimum(self._low[table], low)
                    self._high[table] = np.maximum(self._high[table], high)
                window.add(offsets, sizes, times)
        self._scanned = True

    def _references_of(self, entries: Entries) -> Iterator[tuple[Indexes, int | Indexes, Indexes]]:
        """(offsets, sizes, table numbers) of the clusters that entries hold in this file."""
        if self._header.external_data:
            return
        stored = entries.stored
        yield (
            entries.offset[stored].astype(np.int64),
            self._header.cluster_size,
            entries.table[stored],
        )
        compressed = entries.compressed
        # QEMU does not count a compressed entry with subclusters, which cannot be.
        sound = entries.bitmap[compressed] == 0
        offsets, sizes = entries.spans()
        yield offsets[sound], sizes[sound], entries.table[compressed][sound]

    def _audit(self, entries: Entries) -> None:
        """Count what is wrong with the entries themselves, and how they lie."""
        tables, header = self._references.l2, self._header
        times = tables.total[entries.table]
        compressed, stored, offset = entries.compressed, entries.stored, entries.offset
        halves = (entries.bitmap >> np.uint64(32)) & entries.bitmap
        taken = (entries.bitmap & np.uint64(0xFFFF_FFFF)) != 0
        skewed = stored & ((offset & np.uint64(header.cluster_size - 1)) != 0)
        damaged = compressed & header.external_data
        bitmapped = compressed & (entries.bitmap != 0) & (not header.external_data)
        for wrong, what in (
            (
                ~compressed & ((entries.entry & np.uint64(L2_RESERVED)) != 0),
                "reserved bits are set",
            ),
            (compressed & entries.copied, "a compressed cluster has the COPIED flag"),
            (damaged, "a compressed cluster, although there is a data file"),
            (bitmapped, "a compressed cluster has subclusters"),
            (stored & (halves != 0), "subclusters are both stored and zeros"),
            (skewed, "the cluster is not on a cluster boundary"),
            (~compressed & ~stored & taken, "subclusters are stored, but there is no cluster"),
        ):
            if wrong.any():
                first = int(np.flatnonzero(wrong)[0])
                number = int(times[wrong].sum())
                self._findings.corrupt(
                    f"{number} L2 entries: {what}; one is {int(entries.entry[first]):#018x}, entry "
                    f"{int(entries.position[first])} of the table at "
                    f"{int(tables.offset[entries.table[first]]):#x}",
                    number,
                )
        without_data = ~taken if header.extended_l2 else entries.zero
        for index in np.flatnonzero(skewed & without_data)[: _MAX_REMEMBERED - len(self.misplaced)]:
            home = int(tables.offset[entries.table[index]])
            position, bitmap = int(entries.position[index]), int(entries.bitmap[index])
            self.misplaced.append(Misplaced(home, position, bitmap))
        active = tables.active[entries.table]
        packed = compressed & ~damaged & ~bitmapped
        self.compressed += int(active[packed].sum())
        # Compressed clusters share sectors, so QEMU counts every one of them as fragmented.
        self.fragmented += int(active[packed].sum())
        self.allocated += int(active[packed | stored].sum())
        where, table = offset[stored], entries.table[stored]
        apart = (where[1:] != where[:-1] + np.uint64(header.cluster_size)) & (
            table[1:] == table[:-1]
        )
        self.fragmented += int(active[stored][1:][apart].sum())

    def _count_overflows(self, window: _Window) -> None:
        if self._references.clusters in range(window.start, window.end) and window.counts[-1]:
            self.clusters = self._references.clusters + 1
        if not self._reporting:
            return
        excess = window.counts[window.counts > self.limit]
        self._report_overflows(int(excess.sum(dtype=np.uint64)) - len(excess) * self.limit)

    def _report_overflows(self, number: int) -> None:
        if number > 0:
            self._findings.corrupt(
                f"{number} references are more than refcounts of "
                f"{self._header.refcount_bits} bits can count",
                number,
            )

    def _add_refblocks(self, window: _Window, refblocks: Indexes) -> None:
        """Count the refcount blocks last: each must be the only thing in its cluster."""
        here = refblocks[(refblocks >= window.start) & (refblocks < window.end)] - window.start
        if not len(here):
            return
        unique = np.unique(here, return_counts=True)
        clusters: Indexes = unique[0]
        times: Counts = unique[1]
        counts = window.counts[clusters].astype(np.uint64)
        before: Counts = np.minimum(counts, np.uint64(self.limit)).astype(np.int64)
        window.counts[clusters] = before + times
        if self._reporting:
            # The first use of a free cluster is as it should be. A 1-bit count cannot say more
            # than one, so there the sharing shows as an overflow only.
            shared = times - (before == 0) if self.limit > 1 else np.zeros_like(times)
            number = int(shared.sum())
            if number:
                self.broken_refblocks = True
                first = int(clusters[np.flatnonzero(shared)[0]]) + window.start
                self._findings.corrupt(
                    f"{number} refcount blocks share their cluster with something else; one is at "
                    f"{first << self._header.cluster_bits:#x}",
                    number,
                )
            # Python numbers: the limit of 64-bit counts is beyond int64.
            over = np.maximum(before + times - min(self.limit, np.iinfo(np.int64).max), 0)
            self._report_overflows(int(over.sum()))

    def _compare(self, window: _Window) -> Iterator[Piece]:
        per_block = self._header.refcounts_per_block
        step = min(per_block, PIECE)
        end = min(window.end, self.clusters)
        for first in range(window.start, end, step):
            counts = window.counts[first - window.start : min(first + step, end) - window.start]
            counted = np.minimum(counts, np.uint64(self.limit), dtype=np.uint64)
            index, start = divmod(first, per_block)
            _, readable = self._disk.block(index)
            stored = self._disk.part(index, start, step) if readable else None
            yield Piece(first, stored, counted)


class _Window:
    """The counts of clusters [start, end)."""

    def __init__(self, start: int, counts: _CountArray, header: Qcow2Header) -> None:
        self.start = start
        self.end = start + len(counts)
        self.counts = counts
        self._bits = header.cluster_bits

    def add_span(self, span: Span) -> None:
        first = max(span.offset >> self._bits, self.start)
        last = min((span.offset + span.size - 1) >> self._bits, self.end - 1)
        if first <= last:
            self.counts[first - self.start : last + 1 - self.start] += span.times

    def add(self, offsets: Indexes, sizes: int | Indexes, times: Counts) -> None:
        """Ranges of at most a few clusters each."""
        if not len(offsets):
            return
        first, last = offsets >> self._bits, (offsets + sizes - 1) >> self._bits
        for step in range(int((last - first).max()) + 1):
            clusters = first + step
            here = (clusters <= last) & (clusters >= self.start) & (clusters < self.end)
            # Numbers as an array: with a scalar, numpy's add.at is forty times slower.
            weights = times[here].astype(self.counts.dtype)
            np.add.at(self.counts, clusters[here] - self.start, weights)


def _pick(raw: bytearray, entries: Indexes, order: int) -> Words:
    """The refcounts at ``entries`` of a block."""
    if order >= 3:
        width = 1 << (order - 3)
        return np.frombuffer(raw, f">u{width}")[entries].astype(np.uint64)
    per_byte = 8 >> order
    values = np.frombuffer(raw, np.uint8)[entries // per_byte]
    shifts = ((entries % per_byte) << order).astype(np.uint8)
    return (values >> shifts & np.uint8((1 << (1 << order)) - 1)).astype(np.uint64)
