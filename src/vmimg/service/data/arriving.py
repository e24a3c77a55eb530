"""Bytes that arrive: hashed, looked into and stored, once, while they stream.

Two hashes and the store each have a lane, on which pieces wait for a thread: memory is a few pieces
for each transfer, however large the image is. `Intake` is the same for bytes that a client sends
(`take_all`, in the event loop) and for those that a task fetches (`Intake.take`, in its thread).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any, Final

from vmimg.service.http.errors import HTTPError
from vmimg.service.http.receiving import Piece
from vmimg.service.stores.base import Putting

__all__ = ["AHEAD", "PIECE", "Arrived", "Intake", "take_all"]

PIECE: Final = 1 << 20
AHEAD: Final = 3
"""Pieces of one transfer that are worked on, or wait."""
# Of a lane, before others get the thread.
_TURN: Final = 16


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came."""

    size: int
    checksum: str
    """MD5, as Glance has it."""
    hash_algorithm: str
    hash_value: str


class Intake:
    """Takes pieces in order, for ``putting``, which is not committed in the end.

    ``look`` sees each piece, and stops the whole by an exception. ``limit``: bytes, 0 for none.
    """

    def __init__(
        self,
        putting: Putting,
        pool: Executor,
        *,
        algorithm: str = "sha512",
        limit: int = 0,
        look: Callable[[Piece], None] | None = None,
    ) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._secure = hashlib.new(algorithm)

        def keep(piece: Piece) -> None:
            if look is not None:
                look(piece)
            putting.write(piece)

        sinks: list[Callable[[Piece], Any]] = [self._secure.update, self._md5.update, keep]
        self._lanes = [_Lane(sink, pool) for sink in sinks]
        self._limit = limit
        self._under_way: deque[Future[None]] = deque()
        self.size = 0
        self.spare: list[bytearray] = []
        """Buffers of `PIECE` bytes that all lanes are done with."""

    def begin(self, piece: Piece) -> None:
        """Start on ``piece``.

        Raises HTTPError 413 above the limit.
        """
        self.size += len(piece)
        if self._limit and self.size > self._limit:
            raise HTTPError(413, f"The image is larger than the limit of {self._limit} bytes.")
        given = _Piece(piece, len(self._lanes), self.spare)
        self._under_way.append(given.done)
        for lane in self._lanes:
            lane.put(given)

    def oldest(self, *, ahead: int) -> Future[None] | None:
        """The piece to wait for until no more than ``ahead`` are under way; None when it is so."""
        return self._under_way.popleft() if len(self._under_way) > ahead else None

    @property
    def under_way(self) -> list[Future[None]]:
        """What has to be waited for before letting go."""
        return list(self._under_way)

    def take(self, piece: Piece) -> None:
        """Start on this piece, as soon as there is room. Raises what an earlier one met."""
        self.settle(ahead=AHEAD - 1)
        self.begin(piece)

    def settle(self, ahead: int = 0) -> None:
        """Wait until no more than ``ahead`` pieces are under way. Raises what they met."""
        try:
            while (oldest := self.oldest(ahead=ahead)) is not None:
                oldest.result()
        except BaseException:
            # The first is the reason; what those behind it met comes of that.
            wait(self._under_way)
            self._under_way.clear()
            raise

    def arrived(self) -> Arrived:
        """What came, when the last piece was waited for."""
        return Arrived(
            self.size, self._md5.hexdigest(), self._secure.name, self._secure.hexdigest()
        )


class _Piece:
    """Bytes on their way through all lanes; ``done`` says when they are, and what one met."""

    def __init__(self, data: Piece, lanes: int, spare: list[bytearray]) -> None:
        self.data = data
        self._spare = spare
        self.done: Future[None] = Future()
        # What threads work on is not cancelled.
        self.done.set_running_or_notify_cancel()
        self._left = lanes
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def leave(self, error: BaseException | None) -> None:
        """One lane has it behind it."""
        with self._lock:
            self._error = self._error or error
            self._left -= 1
            if self._left:
                return
        if (
            isinstance(self.data, bytearray)
            and len(self.data) == PIECE
            and len(self._spare) <= AHEAD
        ):
            self._spare.append(self.data)
        if self._error is not None:
            self.done.set_exception(self._error)
        else:
            self.done.set_result(None)


class _Lane:
    """One thing to do with each piece, in order, in a thread of the pool as long as there are some.

    Lanes do not wait for each other: on a busy machine each wait is a turn of everybody else.
    """

    def __init__(self, sink: Callable[[Piece], Any], pool: Executor) -> None:
        self._sink = sink
        self._pool = pool
        self._waiting: deque[_Piece] = deque()
        self._running = False
        self._lock = threading.Lock()

    def put(self, piece: _Piece) -> None:
        """One more."""
        with self._lock:
            self._waiting.append(piece)
            start, self._running = not self._running, True
        if start:
            self._pool.submit(self._run)

    def _run(self) -> None:
        for _ in range(_TURN):
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                piece = self._waiting.popleft()
            error: BaseException | None = None
            try:
                self._sink(piece.data)
            except BaseException as met:
                error = met
            piece.leave(error)
        # There are more transfers than threads.
        self._pool.submit(self._run)


async def take_all(pieces: AsyncIterator[Piece], intake: Intake) -> Arrived:
    """Feed ``intake`` with what a client sends, to its end.

    Raises what the client's connection, the intake and its sinks raise; no thread is in the store
    any more by then.
    """
    try:
        async for piece in pieces:
            intake.begin(piece)
            # Before the next is received: meanwhile the kernel gathers it.
            await _settled(intake, AHEAD - 1)
        await _settled(intake, 0)
    except BaseException:
        # Cancelled or failed: the threads finish what they have before the store is let go.
        await asyncio.shield(_quiet(intake))
        raise
    return intake.arrived()


async def _settled(intake: Intake, ahead: int) -> None:
    while (oldest := intake.oldest(ahead=ahead)) is not None:
        await asyncio.wrap_future(oldest)


async def _quiet(intake: Intake) -> None:
    await asyncio.gather(
        *(asyncio.wrap_future(each) for each in intake.under_way), return_exceptions=True
    )
