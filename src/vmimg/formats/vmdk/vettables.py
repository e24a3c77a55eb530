"""What vetting finds in the tables of a sparse VMDK extent: directories, grain tables, grains.

One set of rules for hosted sparse extents, streams, COW disks of ESX and seSparse; what their
entries mean is in `_Extent`. Directories are looked at whole up to 512 KiB, grain tables up to
65536 entries (and as many redundant ones); by samples above. Of a stream some markers are compared
with the tables. Spec: VMware "Virtual Disk Format 5.0". No numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from vmimg.formats.regions import Area, Blocks, overlaps
from vmimg.formats.sampling import Table, read_entries, read_table, spread, unfinished
from vmimg.formats.telling import some
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.header import SparseHeader
from vmimg.storage.base import Storage

__all__ = ["vet_tables"]

_MOST_ENTRIES: Final = 1 << 16
_MARKERS: Final = 32
_MARKER_BYTES: Final = 12
# So many entries for each grain that is stored make a bomb of a file.
_BOMB: Final = 8
_SESPARSE_TABLE: Final = 0x1000_0000
_SESPARSE_ALLOCATED: Final = 3


@dataclass(slots=True)
class _Extent:
    """A sparse extent and what was read of it."""

    storage: Storage
    header: SparseHeader

    @property
    def width(self) -> int:
        return self.header.entry_size

    def directory_area(self, offset: int, what: str) -> Area:
        return Area(what, offset, offset + self.header.gd_entries * self.width)

    def table_place(self, entry: int) -> int:
        """Where the grain table is that a directory entry names; 0 for none."""
        header = self.header
        if header.kind != "SESPARSE":
            return entry * s.SECTOR
        if not entry:
            return 0
        return header.tables_offset + (entry & 0xFFFF_FFFF) * header.table_bytes

    def grain_place(self, entry: int) -> int:
        """Where the grain is that a table entry names; 0 for none that is stored."""
        header = self.header
        if header.kind == "SESPARSE":
            if entry >> 60 != _SESPARSE_ALLOCATED:
                return 0
            number = (entry >> 48 & 0xFFF) | (entry & 0xFFFF_FFFF_FFFF) << 12
            return header.grains_offset + number * header.grain_size
        if entry == s.GTE_ZERO and header.zero_grains:
            return 0
        return entry * s.SECTOR

    def load(self, place: int) -> Sequence[int]:
        """The entries of the grain table at ``place``, which is inside the file."""
        length = self.header.gtes_per_gt * self.width
        return read_entries(self.storage, place, length, self.width, "little")


def vet_tables(
    storage: Storage, header: SparseHeader, gd_field: int, rgd_field: int
) -> Iterator[Finding]:
    """Findings on the tables. ``gd_field``, ``rgd_field``: where in the file the offsets of the
    directories stand.
    """
    extent = _Extent(storage, header)
    areas = [
        Area("the header", 0, header.overhead if header.kind == "COWD" else s.SECTOR),
        Area(
            "the descriptor",
            header.descriptor_offset,
            header.descriptor_offset + header.descriptor_size,
        ),
    ]
    if header.footer_offset is not None:
        areas.append(Area("the footer", header.footer_offset, header.footer_offset + s.SECTOR))
    directories: list[tuple[Table, int, str] | None] = [None, None]
    for number, (offset, where, what) in enumerate(
        (
            (header.gd_offset, gd_field, ""),
            (header.rgd_offset, rgd_field, "redundant "),
        )
    ):
        if offset is None or not header.gd_entries:
            continue
        length = header.gd_entries * extent.width
        if offset + length > storage.size:
            yield Finding.of(
                "table-outside",
                f"the {what}grain directory at {offset} ({length} bytes) reaches behind the end of "
                f"the file, {storage.size}",
                offset=where,
            )
            continue
        areas.append(extent.directory_area(offset, f"the {what}grain directory"))
        table = read_table(storage, offset, header.gd_entries, extent.width, "little")
        directories[number] = (table, offset, what)
    yield from overlaps(areas, most=8)
    yield from _vet_directories(extent, directories, areas)


def _vet_directories(
    extent: _Extent, directories: list[tuple[Table, int, str] | None], areas: list[Area]
) -> Iterator[Finding]:
    storage, header = extent.storage, extent.header
    tables: list[tuple[int, int]] = []
    for found in directories:
        if found is None:
            continue
        table, offset, what = found
        tables += (
            (place, offset + number * extent.width)
            for number, entry in table
            if (place := extent.table_place(entry))
        )
        if header.kind == "SESPARSE":
            odd = [number for number, entry in table if entry and entry >> 32 != _SESPARSE_TABLE]
            for number, more in some(odd):
                yield Finding.of(
                    "malformed",
                    f"entry {number} of the {what}grain directory names no table{more}",
                    offset=offset + number * extent.width,
                )
    blocks = Blocks(tables, header.table_bytes)
    for (place, where), more in some(blocks.behind(storage.size)):
        yield Finding.of(
            "table-outside",
            f"a grain table is said to be at {place}, behind the end of the file, "
            f"{storage.size}{more}",
            offset=where,
        )
    for (place, where), more in some(blocks.crowded()):
        yield Finding.of(
            "tables-overlap",
            f"a grain table lies at {place}, where another one is{more}",
            offset=where,
        )
    for area in areas:
        for (place, where), more in some(blocks.over(area), 2):
            yield Finding.of(
                "tables-overlap",
                f"a grain table at {place} lies over {area.what}{more}",
                offset=where,
            )
    first, second = directories
    if first is not None and second is not None:
        yield from _compare(extent, first, second)
    if first is not None or second is not None:
        table, offset, _ = first or second  # type: ignore[misc]
        yield from _vet_grains(extent, table, offset, blocks, areas)


def _places(extent: _Extent, table: Table) -> list[tuple[int, int]]:
    """(number, place) of the grain tables that are to be looked at, all inside the file."""
    last = extent.storage.size - extent.header.table_bytes
    found = [
        (number, place)
        for number, entry in table
        if (place := extent.table_place(entry)) and place <= last
    ]
    return [found[each] for each in spread(len(found), _most_tables(extent))]


def _most_tables(extent: _Extent) -> int:
    return max(2, _MOST_ENTRIES // extent.header.gtes_per_gt)


def _compare(
    extent: _Extent, first: tuple[Table, int, str], second: tuple[Table, int, str]
) -> Iterator[Finding]:
    """The redundant directory and its tables against the others."""
    header, last = extent.header, extent.storage.size - extent.header.table_bytes
    # Who is cut off while it writes leaves differences, and says so.
    severity = Severity.WARNING if header.unclean else None
    others = dict(iter(second[0]))
    lone = [number for number, entry in first[0] if bool(entry) != bool(others.get(number))]
    for number, more in some(lone):
        yield Finding.of(
            "copies-disagree",
            f"only one of the two directories has grain table {number}{more}",
            offset=second[1] + number * extent.width,
            severity=severity,
        )
    differing = []
    for number, place in _places(extent, first[0]):
        other = extent.table_place(others.get(number, 0))
        if not other or other == place or other > last:
            continue
        one, two = (extent.storage.read(at, header.table_bytes) for at in (place, other))
        if one != two:
            byte = next(at for at in range(len(one)) if one[at] != two[at])
            differing.append((number, other + byte // extent.width * extent.width))
    for (number, where), more in some(differing):
        yield Finding.of(
            "copies-disagree",
            f"grain table {number} differs from its redundant copy{more}",
            offset=where,
            severity=severity,
        )


def _vet_grains(
    extent: _Extent, table: Table, offset: int, tables: Blocks, areas: list[Area]
) -> Iterator[Finding]:
    storage, header = extent.storage, extent.header
    # In a sector of the file a compressed grain can lie, however large it is when it is unpacked.
    length = s.SECTOR if header.compressed else header.grain_size
    places = _places(extent, table)
    found: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    for number, place in places:
        first = number * header.gtes_per_gt
        for row, entry in enumerate(extent.load(place)):
            if entry and (grain := extent.grain_place(entry)):
                where = place + row * extent.width
                found.append((grain, where))
                numbers[where] = first + row
    blocks = Blocks(found, length)
    # What is behind the end of the disk need not be in the file.
    lost = [
        (place, where)
        for place, where in blocks.behind(storage.size)
        if place + _needed(header, numbers[where], length) > storage.size
    ]
    for (place, where), more in some(lost):
        yield Finding.of(
            "truncated",
            f"a grain is said to be at {place}, behind the end of the file, {storage.size}{more}",
            offset=where,
        )
    for (place, where), more in some(blocks.crowded()):
        yield Finding.of(
            "tables-overlap",
            f"a grain lies at {place}, where another one is{more}",
            offset=where,
        )
    if blocks.sharing() >= _BOMB:
        yield Finding.of(
            "expands",
            f"{blocks.count} grains of the disk are the same few of the file",
            offset=offset,
        )
    for area in areas:
        for (_, where), more in some(blocks.over(area), 2):
            yield Finding.of("tables-overlap", f"a grain lies over {area.what}{more}", offset=where)
    over = [
        grain
        for place, _ in islice(places, 1024)
        for grain in blocks.over(Area("a grain table", place, place + header.table_bytes))[:1]
    ]
    for (_, where), more in some(over):
        yield Finding.of("tables-overlap", f"a grain lies over a grain table{more}", offset=where)
    if header.compressed and header.markers:
        yield from _vet_markers(extent, found, numbers)
    if not table.whole or tables.count > 2 * _most_tables(extent):
        yield unfinished(
            f"there are {header.gd_entries} grain tables, of which a part was looked at",
            header.gd_offset,
        )


def _needed(header: SparseHeader, grain: int, length: int) -> int:
    """Bytes of a grain that must be in the file."""
    if header.compressed:
        return 1
    return min(length, max(0, header.size - grain * header.grain_size))


def _vet_markers(
    extent: _Extent, found: list[tuple[int, int]], numbers: dict[int, int]
) -> Iterator[Finding]:
    """Who reads a stream as one goes by its markers, who opens the file by its tables."""
    storage, sectors = extent.storage, extent.header.grain_size // s.SECTOR
    differing, cut = [], []
    for place, where in (found[each] for each in spread(len(found), _MARKERS)):
        if place + _MARKER_BYTES > storage.size:
            continue
        marker = s.GrainMarker.from_buffer_copy(storage.read(place, _MARKER_BYTES))
        if marker.lba != numbers[where] * sectors:
            differing.append((place, int(marker.lba)))
        elif not marker.size or place + _MARKER_BYTES + marker.size > storage.size:
            cut.append((place, int(marker.size)))
    for (place, lba), more in some(differing):
        yield Finding.of(
            "copies-disagree",
            f"the marker of a grain says sector {lba}, the grain table another one{more}",
            offset=place,
        )
    for (place, size), more in some(cut):
        yield Finding.of(
            "truncated",
            f"the marker of a grain says {size} bytes, which are not in the file{more}",
            offset=place + s.GrainMarker.size.offset,
        )
