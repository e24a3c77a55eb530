"""What vetting finds in the metadata of a VHDX, its BAT and its blocks.

The second half of `vetting`, which looks at headers and regions first. The BAT is looked at whole
up to 512 KiB (65536 entries), by samples above. Spec: MS-VHDX 2.5, 2.6. No numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.formats.regions import Area, Blocks, overlaps
from vmimg.formats.sampling import Table, hidden_data, read_table, unfinished
from vmimg.formats.telling import some
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import Region
from vmimg.storage.base import Storage
from vmimg.units import TIB, format_size

__all__ = ["vet_metadata"]

_NAMES: Final = {
    s.FILE_PARAMETERS: "file parameters",
    s.VIRTUAL_DISK_SIZE: "virtual disk size",
    s.VIRTUAL_DISK_ID: "virtual disk id",
    s.LOGICAL_SECTOR_SIZE: "logical sector size",
    s.PHYSICAL_SECTOR_SIZE: "physical sector size",
    s.PARENT_LOCATOR: "parent locator",
}
_KNOWN_PARAMETERS: Final = s.LEAVE_BLOCKS_ALLOCATED | s.HAS_PARENT
_RESERVED: Final = ~(s.OFFSET_MASK | s.STATE_MASK) & 0xFFFF_FFFF_FFFF_FFFF
_ABSENT: Final = (s.NOT_PRESENT, s.UNDEFINED, s.ZERO, s.UNMAPPED, s.UNMAPPED_V095)
# Overlaps that are looked for one by one.
_ENOUGH: Final = 1000
_HEADER_BYTES: Final = ctypes.sizeof(s.MetadataTableHeader)
_ENTRY_BYTES: Final = ctypes.sizeof(s.MetadataTableEntry)


@dataclass(frozen=True, slots=True)
class _Item:
    """A metadata item; ``entry`` is where the table lists it, ``place`` where it is."""

    guid: bytes
    entry: int
    place: int
    length: int
    flags: int

    @property
    def name(self) -> str:
        return _NAMES.get(self.guid, s.guid_text(self.guid))


@dataclass(frozen=True, slots=True)
class _Disk:
    size: int
    block: int
    logical: int
    has_parent: bool

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block)

    @property
    def ratio(self) -> int:
        """Payload blocks that share a sector bitmap block."""
        return s.CHUNK_SECTORS * self.logical // self.block

    @property
    def entries(self) -> int:
        """Of the BAT."""
        if self.has_parent:
            return -(-self.blocks // self.ratio) * (self.ratio + 1)
        return self.blocks + max(0, self.blocks - 1) // self.ratio


def vet_metadata(
    storage: Storage, region: Region, bat: Region, areas: list[Area]
) -> Iterator[Finding]:
    """Findings on what lies in the two regions, and on the blocks. ``areas``: what is no block."""
    items = _items(storage, region)
    known: dict[bytes, _Item] = {}
    for item in items:
        if item.guid not in _NAMES or item.flags & s.IS_USER:
            if item.flags & s.IS_REQUIRED:
                yield Finding.of(
                    "unknown-features",
                    f"it has metadata {item.name} that must not be ignored and is not known",
                    offset=item.entry,
                )
        elif item.guid in known:
            yield Finding.of(
                "copies-disagree", f"the metadata lists the {item.name} twice", offset=item.entry
            )
        known.setdefault(item.guid, item)
        if item.length and item.place + item.length > region.offset + region.length:
            yield Finding.of(
                "table-outside",
                f"the {item.name} ({item.length} bytes at {item.place}) reaches behind the end of "
                f"the metadata region, {region.offset + region.length}",
                offset=item.entry + s.MetadataTableEntry.offset.offset,
            )
    table = Area("the metadata table", region.offset, region.offset + s.METADATA_TABLE_SIZE)
    places = [
        table,
        *(Area(f"the {item.name}", item.place, item.place + item.length) for item in items),
    ]
    yield from overlaps(places, most=8)
    wrong = list(_vet_parameters(storage, known))
    yield from wrong
    disk = _disk(storage, known)
    if disk is None or any(finding.severity == Severity.ERROR for finding in wrong):
        return
    if disk.entries * s.BAT_ENTRY > bat.length:
        yield Finding.of(
            "impossible-size",
            f"the BAT has room for {bat.length // s.BAT_ENTRY} entries; a disk of "
            f"{format_size(disk.size)} needs {disk.entries}",
            offset=known[s.VIRTUAL_DISK_SIZE].place,
        )
        return
    yield from _vet_blocks(storage, disk, bat, areas)


def _items(storage: Storage, region: Region) -> list[_Item]:
    """What the metadata table lists; nothing of a table that reading refuses."""
    if region.length < s.METADATA_TABLE_SIZE:
        return []
    table = storage.read(region.offset, s.METADATA_TABLE_SIZE)
    raw = s.MetadataTableHeader.from_buffer_copy(table)
    if raw.signature != s.METADATA_SIGNATURE or raw.entry_count > s.MAX_METADATA_ENTRIES:
        return []
    found = []
    for start in range(_HEADER_BYTES, _HEADER_BYTES + raw.entry_count * _ENTRY_BYTES, _ENTRY_BYTES):
        entry = s.MetadataTableEntry.from_buffer_copy(table, start)
        found.append(
            _Item(
                bytes(entry.item_id),
                region.offset + start,
                region.offset + int(entry.offset),
                int(entry.length),
                int(entry.flags),
            )
        )
    return found


def _number(storage: Storage, items: dict[bytes, _Item], guid: bytes, width: int) -> int | None:
    """The number that an item begins with; None where it is not there."""
    item = items.get(guid)
    if item is None or item.length < width or item.place + width > storage.size:
        return None
    return int.from_bytes(storage.read(item.place, width), "little")


def _disk(storage: Storage, items: dict[bytes, _Item]) -> _Disk | None:
    size = _number(storage, items, s.VIRTUAL_DISK_SIZE, 8)
    parameters = _number(storage, items, s.FILE_PARAMETERS, 8)
    logical = _number(storage, items, s.LOGICAL_SECTOR_SIZE, 4)
    if size is None or parameters is None or logical is None:
        return None
    flags = parameters >> 32
    return _Disk(size, parameters & 0xFFFF_FFFF, logical, bool(flags & s.HAS_PARENT))


def _vet_parameters(storage: Storage, items: dict[bytes, _Item]) -> Iterator[Finding]:
    for guid in (s.LOGICAL_SECTOR_SIZE, s.PHYSICAL_SECTOR_SIZE):
        sector = _number(storage, items, guid, 4)
        if sector not in (None, 512, 4096):
            yield Finding.of(
                "impossible-size",
                f"its {items[guid].name} is {sector} bytes; there are 512 and 4096",
                offset=items[guid].place,
            )
    disk = _disk(storage, items)
    if disk is None:
        return
    block, size = disk.block, disk.size
    if not s.MIN_BLOCK <= block <= s.MAX_BLOCK or block & (block - 1):
        yield Finding.of(
            "impossible-size",
            f"its blocks have {block} bytes; a power of two from 1 MiB to 256 MiB is possible",
            offset=items[s.FILE_PARAMETERS].place,
        )
    if size > s.MAX_SIZE or size % max(1, disk.logical):
        yield Finding.of(
            "impossible-size",
            f"a disk of {size} bytes; it is whole sectors, {s.MAX_SIZE // TIB} TiB at most",
            offset=items[s.VIRTUAL_DISK_SIZE].place,
        )
    flags = (_number(storage, items, s.FILE_PARAMETERS, 8) or 0) >> 32
    if flags & ~_KNOWN_PARAMETERS:
        yield Finding.of(
            "unknown-features",
            f"the bits {flags & ~_KNOWN_PARAMETERS:#x} of the file parameters are not known",
            offset=items[s.FILE_PARAMETERS].place + s.FileParameters.flags.offset,
        )
    yield from _vet_locator(storage, items, disk.has_parent)


def _vet_locator(
    storage: Storage, items: dict[bytes, _Item], has_parent: bool
) -> Iterator[Finding]:
    item = items.get(s.PARENT_LOCATOR)
    if item is None:
        return
    if not has_parent:
        yield Finding.of(
            "odd-field",
            "it has a parent locator, but says that it has no parent",
            offset=item.entry,
        )
    elif len(s.VHDX_LOCATOR) <= item.length and item.place + item.length <= storage.size:
        data = storage.read(item.place, min(item.length, s.MAX_ITEM_BYTES))
        if data[:16] != s.VHDX_LOCATOR:
            yield Finding.of(
                "unknown-features",
                f"it names its parent in a way that is not known, {s.guid_text(data[:16])}",
                offset=item.place,
            )
        elif "parent_linkage".encode("utf-16-le") not in data:
            yield Finding.of(
                "odd-field",
                "it does not say which parent it was made above, so that any will do",
                offset=item.place,
            )


# The BAT


def _vet_blocks(storage: Storage, disk: _Disk, bat: Region, areas: list[Area]) -> Iterator[Finding]:
    table = read_table(storage, bat.offset, disk.entries, s.BAT_ENTRY, "little")
    states = _Entries(table, disk)

    def entry(number: int) -> int:
        return bat.offset + number * s.BAT_ENTRY

    for number, more in some(states.strange):
        yield Finding.of(
            "malformed", f"BAT entry {number} has a state that there is not{more}",
            offset=entry(number),
        )  # fmt: skip
    for number, more in some(states.reserved):
        yield Finding.of(
            "odd-field", f"reserved bits of BAT entry {number} are set{more}",
            offset=entry(number),
        )  # fmt: skip
    for number, more in some(states.without_bitmap) if table.whole else ():
        yield Finding.of(
            "malformed",
            f"BAT entry {number} is partially present, but its chunk has no sector bitmap{more}",
            offset=entry(number),
        )
    payload = Blocks(states.payload, disk.block)
    bitmaps = Blocks(states.bitmaps, s.BITMAP_BLOCK)
    lost = [
        (place, number)
        for place, number in payload.behind(storage.size)
        if place + min(disk.block, disk.size - _disk_block(number, disk.ratio) * disk.block)
        > storage.size
    ]
    for (place, number), more in some(lost + bitmaps.behind(storage.size)):
        yield Finding.of(
            "truncated",
            f"the block of BAT entry {number} is said to be at {place}, behind the end of the "
            f"file, {storage.size}{more}",
            offset=entry(number),
        )
    for area in areas:
        for (_, number), more in some(payload.over(area) + bitmaps.over(area), 2):
            yield Finding.of(
                "tables-overlap",
                f"the block of BAT entry {number} lies over {area.what}{more}",
                offset=entry(number),
            )
    shared = payload.crowded() + bitmaps.crowded()
    for place, _ in states.bitmaps:
        if len(shared) > _ENOUGH:
            break
        shared += payload.over(Area("a sector bitmap", place, place + s.BITMAP_BLOCK))
    for (place, number), more in some(shared):
        yield Finding.of(
            "tables-overlap",
            f"the block of BAT entry {number} lies at {place}, where another one is{more}",
            offset=entry(number),
        )
    if not table.whole:
        yield unfinished(
            f"the BAT has {disk.entries} entries, of which a part was looked at", bat.offset
        )
        return
    kept = states.kept + disk.block if states.kept else 0
    end = max(kept, payload.end, bitmaps.end, *(area.end for area in areas))
    yield from hidden_data(storage, end, storage.size, "there is data behind the last block")


def _disk_block(number: int, ratio: int) -> int:
    """The payload block of a BAT entry."""
    return number - number // (ratio + 1)


class _Entries:
    """BAT entries by what they are: (place, number of the entry), or only numbers."""

    def __init__(self, table: Table, disk: _Disk) -> None:
        self.payload: list[tuple[int, int]] = []
        self.bitmaps: list[tuple[int, int]] = []
        self.strange: list[int] = []
        self.reserved: list[int] = []
        self.kept = 0
        """The last place that an undefined or unmapped block keeps."""
        partial: list[int] = []
        row = disk.ratio + 1
        for number, entry in table:
            if not entry:
                continue
            state, place = entry & s.STATE_MASK, entry & s.OFFSET_MASK
            if number % row == disk.ratio:
                if state == s.BITMAP_PRESENT:
                    self.bitmaps.append((place, number))
                elif state != s.BITMAP_NOT_PRESENT:
                    self.strange.append(number)
            elif state >= s.FULLY_PRESENT:
                self.payload.append((place, number))
                if state == s.PARTIALLY_PRESENT:
                    partial.append(number)
            elif state not in _ABSENT:
                self.strange.append(number)
            elif state != s.ZERO:
                self.kept = max(self.kept, place)
            if entry & _RESERVED:
                self.reserved.append(number)
        chunks = {number // row for _, number in self.bitmaps}
        self.without_bitmap = [number for number in partial if number // row not in chunks]
        if not disk.has_parent:
            self.strange += partial
            self.without_bitmap = []
