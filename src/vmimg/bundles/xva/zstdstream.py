"""ZstdSink: a storage that is only appended to, and compressed on the way by zstd on all cores.

The stream is frames of 8 MiB, each compressed by itself: any reader of zstd takes them, and one
that knows where they are unpacks just those that it wants. What comes out does not depend on the
number of threads. Source: RFC 8878, section 3 (frames may follow each other). Imports codecs and
storage.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from vmimg.codecs import Level, codec
from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.view import ReadOnlyView
from vmimg.transfer.engine import default_threads
from vmimg.units import MIB

__all__ = ["ZstdSink"]

_FRAME: Final = 8 * MIB


class ZstdSink(ReadOnlyView):
    """What is written at its end goes compressed into ``storage``, which is empty. Whatever
    happens, `close` lets go of the threads; it leaves ``storage`` open.
    """

    writable = True

    def __init__(self, storage: Storage, level: Level, threads: int) -> None:
        super().__init__(storage, 0)
        self._level: Level = level
        self._codec = codec("zstd")
        count = threads or default_threads()
        self._pool = ThreadPoolExecutor(count)
        self._most = count + 1
        self._working: deque[Future[bytes | bytearray]] = deque()
        self._buffer = bytearray()
        self._at = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise StorageError(f"{self.name}: cannot be read while it is compressed")

    def write(self, offset: int, data: Buffer) -> None:
        if offset != self.size:
            raise StorageError(f"{self.name}: cannot write at offset {offset} of {self.size}")
        self._buffer += data
        self.size = offset + memoryview(data).nbytes
        while len(self._buffer) >= _FRAME:
            self._send(bytes(self._buffer[:_FRAME]))
            del self._buffer[:_FRAME]

    def resize(self, size: int) -> None:
        if size != self.size:
            raise StorageError(f"{self.name}: cannot be cut off while it is compressed")

    def finish(self) -> None:
        """The end of the stream."""
        self._send(bytes(self._buffer))
        self._buffer.clear()
        while self._working:
            self._take()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _send(self, frame: bytes) -> None:
        if not frame:
            return
        self._working.append(self._pool.submit(self._codec.compress, frame, self._level))
        if len(self._working) > self._most:
            self._take()

    def _take(self) -> None:
        data = self._working.popleft().result()
        self._base.write(self._at, data)
        self._at += len(data)
