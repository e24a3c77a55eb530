"""Clients, servers and settings that make trouble, for tests of the service."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from asking import Asked, Child, start_service

__all__ = [
    *("DATA", "MIB", "OCTETS", "Dripping", "Slow", "Uploading", "Wire", "is_clean", "put"),
    *("start_with", "status", "waited"),
]

OCTETS = {"content-type": "application/octet-stream"}
MIB = 1 << 20
DATA = random.Random(9).randbytes(3 * MIB)


def waited(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``condition`` returns, when it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)
    return found


def is_clean(service: Asked) -> bool:
    """Nothing lies in the stores or the staging area."""
    everything = (*service.service.stores.values(), service.service.staging)
    return not any(list(store.list()) for store in everything)


class Dripping:
    """A web server that sends `DATA` with a ``pause`` between pieces."""

    def __init__(self) -> None:
        self.pause = 0.1
        self.begun = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                try:
                    self._send(client)
                except ConnectionError:
                    pass

    def _send(self, client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))
        for at in range(0, len(DATA), 1 << 16):
            client.sendall(DATA[at : at + (1 << 16)])
            self.begun.set()
            time.sleep(self.pause)


class Wire:
    """A request by hand."""

    def __init__(self, child: Child, head: str) -> None:
        host, port = child.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), 30)
        self.socket.sendall(head.replace("\n", "\r\n").encode())

    def answer(self) -> bytes:
        """All that comes until the connection ends."""
        came = b""
        try:
            while piece := self.socket.recv(1 << 16):
                came += piece
        except ConnectionError:
            pass
        return came

    def close(self) -> None:
        self.socket.close()


def put(child: Child, image_id: str, length: int) -> Wire:
    """An upload that is said to be so long."""
    return Wire(
        child,
        f"PUT /v2/images/{image_id}/file HTTP/1.1\nHost: x\n"
        f"Content-Type: application/octet-stream\nContent-Length: {length}\n\n",
    )


def status(child: Child, image_id: str) -> str:
    return str(child.client.shown(image_id)["status"])


class Slow:
    """A body that goes on until it is let."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        half = len(self._data) // 2
        yield self._data[:half]
        self.begun.set()
        assert self.go_on.wait(30)
        yield self._data[half:]


class Uploading:
    """An upload to a running service, stopped in its middle."""

    def __init__(self, child: Child, image_id: str, data: bytes, what: str = "file") -> None:
        self._body = Slow(data)
        self._url = f"{child.url}/v2/images/{image_id}/{what}"
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._body.begun.wait(30)
        state = "saving" if what == "file" else "uploading"
        waited(lambda: status(child, image_id) == state)

    def _run(self) -> None:
        try:
            self.answer = httpx.put(self._url, content=iter(self._body), headers=OCTETS, timeout=60)
        except httpx.TransportError:
            pass

    def end(self) -> httpx.Response | None:
        """Send the rest; the answer, if there is one."""
        self._body.go_on.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.answer


def start_with(folder: Path, **sections: dict[str, Any]) -> Child:
    """A service with these settings."""
    config = folder / "vmimg.toml"
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(each)}" for key, each in values.items())]
    config.write_text("\n".join(lines))
    return start_service(folder, "--config", str(config))
