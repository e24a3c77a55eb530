"""Bodies received from the socket straight into the memory that they are worked on in.

On the common way a byte is copied by the loop, the parser, the server and the application, which
costs as much as a hash. `wire` hands out the short way, `RECEIVE_INTO` in the scope of a request,
where the length is known and nothing lies between; elsewhere the messages of ASGI are gathered.
Imports starlette.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect, Request

__all__ = ["RECEIVE_INTO", "Body", "Piece", "ReceiveInto", "pieces"]

RECEIVE_INTO: Final = "vmimg.receive_into"

ReceiveInto = Callable[[memoryview], Awaitable[int]]
"""Fills the buffer; returns how much of it, which is less at the body's end alone."""
Piece = bytes | bytearray
# Bytes to be woken for, if as many are to come.
_WORTH: Final = 128 << 10


async def pieces(
    request: Request, length: int | None, size: int, spare: list[bytearray]
) -> AsyncIterator[Piece]:
    """The body in pieces of at least ``size`` bytes; the last has less.

    ``length``: bytes of all, where it is known. ``spare``: buffers of ``size`` bytes that nobody
    uses any more, to be filled again. Raises ClientDisconnect, TimeoutError.
    """
    receive: ReceiveInto | None = request.scope.get(RECEIVE_INTO)
    if receive is None or length is None:
        async for gathered in _gathered(request, size):
            yield gathered
        return
    left = length
    while left:
        piece = spare.pop() if spare and left >= size else bytearray(min(size, left))
        with memoryview(piece) as view:
            got = await receive(view)
        left -= got
        if got < len(piece):
            left = 0
            del piece[got:]
        yield piece


async def _gathered(request: Request, size: int) -> AsyncIterator[bytes]:
    chunks: list[bytes] = []
    held = 0
    async for chunk in request.stream():
        chunks.append(chunk)
        held += len(chunk)
        if held >= size:
            yield b"".join(chunks)
            chunks.clear()
            held = 0
    if chunks:
        yield b"".join(chunks)


class Body:
    """``left`` bytes of a body that are still to come from a connection whose transport is paused.

    ``patience``: seconds without a byte, after which the client is given up; 0 is forever.
    """

    def __init__(self, transport: asyncio.BaseTransport, left: int, patience: float) -> None:
        self.left = left
        self._patience = patience or None
        # uvloop lets nobody else wait on a descriptor of its own.
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._ready = asyncio.Event()

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill it, to the end of the body. Raises ClientDisconnect, TimeoutError."""
        done, wanted = 0, min(len(buffer), self.left)
        while done < wanted:
            got = self._receive(buffer[done:wanted])
            if got < 0:
                in_time = await self._readable(wanted - done)
                got = self._receive(buffer[done:wanted])
                if got < 0 and not in_time:
                    raise TimeoutError
            done += max(0, got)
            self.left -= max(0, got)
        return done

    def _receive(self, buffer: memoryview) -> int:
        """What is there; -1 when there is nothing yet."""
        try:
            got = self._socket.recv_into(buffer)
        except BlockingIOError:
            return -1
        except OSError as error:
            raise ClientDisconnect from error
        if not got:
            raise ClientDisconnect
        return got

    async def _readable(self, count: int) -> bool:
        """Wait until ``count`` bytes are there, or a good part of them; whether they came in time.

        Woken for every packet, a thread would do little else.
        """
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(count, _WORTH))
        self._ready.clear()
        loop.add_reader(self._socket, self._ready.set)
        try:
            async with asyncio.timeout(self._patience):
                await self._ready.wait()
            return True
        except TimeoutError:
            return False
        finally:
            if self._socket.fileno() >= 0:
                loop.remove_reader(self._socket)

    def close(self) -> None:
        """Let go of the connection; who waits for it gets ClientDisconnect."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            with suppress(OSError):
                # The connection has it, not this descriptor; the next head is shorter.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self._socket.close()
        self._ready.set()
