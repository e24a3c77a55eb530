"""Recognises what is on a raw disk: partition tables, and bare file systems and volumes.

All that is there is claimed, not the first of it: a disk may have three partition tables and the
rest of an older file system. What comes second on the same disk, and the tables of a hybrid disc,
are weak claims: they are part of what is there, and no contradiction. Structures and their readers
are those of `vmimg.formats.raw`; here they get stable names, evidence and confidence. Of a stream
what is not held reads as nothing, and what would be said of it is left out. Imports formats.raw
and formats.iso.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from vmimg.formats.iso.volume import Volume, is_disc, read_volume
from vmimg.formats.raw import floppy
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.filesystems import PROBES, read_fat
from vmimg.formats.raw.findings import Contents, Partition, View
from vmimg.formats.raw.partitions import read_apm, read_gpt, read_mbr
from vmimg.formats.vetting import printable
from vmimg.probe.claims import SURE, Claim, Evidence
from vmimg.storage.base import NotHeld

__all__ = ["RECOGNISERS", "WATCHERS", "recognise_contents", "watch_contents"]

_SURE: Final = 100
_LIKELY: Final = 80
_MARKED: Final = 60
"""The magic is there, and the fields around it are not what they should be."""
_GUESS: Final = 45
_VMFS: Final = 0x100000

_NAMES: Final = {
    "ext2": ("ext2", 1080, "the magic of ext2, 0xEF53"),
    "ext3": ("ext3", 1080, "the magic of ext2 and ext3, 0xEF53, and a journal"),
    "ext4": ("ext4", 1080, "the magic of ext4, 0xEF53, and features that only it has"),
    "ext journal": ("ext-journal", 1080, "the magic of ext4, 0xEF53, of a journal on its own"),
    "XFS": ("xfs", 0, "the magic of XFS, 'XFSB'"),
    "btrfs": ("btrfs", 65600, "the magic of btrfs, '_BHRfS_M'"),
    "NTFS": ("ntfs", 3, "the name of NTFS in its boot sector"),
    "exFAT": ("exfat", 3, "the name of exFAT in its boot sector"),
    "FAT12": ("fat12", 11, "a BIOS parameter block with the count of clusters of FAT12"),
    "FAT16": ("fat16", 11, "a BIOS parameter block with the count of clusters of FAT16"),
    "FAT32": ("fat32", 11, "a BIOS parameter block with the count of clusters of FAT32"),
    "squashfs": ("squashfs", 0, "the magic of squashfs, 'hsqs'"),
    "F2FS": ("f2fs", 1024, "the magic of F2FS, 0xF2F52010"),
    "HFS+": ("hfsplus", 1024, "the signature of HFS+, 'H+', version 4"),
    "HFSX": ("hfsplus", 1024, "the signature of HFSX, 'HX', version 5"),
    "APFS": ("apfs", 32, "the magic of an APFS container, 'NXSB'"),
    "swap": ("swap", 4086, "the signature of swap at the end of its first page"),
    "LVM2 physical volume": ("lvm2", 512, "the label of LVM2, 'LABELONE'"),
    "ZFS pool member": ("zfs", 131072, "an uberblock of ZFS"),
}
"""By what `vmimg.formats.raw` calls them: stable name, offset and meaning of their mark."""

_BY_MAGIC: Final = {
    "BitLocker": "bitlocker",
    "ReFS": "refs",
    "EROFS": "erofs",
    "Linux RAID member": "mdraid",
    "VMFS volume": "vmfs",
    "JFS": "jfs",
    "VDO": "vdo",
}
"""Stable names of those in VOLUME_MAGICS; the others' names are stable as they are."""

_SQUASHFS_CODERS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


def recognise_contents(view: View) -> Iterator[Claim]:
    """All that is on the disk: tables first, the most telling before the others."""
    disk = _Patient(view)
    disc = read_volume(disk) if is_disc(disk) else None
    gpt, mbr, apm = read_gpt(disk), read_mbr(disk), read_apm(disk)
    claims: list[Claim] = []
    if gpt is not None:
        claims.append(_gpt(disk, gpt, disc))
    # An MBR that only protects a GPT is part of that.
    if mbr is not None and not (gpt is not None and _protects_only(mbr)):
        claims.append(_mbr(mbr, disc))
    if apm is not None:
        claims.append(_apm(apm, disc))
    claims += _bare(disk)
    if not claims and disk.read(510, 2) == s.MBR_SIGNATURE:
        title = "boot sector without a partition table"
        claims.append(Claim("boot-sector", "content", title, 30, (_boot_signature(),)))
    first = next((claim for claim in claims if claim.confidence >= SURE), None)
    for claim in claims:
        yield claim if claim is first else replace(claim, confidence=min(claim.confidence, _GUESS))


def watch_contents() -> Generator[tuple[int, int], bytes, None]:
    """The one mark that lies behind the head of a stream: VMFS's."""
    yield 0, s.SECTOR
    yield _VMFS, s.SECTOR


class _Patient(View):
    """A view in which what is not held of a stream reads as nothing."""

    def __init__(self, view: View) -> None:
        super().__init__(view.storage, view.start, view.size)

    def read(self, offset: int, length: int) -> bytes:
        try:
            return super().read(offset, length)
        except NotHeld:
            return b""


def _boot_signature() -> Evidence:
    return Evidence(510, "the boot signature 55 aa")


# Partition tables


def _gpt(disk: View, table: Contents, disc: Volume | None) -> Claim:
    sector = table.sector_size or s.SECTOR
    evidence = []
    header = disk.structure(s.GptHeader, sector)
    if header is not None and header.signature == s.GPT_SIGNATURE:
        revision = f"{header.revision >> 16}.{header.revision & 0xFFFF}"
        right = " with a right checksum" if table.uuid else ""
        evidence.append(Evidence(sector, f"a GPT header, revision {revision}{right}"))
    if "no protective MBR" not in table.traits:
        evidence += [Evidence(446, "a protective partition of type 0xEE"), _boot_signature()]
    last = (disk.size // sector - 1) * sector
    if last > sector and disk.read(last, 8) == s.GPT_SIGNATURE:
        evidence.append(Evidence(last, "a backup of the GPT header in the last sector"))
    confidence = _SURE if table.uuid else _LIKELY
    return _claim("gpt", table, confidence, evidence, _table_details(table, disc), ("mbr",))


def _mbr(table: Contents, disc: Volume | None) -> Claim:
    evidence = [
        Evidence(
            446 + 16 * (p.number - 1), f"a partition of type {p.type}, {p.type_name}".rstrip(", ")
        )
        for p in table.partitions
        if p.number <= 4
    ]
    evidence.append(_boot_signature())
    confidence = _LIKELY if _is_sane(table.partitions) else _GUESS
    return _claim("mbr", table, confidence, evidence, _table_details(table, disc))


def _apm(table: Contents, disc: Volume | None) -> Claim:
    first = table.partitions[0] if table.partitions else None
    # Two letters are no magic; the map's own entry comes first, or that of the disk's owner.
    named = any(p.type.startswith("Apple_") for p in table.partitions)
    evidence = [Evidence(table.sector_size or s.SECTOR, "the signature of Apple's map, 'PM'")]
    if first is not None and first.type:
        evidence.append(Evidence((table.sector_size or s.SECTOR) + 48, f"type {first.type}"))
    confidence = _SURE if named else _GUESS
    return _claim("apm", table, confidence, evidence, _table_details(table, disc))


def _table_details(table: Contents, disc: Volume | None) -> dict[str, Any]:
    details: dict[str, Any] = {"partitions": len(table.partitions)}
    if table.sector_size and table.sector_size != s.SECTOR:
        details["sector-size"] = table.sector_size
    if disc is not None:
        details["hybrid"] = _is_hybrid(table, disc)
    return details


def _is_hybrid(table: Contents, disc: Volume) -> bool:
    """Whether the table is that of the disc: a partition lies in the volume, or is a boot image."""
    images = {entry.offset for entry in disc.boot}
    end = disc.size or 0
    return any(p.start < end or p.start in images for p in table.partitions)


def _protects_only(mbr: Contents) -> bool:
    return {p.type for p in mbr.partitions} == {f"0x{s.MBR_PROTECTIVE:02x}"}


def _is_sane(partitions: tuple[Partition, ...]) -> bool:
    """Whether primary partitions lie behind the table and beside each other."""
    primary = sorted((p.start, p.start + p.size) for p in partitions if p.number <= 4)
    protective = any(p.type == f"0x{s.MBR_PROTECTIVE:02x}" for p in partitions)
    if any(not start for start, _ in primary):
        return False
    return protective or all(end <= start for (_, end), (start, _) in pairwise(primary))


# File systems and volumes


def _bare(disk: View) -> Iterator[Claim]:
    for probe in PROBES:
        found = _fat(disk) if probe is read_fat else probe(disk)
        # LUKS is a disk format of its own.
        if found is None or found.name not in _NAMES:
            continue
        name, offset, meaning = _NAMES[found.name]
        place = _PLACES[name](disk) if name in _PLACES else offset
        verify = _VERIFIED.get(name)
        confidence = verify(disk) if verify is not None else _SURE
        yield _claim(name, found, confidence, [Evidence(place, meaning)], _details(disk, name))
    for offset, magic, title in s.VOLUME_MAGICS:
        if disk.read(offset, len(magic)) == magic:
            name = _BY_MAGIC.get(title, title)
            text = magic.strip(b"\0").decode("ascii", "replace")
            shown = f"'{text}'" if text.isascii() and text.isprintable() else magic.hex(" ")
            confidence = _SURE if len(magic) >= 8 else _LIKELY
            evidence = [Evidence(offset, f"the magic of {title}, {shown}")]
            yield _claim(name, Contents("volume", name=title), confidence, evidence, {})


def _fat(disk: View) -> Contents | None:
    found = read_fat(disk, signed=floppy.by_size(disk.size) is None)
    if found is None and floppy.old_fat(disk.read, disk.size) is not None:
        return Contents("filesystem", name="FAT12")
    return found


def _details(disk: View, name: str) -> dict[str, Any]:
    if name == "squashfs":
        block = disk.structure(s.SquashfsSuperblock, 0)
        if block is not None and block.compression in _SQUASHFS_CODERS:
            return {"compression": _SQUASHFS_CODERS[block.compression]}
    kind = floppy.by_size(disk.size) if name == "fat12" else None
    return {"floppy": kind.medium} if kind is not None else {}


def _swap_place(disk: View) -> int:
    pages = (page for page in s.SWAP_PAGE_SIZES if disk.read(page - 10, 4) == b"SWAP")
    return next(pages, 4096) - 10


def _lvm_place(disk: View) -> int:
    sectors = (n for n in range(4) if disk.read(n * s.SECTOR, 8) == b"LABELONE")
    return next(sectors, 1) * s.SECTOR


_PLACES: Final[dict[str, Callable[[View], int]]] = {"swap": _swap_place, "lvm2": _lvm_place}
"""Where the mark is, of those that have it in different places."""


def _ext_confidence(disk: View) -> int:
    # Two bytes are found in any file; the fields around them are not.
    block = disk.structure(s.ExtSuperblock, 1024)
    right = (
        block is not None
        and block.s_first_data_block <= 1
        and block.s_rev_level <= 1
        and block.s_state <= 0x3F
        and block.s_inodes_count > 0
        and block.s_blocks_count_lo > 0
    )
    return _SURE if right else _GUESS


def _xfs_confidence(disk: View) -> int:
    block = disk.structure(s.XfsSuperblock, 0)
    return _when(block is not None and _is_power(block.sb_blocksize, 512, 65536))


def _btrfs_confidence(disk: View) -> int:
    block = disk.structure(s.BtrfsSuperblock, 65536)
    return _when(block is not None and block.bytenr == 65536 and block.num_devices > 0)


def _ntfs_confidence(disk: View) -> int:
    block = disk.structure(s.NtfsBootSector, 0)
    return _when(
        block is not None
        and _is_power(block.bytes_per_sector, 256, 4096)
        and disk.read(510, 2) == s.MBR_SIGNATURE
    )


def _exfat_confidence(disk: View) -> int:
    block = disk.structure(s.ExfatBootSector, 0)
    return _when(block is not None and not any(block.must_be_zero))


def _fat_confidence(disk: View) -> int:
    # The jump and the media byte that the table begins with are the nearest to a magic.
    block = disk.structure(s.FatBootSector, 0)
    if block is None or block.BS_jmpBoot[0] not in (0xEB, 0xE9):
        return _GUESS
    first = disk.read(block.BPB_RsvdSecCnt * block.BPB_BytsPerSec, 1)
    return _LIKELY if first in (b"", bytes([block.BPB_Media])) else _GUESS


def _squashfs_confidence(disk: View) -> int:
    block = disk.structure(s.SquashfsSuperblock, 0)
    return _when(
        block is not None
        and block.s_major == 4
        and 12 <= block.block_log <= 20
        and block.block_size == 1 << block.block_log
    )


def _hfs_plus_confidence(disk: View) -> int:
    block = disk.structure(s.HfsPlusHeader, 1024)
    right = block is not None and _is_power(block.blockSize, 512, 1 << 20) and block.totalBlocks
    return _LIKELY if right else _GUESS


def _apfs_confidence(disk: View) -> int:
    block = disk.structure(s.ApfsSuperblock, 0)
    return _when(block is not None and _is_power(block.nx_block_size, 4096, 65536))


def _when(right: bool) -> int:
    return _SURE if right else _MARKED


def _is_power(number: int, least: int, most: int) -> bool:
    return least <= number <= most and not number & (number - 1)


_VERIFIED: Final[dict[str, Callable[[View], int]]] = {
    "ext2": _ext_confidence,
    "ext3": _ext_confidence,
    "ext4": _ext_confidence,
    "ext-journal": _ext_confidence,
    "xfs": _xfs_confidence,
    "btrfs": _btrfs_confidence,
    "ntfs": _ntfs_confidence,
    "exfat": _exfat_confidence,
    "fat12": _fat_confidence,
    "fat16": _fat_confidence,
    "fat32": _fat_confidence,
    "squashfs": _squashfs_confidence,
    "hfsplus": _hfs_plus_confidence,
    "apfs": _apfs_confidence,
    "zfs": lambda _: _LIKELY,
}


def _claim(
    name: str,
    found: Contents,
    confidence: int,
    evidence: list[Evidence],
    details: dict[str, Any],
    refines: tuple[str, ...] = (),
) -> Claim:
    # A hybrid's table describes the disc.
    confidence = min(confidence, _GUESS) if details.get("hybrid") else confidence
    known = {"label": printable(found.label), "uuid": printable(found.uuid)}
    facts = {key: value for key, value in known.items() if value}
    shown = tuple(Evidence(e.offset, printable(e.meaning)) for e in evidence)
    return Claim(
        name,
        "content",
        printable(found.title()),
        confidence,
        shown,
        facts | details,
        refines,
    )


RECOGNISERS = (recognise_contents,)
WATCHERS = (watch_contents,)
