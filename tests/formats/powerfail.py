"""Sessions of writing that are cut off: what they wrote, and what must be found afterwards.

Three ways to be cut off: the file is left at every point of the sequence of writes; the power
fails, and of what was not yet flushed any part may have arrived; the process is killed, for real.
What must be found is one uint16 for each byte of the disk: its value, or UNSURE where old and new
may be.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rounds import rounds
from vmimg.disk.stack import Disk
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage

__all__ = [
    "UNSURE", "Entry", "Expected", "Operation", "Recorder", "after_power_failure", "agrees",
    "chosen_steps", "last_flush", "left_at", "near_flushes", "next_operation", "perform",
    "possible", "record", "writers",
]  # fmt: skip

SECTOR = 512
UNSURE = 256

Expected = NDArray[np.uint16]
Operation = tuple[str, int, bytes]
"""(write, zero, discard or flush; offset; the bytes it leaves there)."""
Draw = Callable[[random.Random], Operation]
"""The next operation: the same for the writer and for who checks it."""
Entry = tuple[int, bytes] | int | None
"""(offset, data) of a write; the size that a file was given; None: a flush."""
Log = Sequence[Entry]


# Operations


def next_operation(
    source: random.Random, size: int, lengths: Sequence[int], weights: Sequence[int] = (6, 1, 1, 2)
) -> Operation:
    """Anything anywhere; ``weights``: of writing, zeroing, discarding and flushing."""
    operation = source.choices(["write", "zero", "discard", "flush"], weights)[0]
    offset = source.randrange(size)
    length = min(size - offset, source.choice(lengths))
    return operation, offset, source.randbytes(length) if operation == "write" else bytes(length)


def perform(disk: Disk, operation: str, offset: int, data: bytes) -> None:
    if operation == "write":
        disk.write(offset, data)
    elif operation == "flush":
        disk.flush()
    else:
        (disk.zero if operation == "zero" else disk.discard)(offset, len(data))


# What was written


class Recorder(MemoryStorage):
    """Remembers what was written and where the flushes were."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.log: list[Entry] = []

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


def record(
    storage: Recorder, disk: Disk, content: bytes, source: random.Random, draw: Draw, count: int
) -> list[Expected]:
    """Do ``count`` operations on the disk in ``storage`` and close it: what must be found for each
    length of its log.
    """
    sure = _all_sure(content)
    current = sure.copy()
    expected: list[Expected] = []
    for _ in range(count):
        operation, offset, data = draw(source)
        if operation != "flush":
            sure[offset : offset + len(data)] = UNSURE
            current[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        state = sure.copy()
        perform(disk, operation, offset, data)
        expected += [state] * (len(storage.log) - len(expected))
        if operation == "flush":
            sure = current.copy()
    disk.close()
    expected += [sure] * (len(storage.log) + 1 - len(expected))
    return expected


def possible(content: bytes, source: random.Random, draw: Draw, acknowledged: int) -> Expected:
    """What must be found after so many operations, of which the last was a flush."""
    sure = _all_sure(content)
    for _ in range(acknowledged):
        operation, offset, data = draw(source)
        if operation != "flush":
            sure[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    # How far it came behind that is not known: up to the next flush, which may be done too.
    while (pending := draw(source))[0] != "flush":
        _, offset, data = pending
        sure[offset : offset + len(data)] = UNSURE
    return sure


def agrees(content: bytes, wanted: Expected) -> bool:
    found = np.frombuffer(content, np.uint8)
    return bool(((wanted == UNSURE) | (found == wanted)).all())


def _all_sure(content: bytes) -> Expected:
    return np.frombuffer(content, np.uint8).astype(np.uint16)


# What is left of it


def near_flushes(log: Log) -> set[int]:
    """The steps around the flushes, where the tables change; some may lie outside of the log."""
    return {i + d for i, entry in enumerate(log) if entry is None for d in range(-3, 4)}


def chosen_steps(log: Log, near: int, others: int) -> set[int]:
    """So many of the steps around the flushes, some of all (fewer where time matters), and the
    last.
    """
    steps = range(len(log) + 1)
    chosen = set(random.Random(2).sample(sorted(near_flushes(log) & set(steps)), rounds(near)))
    return chosen | set(random.Random(3).sample(steps, rounds(others))) | {len(log)}


def left_at(begin: bytes, log: Log, steps: set[int]) -> Iterator[tuple[int, bytes]]:
    """(step, the file when no more than that many entries of the log were done), ascending."""
    file = MemoryStorage(begin)
    for step in range(len(log) + 1):
        if step in steps:
            yield step, file.getvalue()
        if step < len(log):
            _apply(file, log[step])


def last_flush(log: Log, step: int) -> int:
    """Where in front of ``step`` the log has its last flush; 0 if it has none."""
    return max((i for i in range(step) if log[i] is None), default=0)


def after_power_failure(
    begin: bytes, log: Log, step: int, source: random.Random, *, full_length: bool = True
) -> bytes:
    """The file when everything up to the last flush arrived, and of the rest any sectors, each
    whole. What did not reads as zeros or as before. The file is as long as all of it together makes
    it, or, without ``full_length``, as what arrived makes it.
    """
    flushed = last_flush(log, step)
    file = MemoryStorage(begin)
    for entry in log[:flushed]:
        _apply(file, entry)
    share = source.choice([0.1, 0.5, 0.9])
    for entry in log[flushed:step]:
        if entry is None:
            continue
        if isinstance(entry, int):
            if source.random() < share:
                file.resize(entry)
            continue
        offset, data = entry
        if full_length and offset + len(data) > file.size:
            file.resize(offset + len(data))
        while data:
            length = min(len(data), SECTOR - offset % SECTOR)
            if source.random() < share:
                file.write(offset, data[:length])
            offset, data = offset + length, data[length:]
    return file.getvalue()


def _apply(file: MemoryStorage, entry: Entry) -> None:
    if isinstance(entry, int):
        file.resize(entry)
    elif entry is not None:
        file.write(*entry)


# Killed

# Starts once, because importing takes longer than a turn; then every turn is a process of its own.
_WRITER = """
import os, random, sys
sys.path[:0] = {path!r}
import powerfail
from {module} import next_operation
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
            operation, offset, data = next_operation(source)
            powerfail.perform(disk, operation, offset, data)
            if operation == "flush":
                os.write(1, b"%d\\n" % count)
"""


@contextmanager
def writers(module: str) -> Iterator[Callable[[Path, int, float], list[int]]]:
    """``write_until_killed(image, seed, seconds)``: another process writes into ``image`` what
    ``next_operation`` of ``module`` says, and gets a kill -9. The counts of operations after which
    it said that it had flushed.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER.format(path=sys.path, module=module)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        asked, said = starter.stdin, starter.stdout

        def write_until_killed(image: Path, seed: int, seconds: float) -> list[int]:
            asked.write(f"{seed} {image}\n".encode())
            asked.flush()
            writer = int(said.readline())
            time.sleep(seconds)
            os.kill(writer, signal.SIGKILL)
            flushed = []
            while (line := said.readline()) != b"end\n":
                flushed.append(int(line))
            return flushed

        yield write_until_killed
        asked.close()
