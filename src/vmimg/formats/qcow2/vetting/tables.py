"""Which structure of a qcow2 image claims which bytes of its file, and what is wrong with that.

Top tables (L1, refcount table) are read whole up to a limit, snapshots and bitmaps up to a number
of them. What was found is kept in `Tables` for those who look at clusters. No numpy.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vmimg.errors import FormatError
from vmimg.formats.clusters import SHARED_EN_MASSE
from vmimg.formats.luks.vetting import vet_luks1
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.bitmaps import read_bitmaps
from vmimg.formats.qcow2.snapshots import SnapshotRecord, read_snapshots
from vmimg.formats.qcow2.vetting.header import First, at
from vmimg.formats.regions import Area
from vmimg.formats.sampling import read_entries, unfinished
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.storage.slice import SliceStorage
from vmimg.units import align_up

__all__ = ["Tables"]

_L1_RESERVED: Final = 0x7F00_0000_0000_01FF
_REFTABLE_RESERVED: Final = 0x1FF
# Read of each kind of table; what is behind it stays unlooked at.
_MAX_L1_BYTES: Final = 1 << 20
_MAX_REFTABLE_BYTES: Final = 512 << 10
_MAX_SNAPSHOTS: Final = 500
_MAX_SNAPSHOT_L1_BYTES: Final = 256 << 10
_MAX_BITMAP_BYTES: Final = 256 << 10
# QEMU refuses an entry with more.
_MAX_SNAPSHOT_EXTRA: Final = 1024


class Tables:
    """The tables of an image whose header could be read.

    After `vet`: ``areas``, one for each structure but for the two kinds of which there are many;
    ``l1`` the entries of the active L1 table; ``l2``, ``refblocks`` where those begin that lie in
    the file; ``reftable`` all entries. What was not fit to be used is left out.
    """

    def __init__(self, storage: Storage, first: First) -> None:
        assert first.header is not None
        self.storage = storage
        self.first = first
        self.header = first.header
        self.cluster = first.header.cluster_size
        self.areas = [Area("the header", 0, self.cluster)]
        self.l1: array[int] = array("Q")
        self.reftable: array[int] = array("Q")
        self.active: list[int] = []
        """Where the L2 tables of the active L1 table begin, in its order."""
        self.l2: set[int] = set()
        """And those of snapshots, too."""
        self.refblocks: set[int] = set()
        self._blocks: list[int] = []

    def vet(self) -> Iterator[Finding]:
        """What is wrong with the tables themselves."""
        yield from self._vet_reftable()
        yield from self._vet_l1()
        yield from self._vet_snapshots()
        yield from self._vet_bitmaps()
        yield from self._vet_luks()
        yield from self._vet_places()
        self.active = [
            entry & s.OFFSET_MASK for entry in self.l1 if entry & s.OFFSET_MASK in self.l2
        ]

    # The refcount table

    def _vet_reftable(self) -> Iterator[Finding]:
        header, storage = self.header, self.storage
        start, length = header.refcount_table_offset, header.refcount_table_clusters * self.cluster
        if length > s.MAX_REFTABLE_BYTES:
            yield Finding.of(
                "impossible-size",
                f"the refcount table is said to have {header.refcount_table_clusters} clusters; "
                "8 MiB are the most",
                offset=at("refcount_table_clusters"),
            )
            return
        if not length:
            yield Finding.of(
                "impossible-size",
                "there is no refcount table",
                offset=at("refcount_table_clusters"),
            )
            return
        # A file may end inside the last cluster of a table.
        if start % self.cluster or start + length > align_up(storage.size, self.cluster):
            yield self._outside("the refcount table", start, length, at("refcount_table_offset"))
            return
        taken = self._claim("the refcount table", start, length, at("refcount_table_offset"))
        if taken is not None:
            yield taken
            return
        self.reftable = read_entries(storage, start, min(length, _MAX_REFTABLE_BYTES), 8, "big")
        if length > _MAX_REFTABLE_BYTES:
            yield unfinished(
                f"not looked at: the refcount table behind its first {_MAX_REFTABLE_BYTES} bytes"
            )
        yield from self._vet_entries(
            "a refcount block", self.reftable, start, _REFTABLE_RESERVED, s.REFTABLE_OFFSET_MASK
        )
        self.refblocks = self._usable(self.reftable, s.REFTABLE_OFFSET_MASK)
        self._blocks = sorted(self.refblocks)

    # L1 tables

    def _vet_l1(self) -> Iterator[Finding]:
        header = self.header
        start, length = header.l1_table_offset, header.l1_size * 8
        if length > s.MAX_L1_BYTES:
            yield Finding.of(
                "impossible-size",
                f"the L1 table is said to have {header.l1_size} entries; 32 MiB are the most",
                offset=at("l1_size"),
            )
            return
        if not length:
            return
        if start % self.cluster or start + length > self.storage.size:
            yield self._outside("the L1 table", start, length, at("l1_table_offset"))
            return
        taken = self._claim("the L1 table", start, length, at("l1_table_offset"), late=False)
        if taken is not None:
            yield taken
            return
        self.l1 = read_entries(self.storage, start, min(length, _MAX_L1_BYTES), 8, "big")
        if length > _MAX_L1_BYTES:
            yield unfinished(f"not looked at: the L1 table behind its first {_MAX_L1_BYTES} bytes")
        yield from self._vet_entries("an L2 table", self.l1, start, _L1_RESERVED, s.OFFSET_MASK)
        yield from self._vet_behind_the_end(start)
        self.l2 = self._usable(self.l1, s.OFFSET_MASK)

    def _vet_behind_the_end(self, start: int) -> Iterator[Finding]:
        # The memory of a machine is kept there, until it is in a snapshot.
        if self.header.nb_snapshots:
            return
        needed = self.header.l1_needed
        number = next((n for n in range(needed, len(self.l1)) if self.l1[n]), None)
        if number is not None:
            yield Finding.of(
                "hidden-data",
                "tables lead to data behind the end of the disk",
                offset=start + 8 * number,
            )

    def _vet_entries(
        self, what: str, table: array[int], start: int, reserved: int, mask: int
    ) -> Iterator[Finding]:
        """A finding for the first entry of each kind that cannot be. ``mask``: of its offset."""
        bad = next((n for n, entry in enumerate(table) if entry & reserved), None)
        if bad is not None:
            yield Finding.of(
                "odd-field",
                f"bits of the entry for {what} are set that are reserved",
                offset=start + 8 * bad,
                evidence=f"{table[bad]:#018x}",
                severity=Severity.ERROR,
            )
        size, cluster = self.storage.size, self.cluster
        bad = next(
            (
                n
                for n, entry in enumerate(table)
                # Of a refcount block or an L2 table the file has all.
                if entry & mask and ((entry & mask) % cluster or (entry & mask) + cluster > size)
            ),
            None,
        )
        if bad is not None:
            yield self._outside(what, table[bad] & mask, cluster, start + 8 * bad)
        used = [entry & mask for entry in table if entry & mask]
        surplus = len(used) - len(set(used))
        if surplus:
            number = _first_repeated([entry & mask for entry in table])
            place = table[number] & mask
            if surplus >= SHARED_EN_MASSE:
                yield Finding.of(
                    "expands",
                    f"{surplus} entries lead to {what} that another leads to, as the one at "
                    f"{place}: nothing that makes images does that",
                    offset=start + 8 * number,
                    severity=Severity.ERROR,
                )
            else:
                yield Finding.of(
                    "tables-overlap",
                    f"two entries lead to {what} at {place}",
                    offset=start + 8 * number,
                )

    def _usable(self, table: array[int], mask: int) -> set[int]:
        """The offsets in ``table`` where a cluster of the file begins."""
        cluster, last = self.cluster, self.storage.size - self.cluster
        found = {entry & mask for entry in table}
        return {offset for offset in found if 0 < offset <= last and not offset % cluster}

    # Snapshots

    def _vet_snapshots(self) -> Iterator[Finding]:
        header = self.header
        if not header.nb_snapshots:
            return
        if header.nb_snapshots > s.MAX_SNAPSHOTS:
            yield Finding.of(
                "impossible-size",
                f"it is said to have {header.nb_snapshots} snapshots; {s.MAX_SNAPSHOTS} are the "
                "most",
                offset=at("nb_snapshots"),
            )
            return
        start = header.snapshots_offset
        if start % self.cluster or not 0 < start < self.storage.size:
            yield self._outside("the snapshot table", start, 40, at("snapshots_offset"))
            return
        count = min(header.nb_snapshots, _MAX_SNAPSHOTS)
        try:
            records = read_snapshots(self.storage, replace(header, nb_snapshots=count))
        except FormatError as error:
            yield Finding.of(
                "table-outside",
                str(error).removeprefix(f"{self.storage.name}: "),
                offset=at("snapshots_offset"),
            )
            return
        end = records[-1].entry_offset + records[-1].entry_length
        taken = self._claim("the snapshot table", start, end - start, at("snapshots_offset"))
        if taken is not None:
            yield taken
            return
        if count < header.nb_snapshots:
            yield unfinished(f"not looked at: snapshots behind the first {count}")
        budget = _MAX_SNAPSHOT_L1_BYTES
        troubles = 0
        for record in records:
            for finding in self._vet_snapshot(record, budget):
                troubles += 1
                yield finding
            if troubles > 8:
                return
            budget = max(0, budget - record.l1_size * 8)

    def _vet_snapshot(self, record: SnapshotRecord, budget: int) -> Iterator[Finding]:
        snapshot, where = record.snapshot, record.entry_offset
        what = f"snapshot '{snapshot.name[:40]}'"
        start, length = record.l1_table_offset, record.l1_size * 8
        reach = record.l1_size * self.cluster * self.header.l2_entries
        if len(record.extra) > _MAX_SNAPSHOT_EXTRA:
            yield Finding.of(
                "odd-field",
                f"{what} has {len(record.extra)} bytes of extra data; QEMU takes "
                f"{_MAX_SNAPSHOT_EXTRA}",
                offset=where,
                severity=Severity.ERROR,
            )
        if snapshot.disk_size > reach or snapshot.vm_state_size > reach or length > s.MAX_L1_BYTES:
            yield Finding.of(
                "impossible-size",
                f"{what} is of a disk of {snapshot.disk_size} bytes and has "
                f"{snapshot.vm_state_size} bytes of memory; its L1 table of {record.l1_size} "
                f"entries maps {reach}",
                offset=where,
            )
            return
        if snapshot.vm_state_size:
            yield Finding.of(
                "snapshots",
                f"{what} holds {snapshot.vm_state_size} bytes of the memory of a machine",
                offset=where,
            )
        if not length:
            return
        if start % self.cluster or not start or start + length > self.storage.size:
            yield self._outside(f"the L1 table of {what}", start, length, where)
            return
        taken = self._claim(f"the L1 table of {what}", start, length, where)
        if taken is not None:
            yield taken
            return
        table = read_entries(self.storage, start, min(length, budget), 8, "big")
        yield from self._vet_entries(
            f"an L2 table of {what}", table, start, _L1_RESERVED, s.OFFSET_MASK
        )
        self.l2 |= self._usable(table, s.OFFSET_MASK)

    # What extensions lead to

    def _vet_bitmaps(self) -> Iterator[Finding]:
        header = self.header
        placed = next((e for e in self.first.extensions if e.type == s.EXT_BITMAPS), None)
        width = s.BitmapsExtension.bitmap_directory_offset.offset + 8
        # Without the bit the extension means nothing: who does not know it leaves it behind.
        if placed is None or not header.autoclear_features & s.BITMAPS_CONSISTENT:
            return
        if len(placed.data) != width:
            return  # said by inspect
        fields = s.BitmapsExtension.from_buffer_copy(placed.data)
        start, size = int(fields.bitmap_directory_offset), int(fields.bitmap_directory_size)
        if start % self.cluster or not start or start + size > self.storage.size:
            yield self._outside("the bitmap directory", start, size, placed.offset)
            return
        taken = self._claim("the bitmap directory", start, size, placed.offset)
        if taken is not None:
            yield taken
            return
        if size > _MAX_BITMAP_BYTES:
            yield unfinished("not looked at: bitmaps")
            return
        try:
            bitmaps = read_bitmaps(self.storage, header)
        except FormatError:
            return  # said by inspect
        for bitmap in bitmaps[:_MAX_SNAPSHOTS]:
            what = f"the table of bitmap '{bitmap.name[:40]}'"
            begin, length = bitmap.table_offset, bitmap.table_size * 8
            if not length:
                continue
            if begin % self.cluster or not begin or begin + length > self.storage.size:
                yield self._outside(what, begin, length, bitmap.entry_offset)
                return
            taken = self._claim(what, begin, length, bitmap.entry_offset)
            if taken is not None:
                yield taken
                return

    def _vet_luks(self) -> Iterator[Finding]:
        placed = next((e for e in self.first.extensions if e.type == s.EXT_ENCRYPTION), None)
        if placed is None or self.header.crypt_method != s.CRYPT_LUKS or len(placed.data) != 16:
            return  # said by inspect
        place = s.EncryptionExtension.from_buffer_copy(placed.data)
        start, length = int(place.offset), int(place.length)
        end = align_up(self.storage.size, self.cluster)
        if start % self.cluster or not start or not length or start + length > end:
            yield self._outside("the LUKS header", start, length, placed.offset)
            return
        taken = self._claim("the LUKS header", start, length, placed.offset)
        if taken is not None:
            yield taken
            return
        length = min(length, self.storage.size - start)
        luks = SliceStorage(self.storage, start, length, "LUKS header")
        for finding in vet_luks1(luks):
            inside = finding.offset
            yield replace(finding, offset=None if inside is None else start + inside)

    # All of them

    def _vet_places(self) -> Iterator[Finding]:
        """Tables of which there are many, against each other and against the rest. What lies over
        something is no table, and is left out.
        """
        both = self.l2 & self.refblocks
        if both:
            yield self._over("an L2 table", min(both), "a refcount block", self._said(min(both)))
            self.l2 -= both
        for what, begun in (("a refcount block", self.refblocks), ("an L2 table", self.l2)):
            places = sorted(begun)
            for area in self.areas:
                # Structures begin where clusters do.
                first, last = bisect_left(places, area.start), bisect_left(places, area.end)
                if first < last:
                    place = places[first]
                    yield self._over(what, place, area.what, self._said(place))
                    begun -= set(places[first:last])

    def _said(self, place: int) -> int | None:
        """Which entry leads to a table at ``place``."""
        for start, table, mask in (
            (self.header.l1_table_offset, self.l1, s.OFFSET_MASK),
            (self.header.refcount_table_offset, self.reftable, s.REFTABLE_OFFSET_MASK),
        ):
            for number, entry in enumerate(table):
                if entry & mask == place:
                    return start + 8 * number
        return None

    def _claim(
        self, what: str, start: int, length: int, said: int, *, late: bool = True
    ) -> Finding | None:
        """Take the space, to whole clusters: that is how the space of a file is given out.

        A finding where it is taken: what lies there is something else, and is not to be read.
        """
        end = align_up(start + length, self.cluster)
        for area in self.areas:
            if area.start < end and start < area.end:
                return self._over(what, start, area.what, said)
        # Of refcount block and L1 table, the block is to blame; see _vet_places.
        number = bisect_left(self._blocks, start)
        if late and number < len(self._blocks) and self._blocks[number] < end:
            return self._over(what, start, "a refcount block", said)
        self.areas.append(Area(what, start, end, said))
        return None

    def _outside(self, what: str, start: int, length: int, said: int) -> Finding:
        problem = "is not on a cluster boundary" if start % self.cluster else "is not in the file"
        return Finding.of(
            "table-outside",
            f"{what}, {length} bytes at {start}, {problem} ({self.storage.size} bytes)",
            offset=said,
        )

    def _over(self, what: str, place: int, other: str, said: int | None) -> Finding:
        return Finding.of("tables-overlap", f"{what} at {place} lies over {other}", offset=said)


def _first_repeated(places: list[int]) -> int:
    """The index of the first that was there before and is not 0; one is known to be there."""
    seen: set[int] = set()
    for number, place in enumerate(places):
        if place and place in seen:
            return number
        seen.add(place)
    raise AssertionError("no place is there twice")
