"""WimFolder: the files of all images in an archive, as "1/Windows/explorer.exe".

Metadata of one image are held at a time. A stream of a file is called "1/file:stream"; it can be
opened, and is not listed. Imports archive and tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.bundles.wim.archive import Archive
from vmimg.bundles.wim.tree import Entry, Tree
from vmimg.errors import FormatError, StorageError, UnsupportedFeature
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage

__all__ = ["WimFolder"]

# A Windows has some 20 MiB for 100 000 files.
_MAX_METADATA: Final = 256 << 20
_MAX_NAMES: Final = 1_000_000


class WimFolder(Folder):
    """``archive`` belongs to it, and so does ``around``, which its parts lie in."""

    def __init__(self, archive: Archive, around: Folder) -> None:
        self.name = archive.name
        self.archive = archive
        self._around = around
        self._held: tuple[int, Tree] | None = None

    def names(self) -> tuple[str, ...]:
        """Raises UnsupportedFeature for more than a million of them; `walk` has no such limit."""
        found: list[str] = []
        for image in self.images():
            for path, entry in self.tree(image).walk():
                if entry.is_file:
                    found.append(f"{image}/{path}")
            if len(found) > _MAX_NAMES:
                raise UnsupportedFeature(
                    f"{self.name}: its images hold more than {_MAX_NAMES} files: name one image"
                )
        return tuple(found)

    def images(self) -> range:
        """Their numbers."""
        return range(1, len(self.archive.images) + 1)

    def tree(self, image: int) -> Tree:
        """The files of one image. Raises FormatError."""
        if self._held is None or self._held[0] != image:
            self._held = None
            blob = self.archive.images[image - 1]
            if blob.original > _MAX_METADATA:
                raise FormatError(
                    f"{self.name}: the metadata of image {image} have {blob.original} bytes"
                )
            data = self.archive.open(blob).read(0, blob.original)
            self._held = image, Tree(data, f"{self.name}: image {image}")
        return self._held[1]

    def walk(self, image: int) -> Iterator[tuple[str, Entry]]:
        """What is in an image, see `Tree.walk`."""
        return self.tree(image).walk()

    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    def size(self, name: str) -> int:
        sha1 = self._sha1(name)
        return self.archive.find(sha1).original if sha1 is not None else 0

    def open(self, name: str) -> Storage:
        storage = self.content(self._sha1(name), f"{self.name}:{name}")
        storage.folder = self
        storage.member = name
        return storage

    def content(self, sha1: bytes | None, shown: str) -> Storage:
        """The blob of a file, read in place; ``shown``: what to call it."""
        if sha1 is None:
            return MemoryStorage(name=shown)
        base = self.archive.open(self.archive.find(sha1))
        return SliceStorage(base, 0, base.size, shown, owns=base is not self.archive.storage)

    def close(self) -> None:
        self._held = None
        self.archive.close()
        self._around.close()

    def _sha1(self, name: str) -> bytes | None:
        found = self._find(name)
        if found is None:
            raise StorageError(f"{self.name}: there is no file '{name}' in it")
        return found[0]

    def _find(self, name: str) -> tuple[bytes | None] | None:
        """The checksum of a file or of a stream of one, None in it for an empty one."""
        image, _, path = name.partition("/")
        if not image.isdecimal() or len(image) > 5 or int(image) not in self.images() or not path:
            return None
        tree = self.tree(int(image))
        entry = tree.find(path)
        if entry is not None:
            return (entry.sha1,) if entry.is_file else None
        file, colon, stream = path.rpartition(":")
        entry = tree.find(file) if colon else None
        if entry is None:
            return None
        return next(((sha1,) for each, sha1 in entry.streams if each == stream), None)
