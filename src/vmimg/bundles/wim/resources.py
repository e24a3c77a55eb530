"""Resources of a WIM as storages, read in place: chunks are decompressed as they are asked for.

A compressed resource begins with where its chunks begin, all but the first: 4 bytes each, 8 where
it holds more than 4 GiB. A chunk that takes as many bytes as it holds is stored as it is. In a
pipable file the table stands behind the chunks, and each chunk has its length in front. A solid
resource begins with a header and the sizes of its chunks. Only the last chunk that was read is
kept. Sources: see structures. Imports codecs and storage.
"""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from vmimg.bundles.wim.structures import COMPRESSORS, PIECE_HEADER, SolidHeader
from vmimg.codecs.libwim import Decompressor
from vmimg.errors import FormatError, StorageError, UnsupportedFeature
from vmimg.storage.base import Buffer, Storage

__all__ = ["MAX_CHUNK", "Chunks", "Decoders", "Held", "PackedStorage", "Row", "solid", "table"]

MAX_CHUNK: Final = 1 << 26
"""What Microsoft's own programs take, at most."""
_PAGE: Final = 1024

Decoders = Callable[[str, int], Decompressor]
"""The decompressor of a kind for chunks of a size: they are shared."""


class Held:
    """The chunk that was read last. Solid resources share one: their chunks are large."""

    def __init__(self) -> None:
        self._chunk: tuple[object, int, bytes] | None = None

    def find(self, owner: object, number: int) -> bytes | None:
        """The chunk, if it is that one."""
        held = self._chunk
        return held[2] if held is not None and held[:2] == (owner, number) else None

    def keep(self, owner: object, number: int, data: bytes) -> None:
        """Keep it instead of the other."""
        self._chunk = owner, number, data

    def forget(self) -> None:
        """Keep none, before another is made."""
        self._chunk = None


class Chunks(ABC):
    """Where the chunks of a resource lie."""

    @abstractmethod
    def locate(self, number: int) -> tuple[int, int]:
        """Offset in the file and bytes there. Raises FormatError."""


class _Table(Chunks):
    def __init__(
        self, base: Storage, offset: int, size: int, original: int, chunk: int, pipable: bool
    ) -> None:
        self._base = base
        self._entry = 8 if original > 1 << 32 else 4
        self._count = -(-original // chunk)
        length = (self._count - 1) * self._entry
        headers = PIECE_HEADER * self._count if pipable else 0
        self._room = size - length - headers
        if self._room < self._count or offset + size > base.size:
            raise FormatError(f"{base.name}: a compressed resource does not fit into {size} bytes")
        self._between = PIECE_HEADER if pipable else 0
        self._at = offset + size - length if pipable else offset
        self._start = offset if pipable else offset + length
        self._page = -1
        self._entries: Sequence[int] = ()

    def locate(self, number: int) -> tuple[int, int]:
        start, end = self._begin(number), self._begin(number + 1)
        if not start < end <= self._room:
            raise FormatError(f"{self._base.name}: chunks of a resource are out of order")
        return self._start + start + self._between * (number + 1), end - start

    def _begin(self, number: int) -> int:
        """Where a chunk begins, behind the first."""
        if number == 0:
            return 0
        if number == self._count:
            return self._room
        page, at = divmod(number - 1, _PAGE)
        if page != self._page:
            first = page * _PAGE
            length = min(_PAGE, self._count - 1 - first) * self._entry
            data = self._base.read(self._at + first * self._entry, length)
            self._entries = _integers(data, self._entry)
            self._page = page
        return self._entries[at]


class _Solid(Chunks):
    def __init__(self, offset: int, starts: Sequence[int]) -> None:
        self._offset = offset
        self._starts = starts

    def locate(self, number: int) -> tuple[int, int]:
        start, end = self._starts[number], self._starts[number + 1]
        return self._offset + start, end - start


class ReadOnly(Storage):
    """A storage that nobody writes to."""

    def write(self, offset: int, data: Buffer) -> None:
        raise StorageError(f"{self.name}: can only be read")

    def zero(self, offset: int, length: int) -> None:
        raise StorageError(f"{self.name}: can only be read")

    def resize(self, size: int) -> None:
        raise StorageError(f"{self.name}: can only be read")

    def flush(self) -> None:
        pass


class PackedStorage(ReadOnly):
    """``size`` bytes, in chunks of ``chunk`` bytes each, which lie where ``chunks`` says."""

    def __init__(
        self,
        base: Storage,
        chunks: Chunks,
        size: int,
        kind: str,
        chunk: int,
        decoders: Decoders,
        held: Held | None = None,
    ) -> None:
        self.name = base.name
        self.size = size
        self._base = base
        self._chunks = chunks
        self._kind = kind
        self._chunk = chunk
        self._decoders = decoders
        self._lock = threading.Lock()
        self._held = held if held is not None else Held()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise StorageError(f"{self.name}: ends at {self.size}")
        done = 0
        with self._lock:
            while done < len(buffer):
                number, skip = divmod(offset + done, self._chunk)
                data = self._read_chunk(number)
                length = min(len(data) - skip, len(buffer) - done)
                buffer[done : done + length] = memoryview(data)[skip : skip + length]
                done += length

    def _read_chunk(self, number: int) -> bytes:
        found = self._held.find(self, number)
        if found is not None:
            return found
        self._held.forget()
        length = min(self._chunk, self.size - number * self._chunk)
        offset, packed = self._chunks.locate(number)
        if packed > length:
            raise FormatError(f"{self.name}: a chunk of {length} bytes takes {packed} at {offset}")
        data = self._base.read(offset, packed)
        if packed < length:
            try:
                data = self._decoders(self._kind, self._chunk).decompress(data, length)
            except FormatError as error:
                raise FormatError(f"{self.name}: at offset {offset}: {error}") from None
        self._held.keep(self, number, data)
        return data

    def close(self) -> None:
        """Forgets the chunk; what it is read from belongs to others."""
        with self._lock:
            self._held.forget()


class Row(ReadOnly):
    """Several storages one behind the other, as the solid resources of one run are."""

    def __init__(self, parts: Sequence[Storage]) -> None:
        self.name = parts[0].name
        self._parts = parts
        self._starts = [0, *accumulate(part.size for part in parts)]
        self.size = self._starts[-1]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise StorageError(f"{self.name}: ends at {self.size}")
        done = 0
        while done < len(buffer):
            at = bisect_right(self._starts, offset + done) - 1
            inside = offset + done - self._starts[at]
            length = min(self._parts[at].size - inside, len(buffer) - done)
            self._parts[at].read_into(inside, buffer[done : done + length])
            done += length

    def close(self) -> None:
        for part in self._parts:
            part.close()


def table(
    base: Storage, offset: int, size: int, original: int, kind: str, chunk: int, pipable: bool,
    decoders: Decoders,
) -> PackedStorage:  # fmt: skip
    """The compressed resource of ``size`` bytes at ``offset``. Raises FormatError."""
    if kind not in COMPRESSORS.values() or kind == "none" or not 512 <= chunk <= MAX_CHUNK:
        raise FormatError(f"{base.name}: a resource is compressed by '{kind}' in {chunk} bytes")
    chunks = _Table(base, offset, size, original, chunk, pipable)
    return PackedStorage(base, chunks, original, kind, chunk, decoders)


def solid(
    base: Storage, offset: int, size: int, decoders: Decoders, held: Held, room: int
) -> tuple[PackedStorage, int]:
    """The solid resource of ``size`` bytes at ``offset``, and how many chunks it has. ``room``: how
    many it may have. Raises FormatError, or UnsupportedFeature for too many or too large ones.
    """
    length = ctypes.sizeof(SolidHeader)
    if size < length or offset + size > base.size:
        raise FormatError(f"{base.name}: a solid resource of {size} bytes at {offset} is cut off")
    header = SolidHeader.from_buffer_copy(base.read(offset, length))
    chunk, original = int(header.chunk_size), int(header.original_size)
    kind = COMPRESSORS.get(int(header.compression), "unknown")
    if kind == "unknown" or chunk < 512 or original == 0:
        raise FormatError(f"{base.name}: the solid resource at {offset} has a bad header")
    count = -(-original // chunk)
    if chunk > MAX_CHUNK or count > room:
        raise UnsupportedFeature(
            f"{base.name}: the solid resource at {offset} has {count} chunks of {chunk} bytes"
        )
    if length + count * 5 > size:
        raise FormatError(f"{base.name}: {count} chunks are too many for {size} bytes at {offset}")
    sizes = _integers(base.read(offset + length, count * 4), 4)
    starts = array("Q", [0, *accumulate(sizes)])
    start = offset + length + count * 4
    if start + starts[-1] > offset + size or 0 in sizes:
        raise FormatError(f"{base.name}: the chunks of the solid resource at {offset} do not fit")
    chunks = _Solid(start, starts)
    return PackedStorage(base, chunks, original, kind, chunk, decoders, held), count


def _integers(data: bytes, width: int) -> Sequence[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]
