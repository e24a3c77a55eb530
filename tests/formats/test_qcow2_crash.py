"""Writing in place into qcow2, cut off: what was flushed is there, and leaks are the worst.

Three ways to be cut off: the process is killed (`kill -9`, for real); the file is left at every
point of the sequence of writes; the power fails, and of what was not yet flushed any part may have
arrived.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import peers
import powerfail
from powerfail import (
    Expected,
    Operation,
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
from vmimg.disk.stack import Disk
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow2.allocation import WritableQcow2Layer
from vmimg.formats.qcow2.header import read_header

pytestmark = pytest.mark.peer("qemu-img")

SIZE = 2 << 20

# Options, and whether the image begins full of compressed clusters that a snapshot holds too.
IMAGES = (
    ("cluster_size=4k", False),
    ("cluster_size=512,refcount_bits=64", False),
    ("compat=0.10,cluster_size=1k", False),
    ("extended_l2=on,cluster_size=16k", False),
    ("cluster_size=512,refcount_bits=64", True),
    ("extended_l2=on,cluster_size=16k", True),
)


def make(folder: Path, options: str, used: bool) -> tuple[Path, bytes]:
    """The image to begin with, and its content."""
    image = folder / "begin.qcow2"
    if not used:
        peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, str(SIZE))
        return image, bytes(SIZE)
    content = random.Random(options).randbytes(SIZE // 2) + bytes(SIZE // 2)
    raw = folder / "raw"
    raw.write_bytes(content)
    peers.run("qemu-img", "convert", "-O", "qcow2", "-c", "-o", options, raw, image)
    peers.run("qemu-img", "snapshot", "-c", "s", image)
    return image, content


def next_operation(source: random.Random) -> Operation:
    return powerfail.next_operation(source, SIZE, [512, 4096, 30_000, 200_000])


def record(begin: Path, content: bytes, seed: int, count: int) -> tuple[Recorder, list[Expected]]:
    """What writing does to the file, and what must be found for each length of the log."""
    storage = Recorder(begin.read_bytes())
    disk = Disk([WritableQcow2Layer(storage, read_header(storage))])
    source = random.Random(seed)
    return storage, powerfail.record(storage, disk, content, source, next_operation, count)


def verify(image: Path, wanted: Expected, snapshot: bytes | None) -> None:
    peers.run("qemu-img", "check", image, ok=(0, 3))
    with open_disk(image) as disk:
        assert agrees(disk.read(0, SIZE), wanted)
    if snapshot is not None:
        with open_disk(image, snapshot="s") as disk:
            assert disk.read(0, SIZE) == snapshot


@pytest.mark.parametrize(("options", "used"), IMAGES)
def test_every_write_of_the_file_may_be_the_last(tmp_path: Path, options: str, used: bool) -> None:
    begin, content = make(tmp_path, options, used)
    storage, expected = record(begin, content, seed=1, count=40)
    # All of them around the flushes, where the tables change; a few of the others.
    near = min(40, len(near_flushes(storage.log)) // 2)
    chosen = chosen_steps(storage.log, near, others=15)
    image = tmp_path / "image.qcow2"
    for step, file in left_at(begin.read_bytes(), storage.log, chosen):
        image.write_bytes(file)
        verify(image, expected[step], content if used else None)


@pytest.mark.parametrize(("options", "used"), IMAGES)
def test_the_power_may_fail_at_any_moment(tmp_path: Path, options: str, used: bool) -> None:
    begin, content = make(tmp_path, options, used)
    storage, expected = record(begin, content, seed=4, count=40)
    source = random.Random(5)
    image = tmp_path / "image.qcow2"
    for step in sorted(source.sample(range(len(storage.log)), rounds(min(40, len(storage.log))))):
        image.write_bytes(after_power_failure(begin.read_bytes(), storage.log, step, source))
        verify(image, expected[step], content if used else None)


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    begins = [make_in(tmp_path / str(number), *image) for number, image in enumerate(IMAGES)]
    source = random.Random(6)
    image = tmp_path / "image.qcow2"
    flushes = 0
    with writers("test_qcow2_crash") as write_until_killed:
        for turn in range(rounds(50)):
            begin, content = begins[turn % len(begins)]
            image.write_bytes(begin.read_bytes())
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.06)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            wanted = possible(content, random.Random(seed), next_operation, acknowledged)
            verify(image, wanted, content if IMAGES[turn % len(IMAGES)][1] else None)
    assert flushes > 20


def make_in(folder: Path, options: str, used: bool) -> tuple[Path, bytes]:
    folder.mkdir()
    return make(folder, options, used)
