"""Vets a GPT: both copies, their checksums, and what they say of the disk and of each other.

`partitions` reads a GPT by whichever copy is right; here it counts that firmware, kernels and
partition editors do not all read the same one. Source: UEFI specification 2.10, chapter 5.3.
Imports partitions; no numpy.
"""

from __future__ import annotations

import binascii
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

from vmimg.formats.raw import structures as s
from vmimg.formats.raw.findings import View, as_guid
from vmimg.formats.raw.partitions import is_protected
from vmimg.formats.vetting import Finding, Severity

__all__ = ["Gpt", "find_gpt", "vet_gpt"]

_REVISION: Final = 0x10000
_HEADER: Final = ctypes.sizeof(s.GptHeader)
_ENTRY: Final = ctypes.sizeof(s.GptEntry)
# Findings of one kind; more of them say nothing new.
_SHOWN: Final = 4


@dataclass(slots=True)
class Gpt:
    """A copy of the table as it stands in sector ``lba``. ``right``: header and checksum are;
    ``table``: the bytes of the entries, None where they cannot be read.
    """

    lba: int
    sector: int
    header: s.GptHeader
    right: bool
    table: bytes | None = None

    @property
    def place(self) -> int:
        """In bytes."""
        return self.lba * self.sector

    @property
    def width(self) -> int:
        return int(self.header.size_of_partition_entry)

    @property
    def table_length(self) -> int:
        return int(self.header.number_of_partition_entries) * self.width

    def entries(self) -> list[tuple[int, s.GptEntry]]:
        """(number, entry) of those in use."""
        table, width = self.table or b"", self.width
        if width < _ENTRY:
            return []
        return [
            (index + 1, s.GptEntry.from_buffer_copy(table, index * width))
            for index in range(len(table) // width)
            if any(table[index * width : index * width + 16])
        ]


def find_gpt(view: View) -> tuple[Gpt | None, Gpt | None]:
    """(primary, backup) of a disk, as far as there are any."""
    for sector in s.GPT_SECTOR_SIZES:
        last = view.size // sector - 1
        primary = _copy(view, sector, 1)
        where = last
        if primary is not None and primary.right and int(primary.header.alternate_lba) <= last:
            where = int(primary.header.alternate_lba)
        backup = _copy(view, sector, where)
        if primary is not None or backup is not None:
            return primary, backup
    return None, None


def vet_gpt(view: View) -> Iterator[Finding]:
    """Nothing where there is no GPT, nor an MBR that protects one."""
    primary, backup = find_gpt(view)
    if primary is None and backup is None:
        if is_protected(view):
            yield Finding.of(
                "partition-table", "the MBR protects a GPT, and there is none", offset=s.SECTOR
            )
        return
    if primary is None and backup is not None:
        if not is_protected(view):
            return  # what is left of a disk that was partitioned anew
        yield Finding.of(
            "checksum-wrong",
            "the primary GPT is gone: some readers take its backup, others see an empty disk",
            offset=backup.sector,
        )
    for copy, which in ((primary, "primary"), (backup, "backup")):
        if copy is not None:
            yield from _vet_copy(view, copy, which)
    if primary is not None and primary.right:
        yield from _vet_backup(view, primary, backup)
    best = primary if primary is not None and primary.right else backup
    if best is not None and best.right:
        yield from _vet_partitions(view, best)


def _copy(view: View, sector: int, lba: int) -> Gpt | None:
    data = view.read(lba * sector, sector) if lba > 0 else b""
    if len(data) < _HEADER or data[:8] != s.GPT_SIGNATURE:
        return None
    header = s.GptHeader.from_buffer_copy(data)
    size = int(header.header_size)
    right = _HEADER <= size <= len(data) and header.my_lba == lba
    if right:
        unsigned = bytearray(data[:size])
        field = s.GptHeader.header_crc32
        unsigned[field.offset : field.offset + field.size] = bytes(field.size)
        right = binascii.crc32(unsigned) == header.header_crc32
    found = Gpt(lba, sector, header, right)
    if right and found.width >= _ENTRY and found.table_length <= s.MAX_GPT_TABLE_BYTES:
        table = view.read(int(header.partition_entry_lba) * sector, found.table_length)
        if len(table) == found.table_length:
            found.table = table
    return found


def _vet_copy(view: View, copy: Gpt, which: str) -> Iterator[Finding]:
    header, place = copy.header, copy.place
    size = int(header.header_size)
    if not _HEADER <= size <= copy.sector:
        yield Finding.of(
            "impossible-size", f"the header of the {which} GPT has {size} bytes", offset=place + 12
        )
        return
    if header.my_lba != copy.lba:
        yield Finding.of(
            "copies-disagree",
            f"the {which} GPT in sector {copy.lba} says that it is in sector {header.my_lba}",
            offset=place + 24,
        )
        return
    if not copy.right:
        yield Finding.of(
            "checksum-wrong",
            f"the checksum of the header of the {which} GPT is wrong",
            offset=place + 16,
            evidence=f"{int(header.header_crc32):08x}",
        )
        return
    if header.revision != _REVISION:
        yield Finding.of(
            "odd-field",
            f"the {which} GPT is of revision {header.revision >> 16}.{header.revision & 0xFFFF}",
            offset=place + 8,
        )
    start = int(header.partition_entry_lba) * copy.sector
    if copy.width < _ENTRY or copy.width % 8 or copy.table_length > s.MAX_GPT_TABLE_BYTES:
        yield Finding.of(
            "impossible-size",
            f"the {which} GPT has {int(header.number_of_partition_entries)} entries of "
            f"{copy.width} bytes each",
            offset=place + 80,
        )
        return
    if copy.table is None:
        yield Finding.of(
            "table-outside",
            f"the entries of the {which} GPT are at {start}, behind the end of the disk, "
            f"{view.size}",
            offset=place + 72,
        )
    elif binascii.crc32(copy.table) != header.partition_entry_array_crc32:
        yield Finding.of(
            "checksum-wrong",
            f"the checksum of the entries of the {which} GPT is wrong",
            offset=place + 88,
        )
    yield from _vet_places(copy, which, start)


def _vet_places(copy: Gpt, which: str, start: int) -> Iterator[Finding]:
    """The entries must lie outside of what partitions may use, and of both headers."""
    header, sector = copy.header, copy.sector
    first, last = int(header.first_usable_lba), int(header.last_usable_lba)
    end = start + copy.table_length
    if first > last + 1:
        yield Finding.of(
            "partition-table",
            f"the {which} GPT says that sectors {first} to {last} are for partitions",
            offset=copy.place + 40,
        )
    elif start < 2 * sector or (start <= copy.place < end):
        yield Finding.of(
            "tables-overlap",
            f"the entries of the {which} GPT lie over a header, at {start}",
            offset=copy.place + 72,
        )
    elif start < (last + 1) * sector and end > first * sector and last:
        yield Finding.of(
            "tables-overlap",
            f"the entries of the {which} GPT, from {start} to {end}, lie where partitions may be, "
            f"from {first * sector} to {(last + 1) * sector}",
            offset=copy.place + 72,
        )


def _vet_backup(view: View, primary: Gpt, backup: Gpt | None) -> Iterator[Finding]:
    sector = primary.sector
    where, last = int(primary.header.alternate_lba), view.size // sector - 1
    if where > last:
        yield Finding.of(
            "truncated",
            f"the GPT is that of a disk of {(where + 1) * sector} bytes, and there are "
            f"{view.size}: its backup is missing",
            offset=sector + 32,
        )
        return
    if backup is None:
        yield Finding.of(
            "partition-table",
            f"the backup of the GPT is said to be in sector {where}, and is not there",
            offset=where * sector,
        )
    elif backup.right:
        yield from _compare(primary, backup)
    if where >= last:
        return
    yield Finding.of(
        "partition-table",
        f"the backup of the GPT is in sector {where}, not in the last one, {last}: the disk was "
        "enlarged",
        offset=where * sector,
        severity=Severity.NOTE,
    )
    other = _copy(view, sector, last)
    if other is not None and other.right:
        yield from _compare(primary, other)


def _compare(primary: Gpt, backup: Gpt) -> Iterator[Finding]:
    fields = (
        ("disk_guid", "the GUID of the disk"),
        ("first_usable_lba", "the first sector for partitions"),
        ("last_usable_lba", "the last sector for partitions"),
        ("number_of_partition_entries", "the number of entries"),
        ("size_of_partition_entry", "the size of an entry"),
        ("partition_entry_array_crc32", "the checksum of the entries"),
    )
    for name, what in fields:
        mine, other = getattr(primary.header, name), getattr(backup.header, name)
        if name == "disk_guid":
            mine, other = as_guid(mine), as_guid(other)
        if mine != other:
            yield Finding.of(
                "copies-disagree",
                f"the primary GPT and its backup differ in {what}: {mine} and {other}",
                offset=backup.place + getattr(s.GptHeader, name).offset,
            )


def _vet_partitions(view: View, copy: Gpt) -> Iterator[Finding]:
    sector, entries = copy.sector, copy.entries()
    first, last = int(copy.header.first_usable_lba), int(copy.header.last_usable_lba)
    yield from islice(_outside(view, copy, entries, first, last), _SHOWN)
    rows = sorted((int(e.starting_lba), int(e.ending_lba), number) for number, e in entries)
    over = (
        Finding.of(
            "partition-table",
            f"partitions {number} and {other} overlap from sector {start} on",
            offset=start * sector,
        )
        for (_, end, number), (start, _, other) in pairwise(rows)
        if start <= end
    )
    yield from islice(over, _SHOWN)
    seen: dict[str, int] = {}
    for number, entry in entries:
        guid = as_guid(entry.unique_partition_guid)
        if any(entry.unique_partition_guid) and guid in seen:
            yield Finding.of(
                "partition-table",
                f"partitions {seen[guid]} and {number} have the same GUID",
                evidence=guid,
            )
            break
        seen[guid] = number


def _outside(
    view: View, copy: Gpt, entries: list[tuple[int, s.GptEntry]], first: int, last: int
) -> Iterator[Finding]:
    for number, entry in entries:
        start, end = int(entry.starting_lba), int(entry.ending_lba)
        at = int(copy.header.partition_entry_lba) * copy.sector + (number - 1) * copy.width
        if end < start:
            yield Finding.of(
                "partition-table",
                f"partition {number} begins in sector {start} and ends in {end}",
                offset=at + 32,
            )
        elif (end + 1) * copy.sector > view.size:
            yield Finding.of(
                "truncated",
                f"partition {number} ends at {(end + 1) * copy.sector}, behind the end of the "
                f"disk, {view.size}",
                offset=at + 40,
            )
        elif start < first or end > last:
            yield Finding.of(
                "partition-table",
                f"partition {number}, of sectors {start} to {end}, lies outside of those for "
                f"partitions, {first} to {last}",
                offset=at + 32,
            )
