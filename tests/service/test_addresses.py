"""Addresses that users give: where the service goes for them, and what it takes from there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asking import Asked
from test_imports import begin, ended
from trouble import is_clean
from vmimg.errors import StorageError, UnsafeImage
from vmimg.service.settings import Imports
from vmimg.service.web.fetching import check_url, fetch

PUBLIC = "93.184.215.14"

PRIVATE = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "::127.0.0.1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe"),
    *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:c0a8:101::1", "2001::1", "2001:db8::1", "3fff::1", "100::1"),
    *("fe80::1", "febf::1", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "ff0e::1", "5f00::1"),
)

NUMBERS = (
    *("2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1"),
    *("0x7f.0x0.0x0.0x1", "0", "00", "127.0.0.1.", "127.0.0.01", "0x", "localhost.1"),
)


def answers(*addresses: str) -> Callable[..., list[tuple[Any, ...]]]:
    """A resolver that has these for every name, in turn; the last for ever."""
    left = list(addresses)

    def look_up(host: str, port: int, **_how: Any) -> list[tuple[Any, ...]]:
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    return look_up


def refused(url: str, rules: Imports | None = None, **how: Any) -> str:
    """Why it may not be asked."""
    with pytest.raises(UnsafeImage) as caught, fetch(url, rules or Imports(), **how):
        pass
    return str(caught.value)


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_private_network_is_refused_by_number(address: str) -> None:
    with pytest.raises(UnsafeImage):
        check_url(f"http://{in_url(address)}/disk", Imports())


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_private_network_is_refused_by_name(address: str) -> None:
    assert "public" in refused("http://example.org/disk", look_up=answers(address))


@pytest.mark.parametrize("number", NUMBERS)
def test_other_notations_of_numbers_are_refused(number: str) -> None:
    with pytest.raises(UnsafeImage):
        check_url(f"http://{number}/disk", Imports())


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a", "https://example.org:443/a?b=c", "http://93.184.215.14/",
     "http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/a", "http://64.example.org/"],
)  # fmt: skip
def test_public_addresses_may_be_asked(url: str) -> None:
    assert check_url(url, Imports()).geturl() == url


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "//example.org/",
        "example.org", "", "http://", "http:///a", "http:example.org", "jar:http://example.org/",
        "http://example.org:22/", "http://example.org:8080/", "http://example.org:99999/",
        "http://example.org:-1/", "http://example.org:x/", "https://user@example.org/",
        "http://user:secret@example.org/", "http://example.org@127.0.0.1/", "http://[::1",
        "http://example.org/\r\nX-Evil: 1", "http://example.org/a b", "http://example.org/\t",
        "http://exa\nmple.org/", "http://example.org/\0", "http://exämple.org/",
        "http://example.org/" + "a" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(UnsafeImage):
        check_url(url, Imports())


def test_only_hosts_that_are_listed_may_be_asked() -> None:
    rules = Imports(hosts=("images.example.org",))
    check_url("http://images.example.org/disk", rules)
    for url in ("http://example.org/disk", "http://images.example.org.evil.example/disk"):
        with pytest.raises(UnsafeImage):
            check_url(url, rules)


def test_one_private_address_among_public_ones_is_one_too_many() -> None:
    def look_up(host: str, port: int, **_how: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in (PUBLIC, "10.0.0.1")
        ]

    assert "public" in refused("http://example.org/disk", look_up=look_up)


def test_a_host_whose_name_cannot_be_looked_up() -> None:
    for host in ("a" * 64 + ".example", "a..example.org"):
        with pytest.raises(StorageError), fetch(f"http://{host}/disk", Imports()):
            pass


# Servers


class Serving:
    """A server that sends what a test says, one answer for each connection; the last for ever."""

    def __init__(self, *scripts: bytes | Callable[[socket.socket], None]) -> None:
        self._scripts = list(scripts)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.asked: list[bytes] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def rules(self) -> Imports:
        """That it may be asked."""
        return Imports(private_addresses=True, ports=(self.port,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/disk"

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
            thread = threading.Thread(target=self._answer, args=(client, script))
            thread.start()
            self._threads.append(thread)

    def _answer(self, client: socket.socket, script: bytes | Callable[..., None]) -> None:
        with client:
            try:
                self.asked.append(client.recv(1 << 16))
                if callable(script):
                    script(client)
                else:
                    client.sendall(script)
            except OSError:
                pass


@contextmanager
def serving(*scripts: bytes | Callable[[socket.socket], None]) -> Iterator[Serving]:
    server = Serving(*scripts)
    try:
        yield server
    finally:
        server.stop()


def to(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def fetched(server: Serving, **how: Any) -> bytes:
    with fetch(server.url, how.pop("rules", server.rules), **how) as coming:
        return b"".join(coming.pieces)


def broken(server: Serving, **how: Any) -> str:
    """Why it cannot be had; within a few seconds."""
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        fetched(server, **how)
    assert time.monotonic() - began < 20
    assert len(str(caught.value)) < 500
    return str(caught.value)


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"


def test_what_a_server_has_is_fetched_without_credentials() -> None:
    with serving(GOOD) as server:
        assert fetched(server) == b"data"
    head = server.asked[0].lower()
    assert head.startswith(b"get /disk http/1.1\r\n")
    assert b"accept-encoding: identity" in head
    assert b"authorization" not in head and b"x-auth-token" not in head


def test_a_redirect_is_followed() -> None:
    with serving(to("/elsewhere?a=b"), GOOD) as server:
        assert fetched(server) == b"data"
    assert server.asked[1].startswith(b"GET /elsewhere?a=b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest/meta-data", "http://0x7f.1/", "http://[::1]/", "file:///etc/x",
     "//10.0.0.1/", "http://u:p@example.org/", "http://example.org:22/", "http://[x/", "\xe4"],
)  # fmt: skip
def test_a_redirect_to_where_nobody_may_go_is_refused(location: str) -> None:
    script = to(location)

    def look_up(host: str, port: int, **_how: Any) -> list[tuple[Any, ...]]:
        # The first is this computer in truth; nobody asks for the others.
        assert host == "example.org"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with serving(script) as server:
        first = Imports(hosts=(f"example.org:{server.port}",), private_addresses=False)
        url = f"http://example.org:{server.port}/"
        with pytest.raises((UnsafeImage, StorageError)), fetch(url, first, look_up=look_up):
            pass
        assert len(server.asked) == 1


def test_what_stands_in_a_refused_redirect_is_not_told() -> None:
    location = "http://example.org:22/x?key=hidden"
    with serving(to(location)) as server, pytest.raises(UnsafeImage) as caught:
        fetched(server)
    assert "hidden" not in str(caught.value)


def test_redirects_end() -> None:
    with serving(to("/disk")) as server:
        assert "redirects too often" in broken(server)
    assert len(server.asked) == 6


def test_a_name_that_answers_differently_the_next_time_gains_nothing() -> None:
    """The connection goes to the address that was checked: there is no second question."""
    asked: list[str] = []

    def look_up(host: str, port: int, **_how: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with serving(GOOD) as server:
        url = f"http://rebinding.example:{server.port}/disk"
        with fetch(url, server.rules, look_up=look_up) as coming:
            assert b"".join(coming.pieces) == b"data"
    assert asked == ["rebinding.example"]
    assert b"Host: rebinding.example" in server.asked[0]


def drip(client: socket.socket, head: bytes, piece: bytes) -> None:
    client.sendall(head)
    for _ in range(600):
        client.sendall(piece)
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["status", "header", "continue", "body", "chunk", "trailer"],
)
def test_a_server_that_drips_is_left(head: bytes, piece: bytes) -> None:
    with serving(lambda client: drip(client, head, piece)) as server:
        broken(server, seconds=1.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: a\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 40 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
        b"SSH-2.0-OpenSSH_9.2 secret\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret",
        b"HTTP/1.1 401 No\r\n\r\n",
        b"",
    ],
    ids=["long", "many", "short", "huge", "chunk", "cut", "ssh", "404", "401", "nothing"],
)
def test_answers_that_are_none_are_one_clear_error(answer: bytes) -> None:
    with serving(answer) as server:
        assert "secret" not in broken(server)


def test_what_comes_after_the_length_that_was_said_is_left() -> None:
    with serving(GOOD + b"more" * 1000) as server:
        assert fetched(server) == b"data"


# Through the service


@pytest.fixture
def said(tmp_path: Path) -> dict[str, Any]:
    """Images of at most 2 MiB."""
    return {
        "limits": {"image_size": 2 << 20},
        "imports": {"private_addresses": True},
    }


def endless(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        client.sendall(bytes(1 << 16))


@pytest.mark.parametrize(
    "script", [endless, b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]
)
def test_a_body_without_end_is_bounded(
    service: Asked, script: bytes | Callable[[socket.socket], None]
) -> None:
    with serving(script) as server:
        rules = service.service.settings.imports.model_copy(update={"ports": (server.port,)})
        object.__setattr__(service.service.settings, "imports", rules)
        image_id = service.admin.image()["id"]
        assert begin(service.admin, image_id, "web-download", uri=server.url).status_code == 202
        task = ended(service.admin, image_id)
    assert task["status"] == "failure"
    assert "larger than the limit" in task["message"]
    assert service.admin.shown(image_id)["status"] == "queued"
    assert is_clean(service)
