"""Store: bytes by key, written once. Five operations; whatever more there is, is made of them.

    put      a stream: nobody sees any of it before it is complete and durable
    read     a range
    size     of one, in bytes
    delete   one
    list     all of them

Keys come from the catalogue (UUIDs, digests), never from a request as they are. What fails says
whether it is worth another try: StoreUnreachable is, the others are answers. Imports errors and
storage.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = [
    "Exists",
    "NotFound",
    "Putting",
    "Store",
    "StoreFull",
    "StoreUnreachable",
    "Stored",
    "Unusable",
    "check_key",
]

# Names of files and parts of URLs alike, in any file system and without quoting.
_KEY: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{3,127}")


class NotFound(StorageError):
    """The store has nothing under that key."""


class Exists(StorageError):
    """Something is stored under that key already, and stays."""


class StoreFull(StorageError):
    """No space, or a quota is used up. Trying again helps when something was deleted."""


class StoreUnreachable(StorageError):
    """The store did not answer, or not in time: the same may go well a little later."""


class Unusable(StorageError):
    """What is there cannot be had, and trying again does not help: it changed, or nobody may ask
    for it. The message is for the one who asked.
    """


class Stored(NamedTuple):
    """``size`` in bytes; ``modified`` in seconds since the epoch."""

    key: str
    size: int
    modified: float


class Putting(ABC):
    """A stream on its way into a store: `write` in order, then `commit` or `abort`.

    Any thread may call, one at a time. ``with store.put(key) as putting: ...`` commits at the end
    of the block unless it was aborted in it, and aborts when the block raises. After an error of
    `write` or `commit` nothing is left but to let go of it: it has been aborted.
    """

    key: str
    size: int = 0
    """Bytes written so far."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._open = True

    def write(self, data: Buffer) -> None:
        """Append all of ``data``, which may be reused when this returns.

        Raises StoreFull, StoreUnreachable, StorageError.
        """
        self._require_open()
        try:
            self._write(data)
        except BaseException:
            self.abort()
            raise
        self.size += memoryview(data).nbytes

    def commit(self) -> None:
        """It is stored: durable, and to be found under its key, when this returns.

        Raises Exists when somebody else's is there already, StoreFull, StoreUnreachable,
        StorageError.
        """
        self._require_open()
        try:
            self._commit()
        except BaseException:
            self.abort()
            raise
        self._open = False

    def abort(self) -> None:
        """Leave nothing. Does nothing once committed or aborted, and never raises StorageError."""
        if self._open:
            self._open = False
            self._abort()

    @abstractmethod
    def _write(self, data: Buffer) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...

    def _require_open(self) -> None:
        if not self._open:
            raise StorageError(f"{self.key}: this upload has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.commit()


class Store(ABC):
    """Bytes by key. Threads share one store. Raises ValueError for what is no key (`check_key`).

    Nothing is read or written before the first operation, or `prepare`.
    """

    name: str
    """What the deployment calls it; what messages call it."""
    url: str
    """Where it is, without anything secret."""
    read_only: bool = False
    """Nothing can be put here, or deleted: the bytes are other people's."""
    is_near: bool = False
    """It is this host's: a copy elsewhere on the host is no faster."""

    @abstractmethod
    def put(self, key: str, size: int | None = None) -> Putting:
        """Begin to store a stream under ``key``.

        ``size``: its length where the sender said it; a hint, by which a store refuses at once what
        cannot fit. Raises Exists where there is something under that key, StoreFull,
        StoreUnreachable, StorageError.
        """

    @abstractmethod
    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` (bytes, writable, contiguous) from ``offset``.

        Raises NotFound, StoreUnreachable, and StorageError where it ends earlier.
        """

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes stored under ``key``. Raises NotFound, StoreUnreachable, StorageError."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Its space is given back, at the latest when its last reader ends.

        Raises NotFound, StoreUnreachable, StorageError.
        """

    @abstractmethod
    def list(self) -> Iterator[Stored]:
        """All that is stored and complete, in no order. Raises StoreUnreachable, StorageError."""

    # What is made of the five.

    def read(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises like `read_into`."""
        buffer = bytearray(length)
        self.read_into(key, offset, memoryview(buffer))
        return bytes(buffer)

    def open(self, key: str) -> Storage:
        """It as a Storage, read in place: what detect, vet, formats and virtual files take.

        What an image in a store names beside itself is found nowhere: its neighbours are other
        people's. Raises NotFound, StoreUnreachable, StorageError.
        """
        from vmimg.service.stores.ranged import RangedStorage

        return RangedStorage(self, key)

    @abstractmethod
    def location(self, key: str) -> str:
        """The URL that locations show, without anything secret."""

    def free(self) -> int | None:
        """Bytes that can still be put; None where nobody knows."""
        return None

    def prepare(self) -> None:
        """See that the store can be used, and make what it needs. Raises StorageError, saying what
        is in the way.
        """

    def sweep(self) -> int:
        """Remove what uploads left behind that were killed; returns how many. For the start: a
        store that others use at the same time keeps what is theirs.
        """
        return 0

    def close(self) -> None:
        """Release it; a second call does nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.url}>"


def check_key(key: str) -> str:
    """``key``, if it is one: 4 to 128 letters, digits, ``-`` and ``_``. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of a store")
    return key
