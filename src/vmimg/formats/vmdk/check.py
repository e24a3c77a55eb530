"""check for VMDK: do the tables name what is there, once, and agree with their redundant copies?

Looks at every extent of the image. A corruption is a table or a grain that lies outside the file,
over metadata or over another grain, a redundant table that says something else than the first, a
marker of a stream that is not that of its grain, a footer that contradicts the header, a
descriptor that does not fit the extents. A leak is the mark of an unclean shutdown alone.

QEMU's check only looks whether grains lie inside the file, stops at the first that does not, and
exits with 1; so there is an internal error here as well where data is missing. It knows no repair.

Repair ("all") mends what has a sound copy: entries of a directory that are missing or name places
outside the file from the other directory, redundant tables from the first ones, which are what
readers go by. Either kind of repair takes the mark of an unclean shutdown away.

Spec: VMware "Virtual Disk Format 5.0". Imports the layers, and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, OptionError, StorageError
from vmimg.formats.driver import CheckReport, Companions
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.descriptor import FLAT_TYPES, SPARSE_TYPES, Descriptor
from vmimg.formats.vmdk.header import SparseHeader, extent_kind, read_extent_header
from vmimg.formats.vmdk.image import VmdkImage
from vmimg.formats.vmdk.ranges import Ranges, metadata_ranges
from vmimg.formats.vmdk.sesparse import SeSparseLayer
from vmimg.formats.vmdk.text import embedded_descriptor, file_descriptor
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["check_image"]

Places = NDArray[np.int64]

# Tables looked at together: 512 KiB of each directory.
_TABLES: Final = 256
# Lines of one kind that are told; the rest is counted.
_LINES: Final = 10
# Slots to find two grains in one place: a byte each.
_MAX_SLOTS: Final = 64 << 20
_WINDOW: Final = 1 << 18

_HEADER_FIELDS: Final = (
    "capacity",
    "grainSize",
    "numGTEsPerGT",
    "compressAlgorithm",
)
"""What a stream's footer must have as its header."""


def check_image(storage: Storage, *, companions: Companions, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of the image in ``storage`` and of its extents.

    ``repair``: "", "leaks" or "all"; the files are writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as VMDK at all, ChainError where an extent is missing.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if repair and not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    files: dict[str, Storage] = {}
    before = _check(storage, companions, files, repair)
    if not repair:
        return before
    after = _check(storage, companions, files, "")
    after.fixed_corruptions = max(0, before.corruptions - after.corruptions)
    after.fixed_leaks = max(0, before.leaks - after.leaks)
    return after


def _check(
    storage: Storage, companions: Companions, files: dict[str, Storage], repair: str
) -> CheckReport:
    report = CheckReport(format="vmdk")
    if extent_kind(storage.read(0, min(8, storage.size))) is None:
        _check_text(storage, file_descriptor(storage), companions, files, repair, report)
        return report
    header = read_extent_header(storage, lenient=True)
    descriptor = embedded_descriptor(storage, header)
    if descriptor is not None and not header.size:
        if descriptor.size:
            _check_text(storage, descriptor, companions, files, repair, report)
        return report
    if descriptor is not None:
        _check_ids(storage, descriptor, report)
        if descriptor.extents and descriptor.size != header.size:
            _corrupt(
                report,
                f"{storage.name}: the descriptor says {descriptor.size} bytes, "
                f"the header {header.size}",
            )
    _check_sparse(storage, header, repair, report)
    return report


def _check_text(
    storage: Storage,
    descriptor: Descriptor,
    companions: Companions,
    files: dict[str, Storage],
    repair: str,
    report: CheckReport,
) -> None:
    _check_ids(storage, descriptor, report)
    if not descriptor.extents:
        raise FormatError(f"{storage.name}: the descriptor names no extents")
    for line in descriptor.extents:
        if line.type not in (*FLAT_TYPES, *SPARSE_TYPES) or line.access == "NOACCESS":
            continue
        assert line.filename is not None
        extent = files.get(line.filename)
        if extent is None:
            extent = files[line.filename] = companions(line.filename, "extent")
        size = line.sectors * s.SECTOR
        if line.type in FLAT_TYPES:
            if line.offset * s.SECTOR + size > extent.size:
                _corrupt(
                    report,
                    f"{extent.name}: has {extent.size} bytes, the descriptor says {size} from "
                    f"{line.offset * s.SECTOR}: it is truncated",
                )
            continue
        header = read_extent_header(extent, lenient=True)
        if size != header.size:
            _corrupt(
                report,
                f"{extent.name}: its header says {header.size} bytes, the descriptor {size}",
            )
        _check_sparse(extent, header, repair, report)


def _check_ids(storage: Storage, descriptor: Descriptor, report: CheckReport) -> None:
    for what, value in (("CID", descriptor.cid), ("parentCID", descriptor.parent_cid)):
        if value is None:
            report.errors += 1  # QEMU does not open it
            _corrupt(report, f"{storage.name}: the descriptor has no {what}")


def _check_sparse(storage: Storage, header: SparseHeader, repair: str, report: CheckReport) -> None:
    if header.newline_damage:
        _corrupt(report, f"{storage.name}: was sent as text: its end-of-line test does not match")
    if header.overhead > storage.size:
        report.errors += 1
        _corrupt(
            report,
            f"{storage.name}: its metadata takes {header.overhead} bytes, the file has "
            f"{storage.size}",
        )
    if header.unclean:
        report.leaks += 1
        report.problems.append(f"{storage.name}: was not closed properly")
        if repair:
            place, width = header.unclean_place
            storage.write(place, bytes(width))
    if header.kind == "SESPARSE":
        _check_sesparse(storage, header, report)
        return
    extent = _Extent(storage, header, report)
    extent.run()
    if header.footer_offset is not None:
        _check_footer(storage, header.footer_offset, report)
    if repair == "all":
        extent.mend()
    if repair:
        storage.flush()


class _Extent:
    """One sparse extent with 32-bit tables, KDMV or COWD."""

    def __init__(self, storage: Storage, header: SparseHeader, report: CheckReport) -> None:
        self.storage = storage
        self.header = header
        self.report = report
        self.blocks = -(-header.size // header.grain_size)
        self.first = self._directory(header.gd_offset, "grain directory")
        self.second: Places | None = None
        if header.rgd_offset is not None:
            self.second = self._directory(header.rgd_offset, "redundant grain directory")
        self.sound_first = self._sound(self.first)
        self.sound_second = self._sound(self.second)
        self.grains = _Grains(storage, header)
        self.markers: list[tuple[Places, Places]] = []
        self.differing = np.empty(0, np.int64)
        """Indexes of tables whose redundant copies say something else."""
        self._told: dict[str, int] = {}

    def run(self) -> None:
        """Count what is wrong."""
        header, report = self.header, self.report
        report.total_clusters += self.blocks
        if self.first is None and self.second is None:
            report.errors += 1
            return
        self._compare_directories()
        self.metadata = metadata_ranges(header, self.sound_first, self.sound_second)
        self._check_tables_apart()
        differing: list[int] = []
        tables = self._best()
        for start in range(0, len(tables), _TABLES):
            part = slice(start, min(start + _TABLES, len(tables)))
            if not tables[part].any():
                continue
            entries = self._read(tables[part])
            differing += (start + self._differing(part, entries)).tolist()
            self._check_entries(start * header.gtes_per_gt, entries)
        self.differing = np.array(differing, np.int64)
        self._count(len(differing), "redundant grain tables that differ from the first ones")
        self._count(self.grains.twice(), "grains that lie over one another")
        if header.compressed and header.markers:
            self._check_markers()
        report.image_end_offset = max(report.image_end_offset, self.grains.end)

    def mend(self) -> None:
        """Make of each pair of directories and tables two that are sound, from the one that is."""
        header = self.header
        if header.rgd_offset is None or header.compressed:
            return
        length = header.gd_entries * header.entry_size
        for offset in (header.gd_offset, header.rgd_offset):
            if not offset or offset + length > self.storage.size:
                return
        first, second = self.sound_first, self.sound_second
        if first is None or second is None:
            return
        for index in np.flatnonzero((first == 0) != (second == 0)).tolist():
            # A copy of its own: two directories that name one table are no redundancy.
            here = int(first[index] or second[index])
            place = align_up(self.storage.size, s.SECTOR)
            self.storage.write(place, self.storage.read(here, header.table_bytes))
            self.storage.flush()
            directory = header.gd_offset if not first[index] else header.rgd_offset
            number = (place // s.SECTOR).to_bytes(header.entry_size, "little")
            self.storage.write(directory + index * header.entry_size, number)
        for index in self.differing.tolist():
            if first[index] and second[index]:
                table = self.storage.read(int(first[index]), header.table_bytes)
                self.storage.write(int(second[index]), table)

    def _directory(self, offset: int, what: str) -> Places | None:
        """Byte offsets of the tables; None where the directory is not in the file."""
        header = self.header
        length = header.gd_entries * header.entry_size
        if not offset or offset + length > self.storage.size:
            if length:
                _corrupt(
                    self.report,
                    f"{self.storage.name}: the {what} at {offset} ({length} bytes) is not in the "
                    f"file, which ends at {self.storage.size}",
                )
            return None if length else np.empty(0, np.int64)
        entries = np.frombuffer(self.storage.read(offset, length), f"<u{header.entry_size}")
        tables = entries.astype(np.int64)
        tables *= s.SECTOR
        return tables

    def _misplaced(self, tables: Places) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = tables > self.storage.size - self.header.table_bytes
        wrong &= tables != 0
        return wrong

    def _sound(self, tables: Places | None) -> Places | None:
        """The directory with 0 for tables outside the file; itself where there are none."""
        if tables is None:
            return None
        wrong = self._misplaced(tables)
        return np.where(wrong, 0, tables) if wrong.any() else tables

    def _best(self) -> Places:
        """Where to read each table: as a reader does, of the first directory if it is there."""
        first, second = self.sound_first, self.sound_second
        if first is None:
            assert second is not None
            return second
        if second is None or self.first is None:
            return first
        return np.where(first == 0, second, first)

    def _compare_directories(self) -> None:
        for what, tables in (("", self.first), ("redundant ", self.second)):
            if tables is None:
                continue
            lost = int(np.count_nonzero(self._misplaced(tables)))
            self._count(lost, f"{what}grain tables that are said to lie outside the file")
        if self.first is not None and self.second is not None:
            both = ~self._misplaced(self.first) & ~self._misplaced(self.second)
            lone = int(np.count_nonzero(((self.first == 0) != (self.second == 0)) & both))
            self._count(lone, "grain tables that only one of the two directories has")

    def _check_tables_apart(self) -> None:
        named = [tables[tables != 0] for tables in (self.first, self.second) if tables is not None]
        places = np.sort(np.concatenate(named))
        places = places[places + self.header.table_bytes <= self.storage.size]
        close = int(np.count_nonzero(np.diff(places) < self.header.table_bytes))
        self._count(close, "grain tables that lie over one another")

    def _read(self, tables: Places) -> NDArray[np.uint32]:
        """The entries of tables: uint32[n, entries of one], zeros where there is none."""
        header = self.header
        entries = np.zeros((len(tables), header.gtes_per_gt), np.uint32)
        present = np.flatnonzero(tables)
        if not len(present):
            return entries
        follows = (np.diff(present) == 1) & (np.diff(tables[present]) == header.table_bytes)
        edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(present)]
        for low, high in pairwise(edges):
            start, number = int(present[low]), high - low
            raw = self.storage.read(int(tables[start]), number * header.table_bytes)
            rows = np.frombuffer(raw, "<u4").reshape(number, -1)
            entries[start : start + number] = rows[:, : header.gtes_per_gt]
        return entries

    def _differing(self, part: slice, entries: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Rows of ``entries``, read for ``part``, whose redundant tables say something else."""
        first, second = self.sound_first, self.sound_second
        if first is None or second is None:
            return np.empty(0, np.intp)
        pairs = (first[part] != 0) & (second[part] != 0)
        copies = self._read(np.where(pairs, second[part], 0))
        return np.flatnonzero(pairs & (copies != entries).any(axis=1))

    def _check_entries(self, base: int, entries: NDArray[np.uint32]) -> None:
        header, report, storage = self.header, self.report, self.storage
        flat = entries.reshape(-1)[: max(0, self.blocks - base)]
        held = np.flatnonzero((flat > s.GTE_ZERO) if header.zero_grains else (flat != 0))
        places = flat[held].astype(np.int64) * s.SECTOR
        numbers = held + base
        report.allocated_clusters += len(held)
        ends = places + np.minimum(header.grain_size, header.size - numbers * header.grain_size)
        if header.compressed:
            report.compressed_clusters += len(held)
            ends = places + s.SECTOR
        outside = ends > storage.size
        lost = int(np.count_nonzero(outside))
        if lost:
            where = int(numbers[outside][0]) * header.grain_size
            report.errors += 1
            self._count(lost, f"grains (from virtual offset {where}) behind the end of the file")
        inside = ~outside
        length = s.SECTOR if header.compressed else header.grain_size
        over = inside & self.metadata.overlap(places, length)
        if over.any():
            where = int(numbers[over][0]) * header.grain_size
            self._count(
                int(np.count_nonzero(over)),
                f"grains (from virtual offset {where}) that lie over metadata",
            )
        self.grains.add(places[inside])
        if header.compressed and header.markers:
            self.markers.append((numbers[inside].astype(np.int64), places[inside]))

    def _check_markers(self) -> None:
        """Each grain's marker: is it that of the grain, and do its data end before the next?"""
        header, storage = self.header, self.storage
        if not self.markers:
            return
        numbers = np.concatenate([numbers for numbers, _ in self.markers])
        places = np.concatenate([places for _, places in self.markers])
        if not len(numbers):
            return
        order = np.argsort(places, kind="stable")
        numbers, places = numbers[order], places[order]
        ends = np.append(places[1:], storage.size)
        foreign = long = 0
        grain = header.grain_size // s.SECTOR
        size = len(bytes(s.GrainMarker()))
        end = 0
        for number, place, limit in zip(
            numbers.tolist(), places.tolist(), ends.tolist(), strict=True
        ):
            if place + size > storage.size:
                long += 1
                continue
            marker = s.GrainMarker.from_buffer_copy(storage.read(place, size))
            foreign += marker.lba != number * grain
            long += not 0 < marker.size <= limit - place - size
            end = place + size + marker.size
        self.grains.end = max(self.grains.end, end)
        self._count(foreign, "grains whose markers are those of other sectors")
        self._count(long, "grains that are longer than the space up to the next one")
        if len(numbers) and (np.diff(numbers) < 0).any():
            # Allowed by the specification; QEMU writes so when it is told to.
            self.report.problems.append(
                f"{storage.name}: its grains are not in the order of the disk: some programs that "
                "read it as a stream refuse it"
            )

    def _count(self, number: int, what: str) -> None:
        if not number:
            return
        self.report.corruptions += number
        told = self._told[what] = self._told.get(what, 0) + 1
        if told <= _LINES:
            self.report.problems.append(f"{self.storage.name}: {number} {what}")


class _Grains:
    """Finds two grains in one place: a slot of a byte for each grain that the file has room for."""

    def __init__(self, storage: Storage, header: SparseHeader) -> None:
        # Of compressed grains only the beginnings are compared; markers tell the rest.
        self._size = s.SECTOR if header.compressed else header.grain_size
        room = storage.size // self._size + 2
        self._slots = np.zeros(room, np.bool_) if room <= _MAX_SLOTS else None
        self._phase: int | None = None
        self._odd: list[Places] = []
        self._count = 0
        self._twice = 0
        self.end = 0

    def add(self, places: Places) -> None:
        if not len(places):
            return
        self.end = max(self.end, int(places.max()) + self._size)
        self._count += len(places)
        if self._slots is None:
            return
        if self._phase is None:
            self._phase = int(places[0]) % self._size
        slots, rest = np.divmod(places - self._phase, self._size)
        even = (rest == 0) & (slots >= 0)
        numbers = slots[even]
        unique = np.unique(numbers)
        self._twice += len(numbers) - len(unique) + int(np.count_nonzero(self._slots[unique]))
        self._slots[unique] = True
        if not even.all():
            self._odd.append(np.unique(places[~even]))
            if len(self._odd) > 64:
                self._odd = [np.unique(np.concatenate(self._odd))]

    def twice(self) -> int:
        """How many grains lie over others."""
        if not self._odd or self._slots is None or self._phase is None:
            return self._twice
        even = np.flatnonzero(self._slots) * self._size + self._phase
        places = np.sort(np.concatenate((even, *self._odd)))
        return self._twice + int(np.count_nonzero(np.diff(places) < self._size))


def _check_sesparse(storage: Storage, header: SparseHeader, report: CheckReport) -> None:
    layer = SeSparseLayer(storage, header, VmdkImage(storage))
    blocks = -(-layer.size // layer.block_size)
    report.total_clusters += blocks
    grains = _Grains(storage, header)
    metadata = Ranges(np.zeros(1, np.int64), np.array([header.overhead], np.int64))
    lost = over = 0
    for first, count in _windows(layer, blocks):
        state = layer.lookup(first, count)
        held = (state.kinds == Kind.DATA) | (state.kinds == COMPRESSED)
        places = state.offsets[held]
        outside = places + layer.block_size > storage.size
        lost += int(np.count_nonzero(outside))
        over += int(np.count_nonzero(metadata.overlap(places, layer.block_size)))
        grains.add(places[~outside])
        report.allocated_clusters += len(places)
    if lost:
        report.errors += 1
    for number, what in (
        (lost, "grains behind the end of the file"),
        (over, "grains that lie over metadata"),
        (grains.twice(), "grains that lie over one another"),
    ):
        if number:
            report.corruptions += number
            report.problems.append(f"{storage.name}: {number} {what}")
    report.image_end_offset = max(report.image_end_offset, grains.end)


def _windows(layer: SeSparseLayer, blocks: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < blocks:
        present = layer.skip_absent(first)
        if present > first:
            first = present
            continue
        count = min(_WINDOW, blocks - first)
        yield first, count
        first += count


def _check_footer(storage: Storage, offset: int, report: CheckReport) -> None:
    """The footer against the header, and the end of the stream behind it."""
    header = s.SparseExtentHeader.from_buffer_copy(storage.read(0, s.SECTOR))
    footer = s.SparseExtentHeader.from_buffer_copy(storage.read(offset, s.SECTOR))
    for field in _HEADER_FIELDS:
        if getattr(header, field) != getattr(footer, field):
            _corrupt(
                report,
                f"{storage.name}: the footer says {getattr(footer, field)} for {field}, "
                f"the header {getattr(header, field)}",
            )
    end = offset + s.SECTOR
    marker = storage.read(end, min(s.SECTOR, storage.size - end))
    if len(marker) < s.SECTOR or any(marker[:16]):
        _corrupt(report, f"{storage.name}: there is no end-of-stream marker behind the footer")


def _corrupt(report: CheckReport, problem: str) -> None:
    report.corruptions += 1
    report.problems.append(problem)
