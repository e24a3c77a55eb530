"""Whatever a file holds: detecting and vetting it take little time, little memory, few reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from probe.corpus import BAD, GOOD, made
from probe.sample import Sample
from vmimg.probe.detecting import detect_storage
from vmimg.probe.inspector import Inspector
from vmimg.probe.vetting import vet_storage
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage

# What is promised is 2 s and 256 MiB.
_MAX_SECONDS = 2.0
_MAX_MIB = 256

_CHILD = """
import json, re, sys, time
from vmimg.errors import VmimgError
from vmimg.probe.detecting import detect
from vmimg.probe.vetting import vet

for path in sys.stdin.read().splitlines():
    before = time.process_time()
    try:
        detect(path)
        vet(path, policy="strict")
    except VmimgError:
        pass
    seconds = time.process_time() - before
    # Not ru_maxrss: it begins with what the parent had.
    status = open("/proc/self/status").read()
    mib = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) >> 10
    print(json.dumps([path, seconds, mib]), flush=True)
"""


class Counted(Storage):
    """Counts what is read of another storage."""

    def __init__(self, base: Storage) -> None:
        self.name, self.size = base.name, base.size
        self.read_bytes = 0
        self._base = base

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read_bytes += len(buffer)
        self._base.read_into(offset, buffer)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        return self._base.extents(start, end)

    def write(self, offset: int, data: Buffer) -> None:
        raise AssertionError("vetting wrote")

    def zero(self, offset: int, length: int) -> None:
        raise AssertionError("vetting wrote")

    def resize(self, size: int) -> None:
        raise AssertionError("vetting wrote")

    def flush(self) -> None:
        raise AssertionError("vetting wrote")

    def close(self) -> None:
        self._base.close()


def test_every_sample_takes_less_than_is_promised(tmp_path: Path) -> None:
    import json

    paths = [
        made(sample, tmp_path)
        for sample in [*GOOD, *BAD]
        if all(peers.has(name) for name in sample.peers)
    ]
    assert paths
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths)
    slow = [row for row in rows if row[1] > _MAX_SECONDS or row[2] > _MAX_MIB]
    assert not slow


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_little_is_read_of_a_good_file(sample: Sample, tmp_path: Path) -> None:
    path = made(sample, tmp_path)
    if path.is_dir():
        pytest.skip("a directory is no storage")
    with Counted(FileStorage(path)) as storage:
        detect_storage(storage)
        assert storage.read_bytes <= 6 << 20
        vet_storage(storage, policy="desktop")
        assert storage.read_bytes <= 48 << 20


def test_an_inspector_holds_at_most_two_mib() -> None:
    import tracemalloc

    chunk = bytes(range(256)) * 4096
    inspector = Inspector()
    inspector.feed(chunk)  # what looking imports is not what it holds
    tracemalloc.start()
    try:
        for _ in range(64):
            inspector.feed(chunk)
        held, _ = tracemalloc.get_traced_memory()
        inspector.finish()
    finally:
        tracemalloc.stop()
    assert held <= 2 << 20


@pytest.mark.parametrize("size", [0, 1, 3, 511, 512, 513, 4095, 32768, 32775, 65536])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"PK\x03\x04", b"<"])
def test_the_shortest_files_are_vetted(size: int, fill: bytes) -> None:
    storage = MemoryStorage((fill * size)[:size], "short")
    report = vet_storage(storage, policy="strict")
    assert report.detection.size == size
    assert report.detection.claims
