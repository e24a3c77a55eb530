"""Where the structures of an image are, found by watching vmimg read it.

Every structure on disk is a ctypes.Structure that a reader fills from bytes which it has read. Both
are noted while a good image goes through: the offset of a structure in the file is where its bytes
were read. So there is no table to keep, and a new format needs nothing. Imports the steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fuzz.sparse import SparseStorage

__all__ = ["Field", "Place", "fields_of", "places"]

# Reads that are looked through for the bytes of a structure: the latest are the likely ones.
_READS: Final = 64
_MAX_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """``structure`` stands at ``offset``, in bytes from the start of the file."""

    structure: type[ctypes.Structure]
    offset: int

    def __str__(self) -> str:
        module = self.structure.__module__.removeprefix("vmimg.formats.")
        return f"{module}.{self.structure.__name__} at {self.offset}"


@dataclass(frozen=True, slots=True)
class Field:
    """``size`` bytes at ``offset`` of a structure. ``number``: it holds one, not text or bytes."""

    name: str
    offset: int
    size: int
    big_endian: bool
    number: bool

    def pack(self, value: int) -> bytes:
        """``value``, as far as it fits."""
        order = "big" if self.big_endian else "little"
        return (value & ((1 << 8 * self.size) - 1)).to_bytes(self.size, order)

    def value(self, data: bytes) -> int:
        """What ``data`` says, which begins where the field does."""
        return int.from_bytes(data[: self.size], "big" if self.big_endian else "little")


def places(image: SparseStorage, read: Callable[[SparseStorage], object]) -> list[Place]:
    """The structures that ``read`` finds in ``image``, by their offsets."""
    watched = _Watched(image)
    found: set[Place] = set()

    def note(structure: type[ctypes.Structure], data: bytes) -> None:
        if not data.strip(b"\0"):
            return  # zeros are everywhere
        for start, piece in reversed(watched.reads):
            at = piece.find(data)
            if at >= 0:
                found.add(Place(structure, start + at))
                return

    with _noting(note):
        read(watched)
    return sorted(found, key=lambda place: (place.offset, place.structure.__name__))


def fields_of(
    structure: type[ctypes.Structure], offset: int = 0, name: str = ""
) -> Iterator[Field]:
    """The fields, those of structures inside it one by one; arrays of bytes as one."""
    big = hasattr(structure, "_swappedbytes_")
    for field in structure._fields_:
        label, kind = field[0], field[1]
        descriptor = getattr(structure, label)
        start, shown = offset + descriptor.offset, f"{name}{label}"
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure):
            yield from fields_of(kind, start, f"{shown}.")
        elif isinstance(kind, type) and issubclass(kind, ctypes.Array):
            inner: Any = kind._type_
            width = ctypes.sizeof(inner)
            if isinstance(inner, type) and issubclass(inner, ctypes.Structure):
                for number in range(kind._length_):
                    yield from fields_of(inner, start + number * width, f"{shown}[{number}].")
            elif width == 1:
                yield Field(shown, start, kind._length_, big, False)
            else:
                for number in range(min(kind._length_, 16)):
                    yield Field(f"{shown}[{number}]", start + number * width, width, big, True)
        else:
            yield Field(shown, start, ctypes.sizeof(kind), big, True)


class _Watched(SparseStorage):
    """The same image; what is read of it is noted."""

    def __init__(self, image: SparseStorage) -> None:
        super().__init__(image.size, image.name)
        self._pages = image._pages
        self.writable = False
        self.reads: list[tuple[int, bytes]] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)
        if len(buffer) <= _MAX_READ:
            self.reads.append((offset, bytes(buffer)))
            del self.reads[:-_READS]


@contextmanager
def _noting(note: Callable[[type[ctypes.Structure], bytes], None]) -> Iterator[None]:
    """Call ``note`` for each structure of vmimg that is made from bytes."""
    structures = [kind for kind in _structures() if kind.__module__.startswith("vmimg.")]
    for structure in structures:
        setattr(structure, "from_buffer_copy", _noted(structure, note))  # noqa: B010
    try:
        yield
    finally:
        for structure in structures:
            delattr(structure, "from_buffer_copy")


def _noted(
    structure: type[ctypes.Structure], note: Callable[[type[ctypes.Structure], bytes], None]
) -> Callable[..., ctypes.Structure]:
    original: Any = structure.from_buffer_copy

    def from_buffer_copy(source: Any, offset: int = 0) -> ctypes.Structure:
        made: ctypes.Structure = original(source, offset)
        note(structure, bytes(memoryview(source)[offset : offset + ctypes.sizeof(structure)]))
        return made

    return from_buffer_copy


def _structures(
    base: type[ctypes.Structure] = ctypes.Structure,
) -> Iterator[type[ctypes.Structure]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _structures(kind)
