"""Making VHDX images and writing into them: what QEMU, 7-Zip, libvhdi and dissect make of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_vhdx_read import by_dissect, by_pyvhdi, content_of

import peers
import vhdx_by_hand as by_hand
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk, write_sparse
from vhdx_by_hand import BAT, FULL, MIB
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import find
from vmimg.formats.vhdx.header import read_headers
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

OPTIONS: tuple[dict[str, str | int | bool], ...] = (
    {},
    {"block_size": "1M"},
    {"block_size": "2M", "block_state_zero": "off"},
    {"block_size": "256M", "log_size": "3M"},
    {"subformat": "fixed"},
    {"subformat": "fixed", "block_size": "1M", "physical_sector_size": "512"},
)
SIZES = (512, MIB, 5 * MIB + 1536, 9 * MIB)


def sound(path: Path) -> None:
    """Nothing wrong, by our check and by qemu-img's."""
    report = check(path)
    assert report.exit_code == 0, report.problems
    peers.run("qemu-img", "check", "-f", "vhdx", path)


def same(path: Path, content: bytes) -> None:
    """QEMU reads ``content``."""
    raw = path.with_suffix(".model")
    raw.write_bytes(content)
    peers.run("qemu-img", "compare", "-f", "vhdx", "-F", "raw", path, raw)


def data_guid(path: Path) -> str:
    guid = image_info(path)[0].image.details["data-write-guid"]
    assert isinstance(guid, str)
    return guid


# Making images


@pytest.mark.peer("qemu-img", "7z", "pyvhdi", "dissect.hypervisor")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_other_programs_read_what_we_make(
    tmp_path: Path, options: dict[str, str | int | bool], size: int
) -> None:
    content = awkward_disk(size)
    raw = write_sparse(tmp_path / "raw", content)
    path = tmp_path / "image.vhdx"
    convert(raw, path, format="vhdx", options=options)
    sound(path)
    same(path, content)
    assert content_of(path) == by_dissect(path) == by_pyvhdi(path) == content
    if size % 4096 == 0:  # 7-Zip opens no others, QEMU's neither
        assert peers.run("7z", "e", "-so", path).stdout == content


@pytest.mark.peer("pyvhdi", "dissect.hypervisor")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_sectors_of_4096_are_made_and_written(tmp_path: Path, subformat: str) -> None:
    content = bytearray(awkward_disk(5 * MIB))
    raw = write_sparse(tmp_path / "raw", content)
    path = tmp_path / "image.vhdx"
    options = {"logical_sector_size": "4096", "subformat": subformat, "block_size": "1M"}
    convert(raw, path, format="vhdx", options=options)
    with open_disk(path, writable=True) as disk:
        disk.write(4 * MIB + 100, b"in place")
        content[4 * MIB + 100 : 4 * MIB + 108] = b"in place"
    assert content_of(path) == by_dissect(path) == by_pyvhdi(path) == content
    assert check(path).exit_code == 0


def test_the_same_input_makes_the_same_file_and_stream(tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(9 * MIB))
    for options in OPTIONS[:5]:
        made = []
        for threads in (1, 2, 2):
            path = tmp_path / "image.vhdx"
            convert(raw, path, format="vhdx", options=options, threads=threads, replace=True)
            made.append(path.read_bytes())
        assert made[0] == made[1] == made[2]
        assert streamed(raw, options) == made[0]
        assert measure(raw, format="vhdx", options=options).required == len(made[0])


def streamed(raw: Path, options: dict[str, str | int | bool]) -> bytes:
    command = [sys.executable, "-m", "vmimg", "convert", "-q", "-O", "vhdx", str(raw), "-"]
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return subprocess.run([*command[:4], *words, *command[4:]], capture_output=True).stdout


def test_other_content_gets_another_identity(tmp_path: Path) -> None:
    seen = set()
    for number in range(3):
        content = bytearray(9 * MIB)
        content[number * MIB] = 1
        raw = write_sparse(tmp_path / "raw", content)
        path = tmp_path / f"{number}.vhdx"
        convert(raw, path, format="vhdx", options={"block_size": "1M"})
        seen.add(data_guid(path))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("options", "size", "says"),
    [
        ({"block_size": "3M"}, MIB, "power of two"),
        ({"block_size": "512k"}, MIB, "power of two"),
        ({"block_size": "512M"}, MIB, "power of two"),
        ({"log_size": "1536k"}, MIB, "whole MiB"),
        ({"log_size": "0"}, MIB, "whole MiB"),
        ({"subformat": "differencing"}, MIB, "subformat is one of dynamic, fixed"),
        ({"logical_sector_size": "4096"}, MIB + 512, "logical_sector_size=512"),
        ({"logical_sector_size": "1024"}, MIB, "logical_sector_size is one of 512, 4096"),
        ({}, (64 << 40) + 512, "64 TiB"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, options: dict[str, str | int | bool], size: int, says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "image.vhdx", size, format="vhdx", options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer("qemu-img")
def test_the_block_size_is_qemus_where_none_is_given(tmp_path: Path) -> None:
    for size in ("1G", "1025M", "100G", "101G", "32T", "33T"):
        for maker in ("qemu", "vmimg"):
            path = tmp_path / f"{maker}.vhdx"
            path.unlink(missing_ok=True)
            if maker == "qemu":
                peers.run("qemu-img", "create", "-q", "-f", "vhdx", path, size)
            else:
                unit = {"M": 20, "G": 30, "T": 40}[size[-1]]
                create(path, int(size[:-1]) << unit, format="vhdx")
        infos = [image_info(tmp_path / f"{maker}.vhdx")[0] for maker in ("qemu", "vmimg")]
        assert infos[0].image.cluster_size == infos[1].image.cluster_size


@pytest.mark.peer("qemu-img")
def test_64_tib_and_nothing_at_all(tmp_path: Path) -> None:
    for size in (64 << 40, 0):
        path = tmp_path / f"{size}.vhdx"
        create(path, size, format="vhdx")
        info = peers.run_json("qemu-img", "info", "-f", "vhdx", "--output", "json", path)
        assert info["virtual-size"] == size
        assert check(path).exit_code == 0


def test_the_memory_for_the_bat_is_bounded() -> None:
    # 64 TiB in blocks of 1 MiB have a BAT of 512 MiB: strips without a block are one object.
    options = find("vhdx").parse_options({"block_size": "1M"})
    writer = find("vhdx").driver().writer(64 << 40, options)
    pieces = list(writer.finish())
    assert sum(len(data) for _, data in pieces) > 512 * MIB
    assert len({id(data) for _, data in pieces}) < 20


# Writing in place

OPERATIONS = operation_lists([1, 512, 4096, 5000, 200_000, MIB, 3 * MIB], [1, 4096, MIB], most=15)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "options",
    [
        "subformat=dynamic,block_size=1M",
        "subformat=dynamic,block_size=1M,block_state_zero=off",
        "subformat=dynamic,block_size=4M",
        "subformat=dynamic,block_size=256M",
        "subformat=fixed,block_size=1M",
    ],
)
@given(operations=OPERATIONS, size=st.sampled_from(SIZES), maker=st.booleans())
@settings(max_examples=rounds(5), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_qemu_reads(
    options: str, operations: list[Operation], size: int, maker: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.vhdx")
        if maker:
            given_options = dict(option.split("=") for option in options.split(","))
            create(image, size, format="vhdx", options=dict(given_options))
        else:
            peers.run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, image, str(size))
        twins = Twins(image, bytes(size))
        for operation in operations:
            twins.perform(operation)
            assert twins.disk.read(0, size) == twins.content
        twins.disk.close()
        model = twins.content
        assert content_of(image) == model
        same(image, bytes(model))
        sound(image)


@pytest.mark.peer("qemu-img", "qemu-io")
def test_qemu_writes_into_what_we_made_and_wrote(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    create(image, 40 * MIB, format="vhdx", options={"block_size": "1M"})
    model = bytearray(40 * MIB)
    with open_disk(image, writable=True) as disk:
        disk.write(5 * MIB, b"\1" * 3 * MIB)
    # Not block 0: QEMU 7.2 garbles the BAT when the first entry of 4 KiB changes.
    commands = ("write -P 2 6M 100k", "write -P 3 20M 2M", "discard 7M 1M")
    words = [word for command in commands for word in ("-c", command)]
    peers.run("qemu-io", "-f", "vhdx", *words, image, ok=(0, 1))
    with open_disk(image, writable=True) as disk:
        disk.write(21 * MIB, b"\4" * MIB)
    model[5 * MIB : 8 * MIB] = b"\1" * 3 * MIB
    model[6 * MIB : 6 * MIB + 102400] = b"\2" * 102400
    model[20 * MIB : 22 * MIB] = b"\3" * MIB + b"\4" * MIB
    assert content_of(image) == model
    same(image, bytes(model))
    sound(image)


def test_a_small_write_into_a_large_block_costs_little(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    create(image, 1 << 30, format="vhdx", options={"block_size": "256M"})
    before = image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.write(300 * MIB, b"few bytes")
    assert (image.stat().st_blocks - before) * 512 < MIB
    with open_disk(image) as disk:
        assert disk.read(300 * MIB - 1, 11) == b"\0few bytes\0"


def test_space_that_was_given_back_is_used_again(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    create(image, 16 * MIB, format="vhdx", options={"block_size": "1M"})
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"\1" * 8 * MIB)
    full = image.stat().st_size
    with open_disk(image, writable=True) as disk:
        disk.discard(2 * MIB, 4 * MIB)
    assert image.stat().st_size == full
    assert image.stat().st_blocks * 512 < full - 3 * MIB or image.stat().st_blocks == 0
    with open_disk(image, writable=True) as disk:
        disk.write(10 * MIB, b"\2" * 3 * MIB + b"\3")
    assert image.stat().st_size == full
    wanted = b"\1" * 2 * MIB + bytes(4 * MIB) + b"\1" * 2 * MIB + bytes(2 * MIB)
    wanted += b"\2" * 3 * MIB + b"\3" + bytes(3 * MIB - 1)
    assert content_of(image) == wanted  # what was there before does not shine through
    with open_disk(image, writable=True) as disk:
        disk.discard(0, 16 * MIB)
    assert image.stat().st_size == 4 * MIB  # nothing but the structures


def test_a_fixed_disk_keeps_its_blocks(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    create(image, 4 * MIB, format="vhdx", options={"block_size": "1M", "subformat": "fixed"})
    size = image.stat().st_size
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"\1" * 4 * MIB)
        disk.discard(MIB, 2 * MIB)
        assert [extent.kind for extent in disk.map()] == [Kind.DATA]
    assert image.stat().st_size == size
    assert content_of(image) == b"\1" * MIB + bytes(2 * MIB) + b"\1" * MIB


def test_identities_change_with_the_first_write_and_not_before(tmp_path: Path) -> None:
    image = tmp_path / "image.vhdx"
    create(image, 4 * MIB, format="vhdx")
    bare = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, 100)
        disk.flush()
    assert image.read_bytes() == bare
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
    before, after = (read_headers(MemoryStorage(data)) for data in (bare, image.read_bytes()))
    assert after.header.sequence_number > before.header.sequence_number
    assert after.header.data_write_guid != before.header.data_write_guid
    assert after.header.file_write_guid != before.header.file_write_guid
    assert None not in after.copies
    assert {copy.data_write_guid for copy in after.copies if copy} == {after.header.data_write_guid}
    assert not after.header.dirty


def test_blocks_over_each_other_are_not_written_to(tmp_path: Path) -> None:
    image = by_hand.make(4 * MIB, {0: (FULL, b"one"), 1: (FULL, b"two")})
    image.put(image.entry(1), image.get(image.entry(0)))
    path = image.save(tmp_path / "image.vhdx")
    with open_disk(path, writable=True) as disk, pytest.raises(FormatError, match="over each"):
        disk.write(2 * MIB, b"new")
    assert content_of(path)[2 * MIB : 2 * MIB + 3] == bytes(3)


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    image = by_hand.make(4 * MIB, {0: (FULL, b"one")})
    for start in by_hand.HEADERS:
        image.put(start + 68, 0, 4)
    image.seal(tables=False)
    path = image.save(tmp_path / "image.vhdx")
    with open_disk(path, writable=True) as disk, pytest.raises(UnsupportedFeature, match="no log"):
        disk.write(0, b"new")
    assert path.read_bytes() == image


def test_the_bat_of_other_makers_is_kept_where_it_is(tmp_path: Path) -> None:
    path = by_hand.make(4 * MIB, {0: (FULL, b"one")}).save(tmp_path / "image.vhdx")
    with open_disk(path, writable=True) as disk:
        disk.write(3 * MIB, b"new")
    changed = by_hand.Image(path.read_bytes())
    assert changed.get(BAT + 24) == 5 * MIB | FULL
    assert content_of(path) == b"one".ljust(3 * MIB, b"\0") + b"new".ljust(MIB, b"\0")
