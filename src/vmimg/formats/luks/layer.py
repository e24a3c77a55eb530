"""LuksLayer: a stretch of encrypted data in a file, read and written in place.

Everything is stored, a hole in the file too: what it decrypts to is noise. Imports the layer
interface.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Extent, Kind
from vmimg.disk.layer import Layer
from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.units import align_down, align_up

__all__ = ["LuksLayer"]

# What is written is encrypted in a copy of this size at most.
_CHUNK: Final = 1 << 20


class LuksLayer(Layer):
    """``size`` bytes of ``storage`` from ``offset``, encrypted by ``cipher`` whose sectors count
    from ``first_byte`` / 512. Closing it closes ``storage``.
    """

    format = "luks"

    def __init__(
        self,
        storage: Storage,
        offset: int,
        size: int,
        cipher: DataCipher,
        *,
        first_byte: int = 0,
        writable: bool = False,
    ) -> None:
        self.storage = storage
        self.name = storage.name
        self.size = size
        self.writable = writable and storage.writable
        self._offset = offset
        self._cipher = cipher
        self._first_byte = first_byte
        self._write_lock = threading.Lock()

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Kind.DATA)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        grain = self._cipher.granularity
        before = offset % grain
        if not before and not len(buffer) % grain:
            self._read(offset, buffer)
            return []
        whole = memoryview(bytearray(align_up(before + len(buffer), grain)))
        self._read(offset - before, whole)
        buffer[:] = whole[before : before + len(buffer)]
        return []

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        self._write(offset, len(view), view)

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        # A hole would not read as zeros: they are encrypted and written, discard or not.
        self._write(offset, length, None)

    def flush(self) -> None:
        self.storage.flush()

    def close(self) -> None:
        self.storage.close()

    def _read(self, offset: int, buffer: memoryview) -> None:
        self.storage.read_into(self._offset + offset, buffer)
        self._cipher.decrypt(self._offset + offset, self._first_byte + offset, buffer)

    def _write(self, offset: int, length: int, data: memoryview | None) -> None:
        if not self.writable:
            raise StorageError(f"{self.name}: it is open for reading only")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: {length} bytes at {offset} are not inside the disk, "
                f"which has {self.size}"
            )
        grain, end = self._cipher.granularity, offset + length
        with self._write_lock:
            position = offset
            while position < end:
                low = align_down(position, grain)
                high = min(align_up(end, grain), low + _CHUNK)
                stop = min(end, high)
                buffer = memoryview(bytearray(high - low))
                if low < position:
                    self._read(low, buffer[:grain])
                if stop < high and (high - low > grain or low == position):
                    self._read(high - grain, buffer[-grain:])
                piece = data[position - offset : stop - offset] if data is not None else None
                buffer[position - low : stop - low] = piece or bytes(stop - position)
                self._cipher.encrypt(self._offset + low, self._first_byte + low, buffer)
                self.storage.write(self._offset + low, buffer)
                position = stop
