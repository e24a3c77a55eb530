"""SparseStorage: bytes in memory of which only those that are not zero take space, and how an image
with large holes becomes a small input.

Many formats leave megabytes between their tables. An input of a fuzzer should be some KiB, or it
spends its time on copying, and most mutations hit nothing. So an input that begins with MARK is not
the image itself but a list of what stands where in it::

    MARK  u64 size  { u64 offset  u32 length  bytes[length] }...      (little-endian)

Any other input is the image. Imports the contract of storages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = ["MARK", "MAX_BYTES", "MAX_HELD", "SparseStorage", "pack", "unpack"]

MARK: Final = b"\x00sparse\x00"
MAX_BYTES: Final = 256 << 10
"""Of an input."""
MAX_SIZE: Final = 1 << 44
MAX_HELD: Final = 64 << 20
"""Writes beyond this fail as on a full disk."""
_PAGE: Final = 4096
_SIZE: Final = struct.Struct("<Q")
_PIECE: Final = struct.Struct("<QI")
# Inputs up to this size stay as they are: their zeros cost little, and libFuzzer sees through them.
_PLAIN_BYTES: Final = 32 << 10


class SparseStorage(Storage):
    """``size`` bytes, all zero but for what is written."""

    writable = True
    room = 1 << 40
    """Bytes that may still be written: a repair may take as long as the image is large."""

    def __init__(self, size: int = 0, name: str = "input") -> None:
        self.name = name
        self.size = size
        self._pages: dict[int, bytearray] = {}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise StorageError(
                f"{self.name}: cannot read {len(buffer)} bytes at offset {offset}: "
                f"it ends at {self.size}"
            )
        buffer[:] = bytes(len(buffer))
        for number in self._held(offset, end):
            start = number * _PAGE
            low, high = max(start, offset), min(start + _PAGE, end)
            with memoryview(self._pages[number]) as page:
                buffer[low - offset : high - offset] = page[low - start : high - start]

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > MAX_SIZE:
            raise StorageError(f"{self.name}: cannot write at offset {offset}")
        if not self.writable:
            raise PermissionError(f"{self.name}: is open for reading")
        self.room -= len(view)
        if self.room < 0:
            raise StorageError(f"{self.name}: no space for {len(view)} bytes")
        self.size = max(self.size, offset + len(view))
        done = 0
        while done < len(view):
            number, start = divmod(offset + done, _PAGE)
            piece = view[done : done + _PAGE - start]
            page = self._pages.get(number)
            if page is None and bytes(piece).strip(b"\0"):
                if len(self._pages) * _PAGE >= MAX_HELD:
                    raise StorageError(f"{self.name}: no space for {len(view)} bytes")
                page = self._pages[number] = bytearray(_PAGE)
            if page is not None:
                page[start : start + len(piece)] = piece
            done += len(piece)

    def zero(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > MAX_SIZE:
            raise StorageError(f"{self.name}: cannot write at offset {offset}")
        if not self.writable:
            raise PermissionError(f"{self.name}: is open for reading")
        end = offset + length
        for number in self._held(offset, end):
            low, high = max(number * _PAGE, offset), min((number + 1) * _PAGE, end)
            if high - low == _PAGE:
                del self._pages[number]
            else:
                start = low - number * _PAGE
                self._pages[number][start : start + high - low] = bytes(high - low)
        self.size = max(self.size, end)

    def resize(self, size: int) -> None:
        if size > MAX_SIZE:
            raise StorageError(f"{self.name}: cannot be {size} bytes long")
        if not self.writable:
            raise PermissionError(f"{self.name}: is open for reading")
        if size < self.size:
            self.zero(size, self.size - size)
        self.size = size

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        at = start
        for number in self._held(start, end):
            low, high = max(number * _PAGE, start), min((number + 1) * _PAGE, end)
            if at < low:
                yield at, low, True
            yield low, high, False
            at = high
        if at < end:
            yield at, end, True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def copy(self) -> SparseStorage:
        """Another with the same bytes, which can be written without changing this one; not much."""
        twin = SparseStorage(self.size, self.name)
        twin.room = MAX_HELD
        twin._pages = {number: bytearray(page) for number, page in self._pages.items()}
        return twin

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all that is not zero, ascending, in pieces of a page at the most."""
        for number in sorted(self._pages):
            page = bytes(self._pages[number]).rstrip(b"\0")
            first = len(page) - len(page.lstrip(b"\0"))
            if page:
                yield number * _PAGE + first, page[first:]

    def _held(self, start: int, end: int) -> list[int]:
        first, last = start // _PAGE, -(-end // _PAGE)
        if last - first <= len(self._pages):
            return [number for number in range(first, last) if number in self._pages]
        return sorted(number for number in self._pages if first <= number < last)


def unpack(data: bytes) -> SparseStorage:
    """The image of an input. Takes any bytes: what does not fit is left out."""
    if not data.startswith(MARK) or len(data) < len(MARK) + _SIZE.size:
        plain = SparseStorage(len(data))
        plain.write(0, data)
        return plain
    (size,) = _SIZE.unpack_from(data, len(MARK))
    image = SparseStorage(min(size, MAX_SIZE))
    at = len(MARK) + _SIZE.size
    while at + _PIECE.size <= len(data):
        offset, length = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        piece = data[at : at + min(length, max(0, image.size - offset))]
        at += length
        if piece:
            image.write(offset, piece)
    return image


def pack(image: SparseStorage) -> bytes:
    """The input of an image; `unpack` gives the image again."""
    if image.size <= _PLAIN_BYTES:
        return image.read(0, image.size)
    parts = [MARK, _SIZE.pack(image.size)]
    for offset, piece in image.pieces():
        parts += [_PIECE.pack(offset, len(piece)), piece]
    return b"".join(parts)
