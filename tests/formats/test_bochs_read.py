"""Reading growing images of Bochs, made by hand; QEMU reads the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import peers
from bochs_by_hand import FREE, V1, V2, Image
from vmimg.disk.extent import Kind
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

KIB, MIB = 1 << 10, 1 << 20

PLACES = (3, FREE, 0, 1, FREE, FREE, 2, 5, 4, FREE)


def content_of(path: Path) -> bytes:
    with open_disk(path) as disk:
        return disk.read(0, disk.size)


def write(path: Path, image: Image) -> bytes:
    """Make the file; what it reads as."""
    file, content = image.build()
    path.write_bytes(file)
    return content


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("extent", "bitmap"),
    # As bximage makes them: 8 sectors for each byte of the bitmap; and others that QEMU takes.
    [(4 * KIB, 1), (32 * KIB, 8), (256 * KIB, 64), (64 * KIB, 512), (512, 1), (128 * KIB, 700)],
)
def test_both_versions_read_as_qemu_reads_them(
    tmp_path: Path, version: int, extent: int, bitmap: int
) -> None:
    image = Image(9 * extent + 512, PLACES, version=version, extent=extent, bitmap=bitmap)
    path, raw = tmp_path / "a.img", tmp_path / "raw"
    content = write(path, image)
    assert content_of(path) == content
    info = image_info(path)[0].image
    assert (info.format, info.virtual_size, info.cluster_size) == ("bochs", image.size, extent)
    assert info.details["version"] == f"{version >> 16}.0"
    peers.run("qemu-img", "convert", "-f", "bochs", "-O", "raw", path, raw)
    assert raw.read_bytes() == content
    theirs = peers.run_json("qemu-img", "info", "--output", "json", path)
    assert (theirs["format"], theirs["virtual-size"]) == ("bochs", image.size)
    convert(path, tmp_path / "b.qcow2")
    peers.run("qemu-img", "compare", path, tmp_path / "b.qcow2")
    assert check(path).exit_code == 0


def test_reads_of_any_place_and_length(tmp_path: Path) -> None:
    image = Image(10 * 32 * KIB - 1024, PLACES, extent=32 * KIB, bitmap=8)
    content = write(tmp_path / "a.img", image)
    dice = random.Random(2)
    with open_disk(tmp_path / "a.img") as disk:
        for _ in range(100):
            start = dice.randrange(disk.size)
            length = min(disk.size - start, dice.choice((1, 511, 512, 5000, 100_000)))
            assert disk.read(start, length) == content[start : start + length]


def test_the_map_knows_single_sectors(tmp_path: Path) -> None:
    content = write(tmp_path / "a.img", Image(10 * 4096, PLACES))
    mapped = bytearray(len(content))
    file = (tmp_path / "a.img").read_bytes()
    with open_disk(tmp_path / "a.img") as disk:
        for extent in disk.map():
            if extent.kind == Kind.DATA:
                assert extent.offset is not None
                piece = file[extent.offset : extent.offset + extent.length]
                mapped[extent.start : extent.end] = piece
    assert mapped == content


def test_a_size_with_a_part_of_a_sector_is_rounded_down_as_qemu_does(tmp_path: Path) -> None:
    write(tmp_path / "a.img", Image(3 * 4096 + 700, (0, FREE, 1, 2)))
    with open_disk(tmp_path / "a.img") as disk:
        assert disk.size == 3 * 4096 + 512
    if peers.has("qemu-img"):
        theirs = peers.run_json("qemu-img", "info", "--output", "json", tmp_path / "a.img")
        assert theirs["virtual-size"] == 3 * 4096 + 512


def test_an_empty_image_of_the_largest_size(tmp_path: Path) -> None:
    entries = 1 << 20
    image = Image(entries * 8 * MIB, (), extent=8 * MIB, bitmap=2048, more_entries=entries)
    path = tmp_path / "a.img"
    path.write_bytes(image.build()[0])
    with open_disk(path) as disk:
        assert disk.size == 8 << 40
        assert list(disk.spans()) == [(0, 8 << 40, Kind.ABSENT)]
    convert(path, tmp_path / "b.qcow2")
    assert check(path).exit_code == 0


@pytest.mark.parametrize(
    ("subtype", "says"),
    [
        (b"Undoable", "an undoable redolog"),
        (b"Volatile", "a volatile redolog"),
        (b"vvfat", "a directory"),
        (b"Growing2", "subtype 'Growing2'"),
        (b"\x1b[31m\n", r"subtype '\\x1b\[31m\\n'"),
    ],
)
def test_redologs_that_are_no_disks_are_refused_by_name(
    tmp_path: Path, subtype: bytes, says: str
) -> None:
    path = tmp_path / "a.img"
    write(path, Image(10 * 4096, PLACES, subtype=subtype))
    for read in (content_of, image_info, check):
        with pytest.raises(UnsupportedFeature, match=says):
            read(path)


def test_it_is_neither_written_nor_made(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    write(path, Image(10 * 4096, PLACES))
    before = path.read_bytes()
    with pytest.raises(UnsupportedFeature, match="read, not written"):
        open_disk(path, writable=True)
    with pytest.raises(UnsupportedFeature, match="not repaired"):
        check(path, repair="all")
    with pytest.raises(OptionError, match="no snapshots"):
        open_disk(path, snapshot="1")
    with pytest.raises((OptionError, UnsupportedFeature)):
        create(tmp_path / "b.bochs", MIB, format="bochs")
    assert path.read_bytes() == before


# check


@pytest.mark.parametrize(
    ("places", "cut", "corruptions", "leaks", "says"),
    [
        ((0, 1, 2), 0, 0, 0, ""),
        ((2, FREE, 0), 0, 0, 1, "1 places between"),
        ((0, 0, 1), 0, 1, 0, "1 extents share"),
        ((1, 1, 1), 0, 2, 1, "2 extents share"),
        ((0, 1, 2), 4608, 1, 0, "place 2, but the file ends"),
        ((0, 1, 2), 4096, 1, 0, "written sectors of the extent in place 2"),
        ((0, 1, 2), 3 * 4608, 3, 0, "virtual offset 0: said to be in place 0"),
        ((0, 0, 7), 3 * 4608, 2, 0, "place 7"),
    ],
)  # fmt: skip
def test_check_finds_what_is_wrong(
    tmp_path: Path,
    places: tuple[int, ...],
    cut: int,
    corruptions: int,
    leaks: int,
    says: str,
) -> None:
    path = tmp_path / "a.img"
    file, _ = Image(3 * 4096, places, written=1).build()
    path.write_bytes(file[: len(file) - cut])
    before = path.read_bytes()
    report = check(path)
    assert (report.corruptions, report.leaks) == (corruptions, leaks), report.problems
    assert report.exit_code == (2 if corruptions else 3 if leaks else 0)
    assert says in "\n".join(report.problems)
    assert path.read_bytes() == before


def test_sectors_that_nobody_wrote_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    file = bytearray(Image(2 * 4096, (0, 1), written=1).build()[0])
    second = Image(2 * 4096, (0, 1)).data_start + 4608
    file[second] = 0b11
    path.write_bytes(file[: second + 512 + 1024])
    assert check(path).exit_code == 0
    assert content_of(path)[4096:] == bytes(file[second + 512 : second + 1536]) + bytes(3072)
