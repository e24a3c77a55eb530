"""Files handed to the kernel to send: what is stored as it is asked for need not pass through here.

As ASGI's extension "zero copy send" has it: `http.response.zerocopysend` with file, offset, count.
uvicorn does not know it; `wire` adds it to its protocol. Imports starlette.
"""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import Any, Final

from starlette.requests import ClientDisconnect

__all__ = ["ZERO_COPY", "send_file"]

ZERO_COPY: Final = "http.response.zerocopysend"

_GONE: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.EBADF}
)


async def send_file(transport: Any, file: int, offset: int, count: int) -> None:
    """Send a range of the file behind what the transport was given before.

    Raises ClientDisconnect, and OSError where the file cannot be read or ends early.
    """
    pause = 0.0
    while transport.get_write_buffer_size():
        await asyncio.sleep(pause)
        pause = 0.01
    try:
        # uvloop lets nobody else wait on a descriptor of its own.
        to = os.dup(transport.get_extra_info("socket").fileno())
    except OSError as error:
        raise ClientDisconnect from error
    try:
        while count:
            try:
                sent = await _in_thread(partial(os.sendfile, to, file, offset, count))
            except BlockingIOError:
                await _writable(to)
                continue
            if not sent:
                raise OSError(errno.EIO, "the file ends early")
            offset += sent
            count -= sent
    except OSError as error:
        if error.errno in _GONE:
            raise ClientDisconnect from error
        raise
    finally:
        os.close(to)


async def _in_thread(call: Any) -> Any:
    """The kernel may have to wait for a disk. Nothing is closed before it is done."""
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
