"""QEMU's image locks, both ways, with QEMU as the other side."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import peers
from vmimg import storage
from vmimg.errors import InUseError
from vmimg.storage.output import Output

pytestmark = pytest.mark.peer("qemu-img", "qemu-io", "qemu-nbd")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"content" * 10_000)
    return path


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    return path


@contextmanager
def held_by_qemu(path: Path, *options: str, format: str = "qcow2") -> Iterator[None]:
    """``path`` served by a qemu-nbd, as a running machine would hold it."""
    place = path.with_suffix(".socket")
    server = subprocess.Popen(
        [str(peers.find("qemu-nbd")), "-t", "-f", format, "-k", str(place), *options, str(path)]
    )
    try:
        # It listens before it opens the image, and greets when it is ready. The name is there a
        # moment before anybody listens.
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            _wait(lambda: client.connect_ex(str(place)) == 0)
            assert client.recv(8) == b"NBDMAGIC"
        yield
    finally:
        server.kill()
        server.wait()
        # What cannot be told from outside is when the kernel has let go of its files.
        _wait(lambda: not locked_bytes(path))


def locked_bytes(path: Path) -> set[int]:
    """The bytes of ``path`` that anybody holds by open file description locks."""
    inode = path.stat().st_ino
    found: set[int] = set()
    for line in Path("/proc/locks").read_text().splitlines():
        match = re.search(r"OFDLCK\s+ADVISORY\s+READ\s+-1\s+\S+:(\d+)\s+(\d+)\s+(\d+)$", line)
        if match and int(match[1]) == inode:
            found.update(range(int(match[2]), int(match[3]) + 1))
    return found


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the other program did not get there in 20 s"
        time.sleep(0.01)


@contextmanager
def open_in_qemu_io(path: Path, *options: str) -> Iterator[None]:
    process = subprocess.Popen(
        [str(peers.find("qemu-io")), "-f", "qcow2", *options, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: locked_bytes(path))
        time.sleep(0.2)  # it takes them one by one
        yield
    finally:
        process.communicate(b"quit\n")
        _wait(lambda: not locked_bytes(path))


@pytest.mark.parametrize(("mode", "options"), [("r", ["-r"]), ("rw", [])])
def test_the_bytes_that_are_locked_are_the_ones_that_qemu_locks(
    qcow2: Path, mode: storage.Mode, options: list[str]
) -> None:
    with open_in_qemu_io(qcow2, *options):
        theirs = locked_bytes(qcow2)
    with storage.open(qcow2, mode):
        ours = locked_bytes(qcow2)
    assert ours == theirs
    assert locked_bytes(qcow2) == set()


@pytest.mark.parametrize("mode", ["r", "rw", "create"])
def test_what_a_running_qemu_writes_is_refused_by_the_name_of_the_lock(
    qcow2: Path, mode: storage.Mode
) -> None:
    before = qcow2.read_bytes()
    with held_by_qemu(qcow2):
        with pytest.raises(InUseError, match='another process holds the "write" lock') as caught:
            storage.open(qcow2, mode)
        assert str(qcow2) in str(caught.value)
        assert ("-U" in str(caught.value)) == (mode == "r")
    # "create" would have emptied it.
    assert qcow2.read_bytes() == before
    storage.open(qcow2, "rw").close()


def test_a_raw_disk_of_a_running_qemu_is_refused_too(raw: Path) -> None:
    with (
        held_by_qemu(raw, format="raw"),
        pytest.raises(InUseError, match='holds the "write" lock'),
    ):
        storage.open(raw)


def test_force_share_reads_what_a_running_qemu_writes(qcow2: Path) -> None:
    with held_by_qemu(qcow2), storage.open(qcow2, lock=False) as opened:
        assert opened.read(0, 4) == b"QFI\xfb"


def test_what_qemu_only_reads_can_be_read_but_not_written(qcow2: Path) -> None:
    with held_by_qemu(qcow2, "-r"):
        storage.open(qcow2).close()
        with pytest.raises(InUseError, match='does not share the "write" lock'):
            storage.open(qcow2, "rw")


def test_a_backing_file_in_use_can_be_read_but_not_written(qcow2: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", overlay)
    with held_by_qemu(overlay):
        storage.open(qcow2).close()
        with pytest.raises(InUseError):
            storage.open(qcow2, "rw")


@pytest.mark.parametrize("command", ["info", "check"])
def test_qemu_refuses_what_is_open_for_writing_here(qcow2: Path, command: str) -> None:
    with storage.open(qcow2, "rw"):
        refused = peers.run("qemu-img", command, qcow2, ok=(1,))
        assert b"lock" in refused.stderr
        peers.run("qemu-img", command, "-U", qcow2)
    peers.run("qemu-img", command, qcow2)


def test_qemu_refuses_to_write_what_is_read_here(qcow2: Path) -> None:
    with storage.open(qcow2):
        peers.run("qemu-img", "check", qcow2)
        refused = peers.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", qcow2, ok=(1,))
        assert b"lock" in refused.stderr
    with storage.open(qcow2, lock=False):
        peers.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", qcow2)


def test_a_refused_opening_leaves_no_lock_behind(qcow2: Path) -> None:
    with storage.open(qcow2) as reader:
        alone = locked_bytes(qcow2)
        with pytest.raises(InUseError):
            storage.open(qcow2, "rw")
        assert locked_bytes(qcow2) == alone
        with storage.open(qcow2) as second:
            assert second.identity() == reader.identity()
    storage.open(qcow2, "rw").close()


@pytest.mark.parametrize("options", [[], ["-r"]])
def test_a_file_that_a_running_qemu_holds_is_not_replaced(qcow2: Path, options: list[str]) -> None:
    before = qcow2.read_bytes()
    with (
        held_by_qemu(qcow2, *options),
        pytest.raises(InUseError, match='"write" lock'),
    ):
        Output(qcow2, replace=True)
    assert qcow2.read_bytes() == before


def test_a_qemu_that_starts_while_the_output_is_made_keeps_its_file(qcow2: Path) -> None:
    before = qcow2.read_bytes()
    output = Output(qcow2, replace=True)
    output.storage.write(0, b"new")
    with held_by_qemu(qcow2), pytest.raises(InUseError):
        output.commit()
    assert qcow2.read_bytes() == before
    assert sorted(os.listdir(qcow2.parent)) == ["disk.qcow2", "disk.socket"]
