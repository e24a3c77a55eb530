"""check for qcow2: are the refcounts, and the entries that refer to clusters, as they should be?

Counts as ``qemu-img check`` does. A refcount higher than the references is a leak. A lower one is a
corruption, and so are COPIED flags that do not say whether the refcount is one, entries with
reserved bits, offsets that are not aligned or lie past the end of the file. Facts: QEMU's
docs/interop/qcow2 and the behaviour of block/qcow2-refcount.c. Imports the other parts of check
(references, l2scan, tally; repair where it is asked for), and numpy.

Where it differs from QEMU, on purpose:

- Snapshot tables and bitmaps that cannot be read, missing data files: QEMU does not open the image
  or stops without a report. Here the rest is checked and reported, with an internal error (exit
  code 1). The data file is not opened at all: nothing in it is checked.
- An L2 table that several L1 tables share is read once, so that images with many snapshots, or L1
  tables made to keep a reader busy, take no longer. The numbers are the same.
- Repair does not extend the file to reach a refcount block past its end, it makes new blocks.
- Repair keeps the snapshots of an image that has bitmaps, too. QEMU 7.2 opens it for writing
  without reading the snapshots, marks the bitmaps as in use, writes the header for that, with no
  snapshots in it, and then frees what they had.
- Repair of leaks leaves an image alone whose bitmaps cannot be read, or whose snapshot table is cut
  off: their clusters look like leaks. "all" declares the bitmaps stale, and drops the snapshots
  that are lost, where QEMU keeps their number with nothing in them.
- The number of corruptions fixed is lower than QEMU's where one entry had several faults, and where
  QEMU extends the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport, Companions
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header, read_header
from vmimg.formats.qcow2.l2scan import Entries, Mask, scan
from vmimg.formats.qcow2.references import Findings, References, Words, gather
from vmimg.formats.qcow2.tally import DiskRefcounts, Tally
from vmimg.storage.base import Storage

__all__ = ["Survey", "check_image", "wrong_copied"]


def check_image(storage: Storage, *, companions: Companions, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. As with qemu-img, the image is
    checked again after a repair: the report says what is left, and how much was fixed. Raises
    FormatError for what cannot be read as qcow2 at all, StorageError when reading or writing fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if not repair:
        return Survey.take(storage).report()
    if not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    from vmimg.formats.qcow2.repair import mend

    return mend(storage, repair)


@dataclass(slots=True)
class Survey:
    """One check, without changing anything."""

    header: Qcow2Header
    references: References
    disk: DiskRefcounts
    tally: Tally
    findings: Findings
    leaks: int = 0
    copied: int = 0
    """Corruptions that are only wrong COPIED flags; ``findings`` has them too."""
    rebuild: bool = False
    """The refcount blocks cannot be mended in place."""
    end: int = 0
    """Bytes up to the end of the last cluster that is used or has a refcount."""

    @classmethod
    def take(cls, storage: Storage) -> Survey:
        """Check ``storage``."""
        header = read_header(storage, lenient=True)
        findings = Findings()
        references = gather(storage, header, findings)
        disk = DiskRefcounts(storage, references)
        survey = cls(header, references, disk, Tally(storage, references, findings, disk), findings)
        survey._compare()
        survey._check_copied(storage)
        return survey

    def report(self) -> CheckReport:
        """As a report; nothing is fixed yet."""
        cluster = self.header.cluster_size
        return CheckReport(
            format="qcow2",
            errors=self.findings.errors,
            leaks=self.leaks,
            corruptions=self.findings.corruptions,
            total_clusters=-(-(self.header.size // 512 * 512) // cluster),
            allocated_clusters=self.tally.allocated,
            fragmented_clusters=self.tally.fragmented,
            compressed_clusters=self.tally.compressed,
            image_end_offset=self.end,
            problems=list(self.findings.lines),
        )

    def _compare(self) -> None:
        for piece in self.tally.pieces():
            if piece.stored is None:
                self.findings.fail(
                    f"the refcounts of {len(piece.counted)} clusters from {piece.first} cannot be "
                    "read: their refcount block is not in the file",
                    len(piece.counted),
                )
                continue
            stored = piece.stored[: len(piece.counted)]
            used = np.flatnonzero(stored | piece.counted)
            if len(used):
                # A cluster more than the number of the last one: pieces come in ascending order.
                self.end = (piece.first + int(used[-1]) + 1) << self.header.cluster_bits
            low, high = stored < piece.counted, stored > piece.counted
            if low.any():
                self.rebuild |= bool((low & (stored == 0)).any())
                self._note(piece.first, stored, piece.counted, low, "is too low")
                self.findings.corruptions += int(np.count_nonzero(low))
            if high.any():
                self._note(piece.first, stored, piece.counted, high, "is too high: leaked")
                self.leaks += int(np.count_nonzero(high))
        self.rebuild |= self.tally.broken_refblocks
        # QEMU says one cluster even of an image where nothing could be compared.
        self.end = self.end or self.header.cluster_size

    def _note(self, first: int, stored: Words, counted: Words, wrong: Mask, what: str) -> None:
        for index in np.flatnonzero(wrong)[:10]:
            self.findings.note(
                f"cluster {first + int(index)}: refcount {int(stored[index])} {what}, "
                f"{int(counted[index])} references"
            )
        more = int(np.count_nonzero(wrong)) - 10
        if more > 0:
            self.findings.note(f"{more} more clusters from {first} whose refcount {what}")

    def _check_copied(self, storage: Storage) -> None:
        """COPIED flags of the active tables, against the refcounts that stand in the file."""
        wrong = int(np.count_nonzero(self.wrong_l1()))
        tables = self.references.l2
        for entries in scan(storage, self.header, tables, self.active_tables()):
            flags = wrong_copied(entries, self.disk)
            wrong += int(tables.active[entries.table[flags]].sum())
        if wrong:
            self.copied = wrong
            self.findings.corrupt(
                f"{wrong} L1 and L2 entries whose COPIED flag does not fit the refcount", wrong
            )

    def active_tables(self) -> Mask:
        """The L2 tables (one bool each) of the active L1 table, where their refcount is known."""
        tables = self.references.l2
        clusters = (tables.offset >> np.uint64(self.header.cluster_bits)).astype(np.int64)
        _, known = self.disk.at(clusters)
        active: Mask = (tables.active > 0) & (tables.offset != 0) & known
        return active

    def wrong_l1(self) -> Mask:
        """The entries of the active L1 table (one bool each) with a wrong COPIED flag."""
        entries = self.references.l1
        offsets = entries & np.uint64(s.OFFSET_MASK)
        # An L1 table of 32 MiB may be nearly empty.
        named = np.flatnonzero(offsets)
        clusters = (offsets[named] >> np.uint64(self.header.cluster_bits)).astype(np.int64)
        counts, known = self.disk.at(clusters)
        copied = (entries[named] & np.uint64(s.COPIED)) != 0
        wrong = np.zeros(len(entries), np.bool_)
        wrong[named] = known & ((counts == 1) != copied)
        return wrong


def wrong_copied(entries: Entries, disk: DiskRefcounts) -> Mask:
    """Which of the L2 entries have a wrong COPIED flag.

    Clusters in a data file have no refcount and always the flag.
    """
    stored = entries.stored
    if entries.header.external_data:
        return stored & ~entries.copied
    clusters = (entries.offset[stored] >> np.uint64(entries.header.cluster_bits)).astype(np.int64)
    counts, known = disk.at(clusters)
    wrong = np.zeros(len(stored), np.bool_)
    wrong[stored] = known & ((counts == 1) != entries.copied[stored])
    return wrong
