"""Reading VHDX: what QEMU made, and by hand what it does not make."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import peers
import vhdx_by_hand as by_hand
from samples import awkward_disk, write_sparse
from vhdx_by_hand import (
    BAT,
    FULL,
    HEADERS,
    MIB,
    NOT_PRESENT,
    REGION_TABLES,
    UNDEFINED,
    UNMAPPED,
    UNMAPPED_095,
    ZERO,
)
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, OptionError
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vhdx.crc32c import combine, crc32c, finished, sector_remainders
from vmimg.storage import MemoryStorage


def content_of(path: Path) -> bytes:
    with open_disk(path) as disk:
        return disk.read(0, disk.size)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "options",
    [
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=dynamic,block_size=1M,block_state_zero=off",
        "subformat=dynamic,block_size=256M,log_size=3M",
        "subformat=fixed,block_size=2M",
    ],
)
def test_we_read_what_qemu_makes(tmp_path: Path, options: str) -> None:
    content = awkward_disk(11 * MIB + 512)
    raw = write_sparse(tmp_path / "raw", content)
    image = tmp_path / "image.vhdx"
    peers.run("qemu-img", "convert", "-O", "vhdx", "-o", options, raw, image)
    assert content_of(image) == content


@pytest.mark.peer("qemu-img")
def test_info_agrees_with_qemu(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    peers.run("qemu-img", "create", "-q", "-f", "vhdx", image, "20G")
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    ours = image_info(image)[0].to_json()
    assert {key: ours[key] for key in theirs} == theirs
    details = ours["format-specific"]["data"]
    assert details["subformat"] == "dynamic"
    assert details["block-size"] == 16 * MIB
    assert details["creator"].startswith("QEMU")


def test_info_needs_no_numpy_even_for_a_dirty_log(tmp_path: Path) -> None:
    image = by_hand.make(4 * MIB, {})
    sector = bytes(image[BAT : BAT + 4096])
    image.dirty(by_hand.log_entry(1, [(BAT, sector)]))
    path = image.save(tmp_path / "image.vhdx")
    script = (
        "import sys; from vmimg.formats.info import image_info;"
        f"print(image_info({str(path)!r})[0].image.dirty, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_it_is_known_by_its_first_bytes_whatever_it_is_called(tmp_path: Path) -> None:
    path = by_hand.make(MIB, {}).save(tmp_path / "no-extension")
    assert image_info(path)[0].image.format == "vhdx"
    other = by_hand.make(MIB, {0: (FULL, b"data" * 128)}).save(tmp_path / "a.avhdx")
    assert content_of(other)[:512] == b"data" * 128


def test_crc32c_is_the_one_of_castagnoli() -> None:
    # RFC 3720, B.4, and the check value of the catalogue of CRCs.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100, 4096, 5000])
@pytest.mark.parametrize("zeros", [0, 1, 7, 8, 61440])
def test_zeros_at_the_end_are_counted_though_not_walked_over(length: int, zeros: int) -> None:
    data = random.Random(length).randbytes(length) + bytes(zeros)
    assert crc32c(data) == by_hand.crc32c(data)


def test_sectors_at_once_make_the_same_crc() -> None:
    data = random.Random(1).randbytes(16 * 4096)
    total = 0
    for value in sector_remainders(data, 4096):
        total = combine(total, value, 4096)
    assert finished(total, len(data)) == by_hand.crc32c(data)


def test_without_a_parent_all_states_but_present_read_as_zeros(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(MIB)
    states = (NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_095)
    blocks = {number: (state, b"") for number, state in enumerate(states)}
    image = by_hand.make(7 * MIB, {**blocks, 5: (FULL, data), 6: (UNMAPPED, data)})
    path = image.save(tmp_path / "image.vhdx")
    # An unmapped block may keep its place, but what is there is no longer said.
    assert content_of(path) == bytes(5 * MIB) + data + bytes(MIB)


def test_entries_of_sector_bitmaps_are_stepped_over(tmp_path: Path) -> None:
    # With blocks of 256 MiB an entry in 17 is one. What they say does not matter here: QEMU 7.2
    # leaves rubbish in them.
    size = 40 << 28
    image = by_hand.make(size, {}, block=1 << 28)
    assert image.ratio == 16
    path = tmp_path / "image.vhdx"
    for block in (0, 15, 16, 31, 32, 39):
        image.put(image.entry(block), 4 * MIB + (block << 28) | FULL)
    for chunk in (0, 1):
        image.put(image.bitmap_entry(chunk), 0xDEAD_BEEF_0000_0006)
    image.save(path)
    with open(path, "r+b") as file:
        file.truncate(4 * MIB + size)
        for block in range(40):
            file.seek(4 * MIB + (block << 28) + 1000)
            file.write(b"block %2d" % block)
    with open_disk(path) as disk:
        present = {e.start >> 28 for e in disk.map() if e.kind == Kind.DATA}
        for block in range(40):
            wanted = b"block %2d" % block if block in (0, 15, 16, 31, 32, 39) else bytes(8)
            assert disk.read((block << 28) + 1000, 8) == wanted
    assert present == {0, 15, 31, 39}  # neighbours in the file are one extent


@pytest.mark.peer("pyvhdi", "dissect.hypervisor")
def test_logical_sectors_of_4096(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(MIB)
    image = by_hand.make(3 * MIB, {1: (FULL, data)}, logical=4096, physical=4096)
    path = image.save(tmp_path / "image.vhdx")
    assert content_of(path) == by_dissect(path) == by_pyvhdi(path)
    details = image_info(path)[0].image.details
    assert (details["logical-sector-size"], details["physical-sector-size"]) == (4096, 4096)
    assert content_of(path)[MIB : 2 * MIB] == data


def test_of_two_headers_the_newer_valid_one_counts() -> None:
    good = by_hand.make(MIB, {})

    def sequence(image: by_hand.Image) -> int:
        from vmimg.formats.vhdx.header import read_headers

        return read_headers(MemoryStorage(image)).header.sequence_number

    assert sequence(good) == 2
    image = by_hand.Image(good)
    image.header(0, 9)
    image.seal(tables=False)
    assert sequence(image) == 9
    image[HEADERS[0] + 100] ^= 1  # its checksum no longer fits
    assert sequence(image) == 2
    image[HEADERS[1]] ^= 1
    with pytest.raises(FormatError, match="neither header"):
        sequence(image)


def test_two_different_headers_of_one_number_are_refused_two_equal_ones_are_not() -> None:
    from vmimg.formats.vhdx.header import read_headers

    image = by_hand.make(MIB, {})
    image.header(0, 5)
    image.header(1, 5)
    image.seal(tables=False)
    read_headers(MemoryStorage(image))  # as Disk2VHD writes them
    image.put(HEADERS[1] + 32, 1)
    image.seal(tables=False)
    with pytest.raises(FormatError, match="same sequence number"):
        read_headers(MemoryStorage(image))


@pytest.mark.parametrize("number", [0, 1])
def test_one_region_table_is_enough(tmp_path: Path, number: int) -> None:
    image = by_hand.make(MIB, {0: (FULL, b"here")})
    image[REGION_TABLES[number] + 50] ^= 255
    path = image.save(tmp_path / "image.vhdx")
    assert content_of(path)[:4] == b"here"
    assert f"region table {number + 1} is not valid" in " ".join(image_info(path)[0].image.notes)


@pytest.mark.parametrize("block_size", ["1M", "256M"])
def test_64_tib_without_data_open_and_map_at_once(tmp_path: Path, block_size: str) -> None:
    from vmimg.transfer.create import create

    path = tmp_path / "image.vhdx"
    options = {"block_size": block_size, "block_state_zero": False}
    create(path, 64 << 40, format="vhdx", options=options)
    with open_disk(path) as disk:
        assert [(e.length, e.kind) for e in disk.map()] == [(64 << 40, Kind.ABSENT)]
        assert disk.read((64 << 40) - 5000, 5000) == bytes(5000)
    assert path.stat().st_blocks * 512 < MIB


def test_holes_inside_blocks_need_not_be_read(tmp_path: Path) -> None:
    image = by_hand.make(8 * MIB, {0: (FULL, b"x")}, block=8 * MIB)
    path = tmp_path / "image.vhdx"
    write_sparse(path, bytes(image))
    with open_disk(path) as disk:
        assert [extent.kind for extent in disk.map()] == [Kind.DATA]
        spans = list(disk.spans())
    if len(spans) > 1:  # the file system has holes
        assert sum(end - start for start, end, kind in spans if kind == Kind.DATA) <= 65536
    assert spans[0][0] == 0
    assert spans[-1][1] == 8 * MIB


def test_there_are_no_internal_snapshots(tmp_path: Path) -> None:
    path = by_hand.make(MIB, {}).save(tmp_path / "image.vhdx")
    with pytest.raises(OptionError, match="snapshot"):
        open_disk(path, snapshot="1")


def by_dissect(path: Path) -> bytes:
    peers.require("dissect.hypervisor")
    from dissect.hypervisor.disk.vhdx import VHDX

    with open(path, "rb") as file:
        disk = VHDX(file) if "parent" not in path.name else VHDX(path)
        return bytes(disk.read(disk.size))


def by_pyvhdi(path: Path, parent: Path | None = None) -> bytes:
    peers.require("pyvhdi")
    import pyvhdi

    file = pyvhdi.file()
    file.open(str(path))
    if parent is not None:
        below = pyvhdi.file()
        below.open(str(parent))
        file.set_parent(below)
    return bytes(file.read_buffer_at_offset(file.get_media_size(), 0))
