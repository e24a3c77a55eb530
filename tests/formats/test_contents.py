"""What is on a raw disk, against the programs that put it there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peers
from vmimg.formats.info import image_info
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.contents import Contents, examine
from vmimg.storage import FileStorage, MemoryStorage
from vmimg.units import KIB, MIB


def blank(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def contents(path: Path) -> Contents:
    with FileStorage(path) as storage:
        return examine(storage)


def tool(name: str) -> str:
    peers.require(name)
    return str(peers.find(name))


def call(*command: object, input: bytes = b"") -> None:
    subprocess.run([str(c) for c in command], check=True, capture_output=True, input=input)


@pytest.mark.peer("mke2fs")
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_ext_file_systems(tmp_path: Path, kind: str) -> None:
    disk = blank(tmp_path / "disk", 32 * MIB)
    uuid = "01234567-89ab-4cde-8f01-23456789abcd"
    peers.run("mke2fs", "-q", "-t", kind, "-L", "my root", "-U", uuid, disk)
    found = contents(disk)
    assert (found.kind, found.name, found.label, found.uuid) == (
        ("filesystem", kind, "my root", uuid)
    )
    assert found.size == 32 * MIB
    assert found.lines() == [f'{kind} "my root"']


@pytest.mark.peer("mke2fs")
def test_a_truncated_file_system_is_said(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 32 * MIB)
    peers.run("mke2fs", "-q", "-t", "ext4", disk)
    blank_size = 20 * MIB
    with disk.open("r+b") as file:
        file.truncate(blank_size)
    assert "truncated" in contents(disk).lines()[1]


@pytest.mark.peer("mkfs.vfat")
@pytest.mark.parametrize(("bits", "size"), [(12, 1440 * KIB), (16, 32 * MIB), (32, 64 * MIB)])
def test_fat_file_systems(tmp_path: Path, bits: int, size: int) -> None:
    disk = blank(tmp_path / "disk", size)
    peers.run("mkfs.vfat", "-F", str(bits), "-n", "FLOPPY", "-i", "1234abcd", disk)
    found = contents(disk)
    assert (found.kind, found.name, found.label) == ("filesystem", f"FAT{bits}", "FLOPPY")
    assert found.uuid == "1234-ABCD"
    assert found.size is not None and size - 64 * KIB <= found.size <= size


def test_swap(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 2 * MIB)
    call(tool("mkswap"), "-L", "my swap", "-U", "01234567-89ab-4cde-8f01-23456789abcd", disk)
    found = contents(disk)
    assert (found.kind, found.name, found.label) == ("volume", "swap", "my swap")
    assert found.uuid == "01234567-89ab-4cde-8f01-23456789abcd"
    assert found.size == 2 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_luks(tmp_path: Path, version: int) -> None:
    disk = blank(tmp_path / "disk", 32 * MIB)
    command = [tool("cryptsetup"), "luksFormat", "-q", "--type", f"luks{version}"]
    command += ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]
    call(*command, disk, "-", input=b"secret")
    found = contents(disk)
    assert (found.kind, found.name, found.traits) == (("volume", f"LUKS {version}", ("encrypted",)))
    said = subprocess.run([tool("cryptsetup"), "luksUUID", str(disk)], capture_output=True)
    assert found.uuid == said.stdout.decode().strip()


@pytest.mark.parametrize(
    ("name", "program", "options", "size"),
    [
        ("XFS", "mkfs.xfs", ["-q", "-L", "label"], 320 * MIB),
        ("btrfs", "mkfs.btrfs", ["-q", "-L", "label"], 128 * MIB),
        ("NTFS", "mkntfs", ["-Q", "-F", "-q"], 16 * MIB),
        ("exFAT", "mkfs.exfat", [], 16 * MIB),
        ("F2FS", "mkfs.f2fs", ["-q", "-l", "label"], 64 * MIB),
    ],
)
def test_other_file_systems(
    tmp_path: Path, name: str, program: str, options: list[str], size: int
) -> None:
    disk = blank(tmp_path / "disk", size)
    call(tool(program), *options, disk)
    found = contents(disk)
    assert (found.kind, found.name) == ("filesystem", name)
    assert found.label == ("label" if "label" in options else "")
    assert not found.problems


def test_squashfs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_bytes(b"a" * 100000)
    call(tool("mksquashfs"), tmp_path / "files", tmp_path / "disk", "-quiet")
    assert contents(tmp_path / "disk").name == "squashfs"


# Structures whose makers are seldom installed: written here by hand, from their specifications.
def lvm_volume(data: bytearray) -> None:
    data[512:544] = bytes(s.LvmLabel(id=b"LABELONE", sector=1, crc=0, offset=32, type=b"LVM2 001"))
    data[544:576] = b"abcdef" + b"0123" * 5 + b"ghijkl"
    data[576:584] = len(data).to_bytes(8, "little")


def xfs(data: bytearray) -> None:
    block = s.XfsSuperblock(sb_magicnum=b"XFSB", sb_blocksize=4096, sb_dblocks=len(data) >> 12)
    block.sb_fname[:4] = b"data"
    data[: len(bytes(block))] = bytes(block)


def btrfs(data: bytearray) -> None:
    block = s.BtrfsSuperblock(magic=b"_BHRfS_M", total_bytes=len(data), num_devices=1)
    block.label[:4] = b"data"
    assert bytes(block)[0x12B:0x12F] == b"data"
    data[65536 : 65536 + len(bytes(block))] = bytes(block)


def ntfs(data: bytearray) -> None:
    sectors = len(data) >> 9
    block = s.NtfsBootSector(oem_id=b"NTFS    ", bytes_per_sector=512, total_sectors=sectors)
    data[: len(bytes(block))] = bytes(block)
    data[510:512] = b"\x55\xaa"


def exfat(data: bytearray) -> None:
    block = s.ExfatBootSector(
        file_system_name=b"EXFAT   ", volume_length=len(data) >> 9, bytes_per_sector_shift=9
    )
    data[: len(bytes(block))] = bytes(block)
    data[510:512] = b"\x55\xaa"


def f2fs(data: bytearray) -> None:
    block = s.F2fsSuperblock(magic=0xF2F52010, log_blocksize=12, block_count=len(data) >> 12)
    block.volume_name[:8] = "data".encode("utf-16-le")
    data[1024 : 1024 + len(bytes(block))] = bytes(block)


def hfs_plus(data: bytearray) -> None:
    block = s.HfsPlusHeader(signature=b"H+", version=4, blockSize=4096, totalBlocks=len(data) >> 12)
    data[1024 : 1024 + len(bytes(block))] = bytes(block)


def apfs(data: bytearray) -> None:
    block = s.ApfsSuperblock(nx_magic=b"NXSB", nx_block_size=4096, nx_block_count=len(data) >> 12)
    data[: len(bytes(block))] = bytes(block)


def squashfs(data: bytearray) -> None:
    block = s.SquashfsSuperblock(s_magic=b"hsqs", s_major=4, bytes_used=len(data))
    data[: len(bytes(block))] = bytes(block)


def zfs(data: bytearray) -> None:
    data[(128 << 10) + 4096 : (128 << 10) + 4104] = (0x00BAB10C).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("write", "name", "label", "sized"),
    [
        (lvm_volume, "LVM2 physical volume", "", True),
        (xfs, "XFS", "data", True),
        (btrfs, "btrfs", "data", True),
        (ntfs, "NTFS", "", True),
        (exfat, "exFAT", "", True),
        (f2fs, "F2FS", "data", True),
        (hfs_plus, "HFS+", "", True),
        (apfs, "APFS", "", True),
        (squashfs, "squashfs", "", True),
        (zfs, "ZFS pool member", "", False),
    ],
)
def test_structures_by_their_specification(
    write: Callable[[bytearray], None], name: str, label: str, sized: bool
) -> None:
    data = bytearray(MIB)
    write(data)
    found = examine(MemoryStorage(data))
    assert (found.name, found.label) == (name, label)
    assert found.size == (MIB if sized else None)
    assert not found.problems
    if sized:  # the same, with the end cut off
        cut = examine(MemoryStorage(data[: MIB // 2]))
        assert cut.name == name and "truncated" in cut.problems[0]


def test_the_uuid_of_a_physical_volume_is_as_lvm_prints_it() -> None:
    data = bytearray(MIB)
    lvm_volume(data)
    assert examine(MemoryStorage(data)).uuid == "abcdef-0123-0123-0123-0123-0123-ghijkl"


# Partition tables


def gpt_disk(tmp_path: Path, size: int = 64 * MIB) -> Path:
    disk = blank(tmp_path / "disk", size)
    peers.run(
        "sgdisk",
        *("-n1:0:+8M", "-t1:ef00", "-c1:EFI", "-n2:0:0", "-t2:8300", "-c2:root fs"),
        disk,
    )
    return disk


def sgdisk_partitions(disk: Path) -> list[tuple[int, int, int, str]]:
    """(number, start, size, name) in bytes, as sgdisk sees them."""
    said = peers.run("sgdisk", "-p", disk).stdout.decode()
    rows = re.findall(r"^\s+(\d+)\s+(\d+)\s+(\d+)\s+\S+ \S+\s+\S+ *(.*)$", said, re.MULTILINE)
    return [
        (int(number), int(first) * 512, (int(last) + 1 - int(first)) * 512, name.strip())
        for number, first, last, name in rows
    ]


@pytest.mark.peer("sgdisk", "mke2fs", "mkfs.vfat")
def test_gpt_with_file_systems_inside(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path)
    fat, ext = blank(tmp_path / "fat", 8 * MIB), blank(tmp_path / "ext", 32 * MIB)
    peers.run("mkfs.vfat", "-F", "16", "-s", "1", "-n", "ESP", fat)
    peers.run("mke2fs", "-q", "-t", "ext4", "-L", "root", ext)
    with disk.open("r+b") as file:
        for part, offset in ((fat, MIB), (ext, 9 * MIB)):
            file.seek(offset)
            file.write(part.read_bytes())
    found = contents(disk)
    assert (found.kind, found.sector_size, found.problems) == ("gpt", 512, ())
    assert [(p.number, p.start, p.size, p.label) for p in found.partitions] == (
        sgdisk_partitions(disk)
    )
    assert [p.type_name for p in found.partitions] == ["EFI system", "Linux file system"]
    inside = [p.contents for p in found.partitions]
    assert [(c.name, c.label) for c in inside if c is not None] == (
        [("FAT16", "ESP"), ("ext4", "root")]
    )
    said = peers.run("sgdisk", "-i", "2", disk).stdout.decode().lower()
    assert found.partitions[1].uuid in said and found.partitions[1].type in said


@pytest.mark.peer("sgdisk")
def test_a_truncated_gpt_disk_is_said(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path)
    with disk.open("r+b") as file:
        file.truncate(32 * MIB)
    text = "\n".join(contents(disk).lines())
    assert "64 MiB" in text and "backup GPT is missing" in text
    assert "partition 2 ends at" in text


@pytest.mark.peer("sgdisk")
def test_an_enlarged_gpt_disk_is_said(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path)
    with disk.open("r+b") as file:
        file.truncate(96 * MIB)
    problems = contents(disk).problems
    assert len(problems) == 1 and "enlarged" in problems[0]


@pytest.mark.peer("sgdisk")
def test_the_backup_gpt_is_used_where_the_primary_is_damaged(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path)
    with disk.open("r+b") as file:
        file.seek(512 + 40)
        file.write(b"xx")
    found = contents(disk)
    assert [p.label for p in found.partitions] == ["EFI", "root fs"]
    assert "backup at the end of the disk is used" in found.problems[0]


@pytest.mark.peer("sgdisk")
def test_a_damaged_partition_array_is_said(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path)
    with disk.open("r+b") as file:
        file.seek(1024 + 60)
        file.write(b"xx")
    assert "checksum of the entries" in contents(disk).problems[0]


def test_gpt_on_sectors_of_4096_bytes() -> None:
    data = bytearray(16 * MIB)
    write_gpt(data, 4096)
    found = examine(MemoryStorage(data))
    assert (found.kind, found.sector_size) == ("gpt", 4096)
    assert found.problems == ()
    part = found.partitions[0]
    assert (part.start, part.size, part.label) == (MIB, MIB, "four")


def write_gpt(data: bytearray, sector: int, **changes: Any) -> None:
    """A protective MBR, and the two headers and tables of a GPT with one partition."""
    import binascii
    import uuid

    last = len(data) // sector - 1
    data[446 : 446 + 16] = bytes(s.MbrEntry(os_type=0xEE, starting_lba=1, size_in_lba=last))
    data[510:512] = b"\x55\xaa"
    entry = s.GptEntry(starting_lba=MIB // sector, ending_lba=2 * MIB // sector - 1)
    kind = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
    entry.partition_type_guid[:] = kind
    entry.partition_name[:8] = "four".encode("utf-16-le")
    table = bytes(entry).ljust(128 * 128, b"\0")
    for mine, other, entries in ((1, last, 2), (last, 1, last - 16384 // sector)):
        fields = {
            "signature": b"EFI PART",
            "revision": 0x10000,
            "header_size": 92,
            "my_lba": mine,
            "alternate_lba": other,
            "partition_entry_lba": entries,
            "number_of_partition_entries": 128,
            "size_of_partition_entry": 128,
            "partition_entry_array_crc32": binascii.crc32(table),
        }
        header = s.GptHeader(**(fields | changes))
        header.header_crc32 = binascii.crc32(bytes(header))
        data[mine * sector : mine * sector + 92] = bytes(header)
        data[entries * sector : entries * sector + len(table)] = table


@pytest.mark.parametrize(
    "changes",
    [
        {"header_size": 0},
        {"header_size": 2**32 - 1},
        {"number_of_partition_entries": 2**32 - 1},
        {"size_of_partition_entry": 0},
        {"size_of_partition_entry": 2**31},
        {"partition_entry_lba": 2**63},
        {"alternate_lba": 2**64 - 1},
        {"my_lba": 5},
    ],
)
def test_a_gpt_that_lies_is_a_problem_not_a_failure(changes: dict[str, int]) -> None:
    data = bytearray(16 * MIB)
    write_gpt(data, 512, **changes)
    found = examine(MemoryStorage(data))
    assert found.kind == "gpt"
    assert found.problems


@pytest.mark.peer("sgdisk")
def test_mbr(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 64 * MIB)
    peers.run("sgdisk", "-n1:0:+8M", "-t1:ef00", "-n2:0:0", "-t2:8300", disk)
    expected = [row[:3] for row in sgdisk_partitions(disk)]
    peers.run("sgdisk", "-m", "1:2", disk)
    found = contents(disk)
    assert found.kind == "mbr"
    assert [(p.number, p.start, p.size) for p in found.partitions] == expected
    assert [(p.type, p.type_name) for p in found.partitions] == (
        [("0xef", "EFI system"), ("0x83", "Linux")]
    )


def mbr_sector(*entries: tuple[int, int, int]) -> bytes:
    mbr = s.Mbr()
    for index, (kind, start, size) in enumerate(entries):
        mbr.partition_record[index] = s.MbrEntry(os_type=kind, starting_lba=start, size_in_lba=size)
    mbr.signature[:] = b"\x55\xaa"
    return bytes(mbr)


def test_logical_partitions_are_followed_through_their_chain() -> None:
    data = bytearray(8 * MIB)
    data[:512] = mbr_sector((0x83, 64, 64), (0x05, 1024, 4096))
    data[1024 * 512 : 1025 * 512] = mbr_sector((0x83, 64, 100), (0x05, 1000, 2000))
    data[2024 * 512 : 2025 * 512] = mbr_sector((0x82, 64, 200))
    found = examine(MemoryStorage(data))
    assert [(p.number, p.start // 512, p.size // 512, p.type) for p in found.partitions] == [
        (1, 64, 64, "0x83"),
        (2, 1024, 4096, "0x05"),
        (5, 1088, 100, "0x83"),
        (6, 2088, 200, "0x82"),
    ]


def test_a_chain_of_extended_partitions_that_loops_ends() -> None:
    data = bytearray(8 * MIB)
    data[:512] = mbr_sector((0x05, 1024, 4096))
    data[1024 * 512 : 1025 * 512] = mbr_sector((0x83, 64, 100), (0x05, 1000, 2000))
    data[2024 * 512 : 2025 * 512] = mbr_sector((0x82, 64, 200), (0x05, 0, 2000))
    assert [p.number for p in examine(MemoryStorage(data)).partitions] == [1, 5, 6]


@pytest.mark.peer("mkfs.vfat")
def test_a_boot_sector_of_a_file_system_is_no_partition_table(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 8 * MIB)
    peers.run("mkfs.vfat", disk)
    data = disk.read_bytes()
    assert data[510:512] == b"\x55\xaa"
    # Boot code may fill the sector up to the mark.
    filled = data[:440] + bytes(range(1, 71)) + data[510:]
    assert examine(MemoryStorage(filled)).kind == "filesystem"


# ISO 9660


def make_iso(tmp_path: Path, *options: object) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a").write_bytes(b"a" * 10000)
    (files / "efi.img").write_bytes(bytes(MIB))
    disk = tmp_path / "disk.iso"
    peers.run(
        "xorriso", "-as", "mkisofs", "-quiet", "-V", "MY DISC", "-o", disk,
        *(str(option) for option in options), files,
    )  # fmt: skip
    return disk


@pytest.mark.peer("xorriso")
def test_iso_9660(tmp_path: Path) -> None:
    disk = make_iso(tmp_path, "-J", "-R")
    found = contents(disk)
    assert (found.kind, found.label, found.partitions) == ("iso9660", "MY DISC", ())
    assert found.traits == ("Joliet",)
    assert found.size == disk.stat().st_size
    assert found.lines() == ['ISO 9660 "MY DISC", Joliet']


@pytest.mark.peer("xorriso")
@pytest.mark.parametrize("table", ["MBR", "GPT"])
def test_a_hybrid_iso_shows_its_partitions_too(tmp_path: Path, table: str) -> None:
    efi = tmp_path / "efi.img"
    efi.write_bytes(bytes(MIB))
    options: list[object] = ["-append_partition", 2, "0xef", efi]
    options += ["-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]
    if table == "GPT":
        options.append("-appended_part_as_gpt")
    found = contents(make_iso(tmp_path, *options))
    assert found.kind == "iso9660"
    assert found.traits == ("El Torito boot", f"hybrid {table}")
    assert found.partitions[1].type_name == "EFI system"


# Nothing


def test_a_blank_disk_is_called_blank_whatever_its_size(tmp_path: Path) -> None:
    assert contents(blank(tmp_path / "a", 1 << 40)).kind == "blank"
    (tmp_path / "b").write_bytes(bytes(MIB))
    assert contents(tmp_path / "b").kind == "blank"
    (tmp_path / "b").write_bytes(bytes(MIB - 1) + b"\1")
    assert contents(tmp_path / "b").kind == "unknown"
    (tmp_path / "c").write_bytes(b"")
    assert contents(tmp_path / "c").kind == "blank"


def test_a_file_that_is_no_disk_is_not_passed_off_as_one(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"MSWIM\0\0\0".ljust(MIB, b"\1"))
    info = image_info(image)[0]
    assert info.image.format == "raw"
    assert any("is not read as such" in note for note in info.image.notes)


def test_labels_from_a_strangers_disk_stay_printable() -> None:
    data = bytearray(MIB)
    xfs(data)
    data[108:120] = b"\x1b[31mroot\n\xff!"
    label = examine(MemoryStorage(data)).label
    assert label.isprintable() and "root" in label


def test_random_bytes_never_fail_and_little_of_a_disk_is_read() -> None:
    import random

    class Counting(MemoryStorage):
        count = 0

        def read_into(self, offset: int, buffer: memoryview) -> None:
            self.count += len(buffer)
            super().read_into(offset, buffer)

    magics = [m for _, m, _ in (*s.VOLUME_MAGICS, *s.WRAPPER_MAGICS)]
    magics += [b"EFI PART", b"\x55\xaa", b"CD001", b"\x53\xef", b"XFSB", b"_BHRfS_M", b"LABELONE"]
    dice = random.Random(7)
    for size in (0, 1, 511, 512, 513, 4096, 40000, 300000):
        for _ in range(20):
            data = bytearray(dice.randbytes(size))
            for offset in (0, 3, 32, 64, 446, 510, 512, 1024, 1080, 4096, 32769, 65600):
                if dice.random() < 0.5:
                    magic = dice.choice(magics)
                    data[offset : offset + len(magic)] = magic
            storage = Counting(bytes(data[:size]))
            found = examine(storage)
            found.lines()
            found.to_json()
            assert storage.count < 4 * MIB


def test_info_of_a_raw_disk_says_what_is_on_it(tmp_path: Path) -> None:
    data = bytearray(16 * MIB)
    write_gpt(data, 512)
    (tmp_path / "disk").write_bytes(data)
    info = image_info(tmp_path / "disk")[0]
    assert info.image.notes[0] == "GPT, 1 partition"
    facts = info.to_json()["format-specific"]
    assert facts["type"] == "raw"
    assert facts["data"]["contents"]["partitions"][0]["label"] == "four"


def test_peak_memory_is_small(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 1 << 40)
    program = f"""
import re
from vmimg.formats.info import image_info

def peak():  # not ru_maxrss: it begins with what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

before = peak()
image_info({str(disk)!r})
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) < 16 << 10
