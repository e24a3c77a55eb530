"""ZipFolder: the files of a zip: stored ones where they lie, deflated ones through `inflating`.

What the central directory says counts, and the local header in front of a member must be there;
that is what all readers of today do. Source: PKWARE APPNOTE.TXT 6.3.10. Imports probe and storage.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Final

from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.bundles.archives.unpacking import unpacked_member
from vmimg.errors import FormatError, LockedImage, StorageError, UnsafeImage, UnsupportedFeature
from vmimg.formats.raw.findings import View
from vmimg.probe.entries import path_of
from vmimg.probe.zip import LOCAL, LocalHeader, Record, read_zip
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.slice import SliceStorage

__all__ = ["ZipFolder"]

_STORED, _DEFLATED = 0, 8
# Each is an object here: no machine has so many files.
_MAX_DIRECTORY: Final = 32 << 20
_MAX_MEMBERS: Final = 100_000
# Besides deflate, what the standard library unpacks, by zip's numbers.
_OTHERS: Final = {12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}


class ZipFolder(Folder):
    """``storage``, which belongs to it, is a zip. Of members of one name it has the first, of those
    whose names lead out none. ``near``: where temporary copies go; ``limit``: bytes that one may
    have.

    Raises FormatError where its directory is damaged, UnsafeImage for more members than are taken.
    """

    def __init__(self, storage: Storage, *, near: str | None = None, limit: int) -> None:
        self.name = storage.name
        self._storage = storage
        self._near = near
        self._limit = limit
        self._lock = threading.Lock()
        self._copies: dict[str, Storage] = {}
        found = read_zip(View(storage, 0, storage.size), _MAX_MEMBERS, _MAX_DIRECTORY)
        if found.crowded:
            raise UnsafeImage(f"{self.name}: has more members than are taken ({_MAX_MEMBERS})")
        if not found.complete:
            raise FormatError(
                f"{self.name}: is incomplete: its directory of members is missing or damaged"
            )
        self._records: dict[str, Record] = {}
        seen = set()
        for record in found.records:
            path = path_of(record.entry)
            if path in seen:
                continue
            seen.add(path)
            if record.entry.kind == "file" and path and ".." not in path.split("/"):
                self._records[path] = record

    def names(self) -> tuple[str, ...]:
        return tuple(self._records)

    def exists(self, name: str) -> bool:
        return name in self._records

    def size(self, name: str) -> int:
        return self._record(name).entry.size

    def open(self, name: str) -> Storage:
        record = self._record(name)
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

    def close(self) -> None:
        with self._lock:
            while self._copies:
                self._copies.popitem()[1].close()
        self._storage.close()

    def _record(self, name: str) -> Record:
        record = self._records.get(name)
        if record is None:
            raise StorageError(f"{self.name}: there is no file '{name}' in it")
        return record

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
        with self._lock:
            if name not in self._copies:
                packed = SliceStorage(self._storage, start, entry.stored, shown)
                if entry.size > self._limit:
                    raise UnsafeImage(
                        f"{shown}: has {entry.size} bytes, and {self._limit} are allowed"
                    )
                self._copies[name] = unpacked_member(
                    packed, _OTHERS[entry.method], entry.size, record.crc32, near=self._near
                )
            copy = self._copies[name]
        return SliceStorage(copy, 0, copy.size, shown)
