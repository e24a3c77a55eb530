"""Streams: an image written strictly from its first byte to its last.

A Writer decides some bytes at the front (a header that says where the tables are) only at the end.
So an image is laid out twice: `Rehearsal` goes through everything, moves nothing, and keeps just
those late bytes; `OrderedSink` then sends the image, the late bytes in their place. The same
windows and the same coders give the same layout, and the stream equals the file.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer
from vmimg.transfer.imaging import NoSink, Piece
from vmimg.units import MIB

__all__ = ["ByteSink", "OrderedSink", "Rehearsal"]

_ZEROS = memoryview(bytes(1 * MIB))


class ByteSink(Protocol):
    """Takes bytes in order."""

    def write(self, data: Buffer) -> None:
        """All of ``data``, or an error."""


class Rehearsal(NoSink):
    """Finds out which metadata comes late: below what a stream has sent by then."""

    def __init__(self) -> None:
        self._position = 0
        self.late: dict[int, bytes] = {}

    def accept(self, pieces: list[Piece], settled: int) -> None:
        for piece in pieces:
            if piece.offset < self._position:
                self.late[piece.offset] = b"".join(piece.parts)
        self._position = max(self._position, settled)


class OrderedSink(NoSink):
    """Sends pieces in the order of their offsets, zeros between them.

    Holds back only what lies behind the writer's settled offset.
    """

    wants_data = True

    def __init__(self, target: ByteSink, name: str, late: dict[int, bytes] | None = None) -> None:
        self._target = target
        self._name = name
        self._late = late or {}
        self._position = 0
        self._sequence = 0
        self._waiting: list[tuple[int, int, list[Buffer]]] = []
        for offset, data in self._late.items():
            self._push(offset, [data])

    def accept(self, pieces: list[Piece], settled: int) -> None:
        for piece in pieces:
            if piece.offset >= self._position:
                self._push(piece.offset, piece.parts)
            elif self._late.get(piece.offset) != b"".join(piece.parts):
                raise StorageError(
                    f"{self._name}: the source changed while it was being streamed; "
                    "the stream so far is worthless"
                )
        while self._waiting and self._waiting[0][0] < settled:
            offset, _, parts = heapq.heappop(self._waiting)
            self._fill(offset)
            for part in parts:
                self._target.write(part)
                self._position += len(part)
        self._fill(settled)
        # What waits on belongs to buffers that are about to be reused.
        self._waiting = [(o, n, [bytes(p) for p in parts]) for o, n, parts in self._waiting]

    def finish(self, file_size: int, companion_sizes: Sequence[int]) -> None:
        self._fill(file_size)

    def _push(self, offset: int, parts: list[Buffer]) -> None:
        heapq.heappush(self._waiting, (offset, self._sequence, parts))
        self._sequence += 1

    def _fill(self, offset: int) -> None:
        while self._position < offset:
            count = min(len(_ZEROS), offset - self._position)
            self._target.write(_ZEROS[:count])
            self._position += count
