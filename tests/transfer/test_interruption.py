"""Killed at any moment, convert leaves a complete target or none, and never harms an older one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert

KILLS = 50
SIZE = 24 << 20

# Converts in a process of its own for each line that it reads: its number, then how it ended. To
# fork takes a tenth of what it takes to start Python and import all of this.
CODE = """
import os, sys
import vmimg.codecs.deflate, vmimg.formats.opening, vmimg.formats.qcow2.driver
from vmimg.transfer.convert import convert
for target in map(str.strip, sys.stdin):
    child = os.fork()
    if not child:
        convert(sys.argv[1], target, compress=True, replace=True)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", awkward_disk(SIZE))


@pytest.mark.peer("qemu-img")
def test_a_killed_convert_leaves_a_complete_target_or_none(tmp_path: Path, raw: Path) -> None:
    moments = random.Random(7)
    target = tmp_path / "target.qcow2"
    with subprocess.Popen(
        [sys.executable, "-c", CODE, str(raw)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as converter:  # fmt: skip
        assert converter.stdin is not None and converter.stdout is not None

        def start() -> int:
            print(target, file=converter.stdin, flush=True)
            return int(converter.stdout.readline())

        def ended() -> int:
            return os.waitstatus_to_exitcode(int(converter.stdout.readline()))

        start()
        began = time.monotonic()
        assert ended() == 0
        whole = time.monotonic() - began
        complete = target.read_bytes()
        finished = 0
        for number in range(KILLS):
            old = number % 2 == 0  # every other time there is an older file to lose
            target.unlink(missing_ok=True)
            if old:
                target.write_bytes(b"older")
            child = start()
            time.sleep(moments.uniform(0, 1.1) * whole)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(child, signal.SIGKILL)
            assert ended() in (0, -signal.SIGKILL)
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
