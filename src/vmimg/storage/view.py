"""ReadOnlyView: another storage seen differently: decrypted, with a log replayed, joined with more;
ReadOnlyStorage: what is no view of one other storage.

Subclasses answer `read_into`, and `extents` where they know of holes.
"""

from __future__ import annotations

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = ["ReadOnlyStorage", "ReadOnlyView"]


class ReadOnlyStorage(Storage):
    """Whatever can be read and not be written."""

    def write(self, offset: int, data: Buffer) -> None:
        raise StorageError(f"{self.name}: it is open for reading only")

    def zero(self, offset: int, length: int) -> None:
        raise StorageError(f"{self.name}: it is open for reading only")

    def resize(self, size: int) -> None:
        raise StorageError(f"{self.name}: it is open for reading only")

    def flush(self) -> None:
        pass

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot read {length} bytes at offset {offset}: "
                f"it ends at {self.size}"
            )


class ReadOnlyView(ReadOnlyStorage):
    """``size`` bytes that are made of what ``base`` holds; closing it closes ``base``."""

    def __init__(self, base: Storage, size: int) -> None:
        self.name = base.name
        self.size = size
        self._base = base

    def allocated(self) -> int:
        return self._base.allocated()

    def identity(self) -> tuple[int, ...] | None:
        return self._base.identity()

    def modified(self) -> float | None:
        return self._base.modified()

    def close(self) -> None:
        self._base.close()
