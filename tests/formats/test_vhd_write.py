"""Making VHD and writing to it in place: what QEMU, 7-Zip, libvhdi and dissect make of it."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
import vhd_by_hand as hand
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError, StorageError
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk
from vmimg.formats.vhd.allocation import WritableVhdLayer
from vmimg.formats.vhd.header import read_image
from vmimg.storage import MemoryStorage
from vmimg.storage.base import Buffer
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB, GIB = 1 << 20, 1 << 30


def libvhdi() -> Any:
    """The module of libvhdi, which ships no types."""
    peers.require("pyvhdi")
    return import_module("pyvhdi")


def qemu_size(path: Path) -> int:
    said = peers.run_json("qemu-img", "info", "-f", "vpc", "--output", "json", path)
    return int(said["virtual-size"])


def sound(path: Path) -> None:
    report = check(path)
    assert (report.problems, report.exit_code) == ([], 0)


# What others read

KINDS = ("subformat=dynamic", "subformat=fixed", "block_size=512k", "block_size=4M")


@pytest.fixture(scope="module", params=KINDS)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image beside the raw disk that it was made of, which is called raw."""
    folder = tmp_path_factory.mktemp("converted")
    raw = write_sparse(folder / "raw", awkward_disk(13 * MIB + 1536, borders=2 * MIB))
    name, _, value = request.param.partition("=")
    convert(raw, folder / "image.vhd", format="vhd", options={name: value})
    return folder / "image.vhd"


@pytest.mark.peer("qemu-img")
def test_qemu_reads_what_we_write(converted: Path) -> None:
    raw = converted.with_name("raw")
    peers.run("qemu-img", "compare", "-f", "vpc", "-F", "raw", converted, raw)
    sound(converted)


@pytest.mark.peer("7z")
def test_7zip_reads_what_we_write(converted: Path) -> None:
    done = peers.run("7z", "x", "-so", "-tvhd", converted)
    assert done.stdout == converted.with_name("raw").read_bytes()


def test_libvhdi_reads_what_we_write(converted: Path) -> None:
    pyvhdi = libvhdi()
    content = converted.with_name("raw").read_bytes()
    file = pyvhdi.file()
    file.open(str(converted))
    assert file.media_size == len(content)
    assert file.read_buffer_at_offset(len(content), 0) == content
    file.close()


def test_dissect_reads_what_we_write(converted: Path) -> None:
    peers.require("dissect.hypervisor")
    vhd: Any = import_module("dissect.hypervisor.disk.vhd")
    content = converted.with_name("raw").read_bytes()
    with open(converted, "rb") as file:
        disk = vhd.VHD(file)
        assert disk.size == len(content)
        assert disk.read(len(content)) == content


def test_blocks_begin_with_pages_and_zeros_take_none(converted: Path) -> None:
    raw = converted.with_name("raw")
    with open_disk(converted) as disk:
        extents = list(disk.map())
    assert all(e.offset % 4096 == e.start % 4096 for e in extents if e.offset is not None)
    assert converted.stat().st_blocks <= raw.stat().st_blocks + 8 * (len(extents) + 4)


def test_the_same_disk_makes_the_same_file_in_any_way(converted: Path, tmp_path: Path) -> None:
    raw, image = converted.with_name("raw"), read_image(MemoryStorage(converted.read_bytes()))
    options = {"subformat": "dynamic", "block_size": "2M"}
    if image.dynamic is None:
        options["subformat"] = "fixed"
    else:
        options["block_size"] = str(image.dynamic.block_size)
    other = tmp_path / "another name.vhd"
    convert(raw, other, format="vhd", options=options, threads=1)
    assert other.read_bytes() == converted.read_bytes()
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = [sys.executable, "-m", "vmimg", "convert", "-O", "vhd", *given, str(raw), "-"]
    streamed = subprocess.run(command, check=True, capture_output=True).stdout
    assert streamed == converted.read_bytes()
    measured = measure(raw, format="vhd", options=options)
    assert measured.required == len(streamed) <= measured.fully_allocated


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize(
    "size", [0, 512, 1536, 2 * MIB - 512, 2 * MIB, 2 * MIB + 512, 127 * GIB + 512, 2040 * GIB]
)
def test_any_size_is_the_same_for_every_reader(tmp_path: Path, size: int, subformat: str) -> None:
    image = tmp_path / "image.vhd"
    create(image, size, format="vpc", options={"subformat": subformat})
    if size or subformat == "dynamic":  # QEMU takes a footer at offset 0 for a copy
        assert qemu_size(image) == size
    with open_disk(image) as disk:
        assert disk.size == size
        assert sum(length for length in (e.length for e in disk.map())) == size
    if size <= 128 * GIB and size:
        pyvhdi = libvhdi()
        file = pyvhdi.file()
        file.open(str(image))
        assert file.media_size == size
        file.close()
    sound(image)


def test_what_does_not_fit_names_what_holds_it(tmp_path: Path) -> None:
    for subformat in ("dynamic", "fixed"):
        with pytest.raises(OptionError, match=r"vhd holds .* at most.*vhdx"):
            options = {"subformat": subformat}
            create(tmp_path / "image.vhd", 2040 * GIB + 512, format="vhd", options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["256k", "3M", "1000000", "512M"])
def test_a_block_size_that_windows_would_choke_on_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(OptionError, match="power of two"):
        create(tmp_path / "image.vhd", MIB, format="vhd", options={"block_size": value})


def test_the_largest_disk_in_the_smallest_blocks_can_be_named() -> None:
    from vmimg.formats.registry import find

    format = find("vhd")
    writer = format.driver().writer(2040 * GIB, format.parse_options({"block_size": "512k"}))
    # A BAT entry is a 32-bit number of sectors.
    assert writer.full_size() <= 0xFFFFFFFF * 512


# Writing in place

OPERATIONS = operation_lists([1, 100, 512, 4096, 5000, 65536, 200_000, 3 * MIB], [1, 4096], most=25)


def by_vmimg(path: Path, content: bytes) -> None:
    convert(write_sparse(path.with_suffix(".src"), content), path, format="vhd")


def by_vmimg_fixed(path: Path, content: bytes) -> None:
    options = {"subformat": "fixed"}
    convert(write_sparse(path.with_suffix(".src"), content), path, format="vhd", options=options)


def by_qemu(path: Path, content: bytes) -> None:
    raw = write_sparse(path.with_suffix(".src"), content)
    options = "subformat=dynamic,force_size=on"
    peers.run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, path)


def by_hand(path: Path, content: bytes) -> None:
    # Sector bitmaps with holes, blocks out of order, the footer one byte short.
    count = -(-len(content) // 16384)
    order = [*range(0, count, 3), *range(1, count, 3)]
    present = {n for n in range(len(content) // 512) if n // 32 % 3 < 2 and n % 7}
    whole = bytearray(content)
    for number in range(len(content) // 512):
        if number not in present:
            whole[number * 512 : number * 512 + 512] = bytes(512)
    content = bytes(whole)
    path.write_bytes(hand.dynamic(content, block=16384, order=order, present=present, old=True))


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("origin", [by_vmimg, by_vmimg_fixed, by_qemu, by_hand])
@given(
    operations=OPERATIONS,
    size=st.sampled_from([5 * MIB, 4 * MIB + 1536, 1000960]),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=rounds(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_qemu_reads(
    origin: Callable[[Path, bytes], None],
    operations: list[Operation],
    size: int,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        image, raw = Path(name, "image.vhd"), Path(name, "raw")
        content = bytearray(awkward_disk(size, seed)[: size // 3]).ljust(size, b"\0")
        origin(image, bytes(content))
        twins = Twins(image)
        assert twins.disk.size == size
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        model = twins.content
        assert twins.disk.read(0, size) == model
        twins.disk.close()
        with open_disk(image) as disk:
            assert disk.read(0, size) == model
        write_sparse(raw, bytes(model))
        peers.run("qemu-img", "compare", "-f", "vpc", "-F", "raw", image, raw)
        sound(image)


@pytest.mark.peer("qemu-img", "qemu-io")
def test_qemu_and_vmimg_take_turns_in_writing(tmp_path: Path) -> None:
    size = 20 * MIB
    image, raw = tmp_path / "image.vhd", tmp_path / "raw"
    create(image, size, format="vhd")
    model, source = bytearray(size), random.Random(7)
    for turn in range(12):
        start, length = source.randrange(size // 512) * 512, source.choice([512, 8192, 300 * 512])
        length = min(length, size - start)
        if turn % 2:
            peers.run("qemu-io", "-f", "vpc", "-c", f"write -P {turn} {start} {length}", image)
        else:
            with open_disk(image, writable=True) as disk:
                disk.write(start, bytes([turn]) * length)
        model[start : start + length] = bytes([turn]) * length
    with open_disk(image) as disk:
        assert disk.read(0, size) == model
    raw.write_bytes(model)
    peers.run("qemu-img", "compare", "-f", "vpc", "-F", "raw", image, raw)
    sound(image)


def test_who_honours_sector_bitmaps_finds_what_was_written(tmp_path: Path) -> None:
    pyvhdi = libvhdi()
    size, image = 64 * 4096, tmp_path / "image.vhd"
    image.write_bytes(hand.dynamic(b"x" * 512 + bytes(size - 512), present={0, 100, 101}))
    model = bytearray(b"x" * 512 + bytes(size - 512))
    with open_disk(image, writable=True) as disk:
        for start, length in ((700, 1000), (100 * 512 + 512 * 2, 512), (200 * 512, 5000)):
            disk.write(start, b"n" * length)
            model[start : start + length] = b"n" * length
    # Each sector that was written is marked, and none besides it in the blocks that were there.
    found = read_image(storage := MemoryStorage(image.read_bytes()))
    layer = WritableVhdLayer(storage, found)
    places = layer.lookup(0, 1).offsets
    assert storage.read(int(places[0]) - 512, 1) == bytes([0b11110000])
    file = pyvhdi.file()
    file.open_file_object(io.BytesIO(image.read_bytes()))
    assert file.read_buffer_at_offset(size, 0) == model
    file.close()


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    create(image, 10 * MIB, format="vhd")
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, MIB)
        disk.flush()
        disk.zero(0, 10 * MIB)  # reads as zeros already
    assert image.read_bytes() == before


def test_a_page_of_a_new_block_costs_a_page(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    create(image, 100 * MIB, format="vhd")
    with open_disk(image, writable=True) as disk:
        for start in range(0, 100 * MIB, 2 * MIB):
            disk.write(start + 8192, b"x" * 4096)
    assert image.stat().st_blocks * 512 < 50 * (4096 + 8192) + 65536
    sound(image)


def test_discarded_data_gives_its_space_back(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    create(image, 10 * MIB, format="vhd")
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x" * 10 * MIB)
        disk.flush()
        full = image.stat().st_blocks
        disk.discard(0, 9 * MIB)
        assert disk.read(0, 10 * MIB) == bytes(9 * MIB) + b"x" * MIB
    assert image.stat().st_blocks < full // 5
    sound(image)


def test_zeroing_the_largest_empty_disk_takes_neither_time_nor_space(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    create(image, 2040 * GIB, format="vhd")
    before = image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.zero(0, disk.size)
        disk.write(disk.size - 1, b"x")
        assert [e.kind for e in disk.map()] == [Kind.ABSENT, Kind.DATA]
        disk.discard(0, disk.size)
        assert disk.read(disk.size - 1, 1) == b"\0"
    assert image.stat().st_blocks < before + 100


def test_an_image_with_a_lost_footer_gets_one_by_being_written(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    image.write_bytes(hand.dynamic(b"x" * 8192)[:-512])
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"new")
    sound(image)


def test_two_blocks_in_one_place_are_not_written(tmp_path: Path) -> None:
    whole = bytearray(hand.dynamic(b"x" * 8192))
    whole[1540:1544] = whole[1536:1540]
    image = tmp_path / "image.vhd"
    image.write_bytes(whole)
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk, pytest.raises(FormatError, match="overlap"):
        disk.write(0, b"x")
    assert image.read_bytes() == before


class Full(MemoryStorage):
    """Has no room for writes of more than a sector, when told so."""

    full = False

    def write(self, offset: int, data: Buffer) -> None:
        if self.full and len(data) > 512:
            raise StorageError("no room")
        super().write(offset, data)


def test_a_write_that_fails_takes_its_new_block_back() -> None:
    storage = Full(hand.dynamic(bytes(64 * 4096), present={0}))
    before = storage.getvalue()
    disk = Disk([WritableVhdLayer(storage, read_image(storage))])
    storage.full = True
    with pytest.raises(StorageError):
        disk.write(5 * 4096, b"x" * 9000)
    assert storage.getvalue() == before
    storage.full = False
    disk.write(5 * 4096, b"y" * 100)
    assert disk.read(5 * 4096, 4096) == b"y" * 100 + bytes(3996)
    disk.close()
