"""ZipFolder: the files of a zip: stored ones where they lie, deflated ones through `inflating`.

What the central directory says counts, and the local header in front of a member must be there;
that is what all readers of today do. Source: PKWARE APPNOTE.TXT 6.3.10. Imports probe and storage.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.bundles.archives.listed import ListedFolder
from vmimg.bundles.archives.unpacking import unpacked_member
from vmimg.errors import FormatError, LockedImage, UnsafeImage, UnsupportedFeature
from vmimg.formats.raw.findings import View
from vmimg.probe.zip import LOCAL, LocalHeader, Record, read_zip
from vmimg.storage.base import Storage
from vmimg.storage.slice import SliceStorage

__all__ = ["ZipFolder"]

_STORED, _DEFLATED = 0, 8
# Each is an object here: no machine has so many files.
_MAX_DIRECTORY: Final = 32 << 20
_MAX_MEMBERS: Final = 100_000
# Besides deflate, what the standard library unpacks, by zip's numbers.
_OTHERS: Final = {12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}


class ZipFolder(ListedFolder[Record]):
    """``storage``, which belongs to it, is a zip. Of members of one name it has the first, of those
    whose names lead out none. ``near``: where temporary copies go; ``limit``: bytes that one may
    have.

    Raises FormatError where its directory is damaged, UnsafeImage for more members than are taken.
    """

    def __init__(self, storage: Storage, *, near: str | None = None, limit: int) -> None:
        super().__init__(storage, near=near, limit=limit)
        found = read_zip(View(storage, 0, storage.size), _MAX_MEMBERS, _MAX_DIRECTORY)
        if found.crowded:
            raise UnsafeImage(f"{self.name}: has more members than are taken ({_MAX_MEMBERS})")
        if not found.complete:
            raise FormatError(
                f"{self.name}: is incomplete: its directory of members is missing or damaged"
            )
        self._list((record.entry, record) for record in found.records)

    def size(self, name: str) -> int:
        return self._member(name).entry.size

    def open(self, name: str) -> Storage:
        record = self._member(name)
        entry = record.entry
        shown = f"{self.name}:{name}"
        start = self._start(record, shown)
        storage: Storage
        if entry.encrypted:
            raise LockedImage(f"{shown}: is encrypted, as a zip does it; unpack it first")
        if entry.method == _STORED:
            if entry.size != entry.stored:
                raise FormatError(
                    f"{shown}: is stored in {entry.stored} bytes and says that it has {entry.size}"
                )
            storage = SliceStorage(self._storage, start, entry.size, shown)
        elif entry.method == _DEFLATED:
            storage = InflatedStorage(
                self._storage,
                shown,
                start=start,
                stored=entry.stored,
                size=entry.size,
                checksum=record.crc32,
            )
        elif entry.method in _OTHERS:
            storage = self._copied(name, record, start, shown)
        else:
            raise UnsupportedFeature(
                f"{shown}: is packed in a way that is not known (method {entry.method}); "
                "unpack it first"
            )
        storage.folder = self
        storage.member = name
        return storage

    def _start(self, record: Record, shown: str) -> int:
        """Where the data of a member begins."""
        entry = record.entry
        size = ctypes.sizeof(LocalHeader)
        if not 0 <= entry.offset <= self._storage.size - size:
            raise FormatError(f"{shown}: lies behind the end of the archive")
        local = LocalHeader.from_buffer_copy(self._storage.read(entry.offset, size))
        start: int = entry.offset + size + local.name_length + local.extra_length
        if local.signature != LOCAL or local.method != entry.method:
            raise FormatError(f"{shown}: there is no header of it where the directory says")
        if start + entry.stored > self._storage.size:
            raise FormatError(f"{shown}: is cut off: the archive ends in it")
        return start

    def _copied(self, name: str, record: Record, start: int, shown: str) -> Storage:
        """A member that cannot be read where it lies, from a copy that is made once."""
        entry = record.entry
        if entry.size > self._limit:
            raise UnsafeImage(f"{shown}: has {entry.size} bytes, and {self._limit} are allowed")
        packed = SliceStorage(self._storage, start, entry.stored, shown)
        kind = _OTHERS[entry.method]
        copy = self._copy(
            name,
            lambda: unpacked_member(packed, kind, entry.size, record.crc32, near=self._near),
        )
        return SliceStorage(copy, 0, copy.size, shown)
