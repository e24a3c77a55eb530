"""Writing in place into VHD, cut off: what was flushed is there, and leaks are the worst.

Three ways to be cut off: the process is killed (`kill -9`, for real); the file is left at every
point of the sequence of writes; the power fails, and of what was not yet flushed any part may have
arrived. Without a parent QEMU reads what we read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import powerfail
import vhd_by_hand as hand
from powerfail import (
    Expected,
    Operation,
    Recorder,
    after_power_failure,
    agrees,
    chosen_steps,
    left_at,
    possible,
    writers,
)
from rounds import rounds
from vmimg.disk.stack import Disk
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk
from vmimg.formats.vhd.allocation import WritableVhdLayer
from vmimg.formats.vhd.header import read_image
from vmimg.formats.vhd.layer import VhdLayer
from vmimg.storage.memory import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img")

SIZE = 60 * 16384 + 512


def without_parent(folder: Path) -> tuple[Path, bytes]:
    content = random.Random(1).randbytes(SIZE // 3).ljust(SIZE, b"\0")
    image = folder / "begin.vhd"
    image.write_bytes(hand.dynamic(content, block=16384))
    return image, content


def with_parent(folder: Path) -> tuple[Path, bytes]:
    below = random.Random(2).randbytes(SIZE)
    (folder / "base.vhd").write_bytes(hand.dynamic(below, block=16384))
    above = random.Random(3).randbytes(SIZE)
    content, present = bytearray(below), {n for n in range(SIZE // 512) if n % 100 < 20}
    for n in present:
        content[n * 512 : n * 512 + 512] = above[n * 512 : n * 512 + 512]
    parent = hand.Parent(locators=[(b"W2ru", ".\\base.vhd".encode("utf-16-le"))])
    image = folder / "begin.vhd"
    image.write_bytes(hand.dynamic(above, block=16384, parent=parent, present=present))
    return image, bytes(content)


Make = Callable[[Path], tuple[Path, bytes]]
IMAGES: tuple[Make, ...] = (without_parent, with_parent)


def next_operation(source: random.Random) -> Operation:
    lengths = [100, 512, 4096, 30_000, 90_000]
    return powerfail.next_operation(source, SIZE, lengths, weights=(6, 1, 0, 2))


def record(begin: Path, content: bytes, seed: int) -> tuple[Recorder, list[Expected]]:
    """What writing does to the file, and what must be found for each length of the log. What is
    copied up around a write stays what it was.
    """
    storage = Recorder(begin.read_bytes())
    layers: list[VhdLayer] = [WritableVhdLayer(storage, read_image(storage))]
    if layers[0].parent is not None:
        base = MemoryStorage(begin.with_name("base.vhd").read_bytes())
        layers.append(VhdLayer(base, read_image(base)))
    disk = Disk(layers)
    source = random.Random(seed)
    return storage, powerfail.record(storage, disk, content, source, next_operation, count=40)


def verify(image: Path, wanted: Expected, codes: tuple[int, ...]) -> None:
    with open_disk(image) as disk:
        content = disk.read(0, SIZE)
        chain = len(disk.layers) > 1
    assert agrees(content, wanted)
    report = check(image)
    assert report.exit_code in codes, report.problems
    if not chain:
        raw = image.with_name("by qemu")
        peers.run("qemu-img", "convert", "-f", "vpc", "-O", "raw", image, raw)
        assert raw.read_bytes() == content


@pytest.mark.parametrize("make", IMAGES)
def test_every_write_of_the_file_may_be_the_last(tmp_path: Path, make: Make) -> None:
    begin, content = make(tmp_path)
    storage, expected = record(begin, content, seed=1)
    image = tmp_path / "image.vhd"
    for step, file in left_at(begin.read_bytes(), storage.log, chosen_steps(storage.log, 40, 20)):
        image.write_bytes(file)
        # Even the footer is where it belongs; only blocks may be lost that nothing names.
        verify(image, expected[step], (0, 3))
    assert image.read_bytes() == storage.getvalue()


@pytest.mark.parametrize("make", IMAGES)
def test_the_power_may_fail_at_any_moment(tmp_path: Path, make: Make) -> None:
    begin, content = make(tmp_path)
    storage, expected = record(begin, content, seed=4)
    source = random.Random(5)
    image = tmp_path / "image.vhd"
    lost = 0
    for step in sorted(source.sample(range(len(storage.log)), rounds(40))):
        image.write_bytes(after_power_failure(begin.read_bytes(), storage.log, step, source))
        # The footer at the end may be lost; the copy in front is there, and repair brings it back.
        verify(image, expected[step], (0, 2, 3))
        report = check(image, repair="all")
        assert report.corruptions == 0, report.problems
        lost += report.fixed_corruptions
        verify(image, expected[step], (0, 3))
    assert lost


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    begins = []
    for make in IMAGES:
        (tmp_path / make.__name__).mkdir()
        begins.append(make(tmp_path / make.__name__))
    source = random.Random(6)
    flushes = 0
    with writers("test_vhd_crash") as write_until_killed:
        for turn in range(rounds(30)):
            begin, content = begins[turn % len(begins)]
            image = begin.with_name("image.vhd")
            image.write_bytes(begin.read_bytes())
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.06)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            wanted = possible(content, random.Random(seed), next_operation, acknowledged)
            verify(image, wanted, (0, 2, 3))
            report = check(image)
            if report.corruptions:
                # Killed between the growing of the file and the writing of the footer.
                assert report.corruptions == 1 and "footer at the end" in report.problems[0]
                assert check(image, repair="all").exit_code == 0
                verify(image, wanted, (0,))
    assert flushes > 20
