"""A window on another storage: a partition, a member of an archive, a data area behind a header."""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage

__all__ = ["SliceStorage"]


class SliceStorage(Storage):
    """``length`` bytes of ``base`` from ``offset`` (both in bytes), addressed from 0.

    Fixed in size. ``owns`` closes ``base`` with it. Raises StorageError when the window does not
    lie inside ``base``.
    """

    def __init__(
        self,
        base: Storage,
        offset: int,
        length: int,
        name: str | None = None,
        *,
        owns: bool = False,
    ) -> None:
        self.name = name if name is not None else base.name
        if offset < 0 or length < 0 or offset + length > base.size:
            raise StorageError(
                f"{self.name}: {length} bytes at offset {offset} do not lie inside it:"
                f" it ends at {base.size}"
            )
        self._base = base
        self._offset = offset
        self._owns = owns
        self.size = length
        self.writable = base.writable

    def identity(self) -> tuple[int, ...] | None:
        # A window on all of it is lent, to be closed without closing what it shows.
        return self._base.identity() if self.size == self._base.size else None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._base.read_into(self._inside("read", offset, len(buffer)), buffer)

    def write(self, offset: int, data: Buffer) -> None:
        self._base.write(self._inside("write", offset, memoryview(data).nbytes), data)

    def write_all(self, offset: int, pieces: list[Buffer]) -> None:
        length = sum(memoryview(piece).nbytes for piece in pieces)
        self._base.write_all(self._inside("write", offset, length), pieces)

    def zero(self, offset: int, length: int) -> None:
        self._base.zero(self._inside("zero", offset, length), length)

    def discard(self, offset: int, length: int) -> None:
        self._base.discard(self._inside("discard", offset, length), length)

    def allocate(self, offset: int, length: int) -> None:
        self._base.allocate(self._inside("allocate", offset, length), length)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        if start >= end:
            return
        shift = self._offset
        self._inside("map", start, end - start)
        for first, last, hole in self._base.extents(start + shift, end + shift):
            yield first - shift, last - shift, hole

    def copy_range(self, offset: int, target: Storage, target_offset: int, length: int) -> bool:
        offset = self._inside("copy", offset, length)
        while isinstance(target, SliceStorage):
            target_offset = target._inside("write", target_offset, length)
            target = target._base
        return self._base.copy_range(offset, target, target_offset, length)

    def resize(self, size: int) -> None:
        if size != self.size:
            raise StorageError(f"{self.name}: a part of a file cannot change its size")

    def flush(self) -> None:
        self._base.flush()

    def close(self) -> None:
        if self._owns:
            self._base.close()

    def _inside(self, action: str, offset: int, length: int) -> int:
        """Where ``offset`` lies in the base, once the range is known to lie in the window."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot {action} {length} bytes at offset {offset}:"
                f" it ends at {self.size}"
            )
        return self._offset + offset
