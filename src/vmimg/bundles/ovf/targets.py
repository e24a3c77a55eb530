"""Where a package goes: into a tar, or a directory. What comes first in it is known last.

The descriptor tells the sizes of files, the manifest their digests, and both stand before them.
In a tar room is kept for them; in a directory there is no order. Imports archives and storage.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from vmimg.bundles.archives import Reserved, TarWriter, WrittenMember, digests
from vmimg.bundles.archives.writing import pieces_of
from vmimg.storage.base import Storage
from vmimg.storage.output import OutputSet

__all__ = ["FolderTarget", "PackageTarget", "TarTarget"]


class PackageTarget(Protocol):
    """Members are made in the order of the calls. Names are checked where they are used."""

    def text(self, name: str, size: int) -> None:
        """A text of ``size`` bytes at the most belongs here; `fill` brings it."""

    def fill(self, name: str, data: bytes) -> None:
        """The text that was announced: as long as was said, if it was said exactly."""

    def image(self, name: str, write: Callable[[Storage], int]) -> int:
        """A member that ``write`` writes into an empty storage; its size in bytes."""

    def copy(self, name: str, storage: Storage) -> int:
        """A member with the bytes of ``storage``; its size in bytes."""

    def digest(self, name: str, algorithm: str) -> str:
        """The digest of a member that is complete, in hexadecimal; may be called by any thread."""

    def padded(self, name: str, data: bytes) -> bytes:
        """What `fill` will make of ``data``."""

    def finish(self) -> int:
        """All is there; how many bytes that is."""


class TarTarget:
    """An OVA, written to an empty storage."""

    def __init__(self, storage: Storage) -> None:
        self._archive = TarWriter(storage)
        self._reserved: dict[str, Reserved] = {}
        self._written: dict[str, WrittenMember] = {}

    def text(self, name: str, size: int) -> None:
        self._reserved[name] = self._archive.reserve(name, size)

    def fill(self, name: str, data: bytes) -> None:
        self._archive.fill(self._reserved[name], data)

    def padded(self, name: str, data: bytes) -> bytes:
        return data.ljust(self._reserved[name].size, b"\n")

    def image(self, name: str, write: Callable[[Storage], int]) -> int:
        size = self._archive.add_image(name, write)
        self._note(name)
        return size

    def copy(self, name: str, storage: Storage) -> int:
        self._archive.add_storage(name, storage)
        self._note(name)
        return storage.size

    def digest(self, name: str, algorithm: str) -> str:
        place = self._written[name]
        found = digests(self._archive.storage, (algorithm,), offset=place.offset, length=place.size)
        return found[algorithm]

    def finish(self) -> int:
        self._archive.finish()
        return self._archive.storage.size

    def _note(self, name: str) -> None:
        assert self._archive.last is not None
        self._written[name] = self._archive.last


class FolderTarget:
    """Files in the directory ``folder``, which appear with the others of ``outputs``."""

    def __init__(self, outputs: OutputSet, folder: str, *, replace: bool) -> None:
        self._outputs = outputs
        self._folder = folder
        self._replace = replace
        self._files: dict[str, Storage] = {}

    def text(self, name: str, size: int) -> None:
        self._files[name] = self._new(name)

    def fill(self, name: str, data: bytes) -> None:
        self._files[name].write(0, data)

    def padded(self, name: str, data: bytes) -> bytes:
        return data

    def image(self, name: str, write: Callable[[Storage], int]) -> int:
        storage = self._files[name] = self._new(name)
        return write(storage)

    def copy(self, name: str, storage: Storage) -> int:
        file = self._files[name] = self._new(name)
        for offset, length, hole in pieces_of(storage):
            if not hole and not storage.copy_range(offset, file, offset, length):
                file.write(offset, storage.read(offset, length))
        file.resize(storage.size)
        return storage.size

    def digest(self, name: str, algorithm: str) -> str:
        return digests(self._files[name], (algorithm,))[algorithm]

    def finish(self) -> int:
        return sum(file.size for file in self._files.values())

    def _new(self, name: str) -> Storage:
        return self._outputs.add(os.path.join(self._folder, name), replace=self._replace)
