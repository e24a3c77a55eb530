"""Storage: bytes in a container, addressed by position.

Nothing here seeks, so threads share one object. Everything above this layer asks a Storage and
never the operating system. Imports nothing of vmimg but errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmimg.errors import StorageError

if TYPE_CHECKING:
    from vmimg.storage.folder import Folder

__all__ = ["Buffer", "NotHeld", "Storage"]

Buffer = bytes | bytearray | memoryview
"""What may be written. Arrays are passed as ``memoryview(array).cast("B")``."""


class NotHeld(StorageError):
    """Bytes of a stream that went by and were not kept, or that have not come yet."""


class Storage(ABC):
    """A container of ``size`` bytes.

    Reads beyond ``size`` raise StorageError; writes beyond it extend the container where it can
    grow.
    """

    name: str
    """What to call it in messages: usually the path."""
    size: int
    """Bytes it holds now."""
    writable: bool = False
    folder: Folder | None = None
    """Where it is a member of something else than a directory of this system: what it lies in."""
    member: str = ""
    """Its name there."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` (bytes, writable, contiguous) from ``offset``, or raise
        StorageError.
        """

    @abstractmethod
    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` at ``offset``, or raise StorageError."""

    def write_all(self, offset: int, pieces: list[Buffer]) -> None:
        """Write ``pieces`` one behind the other from ``offset``, by one system call if possible."""
        for piece in pieces:
            self.write(offset, piece)
            offset += len(piece)

    @abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Make ``length`` bytes from ``offset`` read as zeros: a hole where one can be punched."""

    def discard(self, offset: int, length: int) -> None:
        """Give back the space of a range whose content no longer matters. May do nothing."""

    def allocate(self, offset: int, length: int) -> None:
        """Reserve space for a range without changing what it reads as; writes zeros if it must."""

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """(start, end, is_hole) in ascending order, covering [start, end) without gaps."""
        if start < end:
            yield start, end, False

    def copy_range(self, offset: int, target: Storage, target_offset: int, length: int) -> bool:
        """Copy inside the kernel (or share the blocks); False, with nothing done, where that cannot
        be.

        Raises StorageError when a copy that began then fails.
        """
        return False

    @abstractmethod
    def resize(self, size: int) -> None:
        """Cut off or extend with zeros."""

    def allocated(self) -> int:
        """Bytes that the container takes on its medium (``du``), or ``size`` where unknown."""
        return self.size

    def identity(self) -> tuple[int, ...] | None:
        """Equal for two storages over the same file (device, inode); None where there is no such
        thing.
        """
        return None

    def modified(self) -> float | None:
        """When its content was last written, in seconds since the epoch; None where unknown."""
        return None

    @abstractmethod
    def flush(self) -> None:
        """Durable when it returns."""

    @abstractmethod
    def close(self) -> None:
        """Release it; a second call does nothing. Does not flush."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` as a new object.

        The length is checked against ``size`` before anything is allocated.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot read {length} bytes at offset {offset}: "
                f"it ends at {self.size}"
            )
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
