"""HTTP on the wire: uvicorn's, with bounds that it lacks.

A request's head is bounded in size, and in time: who connects and says nothing, or says it byte by
byte, is let go. Answers that nobody takes are dropped with their connection. A range of a
file is handed to the kernel; a body whose length is known can be taken from the socket past the
parser, which then begins anew behind it. Imports uvicorn, httptools, handing and receiving.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any, Final

import httptools
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vmimg.service.http.handing import ZERO_COPY, send_file
from vmimg.service.http.receiving import RECEIVE_INTO, Body

__all__ = ["ABORT", "protocol"]

ABORT: Final = "vmimg.abort"
"""In the scope of a request: drops its connection, and what was not sent yet."""

# The first line and all headers. Tokens of Keystone take up to 16 KiB.
_MOST_HEAD: Final = 64 << 10


def protocol(seconds: float) -> type[HttpToolsProtocol]:
    """For connections whose heads must come within so many seconds; 0 is forever."""
    return type("Bounded", (_Bounded,), {"patience": seconds})


class _Bounded(HttpToolsProtocol):
    patience = 0.0
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head = 0
    _left = 0
    """Bytes of the body that the parser has not seen, where the head tells how long it is."""
    _body: Body | None = None
    _skip = 0
    """Bytes of a body that nobody wants any more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._body is not None:
            self._body.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            # The parser keeps what has no end yet.
            self._head += len(data)
            if self._head > _MOST_HEAD:
                self.send_400_response("The head of the request is too large.")
                return
        elif self.cycle is None or self.cycle.response_complete:
            self._arm()
        if self._skip:
            self._unset_keepalive_if_required()
            data, self._skip = data[self._skip :], max(0, self._skip - len(data))
            if not data:
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head = True, 0
        scope: Any = self.scope
        scope[ABORT] = self.transport.abort
        if hasattr(os, "sendfile") and self.scheme == "http":
            scope["extensions"] = {ZERO_COPY: {}}
            scope[ZERO_COPY] = self._hand_over

    def on_headers_complete(self) -> None:
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > _MOST_HEAD
        ):
            # The parser ends with it, and the client gets 400.
            raise ValueError("the head is too large")
        self._in_head = False
        self._disarm()
        super().on_headers_complete()
        said = [value for name, value in self.headers if name == b"content-length"]
        if said and self.scheme == "http":
            self._left = int(said[0])
            scope: Any = self.scope
            scope[RECEIVE_INTO] = partial(self._receive_into, self.cycle)

    def on_body(self, body: bytes) -> None:
        self._left -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        if self._body is not None:
            self._resume(self._body)
        super().on_response_complete()

    async def _receive_into(self, cycle: RequestResponseCycle, buffer: memoryview) -> int:
        """Fill it with the body of the request that ``cycle`` is about."""
        if cycle.more_body and self._body is None:
            if self.transport.is_closing():
                raise ClientDisconnect
            self.flow.pause_reading()
            if cycle.waiting_for_100_continue:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                cycle.waiting_for_100_continue = False
            self._body = Body(self.transport, self._left, self.patience)
        parsed = min(len(buffer), len(cycle.body))
        buffer[:parsed] = cycle.body[:parsed]
        del cycle.body[:parsed]
        if self._body is None:
            return parsed
        got = await self._body.receive_into(buffer[parsed:])
        if not self._body.left:
            cycle.more_body = False
            self._resume(self._body)
            self.flow.resume_reading()
        return parsed + got

    def _resume(self, body: Body) -> None:
        """The parser goes on, behind ``body``, which it saw only the beginning of."""
        self._skip = body.left
        body.close()
        self._body = None
        self.parser = httptools.HttpRequestParser(self)

    async def _hand_over(self, message: Any) -> None:
        cycle = self.cycle
        try:
            await send_file(self.transport, message["file"], message["offset"], message["count"])
        except ClientDisconnect:
            # uvicorn is to know before the request ends.
            self.transport.abort()
            cycle.disconnected = True
            raise
        cycle.expected_content_length -= message["count"]

    def _arm(self) -> None:
        if self._timer is None and self.patience:
            self._timer = self.loop.call_later(self.patience, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.abort()
