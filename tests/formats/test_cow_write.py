"""Making COW images and writing into them; what is written is read from the file by offset."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_cow_read import content_of, some_sectors

import powerfail
from cow_by_hand import HEADER_64, SECTOR, Image
from model import Operation, Twins, operation_lists
from powerfail import (
    Expected,
    Recorder,
    after_power_failure,
    agrees,
    chosen_steps,
    left_at,
    near_flushes,
    possible,
    writers,
)
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.cow.allocation import WritableCowLayer
from vmimg.formats.cow.header import read_header
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
ABOVE_RAW = ParentPolicy(parent_format="raw")


def by_offset(file: bytes, size: int, parent: bytes = b"") -> bytes:
    """What an image with QEMU's header of 64 bits reads as, sector by sector."""
    data = Image(size).data
    disk = bytearray(parent[:size].ljust(size, b"\0"))
    for sector in range(size // SECTOR):
        if file[HEADER_64 + sector // 8] >> sector % 8 & 1:
            start = data + sector * SECTOR
            piece = file[start : start + SECTOR]
            assert len(piece) == SECTOR
            disk[sector * SECTOR : (sector + 1) * SECTOR] = piece
    return bytes(disk)


# Making images


@pytest.mark.parametrize("size", [512, MIB, 3 * MIB + 512, 10_000_384])
def test_what_we_make_is_what_qemu_made(tmp_path: Path, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.cow"
    convert(raw, image)
    file = image.read_bytes()
    assert file[:HEADER_64] == Image(size).build()[:HEADER_64]
    assert content_of(image) == content == by_offset(file, size)
    assert check(image).exit_code == 0
    measured = measure(raw, format="cow")
    assert measured.required == len(file) <= measured.fully_allocated


@pytest.mark.parametrize("size", [512, MIB, 5 << 30])
def test_an_empty_image_has_its_bitmap_and_no_more(tmp_path: Path, size: int) -> None:
    create(tmp_path / "a.cow", size, format="cow")
    assert (tmp_path / "a.cow").read_bytes() == Image(size).build()


def test_only_what_differs_from_the_parent_is_stored(tmp_path: Path) -> None:
    base, changed, image = (tmp_path / name for name in ("base", "changed", "a.cow"))
    content = bytearray(random.Random(1).randbytes(2 * MIB))
    base.write_bytes(content)
    os.utime(base, (1_000_000_000, 1_000_000_000))
    parent = bytes(content)
    content[MIB : MIB + 5000] = bytes(5000)  # zeros over data
    content[-512:] = b"x" * 512
    changed.write_bytes(content)
    convert(changed, image, backing="base", backing_format="raw")
    assert content_of(image, "raw") == content == by_offset(image.read_bytes(), 2 * MIB, parent)
    assert check(image).allocated_clusters == 3 * 8
    (info,) = image_info(image)
    assert info.image.details["backing-file-mtime"] == 1_000_000_000
    base.write_bytes(parent)
    with pytest.raises(VmimgError, match="--allow-changed-parent"):
        content_of(image, "raw")


def test_what_cannot_be_made_is_said_before_anything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a.cow"
    with pytest.raises(OptionError, match="empty"):
        create(target, 0, format="cow")
    with pytest.raises(OptionError, match="qcow2 holds more"):
        create(target, 8 << 40, format="cow")
    with pytest.raises(VmimgError, match="1023"):
        create(
            target, MIB, format="cow", backing="x" * 1024, backing_format="raw",
            check_backing=False,
        )  # fmt: skip
    assert not target.exists()


# Writing in place

SIZE = 3 * MIB + 1536


def start_from(origin: str, folder: Path) -> tuple[Path, bytes]:
    """An image to write into, and what it reads as."""
    path = folder / "image.cow"
    image = Image(SIZE, some_sectors(SIZE // SECTOR), bits=32 if origin == "32 bits" else 64)
    path.write_bytes(image.build())
    return path, image.flat()


OPERATIONS = operation_lists([1, 512, 5000, 65536, 300_000, 1 << 20], [1, 512, 4096], most=20)


@pytest.mark.parametrize("origin", ["32 bits", "64 bits"])
@given(operations=OPERATIONS)
@settings(max_examples=rounds(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes(origin: str, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as name:
        image, content = start_from(origin, Path(name))
        twins = Twins(image, content)
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        twins.disk.close()
        assert content_of(image) == twins.content
        assert check(image).corruptions == 0
        if origin == "64 bits":
            assert by_offset(image.read_bytes(), SIZE) == twins.content


def test_random_writes_above_a_parent(tmp_path: Path) -> None:
    below = random.Random(3).randbytes(SIZE - MIB)
    (tmp_path / "base").write_bytes(below)
    image = Image(SIZE, some_sectors(SIZE // SECTOR), backing=b"base")
    path = tmp_path / "a.cow"
    path.write_bytes(image.build())
    model, dice = bytearray(image.flat(below)), random.Random(4)
    with open_disk(path, writable=True, policy=ABOVE_RAW) as disk:
        for turn in range(60):
            start = dice.randrange(SIZE)
            length = min(SIZE - start, dice.choice((1, 512, 5000, 100_000)))
            data = dice.randbytes(length) if turn % 3 else bytes(length)
            if turn % 3:
                disk.write(start, data)
            else:
                disk.discard(start, length)
            model[start : start + length] = data
    assert content_of(path, "raw") == model == by_offset(path.read_bytes(), SIZE, below)


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    image, _ = start_from("64 bits", tmp_path)
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, SIZE)
        disk.flush()
    assert image.read_bytes() == before


def test_what_is_discarded_gives_back_its_space_unless_it_was_written_again(tmp_path: Path) -> None:
    image = tmp_path / "a.cow"
    content = bytearray(random.Random(1).randbytes(4 * MIB))
    (tmp_path / "raw").write_bytes(content)
    convert(tmp_path / "raw", image)
    used = image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.discard(MIB, 2 * MIB)
        content[MIB : 3 * MIB] = bytes(2 * MIB)
        disk.write(2 * MIB, b"again")
        content[2 * MIB : 2 * MIB + 5] = b"again"
    assert image.stat().st_blocks <= used - 2 * 2048 + 64
    assert content_of(image) == content == by_offset(image.read_bytes(), 4 * MIB)


# Being cut off

CUT_SIZE = MIB


def next_operation(source: random.Random) -> powerfail.Operation:
    return powerfail.next_operation(source, CUT_SIZE, [512, 4096, 30_000, 100_000])


def begin(folder: Path) -> tuple[Path, bytes]:
    image = Image(CUT_SIZE, some_sectors(CUT_SIZE // SECTOR))
    path = folder / "begin.cow"
    path.write_bytes(image.build())
    return path, image.flat()


def record(path: Path, content: bytes) -> tuple[Recorder, list[Expected]]:
    storage = Recorder(path.read_bytes())
    disk = Disk([WritableCowLayer(storage, read_header(storage))])
    source = random.Random(1)
    return storage, powerfail.record(storage, disk, content, source, next_operation, 60)


def verify(image: Path, wanted: Expected) -> None:
    report = check(image)
    assert report.corruptions == 0, report.problems
    with open_disk(image) as disk:
        assert agrees(disk.read(0, CUT_SIZE), wanted)


def test_every_write_of_the_file_may_be_the_last(tmp_path: Path) -> None:
    path, content = begin(tmp_path)
    storage, expected = record(path, content)
    near = len(near_flushes(storage.log)) // 2
    chosen = chosen_steps(storage.log, near, others=min(40, len(storage.log)))
    image = tmp_path / "image.cow"
    for step, file in left_at(path.read_bytes(), storage.log, chosen):
        image.write_bytes(file)
        verify(image, expected[step])


@pytest.mark.parametrize("full_length", [True, False])
def test_the_power_may_fail_at_any_moment(tmp_path: Path, full_length: bool) -> None:
    path, content = begin(tmp_path)
    storage, expected = record(path, content)
    source = random.Random(5)
    image = tmp_path / "image.cow"
    for step in sorted(source.choices(range(len(storage.log)), k=rounds(80))):
        file = after_power_failure(
            path.read_bytes(), storage.log, step, source, full_length=full_length
        )
        image.write_bytes(file)
        verify(image, expected[step])


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    path, content = begin(tmp_path)
    source = random.Random(6)
    image = tmp_path / "image.cow"
    flushes = 0
    with writers("test_cow_write") as write_until_killed:
        for _ in range(10):
            image.write_bytes(path.read_bytes())
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.1)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            verify(image, possible(content, random.Random(seed), next_operation, acknowledged))
    assert flushes > 3
