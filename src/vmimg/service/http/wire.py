"""HTTP on the wire: uvicorn's, with bounds that it lacks.

A request's head is bounded in size, and in time: who connects and says nothing, or says it byte by
byte, is let go. Answers that nobody takes are dropped with their connection. A range of a
file is handed to the kernel. Imports uvicorn.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vmimg.service.http.handing import ZERO_COPY, send_file

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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
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
