"""streamOptimized: the form that vSphere and clouds import, marker by marker, by a walker that
knows nothing of vmimg; and everybody who reads such files reads these.
"""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmimg.formats.opening import open_disk
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

SECTOR = 512
GRAIN = 65536
MIB = 1 << 20
SIZE = 70 * MIB + 512 * 5
STREAM: dict[str, Any] = {"subformat": "streamOptimized"}

HEADER = "<4sIIQQQQIQQQB4sH"
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)


@dataclass
class Walk:
    """What a walk from marker to marker found."""

    text: bytes = b""
    grains: dict[int, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """g, T, D, F, E for each grain, table, directory, footer and end."""

    def disk(self, size: int) -> bytes:
        content = bytearray(size)
        for number, data in self.grains.items():
            content[number * GRAIN : (number + 1) * GRAIN] = data[: size - number * GRAIN]
        return bytes(content)


def walk(file: bytes, size: int) -> Walk:
    """Go through a stream as an importer does, which cannot seek; insist on every rule.

    VMware "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".
    """
    found = Walk()
    assert len(file) % SECTOR == 0
    head = struct.unpack_from(HEADER, file)
    magic, version, flags, capacity, grain, text, text_size, gtes, rgd, gd, overhead, *rest = head
    assert (magic, version, flags) == (b"KDMV", 3, 0x30001)
    assert (capacity, grain, gtes) == (size // SECTOR, 128, 512)
    assert (text, text_size, rgd, gd, overhead) == (1, 20, 0, (1 << 64) - 1, 128)
    assert rest == [0, b"\n \r\n", 1]
    assert not any(file[struct.calcsize(HEADER) : SECTOR])
    found.text = file[SECTOR : 21 * SECTOR].rstrip(b"\0")
    assert not any(file[21 * SECTOR : overhead * SECTOR])

    tables = -(-capacity // (grain * gtes))
    directory = [0] * tables
    table, owner = [0] * gtes, -1
    position, last = overhead, -1
    while True:
        value, length, kind = struct.unpack_from("<QII", file, position * SECTOR)
        if length:  # a grain
            number = value // grain
            assert value % grain == 0 and last < number < -(-capacity // grain)
            assert owner in (-1, number // gtes), "each table stands behind its own grains"
            data = file[position * SECTOR + 12 :][:length]
            inflate = zlib.decompressobj()
            found.grains[number] = inflate.decompress(data, GRAIN)
            assert len(found.grains[number]) == GRAIN and any(found.grains[number])
            inflate.decompress(inflate.unconsumed_tail, 1)
            assert inflate.eof and not inflate.unused_data
            sectors = -(-(12 + length) // SECTOR)
            padding = file[position * SECTOR + 12 + length : (position + sectors) * SECTOR]
            assert not any(padding)
            table[number % gtes], owner, last = position, number // gtes, number
            position += sectors
            found.order.append("g")
            continue
        assert not any(file[position * SECTOR + 16 : (position + 1) * SECTOR])
        body = file[(position + 1) * SECTOR : (position + 1 + value) * SECTOR]
        assert len(body) == value * SECTOR
        found.order.append("ETDF"[kind])
        if kind == GRAIN_TABLE:
            assert value == 4 and list(struct.unpack("<512I", body)) == table
            assert directory[owner] == 0
            directory[owner] = position + 1
            table, owner = [0] * gtes, -1
        elif kind == GRAIN_DIRECTORY:
            assert value == max(1, -(-tables * 4 // SECTOR)) and owner == -1
            entries = list(struct.unpack(f"<{value * 128}I", body))
            assert entries == directory + [0] * (value * 128 - tables)
            gd = position + 1
        elif kind == FOOTER:
            assert value == 1
            assert body == file[:56] + gd.to_bytes(8, "little") + file[64:SECTOR]
        else:
            assert (value, position) == (0, len(file) // SECTOR - 1), "the end is the end"
            return found
        position += 1 + value


@pytest.fixture(scope="module")
def content() -> bytes:
    disk = bytearray(awkward_disk(SIZE, borders=4 * MIB))
    disk[33 * MIB : 33 * MIB + 3 * GRAIN] = random.Random(7).randbytes(3 * GRAIN)
    return bytes(disk)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", content)


@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_every_marker_is_there_and_true(
    tmp_path: Path, raw: Path, content: bytes, level: str
) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM, compress=True, level=level)
    found = walk(image.read_bytes(), SIZE)
    assert found.disk(SIZE) == content
    assert re.fullmatch("(g+T){3}DFE", "".join(found.order))
    full = {n for n in range(-(-SIZE // GRAIN)) if any(content[n * GRAIN : (n + 1) * GRAIN])}
    assert set(found.grains) == full, "no grain for zeros"


def test_the_descriptor_in_front_is_for_esx(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM)
    text = walk(image.read_bytes(), SIZE).text.decode()
    for line in (
        'createType="streamOptimized"',
        'ddb.adapterType = "lsilogic"',
        'ddb.toolsInstallType = "4"',
        'ddb.toolsVersion = "2147483647"',
    ):
        assert text.count(f"\n{line}\n") == 1
    assert "\r" not in text and text.endswith("\n")


def test_tables_without_grains_are_left_out(tmp_path: Path) -> None:
    source, image = tmp_path / "source.raw", tmp_path / "disk.vmdk"
    size = 5 << 30
    with open(source, "wb") as file:
        file.truncate(size)
        for place in (40 * MIB, 64 * MIB - 512, 4 << 30):
            file.seek(place)
            file.write(b"here")
    convert(source, image, options=STREAM)
    found = walk(image.read_bytes(), size)
    assert "".join(found.order) == "ggTgTDFE"
    assert sorted(found.grains) == [640, 1023, 65536]
    assert image.stat().st_size < 100_000


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("size", [512, GRAIN, 32 * MIB, (8 << 40) + 512])
def test_an_empty_disk_is_a_header_and_an_end(tmp_path: Path, size: int) -> None:
    image = tmp_path / "disk.vmdk"
    create(image, size, format="vmdk", options=STREAM)
    assert walk(image.read_bytes(), size).order == ["D", "F", "E"]
    info = peers.run_json("qemu-img", "info", "--output=json", image)
    assert info["virtual-size"] == size


def test_the_last_grain_is_whole_where_the_disk_ends_inside_it(tmp_path: Path) -> None:
    source, image = tmp_path / "source.raw", tmp_path / "disk.vmdk"
    source.write_bytes(b"\xff" * (GRAIN + 512))
    convert(source, image, options=STREAM)
    found = walk(image.read_bytes(), GRAIN + 512)
    assert found.grains[1] == b"\xff" * 512 + bytes(GRAIN - 512)


def test_the_stream_equals_the_file(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "disk"  # the name that a stream is given
    convert(raw, image, format="vmdk", options=STREAM)
    code = "import sys; from vmimg.transfer.convert import convert; "
    code += f"convert(sys.argv[1], '-', format='vmdk', options={STREAM!r})"
    streamed = subprocess.run(
        [sys.executable, "-c", code, str(raw)], stdout=subprocess.PIPE, check=True
    ).stdout
    assert streamed == image.read_bytes()
    assert measure(raw, format="vmdk", options=STREAM).required == len(streamed)


def test_a_harder_level_makes_a_smaller_stream(tmp_path: Path) -> None:
    dice = random.Random(5)
    words = [dice.randbytes(dice.randrange(2, 9)) for _ in range(2000)]
    raw = tmp_path / "words.raw"
    raw.write_bytes(b" ".join(dice.choices(words, k=400_000))[: 2 * MIB])
    sizes = []
    for level in ("fast", "default", "best"):
        image = tmp_path / level
        sizes.append(convert(raw, image, format="vmdk", options=STREAM, level=level).file_size)
        assert compare(raw, image).identical
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_same_bytes_whatever_the_source_and_the_number_of_threads(
    tmp_path: Path, raw: Path, content: bytes
) -> None:
    first = tmp_path / "first" / "disk.vmdk"
    first.parent.mkdir()
    convert(raw, first, options=STREAM, threads=1)
    full, packed = tmp_path / "full.raw", tmp_path / "packed.qcow2"
    full.write_bytes(content)
    convert(raw, packed, options={"cluster_size": 1 << 21}, compress=True)
    for source in (raw, full, packed, first):
        for threads in (1, 3):
            again = tmp_path / "disk.vmdk"
            convert(source, again, options=STREAM, threads=threads, replace=True)
            assert again.read_bytes() == first.read_bytes()


@pytest.mark.peer("qemu-img")
def test_qemu_reads_it(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM)
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", raw, image)
    peers.run("qemu-img", "check", image)
    info = peers.run_json("qemu-img", "info", "--output=json", image)
    assert info["format-specific"]["data"]["extents"][0]["compressed"]


@pytest.mark.peer("7z")
def test_7zip_reads_it(tmp_path: Path, raw: Path, content: bytes) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM)
    assert peers.run("7z", "e", "-so", image).stdout == content


@pytest.mark.peer("pyvmdk")
def test_libyal_reads_it(tmp_path: Path, raw: Path, content: bytes) -> None:
    import pyvmdk

    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM)
    handle = pyvmdk.handle()
    handle.open(str(image))
    handle.open_extent_data_files()
    assert handle.read_buffer(SIZE) == content
    handle.close()


@pytest.mark.peer("oslo_utils")
def test_openstack_holds_it_for_safe(tmp_path: Path, raw: Path) -> None:
    from oslo_utils.imageutils import format_inspector

    image = tmp_path / "disk.vmdk"
    convert(raw, image, options=STREAM)
    with open(image, "rb") as file:
        wrapper = format_inspector.InspectWrapper(file, "vmdk")
        while wrapper.read(MIB):
            pass
        wrapper.close()
    wrapper.format.safety_check()
    assert wrapper.format.virtual_size == SIZE


@pytest.mark.peer("qemu-img")
def test_a_streamed_child_stores_what_differs(tmp_path: Path, raw: Path, content: bytes) -> None:
    below, above, changed = (tmp_path / name for name in ("below.vmdk", "above.vmdk", "c.raw"))
    convert(raw, below, options=STREAM)
    disk = bytearray(content)
    disk[33 * MIB : 33 * MIB + GRAIN] = bytes(GRAIN)
    disk[SIZE - 10 :] = b"0123456789"
    write_sparse(changed, bytes(disk))
    convert(changed, above, options=STREAM, backing="below.vmdk")
    text = above.read_bytes()[SECTOR : 21 * SECTOR]
    assert b'parentFileNameHint="below.vmdk"' in text
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", changed, above)
    with open_disk(above) as top:
        assert top.read(0, SIZE) == disk
