"""Held: what has been kept of a stream, as a storage.

A stream cannot be asked for a byte that has gone by. Its head and its tail are kept, and the ranges
that a watcher wanted; reading anything else raises NotHeld, which means "cannot be said", not "is
not there". Imports storage.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, NotHeld, Storage

__all__ = ["HEAD_BYTES", "KEPT_BYTES", "TAIL_BYTES", "Held", "NotHeld"]

HEAD_BYTES: Final = 640 << 10
TAIL_BYTES: Final = 256 << 10
KEPT_BYTES: Final = 512 << 10
"""What watchers may keep, together."""
# Of a stream that has not ended: nothing is at its end, and nothing lies behind it.
_ENDLESS: Final = 1 << 62


class Held(Storage):
    """The first and the last bytes of a stream, and what was kept of the rest.

    ``come``: bytes that have come so far. ``size``: the same once the stream has ended; until then
    it is out of all reach, so that no reader takes what came last for the end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = _ENDLESS
        self.come = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._starts: list[int] = []
        self._kept: list[bytes] = []
        self._budget = KEPT_BYTES

    def feed(self, chunk: bytes | memoryview) -> None:
        """The next bytes of the stream."""
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += chunk[:room]
        last = chunk[-TAIL_BYTES:]
        surplus = len(self._tail) + len(last) - TAIL_BYTES
        if surplus > 0:
            del self._tail[:surplus]
        self._tail += last
        self.come += len(chunk)

    def end(self) -> None:
        """Nothing more comes."""
        self.size = self.come

    def keep(self, offset: int, data: bytes) -> bool:
        """Keep ``data`` from ``offset``; False where there is no room for it any more."""
        if len(data) > self._budget:
            return False
        self._budget -= len(data)
        self._starts.append(offset)
        self._kept.append(data)
        return True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.come:
            raise NotHeld(f"{self.name}: {len(buffer)} bytes at {offset} have not come yet")
        head, tail = len(self._head), self.come - len(self._tail)
        if end <= head:
            buffer[:] = self._head[offset:end]
        elif offset >= tail:
            buffer[:] = self._tail[offset - tail : end - tail]
        elif offset < head and tail <= head:
            buffer[: head - offset] = self._head[offset:]
            buffer[head - offset :] = self._tail[head - tail : end - tail]
        else:
            number = bisect_right(self._starts, offset) - 1
            start = self._starts[number] if number >= 0 else 0
            if number < 0 or end > start + len(self._kept[number]):
                raise NotHeld(f"{self.name}: {len(buffer)} bytes at {offset} have gone by")
            buffer[:] = self._kept[number][offset - start : end - start]

    def write(self, offset: int, data: Buffer) -> None:
        raise StorageError(f"{self.name}: a stream cannot be written to")

    def zero(self, offset: int, length: int) -> None:
        raise StorageError(f"{self.name}: a stream cannot be written to")

    def resize(self, size: int) -> None:
        raise StorageError(f"{self.name}: a stream cannot be written to")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
