"""What vetting finds in a VHD that is not fixed: the header, the BAT, parent locators, blocks.

The second half of `vetting`, which looks at the footers first. The BAT is looked at whole up to
512 KiB, by samples above. No numpy.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.formats.regions import Area, Blocks, overlaps
from vmimg.formats.sampling import hidden_data, read_table, unfinished
from vmimg.formats.telling import some
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import (
    LARGEST_BLOCK,
    MAX_BAT_BYTES,
    FoundFooter,
    bitmap_bytes,
    checksum,
    virtual_size,
)
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["NOWHERE", "unknown_version", "vet_dynamic"]

NOWHERE: Final = (s.NO_OFFSET, 0xFFFF_FFFF)
"""Offsets of what is not there: the specification has both."""
# Less than this in front of the footer is alignment.
_GAP: Final = 4096
_SMALLEST_BLOCK: Final = 8 * s.SECTOR
_FOOTER: Final = "the footer"
_LOCATORS: Final = (b"W2ru", b"W2ku", b"MacX", b"Mac ", b"Wi2r", b"Wi2k")


def vet_dynamic(
    storage: Storage, footer: FoundFooter, last: int, end: FoundFooter | None
) -> Iterator[Finding]:
    """Findings on all but the footers. ``footer``: the one to go by; ``end``: the one at the end of
    the file, which is at ``last`` or not there.
    """
    fields = footer.fields
    offset = int(fields.data_offset)
    named = footer.offset + s.Footer.data_offset.offset
    if offset + s.DYNAMIC_HEADER_SIZE > storage.size:
        yield Finding.of(
            "table-outside",
            f"the dynamic header is said to be at {offset}, the file ends at {storage.size}",
            offset=named,
        )
        return
    raw = storage.read(offset, s.DYNAMIC_HEADER_SIZE)
    if offset < s.FOOTER_SIZE or not raw.startswith(s.DYNAMIC_COOKIE):
        if offset < s.FOOTER_SIZE:
            yield Finding.of(
                "tables-overlap",
                f"the dynamic header is said to be at {offset}, over the copy of the footer",
                offset=named,
            )
        return
    header = s.DynamicHeader.from_buffer_copy(raw)
    disk = _Disk(
        virtual_size(fields), offset, header, last, end is not None,
        fields.disk_type == s.DIFFERENCING,
    )  # fmt: skip
    if header.checksum != checksum(raw, s.DynamicHeader.checksum.offset):
        yield Finding.of(
            "checksum-wrong",
            "the checksum of the dynamic header is wrong",
            offset=disk.at("checksum"),
        )
    if header.header_version != s.VERSION:
        yield unknown_version(header.header_version, disk.at("header_version"))
    if header.data_offset not in NOWHERE:
        yield Finding.of(
            "odd-field",
            f"the dynamic header names a structure at {header.data_offset}; there is none",
            offset=disk.at("data_offset"),
        )
    block = disk.block
    if not _SMALLEST_BLOCK <= block <= LARGEST_BLOCK or block & (block - 1):
        yield Finding.of(
            "impossible-size",
            f"its blocks have {block} bytes; a power of two up to {LARGEST_BLOCK} is possible",
            offset=disk.at("block_size"),
        )
        return
    wrong = list(_vet_table(storage, disk))
    yield from wrong
    areas = [*_fixed_areas(disk), *_locator_areas(storage, disk)]
    yield from _vet_parent(storage, disk)
    yield from overlaps(areas, most=8)
    if not any(finding.severity == Severity.ERROR for finding in wrong):
        yield from _vet_blocks(storage, disk, areas)


@dataclass(frozen=True, slots=True)
class _Disk:
    """``end``: where the footer is, or the file ends without one. ``footer``: its copy or not."""

    size: int
    header_offset: int
    header: s.DynamicHeader
    end: int
    has_end: bool
    differencing: bool

    @property
    def block(self) -> int:
        return int(self.header.block_size)

    @property
    def table(self) -> int:
        return int(self.header.table_offset)

    @property
    def entries(self) -> int:
        return int(self.header.max_table_entries)

    def at(self, field: str) -> int:
        return self.header_offset + int(getattr(s.DynamicHeader, field).offset)


def _vet_table(storage: Storage, disk: _Disk) -> Iterator[Finding]:
    needed = -(-disk.size // disk.block)
    if disk.entries < needed or disk.entries * 4 > MAX_BAT_BYTES:
        yield Finding.of(
            "impossible-size",
            f"the BAT has {disk.entries} entries; a disk of {disk.size} bytes in blocks of "
            f"{format_size(disk.block)} has {needed}",
            offset=disk.at("max_table_entries"),
        )
    elif disk.table + disk.entries * 4 > storage.size:
        yield Finding.of(
            "table-outside",
            f"the BAT at {disk.table} ({disk.entries} entries) reaches behind the end of the "
            f"file, {storage.size}",
            offset=disk.at("table_offset"),
        )
    elif disk.table % s.SECTOR:
        yield Finding.of(
            "odd-field",
            f"the BAT at {disk.table} does not begin on a sector",
            offset=disk.at("table_offset"),
        )


def _fixed_areas(disk: _Disk) -> list[Area]:
    end_of_header = disk.header_offset + s.DYNAMIC_HEADER_SIZE
    areas = [
        Area("the copy of the footer", 0, s.FOOTER_SIZE),
        Area("the dynamic header", disk.header_offset, end_of_header),
        Area("the BAT", disk.table, disk.table + disk.entries * 4),
    ]
    if disk.has_end:
        areas.append(Area(_FOOTER, disk.end, disk.end + s.OLD_FOOTER_SIZE))
    return areas


def _locators(disk: _Disk) -> Iterator[tuple[int, s.ParentLocatorEntry]]:
    """(where the entry is, the entry) of those that are in use."""
    for number, entry in enumerate(disk.header.parent_locators):
        if any(entry.platform_code):
            place = disk.at("parent_locators") + number * s.DynamicHeader.parent_locators.size // 8
            yield place, entry


def _locator_areas(storage: Storage, disk: _Disk) -> Iterator[Area]:
    for _, entry in _locators(disk):
        start, length = int(entry.platform_data_offset), int(entry.platform_data_length)
        if length and start + length <= storage.size:
            yield Area("the data of a parent locator", start, start + length)


def _vet_parent(storage: Storage, disk: _Disk) -> Iterator[Finding]:
    named = list(_locators(disk))
    if not disk.differencing:
        if named or any(disk.header.parent_unique_id):
            yield Finding.of(
                "odd-field",
                "it names a parent, but is no differencing disk",
                offset=named[0][0] if named else disk.at("parent_unique_id"),
            )
        return
    for place, entry in named:
        code = bytes(entry.platform_code)
        start, length = int(entry.platform_data_offset), int(entry.platform_data_length)
        if start + length > storage.size:
            yield Finding.of(
                "table-outside",
                f"the parent locator {code.decode('latin-1')} ({length} bytes at {start}) reaches "
                f"behind the end of the file, {storage.size}",
                offset=place,
            )
        if code not in _LOCATORS:
            yield Finding.of(
                "odd-field",
                f"it names its parent in a way that is not known, '{code.decode('latin-1')}'",
                offset=place,
            )


def _vet_blocks(storage: Storage, disk: _Disk, areas: list[Area]) -> Iterator[Finding]:
    table = read_table(storage, disk.table, disk.entries, 4, "big")
    bitmap, block = bitmap_bytes(disk.block), disk.block
    last, rest = divmod(disk.size, block)
    blocks = Blocks(
        ((sector * s.SECTOR, number) for number, sector in table if sector != s.UNUSED),
        bitmap + block,
    )

    def entry(number: int) -> int:
        return disk.table + 4 * number

    # Behind the end of the disk nothing has to be there, neither of the last block nor of more.
    lost = [
        (place, number)
        for place, number in blocks.behind(storage.size)
        if place + bitmap + (block if number < last else rest if number == last else 0)
        > storage.size
    ]
    for (place, number), more in some(lost):
        yield Finding.of(
            "truncated",
            f"block {number} is said to be at {place}, behind the end of the file, "
            f"{storage.size}{more}",
            offset=entry(number),
        )
    for area in areas:
        over = blocks.over(area)
        if area.what == _FOOTER:
            over = [each for each in over if each[0] >= area.start or each[1] < last]
        for (_, number), more in some(over, 2):
            yield Finding.of(
                "tables-overlap",
                f"block {number} lies over {area.what} at {area.start}{more}",
                offset=entry(number),
            )
    for (place, number), more in some(blocks.crowded()):
        yield Finding.of(
            "tables-overlap",
            f"block {number} lies at {place}, where another one is{more}",
            offset=entry(number),
        )
    if not table.whole:
        yield unfinished(
            f"the BAT has {disk.entries} entries, of which a part was looked at", disk.table
        )
        return
    used = max(blocks.end, *(area.end for area in areas if area.what != _FOOTER))
    if disk.end - used >= _GAP:
        yield from hidden_data(
            storage, used, disk.end, "there is data between the last block and the footer"
        )


def unknown_version(version: int, offset: int) -> Finding:
    """The finding for a version of footer or header other than 1.0."""
    return Finding.of(
        "unknown-version",
        f"version {version >> 16}.{version & 0xFFFF} is not known; there is 1.0",
        offset=offset,
    )
