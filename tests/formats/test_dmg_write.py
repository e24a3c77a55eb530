"""Making DMG images: every number of them by a reader that knows nothing of vmimg, and whoever else
reads them.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import plistlib
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import peers
from dmg_by_hand import BZIP2, END, LZFSE, LZMA, RAW, ZERO, ZLIB
from samples import awkward_disk, write_sparse
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import OptionError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
SIZE = 6 * MIB + 512 * 3
TYPES = {"UDZO": ZLIB, "UDBZ": BZIP2, "ULFO": LZFSE, "ULMO": LZMA, "UDRO": RAW}
SUBFORMATS = list(TYPES)


@dataclass
class Walk:
    """What is in an image: (type, start, bytes of the disk, bytes stored) of each chunk."""

    chunks: list[tuple[int, int, int, int]] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)


def walk(file: bytes) -> Walk:
    """Read an image as its description has it, and insist on every number and checksum."""
    trailer = file[-512:]
    magic, version, length, flags, running, fork, fork_length, rsrc, rsrc_length, number, count = (
        struct.unpack_from(">4sIIIQQQQQII", trailer)
    )
    assert (magic, version, length, flags, running) == (b"koly", 4, 512, 1, 0)
    assert (fork, rsrc, rsrc_length, number, count) == (0, 0, 0, 1, 1)
    assert any(trailer[64:80])
    assert struct.unpack_from(">III", trailer, 80) == (2, 32, zlib.crc32(file[:fork_length]))
    place, listed = struct.unpack_from(">QQ", trailer, 216)
    assert (place, place + listed) == (fork_length, len(file) - 512)
    kind, bits, master = struct.unpack_from(">III", trailer, 352)
    variant, sectors = struct.unpack_from(">IQ", trailer, 488)
    assert (kind, bits, variant) == (2, 32, 1) and not any(trailer[500:])

    resources = plistlib.loads(file[place : place + listed])["resource-fork"]
    assert set(resources) == {"blkx", "plst"}
    (resource,) = resources["blkx"]
    assert resource["Name"] == resource["CFName"] == "whole disk (unknown partition : 0)"
    table = resource["Data"]
    signature, version, first, total, data_offset, _, _ = struct.unpack_from(">4sIQQQII", table)
    assert (signature, version, first, total, data_offset) == (b"mish", 1, 0, sectors, 0)
    kind, bits, crc = struct.unpack_from(">III", table, 64)
    assert (kind, bits) == (2, 32)
    assert master == zlib.crc32(crc.to_bytes(4, "big"))
    (entries,) = struct.unpack_from(">I", table, 200)
    assert len(table) == 204 + 40 * entries

    found = Walk()
    sector = stored_to = 0
    for index in range(entries):
        kind, note, start, many, offset, size = struct.unpack_from(
            ">IIQQQQ", table, 204 + 40 * index
        )
        assert note == 0 and start == sector, "chunks follow each other without gaps"
        sector += many
        stored = file[offset : offset + size]
        if kind == END:
            assert index == entries - 1 and (many, size) == (0, 0) and start == sectors
            break
        assert (offset == stored_to or kind == ZERO) and offset + size <= fork_length
        stored_to += size
        found.chunks.append((kind, start * 512, many * 512, size))
        plain = decode(kind, stored, many * 512)
        assert len(plain) == many * 512
        found.content += plain
    assert zlib.crc32(found.content) == crc
    return found


def decode(kind: int, stored: bytes, size: int) -> bytes:
    """All of a stream, which must end where it is said to."""
    if kind == ZERO:
        assert not stored
        return bytes(size)
    if kind == RAW:
        return stored
    if kind == LZFSE:
        plain: bytes = importlib.import_module("lzfse").decompress(stored)
        return plain
    coders: dict[int, Any] = {
        ZLIB: zlib.decompressobj, BZIP2: bz2.BZ2Decompressor, LZMA: lzma.LZMADecompressor,
    }  # fmt: skip
    coder = coders[kind]()
    plain = coder.decompress(stored)
    assert coder.eof and not coder.unused_data
    return plain


@pytest.fixture(scope="module")
def content() -> bytes:
    disk = bytearray(awkward_disk(SIZE))
    disk[MIB : 2 * MIB] = random.Random(5).randbytes(MIB)  # does not shrink
    disk[3 * MIB : 5 * MIB] = bytes(2 * MIB)
    return bytes(disk)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", content)


@pytest.mark.parametrize("level", ["fast", "default", "best"])
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_every_chunk_and_every_checksum_is_true(
    tmp_path: Path, raw: Path, content: bytes, subformat: str, level: str
) -> None:
    image = tmp_path / "a.dmg"
    convert(raw, image, options={"subformat": subformat}, level=level)
    found = walk(image.read_bytes())
    assert found.content == content
    kinds = {start: kind for kind, start, _, _ in found.chunks}
    assert kinds[0] == TYPES[subformat]
    assert kinds[MIB] == RAW, "what does not shrink is stored as it is"
    assert (ZERO, 3 * MIB, 2 * MIB, 0) in found.chunks
    assert found.chunks[-1][1:3] == (6 * MIB, 512 * 3), "the last chunk ends with the disk"
    with open_disk(image) as disk:
        assert disk.read(0, SIZE) == content
    report = check(image)
    assert (report.exit_code, report.problems) == (0, [])
    assert report.total_clusters == len(found.chunks)


def read_7zip(image: Path, folder: Path) -> bytes:
    assert b"Everything is Ok" in peers.run("7z", "t", image).stdout
    return peers.run("7z", "e", "-so", image).stdout


def read_dmg2img(image: Path, folder: Path) -> bytes:
    peers.run("dmg2img", "-s", "-i", image, "-o", folder / "out.raw")
    return (folder / "out.raw").read_bytes()


def read_qemu(image: Path, folder: Path) -> bytes:
    peers.run("qemu-img", "convert", "-fdmg", "-Oraw", image, folder / "out.raw")
    return (folder / "out.raw").read_bytes()


def read_pymodi(image: Path, folder: Path) -> bytes:
    handle = importlib.import_module("pymodi").handle()
    handle.open(str(image))
    data: bytes = handle.read_buffer(handle.get_media_size())
    handle.close()
    return data


# Debian's QEMU comes without its modules for bzip2 and LZFSE, dmg2img knows neither LZFSE nor LZMA.
# libmodi's own bzip2 gives up on blocks of more than 64 KiB, its wheel is built without liblzma.
@pytest.mark.parametrize(
    ("peer", "reader", "known"),
    [
        ("7z", read_7zip, SUBFORMATS),
        ("dmg2img", read_dmg2img, ["UDZO", "UDBZ", "UDRO"]),
        ("qemu-img", read_qemu, ["UDZO", "UDRO"]),
        ("pymodi", read_pymodi, ["UDZO", "ULFO", "UDRO"]),
    ],
    ids=["7z", "dmg2img", "qemu-img", "pymodi"],
)
def test_others_read_what_we_make(
    tmp_path: Path, raw: Path, content: bytes, peer: str, reader: Any, known: list[str]
) -> None:
    peers.require(peer)
    for subformat in known:
        for chunk in ("64k", "1M"):
            image = tmp_path / f"{subformat}-{chunk}.dmg"
            convert(raw, image, options={"subformat": subformat, "cluster_size": chunk})
            assert reader(image, tmp_path) == content, image.name


def test_the_best_level_is_the_smallest(tmp_path: Path, raw: Path) -> None:
    sizes = []
    for level in ("fast", "best"):
        convert(raw, tmp_path / level, format="dmg", level=level)
        sizes.append((tmp_path / level).stat().st_size)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_threads_and_the_way_it_goes_do_not_show(tmp_path: Path, raw: Path, subformat: str) -> None:
    options: dict[str, Any] = {"subformat": subformat}
    one, two = tmp_path / "1.dmg", tmp_path / "2.dmg"
    convert(raw, one, options=options, threads=1)
    convert(raw, two, options=options, threads=5)
    assert one.read_bytes() == two.read_bytes()
    command = [sys.executable, "-m", "vmimg", "convert", "-O", "dmg"]
    streamed = subprocess.run(
        [*command, "-o", f"subformat={subformat}", str(raw), "-"], capture_output=True, check=True
    )
    assert streamed.stdout == one.read_bytes()
    needed = measure(raw, format="dmg", options=options)
    assert needed.required == one.stat().st_size <= needed.fully_allocated
    estimated = measure(raw, format="dmg", options=options, estimate=True)
    assert needed.required <= estimated.required


def test_a_full_disk_of_noise_takes_what_measure_says_at_most(tmp_path: Path) -> None:
    path = tmp_path / "noise.raw"
    path.write_bytes(random.Random(1).randbytes(MIB + 512))
    for subformat in SUBFORMATS:
        image = tmp_path / f"{subformat}.dmg"
        options: dict[str, Any] = {"subformat": subformat, "cluster_size": "64k"}
        convert(path, image, options=options)
        assert image.stat().st_size == measure(path, format="dmg", options=options).fully_allocated


def test_two_images_of_different_disks_have_different_ids(tmp_path: Path) -> None:
    ids = set()
    for number in (1, 2):
        (tmp_path / "a.raw").write_bytes(bytes([number]) * MIB)
        convert(tmp_path / "a.raw", tmp_path / f"{number}.dmg")
        ids.add(image_info(tmp_path / f"{number}.dmg")[0].image.details["segment-id"])
    assert len(ids) == 2


@pytest.mark.peer("dmg2img", "qemu-img", "7z")
@pytest.mark.parametrize("size", [512, 5 * MIB + 512])
def test_an_empty_disk_is_one_that_others_read(tmp_path: Path, size: int) -> None:
    image = tmp_path / "a.dmg"
    create(image, size, format="dmg")
    assert walk(image.read_bytes()).content == bytes(size)
    for reader in (read_7zip, read_dmg2img, read_qemu):
        assert reader(image, tmp_path) == bytes(size), reader.__name__


def test_the_largest_disk_takes_no_time(tmp_path: Path) -> None:
    image, size = tmp_path / "a.dmg", 1 << 60
    create(image, size, format="dmg")
    assert image.stat().st_size < 8192
    with open_disk(image, policy=ParentPolicy(max_size=size)) as disk:
        assert disk.size == size and not any(disk.read(size - 9999, 9999))
        assert len(list(disk.map())) == 1
    assert check(image).exit_code == 0
    with pytest.raises(OptionError, match="dmg holds 1 EiB"):
        create(tmp_path / "b.dmg", size + 512, format="dmg")


def test_a_disk_of_too_many_chunks_is_refused_with_a_way_out(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmimg.formats.dmg.structures.MAX_LIST", 5000)
    with pytest.raises(OptionError, match=r"cluster_size=16M"):
        convert(raw, tmp_path / "a.dmg", options={"cluster_size": "64k"})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["3k", "100000", "32M", "0"])
def test_a_chunk_has_a_sensible_size(tmp_path: Path, size: str) -> None:
    with pytest.raises(OptionError, match="power of two from 64k to 16M"):
        create(tmp_path / "a.dmg", MIB, format="dmg", options={"cluster_size": size})
    assert not any(tmp_path.iterdir())


def test_what_stores_its_chunks_as_they_are_is_not_asked_to_compress(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(4096))
    with pytest.raises(OptionError, match="cannot be compressed"):
        convert(
            tmp_path / "a.raw",
            tmp_path / "a.dmg",
            options={"subformat": "UDRO"},
            compress=True,
        )
    assert not (tmp_path / "a.dmg").exists()
