"""What the structures of a qcow2 image refer to, gathered for check.

`gather` reads everything but the L2 tables themselves, which are too many to hold and are scanned
afterwards (tally.py). Nothing is believed: like QEMU's, the reader takes what lies behind the end
of the file for zeros, and counts a corruption where something refers to it. Imports the parsers of
this package, and numpy.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.bitmaps import IN_USE, Bitmap, read_bitmaps, read_extension
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.snapshots import SnapshotRecord, read_snapshots
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView
from vmimg.units import MIB, align_up, format_size

__all__ = ["Findings", "L2Tables", "References", "Span", "gather", "read_padded"]

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

L1_RESERVED: Final = 0x7F00_0000_0000_01FF
"""Bits of an L1 entry that must be zero."""
BITMAP_RESERVED: Final = 0xFF00_0000_0000_01FE
"""Bits of a bitmap table entry that must be zero; bit 0, "all ones", only with an offset."""
MAX_SNAPSHOT_EXTRA: Final = 1024
"""Bytes of extra data of a snapshot that QEMU accepts."""

# Version 3 asks for the 64-bit VM state size and the disk size in each snapshot's extra data.
_SNAPSHOT_EXTRA_V3: Final = 16
_MAX_BITMAP_BYTES: Final = 512 * MIB
# QEMU counts clusters in an int here, and does not check what has more of them either.
_MAX_CLUSTERS: Final = (1 << 31) - 1
# Tables that do not overlap fit in the file. A little more is tolerated, so that overlaps can be
# counted; much more is an attempt to keep the reader busy.
_SPARE_BYTES: Final = 256 * MIB
_MAX_LINES: Final = 100
# L1 entries that wait to be merged into the list of L2 tables.
_PENDING: Final = 1 << 20


@dataclass(slots=True)
class Findings:
    """Corruptions and internal errors so far, and lines about the first of them."""

    corruptions: int = 0
    errors: int = 0
    lines: list[str] = field(default_factory=list)

    def corrupt(self, line: str, count: int = 1) -> None:
        """``count`` more corruptions, described by one line."""
        self.corruptions += count
        self.note(line)

    def fail(self, line: str, count: int = 1) -> None:
        """``count`` more things that could not be checked."""
        self.errors += count
        self.note(line)

    def note(self, line: str) -> None:
        """A line for people; the last one that is kept says that there were more."""
        if len(self.lines) < _MAX_LINES:
            self.lines.append(line)
        elif len(self.lines) == _MAX_LINES:
            self.lines.append("(there is more; only the first problems are listed)")


@dataclass(frozen=True, slots=True)
class Span:
    """``size`` bytes at ``offset`` that belong to one structure, which is named ``times`` times."""

    what: str
    offset: int
    size: int
    times: int = 1


@dataclass(slots=True)
class L2Tables:
    """All L2 tables, each once, by offset; ``active`` and ``total`` count the references to it."""

    offset: Words
    active: Counts
    total: Counts


@dataclass(slots=True)
class References:
    """Everything that refers to clusters, but for the L2 tables' content."""

    header: Qcow2Header
    file_bytes: int
    """Size of the file in whole sectors."""
    spans: list[Span]
    l1: Words
    """The active L1 table."""
    l2: L2Tables
    bitmap_data: Words
    """Offsets of the clusters of bitmaps."""
    reftable: Words
    snapshots: list[SnapshotRecord]
    snapshot_table: Span | None
    short_snapshots: int
    """Entries of the snapshot table that lack what version 3 asks for, or have too much."""
    lost_snapshots: int
    """Entries of the snapshot table that lie behind the end of the file."""
    broken_bitmaps: bool
    """Bitmaps, or where they are, cannot be read."""
    complete: bool
    """False where a structure could not be read: what it refers to is not known."""

    @property
    def clusters(self) -> int:
        """Clusters of the file, the last one perhaps cut short."""
        return -(-self.file_bytes // self.header.cluster_size)

    @property
    def refblocks(self) -> Words:
        """The offsets in the refcount table, reserved bits taken off."""
        return self.reftable & np.uint64(s.REFTABLE_OFFSET_MASK)


def gather(storage: Storage, header: Qcow2Header, findings: Findings) -> References:
    """The references of ``storage``; what is wrong with them goes to ``findings``.

    Raises UnsupportedFeature for a file of too many clusters, FormatError for one whose tables
    overlap so much that checking would not end.
    """
    file_bytes = align_up(storage.size, 512)
    if -(-file_bytes // header.cluster_size) > _MAX_CLUSTERS:
        raise UnsupportedFeature(
            f"{storage.name}: {format_size(file_bytes)} in clusters of {header.cluster_size} bytes "
            f"are more than can be checked; the limit is {_MAX_CLUSTERS} clusters"
        )
    reftable_bytes = header.refcount_table_clusters * header.cluster_size
    references = References(
        header=header,
        file_bytes=file_bytes,
        spans=[Span("header", 0, header.cluster_size)],
        l1=_words(storage, header.l1_table_offset, header.l1_size * 8),
        l2=L2Tables(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)),
        bitmap_data=np.empty(0, np.uint64),
        reftable=_words(storage, header.refcount_table_offset, reftable_bytes),
        snapshots=[],
        snapshot_table=None,
        short_snapshots=0,
        lost_snapshots=0,
        broken_bitmaps=False,
        complete=True,
    )
    if header.l1_size:
        references.spans.append(Span("L1 table", header.l1_table_offset, header.l1_size * 8))
    _gather_snapshots(storage, references, findings)
    _gather_tables(storage, references, findings)
    _gather_encryption(storage, references, findings)
    _gather_bitmaps(storage, references, findings)
    return references


class _Endless(ReadOnlyView):
    """A file that goes on with zeros, as QEMU reads one."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage, 1 << 63)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = read_padded(self._base, offset, len(buffer))

    def close(self) -> None:
        pass


def read_padded(storage: Storage, offset: int, length: int) -> bytearray:
    """``length`` bytes from ``offset``; what lies behind the end of the file is zeros."""
    buffer = bytearray(length)
    with memoryview(buffer) as view:
        end = min(offset + length, storage.size)
        if offset < end:
            for start, stop, hole in storage.extents(offset, end):
                if not hole:
                    storage.read_into(start, view[start - offset : stop - offset])
    return buffer


def _words(storage: Storage, offset: int, length: int) -> Words:
    return np.frombuffer(read_padded(storage, offset, length), ">u8").astype(np.uint64)


def _gather_snapshots(storage: Storage, references: References, findings: Findings) -> None:
    header = references.header
    if header.nb_snapshots > s.MAX_SNAPSHOTS:
        references.complete = False
        findings.fail(
            f"{header.nb_snapshots} snapshots; at most {s.MAX_SNAPSHOTS} are allowed. "
            "--repair all drops the rest"
        )
        return
    try:
        records = read_snapshots(_Endless(storage), header)
    except FormatError as error:
        references.complete = False
        findings.fail(str(error))
        return
    if not records:
        return
    references.snapshots = records
    last = records[-1]
    size = last.entry_offset + last.entry_length - header.snapshots_offset
    file_end = align_up(storage.size, 8)
    lost = sum(record.entry_offset + record.entry_length > file_end for record in records)
    if lost:
        # QEMU takes them for snapshots without content: what they had looks like leaks.
        references.complete = False
        references.lost_snapshots = lost
        findings.note(f"the snapshot table is cut off by the end of the file: {lost} are lost")
    references.snapshot_table = Span("snapshot table", header.snapshots_offset, size)
    if header.external_data:
        findings.corrupt(f"{len(records)} snapshots in an image with an external data file")
    for record in records:
        extra, name = len(record.extra), record.snapshot.name
        if extra > MAX_SNAPSHOT_EXTRA:
            findings.fail(f"snapshot {name!r}: {extra} bytes of extra data; --repair all cuts them")
            references.short_snapshots += 1
        elif header.version >= 3 and extra < _SNAPSHOT_EXTRA_V3:
            findings.corrupt(f"snapshot {name!r}: its entry in the snapshot table is incomplete")
            references.short_snapshots += 1


def _gather_tables(storage: Storage, references: References, findings: Findings) -> None:
    """The L1 tables of the snapshots, and with them and the active one all L2 tables."""
    header = references.header
    tables: Counter[tuple[int, int]] = Counter()
    for record in references.snapshots:
        what = f"snapshot {record.snapshot.name!r}"
        if record.l1_table_offset % header.cluster_size:
            findings.corrupt(f"{what}: its L1 table at {record.l1_table_offset} is not aligned")
        elif record.l1_size * 8 > s.MAX_L1_BYTES:
            findings.corrupt(f"{what}: its L1 table has {record.l1_size} entries, too many")
        elif record.l1_size:
            tables[record.l1_table_offset, record.l1_size] += 1
    room = references.file_bytes + _SPARE_BYTES
    if sum(min(size * 8, max(0, storage.size - offset)) for offset, size in tables) > room:
        raise FormatError(f"{storage.name}: the L1 tables of its snapshots overlap; it is damaged")
    active, active_times = _l2_of(references.l1, 1, findings)
    inactive = _Merged()
    for (offset, size), times in sorted(tables.items()):
        references.spans.append(Span("L1 table of a snapshot", offset, size * 8, times))
        inactive.add(*_l2_of(_words(storage, offset, size * 8), times, findings))
    offsets, times_by_snapshots = inactive.result()
    every, where = np.unique(np.concatenate([active, offsets]), return_inverse=True)
    references.l2 = L2Tables(every, np.zeros(len(every), np.int64), np.zeros(len(every), np.int64))
    references.l2.active[where[: len(active)]] = active_times
    references.l2.total[where[len(active) :]] = times_by_snapshots
    references.l2.total += references.l2.active
    inside = every < np.uint64(storage.size)
    if int(np.count_nonzero(inside)) * header.cluster_size > room:
        raise FormatError(f"{storage.name}: its L2 tables overlap; it is damaged")
    skewed = np.flatnonzero((every & np.uint64(header.cluster_size - 1)) != 0)
    if len(skewed):
        findings.corrupt(
            f"{len(skewed)} L2 tables are not on a cluster boundary; one is at "
            f"{int(every[skewed[0]]):#x}",
            int(references.l2.total[skewed].sum()),
        )


def _l2_of(l1: Words, times: int, findings: Findings) -> tuple[Words, Counts]:
    """Offsets of the L2 tables in an L1 table that is named ``times`` times."""
    used = l1[l1 != 0]
    reserved = used[(used & np.uint64(L1_RESERVED)) != 0]
    if len(reserved):
        findings.corrupt(
            f"{len(reserved)} L1 entries with reserved bits set, {int(reserved[0]):#018x} is one",
            len(reserved) * times,
        )
    offsets, counts = np.unique(used & np.uint64(s.OFFSET_MASK), return_counts=True)
    return offsets, counts.astype(np.int64) * times


class _Merged:
    """Offsets with how often each was seen, merged now and then so that memory stays bounded."""

    def __init__(self) -> None:
        self._offsets: list[Words] = [np.empty(0, np.uint64)]
        self._times: list[Counts] = [np.empty(0, np.int64)]
        self._pending = 0

    def add(self, offsets: Words, times: Counts) -> None:
        self._offsets.append(offsets)
        self._times.append(times)
        self._pending += len(offsets)
        if self._pending > _PENDING:
            self.result()

    def result(self) -> tuple[Words, Counts]:
        times = np.concatenate(self._times)
        offsets, where = np.unique(np.concatenate(self._offsets), return_inverse=True)
        merged = np.zeros(len(offsets), np.int64)
        np.add.at(merged, where, times)
        self._offsets, self._times, self._pending = [offsets], [merged], 0
        return offsets, merged


def _gather_encryption(storage: Storage, references: References, findings: Findings) -> None:
    header = references.header
    data = header.extension(s.EXT_ENCRYPTION)
    if header.crypt_method != s.CRYPT_LUKS or data is None:
        return
    if len(data) != ctypes.sizeof(s.EncryptionExtension):
        references.complete = False
        findings.fail("the header extension of the LUKS header is damaged")
        return
    place = s.EncryptionExtension.from_buffer_copy(data)
    if place.offset >= storage.size or place.length > storage.size:
        references.complete = False
        findings.fail(
            f"the LUKS header at {place.offset} ({place.length} bytes) is not in the file"
        )
        return
    references.spans.append(Span("LUKS header", int(place.offset), int(place.length)))


def _gather_bitmaps(storage: Storage, references: References, findings: Findings) -> None:
    """The directory, the tables and the data of bitmaps.

    QEMU does not open an image whose bitmaps it cannot read. Here the rest is checked; the clusters
    of a bitmap that cannot be read look like leaks.
    """
    header = references.header
    try:
        directory = read_extension(storage, header)
        bitmaps = read_bitmaps(storage, header)
        for bitmap in bitmaps:
            if bitmap.table_offset + bitmap.table_size * 8 > storage.size:
                references.complete, references.broken_bitmaps = False, True
                findings.note(f"the table of bitmap {bitmap.name!r} is not in the file")
            _check_bitmap(storage, header, bitmap)
    except FormatError as error:
        references.complete, references.broken_bitmaps = False, True
        findings.corruptions += 1
        findings.fail(str(error))
        return
    if directory is None:
        return
    references.spans.append(Span("bitmap directory", directory.offset, directory.size))
    room = references.file_bytes + _SPARE_BYTES
    if sum(bitmap.table_size * 8 for bitmap in bitmaps) > room:
        raise FormatError(f"{storage.name}: its bitmap tables overlap; it is damaged")
    data = [references.bitmap_data]
    for bitmap in bitmaps:
        size = bitmap.table_size * 8
        references.spans.append(Span(f"table of bitmap {bitmap.name!r}", bitmap.table_offset, size))
        entries = _words(storage, bitmap.table_offset, size)
        offsets = entries & np.uint64(s.OFFSET_MASK)
        wrong = (entries & np.uint64(BITMAP_RESERVED)) != 0
        wrong |= (offsets != 0) & ((entries & np.uint64(1)) != 0)
        wrong |= (offsets & np.uint64(header.cluster_size - 1)) != 0
        if wrong.any():
            references.complete, references.broken_bitmaps = False, True
            findings.corruptions += 1
            findings.fail(f"bitmap {bitmap.name!r}: its table at {bitmap.table_offset} is damaged")
        data.append(offsets[~wrong & (offsets != 0)])
    references.bitmap_data = np.concatenate(data)


def _check_bitmap(storage: Storage, header: Qcow2Header, bitmap: Bitmap) -> None:
    """Raise FormatError for what QEMU refuses in a directory entry."""
    clusters = bitmap.table_size * header.cluster_size
    if (
        not bitmap.table_size
        or not bitmap.table_offset
        or bitmap.table_offset % header.cluster_size
        or clusters > _MAX_BITMAP_BYTES
        or bitmap.flags & ~3
        or (not bitmap.flags & IN_USE and header.size > clusters * 8 * bitmap.granularity)
    ):
        raise FormatError(
            f"{storage.name}: bitmap {bitmap.name!r}: a table of {bitmap.table_size} entries at "
            f"{bitmap.table_offset} (flags {bitmap.flags:#x}) is not possible"
        )
