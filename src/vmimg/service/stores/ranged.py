"""RangedStorage: something in a store as a Storage, for stores whose bytes are no files here.

Formats read headers and tables in small pieces, near each other; those come out of blocks that are
fetched whole and kept, a few of them. Who reads on in large pieces, as downloads do, gets several
of them by one request; large pieces here and there are fetched as they are. Imports storage and
errors.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, NoReturn, Protocol

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.folder import Folder

__all__ = ["Alone", "RangedStorage"]

# 16 blocks: 4 MiB for each image that is open, whatever its size.
_BLOCK: Final = 256 << 10
_BLOCKS: Final = 16
# What is fetched at once for whoever reads on in large pieces: requests take their time, however
# short they are.
_RUN: Final = 4 << 20
# Whoever asks for one block after the other is given this many by one request.
_AHEAD: Final = 4


class Alone(Folder):
    """The folder of what has no neighbours: nothing that an image names is in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def names(self) -> tuple[str, ...]:
        return ()

    def size(self, name: str) -> int:
        self._refuse(name)

    def open(self, name: str) -> Storage:
        self._refuse(name)

    def close(self) -> None:
        pass

    def _refuse(self, name: str) -> NoReturn:
        raise StorageError(f"{self.name}: there is no '{name}' beside an image in a store")


class Source(Protocol):
    """What ranges come from: a store, or something that reads as one."""

    name: str

    def size(self, key: str) -> int:
        """Bytes under ``key``."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` from ``offset``."""


class RangedStorage(Storage):
    """What ``store`` has under ``key``, read only. Raises NotFound, StoreUnreachable."""

    def __init__(self, store: Source, key: str) -> None:
        self.name = key
        self.member = key
        self.folder = Alone(f"the store {store.name}")
        self.size = store.size(key)
        self._store = store
        self._key = key
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._last = -2
        """The block that was fetched last."""
        self._running = threading.Lock()
        """Held by who fetches a run: others wait for it rather than fetch it again."""
        self._run, self._run_start = b"", 0
        self._end = -1
        """Where the last large piece ended."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot read {length} bytes at offset {offset}:"
                f" it ends at {self.size}"
            )
        if length >= _BLOCK:
            self._read_large(offset, buffer)
            return
        done = 0
        while done < length:
            number, start = divmod(offset + done, _BLOCK)
            piece = self._block(number)[start : start + length - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def _read_large(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        with self._lock:
            on, self._end = offset == self._end, end
        if self._from_run(offset, buffer):
            return
        if not on or len(buffer) >= _RUN:
            self._store.read_into(self._key, offset, buffer)
            return
        with self._running:
            if self._from_run(offset, buffer):
                return
            run = self._store.read(self._key, offset, min(_RUN, self.size - offset))
            with self._lock:
                self._run, self._run_start = run, offset
        buffer[:] = memoryview(run)[: len(buffer)]

    def _from_run(self, offset: int, buffer: memoryview) -> bool:
        with self._lock:
            run, start = self._run, offset - self._run_start
        if not 0 <= start <= len(run) - len(buffer):
            return False
        buffer[:] = memoryview(run)[start : start + len(buffer)]
        return True

    def _block(self, number: int) -> bytes:
        # Two threads may fetch the same one: cheaper than to have either wait for the other's.
        with self._lock:
            found = self._blocks.get(number)
            if found is not None:
                self._blocks.move_to_end(number)
                return found
            many = _AHEAD if number == self._last + 1 else 1
        start = number * _BLOCK
        data = self._store.read(self._key, start, min(many * _BLOCK, self.size - start))
        pieces = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
        with self._lock:
            for place, piece in enumerate(pieces, number):
                self._blocks[place] = piece
                self._blocks.move_to_end(place)
            self._last = number + len(pieces) - 1
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return pieces[0]

    def write(self, offset: int, data: Buffer) -> None:
        self._refuse()

    def zero(self, offset: int, length: int) -> None:
        self._refuse()

    def resize(self, size: int) -> None:
        self._refuse()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        with self._lock:
            self._blocks.clear()
            self._run = b""

    def _refuse(self) -> NoReturn:
        raise StorageError(f"{self.name}: what is stored is not changed")
