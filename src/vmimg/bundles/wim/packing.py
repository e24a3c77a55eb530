"""Blobs of a new WIM: files are read once, compressed by many threads, and written in their order.

A file is stored as it is where compression does not make it smaller. Equal files are stored once;
only those that are as long as another are read for that beforehand. Imports codecs and storage.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

from vmimg.bundles.wim.structures import COMPRESSORS, SolidHeader
from vmimg.codecs import Level
from vmimg.codecs.libwim import Compressor
from vmimg.errors import StorageError
from vmimg.probe.wim import COMPRESSED, SOLID
from vmimg.storage.base import Storage
from vmimg.transfer.engine import default_threads

__all__ = ["Blob", "Coder", "Place", "Source", "write_blobs", "write_solid"]

_PIECE: Final = 1 << 20
Told = Callable[[int], None]
"""Hears how many bytes of the sources were written."""
_STORED: Final = "none"
# Each thread of the strongest coder takes 72 MiB.
_MOST_STRONG: Final = 4
_STRONG_CHUNK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob lies: as `ResourceHeader` says it."""

    size: int
    flags: int
    offset: int
    original: int


@dataclass(slots=True, eq=False)
class Source:
    """Where the bytes of a blob come from: a file of ``size`` bytes, or ``data``."""

    path: str
    size: int
    data: bytes | None = None
    sha1: bytes = b""

    def pieces(self, length: int) -> Iterator[bytes]:
        """All of it, ``length`` bytes at a time; `sha1` is known at the end. Raises StorageError
        where the file is not as long as it was.
        """
        digest = hashlib.sha1(usedforsecurity=False)
        for piece in self._read(length):
            digest.update(piece)
            self.sha1 = digest.digest()
            yield piece

    def _read(self, length: int) -> Iterator[bytes]:
        if self.data is not None:
            yield from (self.data[at : at + length] for at in range(0, self.size, length))
            return
        done = 0
        try:
            with open(self.path, "rb") as file:
                while done < self.size and (piece := file.read(min(length, self.size - done))):
                    done += len(piece)
                    yield piece
                changed = done < self.size or os.fstat(file.fileno()).st_size != self.size
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(f"{self.path}: cannot read it: {reason}") from error
        if changed:
            raise StorageError(f"{self.path}: changed while it was being read")


@dataclass(slots=True)
class Blob:
    """One that was written. ``count``: how many files hold it."""

    sha1: bytes
    place: Place
    count: int = field(default=1)


class Coder:
    """Compresses chunks of ``chunk`` bytes in ``threads`` threads, and hands them on in order."""

    def __init__(self, kind: str, chunk: int, level: Level, threads: int) -> None:
        self.kind = kind
        self.chunk = chunk
        self._level = level
        count = threads or default_threads()
        self._count = min(count, _MOST_STRONG) if chunk > _STRONG_CHUNK else count
        self._free: SimpleQueue[Compressor] = SimpleQueue()
        if kind != _STORED:
            for _ in range(self._count):
                self._free.put(Compressor(kind, chunk, level))

    def run(self, chunks: Iterable[tuple[Any, bytes]]) -> Iterator[tuple[Any, int, bytes]]:
        """Of each chunk what came with it, its length, and what it was compressed to."""
        if self.kind == _STORED:
            yield from ((key, len(data), data) for key, data in chunks)
            return
        waiting: deque[tuple[Any, int, Future[bytes]]] = deque()
        with ThreadPoolExecutor(self._count) as pool:
            for key, data in chunks:
                waiting.append((key, len(data), pool.submit(self._compress, data)))
                if len(waiting) > 2 * self._count:
                    key, length, future = waiting.popleft()
                    yield key, length, future.result()
            while waiting:
                key, length, future = waiting.popleft()
                yield key, length, future.result()

    def _compress(self, data: bytes) -> bytes:
        compressor = self._free.get()
        try:
            return compressor.compress(data)
        finally:
            self._free.put(compressor)


def write_blobs(
    sources: Sequence[Source], storage: Storage, at: int, coder: Coder, told: Told
) -> Iterator[Place]:
    """Write each of ``sources``, none of them empty, to ``storage`` from the offset ``at``."""
    place: _Writing | None = None
    for source, length, data in coder.run(_chunks(sources, coder.chunk)):
        if place is None:
            place = _Writing(source, storage, at, coder)
        place.add(data)
        told(length)
        if place.complete:
            done = place.finish()
            at = done.offset + done.size
            place = None
            yield done


def write_solid(
    sources: Sequence[Source], storage: Storage, at: int, coder: Coder, told: Told
) -> tuple[Place, list[Place]]:
    """Write ``sources`` as one solid resource; where that lies, and each of them in it."""
    total = sum(source.size for source in sources)
    count = -(-total // coder.chunk)
    number = next(code for code, kind in COMPRESSORS.items() if kind == coder.kind)
    header = SolidHeader(total, coder.chunk, number)
    sizes: list[int] = []
    start = end = at + ctypes.sizeof(SolidHeader) + 4 * count
    for _, length, data in coder.run(_joined(sources, coder.chunk)):
        storage.write(end, data)
        sizes.append(len(data))
        end += len(data)
        told(length)
    storage.write(at, bytes(header) + _integers(sizes, 4))
    assert start == at + ctypes.sizeof(SolidHeader) + 4 * len(sizes)
    places, inside = [], 0
    for source in sources:
        places.append(Place(source.size, SOLID, inside, 0))
        inside += source.size
    return Place(end - at, SOLID, at, 1 << 32), places


class _Writing:
    """A blob that is being written."""

    def __init__(self, source: Source, storage: Storage, at: int, coder: Coder) -> None:
        self._source = source
        self._storage = storage
        self._at = at
        self._count = -(-source.size // coder.chunk)
        self._entry = 8 if source.size > 1 << 32 else 4
        stored = coder.kind == _STORED
        self._start = self._end = at + (0 if stored else (self._count - 1) * self._entry)
        self._starts: list[int] = []

    @property
    def complete(self) -> bool:
        return len(self._starts) == self._count

    def add(self, data: bytes) -> None:
        self._starts.append(self._end - self._start)
        self._storage.write(self._end, data)
        self._end += len(data)

    def finish(self) -> Place:
        size, original = self._end - self._at, self._source.size
        if size < original:
            self._storage.write(self._at, _integers(self._starts[1:], self._entry))
            return Place(size, COMPRESSED, self._at, original)
        if size > original or self._start > self._at:
            self._store()
        return Place(original, 0, self._at, original)

    def _store(self) -> None:
        """Write it as it is over what did not become smaller."""
        sha1, at = self._source.sha1, self._at
        for piece in self._source.pieces(_PIECE):
            self._storage.write(at, piece)
            at += len(piece)
        if self._source.sha1 != sha1:
            raise StorageError(f"{self._source.path}: changed while it was being read")


def _chunks(sources: Iterable[Source], length: int) -> Iterator[tuple[Source, bytes]]:
    for source in sources:
        for piece in source.pieces(length):
            yield source, piece


def _joined(sources: Iterable[Source], length: int) -> Iterator[tuple[None, bytes]]:
    held = bytearray()
    for source in sources:
        for piece in source.pieces(min(length, _PIECE)):
            held += piece
            while len(held) >= length:
                yield None, bytes(held[:length])
                del held[:length]
    if held:
        yield None, bytes(held)


def _integers(values: Iterable[int], width: int) -> bytes:
    return b"".join(value.to_bytes(width, "little") for value in values)
