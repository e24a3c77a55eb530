"""Floppies among raw images, against mtools, and what an .img is whatever it is called."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import peers
from vmimg.formats.info import image_info
from vmimg.formats.raw.contents import Contents, examine
from vmimg.formats.raw.floppy import KINDS
from vmimg.formats.registry import by_extension
from vmimg.storage import FileStorage, MemoryStorage
from vmimg.units import KIB, MIB

GEOMETRIES = {
    160: (40, 1, 8), 180: (40, 1, 9), 320: (40, 2, 8), 360: (40, 2, 9), 640: (80, 2, 8),
    720: (80, 2, 9), 1200: (80, 2, 15), 1440: (80, 2, 18), 1680: (80, 2, 21), 2880: (80, 2, 36),
}  # fmt: skip


def contents(path: Path) -> Contents:
    with FileStorage(path) as storage:
        return examine(storage)


def formatted(path: Path, kib: int, *options: str) -> Path:
    tracks, heads, sectors = GEOMETRIES[kib]
    peers.run(
        "mformat", "-C", "-t", str(tracks), "-h", str(heads), "-s", str(sectors), *options,
        "-i", path, "::",
    )  # fmt: skip
    return path


@pytest.mark.peer("mformat", "minfo")
@pytest.mark.parametrize("kib", GEOMETRIES)
def test_each_floppy_is_named_with_its_geometry(tmp_path: Path, kib: int) -> None:
    disk = formatted(tmp_path / "a.img", kib, "-v", "MY DISK", "-N", "12345678")
    assert disk.stat().st_size == kib * KIB
    found = contents(disk)
    assert (found.kind, found.name, found.problems) == ("filesystem", "FAT12", ())
    floppy = found.floppy
    assert floppy is not None and floppy.size == kib * KIB
    said = peers.run("minfo", "-i", disk, "::").stdout.decode()
    shown = dict(re.findall(r"^([a-z ]+): (.*)$", said, re.MULTILINE))
    assert int(shown["sectors per track"]) == floppy.sectors
    assert int(shown["heads"]) == floppy.heads
    assert int(shown["cylinders"]) == floppy.tracks
    assert int(floppy.media, 16) == int(shown["media descriptor byte"], 16)
    assert (found.label, found.uuid) == ("MY DISK", "1234-5678")
    assert floppy.oem and f'banner:"{floppy.oem}' in said


@pytest.mark.peer("mkfs.vfat")
@pytest.mark.parametrize("kib", [360, 720, 1200, 1440, 2880])
def test_what_mkfs_makes_is_recognised_too(tmp_path: Path, kib: int) -> None:
    disk = tmp_path / "a.img"
    with disk.open("wb") as file:
        file.truncate(kib * KIB)
    peers.run("mkfs.vfat", "-n", "FLOPPY", disk)
    found = contents(disk)
    assert (found.name, found.label, found.problems) == ("FAT12", "FLOPPY", ())
    assert found.floppy is not None and found.floppy.oem == "mkfs.fat"


@pytest.mark.peer("mformat")
def test_info_tells_people_and_programs(tmp_path: Path) -> None:
    disk = formatted(tmp_path / "a.img", 1440, "-v", "BOOT")
    info = image_info(disk)[0]
    assert info.image.notes[0].startswith(
        'floppy 3.5-inch HD, 1440 KiB, 80 tracks x 2 heads x 18 sectors: FAT12 "BOOT", OEM MTOO'
    )
    facts = info.to_json()["format-specific"]["data"]["contents"]
    assert facts["kind"] == "filesystem" and facts["label"] == "BOOT"
    assert facts["floppy"] | {"oem": ""} == {
        "medium": "3.5-inch HD",
        "size": 1474560,
        "tracks": 80,
        "heads": 2,
        "sectors": 18,
        "sector-size": 512,
        "media": "0xf0",
        "oem": "",
    }


@pytest.mark.peer("mformat", "mcopy")
@pytest.mark.parametrize(
    ("name", "system"), [("IO.SYS", "MS-DOS"), ("KERNEL.SYS", "FreeDOS"), ("NOTES.TXT", "")]
)
def test_the_system_is_told_by_the_files_of_the_root_directory(
    tmp_path: Path, name: str, system: str
) -> None:
    disk = formatted(tmp_path / "a.img", 1440)
    (tmp_path / name).write_bytes(b"x" * 1000)
    peers.run("mcopy", "-i", disk, tmp_path / name, "::")
    floppy = contents(disk).floppy
    assert floppy is not None and floppy.system == system


@pytest.mark.peer("mformat", "mlabel")
def test_a_label_in_the_root_directory_only_is_found(tmp_path: Path) -> None:
    disk = formatted(tmp_path / "a.img", 720, "-v", "GONE")
    data = bytearray(disk.read_bytes())
    assert data[38] == 0x29
    data[38] = 0  # no extended boot record: DOS 3
    disk.write_bytes(data)
    assert contents(disk).label == "GONE"
    peers.run("mlabel", "-i", disk, "::CHANGED")
    assert contents(disk).label == "CHANGED"


@pytest.mark.peer("mformat")
@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (21, 0xF9, "media byte 0xf9"),
        (24, 9, "2 heads x 9 sectors"),
        (26, 1, "1 heads x 18 sectors"),
        (512, 0xF8, "the FAT begins with the media byte 0xf8"),
        (20, 0x05, "disk of 720 KiB, not of 1440 KiB"),
    ],
)
def test_a_boot_sector_that_does_not_fit_the_disk_is_said(
    tmp_path: Path, offset: int, value: int, says: str
) -> None:
    disk = formatted(tmp_path / "a.img", 1440)
    data = bytearray(disk.read_bytes())
    if offset == 20:  # 1440 sectors
        data[19:21] = (1440).to_bytes(2, "little")
    else:
        data[offset] = value
    disk.write_bytes(data)
    found = contents(disk)
    assert found.floppy is not None
    assert any(says in problem for problem in found.problems), found.problems


@pytest.mark.peer("mformat")
def test_a_floppy_cut_short_is_still_one(tmp_path: Path) -> None:
    disk = formatted(tmp_path / "a.img", 1440)
    with disk.open("r+b") as file:
        file.truncate(700_000)
    found = contents(disk)
    assert found.floppy is not None and found.floppy.size == 1440 * KIB
    assert "truncated" in found.problems[-1]


@pytest.mark.peer("mformat")
def test_boot_code_that_looks_like_a_partition_table_is_none(tmp_path: Path) -> None:
    disk = formatted(tmp_path / "a.img", 1440)
    data = bytearray(disk.read_bytes())
    data[446:510] = bytes(64)
    data[446], data[450], data[458:462] = 0x80, 6, b"\1\0\0\0"
    disk.write_bytes(data)
    assert contents(disk).name == "FAT12"


@pytest.mark.peer("mformat")
@pytest.mark.parametrize("kib", [160, 180, 320, 360])
def test_a_floppy_of_dos_1_has_no_bpb_and_is_told_by_its_fat(tmp_path: Path, kib: int) -> None:
    data = bytearray(formatted(tmp_path / "a.img", kib).read_bytes())
    data[:512] = b"\xeb\x27\x90" + bytes(509)
    found = examine(MemoryStorage(data))
    assert (found.name, found.size, found.traits) == ("FAT12", kib * KIB, ("without a BPB",))
    assert found.floppy is not None and found.floppy.size == kib * KIB
    data[512] = 0xF9
    assert examine(MemoryStorage(data)).kind == "unknown"


def test_an_old_floppy_without_the_mark_at_the_end_of_its_boot_sector() -> None:
    data = bytearray(720 * KIB)
    data[:3] = b"\xeb\xfe\x90"
    data[3:11] = b"MSX_01  "
    data[11:30] = bytes.fromhex("0002 02 0100 02 7000 a005 f9 0300 0900 0200 0000".replace(" ", ""))
    data[512:515] = b"\xf9\xff\xff"
    found = examine(MemoryStorage(data))
    assert found.name == "FAT12" and not found.problems
    assert found.floppy is not None and found.floppy.oem == "MSX_01"
    # On any other disk that is not enough.
    assert examine(MemoryStorage(data + bytes(512))).kind == "unknown"


def test_a_boot_sector_alone_is_said() -> None:
    data = bytearray(random.Random(8).randbytes(1440 * KIB))
    data[510:512] = b"\x55\xaa"
    assert examine(MemoryStorage(data)).title() == (
        "floppy 3.5-inch HD, 1440 KiB, 80 tracks x 2 heads x 18 sectors: "
        "no partition table or file system that is known, with a boot sector"
    )


@pytest.mark.parametrize("size", KINDS)
def test_a_floppy_without_anything_known_is_told_by_its_size(size: int) -> None:
    blank = examine(MemoryStorage(bytes(size)))
    assert blank.kind == "blank"
    assert blank.title().startswith("floppy ") and blank.title().endswith("nothing but zeros")
    noise = examine(MemoryStorage(random.Random(size).randbytes(size)))
    assert noise.kind == "unknown" and noise.floppy is not None
    assert examine(MemoryStorage(bytes(size + 512))).floppy is None


@pytest.mark.peer("mke2fs", "sgdisk", "mkfs.vfat", "xorriso")
def test_an_img_is_what_it_holds(tmp_path: Path) -> None:
    """The name says nothing: .img are floppies, disks, file systems and discs."""
    floppy = formatted(tmp_path / "a.img", 1440)
    disk, system, small = (tmp_path / f"{n}.img" for n in ("disk", "system", "small"))
    for path, size in ((disk, 8 * MIB), (system, 8 * MIB), (small, 1440 * KIB)):
        with path.open("wb") as file:
            file.truncate(size)
    peers.run("sgdisk", "-n1:0:0", disk)
    peers.run("mkfs.vfat", system)
    peers.run("mke2fs", "-q", small)
    (tmp_path / "files").mkdir()
    disc = tmp_path / "disc.img"
    peers.run("xorriso", "-as", "mkisofs", "-quiet", "-V", "CD", "-o", disc, tmp_path / "files")
    found = [contents(path) for path in (floppy, disk, system, small, disc)]
    assert [each.kind for each in found] == (
        ["filesystem", "gpt", "filesystem", "filesystem", "iso9660"]
    )
    assert [each.floppy is not None for each in found] == [True, False, False, True, False]
    assert found[3].title() == (
        "floppy 3.5-inch HD, 1440 KiB, 80 tracks x 2 heads x 18 sectors: ext2"
    )
    renamed = tmp_path / "a.qcow2"
    floppy.rename(renamed)
    assert image_info(renamed)[0].image.format == "raw"


def test_their_extensions_are_those_of_raw_disks() -> None:
    for name in ("a.flp", "a.vfd", "A.IMA", "a.img"):
        format = by_extension(name)
        assert format is not None and format.name == "raw"


@pytest.mark.peer("mformat")
def test_random_damage_is_at_most_a_problem(tmp_path: Path) -> None:
    data = formatted(tmp_path / "a.img", 360).read_bytes()
    dice = random.Random(4)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 3, 20))):
            damaged[dice.randrange(64)] = dice.randrange(256)
        if dice.random() < 0.2:
            del damaged[dice.randrange(2000) :]
        found = examine(MemoryStorage(damaged))
        found.lines()
        found.to_json()
