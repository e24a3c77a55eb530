"""raw: byte n of the file is byte n of the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import peers
from vmimg.disk.extent import Extent, Kind
from vmimg.errors import OptionError, StorageError
from vmimg.formats.opening import open_disk
from vmimg.formats.raw.driver import RawDriver, RawWriter
from vmimg.units import GIB, KIB, MIB


def test_holes_are_zeros_and_the_rest_is_data(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    with image.open("wb") as file:
        file.seek(MIB)
        file.write(b"x" * (64 * KIB))
        file.truncate(3 * MIB)
    with open_disk(image) as disk:
        assert disk.format == "raw"
        assert list(disk.map()) == [
            Extent(0, MIB, Kind.ZERO, 0),
            Extent(MIB, 64 * KIB, Kind.DATA, MIB),
            Extent(MIB + 64 * KIB, 2 * MIB - 64 * KIB, Kind.ZERO, MIB + 64 * KIB),
        ]
        assert list(disk.map(MIB + 1, MIB + 3)) == [Extent(MIB + 1, 2, Kind.DATA, MIB + 1)]
        assert disk.read(MIB - 1, 3) == b"\0xx"


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1000, 65537])
def test_an_odd_size_is_rounded_up_to_whole_sectors_as_qemu_does(tmp_path: Path, size: int) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(b"\xff" * size)
    qemu = peers.run_json("qemu-img", "info", "-f", "raw", "--output", "json", image)
    with open_disk(image, format="raw") as disk:
        assert disk.size == qemu["virtual-size"]
        assert disk.read(0, disk.size) == b"\xff" * size + bytes(disk.size - size)
        assert sum(extent.length for extent in disk.map()) == disk.size
        for start in range(max(0, size - 2), disk.size):
            assert disk.read(start, 1) == (b"\xff" if start < size else b"\0")
    assert image.stat().st_size == size


def test_the_tail_of_an_odd_file_can_be_written(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(b"\xff" * 1000)
    with open_disk(image, writable=True) as disk:
        disk.write(1010, b"ab")
        disk.zero(990, 5)
        assert disk.read(985, 39) == b"\xff" * 5 + bytes(5) + b"\xff" * 5 + bytes(10) + (
            b"ab" + bytes(12)
        )
    assert image.read_bytes()[1010:1012] == b"ab"


def test_reads_and_writes_beyond_the_disk_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(1024))
    with open_disk(image, writable=True) as disk:
        for action in (
            lambda: disk.read(1023, 2),
            lambda: disk.write(1023, b"ab"),
            lambda: disk.zero(1023, 2),
            lambda: list(disk.map(0, 1025)),
        ):
            with pytest.raises(StorageError):
                action()
    assert image.stat().st_size == 1024


def test_a_discarded_range_gives_its_space_back_and_reads_as_zeros(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(b"x" * (4 * MIB))
    with open_disk(image, writable=True) as disk:
        disk.discard(MIB, 2 * MIB)
        disk.flush()
        assert disk.read(MIB - 1, 2) == b"x\0"
        assert disk.read(3 * MIB - 1, 2) == b"\0x"
    assert image.stat().st_blocks * 512 < 3 * MIB


def test_a_disk_open_for_reading_is_not_written(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(1024))
    with open_disk(image) as disk, pytest.raises(StorageError, match="reading only"):
        disk.write(0, b"x")


@pytest.mark.peer("qemu-img")
def test_the_map_is_that_of_qemu_img(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    random = np.random.default_rng(1)
    with image.open("wb") as file:
        file.truncate(8 * MIB)
        for start in sorted(random.integers(0, 2048, 40)):
            file.seek(int(start) * 4096)
            file.write(b"x" * 4096)
    qemu = peers.run_json("qemu-img", "map", "-f", "raw", "--output", "json", image)
    with open_disk(image) as disk:
        ours = [
            (e.start, e.length, e.kind == Kind.ZERO, e.kind == Kind.DATA, e.offset)
            for e in disk.map()
        ]
    assert ours == [(e["start"], e["length"], e["zero"], e["data"], e["offset"]) for e in qemu]


def test_a_file_of_8_tib_is_opened_and_mapped_at_once(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    with image.open("wb") as file:
        file.truncate(8 << 40)
    with open_disk(image) as disk:
        assert list(disk.map()) == [Extent(0, 8 << 40, Kind.ZERO, 0)]
        assert disk.read((8 << 40) - 3, 3) == bytes(3)


def test_the_writer_puts_every_block_in_its_own_place() -> None:
    writer = RawDriver().writer(GIB + 512, {"preallocation": "falloc"})
    assert isinstance(writer, RawWriter)
    assert writer.preallocation == "falloc"
    writer.block_size = 65536
    assert writer.place(np.array([0, 1, 7], np.int64)).tolist() == [0, 65536, 7 * 65536]
    assert list(writer.drain(8)) == []
    assert writer.settled == 8 * 65536
    assert list(writer.finish()) == []
    assert writer.file_size == GIB + 512 == writer.settled


def test_a_raw_image_takes_no_parent() -> None:
    from vmimg.disk.layer import ParentRef

    with pytest.raises(OptionError, match="backing file"):
        RawDriver().writer(GIB, {}, parent=ParentRef("base.qcow2", "qcow2"))
