"""Writing in place into qcow2, cut off: what was flushed is there, and leaks are the worst.

Three ways to be cut off: the process is killed (`kill -9`, for real); the file is left at every
point of the sequence of writes; the power fails, and of what was not yet flushed any part may have
arrived.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import peers
from vmimg.disk.stack import Disk
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow2.allocation import WritableQcow2Layer
from vmimg.formats.qcow2.header import read_header
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img")

SIZE = 2 << 20
SECTOR = 512

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


def next_operation(source: random.Random) -> tuple[str, int, bytes]:
    """(what, offset, bytes it leaves there): the same for the writer and for who checks it."""
    operation = source.choices(["write", "zero", "discard", "flush"], [6, 1, 1, 2])[0]
    offset = source.randrange(SIZE)
    length = min(SIZE - offset, source.choice([512, 4096, 30_000, 200_000]))
    return operation, offset, source.randbytes(length) if operation == "write" else bytes(length)


def perform(disk: Disk, operation: str, offset: int, data: bytes) -> None:
    if operation == "write":
        disk.write(offset, data)
    elif operation == "flush":
        disk.flush()
    else:
        (disk.zero if operation == "zero" else disk.discard)(offset, len(data))


class Recorder(MemoryStorage):
    """Remembers what was written and where the flushes were."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.log: list[tuple[int, bytes] | None] = []
        self.note: Callable[[], None] = lambda: None

    def write(self, offset: int, data: Buffer) -> None:
        self.log.append((offset, bytes(data)))
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self.log.append((offset, bytes(length)))
        super().zero(offset, length)

    def discard(self, offset: int, length: int) -> None:
        length = min(length, self.size - offset)
        if length > 0:
            self.zero(offset, length)

    def flush(self) -> None:
        self.log.append(None)


def record(begin: Path, content: bytes, seed: int, count: int) -> tuple[Recorder, list[bytes]]:
    """What writing does to the file, and the content to be found for each length of the log.

    Entry ``i`` of the second: what was flushed when the log had ``i`` entries, as uint8 and 256 for
    bytes that may be either old or new, packed as uint16.
    """
    storage = Recorder(begin.read_bytes())
    disk = Disk([WritableQcow2Layer(storage, read_header(storage))])
    source = random.Random(seed)
    sure = np.frombuffer(content, np.uint8).astype(np.uint16)
    current = sure.copy()
    expected: list[bytes] = []
    for _ in range(count):
        operation, offset, data = next_operation(source)
        part = slice(offset, offset + len(data))
        if operation != "flush":
            sure[part] = 256
            current[part] = np.frombuffer(data, np.uint8)
        state = sure.tobytes()
        perform(disk, operation, offset, data)
        expected += [state] * (len(storage.log) - len(expected))
        if operation == "flush":
            sure = current.copy()
    disk.close()
    expected += [sure.tobytes()] * (len(storage.log) + 1 - len(expected))
    return storage, expected


def verify(image: Path, expected: bytes, snapshot: bytes | None) -> None:
    peers.run("qemu-img", "check", image, ok=(0, 3))
    wanted = np.frombuffer(expected, np.uint16)
    with open_disk(image) as disk:
        content = np.frombuffer(disk.read(0, SIZE), np.uint8)
    assert ((wanted == 256) | (content == wanted)).all()
    if snapshot is not None:
        with open_disk(image, snapshot="s") as disk:
            assert disk.read(0, SIZE) == snapshot


@pytest.mark.parametrize(("options", "used"), IMAGES)
def test_every_write_of_the_file_may_be_the_last(tmp_path: Path, options: str, used: bool) -> None:
    begin, content = make(tmp_path, options, used)
    storage, expected = record(begin, content, seed=1, count=40)
    steps = len(storage.log) + 1
    # All of them around the flushes, where the tables change; a few of the others.
    near = {i + d for i, entry in enumerate(storage.log) if entry is None for d in range(-3, 4)}
    chosen = set(random.Random(2).sample(sorted(near & set(range(steps))), min(40, len(near) // 2)))
    chosen |= set(random.Random(3).sample(range(steps), 15)) | {steps - 1}
    file = MemoryStorage(begin.read_bytes())
    image = tmp_path / "image.qcow2"
    for step in range(steps):
        if step in chosen:
            image.write_bytes(file.getvalue())
            verify(image, expected[step], content if used else None)
        if step < len(storage.log) and (entry := storage.log[step]) is not None:
            file.write(*entry)


@pytest.mark.parametrize(("options", "used"), IMAGES)
def test_the_power_may_fail_at_any_moment(tmp_path: Path, options: str, used: bool) -> None:
    begin, content = make(tmp_path, options, used)
    storage, expected = record(begin, content, seed=4, count=40)
    source = random.Random(5)
    image = tmp_path / "image.qcow2"
    for step in sorted(source.sample(range(len(storage.log)), min(40, len(storage.log)))):
        flushed = max((i for i in range(step) if storage.log[i] is None), default=0)
        file = MemoryStorage(begin.read_bytes())
        for entry in storage.log[:flushed]:
            if entry is not None:
                file.write(*entry)
        # Of the rest any sectors arrived, each whole. What did not reads as zeros or as before.
        share = source.choice([0.1, 0.5, 0.9])
        for entry in storage.log[flushed:step]:
            if entry is None:
                continue
            offset, data = entry
            if offset + len(data) > file.size:
                file.resize(offset + len(data))
            while data:
                length = min(len(data), SECTOR - offset % SECTOR)
                if source.random() < share:
                    file.write(offset, data[:length])
                offset, data = offset + length, data[length:]
        image.write_bytes(file.getvalue())
        verify(image, expected[step], content if used else None)


# Starts once, because importing takes longer than a turn; then every turn is a process of its own.
WRITER = """
import os, random, sys
sys.path[:0] = {path!r}
import test_qcow2_crash as test
from vmimg.formats.opening import open_disk

for line in sys.stdin:
    seed, image = line.rstrip().split(" ", 1)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.write(1, b"end\\n")
        continue
    source = random.Random(int(seed))
    with open_disk(image, writable=True) as disk:
        os.write(1, b"%d\\n" % os.getpid())
        for count in range(1, 1 << 30):
            operation, offset, data = test.next_operation(source)
            test.perform(disk, operation, offset, data)
            if operation == "flush":
                os.write(1, b"%d\\n" % count)
"""


def test_a_killed_writer_leaves_a_consistent_image(tmp_path: Path) -> None:
    begins = [make_in(tmp_path / str(number), *image) for number, image in enumerate(IMAGES)]
    source = random.Random(6)
    image = tmp_path / "image.qcow2"
    script = WRITER.format(path=sys.path)
    flushes = 0
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for turn in range(50):
            begin, content = begins[turn % len(begins)]
            image.write_bytes(begin.read_bytes())
            seed = source.randrange(1 << 30)
            starter.stdin.write(f"{seed} {image}\n".encode())
            starter.stdin.flush()
            writer = int(starter.stdout.readline())
            time.sleep(source.random() * 0.06)
            os.kill(writer, signal.SIGKILL)
            acknowledged = 0
            while (said := starter.stdout.readline()) != b"end\n":
                acknowledged = int(said)
                flushes += 1

            operations = random.Random(seed)
            sure = np.frombuffer(content, np.uint8).astype(np.uint16)
            for _ in range(acknowledged):
                operation, offset, data = next_operation(operations)
                if operation != "flush":
                    sure[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            # How far it came behind that is not known: up to the next flush, which may be done too.
            while (pending := next_operation(operations))[0] != "flush":
                _, offset, data = pending
                sure[offset : offset + len(data)] = 256
            verify(image, sure.tobytes(), content if IMAGES[turn % len(IMAGES)][1] else None)
        starter.stdin.close()
    assert flushes > 20


def make_in(folder: Path, options: str, used: bool) -> tuple[Path, bytes]:
    folder.mkdir()
    return make(folder, options, used)
