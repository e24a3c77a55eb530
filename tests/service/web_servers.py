"""Web servers for tests: pages that change, redirect, or give no ranges; and files of a directory.

with web_server() as web:
    web.pages["/disk"] = Page(data)
    web.url("/disk")
"""

from __future__ import annotations

import http.server
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Files", "Page", "Web", "web_server"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Page:
    """What is at a path."""

    data: bytes = b""
    etag: str = ""
    ranges: bool = True
    """Whether a range that is asked for is what comes."""
    status: int = 200
    to: str = ""
    """Where it redirects to."""
    before: Callable[[Web], None] | None = None
    """Called when it is asked for, before the answer."""
    cut: int | None = None
    """The connection ends after so many bytes of the body."""


@dataclass
class Web:
    """A server on this computer."""

    port: int = 0
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request."""

    def url(self, path: str) -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def web_server() -> Iterator[Web]:
    """A server, until the end of the block."""
    web = Web()

    class Handler(_Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.asked.append((self.command, self.path, self.headers.get("range", "")))
            page = web.pages.get(self.path.partition("?")[0], Page(status=404))
            if page.before is not None:
                page.before(web)
                page = web.pages.get(self.path.partition("?")[0], Page(status=404))
            _answer(self, page)

        do_HEAD = do_GET  # noqa: N815

    server = _Server(("127.0.0.1", 0), Handler)
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has read enough goes, in the middle of an answer too."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Files(_Quiet):
    """The files of ``directory``, with ranges."""

    directory: Path

    def do_GET(self) -> None:
        path = self.directory / self.path.partition("?")[0].strip("/")
        known = path.is_file() and path.parent == self.directory
        _answer(self, Page(path.read_bytes()) if known else Page(status=404))

    do_HEAD = do_GET  # noqa: N815


def _answer(handler: http.server.BaseHTTPRequestHandler, page: Page) -> None:
    data, status = page.data, page.status
    asked = _RANGE.fullmatch(handler.headers.get("range", ""))
    headers = {"ETag": page.etag} if page.etag else {}
    if page.to:
        data, status = b"", 302
        headers["Location"] = page.to
    elif status == 200 and asked and page.ranges:
        start, total = int(asked[1]), len(data)
        end = min(int(asked[2]) + 1 if asked[2] else total, total)
        if start < end:
            data, status = data[start:end], 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        else:
            data, status = b"", 416
            headers["Content-Range"] = f"bytes */{total}"
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(data))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    handler.wfile.write(data[: page.cut])
    if page.cut is not None:
        handler.close_connection = True
