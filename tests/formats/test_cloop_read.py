"""Reading cloops: what create_compressed_fs makes, and the later layouts made by hand."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import peers
from cloop_by_hand import LZ4, LZO, NONE, XZ, ZLIB, Image, pack
from samples import awkward_disk, border_disk, write_sparse
from vmimg.codecs import lz4, lzo
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import find
from vmimg.storage import MemoryStorage
from vmimg.transfer.create import create

MIB = 1 << 20
BLOCK = 65536


def content_of(path: Path) -> bytes:
    with open_disk(path) as disk:
        return disk.read(0, disk.size)


def extracted(path: Path, target: Path) -> bytes:
    """What extract_compressed_fs makes of it."""
    peers.run("extract_compressed_fs", path, target)
    return target.read_bytes()


@pytest.mark.peer("create_compressed_fs", "extract_compressed_fs", "qemu-img")
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-B", "4096"),
        ("-B", "1536"),
        ("-B", "65536"),
        ("-L", "0"),
        ("-L", "1"),
        ("-b",),
        ("-m",),
    ],
    ids=" ".join,
)
def test_what_create_compressed_fs_makes_reads_as_its_source(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    content = awkward_disk(MIB + 1000)
    raw, image = tmp_path / "raw", tmp_path / "a.cloop"
    raw.write_bytes(content)
    peers.run("create_compressed_fs", "-q", *options, raw, image)
    read = content_of(image)
    assert read[: len(content)] == content and not any(read[len(content) :])
    assert read == extracted(image, tmp_path / "theirs")
    (info,) = image_info(image)
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    ours = info.to_json()
    assert ours["format"] == theirs["format"] == "cloop"
    assert ours["virtual-size"] == theirs["virtual-size"] == len(read)
    assert ours["compressed"] and info.image.details["version"] == 2
    peers.run("qemu-img", "compare", "-f", "cloop", "-F", "raw", image, tmp_path / "theirs")


LAYOUTS = {
    "V2.0": Image((), version=2),
    "V4.0": Image((), version=4),
    "V4.0 at the end": Image((), version=4, at_end=True),
    "V2.0 at the end": Image((), version=2, at_end=True),
    "CLOOP3": Image((), version=3),
}


@pytest.mark.parametrize("block", [512, 1536, 65536])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_with_blocks_stored_in_every_way(
    tmp_path: Path, layout: str, block: int
) -> None:
    image = LAYOUTS[layout]
    content = border_disk(block * 37, step=block * 2)
    ways = (ZLIB,) if image.version == 2 else (ZLIB, NONE, XZ)
    pieces = [content[start : start + block] for start in range(0, len(content), block)]
    stored = [(way := ways[n % len(ways)], pack(way, piece)) for n, piece in enumerate(pieces)]
    path = Image(stored, block, image.version, image.at_end).write(tmp_path / "a")
    (info,) = image_info(path)
    assert (info.image.format, info.image.cluster_size) == ("cloop", block)
    assert info.image.details["version"] == image.version
    assert content_of(path) == content
    dice = random.Random(1)
    with open_disk(path) as disk:
        assert disk.size == len(content)
        for start in dice.sample(range(disk.size), 30):
            length = min(dice.randrange(3 * block), disk.size - start)
            assert disk.read(start, length) == content[start : start + length]
        zeros = b"".join(
            content[start:end] for start, end, kind in disk.spans() if kind == Kind.ZERO
        )
        assert zeros and not any(zeros)
        plain = [extent for extent in disk.map() if extent.offset is not None]
        assert len(plain) == (0 if image.version == 2 else len(pieces[1::3]))
        file = path.read_bytes()
        for extent in plain:
            assert extent.offset is not None
            there = file[extent.offset : extent.offset + extent.length]
            assert there == content[extent.start : extent.end]


@pytest.mark.peer("qemu-img", "extract_compressed_fs")
def test_a_v2_image_made_by_hand_is_one_to_others(tmp_path: Path) -> None:
    content = awkward_disk(10 * BLOCK)
    stored = [(ZLIB, pack(ZLIB, content[n : n + BLOCK])) for n in range(0, len(content), BLOCK)]
    path = Image(stored).write(tmp_path / "a")
    raw = write_sparse(tmp_path / "raw", content)
    assert extracted(path, tmp_path / "theirs") == content == content_of(path)
    peers.run("qemu-img", "compare", "-f", "cloop", "-F", "raw", path, raw)


@pytest.mark.peer("lz4", "lzop")
@pytest.mark.parametrize("version", [3, 4])
def test_blocks_of_lz4_and_lzo_are_read(tmp_path: Path, version: int) -> None:
    words = (b"%d bottles of beer on the wall, " % n for n in range(9999))
    content = b"".join(words)[: 4 * BLOCK]
    pieces = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    stored = [(way, pack(way, piece)) for way, piece in zip((LZ4, LZO) * 2, pieces, strict=True)]
    assert content_of(Image(stored, version=version).write(tmp_path / "a")) == content


@pytest.mark.parametrize(
    "data",
    [
        b"a" * 60000,
        bytes(65536),
        b"abc" * 5000 + bytes(20) + b"abcdefgh" * 77,
        border_disk(65536, step=2048),
        # Far behind: LZO has other instructions from 2, 16 and 32 KiB on.
        b"".join(
            random.Random(5).randbytes(n) + b"the same words" for n in (99, 1999, 15000, 30000, 9)
        ),
        b"A tale of a short text, a tale of a short text.",
    ],
    ids=["one byte", "zeros", "short patterns", "disk", "far", "short"],
)
@pytest.mark.peer("lz4", "lzop")
def test_lz4_and_lzo_decoders_give_back_what_was_packed(data: bytes) -> None:
    for way, decoder in ((LZ4, lz4), (LZO, lzo)):
        try:
            packed = pack(way, data)
        except AssertionError:  # it does not shrink, and is not packed
            assert len(data) == 47
            continue
        assert decoder.decompress(packed, len(data)) == data
        for size in (len(data) - 1, 0):
            with pytest.raises(FormatError):
                decoder.decompress(packed, size)
        dice = random.Random(len(data))
        for _ in range(50):
            broken = bytearray(packed[: dice.randrange(len(packed) + 1)])
            for _ in range(min(3, len(broken))):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            try:
                assert len(decoder.decompress(broken, len(data))) <= len(data)
            except FormatError:
                pass


@pytest.mark.parametrize(("version", "way"), [(2, ZLIB), (3, NONE), (3, ZLIB), (4, NONE), (4, XZ)])
def test_the_last_block_may_end_where_the_disk_ends(tmp_path: Path, version: int, way: int) -> None:
    content = awkward_disk(2 * BLOCK + 5120)
    pieces = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    stored = [(way, pack(way, piece)) for piece in pieces]
    path = Image(stored, version=version, size=len(content)).write(tmp_path / "a")
    read = content_of(path)
    assert len(read) == (len(content) if version == 3 else 3 * BLOCK)
    assert read[: len(content)] == content and not any(read[len(content) :])
    stored = [stored[2], *stored[1:]]
    Image(stored, version=version, size=len(content)).write(path)
    with open_disk(path) as disk, pytest.raises(FormatError, match="virtual offset 0"):
        disk.read(0, BLOCK)


def test_an_unknown_kind_of_block_is_named(tmp_path: Path) -> None:
    path = Image([(9, b"x" * 100)], version=4).write(tmp_path / "a")
    with open_disk(path) as disk, pytest.raises(UnsupportedFeature, match="method 9"):
        disk.read(0, 100)


def test_how_it_is_recognised() -> None:
    driver = find("cloop").driver()
    block = (ZLIB, zlib.compress(bytes(BLOCK)))

    def probe(image: Image) -> int:
        return driver.probe(MemoryStorage(image.build()))

    assert probe(Image([block])) == probe(Image([block], version=3)) == 100
    assert probe(Image([block], version=4, at_end=True)) == 100
    # The kernel module looks at four letters; then all the rest has to be right as well.
    assert probe(Image([block], text=b"#!/bin/foo\nV2.0")) == 60
    assert probe(Image([block], text=b"#!/bin/foo\nV2.0", block=777)) == 0
    assert probe(Image([block], text=b"#!/bin/foo\nV9.0")) == 0


def test_a_cloop_is_not_written_in_place_and_has_no_snapshots(tmp_path: Path) -> None:
    path = Image([(ZLIB, zlib.compress(bytes(BLOCK)))]).write(tmp_path / "a")
    with pytest.raises(UnsupportedFeature, match="convert"):
        open_disk(path, writable=True)
    with pytest.raises(OptionError, match="snapshots"):
        open_disk(path, snapshot="1")


def test_a_disk_of_no_bytes(tmp_path: Path) -> None:
    path = Image([]).write(tmp_path / "a")
    with open_disk(path) as disk:
        assert disk.size == 0 and list(disk.map()) == []


@pytest.mark.peer("create_compressed_fs")
@pytest.mark.parametrize("level", ["0", "1", "9"])
def test_compressed_zeros_are_found_to_be_zeros(tmp_path: Path, level: str) -> None:
    content = bytearray(100 * BLOCK)
    for number in (3, 50, 51, 99):
        content[number * BLOCK] = number
    content[70 * BLOCK : 71 * BLOCK] = b"\xff" * BLOCK  # as short, and not zeros
    raw, image = tmp_path / "raw", tmp_path / "a.cloop"
    raw.write_bytes(content)
    peers.run("create_compressed_fs", "-q", "-L", level, raw, image)
    with open_disk(image) as disk:
        assert disk.read(0, disk.size) == content
        data = [(start // BLOCK, end // BLOCK) for start, end, k in disk.spans() if k == Kind.DATA]
        assert all(disk.read(n * BLOCK, 1) == content[n * BLOCK :][:1] for n in range(100))
    if level != "0":  # stored as they are, they are not short
        assert data == [(3, 4), (50, 52), (70, 71), (99, 100)]


def test_a_large_disk_of_zeros_is_mapped_at_once(tmp_path: Path) -> None:
    image = tmp_path / "a.cloop"
    create(image, 40 << 30, format="cloop")
    with open_disk(image) as disk:
        assert [kind for _, _, kind in disk.spans()] == [Kind.ZERO]
        assert len(list(disk.map())) == 1


def test_info_needs_no_numpy(tmp_path: Path) -> None:
    path = Image([(ZLIB, b"")], version=4).write(tmp_path / "a")
    program = f"""
import sys
from vmimg.formats.info import image_info
print(image_info({str(path)!r})[0].image.format, 'numpy' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"cloop", b"False"]
