"""DirectoryFolder: a directory of the file system as a Folder.

What links lead to is a member only where it lies in the directory too: a machine's directory that
came from elsewhere can name nothing outside of itself. Imports storage.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from vmimg import storage as storages
from vmimg.errors import StorageError, UnsafeImage
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder, joined

__all__ = ["DirectoryFolder"]

_MAX_ENTRIES: Final = 100_000
_MAX_DEPTH: Final = 32


class DirectoryFolder(Folder):
    """The files below ``path``, by names relative to it, in the order of their names.

    Directories that are links are not entered. Raises StorageError where it is no directory, and
    for more entries than any machine has.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._root = os.path.realpath(self.name)
        self._names: tuple[str, ...] | None = None
        self._opened: list[Storage] = []
        if not os.path.isdir(self._root):
            raise StorageError(f"{self.name}: is no directory")

    def names(self) -> tuple[str, ...]:
        if self._names is None:
            self._names = tuple(self._listed())
        return self._names

    def exists(self, name: str) -> bool:
        try:
            self._status(name)
        except (StorageError, UnsafeImage):
            return False
        return True

    def size(self, name: str) -> int:
        return self._status(name)[1].st_size

    def open(self, name: str) -> Storage:
        path, _ = self._status(name)
        storage = storages.open(path)
        storage.name = os.path.join(self.name, name)
        storage.folder = self
        storage.member = name
        self._opened.append(storage)
        return storage

    def path(self, name: str) -> str:
        """Where a file lies in the file system. Raises as `open` does."""
        return self._status(name)[0]

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()

    def _status(self, name: str) -> tuple[str, os.stat_result]:
        """The real path of a file, and what the system says of it."""
        shown = os.path.join(self.name, name)
        plain = joined("", name)
        real = os.path.realpath(os.path.join(self._root, plain))
        if not _is_below(real, self._root):
            raise UnsafeImage(f"{shown}: is a link that leads out of {self.name}")
        try:
            status = os.stat(real)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StorageError(f"{shown}: cannot open it: {reason.lower()}") from error
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{shown}: is no file")
        return real, status

    def _listed(self) -> list[str]:
        found: list[str] = []
        count = 0
        waiting = [("", 0)]
        while waiting:
            below, depth = waiting.pop()
            entries = self._entries(below)
            count += len(entries)
            if count > _MAX_ENTRIES:
                raise StorageError(
                    f"{self.name}: holds more than {_MAX_ENTRIES} files, as no machine does"
                )
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if depth < _MAX_DEPTH:
                        waiting.append((name, depth + 1))
                elif entry.is_file(follow_symlinks=False) or (
                    entry.is_symlink() and self.exists(name)
                ):
                    found.append(name)
        return sorted(found)

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._root, below)) as entries:
                listed = []
                for entry in entries:
                    listed.append(entry)
                    if len(listed) > _MAX_ENTRIES:
                        break
                return listed
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(f"{self.name}: cannot list it: {reason}") from error


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
