"""What memory transfers take: some for each, whatever the size of the image, given back or used
again. The service runs as a program, and the kernel says what it had at most (VmHWM).
"""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import Child

MIB = 1 << 20
PIECE = bytes(range(256)) * 4096

# An upload holds 4 pieces of 512 KiB that are worked on, and up to 0.75 MiB that the server
# gathers, twice while they are handed over; a download 2 pieces of 1 MiB, and a third while the
# last is on its way. What was freed is not always where the next piece fits: a third more.
EACH_UP = 5 * MIB
EACH_DOWN = 4 * MIB
# Code that is loaded, and threads that are made, when they are first needed.
ONCE = 32 * MIB

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="/proc tells what memory a process had"
)


def peak(child: Child) -> int:
    """The most memory that the service had so far, in bytes."""
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def upload(child: Child, image_id: str, size: int) -> None:
    """Give an image that many bytes."""
    with connected(child) as connection:
        head = (
            f"PUT /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
        )
        connection.sendall(head.encode())
        for _ in range(size // len(PIECE)):
            connection.sendall(PIECE)
        assert connection.recv(4096).startswith(b"HTTP/1.1 204")


def download(child: Child, path: str, size: int, byte_range: str = "") -> None:
    """Get that many bytes, and keep none."""
    with connected(child) as connection:
        extra = f"Range: bytes={byte_range}\r\n" if byte_range else ""
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n".encode()
        )
        come, buffer = 0, bytearray(MIB)
        while count := connection.recv_into(buffer):
            if come == 0:
                assert buffer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206"))
            come += count
        assert size <= come <= size + 2000  # and its head


def connected(child: Child) -> socket.socket:
    """A connection to the service."""
    host, _, port = child.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 300)


def at_once(ways: Iterator[Callable[[], Any]]) -> None:
    """Each in a thread of its own."""
    failed: list[BaseException] = []

    def run(way: Callable[[], Any]) -> None:
        try:
            way()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def transfers(child: Child, count: int, size: int) -> None:
    """As many uploads and as many downloads at once, of images of ``size``."""
    client = child.client
    stored = client.image()["id"]
    upload(child, stored, size)
    path = f"/v2/images/{stored}/file"
    made = [client.image()["id"] for _ in range(count)]

    def ways() -> Iterator[Callable[[], Any]]:
        for each in made:
            yield lambda each=each: upload(child, each, size)
            yield lambda: download(child, path, size)

    at_once(ways())
    for each in [stored, *made]:
        assert client.delete(f"/v2/images/{each}").status_code == 204


def test_many_transfers_take_some_memory_each(running_service: Child) -> None:
    transfers(running_service, 1, MIB)
    before = peak(running_service)
    transfers(running_service, 16, 16 * MIB)
    assert peak(running_service) - before < 16 * (EACH_UP + EACH_DOWN) + ONCE


def test_memory_does_not_grow_with_the_size_of_an_image(running_service: Child) -> None:
    transfers(running_service, 2, 4 * MIB)
    before = peak(running_service)
    transfers(running_service, 2, 64 * MIB)
    # Timing decides how many pieces wait at once; an image of 64 MiB in memory would show.
    assert peak(running_service) - before < 2 * (EACH_UP + EACH_DOWN)


@pytest.mark.peer("qemu-img")
def test_ranges_of_another_format_take_no_more(running_service: Child, tmp_path: Path) -> None:
    size = 64 * MIB
    (tmp_path / "raw").write_bytes(PIECE * (size // len(PIECE)))
    line = ["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", tmp_path / "qcow2"]
    subprocess.run(line, check=True)
    client = running_service.client
    made = client.active((tmp_path / "qcow2").read_bytes(), disk_format="qcow2")
    path = f"/v2/images/{made['id']}/file?format=vhdx"
    download(running_service, path, 1000, "0-999")
    before = peak(running_service)

    def ways() -> Iterator[Callable[[], Any]]:
        for start in range(0, 48 * MIB, 3 * MIB):
            end = start + 16 * MIB
            yield lambda span=f"{start}-{end - 1}": download(running_service, path, 16 * MIB, span)

    at_once(ways())
    assert peak(running_service) - before < 16 * EACH_DOWN + ONCE


@pytest.mark.slow
def test_sixty_four_uploads_and_downloads_stay_below_600_mib(running_service: Child) -> None:
    transfers(running_service, 64, 128 * MIB)
    assert peak(running_service) < 600 * MIB
