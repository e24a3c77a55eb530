"""Bytes in memory: small images, metadata that is being put together, tests."""

from __future__ import annotations

import threading

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = ["MemoryStorage"]


class MemoryStorage(Storage):
    """A bytearray that grows as it is written; ``data`` is copied in."""

    writable = True

    def __init__(self, data: Buffer = b"", name: str = "<memory>") -> None:
        self.name = name
        self._data = bytearray(data)
        self._lock = threading.Lock()
        self.size = len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        with self._lock:
            if offset < 0 or end > self.size:
                raise StorageError(
                    f"{self.name}: cannot read {len(buffer)} bytes at offset {offset}:"
                    f" it ends at {self.size}"
                )
            # Through a view: one copy. It is released before the bytearray may have to grow.
            with memoryview(self._data) as view:
                buffer[:] = view[offset:end]

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        with self._lock:
            self._extend(offset, view.nbytes)
            self._data[offset : offset + view.nbytes] = view

    def zero(self, offset: int, length: int) -> None:
        with self._lock:
            self._extend(offset, length)
            self._data[offset : offset + length] = bytes(length)

    def resize(self, size: int) -> None:
        with self._lock:
            if size < self.size:
                del self._data[size:]
                self.size = size
            else:
                self._extend(size, 0)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def getvalue(self) -> bytes:
        """All of it, as it is now."""
        with self._lock:
            return bytes(self._data)

    def _extend(self, offset: int, length: int) -> None:
        end = offset + length
        if offset < 0:
            raise StorageError(f"{self.name}: cannot write at offset {offset}")
        if end > self.size:
            try:
                self._data.extend(bytes(end - self.size))
            except (MemoryError, OverflowError):
                raise StorageError(f"{self.name}: no memory for {end} bytes") from None
            self.size = end
