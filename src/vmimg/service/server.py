"""Runs the service: uvicorn, with what it needs of it said in one place."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import signal
import socket
from typing import Final

import uvicorn
from uvicorn.protocols.http import httptools_impl

from vmimg.service.application import application, assemble
from vmimg.service.data.arriving import PIECE
from vmimg.service.http.logs import configure
from vmimg.service.http.wire import protocol
from vmimg.service.settings import Settings

__all__ = ["check", "run"]

_log: Final = logging.getLogger("vmimg.service")
# malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX. Few arenas, since each may keep as much
# as the second says.
_MALLOC: Final = ((-3, 8 << 20), (-1, 16 << 20), (-8, 4))


def check(settings: Settings) -> None:
    """Raise what `run` would raise before it listens, and what would go wrong with quotas then."""
    service = assemble(settings)
    try:
        if service.unified is not None:
            service.unified.check()
    finally:
        service.close()


def run(settings: Settings) -> None:
    """Serve until told to stop, by SIGTERM or SIGINT.

    Raises OptionError and StorageError before it listens.
    """
    configure(settings.logging.level, settings.logging.form)
    service = assemble(settings)
    # What is there by now stays: no collection goes through it again, in the middle of an answer.
    gc.collect()
    gc.freeze()
    _spare_the_kernel()
    config = uvicorn.Config(
        application(service),
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=protocol(settings.server.idle_seconds),
        timeout_graceful_shutdown=math.ceil(settings.server.shutdown_seconds),
    )
    # uvicorn raises a signal once more when it has done what the signal asked for: an end that was
    # asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    _Server(config).run()


class _Server(uvicorn.Server):
    """Says where it listens when it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                _log.info("listening on http://%s:%d", host, port)


def _spare_the_kernel() -> None:
    """Move data in pieces that are large, and in memory that is there already."""
    # What comes while a handler works on the last message is the next: uvicorn's own bound makes
    # sixteen of a megabyte, and each costs a turn of the loop.
    httptools_impl.HIGH_WATER_LIMIT = PIECE  # type: ignore[attr-defined]
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # glibc alone has it
    # glibc would return each piece to the kernel and have it zeroed for the next: a third of the
    # loop's time in an upload.
    for parameter, value in _MALLOC:
        mallopt(parameter, value)


def _ended(_number: int, _frame: object) -> None:
    pass
