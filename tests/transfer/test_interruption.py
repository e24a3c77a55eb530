"""Killed at any moment, convert leaves a complete target or none, and never harms an older one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert

KILLS = 50
SIZE = 24 << 20

CODE = """
import sys
from vmimg.transfer.convert import convert
convert(sys.argv[1], sys.argv[2], compress=sys.argv[3] == "-c", replace=True)
"""


def start(source: Path, target: Path, *, compress: bool) -> subprocess.Popen[bytes]:
    arguments = [str(source), str(target), "-c" if compress else ""]
    return subprocess.Popen([sys.executable, "-c", CODE, *arguments])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", awkward_disk(SIZE))


@pytest.mark.peer("qemu-img")
def test_a_killed_convert_leaves_a_complete_target_or_none(tmp_path: Path, raw: Path) -> None:
    moments = random.Random(7)
    target = tmp_path / "target.qcow2"
    began = time.monotonic()
    assert start(raw, target, compress=True).wait() == 0
    whole = time.monotonic() - began
    complete = target.read_bytes()
    finished = 0
    for number in range(KILLS):
        old = number % 2 == 0  # every other time there is an older file to lose
        target.unlink(missing_ok=True)
        if old:
            target.write_bytes(b"older")
        process = start(raw, target, compress=True)
        time.sleep(moments.uniform(0.3, 1.1) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = target.read_bytes() if target.exists() else None
        assert content in (complete, b"older" if old else None)
        finished += content == complete
        left = [path.name for path in tmp_path.iterdir() if path != target]
        # Where the file system has no nameless files, a killed process cannot tidy up; what it
        # leaves must at least not look like an image.
        assert all(name.endswith(".vmimg-part") for name in left)
        for name in left:
            (tmp_path / name).unlink()
    assert finished < KILLS, "no kill came in time: the test proves nothing"
    target.unlink(missing_ok=True)
    target.write_bytes(complete)
    peers.run("qemu-img", "compare", raw, target)


def test_a_source_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    """As a log rotation or a careless copy does it: one error, no target."""
    source = tmp_path / "shrinking.raw"
    source.write_bytes(os.urandom(8 << 20))

    def progress(done: int, total: int) -> None:
        os.truncate(source, 1 << 20)

    target = tmp_path / "target.qcow2"
    try:
        convert(source, target, progress=progress, threads=1)
    except Exception as error:
        assert type(error).__module__ == "vmimg.errors"
        assert not target.exists()
    else:
        # It was read before it shrank; then all of it is there.
        assert target.stat().st_size > 8 << 20
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".vmimg-part"] == []


def test_the_same_content_gives_the_same_image_again(tmp_path: Path, raw: Path) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        convert(raw, tmp_path / name, compress=True)
    assert (tmp_path / "a.qcow2").read_bytes() == (tmp_path / "b.qcow2").read_bytes()
    assert compare(raw, tmp_path / "a.qcow2").identical
