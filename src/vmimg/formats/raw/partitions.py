"""Partition tables: MBR with its extended partitions, GPT with its backup, Apple's map.

What they say is checked against the disk; what does not fit is a problem to report. No numpy.
"""

from __future__ import annotations

import binascii
import ctypes
from collections.abc import Iterator
from typing import Final

from vmimg.formats.raw import structures as s
from vmimg.formats.raw.findings import Contents, Partition, View, as_guid, as_text, as_utf16
from vmimg.units import format_size

__all__ = ["is_protected", "read_apm", "read_gpt", "read_mbr"]

# Links of a chain of extended partitions.
_MAX_LOGICAL: Final = 128


def read_mbr(view: View) -> Contents | None:
    """The MBR, with the logical partitions in its extended ones."""
    mbr = view.structure(s.Mbr, 0)
    if mbr is None or bytes(mbr.signature) != s.MBR_SIGNATURE:
        return None
    entries = list(mbr.partition_record)
    used = [entry for entry in entries if entry.os_type]
    # A boot sector of a file system ends in the same two bytes, with code in place of the table.
    if not used or any(not _is_plausible(entry) for entry in entries):
        return None
    partitions: list[Partition] = []
    for number, entry in enumerate(entries, 1):
        if entry.os_type:
            partitions.append(_mbr_partition(number, entry, 0))
    for entry in entries:
        if entry.os_type in s.MBR_EXTENDED:
            partitions += _logical(view, entry.starting_lba)
    signature = int(mbr.unique_mbr_signature)
    return Contents(
        "mbr",
        uuid=f"{signature:08x}" if signature else "",
        sector_size=s.SECTOR,
        partitions=tuple(partitions),
        problems=tuple(_outside(view, partitions)),
    )


def _is_plausible(entry: s.MbrEntry) -> bool:
    if entry.boot_indicator & 0x7F:
        return False
    return not entry.os_type or bool(entry.size_in_lba)


def _mbr_partition(number: int, entry: s.MbrEntry, base: int) -> Partition:
    return Partition(
        number=number,
        start=(base + entry.starting_lba) * s.SECTOR,
        size=entry.size_in_lba * s.SECTOR,
        type=f"0x{entry.os_type:02x}",
        type_name=s.MBR_TYPES.get(entry.os_type, ""),
        bootable=entry.boot_indicator == 0x80,
    )


def _logical(view: View, extended: int) -> Iterator[Partition]:
    """Partitions inside an extended one: a chain of sectors that each describe one and the next."""
    sector, seen = extended, {0}
    while sector not in seen and len(seen) <= _MAX_LOGICAL:
        seen.add(sector)
        record = view.structure(s.Mbr, sector * s.SECTOR)
        if record is None or bytes(record.signature) != s.MBR_SIGNATURE:
            return
        first, following = record.partition_record[0], record.partition_record[1]
        if first.os_type and first.size_in_lba:
            yield _mbr_partition(3 + len(seen), first, sector)
        if following.os_type not in s.MBR_EXTENDED:
            return
        sector = extended + following.starting_lba


def read_gpt(view: View) -> Contents | None:
    """The GPT with sectors of any size, by its backup where the first one is damaged."""
    for sector_size in s.GPT_SECTOR_SIZES:
        problems: list[str] = []
        header = _gpt_header(view, sector_size, 1, problems)
        claimed = view.read(sector_size, 8) == s.GPT_SIGNATURE
        last = view.size // sector_size - 1
        if header is not None:
            problems += _check_backup(view, sector_size, header, last)
        elif claimed or is_protected(view):
            header = _gpt_header(view, sector_size, last, [])
            if header is None and not claimed:
                continue
            problems.insert(
                0,
                "the primary GPT is damaged"
                + (": the backup at the end of the disk is used" if header is not None else ""),
            )
        else:
            continue
        partitions = _gpt_partitions(view, sector_size, header, problems) if header else []
        traits = () if is_protected(view) else ("no protective MBR",)
        return Contents(
            "gpt",
            uuid=as_guid(header.disk_guid) if header else "",
            sector_size=sector_size,
            traits=traits,
            partitions=tuple(partitions),
            problems=(*problems, *_outside(view, partitions)),
        )
    return None


def _gpt_header(view: View, sector_size: int, lba: int, problems: list[str]) -> s.GptHeader | None:
    """The header in sector ``lba`` if it is one whose checksum is right."""
    data = view.read(lba * sector_size, sector_size) if lba > 0 else b""
    if len(data) < ctypes.sizeof(s.GptHeader) or data[:8] != s.GPT_SIGNATURE:
        return None
    header = s.GptHeader.from_buffer_copy(data)
    if not ctypes.sizeof(s.GptHeader) <= header.header_size <= len(data):
        problems.append(
            f"the GPT header in sector {lba} says that it has {header.header_size} bytes"
        )
        return None
    unsigned = bytearray(data[: header.header_size])
    field = s.GptHeader.header_crc32
    unsigned[field.offset : field.offset + field.size] = bytes(field.size)
    if binascii.crc32(unsigned) != header.header_crc32:
        problems.append(f"the checksum of the GPT header in sector {lba} is wrong")
        return None
    if header.my_lba != lba:
        problems.append(f"the GPT header in sector {lba} says that it is in {header.my_lba}")
        return None
    return header


def _check_backup(view: View, sector_size: int, header: s.GptHeader, last: int) -> Iterator[str]:
    where = int(header.alternate_lba)
    if where > last:
        missing = (where + 1) * sector_size
        yield (
            f"the GPT is that of a disk of {format_size(missing)} ({missing} bytes): "
            "the image is truncated, its backup GPT is missing"
        )
    elif _gpt_header(view, sector_size, where, []) is None:
        yield f"the backup GPT in sector {where} is missing or damaged"
    elif where < last:
        yield (
            f"the backup GPT is in sector {where}, not in the last one ({last}): the disk was "
            "enlarged; sgdisk -e moves it"
        )


def _gpt_partitions(
    view: View, sector_size: int, header: s.GptHeader, problems: list[str]
) -> list[Partition]:
    count, width = int(header.number_of_partition_entries), int(header.size_of_partition_entry)
    start = int(header.partition_entry_lba) * sector_size
    least = ctypes.sizeof(s.GptEntry)
    if width < least or count * width > s.MAX_GPT_TABLE_BYTES:
        problems.append(f"a GPT of {count} entries of {width} bytes each is not read")
        return []
    table = view.read(start, count * width)
    if len(table) < count * width:
        problems.append("the entries of the GPT lie behind the end of the disk")
    elif binascii.crc32(table) != header.partition_entry_array_crc32:
        problems.append("the checksum of the entries of the GPT is wrong")
    partitions: list[Partition] = []
    for index in range(len(table) // width):
        entry = s.GptEntry.from_buffer_copy(table, index * width)
        kind = as_guid(entry.partition_type_guid)
        if not any(entry.partition_type_guid):
            continue
        length = max(0, int(entry.ending_lba) + 1 - int(entry.starting_lba))
        partitions.append(
            Partition(
                number=index + 1,
                start=int(entry.starting_lba) * sector_size,
                size=length * sector_size,
                type=kind,
                type_name=s.GPT_TYPES.get(kind, ""),
                label=as_utf16(entry.partition_name),
                uuid=as_guid(entry.unique_partition_guid),
                bootable=bool(entry.attributes & 4),
            )
        )
    return partitions


def is_protected(view: View) -> bool:
    """Whether the MBR says that all of the disk is a GPT's."""
    mbr = view.structure(s.Mbr, 0)
    return (
        mbr is not None
        and bytes(mbr.signature) == s.MBR_SIGNATURE
        and any(entry.os_type == s.MBR_PROTECTIVE for entry in mbr.partition_record)
    )


def read_apm(view: View) -> Contents | None:
    """Apple's map: a sector for each partition, from the second on, itself among them."""
    for sector_size in s.APM_SECTOR_SIZES:
        first = view.structure(s.ApmEntry, sector_size)
        if first is None or first.pmSig != s.APM_SIGNATURE:
            continue
        partitions = []
        for number in range(1, min(int(first.pmMapBlkCnt), s.MAX_APM_ENTRIES) + 1):
            entry = view.structure(s.ApmEntry, number * sector_size)
            if entry is None or entry.pmSig != s.APM_SIGNATURE:
                break
            partitions.append(
                Partition(
                    number=number,
                    start=int(entry.pmPyPartStart) * sector_size,
                    size=int(entry.pmPartBlkCnt) * sector_size,
                    type=as_text(entry.pmParType),
                    label=as_text(entry.pmPartName),
                )
            )
        return Contents(
            "apm",
            sector_size=sector_size,
            partitions=tuple(partitions),
            problems=tuple(_outside(view, partitions)),
        )
    return None


def _outside(view: View, partitions: list[Partition]) -> Iterator[str]:
    for partition in partitions:
        end = partition.start + partition.size
        protective = partition.type == f"0x{s.MBR_PROTECTIVE:02x}"
        if end > view.size and not protective:
            yield (
                f"partition {partition.number} ends at {end}, behind the end of the disk "
                f"({view.size}): the image is truncated"
            )
