"""An end for connections to servers that say little, slowly.

A time-out of a socket begins anew with each byte, and who sends one a minute never meets it. Here a
thread closes the connection when its time is over, whatever is being read. Standard library only.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from types import TracebackType
from typing import Self

__all__ = ["Patience"]


class Patience:
    """For ``seconds``, then ``connection`` ends; `more` begins anew, `watch` another connection."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._done = threading.Event()
        self.is_over = False
        self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
        self._thread.start()

    def watch(self, connection: socket.socket) -> None:
        """The same connection, in its wrapping."""
        self._connection = connection

    def more(self) -> None:
        """As much time again, from now on."""
        self._until = time.monotonic() + self._seconds

    def rest(self) -> None:
        """Time does not count until `more`: it is not the server that takes it."""
        self._until = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if self._done.wait(min(left, 1.0)):
                return
        self.is_over = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it ended by itself
