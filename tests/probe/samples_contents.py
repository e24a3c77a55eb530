"""Raw disks to vet: as mkfs, sgdisk and parted make them, and one for each thing that is wrong.

The bad ones are one and the same small disk by hand, with one thing changed: with a GPT of two
partitions, with an MBR of two, or with a bare file system. Those that are called ``oslo-...`` break
the rules of OpenStack's GPTInspector, one each.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import peers
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD", "LAST", "SECTORS", "gpt", "mbr", "partition"]

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512
SECTORS = 1024
LAST = SECTORS - 1
ENTRIES = 32  # sectors of a table of 128 entries
FIRST, USABLE = 2 + ENTRIES, LAST - ENTRIES - 1
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
DISK = bytes(range(16))

Change = Callable[[bytearray], None]
Row = tuple[int, int, int]
"""GUID (a number), first and last sector."""

ROWS: tuple[Row, ...] = ((1, 40, 299), (2, 300, 899))


# A disk with a GPT


def entries(rows: tuple[Row, ...]) -> bytes:
    table = b"".join(
        LINUX + bytes([number]) * 16 + struct.pack("<QQQ72s", first, last, 0, b"")
        for number, first, last in rows
    )
    return table.ljust(ENTRIES * SECTOR, b"\0")


def header(place: int, other: int, table: bytes, **changes: int | bytes) -> bytes:
    fields: dict[str, int | bytes] = {
        "revision": 0x10000,
        "size": 92,
        "mine": place,
        "other": other,
        "first": FIRST,
        "last": USABLE,
        "disk": DISK,
        "start": 2 if place == 1 else place - len(table) // SECTOR,
        "count": 128,
        "width": 128,
        "sum": binascii.crc32(table),
    }
    f = fields | changes
    head = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", f["revision"], f["size"], 0, 0, f["mine"], f["other"],
        f["first"], f["last"], f["disk"], f["start"], f["count"], f["width"], f["sum"],
    )  # fmt: skip
    return head[:16] + struct.pack("<I", binascii.crc32(head)) + head[20:]


def protective(chs: bytes = b"\0\2\0", lba: int = 1, sectors: int = LAST) -> bytes:
    return partition(0xEE, lba, sectors, chs=chs)


def partition(kind: int, lba: int, sectors: int, *, flag: int = 0, chs: bytes = b"\0\0\0") -> bytes:
    """An entry of an MBR."""
    return struct.pack("<B3sB3sII", flag, chs, kind, b"\xff\xff\xff", lba, sectors)


def boot_sector(*records: bytes) -> bytes:
    return bytes(446) + b"".join(records).ljust(64, b"\0") + b"\x55\xaa"


def gpt(
    rows: tuple[Row, ...] = ROWS,
    *,
    primary: dict[str, int | bytes] | None = None,
    backup: dict[str, int | bytes] | None = None,
    both: dict[str, int | bytes] | None = None,
    other_rows: tuple[Row, ...] | None = None,
    records: tuple[bytes, ...] | None = None,
    sectors: int = SECTORS,
) -> bytearray:
    """A disk of ``sectors``. The changes are of the headers, whose checksums stay right."""
    disk = bytearray(sectors * SECTOR)
    disk[:SECTOR] = boot_sector(*(records if records is not None else (protective(),)))
    table = entries(rows)
    second = table if other_rows is None else entries(other_rows)
    start = LAST - ENTRIES
    put(disk, 1, header(1, LAST, table, **(both or {}) | (primary or {})))
    put(disk, LAST, header(LAST, 1, second, **(both or {}) | (backup or {})))
    put(disk, 2, table)
    put(disk, start, second)
    return disk


def put(disk: bytearray, sector: int, data: bytes) -> None:
    disk[sector * SECTOR : sector * SECTOR + len(data)] = data


def mbr(*records: bytes, sectors: int = SECTORS) -> bytearray:
    disk = bytearray(sectors * SECTOR)
    disk[:SECTOR] = boot_sector(*records)
    return disk


def changed(disk: bytearray, change: Change) -> bytes:
    change(disk)
    return bytes(disk)


def flip(offset: int) -> Change:
    def change(disk: bytearray) -> None:
        disk[offset] ^= 0xFF

    return change


def clear(*sectors: int) -> Change:
    def change(disk: bytearray) -> None:
        for sector in sectors:
            put(disk, sector, bytes(SECTOR))

    return change


def _gpt(name: str, build: Callable[[], bytes | bytearray], *codes: str) -> Sample:
    return of_bytes(f"gpt-{name}", "disk.raw", lambda: bytes(build()), "gpt", *codes)


def _mbr(name: str, build: Callable[[], bytes | bytearray], *codes: str) -> Sample:
    return of_bytes(name, "disk.raw", lambda: bytes(build()), "mbr", *codes)


def _raw(name: str, build: Callable[[], bytes | bytearray], claim: str, *codes: str) -> Sample:
    return of_bytes(name, "disk.raw", lambda: bytes(build()), claim, *codes)


# The rest of the bad ones


def second_gpt_at_the_end() -> bytearray:
    """A disk that was enlarged, and another table in its last sector."""
    disk = gpt(sectors=SECTORS + 64)
    last = SECTORS + 63
    put(disk, last, header(last, 1, entries(ROWS), start=2, disk=bytes(16)))
    return disk


def entries_in_a_partition() -> bytearray:
    disk = gpt(primary={"start": 50})
    put(disk, 50, entries(ROWS))
    return disk


def enlarged(data: bytes = b"") -> bytearray:
    disk = gpt(sectors=SECTORS + 64)
    put(disk, SECTORS + 32, data)
    return disk


def chain(*links: tuple[int, int]) -> bytearray:
    """An extended partition from sector 100 on; ``links``: (sector of a link, sector of the next
    one, from the start of the extended partition).
    """
    disk = mbr(partition(0x83, 8, 80), partition(0x05, 100, 900))
    for place, following in links:
        records = (partition(0x83, 2, 10), partition(0x05, following, 50) if following else b"")
        put(disk, place, boot_sector(*records))
    return disk


def ext4(blocks: int, size: int = 512 * KIB) -> bytearray:
    """A superblock of a file system of ``blocks`` of 1 KiB, and nothing else."""
    disk = bytearray(size)
    struct.pack_into("<7I", disk, 1024, 64, blocks, 0, 0, 0, 1, 0)
    struct.pack_into("<HH", disk, 1080, 0xEF53, 1)
    struct.pack_into("<I", disk, 1024 + 76, 1)
    struct.pack_into("<I", disk, 1024 + 96, 0x40)  # extents
    return disk


def in_a_partition(inner: bytes) -> bytearray:
    disk = mbr(partition(0x83, 64, 256), partition(0x83, 400, 400))
    put(disk, 64, inner)
    return disk


def two_file_systems() -> bytearray:
    disk = ext4(512)
    struct.pack_into(">4sIQ", disk, 0, b"XFSB", 4096, 128)
    return disk


def behind(disk: bytearray, sector: int) -> bytearray:
    put(disk, sector, b"something else")
    return disk


MBR_ROWS = (partition(0x83, 64, 300, flag=0x80), partition(0x83, 400, 600))

BAD: tuple[Sample, ...] = (
    # A GPT and its backup
    _gpt("header-checksum", lambda: changed(gpt(), flip(512 + 56)), "checksum-wrong"),
    _gpt("entries-checksum", lambda: changed(gpt(), flip(1024 + 128 + 60)), "checksum-wrong"),
    _gpt("backup-checksum", lambda: changed(gpt(), flip(LAST * 512 + 56)), "checksum-wrong"),
    _gpt("backup-entries", lambda: changed(gpt(), flip((LAST - 32) * 512 + 60)), "checksum-wrong"),
    _gpt("primary-gone", lambda: changed(gpt(), clear(1)), "checksum-wrong"),
    _mbr("gpt-gone", lambda: changed(gpt(), clear(1, LAST)), "partition-table"),
    _gpt("backup-gone", lambda: changed(gpt(), clear(LAST)), "partition-table"),
    _gpt("copies-guid", lambda: gpt(backup={"disk": bytes(16)}), "copies-disagree"),
    _gpt(
        "copies-entries",
        lambda: gpt(other_rows=((1, 40, 299), (2, 300, 800))),
        "copies-disagree",
    ),
    _gpt("copies-three", second_gpt_at_the_end, "copies-disagree", "hidden-data"),
    _gpt("place", lambda: gpt(backup={"mine": 5}), "copies-disagree"),
    _gpt("cut", lambda: gpt()[: 950 * 512], "truncated"),
    _gpt("header-size", lambda: gpt(primary={"size": 4096}), "impossible-size"),
    _gpt("entry-count", lambda: gpt(both={"count": 1 << 31}), "impossible-size"),
    _gpt("entry-width", lambda: gpt(both={"width": 64}), "impossible-size"),
    _gpt("entries-outside", lambda: gpt(primary={"start": 1 << 40}), "table-outside"),
    _gpt(
        "entries-over-header",
        lambda: gpt(primary={"start": 1}),
        *("tables-overlap", "checksum-wrong", "partition-table"),
    ),
    _gpt("entries-over-partitions", entries_in_a_partition, "tables-overlap"),
    _gpt("revision", lambda: gpt(both={"revision": 0x20000}), "odd-field"),
    _gpt("usable", lambda: gpt(both={"first": 900, "last": 100}), "partition-table"),
    _gpt("partition-outside-disk", lambda: gpt(((1, 40, 5000),)), "truncated"),
    _gpt("partition-unusable", lambda: gpt(((1, 40, USABLE + 1),)), "partition-table"),
    _gpt("partition-backwards", lambda: gpt(((1, 400, 300),)), "partition-table"),
    _gpt("overlap", lambda: gpt(((1, 40, 300), (2, 300, 899))), "partition-table"),
    _gpt("guid-twice", lambda: gpt(((1, 40, 299), (1, 300, 899))), "partition-table"),
    _gpt("hidden-behind", lambda: enlarged(b"something else"), "hidden-data"),
    _gpt("hidden-unpartitioned", lambda: behind(gpt(), 920), "hidden-data"),
    _gpt("unprotected", lambda: gpt(records=MBR_ROWS), "partition-table"),
    # The boot sector, rule by rule
    _gpt(
        "oslo-boot-flag",
        lambda: gpt(records=(partition(0xEE, 1, LAST, flag=1, chs=b"\0\2\0"),)),
        "partition-table",
    ),
    _gpt("oslo-chs", lambda: gpt(records=(protective(chs=b"\0\1\0"),)), "partition-table"),
    _gpt("oslo-lba", lambda: gpt(records=(protective(lba=2),)), "partition-table"),
    _gpt(
        "oslo-extra-partition",
        lambda: gpt(records=(protective(), partition(0x83, 40, 100))),
        "partition-table",
    ),
    _gpt("oslo-not-first", lambda: gpt(records=(bytes(16), protective())), "partition-table"),
    _raw(
        "oslo-mbr-boot-flag",
        lambda: mbr(partition(0x83, 64, 300, flag=0x7F)),
        "boot-sector",
        "partition-table",
    ),
    _raw("oslo-no-partitions", lambda: mbr(), "boot-sector", "partition-table"),
    # An MBR
    _mbr(
        "mbr-overlap",
        lambda: mbr(partition(0x83, 64, 400), partition(0x83, 400, 600)),
        "partition-table",
    ),
    _mbr("mbr-outside", lambda: mbr(MBR_ROWS[0], partition(0x83, 400, 6000)), "truncated"),
    _raw("mbr-from-zero", lambda: mbr(partition(0x83, 0, 900)), "", "partition-table"),
    _mbr("mbr-chain-loop", lambda: chain((100, 50), (150, 0 + 50)), "partition-table"),
    _mbr("mbr-chain-out", lambda: chain((100, 5000)), "partition-table"),
    _mbr("mbr-chain-nowhere", lambda: chain((100, 200)), "partition-table"),
    _mbr("mbr-hidden", lambda: behind(mbr(*MBR_ROWS), 1010), "hidden-data"),
    # File systems
    _raw("ext4-cut", lambda: ext4(512 * 16), "ext4", "truncated"),
    _raw("ext4-hidden", lambda: behind(ext4(256), 900), "ext4", "hidden-data"),
    _mbr("ext4-larger", lambda: in_a_partition(bytes(ext4(900))[: 128 * KIB]), "filesystem"),
    _raw("two-file-systems", two_file_systems, "", "filesystem"),
)


# Good ones, by who makes disks


def _blank(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _made(
    name: str, size: int, claim: str, program: str, *arguments: str, more: tuple[str, ...] = ()
) -> Sample:
    """What ``program arguments DISK more`` makes of an empty disk."""

    def make(folder: Path) -> Path:
        path = _blank(folder / "disk.raw", size)
        peers.run(program, *arguments, path, *more)
        return path

    return Sample(name, make, claim, peers=(program,))


def _squashfs(folder: Path) -> Path:
    (folder / "files").mkdir()
    (folder / "files/a").write_bytes(b"a" * 100000)
    peers.run("mksquashfs", folder / "files", folder / "disk.raw", "-quiet", "-no-progress")
    return folder / "disk.raw"


def _enlarged_by_sgdisk(folder: Path) -> Path:
    path = _blank(folder / "disk.raw", 16 * MIB)
    peers.run("sgdisk", "-n1:0:0", path)
    with path.open("r+b") as file:
        file.truncate(24 * MIB)
    return path


def _mbr_by_sgdisk(folder: Path) -> Path:
    """With what a boot loader leaves between the MBR and the first partition."""
    path = _blank(folder / "disk.raw", 16 * MIB)
    peers.run("sgdisk", "-n1:0:+8M", "-n2:0:0", path)
    peers.run("sgdisk", "-m", "1:2", path)
    with path.open("r+b") as file:
        file.seek(512)
        file.write(b"\x52\x56\xbe\x1b\x81" * 5000)
    return path


def _full_gpt(folder: Path) -> Path:
    """A disk with a file system in each partition."""
    path = _blank(folder / "disk.raw", 48 * MIB)
    peers.run("sgdisk", "-n1:0:+8M", "-t1:ef00", "-n2:0:0", "-t2:8300", path)
    fat, ext = _blank(folder / "fat", 8 * MIB), _blank(folder / "ext", 16 * MIB)
    peers.run("mkfs.vfat", "-F", "16", "-s", "1", fat)
    peers.run("mke2fs", "-q", "-t", "ext4", ext)
    with path.open("r+b") as file:
        for part, place in ((fat, MIB), (ext, 9 * MIB)):
            file.seek(place)
            file.write(part.read_bytes())
            part.unlink()
    return path


@cache
def _by_hand_4096() -> bytes:
    """A GPT with sectors of 4096 bytes."""
    disk = bytearray(4 * MIB)
    last = len(disk) // 4096 - 1
    disk[:512] = boot_sector(protective(sectors=last))
    table = entries(((1, 256, 511),))
    places = {"first": 6, "last": last - 5}
    disk[4096:4188] = header(1, last, table, **places)
    disk[last * 4096 : last * 4096 + 92] = header(last, 1, table, **places | {"start": last - 4})
    disk[8192 : 8192 + len(table)] = table
    disk[(last - 4) * 4096 : last * 4096] = table
    return bytes(disk)


_PARTED = "parted"

GOOD: tuple[Sample, ...] = (
    *(_made(kind, 16 * MIB, kind, "mke2fs", "-q", "-t", kind) for kind in ("ext2", "ext3", "ext4")),
    _made("ext4-4k", 64 * MIB, "ext4", "mke2fs", "-q", "-t", "ext4", "-b", "4096"),
    _made("fat12-floppy", 1440 * KIB, "fat12", "mkfs.vfat"),
    _made("fat16", 32 * MIB, "fat16", "mkfs.vfat", "-F", "16"),
    _made("fat32", 64 * MIB, "fat32", "mkfs.vfat", "-F", "32"),
    _made("fat16-fake-mbr", 32 * MIB, "fat16", "mkfs.vfat", "-F", "16", "--mbr=y"),
    _made("xfs", 320 * MIB, "xfs", "mkfs.xfs", "-q"),
    _made("btrfs", 128 * MIB, "btrfs", "mkfs.btrfs", "-q"),
    _made("ntfs", 8 * MIB, "ntfs", "mkntfs", "-Q", "-F", "-q"),
    _made("exfat", 8 * MIB, "exfat", "mkfs.exfat"),
    _made("f2fs", 64 * MIB, "f2fs", "mkfs.f2fs", "-q"),
    _made("swap", 2 * MIB, "swap", "mkswap"),
    Sample("squashfs", _squashfs, "squashfs", peers=("mksquashfs",)),
    _made("gpt-sgdisk", 16 * MIB, "gpt", "sgdisk", "-n1:0:+8M", "-t1:ef00", "-n2:0:0"),
    _made("gpt-sgdisk-empty", 16 * MIB, "gpt", "sgdisk", "-o"),
    _made("gpt-sgdisk-hybrid", 16 * MIB, "gpt", "sgdisk", "-n1:0:+8M", "-n2:0:0", "-h", "1"),
    Sample("gpt-enlarged", _enlarged_by_sgdisk, "gpt", peers=("sgdisk",)),
    Sample("gpt-full", _full_gpt, "gpt", peers=("sgdisk", "mkfs.vfat", "mke2fs")),
    Sample("mbr-sgdisk", _mbr_by_sgdisk, "mbr", peers=("sgdisk",)),
    _made(
        "gpt-parted", 16 * MIB, "gpt", _PARTED, "-s",
        more=("mklabel", "gpt", "mkpart", "a", "1MiB", "8MiB", "mkpart", "b", "8MiB", "100%"),
    ),
    _made(
        "mbr-parted", 16 * MIB, "mbr", _PARTED, "-s",
        more=(
            "mklabel", "msdos", "mkpart", "primary", "1MiB", "4MiB",
            "mkpart", "extended", "4MiB", "100%", "mkpart", "logical", "5MiB", "8MiB",
            "mkpart", "logical", "9MiB", "100%",
        ),
    ),
    _made(
        "apm-parted", 16 * MIB, "apm", _PARTED, "-s",
        more=("mklabel", "mac", "mkpart", "a", "1MiB", "8MiB"),
    ),
    of_bytes("gpt-by-hand", "disk.raw", lambda: bytes(gpt()), "gpt"),
    of_bytes("gpt-4096", "disk.raw", _by_hand_4096, "gpt"),
    of_bytes("mbr-by-hand", "disk.raw", lambda: bytes(mbr(*MBR_ROWS)), "mbr"),
    of_bytes("ext4-by-hand", "disk.raw", lambda: bytes(ext4(512)), "ext4"),
    of_bytes("raw-odd-size", "disk.raw", lambda: bytes(1000), "raw"),
)  # fmt: skip
