"""Making qcow images of version 1 and writing into them: what QEMU, 7-Zip and libqcow say."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_qcow_read import GUESSED, by_qemu, content_of

import peers
import powerfail
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
from qcow_by_hand import COMPRESSED, L2_BITS, Image
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.codecs import LEVELS, Level
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow.allocation import WritableQcowLayer
from vmimg.formats.qcow.header import read_header
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

pytestmark = pytest.mark.peer("qemu-img")

MIB = 1 << 20


def sound(path: Path) -> None:
    report = check(path)
    assert report.exit_code == 0, report.problems


def by_pyqcow(path: Path) -> bytes:
    import pyqcow

    file = pyqcow.file()
    file.open(str(path))
    data: bytes = file.read_buffer(file.get_media_size())
    file.close()
    return data


# Making images


@pytest.mark.peer("7z", "pyqcow")
@pytest.mark.parametrize("size", [512, MIB, 3 * MIB + 512, 10_000_384])
def test_other_programs_read_what_we_make(tmp_path: Path, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.qcow"
    convert(raw, image, format="qcow")
    assert content_of(image) == content == by_qemu(image) == by_pyqcow(image)
    info = peers.run_json("qemu-img", "info", "--output", "json", image)
    assert (info["format"], info["virtual-size"]) == ("qcow", size)
    assert peers.run("7z", "e", "-so", "-tQCOW", image).stdout == content
    sound(image)


@pytest.mark.peer("pyqcow")
@pytest.mark.parametrize("level", LEVELS)
def test_other_programs_read_what_we_compress(tmp_path: Path, level: Level) -> None:
    content = awkward_disk(5 * MIB + 512)
    raw, image, plain = (tmp_path / name for name in ("raw", "a.qcow", "plain"))
    write_sparse(raw, content)
    convert(raw, image, format="qcow", compress=True, level=level)
    convert(raw, plain, format="qcow")
    assert image.stat().st_size < 0.9 * plain.stat().st_size
    report = check(image)
    # Noise is stored as it is.
    assert 0 < report.compressed_clusters < report.allocated_clusters
    assert report.exit_code == 0
    assert content_of(image) == content == by_qemu(image) == by_pyqcow(image)


@pytest.mark.parametrize("size", [512, MIB, 5 << 30])
def test_an_empty_image_is_the_one_that_qemu_makes(tmp_path: Path, size: int) -> None:
    create(tmp_path / "ours", size, format="qcow")
    peers.run("qemu-img", "create", "-q", "-f", "qcow", tmp_path / "theirs", str(size))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    (tmp_path / "base").write_bytes(bytes(512))
    create(tmp_path / "child", size, format="qcow", backing="base", backing_format="raw")
    command = ("create", "-q", "-f", "qcow", "-b", "base", "-F", "raw", "theirs", str(size))
    peers.run("qemu-img", *command, cwd=tmp_path)
    assert (tmp_path / "child").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_measure_says_what_it_becomes(tmp_path: Path, compress: bool) -> None:
    content = awkward_disk(9 * MIB)
    raw = write_sparse(tmp_path / "raw", content)
    measured = measure(raw, format="qcow")
    convert(raw, tmp_path / "a.qcow", format="qcow", compress=compress)
    size = (tmp_path / "a.qcow").stat().st_size
    assert size < measured.required if compress else size == measured.required
    (tmp_path / "full").write_bytes(random.Random(1).randbytes(9 * MIB))
    convert(tmp_path / "full", tmp_path / "full.qcow", format="qcow")
    assert (tmp_path / "full.qcow").stat().st_size == measured.fully_allocated


def test_what_cannot_be_made_is_said_before_anything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a.qcow"
    with pytest.raises(OptionError, match="cannot be empty"):
        create(target, 0, format="qcow")
    with pytest.raises(OptionError, match="qcow2 holds more"):
        create(target, 1 << 50, format="qcow")
    with pytest.raises(VmimgError, match="1023"):
        create(
            target, MIB, format="qcow", backing="x" * 1024, backing_format="raw",
            check_backing=False,
        )  # fmt: skip
    assert not target.exists()


def test_zeros_above_a_parent_are_stored(tmp_path: Path) -> None:
    base, changed, image = (tmp_path / name for name in ("base", "changed", "a.qcow"))
    content = bytearray(random.Random(1).randbytes(2 * MIB))
    base.write_bytes(content)
    content[MIB : MIB + 5000] = bytes(5000)
    changed.write_bytes(content)
    convert(changed, image, format="qcow", backing="base", backing_format="raw")
    assert content_of(image, "raw") == content
    # Clusters of 512 bytes: nothing of the parent is copied but what shares a sector.
    assert check(image).allocated_clusters == -(-5000 // 512)
    assert image_info(image)[0].image.parent is not None


# Writing in place

SIZE = 6 * MIB + 1536


def start_from(origin: str, folder: Path) -> tuple[Path, bytes]:
    """An image to write into, and what it reads as."""
    path = folder / "image.qcow"
    if origin.startswith("qemu"):
        content = awkward_disk(SIZE)
        raw = write_sparse(folder / "raw", content)
        if "compressed" in origin:
            convert(raw, path, format="qcow", compress=True)
        else:
            peers.run("qemu-img", "convert", "-O", "qcow", raw, path)
        return path, content
    below = b""
    letters = "".join(random.Random(2).choices("p.c", k=1000))
    image = Image(SIZE, letters, cluster_bits=9, l2_bits=6)
    if origin == "large clusters":
        image = Image(SIZE, "p.cpp...c", cluster_bits=16, l2_bits=13)
    if origin == "overlay":
        below = random.Random(3).randbytes(SIZE - MIB)
        (folder / "base").write_bytes(below)
        image.backing = b"base"
    path.write_bytes(image.build()[0])
    return path, image.flat(below)


OPERATIONS = operation_lists(
    [1, 512, 5000, 65536, 300_000, 1 << 20], [1, 512, 4096, 65536], most=20
)


@pytest.mark.parametrize("origin", ["qemu", "qemu compressed", "small clusters", "large clusters"])
@given(operations=OPERATIONS)
@settings(max_examples=rounds(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_others_read(origin: str, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, content = start_from(origin, folder)
        twins = Twins(image, content)
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        twins.disk.close()
        assert content_of(image) == twins.content
        assert check(image).corruptions == 0
        (folder / "model").write_bytes(twins.content)
        command = ("compare", "-f", "qcow", "-F", "raw", image, folder / "model")
        peers.run("qemu-img", *command)
        # What was lost to discards can be had back, but for what lies between packed clusters.
        report = check(image, repair="leaks")
        assert report.exit_code == 0 or origin != "qemu", report.problems
        assert content_of(image) == twins.content


def test_random_writes_above_a_parent(tmp_path: Path) -> None:
    image, content = start_from("overlay", tmp_path)
    model, dice = bytearray(content), random.Random(4)
    with open_disk(image, writable=True, policy=GUESSED) as disk:
        for turn in range(60):
            start = dice.randrange(SIZE)
            length = min(SIZE - start, dice.choice((1, 512, 5000, 100_000)))
            data = dice.randbytes(length) if turn % 3 else bytes(length)
            if turn % 3:
                disk.write(start, data)
            else:
                disk.discard(start, length)
            model[start : start + length] = data
    assert content_of(image, "raw") == model
    assert check(image).corruptions == 0


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    image, _ = start_from("small clusters", tmp_path)
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, SIZE)
        disk.flush()
        disk.zero(SIZE - MIB, MIB)  # was never written
    assert image.read_bytes() == before


def test_what_a_session_discards_it_uses_again(tmp_path: Path) -> None:
    image = tmp_path / "a.qcow"
    (tmp_path / "raw").write_bytes(random.Random(1).randbytes(4 * MIB))
    convert(tmp_path / "raw", image, format="qcow")
    size, used = image.stat().st_size, image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.discard(MIB, 2 * MIB)
        disk.flush()
        assert image.stat().st_blocks <= used - 2 * 2048 + 64
        disk.write(MIB, random.Random(2).randbytes(2 * MIB))
    assert image.stat().st_size == size
    sound(image)


@pytest.mark.parametrize("where", ["two tables in one place", "a cluster over a table"])
def test_a_damaged_image_is_not_written_to(tmp_path: Path, where: str) -> None:
    image = Image(80 * 512, "p" * 80, cluster_bits=9, l2_bits=6, shuffle=False)
    file = bytearray(image.build()[0])
    if where == "two tables in one place":
        file[48 + 8 : 48 + 16] = image.l2[0].to_bytes(8, "big")
    else:
        place = image.l2[1] // 512 * 512
        file[image.entries[0] : image.entries[0] + 8] = place.to_bytes(8, "big")
    path = tmp_path / "a.qcow"
    path.write_bytes(file)
    with open_disk(path, writable=True) as disk, pytest.raises(FormatError, match="check"):
        disk.write(0, b"x")


def test_a_compressed_cluster_is_replaced_by_a_plain_one(tmp_path: Path) -> None:
    image = Image(8192, "cc")
    path = tmp_path / "a.qcow"
    path.write_bytes(image.build()[0])
    wanted = bytearray(image.flat())
    with open_disk(path, writable=True) as disk:
        disk.write(100, b"new")
        wanted[100:103] = b"new"
    entry = int.from_bytes(path.read_bytes()[image.entries[0] :][:8], "big")
    assert not entry & COMPRESSED and content_of(path) == wanted == by_qemu(path)


# Being cut off

CUT_SIZE = MIB


def next_operation(source: random.Random) -> powerfail.Operation:
    return powerfail.next_operation(source, CUT_SIZE, [512, 4096, 30_000, 100_000])


def begin(folder: Path) -> tuple[Path, bytes]:
    """An image with many small tables, a third of it filled, plain and compressed."""
    letters = "".join(random.Random(2).choices("p.c", k=1024))
    image = Image(CUT_SIZE, letters, cluster_bits=9, l2_bits=6)
    path = folder / "begin.qcow"
    path.write_bytes(image.build()[0])
    assert path.read_bytes()[L2_BITS] == 6
    return path, image.flat()


def record(path: Path, content: bytes) -> tuple[Recorder, list[Expected]]:
    storage = Recorder(path.read_bytes())
    disk = Disk([WritableQcowLayer(storage, read_header(storage))])
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
    near = min(80, len(near_flushes(storage.log)) // 2)
    chosen = chosen_steps(storage.log, near, others=min(40, len(storage.log)))
    image = tmp_path / "image.qcow"
    for step, file in left_at(path.read_bytes(), storage.log, chosen):
        image.write_bytes(file)
        verify(image, expected[step])


@pytest.mark.parametrize("full_length", [True, False])
def test_the_power_may_fail_at_any_moment(tmp_path: Path, full_length: bool) -> None:
    path, content = begin(tmp_path)
    storage, expected = record(path, content)
    source = random.Random(5)
    image = tmp_path / "image.qcow"
    for step in sorted(source.choices(range(len(storage.log)), k=rounds(80))):
        file = after_power_failure(
            path.read_bytes(), storage.log, step, source, full_length=full_length
        )
        image.write_bytes(file)
        verify(image, expected[step])


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    path, content = begin(tmp_path)
    source = random.Random(6)
    image = tmp_path / "image.qcow"
    flushes = 0
    with writers("test_qcow_write") as write_until_killed:
        for _ in range(10):
            image.write_bytes(path.read_bytes())
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.1)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            verify(image, possible(content, random.Random(seed), next_operation, acknowledged))
    assert flushes > 3
