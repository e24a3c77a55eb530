"""TarFolder: the files of a tar, read where they lie.

Headers are walked once, as they were when it was vetted (`vmimg.probe.tar`). Members with holes are
seen as the files that they were made of. Links, devices and directories are no files. Imports probe
and storage.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.bundles.archives.memberindex import MemberIndex
from vmimg.bundles.archives.refusing import Refusing
from vmimg.bundles.archives.tarsparse import open_sparse
from vmimg.errors import FormatError, StorageError, UnsafeImage
from vmimg.formats.raw.findings import View
from vmimg.probe.entries import Entry, path_of
from vmimg.probe.tar import BLOCK, TarWalk
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.slice import SliceStorage

__all__ = ["TarFolder"]

_SPARSE = 1 << 62
"""Marks a member with holes: of it the bytes that it takes are kept, where others have an offset.
"""


class TarFolder(Folder):
    """``storage``, which belongs to it, is a tar. Of members of one name it has the first, of those
    whose names lead out none.

    ``feed``: one that was shown all of the tar already. ``refusing``: judges its members, which are
    otherwise taken as they are.

    Raises FormatError where a header is none, UnsafeImage for more members than are taken.
    """

    def __init__(
        self, storage: Storage, feed: TarFeed | None = None, refusing: Refusing | None = None
    ) -> None:
        self.name = storage.name
        self.storage = storage
        """The tar itself."""
        if feed is not None:
            walk = feed.end()
        else:
            walk = _Walk(storage.name, refusing)
            walk.run(View(storage, 0, storage.size))
        if walk.broken is not None:
            raise FormatError(
                f"{self.name}: is damaged: there is no header of a member at offset {walk.broken}"
            )
        if walk.crowded:
            raise UnsafeImage(f"{self.name}: has more headers than are taken ({len(walk.index)})")
        self._index = walk.index
        self._extended = walk.extended_at

    def names(self) -> tuple[str, ...]:
        return tuple(
            self._index.name(index) for index in self._index.firsts() if self._is_file(index)
        )

    def members(self) -> Iterator[tuple[str, int | None, int]]:
        """(name, offset in `storage`, bytes) of all files, in order: without opening them, where
        there are very many. The offset is None for one with holes.
        """
        for index in self._index.firsts():
            if self._is_file(index):
                data, size, _ = self._index.numbers(index)
                yield self._index.name(index), None if data & _SPARSE else data, size

    def exists(self, name: str) -> bool:
        found = self._index.find(name)
        return found is not None and self._is_file(found)

    def size(self, name: str) -> int:
        return self._numbers(name)[1]

    def open(self, name: str) -> Storage:
        data, size, header = self._numbers(name)
        shown = f"{self.name}:{name}"
        storage: Storage
        if data & _SPARSE:
            storage = open_sparse(
                self.storage, header, self._extended.get(header), data & ~_SPARSE, size, shown
            )
        elif data + size > self.storage.size:
            raise FormatError(
                f"{shown}: is cut off: it has {size} bytes at offset {data}, and the archive ends"
                f" at {self.storage.size}"
            )
        else:
            storage = SliceStorage(self.storage, data, size, shown)
        storage.folder = self
        storage.member = name
        return storage

    def close(self) -> None:
        self.storage.close()

    def _is_file(self, index: int) -> bool:
        return self._index.numbers(index)[0] >= 0

    def _numbers(self, name: str) -> tuple[int, int, int]:
        found = self._index.find(name)
        if found is None or not self._is_file(found):
            raise StorageError(f"{self.name}: there is no file '{name}' in it")
        return self._index.numbers(found)


class TarFeed:
    """The headers of a tar that goes by, piece by piece: what it is of is called ``name``."""

    def __init__(self, name: str, refusing: Refusing | None = None) -> None:
        self._walk = _Walk(name, refusing)
        self._steps = self._walk.steps()
        self._wanted: tuple[int, int] | None = next(self._steps)
        self._held = b""
        self._at = 0

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        view = memoryview(piece)
        end = self._at + len(piece)
        while self._wanted is not None:
            offset, length = self._wanted
            start = max(offset, self._at)
            if start >= end:
                break
            got = self._held + view[start - self._at : offset + length - self._at]
            if len(got) < length:
                self._held = got
                break
            self._send(got)
        self._at = end

    def end(self) -> _Walk:
        """There is no more: what was seen."""
        for _ in range(4):
            if self._wanted is None:
                break
            self._send(self._held)
        return self._walk

    def _send(self, got: bytes) -> None:
        self._held = b""
        try:
            self._wanted = self._steps.send(got)
        except StopIteration:
            self._wanted = None


class _Walk(TarWalk):
    """Keeps little of each member. ``extended_at``: by the offset of a header with holes, where the
    PAX header in front of it stands.
    """

    max_extension = 4 << 20
    max_extra = 1 << 23
    max_extensions = 1 << 32
    max_records = 1 << 18
    max_maps = 1 << 16

    def __init__(self, name: str, refusing: Refusing | None) -> None:
        super().__init__(1 << 62)
        self._refusing = refusing
        self.index = MemberIndex(name)
        self.extended_at: dict[int, int] = {}
        self._extended_at: int | None = None

    def keep(self, entry: Entry) -> None:
        path = path_of(entry)
        # Most names have no two dots at all.
        is_file = (
            entry.kind == "file" and path and (".." not in path or ".." not in path.split("/"))
        )
        data, size = -1, min(entry.size, _SPARSE)
        if is_file:
            data = entry.offset + BLOCK if entry.data is None else entry.data
            if entry.data is None:
                data = _SPARSE | min(entry.stored, _SPARSE - 1)
                size = min(entry.real_size, _SPARSE)
                if self._extended_at is not None and len(self.extended_at) < 1 << 16:
                    self.extended_at[entry.offset] = self._extended_at
        self._extended_at = None
        first = self.index.add(path, data, size, entry.offset)
        if self._refusing is not None:
            if self.problems:
                self._refusing.findings(self.problems)
                self.problems.clear()
            self._refusing.member(entry, twice=not first)

    def _take(self, flag: bytes, body: bytes, at: int) -> None:
        if flag == b"x":
            self._extended_at = at
        super()._take(flag, body, at)
