"""Repair of qcow2 images: what `vmimg check --repair leaks|all` changes, and in which order.

Every step leaves the image at least as good as it was, so a kill between any two writes is no harm:

1. ``all``: entries without data whose preallocated cluster is not aligned become plain zeros.
2. Refcounts. Blocks that are sound are corrected in place. Where blocks are missing or damaged, a
   new table with new blocks is written to clusters that nothing uses, and one write of 24 bytes in
   the header (table, and the snapshot table where that is made anew too) changes over.
3. COPIED flags, once the refcounts are durable.
4. The dirty and corrupt bits, once nothing is wrong.

Guest data is never moved or written. Imports check, tally and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vmimg.errors import FormatError
from vmimg.formats.driver import CheckReport
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.check import Survey, wrong_copied
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.l2scan import Entries, Indexes, Mask, scan
from vmimg.formats.qcow2.refcounts import pack_refcounts
from vmimg.formats.qcow2.references import MAX_SNAPSHOT_EXTRA, Span, Words, read_padded
from vmimg.formats.qcow2.snapshots import SnapshotRecord
from vmimg.formats.qcow2.tally import PIECE, DiskRefcounts, Tally
from vmimg.storage.base import Storage

__all__ = ["mend"]

_KNOWN_AUTOCLEAR: Final = s.BITMAPS_CONSISTENT | s.DATA_FILE_RAW
# A snapshot that was taken without an instruction counter.
_NO_ICOUNT: Final = (1 << 64) - 1
# New structures at the end of the file can turn references past the end into references into it,
# which a second set then counts.
_MAX_REBUILDS: Final = 3


def mend(storage: Storage, repair: str) -> CheckReport:
    """Repair ``storage`` ("leaks" or "all") and check it again."""
    everything = repair == "all"
    fixed = _Fixed()
    if everything:
        fixed.corruptions += _drop_excess_snapshots(storage)
    survey = Survey.take(storage)
    lost = survey.references.lost_snapshots
    if everything and lost:
        # As QEMU does, in effect: with all of them, and all they had.
        _set_snapshots(storage, survey.header.nb_snapshots - lost)
        fixed.corruptions += lost
        survey = Survey.take(storage)
    if everything and survey.references.broken_bitmaps:
        # Without the bit, every reader takes the bitmaps for stale.
        _write_features(storage, survey.header, clear_auto=s.BITMAPS_CONSISTENT)
        fixed.corruptions += 1
        survey = Survey.take(storage)
    if not survey.references.complete:
        survey.findings.fail("nothing is repaired while a structure cannot be read")
        return fixed.report(survey)
    if everything and survey.tally.misplaced:
        fixed.corruptions += _zero_misplaced(storage, survey)
        survey = Survey.take(storage)
    short = survey.references.short_snapshots
    if survey.rebuild and not everything:
        survey.findings.fail("the refcount blocks are damaged: only --repair all can mend that")
        return fixed.report(survey)
    if everything and (survey.rebuild or survey.tally.distant_refblocks or short):
        fixed.corruptions += sum(
            len(record.extra) > MAX_SNAPSHOT_EXTRA for record in survey.references.snapshots
        )
        for _ in range(_MAX_REBUILDS):
            survey = _rebuild(storage, survey, fixed)
            if not (survey.rebuild or survey.tally.distant_refblocks):
                break
    elif survey.leaks or (everything and survey.findings.corruptions):
        _correct(storage, survey, fixed, everything)
        survey = Survey.take(storage)
    others = survey.findings.corruptions - survey.copied - survey.references.short_snapshots
    clean = not (others > 0 or survey.leaks or survey.findings.errors)
    # With wrong refcounts left, the flags cannot be judged: only "all" dares.
    if survey.copied and (everything or clean):
        fixed.corruptions += _fix_copied(storage, survey)
        survey = Survey.take(storage)
    if not (survey.findings.errors or survey.findings.corruptions):
        _clear_bits(storage, survey.header)
    return fixed.report(survey)


@dataclass(slots=True)
class _Fixed:
    leaks: int = 0
    corruptions: int = 0

    def report(self, survey: Survey) -> CheckReport:
        report = survey.report()
        report.fixed_leaks, report.fixed_corruptions = self.leaks, self.corruptions
        return report


def _drop_excess_snapshots(storage: Storage) -> int:
    """Keep the 65536 snapshots that readers accept; returns how many went. Raises FormatError."""
    head = s.Header.from_buffer_copy(storage.read(0, s.V2_LENGTH).ljust(s.V3_FULL_LENGTH, b"\0"))
    excess = int(head.nb_snapshots) - s.MAX_SNAPSHOTS
    if bytes(head.magic) != s.MAGIC or excess <= 0:
        return 0
    _set_snapshots(storage, s.MAX_SNAPSHOTS)
    return excess


def _set_snapshots(storage: Storage, number: int) -> None:
    """Cut the list of snapshots short."""
    storage.write(s.Header.nb_snapshots.offset, number.to_bytes(4, "big"))
    storage.flush()


def _zero_misplaced(storage: Storage, survey: Survey) -> int:
    """Make zeros of entries that have no data; returns how many were written."""
    header, fixed = survey.header, 0
    sound = _sound_tables(storage, survey)
    for entry in survey.tally.misplaced:
        if entry.table_offset not in sound:
            continue
        # With subclusters, those that the entry has (as zeros) stay zeros, the rest stays absent.
        words = [0, entry.bitmap & 0xFFFF_FFFF_0000_0000] if header.extended_l2 else [s.ZERO_FLAG]
        storage.write(
            entry.table_offset + entry.position * header.l2_entry_size,
            b"".join(word.to_bytes(8, "big") for word in words),
        )
        fixed += 1
    storage.flush()
    return fixed


def _sound_tables(storage: Storage, survey: Survey) -> set[int]:
    """Offsets of the L2 tables that may be written: in the file, aligned, and in nobody's way."""
    references, header = survey.references, survey.header
    offsets = references.l2.offset
    cluster = np.uint64(header.cluster_size)
    sound = (offsets & (cluster - np.uint64(1))) == 0
    sound &= offsets < np.uint64(storage.size)
    for block in (references.refblocks, references.bitmap_data):
        sound &= ~np.isin(offsets, block // cluster * cluster)
    size = header.refcount_table_clusters * header.cluster_size
    spans = [*references.spans, Span("refcount table", header.refcount_table_offset, size)]
    if references.snapshot_table is not None:
        spans.append(references.snapshot_table)
    for span in spans:
        end = np.uint64(span.offset + span.size)
        sound &= (offsets + cluster <= np.uint64(span.offset)) | (offsets >= end)
    return set(offsets[sound].tolist())


def _correct(storage: Storage, survey: Survey, fixed: _Fixed, everything: bool) -> None:
    """Write right refcounts into the blocks that there are."""
    header = survey.header
    per_block, order = header.refcounts_per_block, header.refcount_order
    for piece in survey.tally.pieces():
        if piece.stored is None:
            continue
        stored = piece.stored[: len(piece.counted)]
        high = stored > piece.counted
        wrong = high | (stored < piece.counted) if everything else high
        index, start = divmod(piece.first, per_block)
        offset, _ = survey.disk.block(index)
        if not offset or not wrong.any():
            continue
        counts = piece.stored.copy()
        counts[: len(stored)][wrong] = piece.counted[wrong]
        storage.write(offset + (start << order) // 8, pack_refcounts(counts, order))
        fixed.leaks += int(np.count_nonzero(high))
        fixed.corruptions += int(np.count_nonzero(wrong & ~high))
    storage.flush()


def _fix_copied(storage: Storage, survey: Survey) -> int:
    """Set and clear COPIED as the refcounts say; returns how many entries were wrong."""
    header, fixed = survey.header, 0
    wrong = np.flatnonzero(survey.wrong_l1() & _is_alone(survey))
    flag = np.uint64(s.COPIED)
    for index in wrong:
        entry = survey.references.l1[index] ^ flag
        storage.write(header.l1_table_offset + int(index) * 8, int(entry).to_bytes(8, "big"))
    fixed += len(wrong)
    sound = survey.active_tables()
    good = np.fromiter(_sound_tables(storage, survey), np.uint64)
    sound &= np.isin(survey.references.l2.offset, good)
    for entries in scan(storage, header, survey.references.l2, sound):
        flags = wrong_copied(entries, survey.disk)
        fixed += int(np.count_nonzero(flags))
        _write_flipped(storage, survey, entries, flags)
    storage.flush()
    return fixed


def _is_alone(survey: Survey) -> bool:
    """Whether nothing else lies where the active L1 table is."""
    references, header = survey.references, survey.header
    start, end = header.l1_table_offset, header.l1_table_offset + header.l1_size * 8
    active = references.l2.offset[survey.active_tables()]
    offsets = np.concatenate([active, references.refblocks, references.bitmap_data])
    offsets = offsets[offsets != 0]
    shared = (offsets < np.uint64(end)) & (offsets + np.uint64(header.cluster_size) > start)
    size = header.refcount_table_clusters * header.cluster_size
    spans = [*references.spans, Span("refcount table", header.refcount_table_offset, size)]
    if references.snapshot_table is not None:
        spans.append(references.snapshot_table)
    sharing = [span for span in spans if span.offset < end and span.offset + span.size > start]
    return not shared.any() and len(sharing) == 1


def _write_flipped(storage: Storage, survey: Survey, entries: Entries, flags: Mask) -> None:
    """Flip COPIED in the entries that ``flags`` names, with one write per table."""
    tables, cluster = survey.references.l2, survey.header.cluster_size
    step = survey.header.l2_entry_size // 8
    numbers, positions = entries.table[flags], entries.position[flags]
    for number in np.unique(numbers):
        offset = int(tables.offset[number])
        words = np.frombuffer(read_padded(storage, offset, cluster), ">u8")
        words[positions[numbers == number] * step] ^= np.uint64(s.COPIED)
        storage.write(offset, words.tobytes())


def _clear_bits(storage: Storage, header: Qcow2Header) -> None:
    """The image is whole: say so. Also drop autoclear features that vmimg does not keep up."""
    _write_features(
        storage,
        header,
        clear=s.DIRTY | s.CORRUPT,
        clear_auto=header.autoclear_features & ~_KNOWN_AUTOCLEAR,
    )


def _write_features(
    storage: Storage, header: Qcow2Header, *, clear: int = 0, clear_auto: int = 0
) -> None:
    """Clear bits of the incompatible and the autoclear features, if one of them is set."""
    if not (header.incompatible_features & clear or header.autoclear_features & clear_auto):
        return
    fields = (
        header.incompatible_features & ~clear,
        header.compatible_features,
        header.autoclear_features & ~clear_auto,
    )
    storage.flush()
    storage.write(
        s.Header.incompatible_features.offset, b"".join(f.to_bytes(8, "big") for f in fields)
    )
    storage.flush()


# Rebuilding


def _rebuild(storage: Storage, before: Survey, fixed: _Fixed) -> Survey:
    """New refcount table, blocks and, where it is wrong, snapshot table; then a new survey."""
    header, references = before.header, before.references
    short = references.short_snapshots
    snapshots = _pack_snapshots(references.snapshots) if short else b""
    tally = _bare_tally(storage, before, keep_snapshots=not short)
    plan = _Plan.make(storage, before, tally, len(snapshots))
    _write_blocks(storage, tally, plan, header)
    table = np.zeros(plan.table_clusters * header.cluster_size // 8, ">u8")
    table[plan.blocks] = plan.places * header.cluster_size
    storage.write(plan.table * header.cluster_size, table.tobytes())
    snapshots_offset = header.snapshots_offset
    if snapshots:
        snapshots_offset = plan.snapshots * header.cluster_size
        padding = plan.snapshot_clusters * header.cluster_size - len(snapshots)
        storage.write(snapshots_offset, snapshots + bytes(padding))
    storage.flush()
    change = (
        (plan.table * header.cluster_size).to_bytes(8, "big")
        + plan.table_clusters.to_bytes(4, "big")
        + header.nb_snapshots.to_bytes(4, "big")
        + snapshots_offset.to_bytes(8, "big")
    )
    storage.write(s.Header.refcount_table_offset.offset, change)
    storage.flush()
    after = Survey.take(storage)
    was = before.findings.corruptions - before.copied
    fixed.corruptions += max(0, was - (after.findings.corruptions - after.copied))
    fixed.leaks += max(0, before.leaks - after.leaks)
    return after


def _bare_tally(storage: Storage, survey: Survey, *, keep_snapshots: bool) -> Tally:
    """Counts without the structures that are about to be replaced."""
    references = survey.references
    if keep_snapshots and references.snapshot_table is not None:
        spans = [*references.spans, references.snapshot_table]
    else:
        spans = list(references.spans)
    # None of the old blocks is to be looked at.
    bare = replace(references, spans=spans, reftable=np.empty(0, np.uint64))
    disk = DiskRefcounts(storage, bare)
    return Tally(storage, bare, survey.findings, disk, without_refcounts=True)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the new structures go; all numbers are clusters."""

    blocks: Indexes
    """Which refcount blocks there will be, ascending."""
    places: Indexes
    """The cluster of each."""
    table: int
    table_clusters: int
    snapshots: int
    snapshot_clusters: int

    @classmethod
    def make(cls, storage: Storage, survey: Survey, tally: Tally, snapshot_bytes: int) -> _Plan:
        header = survey.header
        per_block, cluster = header.refcounts_per_block, header.cluster_size
        needed, free, end = _free_clusters(survey, tally, snapshot_bytes)
        snapshot_clusters = -(-snapshot_bytes // cluster)
        while True:
            table_clusters = -(-(int(needed[-1]) + 1) * 8 // cluster)
            if table_clusters * cluster > s.MAX_REFTABLE_BYTES:
                raise FormatError(
                    f"{storage.name}: cannot be repaired: it needs a refcount table of "
                    f"{table_clusters * cluster} bytes, and 8 MiB are allowed"
                )
            space = _Space(free, end)
            table = space.take_run(table_clusters)
            snapshots = space.take_run(snapshot_clusters)
            plan = cls(
                needed,
                space.take(len(needed)),
                table,
                table_clusters,
                snapshots,
                snapshot_clusters,
            )
            # What was placed needs a refcount as well, perhaps in a block that was not planned.
            more = np.union1d(needed, plan.used() // per_block)
            if len(more) == len(needed):
                return plan
            needed = more

    def used(self) -> Indexes:
        """All clusters that the new structures take."""
        return np.concatenate(
            [
                self.places,
                np.arange(self.table, self.table + self.table_clusters),
                np.arange(self.snapshots, self.snapshots + self.snapshot_clusters),
            ]
        ).astype(np.int64)


class _Space:
    """Free clusters: those in the file, ascending, then all from ``end``."""

    def __init__(self, free: Indexes, end: int) -> None:
        self._free = free
        self._end = end

    def take(self, count: int) -> Indexes:
        """``count`` clusters, anywhere."""
        found, self._free = self._free[:count], self._free[count:]
        missing = count - len(found)
        self._end += missing
        return np.concatenate([found, np.arange(self._end - missing, self._end)]).astype(np.int64)

    def take_run(self, count: int) -> int:
        """The first of ``count`` clusters that lie together."""
        free = self._free
        if count and len(free) >= count:
            starts = np.flatnonzero(free[count - 1 :] - free[: len(free) - count + 1] == count - 1)
            if len(starts):
                first = int(starts[0])
                self._free = np.delete(free, slice(first, first + count))
                return int(free[first])
        self._end += count
        return self._end - count


def _free_clusters(survey: Survey, tally: Tally, spare: int) -> tuple[Indexes, Indexes, int]:
    """Numbers of the refcount blocks needed; enough clusters that nobody uses; where the file ends.

    The old structures stay valid until the header names the new ones: their clusters are in use.
    """
    header = survey.header
    references = survey.references
    per_block, bits = header.refcounts_per_block, header.cluster_bits
    taken = [_clusters_of(references.refblocks, bits)]
    old = [Span("", header.refcount_table_offset, header.refcount_table_clusters << bits)]
    if references.snapshot_table is not None:
        old.append(references.snapshot_table)
    for span in old:
        last = min((span.offset + span.size - 1) >> bits, references.clusters)
        taken.append(np.arange(span.offset >> bits, last + 1))
    in_use = np.unique(np.concatenate(taken))
    # Never more than these are asked for: a block per `per_block` clusters, their table, a rest.
    wanted = 2 * (references.clusters // per_block + 2) + (spare >> bits) + 2
    needed: list[Indexes] = []
    free: list[Indexes] = []
    found = 0
    for piece in tally.pieces():
        used = np.flatnonzero(piece.counted)
        if len(used):
            needed.append(np.unique((piece.first + used) // per_block))
        if found < wanted:
            empty = piece.first + np.flatnonzero(piece.counted == 0)
            # A cluster that the file ends in is not whole.
            empty = empty[empty < references.clusters - 1]
            empty = np.setdiff1d(empty, in_use, assume_unique=True)[: wanted - found]
            free.append(empty)
            found += len(empty)
    blocks = np.unique(np.concatenate(needed)).astype(np.int64)
    end = tally.clusters
    for cluster in np.sort(survey.tally.dangling).tolist():
        if cluster >= end + wanted:
            break
        # A broken entry that points past the end must not point at what is placed there.
        end = max(end, cluster + 3)
    return blocks, np.concatenate([np.empty(0, np.int64), *free]), end


def _clusters_of(offsets: Words, bits: int) -> Indexes:
    clusters: Indexes = (offsets[offsets != 0] >> np.uint64(bits)).astype(np.int64)
    return clusters


def _write_blocks(storage: Storage, tally: Tally, plan: _Plan, header: Qcow2Header) -> None:
    """The new refcount blocks: first what they say of themselves, then what refers to the rest."""
    per_block, order = header.refcounts_per_block, header.refcount_order
    step = min(per_block, PIECE)
    used = np.sort(plan.used())

    def write(first: int, counts: Words) -> None:
        low, high = np.searchsorted(used, [first, first + len(counts)])
        counts[used[low:high] - first] = 1
        block, start = divmod(first, per_block)
        place = int(plan.places[np.searchsorted(plan.blocks, block)]) << header.cluster_bits
        storage.write(place + (start << order) // 8, pack_refcounts(counts, order))

    for block in plan.blocks:
        for start in range(0, per_block, step):
            write(int(block) * per_block + start, np.zeros(step, np.uint64))
    for piece in tally.pieces():
        if piece.counted.any():
            counts = np.zeros(step, np.uint64)
            counts[: len(piece.counted)] = piece.counted
            write(piece.first, counts)


def _pack_snapshots(records: list[SnapshotRecord]) -> bytes:
    """The snapshot table, with extra data as version 3 asks for, and no more than is allowed."""
    packed = bytearray()
    for record in records:
        snapshot = record.snapshot
        known = s.SnapshotExtra(
            vm_state_size=snapshot.vm_state_size,
            disk_size=snapshot.disk_size,
            icount=_NO_ICOUNT if snapshot.icount is None else snapshot.icount,
        )
        # Half a field is no field.
        extra = record.extra[:MAX_SNAPSHOT_EXTRA]
        if len(extra) < len(bytes(known)):
            extra = extra[: len(extra) // 8 * 8]
            extra += bytes(known)[len(extra) :]
        id_bytes = snapshot.id.encode("utf-8", "surrogateescape")
        name = snapshot.name.encode("utf-8", "surrogateescape")
        packed += bytes(
            s.SnapshotEntry(
                l1_table_offset=record.l1_table_offset,
                l1_size=record.l1_size,
                id_str_size=len(id_bytes),
                name_size=len(name),
                date_sec=snapshot.date_sec,
                date_nsec=snapshot.date_nsec,
                vm_clock_nsec=snapshot.vm_clock_nsec,
                # Readers of the old field take 0 for "no state", not part of one.
                vm_state_size=snapshot.vm_state_size if snapshot.vm_state_size < 1 << 32 else 0,
                extra_data_size=len(extra),
            )
        )
        packed += extra + id_bytes + name
        packed += bytes(-len(packed) % 8)
    return bytes(packed)
