"""A client of image services that costs next to nothing, so that it is the server that is measured.

What is sent goes from a file to the socket within the kernel; what comes is thrown away there
(MSG_TRUNC), or hashed where it is to be checked. Only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

__all__ = ["Answer", "ask", "download", "image", "upload"]

_PIECE = 1 << 20
_SECONDS = 600


class Answer:
    """A connection on which a request was sent, and the head of the answer to it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        head = b""
        while b"\r\n\r\n" not in head:
            came = connection.recv(65536)
            if not came:
                raise OSError(f"the server ended the connection after {head!r}")
            head += came
        head, _, self._begun = head.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self._headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }

    def first_byte(self) -> None:
        """Return when there is one."""
        if not self._begun:
            self._begun = self._connection.recv(1)

    def body(self) -> bytes:
        """All of it, in memory."""
        parts = [self._begun]
        length = int(self._headers.get("content-length", -1))
        while length < 0 or sum(map(len, parts)) < length:
            came = self._connection.recv(_PIECE)
            if not came:
                break
            parts.append(came)
        return b"".join(parts)

    def discard(self) -> int:
        """Take it all and keep nothing; how many bytes it was."""
        length = int(self._headers["content-length"])
        come = len(self._begun)
        buffer = bytearray(_PIECE)
        while come < length:
            count = self._connection.recv_into(buffer, _PIECE, socket.MSG_TRUNC)
            if not count:
                raise OSError(f"the answer ends after {come} of {length} bytes")
            come += count
        return come

    def digest(self) -> str:
        """MD5 of it all."""
        length = int(self._headers["content-length"]) - len(self._begun)
        hashed = hashlib.md5(self._begun, usedforsecurity=False)
        while length:
            came = self._connection.recv(min(length, _PIECE))
            if not came:
                raise OSError("the answer ends early")
            hashed.update(came)
            length -= len(came)
        return hashed.hexdigest()


def image(port: int, disk_format: str = "raw") -> str:
    """A new image's id."""
    fields = {"disk_format": disk_format, "container_format": "bare", "visibility": "private"}
    made = ask(port, "POST", "/v2/images", fields)
    return str(made["id"])


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """A small request; what it answers, as JSON. OSError unless it is a success."""
    sent = b"" if body is None else json.dumps(body).encode()
    with _connected(port) as connection:
        connection.sendall(_head(method, path, len(sent), "application/json") + sent)
        answer = Answer(connection)
        said = answer.body()
    if answer.status >= 300:
        raise OSError(f"{method} {path}: {answer.status} {said[:500]!r}")
    return json.loads(said) if said else None


def upload(port: int, image_id: str, path: Path) -> float:
    """Give an image the data of a file; seconds until the server says that it is stored."""
    with path.open("rb") as file, _connected(port) as connection:
        size = os.fstat(file.fileno()).st_size
        began = time.perf_counter()
        connection.sendall(
            _head("PUT", f"/v2/images/{image_id}/file", size, "application/octet-stream")
        )
        at = 0
        while at < size:
            at += os.sendfile(connection.fileno(), file.fileno(), at, min(size - at, _PIECE))
        answer = Answer(connection)
        seconds = time.perf_counter() - began
        if answer.status != 204:
            raise OSError(f"upload: {answer.status} {answer.body()[:500]!r}")
    return seconds


def download(port: int, path: str, how: str = "discard") -> tuple[float, Any]:
    """Get a path; seconds, and what the method ``how`` of the answer returned."""
    with _connected(port) as connection:
        began = time.perf_counter()
        connection.sendall(_head("GET", path, 0))
        answer = Answer(connection)
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status} {answer.body()[:500]!r}")
        found = getattr(answer, how)()
        return time.perf_counter() - began, found


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), _SECONDS)
    connection.settimeout(None)  # a socket with a timeout does not wait in sendfile
    return connection


def _head(method: str, path: str, length: int, media: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    if length or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {length}")
    if media:
        lines.append(f"Content-Type: {media}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
