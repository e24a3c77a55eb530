"""Writing in place into QED, cut off: what was flushed is there, and leaks are the worst."""

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
    possible,
    writers,
)
from qed_by_hand import FEATURES, NEED_CHECK, ZERO, Image, flat
from rounds import rounds
from vmimg.disk.stack import Disk
from vmimg.errors import StorageError
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk
from vmimg.formats.qed.allocation import WritableQedLayer
from vmimg.formats.qed.header import read_header
from vmimg.storage.base import Buffer

SIZE = 5 << 20  # two tables, the first of 4 MiB

IMAGES = {
    "empty": Image(SIZE),
    "used": Image(SIZE, {0: 3}, {0: 5, 4: ZERO, 5: 7, 1000: 6, 1023: 8}),
    "unclosed": Image(SIZE, {1: 6}, {1024: 13, 1025: 9}, features=NEED_CHECK),
}


class Log(Recorder):
    """Remembers the ends that the file was given, too."""

    def resize(self, size: int) -> None:
        self.log.append(size)
        super().resize(size)


def made(name: str) -> tuple[bytes, bytes]:
    """The file to begin with, and what it reads as; behind the unclosed one there are leaks."""
    file, blocks = IMAGES[name].build()
    return file + b"\xee" * (20_480 if name == "unclosed" else 0), flat(IMAGES[name], blocks)


def next_operation(source: random.Random) -> Operation:
    return powerfail.next_operation(source, SIZE, [512, 4096, 30_000, 200_000])


def record(name: str, seed: int, count: int) -> tuple[bytes, Recorder, list[Expected]]:
    """The file to begin with, what writing does to it, and what must be found for each length of
    the log.
    """
    file, content = made(name)
    storage = Log(file)
    disk = Disk([WritableQedLayer(storage, read_header(storage))])
    source = random.Random(seed)
    return file, storage, powerfail.record(storage, disk, content, source, next_operation, count)


def verify(image: Path, wanted: Expected) -> None:
    """It reads as it must, has leaks at worst, says so, and can be repaired and written to."""
    report = check(image)
    assert report.corruptions == report.errors == 0, report.problems
    if report.leaks:
        assert image.read_bytes()[FEATURES] & NEED_CHECK
    with open_disk(image) as disk:
        assert agrees(disk.read(0, SIZE), wanted)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"on")
    assert check(image).corruptions == 0
    assert not image.read_bytes()[FEATURES] & NEED_CHECK


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("name", IMAGES)
def test_every_write_of_the_file_may_be_the_last(tmp_path: Path, name: str) -> None:
    begin, storage, expected = record(name, seed=1, count=30)
    image = tmp_path / "image.qed"
    for step, file in left_at(begin, storage.log, chosen_steps(storage.log, 20, others=10)):
        image.write_bytes(file)
        if step % 4 == 0:
            peers.run("qemu-img", "check", image, ok=(0, 3))
        verify(image, expected[step])


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("full_length", [True, False])
def test_the_power_may_fail_at_any_moment(tmp_path: Path, name: str, full_length: bool) -> None:
    begin, storage, expected = record(name, seed=4, count=30)
    source = random.Random(5)
    image = tmp_path / "image.qed"
    for step in sorted(source.sample(range(len(storage.log)), rounds(30))):
        file = after_power_failure(begin, storage.log, step, source, full_length=full_length)
        image.write_bytes(file)
        if step % 4 == 0:
            peers.run("qemu-img", "check", image, ok=(0, 3))
        verify(image, expected[step])


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    source = random.Random(6)
    image = tmp_path / "image.qed"
    flushes = 0
    with writers("test_qed_crash") as write_until_killed:
        for turn in range(rounds(15)):
            file, content = made(sorted(IMAGES)[turn % len(IMAGES)])
            image.write_bytes(file)
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.06)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            verify(image, possible(content, random.Random(seed), next_operation, acknowledged))
    assert flushes > 5


class Failing(Recorder):
    """Writes fail, from the one of that number on, as long as ``broken``."""

    left = 1 << 60

    def write(self, offset: int, data: Buffer) -> None:
        if self.left <= 0:
            raise StorageError("no space left")
        self.left -= 1
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        if self.left <= 0:
            raise StorageError("no space left")
        self.left -= 1
        super().zero(offset, length)


@pytest.mark.parametrize("failing", [0, 1, 2, 3, 4, 5, 7, 9, 12])
def test_a_full_disk_costs_what_was_being_written_and_nothing_else(
    tmp_path: Path, failing: int
) -> None:
    file, content = made("used")
    model = bytearray(content)
    storage = Failing(file)
    disk = Disk([WritableQedLayer(storage, read_header(storage))])
    source = random.Random(failing)
    storage.left = failing
    unsure: list[tuple[int, int]] = []
    failed = 0
    for turn in range(30):
        offset = source.randrange(SIZE - 40_000)
        data = source.randbytes(source.choice((512, 5000, 40_000)))
        try:
            disk.write(offset, data)
            model[offset : offset + len(data)] = data
            if turn % 5 == 4:
                disk.flush()
        except StorageError:
            failed += 1
            unsure.append((offset, offset + len(data)))
        if failed == 3:
            storage.left = 1 << 60  # somebody made room
    disk.close()
    assert failed == 3
    wanted = powerfail._all_sure(bytes(model))
    for start, end in unsure:
        wanted[start:end] = powerfail.UNSURE
    image = tmp_path / "image.qed"
    image.write_bytes(storage.getvalue())
    with open_disk(image) as after:
        assert agrees(after.read(0, SIZE), wanted)
    assert check(image).corruptions == 0
