"""OneFileFolder: one file as a Folder: what a compressed file holds. Imports storage."""

from __future__ import annotations

from vmimg.errors import StorageError
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.slice import SliceStorage

__all__ = ["OneFileFolder"]

_SUFFIXES = (".gz", ".xz", ".zst", ".zstd", ".bz2", ".lzma", ".lz", ".lz4", ".lzo", ".z")


class OneFileFolder(Folder):
    """``storage``, which belongs to it, is its only file: called ``member``."""

    def __init__(self, storage: Storage, name: str, member: str) -> None:
        self.name = name
        self._storage = storage
        self._member = member

    def names(self) -> tuple[str, ...]:
        return (self._member,)

    def size(self, name: str) -> int:
        self._check(name)
        return self._storage.size

    def open(self, name: str) -> Storage:
        self._check(name)
        shown = f"{self.name}:{name}"
        storage = SliceStorage(self._storage, 0, self._storage.size, shown)
        storage.folder = self
        storage.member = name
        return storage

    def close(self) -> None:
        self._storage.close()

    def _check(self, name: str) -> None:
        if name != self._member:
            raise StorageError(f"{self.name}: there is no file '{name}' in it")


def inner_name(storage: Storage) -> str:
    """What to call what is in a compressed file: its own name without the suffix."""
    name = (storage.member or storage.name).replace("\\", "/").rpartition("/")[2]
    lower = name.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name or "content"
