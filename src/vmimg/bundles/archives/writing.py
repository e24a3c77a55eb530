"""ArchiveWriter: members written one behind the other, each once, straight to where it shall lie.

What is known only at the end (a size, a manifest in front) is filled in afterwards. Nothing that is
written depends on the clock, the user or the number of threads. Kinds of archives derive from it.
Imports storage and transfer's ByteSink.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.errors import OptionError, StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.streaming import ByteSink
from vmimg.units import MIB

__all__ = [
    "ArchiveWriter",
    "GrowingMember",
    "PlaceSink",
    "Reserved",
    "WrittenMember",
    "is_zeros",
    "pieces_of",
]

_PIECE: Final = 1 * MIB
_ZEROS: Final = bytes(_PIECE)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A place of ``size`` bytes for a member whose bytes come later: `ArchiveWriter.reserve`."""

    name: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class WrittenMember:
    """A member that is complete. ``offset``: of its first byte in the archive, where it lies there
    as it is; else -1.
    """

    name: str
    offset: int
    size: int


class ArchiveWriter(ABC):
    """Writes into a storage that is empty and can grow, such as an Output's.

    Names are relative, with ``/`` between parts; one that is absolute, climbs out or was there
    before raises OptionError. ``unique=False`` does not remember names, for archives of millions of
    members whose names cannot meet. ``last`` is the member that was completed last.
    """

    last: WrittenMember | None = None

    def __init__(self, storage: Storage, *, unique: bool = True) -> None:
        self.storage = storage
        self._names: set[str] | None = set() if unique else None
        self._open: dict[str, Reserved] = {}

    @abstractmethod
    def add(self, name: str, data: Buffer) -> None:
        """A member that holds ``data``."""

    @abstractmethod
    def add_directory(self, name: str) -> None:
        """A directory, for readers that want to be told."""

    @abstractmethod
    def add_image(self, name: str, write: Callable[[Storage], int]) -> int:
        """A member that ``write`` writes into a storage, empty and growing, that lies in the
        archive where the member's bytes go. What it returns is the member's size in bytes, and is
        returned.

        Raises OptionError where members are compressed: those are sent, `add_stream`.
        """

    @abstractmethod
    def add_stream(self, name: str, size: int | None, send: Callable[[ByteSink], int]) -> int:
        """A member that ``send`` sends from its first byte to its last; it returns how many those
        were, which are returned. ``size`` where it is known before; None, and the header is filled
        in afterwards. Raises StorageError where other than ``size`` bytes came.
        """

    @abstractmethod
    def reserve(self, name: str, size: int) -> Reserved:
        """A member of ``size`` bytes here, whose bytes come by `fill`."""

    @abstractmethod
    def fill(self, reserved: Reserved, data: bytes, *, pad: bytes = b"\n") -> None:
        """The bytes of a reserved member; what is left of it is ``pad``. Raises OptionError where
        there are more than were reserved.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the end of the archive; nothing can be added after. Does not flush."""

    def add_storage(self, name: str, storage: Storage) -> None:
        """A member with the bytes of ``storage``, which stays open."""

        def send(target: ByteSink) -> int:
            for start, length, hole in pieces_of(storage):
                target.write(memoryview(_ZEROS)[:length] if hole else storage.read(start, length))
            return storage.size

        self.add_stream(name, storage.size, send)

    # For the kinds

    def _take(self, name: str) -> str:
        """``name``, checked, without what means nothing in it."""
        parts = name.split("/")
        if not name or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise OptionError(f"{self.storage.name}: '{name}' is no name for a member")
        plain = "/".join(part for part in parts if part not in ("", "."))
        if not plain:
            raise OptionError(f"{self.storage.name}: '{name}' is no name for a member")
        if self._names is not None:
            if plain in self._names:
                raise OptionError(f"{self.storage.name}: two members are called '{plain}'")
            self._names.add(plain)
        return plain

    def _padded(self, reserved: Reserved, data: bytes, pad: bytes) -> bytes:
        if len(data) > reserved.size:
            raise OptionError(
                f"{self.storage.name}: '{reserved.name}' has {len(data)} bytes, and "
                f"{reserved.size} were reserved for it"
            )
        if self._open.pop(reserved.name, None) is None:
            raise OptionError(f"{self.storage.name}: '{reserved.name}' is filled in already")
        room = reserved.size - len(data)
        return data + (pad * room)[:room]

    def _check_filled(self) -> None:
        for name in self._open:
            raise OptionError(f"{self.storage.name}: '{name}' was reserved and never filled in")

    def _check_size(self, name: str, stated: int | None, size: int) -> None:
        if stated is not None and size != stated:
            raise StorageError(
                f"{self.storage.name}: '{name}' has {size} bytes, and {stated} were announced"
            )


class GrowingMember(Storage):
    """The member that is being written, at the end of ``base`` from ``start`` (bytes) on."""

    writable = True

    def __init__(self, base: Storage, start: int, name: str) -> None:
        self.name = f"{base.name}:{name}"
        self.size = 0
        self.is_device = bool(getattr(base, "is_device", False))
        """What is not written does not read as zeros: as of FileStorage."""
        self._base = base
        self._start = start
        self._growing = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._inside("read", offset, len(buffer))
        self._base.read_into(self._start + offset, buffer)

    def write(self, offset: int, data: Buffer) -> None:
        self._above("write", offset)
        self._base.write(self._start + offset, data)
        self._grow(offset + memoryview(data).nbytes)

    def write_all(self, offset: int, pieces: list[Buffer]) -> None:
        self._above("write", offset)
        self._base.write_all(self._start + offset, pieces)
        self._grow(offset + sum(memoryview(piece).nbytes for piece in pieces))

    def zero(self, offset: int, length: int) -> None:
        self._above("zero", offset)
        self._base.zero(self._start + offset, length)
        self._grow(offset + length)

    def discard(self, offset: int, length: int) -> None:
        self._inside("discard", offset, length)
        self._base.discard(self._start + offset, length)

    def allocate(self, offset: int, length: int) -> None:
        self._above("allocate", offset)
        self._base.allocate(self._start + offset, length)
        self._grow(offset + length)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        if start < end:
            self._inside("map", start, end - start)
            for first, last, hole in self._base.extents(start + self._start, end + self._start):
                yield first - self._start, last - self._start, hole

    def resize(self, size: int) -> None:
        if size > self.size and self.is_device:
            self._base.zero(self._start + self.size, size - self.size)
        else:
            self._base.resize(self._start + size)
        self.size = size

    def flush(self) -> None:
        self._base.flush()

    def close(self) -> None:
        pass

    def _grow(self, end: int) -> None:
        with self._growing:
            self.size = max(self.size, end)

    def _above(self, action: str, offset: int) -> None:
        if offset < 0:
            raise StorageError(f"{self.name}: cannot {action} at offset {offset}")

    def _inside(self, action: str, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot {action} {length} bytes at offset {offset}: "
                f"it ends at {self.size}"
            )


class PlaceSink:
    """Writes what is sent to a place in a storage; zeros stay holes there."""

    def __init__(self, storage: Storage, start: int) -> None:
        self.position = start
        self._storage = storage
        self._sparse = not getattr(storage, "is_device", False)

    def write(self, data: Buffer) -> None:
        size = memoryview(data).nbytes
        if not (self._sparse and size >= 4096 and is_zeros(data)):
            self._storage.write(self.position, data)
        self.position += size

    def settle(self) -> None:
        """Let the storage reach to where it was sent to."""
        if self._storage.size < self.position and self._sparse:
            self._storage.resize(self.position)


def pieces_of(storage: Storage) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, whether it is a hole) of all of ``storage``, in pieces of up to 1 MiB."""
    for start, end, hole in storage.extents(0, storage.size):
        while start < end:
            length = min(end - start, _PIECE)
            yield start, length, hole
            start += length


def is_zeros(data: Buffer) -> bool:
    """Whether there is nothing but zeros in ``data``."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        # Compared as bytes: memcmp, where memoryviews are compared item by item.
        if piece[0] or piece[-1] or bytes(piece) != _ZEROS[: len(piece)]:
            return False
    return True
