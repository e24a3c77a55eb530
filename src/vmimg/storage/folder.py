"""Folder: files by name, wherever they lie: in a directory, in an archive, in an archive in one.

Names are relative, parts separated by ``/``. What lies outside has no name here: a name that is
absolute or climbs out is refused, and so an image in an archive can refer to nothing but members of
it. Imports errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from vmimg.errors import StorageError, UnsafeImage
from vmimg.storage.base import Storage

__all__ = ["Folder", "joined"]


class Folder(ABC):
    """``name``: what to call it in messages, usually a path. ``index``: the file in it that it was
    opened by, where somebody named one ("machine.vmx"), else "".
    """

    name: str
    index: str = ""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of all files in it, in the order in which they lie there."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file. Raises StorageError where there is none of that name."""

    @abstractmethod
    def open(self, name: str) -> Storage:
        """A file, read in place. The caller closes it; it closes with the folder at the latest.

        Its `Storage.folder` is this folder. Raises StorageError where there is none of that name,
        and for what is no file.
        """

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self.names()

    def read(self, name: str, limit: int) -> bytes:
        """All of a small file. Raises StorageError where it has more than ``limit`` bytes."""
        with self.open(name) as storage:
            if storage.size > limit:
                raise StorageError(
                    f"{storage.name}: has {storage.size} bytes where {limit} are enough"
                )
            return storage.read(0, storage.size)

    @abstractmethod
    def close(self) -> None:
        """Release it and what was opened in it; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def joined(name: str, named: str) -> str:
    """What ``named`` means in a file of the name ``name``: both are names in one folder.

    Backslashes separate too: machines are described on Windows. Raises UnsafeImage where it would
    lead out of the folder.
    """
    named = named.replace("\\", "/")
    parts = name.split("/")[:-1]
    outside = named.startswith("/") or named[1:2] == ":" or "\0" in named
    for part in named.split("/"):
        if part == "..":
            outside = outside or not parts
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    if outside:
        raise UnsafeImage(f"{name}: names '{named}', which lies outside of what it came in")
    return "/".join(parts)
