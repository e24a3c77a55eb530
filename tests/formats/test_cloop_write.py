"""Making cloops: read by extract_compressed_fs and QEMU, laid out the same way every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmimg.errors import OptionError
from vmimg.formats.checking import check
from vmimg.formats.cloop.writer import choose_block_size
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.peer("extract_compressed_fs", "qemu-img")
@pytest.mark.parametrize("size", [512, 1536, 65536, MIB + 512, 5 * MIB + 8192, 3 * MIB])
def test_others_read_exactly_what_was_written(tmp_path: Path, size: int) -> None:
    content = awkward_disk(size)
    raw = write_sparse(tmp_path / "raw", content)
    image = tmp_path / "a.cloop"
    convert(raw, image)
    if size > 65536:  # of a few blocks it divides by zero, whoever made them
        peers.run("extract_compressed_fs", image, tmp_path / "theirs")
        assert (tmp_path / "theirs").read_bytes() == content
    peers.run("qemu-img", "compare", "-f", "cloop", "-F", "raw", image, raw)
    info = peers.run_json("qemu-img", "info", "--output", "json", image)
    assert (info["format"], info["virtual-size"]) == ("cloop", size)
    assert check(image).exit_code == 0


def test_the_block_size_divides_the_disk_and_is_near_64_kib() -> None:
    assert choose_block_size(10 * GIB) == 65536
    assert choose_block_size(20 * MIB + 1536) == 137 * 512
    assert choose_block_size(512) == 512
    assert choose_block_size(509 * 512) == 509 * 512
    assert choose_block_size(521 * 512) == 512  # a prime number of sectors, more than 256 KiB
    assert choose_block_size(3 * 521 * 512) == 3 * 512
    assert choose_block_size(700 * MIB + 4096) % 512 == 0
    # QEMU opens no 2^26 blocks.
    assert choose_block_size(7 << 40) == 131072
    for sectors in range(1, 3000, 7):
        block = choose_block_size(sectors * 512)
        assert sectors * 512 % block == 0 and block % 512 == 0 and block <= 256 << 10


@pytest.mark.peer("qemu-img", "extract_compressed_fs")
@pytest.mark.parametrize("block", [512, 1536, 131072, MIB])
def test_a_block_size_of_ones_own(tmp_path: Path, block: int) -> None:
    content = awkward_disk(3 * MIB if block > 4096 else 768 * 1024)
    raw = write_sparse(tmp_path / "raw", content)
    image = tmp_path / "a.cloop"
    convert(raw, image, options={"cluster_size": block})
    assert image_info(image)[0].image.cluster_size == block
    peers.run("qemu-img", "compare", "-f", "cloop", "-F", "raw", image, raw)
    if block < MIB:  # of a few blocks it divides by zero
        peers.run("extract_compressed_fs", image, tmp_path / "theirs")
        assert (tmp_path / "theirs").read_bytes() == content


def test_a_disk_that_is_no_multiple_of_the_block_size_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * (MIB + 512))
    image = tmp_path / "a.cloop"
    with pytest.raises(OptionError, match="--align 65536"):
        convert(raw, image, options={"cluster_size": "64k"})
    assert not image.exists()
    convert(raw, image, options={"cluster_size": "64k"}, align=65536)
    with open_disk(image) as disk:
        assert disk.size == MIB + 65536
        assert disk.read(0, disk.size) == b"x" * (MIB + 512) + bytes(65024)
    for wrong in ("0", "513", "128M"):
        with pytest.raises(OptionError, match="multiple of 512"):
            create(tmp_path / "b.cloop", MIB, format="cloop", options={"cluster_size": wrong})


def test_levels_make_it_smaller_and_threads_make_no_difference(tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(20 * MIB))
    sizes = []
    for level in ("fast", "default", "best"):
        image = tmp_path / f"{level}.cloop"
        convert(raw, image, level=level, threads=1)
        sizes.append(image.stat().st_size)
        convert(raw, tmp_path / "again.cloop", level=level, threads=3, compress=True, replace=True)
        assert (tmp_path / "again.cloop").read_bytes() == image.read_bytes()
    assert sizes[2] < sizes[1] and sizes[2] < sizes[0]


def test_zeros_take_as_many_bytes_whatever_the_source_says_of_them(tmp_path: Path) -> None:
    """A run of zero blocks inside a window, between windows, in front and at the end."""
    content = bytearray(40 * MIB)
    for place in (9 * MIB, 9 * MIB + 3 * 65536, 30 * MIB):
        content[place : place + 100] = b"x" * 100
    sparse = write_sparse(tmp_path / "sparse", bytes(content))
    dense = tmp_path / "dense"
    dense.write_bytes(content)
    for source in (sparse, dense):
        convert(source, tmp_path / f"{source.name}.cloop")
    made = (tmp_path / "sparse.cloop").read_bytes()
    assert made == (tmp_path / "dense.cloop").read_bytes()
    assert len(made) < 100_000
    with open_disk(tmp_path / "sparse.cloop") as disk:
        assert disk.read(0, disk.size) == content


@pytest.mark.parametrize("size", [0, MIB, 40 * MIB + 512])
def test_a_stream_is_the_same_as_a_file(tmp_path: Path, size: int) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(size) if size else b"")
    image = tmp_path / "a.cloop"
    done = convert(raw, image)
    command = [sys.executable, "-m", "vmimg", "convert", "-O", "cloop", str(raw), "-"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == image.read_bytes()
    assert done.file_size == image.stat().st_size


def test_measure_says_how_large_it_gets(tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(12 * MIB))
    image = tmp_path / "a.cloop"
    convert(raw, image)
    told = measure(raw, format="cloop")
    assert told.required == image.stat().st_size <= told.fully_allocated
    estimate = measure(raw, format="cloop", estimate=True).required
    assert told.required <= estimate <= told.fully_allocated
    noise = tmp_path / "noise"
    with open("/dev/urandom", "rb") as file:
        noise.write_bytes(file.read(3 * MIB))
    for level in ("fast", "default", "best"):
        convert(noise, image, level=level, replace=True)
        assert image.stat().st_size <= measure(noise, format="cloop", estimate=True).required


@pytest.mark.peer("qemu-img")
def test_an_index_of_many_pages(tmp_path: Path) -> None:
    """More than 2^16 blocks, with data at both ends of a page."""
    size, block = 140_000 * 512, 512
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(size)
        for number in (0, 65_535, 65_536, 131_071, 131_073, 139_999):
            file.seek(number * block)
            file.write(b"%d" % number)
    image = tmp_path / "a.cloop"
    convert(raw, image, options={"cluster_size": block})
    peers.run("qemu-img", "compare", "-f", "cloop", "-F", "raw", image, raw)
    assert check(image).exit_code == 0
    convert(image, tmp_path / "back", format="raw")
    assert (tmp_path / "back").read_bytes() == raw.read_bytes()


def test_an_empty_disk_of_some_size_is_made_at_once_and_little_memory_is_used(
    tmp_path: Path,
) -> None:
    image = tmp_path / "a.cloop"
    assert create(image, 40 * GIB, format="cloop") == 40 * GIB
    blocks = 40 * GIB // 65536
    assert image.stat().st_size < 120 * blocks
    with open_disk(image) as disk:
        assert disk.size == 40 * GIB
        assert not any(disk.read(15 * GIB + 12345, 100_000))


def test_what_no_reader_would_open_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="larger blocks"):
        create(tmp_path / "a", (1 << 50) + 512, format="cloop")
    with pytest.raises(OptionError, match="at most"):
        create(tmp_path / "a", 1 << 52, format="cloop")
    with pytest.raises(OptionError, match="backing"):
        create(
            tmp_path / "a", MIB, format="cloop",
            backing="b", backing_format="raw", check_backing=False,
        )  # fmt: skip
