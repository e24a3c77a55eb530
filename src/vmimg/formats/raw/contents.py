"""What is on a raw disk: partitions, a bare file system or volume, an ISO, nothing, or nothing
known.

Reads a bounded number of bytes (some hundred KiB at most) and believes none of them: a number that
does not fit the disk makes a problem to report, never a read. Structures are in `structures`; the
tables at the bottom say what is tried in which order. Imports storage and units; no numpy.
"""

from __future__ import annotations

import binascii
import ctypes
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, TypeVar

from vmimg.formats.iso.volume import read_volume
from vmimg.formats.luks import structures as luks
from vmimg.formats.raw import floppy
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.floppy import Floppy
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["Contents", "Partition", "View", "examine", "partition_tables"]

# Read once for each disk or partition: all but a few of the structures lie in it.
_HEAD_BYTES: Final = 72 << 10
# Partitions whose own contents are looked at, and links of a chain of extended partitions.
_MAX_EXAMINED: Final = 16
_MAX_LOGICAL: Final = 128
# A disk with more data than this is not searched for a byte that is not zero. Floppies have less.
_MAX_BLANK_BYTES: Final = 3 << 20
_MAX_BLANK_EXTENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Partition:
    """``start`` and ``size`` in bytes; ``type`` is the MBR's as ``0x83`` or the GPT's GUID."""

    number: int
    start: int
    size: int
    type: str
    type_name: str = ""
    label: str = ""
    uuid: str = ""
    bootable: bool = False
    contents: Contents | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What was recognised.

    ``kind``: "mbr", "gpt", "apm", "filesystem", "volume" (LVM, LUKS, swap, RAID), "iso9660" (UDF
    too), "wrapper" (a file that is no disk itself), "blank", "unknown". ``name``: which file system
    or volume. ``size``: the bytes that it says it takes. ``traits``: further facts in a word or
    two. ``floppy``: which kind of floppy it is on, if it is one. ``problems``: what does not fit,
    in sentences.
    """

    kind: str
    name: str = ""
    label: str = ""
    uuid: str = ""
    size: int | None = None
    sector_size: int | None = None
    traits: tuple[str, ...] = ()
    floppy: Floppy | None = None
    partitions: tuple[Partition, ...] = ()
    problems: tuple[str, ...] = ()

    def title(self) -> str:
        """In a few words: ``ext4 "root"``, ``GPT, 3 partitions``."""
        text = _TITLES.get(self.kind, self.name)
        if self.kind in ("mbr", "gpt", "apm"):
            count = len(self.partitions)
            text += f", {count} partition{'' if count == 1 else 's'}"
        if self.label:
            text += f' "{self.label}"'
        if self.floppy is None:
            return ", ".join((text, *self.traits))
        return f"{self.floppy.title()}: " + ", ".join((text, *self.traits, *self.floppy.facts()))

    def lines(self) -> list[str]:
        """For people: the title, a line for each partition, the problems."""
        inner = [
            f"partition {partition.number}: {problem}"
            for partition in self.partitions
            if partition.contents is not None
            for problem in partition.contents.problems
        ]
        return [self.title(), *_partition_lines(self.partitions), *self.problems, *inner]

    def to_json(self) -> dict[str, Any]:
        """Everything that is set, with hyphens in the names."""
        return _to_json(self)


def examine(storage: Storage) -> Contents:
    """What is on the disk that ``storage`` holds byte by byte. Raises StorageError only."""
    view = View(storage, 0, storage.size)
    found = _disc(view) or _floppy(view) or _partitioned(view) or _bare(view) or _wrapper(view)
    if found is None:
        traits = ("with a boot sector",) if view.read(510, 2) == s.MBR_SIGNATURE else ()
        found = Contents("blank" if _is_blank(storage) else "unknown", traits=traits)
    if found.kind in ("filesystem", "blank", "unknown") and found.floppy is None:
        found = replace(found, floppy=floppy.by_size(storage.size))
    return found


def partition_tables(storage: Storage) -> tuple[Contents, ...]:
    """All partition tables of the disk, without looking into the partitions: a hybrid disc has up
    to three, so that each kind of firmware finds one it knows. An MBR that only protects a GPT is
    none.
    """
    view = View(storage, 0, storage.size)
    gpt, mbr, apm = _gpt(view), _mbr(view), _apm(view)
    protective = f"0x{s.MBR_PROTECTIVE:02x}"
    if mbr is not None and gpt is not None and {p.type for p in mbr.partitions} == {protective}:
        mbr = None
    return tuple(table for table in (gpt, mbr, apm) if table is not None)


_TITLES: Final = {
    "mbr": "MBR",
    "gpt": "GPT",
    "apm": "Apple partition map",
    "blank": "blank: nothing but zeros",
    "unknown": "no partition table or file system that is known",
}

_Structure = TypeVar("_Structure", bound=ctypes.Structure)


class View:
    """A disk or a partition: reads are cut at its end, and come back empty behind it."""

    def __init__(self, storage: Storage, start: int, size: int) -> None:
        self.storage = storage
        self.start = start
        self.size = max(0, min(size, storage.size - start))
        self._head = storage.read(start, min(self.size, _HEAD_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes; ``offset`` counts from the end where it is negative."""
        if offset < 0:
            offset += self.size
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        return self.storage.read(self.start + offset, length)

    def structure(self, kind: type[_Structure], offset: int) -> _Structure | None:
        """The structure at ``offset``; None where the disk ends in it."""
        data = self.read(offset, ctypes.sizeof(kind))
        return kind.from_buffer_copy(data) if len(data) == ctypes.sizeof(kind) else None


# Partition tables


def _partitioned(view: View) -> Contents | None:
    found = _gpt(view) or _mbr(view) or _apm(view)
    if found is None:
        return None
    examined = [
        replace(partition, contents=_inside(view, partition))
        if index < _MAX_EXAMINED
        else partition
        for index, partition in enumerate(found.partitions)
    ]
    return replace(found, partitions=tuple(examined))


def _inside(view: View, partition: Partition) -> Contents | None:
    if partition.start >= view.size or partition.size <= 0:
        return None
    inner = View(view.storage, view.start + partition.start, partition.size)
    return _disc(inner, hybrid=False) or _bare(inner)


def _mbr(view: View) -> Contents | None:
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


def _gpt(view: View) -> Contents | None:
    for sector_size in s.GPT_SECTOR_SIZES:
        problems: list[str] = []
        header = _gpt_header(view, sector_size, 1, problems)
        claimed = view.read(sector_size, 8) == s.GPT_SIGNATURE
        last = view.size // sector_size - 1
        if header is not None:
            problems += _check_backup(view, sector_size, header, last)
        elif claimed or _is_protected(view):
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
        traits = () if _is_protected(view) else ("no protective MBR",)
        return Contents(
            "gpt",
            uuid=_guid(header.disk_guid) if header else "",
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
        kind = _guid(entry.partition_type_guid)
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
                label=_utf16(entry.partition_name),
                uuid=_guid(entry.unique_partition_guid),
                bootable=bool(entry.attributes & 4),
            )
        )
    return partitions


def _is_protected(view: View) -> bool:
    mbr = view.structure(s.Mbr, 0)
    return (
        mbr is not None
        and bytes(mbr.signature) == s.MBR_SIGNATURE
        and any(entry.os_type == s.MBR_PROTECTIVE for entry in mbr.partition_record)
    )


def _apm(view: View) -> Contents | None:
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
                    type=_text(entry.pmParType),
                    label=_text(entry.pmPartName),
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


# Everything else


def _disc(view: View, *, hybrid: bool = True) -> Contents | None:
    """ISO 9660 or UDF; ``hybrid``: with a partition table in front, if there is one."""
    volume = read_volume(view)
    if volume is None:
        return None
    traits = []
    if volume.el_torito:
        traits.append("El Torito boot")
    if volume.joliet is not None:
        traits.append("Joliet")
    if volume.udf is not None and volume.iso9660:
        traits.append("UDF")
    table = _partitioned(view) if hybrid else None
    if table is not None:
        traits.append(f"hybrid {table.kind.upper()}")
    return Contents(
        "iso9660",
        name=volume.name,
        label=volume.label,
        size=volume.size,
        traits=tuple(traits),
        partitions=table.partitions if table is not None else (),
        problems=volume.problems,
    )


def _floppy(view: View) -> Contents | None:
    """A floppy with a FAT, on which boot code may well look like a partition table."""
    fat = _fat(view, signed=floppy.by_size(view.size) is None)
    if fat is None:
        old = floppy.old_fat(view.read, view.size)
        if old is None:
            return None
        traits = ("without a BPB",)
        return Contents("filesystem", name="FAT12", size=old.size, traits=traits, floppy=old)
    known = floppy.inspect_fat(view.read, view.size) if fat.name == "FAT12" else None
    if known is None:
        return None
    kind, label, problems = known
    problems += _too_long(view, fat.size)
    return replace(fat, label=fat.label or label, floppy=kind, problems=tuple(problems))


def _bare(view: View) -> Contents | None:
    """A file system or volume that begins where ``view`` begins."""
    for probe in _PROBES:
        found = probe(view)
        if found is not None:
            return replace(found, problems=(*found.problems, *_too_long(view, found.size)))
    for offset, magic, name in s.VOLUME_MAGICS:
        if view.read(offset, len(magic)) == magic:
            return Contents("filesystem" if name[0].islower() else "volume", name=name)
    return None


def _wrapper(view: View) -> Contents | None:
    for offset, magic, name in s.WRAPPER_MAGICS:
        if view.read(offset, len(magic)) == magic:
            problem = (
                f"looks like {name}, which is not read as such: its bytes are taken as they are"
            )
            return Contents("wrapper", name=name, problems=(problem,))
    return None


def _too_long(view: View, size: int | None) -> Iterator[str]:
    # Sizes are rounded up by some makers; less than 64 KiB is not worth a word.
    if size is not None and size > view.size + (64 << 10):
        yield (
            f"it says that it takes {format_size(size)} ({size} bytes), more than the "
            f"{format_size(view.size)} there are: truncated"
        )


def _is_blank(storage: Storage) -> bool:
    """Whether all of it is holes, or little enough to be read and found to be zeros."""
    budget = _MAX_BLANK_BYTES
    for number, (start, end, hole) in enumerate(storage.extents(0, storage.size)):
        if hole:
            continue
        budget -= end - start
        if budget < 0 or number > _MAX_BLANK_EXTENTS or any(storage.read(start, end - start)):
            return False
    return True


def _ext(view: View) -> Contents | None:
    block = view.structure(s.ExtSuperblock, 1024)
    if block is None or block.s_magic != 0xEF53 or block.s_log_block_size > 6:
        return None
    blocks = int(block.s_blocks_count_lo)
    if block.s_feature_incompat & s.EXT_64BIT:
        blocks |= int(block.s_blocks_count_hi) << 32
    if block.s_feature_incompat & s.EXT_JOURNAL_DEVICE:
        name = "ext journal"
    elif block.s_feature_incompat & s.EXT4_INCOMPAT or block.s_feature_ro_compat & s.EXT4_RO_COMPAT:
        name = "ext4"
    else:
        name = "ext3" if block.s_feature_compat & s.EXT_HAS_JOURNAL else "ext2"
    size = blocks << (10 + block.s_log_block_size)
    return _simple("filesystem", name, _text(block.s_volume_name), _uuid(block.s_uuid), size)


def _xfs(view: View) -> Contents | None:
    block = view.structure(s.XfsSuperblock, 0)
    if block is None or block.sb_magicnum != b"XFSB":
        return None
    size = block.sb_blocksize * block.sb_dblocks
    return _simple("filesystem", "XFS", _text(block.sb_fname), _uuid(block.sb_uuid), size)


def _btrfs(view: View) -> Contents | None:
    block = view.structure(s.BtrfsSuperblock, 65536)
    if block is None or block.magic != b"_BHRfS_M":
        return None
    # Of several devices this is one, and the size is that of all of them.
    size = int(block.total_bytes) if block.num_devices == 1 else None
    return _simple("filesystem", "btrfs", _text(block.label), _uuid(block.fsid), size)


def _ntfs(view: View) -> Contents | None:
    block = view.structure(s.NtfsBootSector, 0)
    if block is None or block.oem_id != b"NTFS    ":
        return None
    size = block.total_sectors * block.bytes_per_sector
    return _simple("filesystem", "NTFS", "", f"{block.volume_serial:016X}", size)


def _exfat(view: View) -> Contents | None:
    block = view.structure(s.ExfatBootSector, 0)
    if block is None or block.file_system_name != b"EXFAT   ":
        return None
    if not 9 <= block.bytes_per_sector_shift <= 12:
        return None
    size = int(block.volume_length) << block.bytes_per_sector_shift
    return _simple("filesystem", "exFAT", "", _serial(block.volume_serial_number), size)


def _fat(view: View, *, signed: bool = True) -> Contents | None:
    """``signed`` False takes it without the mark at the sector's end, which old floppies lack."""
    block = view.structure(s.FatBootSector, 0)
    if block is None or (signed and view.read(510, 2) != s.MBR_SIGNATURE):
        return None
    sector, cluster = int(block.BPB_BytsPerSec), int(block.BPB_SecPerClus)
    if (
        sector not in (512, 1024, 2048, 4096)
        or not cluster
        or cluster & (cluster - 1)
        or not block.BPB_RsvdSecCnt
        or block.BPB_NumFATs not in (1, 2)
        or not (block.BPB_Media == 0xF0 or block.BPB_Media >= 0xF8)
    ):
        return None
    sectors = int(block.BPB_TotSec16) or int(block.BPB_TotSec32)
    table = int(block.BPB_FATSz16) or int(block.BPB_FATSz32)
    root = -(-int(block.BPB_RootEntCnt) * 32 // sector)
    clusters = (sectors - block.BPB_RsvdSecCnt - block.BPB_NumFATs * table - root) // cluster
    if not table or clusters <= 0:
        return None
    # The count of clusters alone says which FAT it is; the name in the boot sector says nothing.
    name = "FAT12" if clusters < 4085 else "FAT16" if clusters < 65525 else "FAT32"
    # mkfs.vfat -F 32 makes FAT32 that is smaller than it should be; Linux takes an empty
    # BPB_FATSz16.
    if not block.BPB_FATSz16:
        name = "FAT32"
    more = view.structure(s.FatExtension, 64 if name == "FAT32" else 36)
    label, serial = "", ""
    if more is not None and more.BS_BootSig in (0x28, 0x29):
        serial = _serial(more.BS_VolID)
        if more.BS_BootSig == 0x29:
            label = _text(more.BS_VolLab)
    if label == "NO NAME":
        label = ""
    return _simple("filesystem", name, label, serial, sectors * sector)


def _squashfs(view: View) -> Contents | None:
    block = view.structure(s.SquashfsSuperblock, 0)
    if block is None or block.s_magic != b"hsqs":
        return None
    return _simple("filesystem", "squashfs", size=int(block.bytes_used))


def _f2fs(view: View) -> Contents | None:
    block = view.structure(s.F2fsSuperblock, 1024)
    if block is None or block.magic != 0xF2F52010 or block.log_blocksize > 16:
        return None
    size = int(block.block_count) << block.log_blocksize
    return _simple("filesystem", "F2FS", _utf16(block.volume_name), _uuid(block.uuid), size)


def _hfs_plus(view: View) -> Contents | None:
    block = view.structure(s.HfsPlusHeader, 1024)
    if block is None or (block.signature, block.version) not in ((b"H+", 4), (b"HX", 5)):
        return None
    name = "HFS+" if block.version == 4 else "HFSX"
    return _simple("filesystem", name, size=block.blockSize * block.totalBlocks)


def _apfs(view: View) -> Contents | None:
    block = view.structure(s.ApfsSuperblock, 0)
    if block is None or block.nx_magic != b"NXSB":
        return None
    size = block.nx_block_size * block.nx_block_count
    return _simple("filesystem", "APFS", "", _uuid(block.nx_uuid), size)


def _swap(view: View) -> Contents | None:
    for page in s.SWAP_PAGE_SIZES:
        signature = view.read(page - 10, 10)
        if signature not in (b"SWAPSPACE2", b"SWAP-SPACE"):
            continue
        header = view.structure(s.SwapHeader, 1024)
        if header is None or signature == b"SWAP-SPACE" or header.version != 1:
            return _simple("volume", "swap")
        size = (int(header.last_page) + 1) * page
        return _simple("volume", "swap", _text(header.sws_volume), _uuid(header.sws_uuid), size)
    return None


def _lvm(view: View) -> Contents | None:
    for sector in range(4):
        label = view.structure(s.LvmLabel, sector * s.SECTOR)
        if label is None or label.id != b"LABELONE" or label.type != b"LVM2 001":
            continue
        volume = None
        if label.offset < s.SECTOR:
            volume = view.structure(s.LvmPvHeader, sector * s.SECTOR + label.offset)
        if volume is None:
            return _simple("volume", "LVM2 physical volume")
        raw = _text(volume.pv_uuid)
        # As LVM prints it.
        cuts = (0, 6, 10, 14, 18, 22, 26, 32)
        name = "-".join(raw[a:b] for a, b in pairwise(cuts))
        return _simple("volume", "LVM2 physical volume", "", name, int(volume.device_size))
    return None


def _luks(view: View) -> Contents | None:
    data = view.read(0, luks.HEADER_BYTES)
    version = luks.luks_version(data)
    if version == 2 and len(data) == luks.HEADER_BYTES:
        header = luks.Luks2Header.from_buffer_copy(data)
        return _simple(
            "volume", "LUKS 2", _plain(header.label), _plain(header.uuid), traits=("encrypted",)
        )
    if version == 1 and len(data) == luks.HEADER_BYTES:
        first = luks.Luks1Header.from_buffer_copy(data)
        return _simple("volume", "LUKS 1", "", _plain(first.uuid), traits=("encrypted",))
    return None


def _zfs(view: View) -> Contents | None:
    # The ring of uberblocks in the first label; a pool fills any of its slots first.
    ring = view.read(128 << 10, 128 << 10)
    magics = (b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c")
    if any(ring[slot : slot + 8] in magics for slot in range(0, len(ring), 1024)):
        return _simple("volume", "ZFS pool member")
    return None


_PROBES: Final[tuple[Callable[[View], Contents | None], ...]] = (
    _luks,
    _lvm,
    _ext,
    _xfs,
    _btrfs,
    _ntfs,
    _exfat,
    _fat,
    _squashfs,
    _f2fs,
    _hfs_plus,
    _apfs,
    _swap,
    _zfs,
)


def _simple(
    kind: str,
    name: str = "",
    label: str = "",
    uuid: str = "",
    size: int | None = None,
    traits: tuple[str, ...] = (),
) -> Contents:
    return Contents(kind, name=name, label=label, uuid=uuid, size=size, traits=traits)


# Words from a stranger's disk end up on a terminal: they are kept printable.


def _plain(data: bytes) -> str:
    text = data.split(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)


def _text(field: ctypes.Array[ctypes.c_uint8]) -> str:
    return _plain(bytes(field))


def _utf16(field: ctypes.Array[ctypes.c_uint8]) -> str:
    text = bytes(field).decode("utf-16-le", "replace").partition("\0")[0]
    return "".join(c if c.isprintable() else "?" for c in text)


def _guid(field: ctypes.Array[ctypes.c_uint8]) -> str:
    return str(uuid.UUID(bytes_le=bytes(field)))


def _uuid(field: ctypes.Array[ctypes.c_uint8]) -> str:
    return str(uuid.UUID(bytes=bytes(field)))


def _serial(number: int) -> str:
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


def _partition_lines(partitions: tuple[Partition, ...]) -> Iterator[str]:
    rows = [
        (
            str(partition.number),
            format_size(partition.start),
            format_size(partition.size),
            partition.type_name or partition.type,
            partition.contents.title() if partition.contents is not None else "",
            f'"{partition.label}"' if partition.label else "",
        )
        for partition in partitions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)] if rows else []
    for number, start, size, kind, contents, label in rows:
        yield (
            f"  {number:>{widths[0]}}  at {start:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{kind:<{widths[3]}}  {contents:<{widths[4]}}  {label}"
        ).rstrip()


def _to_json(item: Contents | Partition | Floppy) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in item.__slots__:
        value = getattr(item, name)
        if isinstance(value, Contents | Floppy):
            value = _to_json(value)
        elif isinstance(value, tuple):
            value = [_to_json(v) if isinstance(v, Partition) else v for v in value]
        if value or (value == 0 and value is not False):
            facts[name.replace("_", "-")] = value
    return facts
