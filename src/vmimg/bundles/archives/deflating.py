"""DeflateStream: one deflate stream (RFC 1951), compressed on all cores, written in order.

    chunk | chunk | stored blocks | chunk | ... | last block

The stream is cut into chunks of one size, each compressed by itself and ended on a byte boundary,
so that the result is the same for any number of threads. Chunks of zeros are all the same and
compressed once. What must be changed afterwards (a header that tells a size) lies in stored blocks,
and the checksum is put together from those of the parts. Imports codecs, storage and transfer.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from vmimg.codecs import Level
from vmimg.codecs.crc32 import crc32, crc32_join, crc32_zeros
from vmimg.errors import OptionError
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.engine import default_threads

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DeflateStream"]

_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
_WINDOW_BITS: Final = 15
# Why not all at once: codecs/deflate.py, on levels 1 and 2 of ISA-L.
_AHEAD: Final = 8
_ISAL_LEVELS: Final[dict[str, int]] = {"fast": 1, "default": 2}
# zlib's own: libdeflate, which `best` means elsewhere, makes whole streams only.
_ZLIB_LEVEL: Final = 8
_MOST_STORED: Final = 0xFFFF
_LAST_BLOCK: Final = b"\x03\x00"
_MAX_THREADS: Final = 16


class DeflateStream:
    """Takes bytes (`write`, a ByteSink) and writes them, deflated, into ``storage`` from ``at`` on.

    ``at`` (bytes) moves on; ``plain``: how many bytes went in. `finish` ends the stream and says
    the checksum. Whatever happens, `close` lets go of the threads.
    """

    def __init__(
        self, storage: Storage, at: int, *, level: Level = "default", threads: int = 0
    ) -> None:
        if level not in ("fast", "default", "best"):
            raise OptionError(f"there is no compression level '{level}'; use fast, default or best")
        self.at = at
        self.plain = 0
        self._storage = storage
        self._level = level
        count = min(threads or default_threads(), _MAX_THREADS)
        self._pool = ThreadPoolExecutor(count, "deflate") if count > 1 else None
        self._most = 2 * count
        self._buffer = bytearray()
        self._waiting: deque[tuple[Future[tuple[bytes, int]], int]] = deque()
        self._sums: list[tuple[int, int]] = []
        """Checksums and lengths of parts, in order; those of stored parts stay by themselves."""
        self._joinable = False
        self._stored: dict[int, tuple[int, int]] = {}
        """By number of the part: where its blocks lie, and how many bytes it has."""

    def write(self, data: Buffer) -> None:
        """Take ``data``, which is copied."""
        view = memoryview(data).cast("B")
        self.plain += len(view)
        buffer = self._buffer
        if buffer:
            room = _CHUNK - len(buffer)
            buffer += view[:room]
            view = view[room:]
            if len(buffer) < _CHUNK:
                return
            self._send(bytes(buffer))
            buffer.clear()
        while len(view) >= _CHUNK:
            self._send(bytes(view[:_CHUNK]))
            view = view[_CHUNK:]
        buffer += view

    def write_stored(self, data: bytes) -> int:
        """Take ``data`` in blocks that are not compressed; a number for `change`."""
        self._settle()
        self.plain += len(data)
        number = len(self._sums)
        self._stored[number] = (self.at, len(data))
        self._sums.append((crc32(data), len(data)))
        self._joinable = False
        self._put(_blocks(data))
        return number

    def change(self, number: int, data: bytes) -> None:
        """Other bytes, as many, for what `write_stored` took."""
        at, length = self._stored[number]
        if len(data) != length:
            raise OptionError(f"{self._storage.name}: {len(data)} bytes do not fit in {length}")
        self._storage.write(at, _blocks(data))
        self._sums[number] = (crc32(data), length)

    def finish(self) -> int:
        """End the stream; stored parts can be changed until now. The CRC-32 of all that went in."""
        self._settle()
        self._put(_LAST_BLOCK)
        self.close()
        total = 0
        for checksum, length in self._sums:
            total = crc32_join(total, checksum, length)
        return total

    def close(self) -> None:
        """Let go of the threads; a second call does nothing."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> DeflateStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, chunk: bytes) -> None:
        if self._pool is None:
            self._take(*_deflated(chunk, self._level), len(chunk))
            return
        while len(self._waiting) >= self._most:
            self._collect()
        self._waiting.append((self._pool.submit(_deflated, chunk, self._level), len(chunk)))

    def _collect(self) -> None:
        future, length = self._waiting.popleft()
        self._take(*future.result(), length)

    def _take(self, data: bytes, checksum: int, length: int) -> None:
        if self._joinable:
            before, count = self._sums[-1]
            self._sums[-1] = (crc32_join(before, checksum, length), count + length)
        else:
            self._sums.append((checksum, length))
            self._joinable = True
        self._put(data)

    def _settle(self) -> None:
        """Write all that was taken so far."""
        if self._buffer:
            self._send(bytes(self._buffer))
            self._buffer.clear()
        while self._waiting:
            self._collect()

    def _put(self, data: bytes) -> None:
        self._storage.write(self.at, data)
        self.at += len(data)


def _deflated(chunk: bytes, level: Level) -> tuple[bytes, int]:
    """A chunk, compressed, and its checksum."""
    # Compared as bytes, which is memcmp.
    if not chunk[0] and chunk == _ZEROS[: len(chunk)]:
        return _deflated_zeros(len(chunk), level), crc32_zeros(len(chunk))
    return _compress(chunk, level), crc32(chunk)


@cache
def _deflated_zeros(length: int, level: Level) -> bytes:
    return _compress(bytes(length), level)


def _compress(chunk: bytes, level: Level) -> bytes:
    library: Any
    if level == "best":
        import zlib as library

        number = _ZLIB_LEVEL
    else:
        from isal import isal_zlib as library

        number = _ISAL_LEVELS[level]
    stream = library.compressobj(number, library.DEFLATED, -_WINDOW_BITS)
    parts = []
    if level != "best":
        parts = [stream.compress(chunk[:_AHEAD]), stream.flush(library.Z_SYNC_FLUSH)]
        chunk = memoryview(chunk)[_AHEAD:]  # type: ignore[assignment]
    parts += [stream.compress(chunk), stream.flush(library.Z_SYNC_FLUSH)]
    return b"".join(parts)


def _blocks(data: bytes) -> bytes:
    """``data`` in stored blocks (RFC 1951, section 3.2.4)."""
    parts = []
    for start in range(0, len(data), _MOST_STORED):
        piece = data[start : start + _MOST_STORED]
        length = len(piece)
        parts += [
            b"\0",
            length.to_bytes(2, "little"),
            (length ^ 0xFFFF).to_bytes(2, "little"),
            piece,
        ]
    return b"".join(parts)
