"""What a client sends is taken from its socket past the server's parser: the same bytes arrive, and
the connection goes on behind them, whatever became of them.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from asking import Asked, Child
from trouble import Wire, start_with, status

MIB = 1 << 20
DATA = random.Random(11).randbytes(3 * MIB + 4321)


class Talk(Wire):
    """Requests on one connection, by hand, and their answers one by one."""

    def __init__(self, child: Child) -> None:
        super().__init__(child, "")
        self._come = b""

    def send(self, method: str, path: str, *headers: str, body: bytes | None = None) -> None:
        """The head, and all of ``body`` behind it."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        if body is not None:
            lines += [f"Content-Length: {len(body)}"]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def next(self) -> tuple[int, bytes]:
        """The status and the body of the next answer."""
        while b"\r\n\r\n" not in self._come:
            self._more()
        head, _, self._come = self._come.partition(b"\r\n\r\n")
        first, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        while len(self._come) < length:
            self._more()
        body, self._come = self._come[:length], self._come[length:]
        return int(first.split()[1]), body

    def _more(self) -> None:
        came = self.socket.recv(1 << 16)
        assert came, f"the connection ended after {self._come!r}"
        self._come += came


OCTETS = "Content-Type: application/octet-stream"


def checksum(child: Child, image_id: str) -> str:
    return str(child.client.shown(image_id)["checksum"])


@pytest.mark.parametrize("size", [0, 1, 511, MIB - 1, MIB, MIB + 1, len(DATA)])
def test_a_request_behind_an_upload_is_answered(running_service: Child, size: int) -> None:
    """Sent at once: what the server has read of the body, and of what is behind it, varies."""
    image_id = running_service.client.image()["id"]
    talk = Talk(running_service)
    talk.send("PUT", f"/v2/images/{image_id}/file", OCTETS, body=DATA[:size])
    talk.send("GET", f"/v2/images/{image_id}")
    talk.send("GET", f"/v2/images/{image_id}/file")
    assert talk.next() == (204, b"")
    shown = talk.next()
    assert (shown[0], json.loads(shown[1])["size"]) == (200, size)
    assert talk.next()[1] == DATA[:size]
    talk.close()
    assert checksum(running_service, image_id) == hashlib.md5(DATA[:size]).hexdigest()


def test_uploads_follow_each_other_on_a_connection(running_service: Child) -> None:
    talk = Talk(running_service)
    for begin in range(5):
        image_id = running_service.client.image()["id"]
        talk.send("PUT", f"/v2/images/{image_id}/file", OCTETS, body=DATA[begin:])
        assert talk.next() == (204, b"")
        assert checksum(running_service, image_id) == hashlib.md5(DATA[begin:]).hexdigest()
    talk.close()


def test_little_is_waited_for_behind_much(running_service: Child) -> None:
    """In an upload the server waits for many bytes at once; behind it, for any."""
    image_id = running_service.client.image()["id"]
    talk = Talk(running_service)
    path = f"/v2/images/{image_id}/file"
    talk.send("PUT", path, OCTETS, f"Content-Length: {len(DATA)}")
    for begin in range(0, len(DATA), MIB // 2):
        time.sleep(0.05)
        talk.socket.sendall(DATA[begin : begin + MIB // 2])
    assert talk.next() == (204, b"")
    talk.send("GET", f"/v2/images/{image_id}")
    assert json.loads(talk.next()[1])["status"] == "active"
    talk.close()


def test_a_client_that_asks_first_is_told_to_go_on(running_service: Child) -> None:
    image_id = running_service.client.image()["id"]
    talk = Talk(running_service)
    path = f"/v2/images/{image_id}/file"
    talk.send("PUT", path, OCTETS, "Expect: 100-continue", f"Content-Length: {len(DATA)}")
    assert talk.next()[0] == 100
    talk.socket.sendall(DATA)
    assert talk.next() == (204, b"")
    talk.close()
    assert checksum(running_service, image_id) == hashlib.md5(DATA).hexdigest()


@pytest.mark.peer("curl")
def test_curl_uploads(running_service: Child, tmp_path: Path) -> None:
    """With a length and Expect, and in chunks."""
    (tmp_path / "sent").write_bytes(DATA)
    for more in ([], ["-H", "Transfer-Encoding: chunked"]):
        image_id = running_service.client.image()["id"]
        peers.run(
            "curl", "--silent", "--fail", "-T", tmp_path / "sent", "-H", OCTETS, *more,
            f"{running_service.url}/v2/images/{image_id}/file",
        )  # fmt: skip
        assert checksum(running_service, image_id) == hashlib.md5(DATA).hexdigest()


def test_what_is_refused_is_taken_off_the_wire(running_service: Child) -> None:
    """The client reads its answer when it has sent everything; then the connection goes on."""
    image_id = running_service.client.image(disk_format="raw")["id"]
    talk = Talk(running_service)
    qcow2 = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(112) + DATA
    talk.send("PUT", f"/v2/images/{image_id}/file", OCTETS, body=qcow2 + bytes(20 * MIB))
    code, said = talk.next()
    assert (code, b"qcow2" in said) == (415, True)
    talk.send("GET", f"/v2/images/{image_id}")
    code, said = talk.next()
    assert (code, json.loads(said)["status"]) == (200, "queued")
    talk.close()


@pytest.mark.parametrize("sender", ["whole", "in chunks"])
def test_a_size_that_is_announced_is_the_size_that_comes(service: Asked, sender: str) -> None:
    for said in (len(DATA), len(DATA) + 1, 1):
        image_id = service.admin.image()["id"]
        answer = service.admin.put(
            f"/v2/images/{image_id}/file",
            content=DATA if sender == "whole" else iter([DATA]),
            headers={
                "content-type": "application/octet-stream",
                "x-openstack-image-size": str(said),
            },
        )
        right = said == len(DATA)
        assert answer.status_code == (204 if right else 400)
        assert service.admin.shown(image_id)["status"] == ("active" if right else "queued")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Child]:
    """A service that waits for a second."""
    child = start_with(tmp_path, server={"idle_seconds": 1})
    yield child
    child.http.close()
    if child.process.poll() is None:
        assert child.stop() == 0


def test_bytes_that_trickle_are_waited_for(impatient: Child) -> None:
    image_id = impatient.client.image()["id"]
    talk = Talk(impatient)
    talk.send("PUT", f"/v2/images/{image_id}/file", OCTETS, "Content-Length: 1500")
    for begin in range(0, 1500, 300):
        time.sleep(0.6)
        talk.socket.sendall(DATA[begin : begin + 300])
    assert talk.next() == (204, b"")
    talk.close()
    assert checksum(impatient, image_id) == hashlib.md5(DATA[:1500]).hexdigest()


def test_a_client_that_hangs_up_in_a_body_leaves_the_image_queued(running_service: Child) -> None:
    for sent in (0, 100, MIB + 5):
        image_id = running_service.client.image()["id"]
        talk = Talk(running_service)
        path = f"/v2/images/{image_id}/file"
        talk.send("PUT", path, OCTETS, f"Content-Length: {len(DATA)}")
        talk.socket.sendall(DATA[:sent])
        end = time.monotonic() + 30
        while status(running_service, image_id) != "saving":
            assert time.monotonic() < end
            time.sleep(0.02)
        talk.close()
        while status(running_service, image_id) != "queued":
            assert time.monotonic() < end
            time.sleep(0.02)
