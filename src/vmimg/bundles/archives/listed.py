"""ListedFolder: the files of an archive that lists them in one place, as zip and 7z do.

Imports probe and storage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from vmimg.errors import StorageError
from vmimg.probe.entries import Entry, path_of
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["ListedFolder"]

T = TypeVar("T")


class ListedFolder(Folder, Generic[T]):
    """``storage``, which belongs to it, is the archive. ``near``: where temporary copies go;
    ``limit``: bytes that one may have.
    """

    def __init__(self, storage: Storage, *, near: str | None, limit: int) -> None:
        self.name = storage.name
        self._storage = storage
        self._near = near
        self._limit = limit
        self._lock = threading.Lock()
        self._copies: dict[object, Storage] = {}
        self._members: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def exists(self, name: str) -> bool:
        return name in self._members

    def close(self) -> None:
        with self._lock:
            while self._copies:
                self._copies.popitem()[1].close()
        self._storage.close()

    def _list(self, members: Iterable[tuple[Entry, T]]) -> None:
        """Take the files among ``members``: the first of a name, and none that leads out."""
        seen = set()
        for entry, member in members:
            path = path_of(entry)
            if path in seen:
                continue
            seen.add(path)
            if entry.kind == "file" and path and ".." not in path.split("/"):
                self._members[path] = member

    def _member(self, name: str) -> T:
        member = self._members.get(name)
        if member is None:
            raise StorageError(f"{self.name}: there is no file '{name}' in it")
        return member

    def _copy(self, key: object, make: Callable[[], Storage]) -> Storage:
        """What ``make`` unpacked; kept until the archive is closed."""
        with self._lock:
            if key not in self._copies:
                self._copies[key] = make()
            return self._copies[key]
