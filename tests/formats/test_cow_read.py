"""COW images, made by hand for want of a program that makes them, are read, mapped and checked."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

import cow_by_hand as by_hand
from cow_by_hand import SECTOR, Image
from vmimg import storage as storages
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.detect import detect
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk

MIB = 1 << 20


def some_sectors(count: int, seed: int = 1) -> list[int]:
    """Runs and single ones, the first and the last."""
    dice = random.Random(seed)
    found = {0, count - 1}
    for _ in range(count // 50):
        start = dice.randrange(count)
        found |= set(range(start, min(count, start + dice.choice((1, 2, 7, 30)))))
    return sorted(found)


def content_of(path: Path, parent: str | None = None) -> bytes:
    """What vmimg reads; ``parent``: the format of what the image stands above."""
    with open_disk(path, policy=ParentPolicy(parent_format=parent)) as disk:
        return disk.read(0, disk.size)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sectors", [1, 7, 8, 4097, 6000])
def test_both_layouts_of_the_header(tmp_path: Path, bits: int, sectors: int) -> None:
    image = Image(sectors * SECTOR, some_sectors(sectors), bits=bits)
    path = tmp_path / "a.cow"
    path.write_bytes(image.build())
    (info,) = image_info(path)
    assert (info.image.virtual_size, info.image.parent) == (image.size, None)
    assert info.image.details["data-offset"] == image.data
    wanted = image.flat()
    assert content_of(path) == wanted
    with open_disk(path) as disk:
        for start in random.Random(3).sample(range(image.size), 30):
            length = min(3000, image.size - start)
            assert disk.read(start, length) == wanted[start : start + length]
    assert check(path).exit_code == 0


def test_the_map_says_of_each_sector_where_it_is(tmp_path: Path) -> None:
    image = Image(4 * MIB, some_sectors(8192))
    (tmp_path / "a.cow").write_bytes(image.build())
    with open_disk(tmp_path / "a.cow") as disk:
        found = set()
        for extent in disk.map():
            if extent.kind == Kind.DATA:
                assert extent.offset == image.data + extent.start
                found |= set(range(extent.start // SECTOR, extent.end // SECTOR))
        assert found == set(image.present)
        ends = [0, *(end for _, end, _ in disk.spans())]
        assert [start for start, _, _ in disk.spans()] == ends[:-1] and ends[-1] == disk.size


def test_layouts_are_told_apart_even_where_both_fit(tmp_path: Path) -> None:
    """In the layout of 64 bits a size of n * 4 GiB + 512 looks like a sector size in the other; in
    that of 32 bits, the first sectors of the bitmap do.
    """
    path = tmp_path / "a.cow"
    large = Image((1 << 32) + SECTOR, [3])
    path.write_bytes(large.build())
    assert image_info(path)[0].image.virtual_size == large.size
    small = Image(MIB, [17], bits=32)
    path.write_bytes(small.build())
    assert path.read_bytes()[by_hand.SECTORSIZE_64 :][:4] == SECTOR.to_bytes(4, "big")
    assert content_of(path) == small.flat()


def test_a_big_empty_image_is_not_visited_sector_by_sector(tmp_path: Path) -> None:
    path = tmp_path / "a.cow"
    image = Image(4 << 40)
    head = Image(SECTOR).build()[: by_hand.HEADER_64]
    path.write_bytes(head[: by_hand.SIZE_64] + struct.pack(">Q", image.size) + head[1048:])
    os.truncate(path, image.data)
    with open_disk(path) as disk:
        assert list(disk.spans()) == [(0, image.size, Kind.ABSENT)]
    report = check(path)
    assert (report.exit_code, report.allocated_clusters) == (0, 0)


# Parents


def test_above_raw_and_above_another(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(MIB)
    (tmp_path / "base.raw").write_bytes(base)
    middle = Image(2 * MIB, some_sectors(4096, 2), backing=b"base.raw", bits=32)
    top = Image(2 * MIB, some_sectors(4096, 3), backing=b"middle.cow", seed=2)
    (tmp_path / "middle.cow").write_bytes(middle.build())
    (tmp_path / "top.cow").write_bytes(top.build())
    assert content_of(tmp_path / "middle.cow", "raw") == middle.flat(base)
    # The format that the user names is that of all parents for which none is declared.
    (tmp_path / "base.cow").write_bytes(Image(MIB, range(2048), seed=9).build())
    middle.backing = b"base.cow"
    (tmp_path / "middle.cow").write_bytes(middle.build())
    wanted = top.flat(middle.flat(Image(MIB, range(2048), seed=9).flat()))
    assert content_of(tmp_path / "top.cow", "cow") == wanted


def test_the_format_of_a_parent_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"QFI\xfb".ljust(MIB, b"\0"))
    (tmp_path / "a.cow").write_bytes(Image(MIB, backing=b"base").build())
    with pytest.raises(ChainError, match="--backing-format"):
        open_disk(tmp_path / "a.cow")
    assert content_of(tmp_path / "a.cow", "raw") == (tmp_path / "base").read_bytes()
    (info,) = image_info(tmp_path / "a.cow")
    assert any("--backing-format" in note for note in info.image.notes)


def test_a_parent_that_changed_is_refused(tmp_path: Path) -> None:
    base, path = tmp_path / "base", tmp_path / "a.cow"
    base.write_bytes(bytes(MIB))
    os.utime(base, (1_000_000_000, 1_000_000_000))
    path.write_bytes(Image(MIB, backing=b"base", mtime=1_000_000_000).build())
    assert content_of(path, "raw") == bytes(MIB)
    os.utime(base, (1_000_000_001, 1_000_000_001))
    with pytest.raises(ChainError, match=r"1000000001.*--allow-changed-parent"):
        content_of(path, "raw")
    with open_disk(path, policy=ParentPolicy(parent_format="raw", allow_changed=True)) as disk:
        assert disk.read(0, 512) == bytes(512)
    # 0 is what was written where the time was not known.
    path.write_bytes(Image(MIB, backing=b"base").build())
    assert content_of(path, "raw") == bytes(MIB)


# What is not QEMU's


UML = {
    "version 1, as this machine writes it": b"MOOO"
    + struct.pack("<I256sIQI", 1, b"b", 0, MIB, 512),
    "version 1, as the others do": b"OOOM" + struct.pack(">I256sIQI", 1, b"b", 0, MIB, 512),
    "version 2": b"OOOM" + struct.pack(">I4096sIQI", 2, b"b", 0, MIB, 512),
    "version 2, not packed": b"OOOM" + struct.pack(">I4096sIIQI", 2, b"b", 0, 0, MIB, 512),
    "version 3": b"OOOM" + struct.pack(">IIQIII4096s", 3, 0, MIB, 512, 4096, 0, b"b"),
}


@pytest.mark.parametrize("kind", UML)
def test_images_of_user_mode_linux_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.cow"
    path.write_bytes(UML[kind].ljust(MIB, b"\0"))
    with storages.open(path) as storage:
        assert [claim.format.name for claim in detect(storage)] == ["cow", "raw"]
    for read in (open_disk, image_info, check):
        with pytest.raises(UnsupportedFeature, match=f"User Mode Linux, {kind.split(',')[0]}"):
            read(path)


# check


def test_sectors_that_were_cut_off_are_counted_and_not_made_up(tmp_path: Path) -> None:
    image = Image(MIB, range(100, 200))
    path = tmp_path / "a.cow"
    path.write_bytes(image.build()[: -3 * SECTOR - 1])
    before = path.read_bytes()
    for repair in ("", "leaks", "all"):
        report = check(path, repair=repair)
        assert (report.corruptions, report.leaks, report.allocated_clusters) == (4, 0, 100)
        assert "but the file ends at" in report.problems[0]
    assert path.read_bytes() == before
    with pytest.raises(FormatError, match="truncated"):
        content_of(path)


def test_what_lies_behind_the_last_sector_is_a_leak(tmp_path: Path) -> None:
    image = Image(MIB, range(100, 200))
    path = tmp_path / "a.cow"
    file = image.build()
    path.write_bytes(file + bytes(5 * SECTOR))
    assert (check(path).leaks, check(path).exit_code) == (5, 3)
    assert check(path, repair="leaks").fixed_leaks == 5
    assert path.read_bytes() == file


def test_bits_of_sectors_that_are_not_there_are_cleared(tmp_path: Path) -> None:
    image = Image(10 * SECTOR, [1, 9])
    path = tmp_path / "a.cow"
    file = bytearray(image.build())
    file[image.header + 1] |= 0b1010_0000
    path.write_bytes(file)
    assert content_of(path) == image.flat()
    assert (check(path).corruptions, check(path, repair="leaks").corruptions) == (1, 1)
    assert check(path, repair="all").fixed_corruptions == 1
    assert path.read_bytes() == image.build()
