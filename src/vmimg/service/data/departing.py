"""Bytes on their way to a client: a range of a storage, or a stream that is made while it goes.

The next piece is read while the last one is sent; a client that is slow, or gone, holds two pieces
and nothing else. Imports starlette.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vmimg.service.data.presenting import Presented
from vmimg.service.http.handing import ZERO_COPY
from vmimg.storage.base import Buffer
from vmimg.storage.file import FileStorage

__all__ = ["RangeResponse", "StreamResponse"]

_PIECE: Final = 1 << 20
_WAITING: Final = 2


Then = Callable[[], object]
"""What is done when everything was sent: in a thread, and only then."""


class RangeResponse(StreamingResponse):
    """``presented`` from ``start`` to ``end``, and lets go of it whatever happens."""

    def __init__(
        self,
        presented: Presented,
        start: int,
        end: int,
        pool: Executor,
        *,
        status: int,
        headers: dict[str, str],
        then: Then | None = None,
    ) -> None:
        self._presented = presented
        self._range = start, end
        self._then = then
        self._sent = asyncio.Event()
        headers = headers | {"content-length": str(end - start)}
        super().__init__(
            _pieces(presented, start, end, pool, self._sent),
            status,
            headers=headers,
            media_type="application/octet-stream",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._send(scope, receive, send)
        if self._then is not None and self._sent.is_set():
            await run_in_threadpool(self._then)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "HEAD":
                await _head(self, send)
            elif ZERO_COPY in scope.get("extensions", ()) and isinstance(
                self._presented.storage, FileStorage
            ):
                await self._hand_over(self._presented.storage.fileno(), send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            self._presented.release()

    async def _hand_over(self, file: int, send: Send) -> None:
        """What lies in a file goes there from the kernel's memory."""
        await send(_start(self))
        at, end = self._range
        while at < end:
            count = min(_PIECE, end - at)
            await send({"type": ZERO_COPY, "file": file, "offset": at, "count": count})
            at += count
        await send({"type": "http.response.body", "body": b""})
        self._sent.set()


async def _pieces(
    presented: Presented, start: int, end: int, pool: Executor, sent: asyncio.Event
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    read = presented.storage.read

    def begin(at: int) -> asyncio.Future[bytes] | None:
        return loop.run_in_executor(pool, read, at, min(_PIECE, end - at)) if at < end else None

    coming = begin(start)
    try:
        while coming is not None:
            piece = await coming
            start += len(piece)
            coming = begin(start)
            yield piece
        sent.set()
    finally:
        # The thread is done with the storage before anybody closes it.
        if coming is not None:
            await asyncio.gather(asyncio.shield(coming), return_exceptions=True)


class StreamResponse(StreamingResponse):
    """What ``produce`` sends, as it makes it; it runs in a thread of ``pool``.

    ``produce`` gets a function that takes a piece, waits while the client is slow, and raises when
    it is gone.
    """

    def __init__(
        self,
        produce: Callable[[Callable[[Buffer], object]], object],
        pool: Executor,
        *,
        headers: dict[str, str],
        then: Then | None = None,
    ) -> None:
        self._then = then
        self._sent = asyncio.Event()
        super().__init__(
            _made(produce, pool, self._sent), headers=headers, media_type="application/octet-stream"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await _head(self, send)
        else:
            await super().__call__(scope, receive, send)
        if self._then is not None and self._sent.is_set():
            await run_in_threadpool(self._then)


class _Gone(Exception):
    """The client does not listen any more."""


async def _made(
    produce: Callable[[Callable[[Buffer], object]], object], pool: Executor, sent: asyncio.Event
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
    gone = False

    def send(piece: Buffer) -> None:
        if gone:
            raise _Gone
        # The piece's memory is used again as soon as this returns.
        asyncio.run_coroutine_threadsafe(queue.put(bytes(piece)), loop).result()

    def run() -> None:
        try:
            produce(send)
        except _Gone:
            pass
        finally:
            asyncio.run_coroutine_threadsafe(queue.put(None), loop)

    running = loop.run_in_executor(pool, run)
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        await running  # what it met cuts the body short: an unfinished chunked body is an error
        sent.set()
    finally:
        gone = True
        while not running.done():
            while not queue.empty():
                queue.get_nowait()
            await asyncio.wait([running], timeout=0.05)


async def _head(response: Any, send: Send) -> None:
    await send(_start(response))
    await send({"type": "http.response.body", "body": b""})


def _start(response: Any) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }
