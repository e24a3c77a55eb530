"""SevenZipFolder: the files of a 7z.

Files are packed together, one behind the other, into streams. One that is only copied is read where
it lies, deflate through `inflating`; LZMA and LZMA2 have no place to begin but the front, and are
unpacked once, all files of the stream, into a file without a name. Source: 7zFormat.txt and
Methods.txt of the LZMA SDK. Imports probe and storage.
"""

from __future__ import annotations

import ctypes
import lzma
from collections.abc import Iterator
from typing import Any, Final

from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.bundles.archives.listed import ListedFolder
from vmimg.bundles.archives.unpacking import lzma_filter, raw_lzma, stream_pieces
from vmimg.codecs.crc32 import crc32, crc32_join
from vmimg.errors import (
    FormatError,
    LockedImage,
    UnsafeImage,
    UnsupportedFeature,
)
from vmimg.formats.raw.findings import View
from vmimg.probe.sevenzip import PackedFolder, SignatureHeader, read_7z
from vmimg.probe.streams import XZ_MEMORY
from vmimg.storage.base import Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage
from vmimg.storage.stream import spool_pieces

__all__ = ["SevenZipFolder"]

_MAX_MEMBERS: Final = 100_000
_COPY, _DEFLATE, _BZIP2, _LZMA, _LZMA2 = b"\0", b"\4\1\x08", b"\4\2\2", b"\3\1\1", b"\x21"
_AES: Final = b"\x06\xf1\x07\x01"
# What stands in front of LZMA in the archives of programs: a filter for jumps of x86.
_X86: Final = b"\3\3\1\3"


class SevenZipFolder(ListedFolder[int]):
    """``storage``, which belongs to it, is a 7z. Of members of one name it has the first, of those
    whose names lead out none. ``near``: where temporary copies go; ``limit``: bytes that one may
    have.

    Raises FormatError where its header is damaged, LockedImage where it is encrypted.
    """

    def __init__(self, storage: Storage, *, near: str | None = None, limit: int) -> None:
        super().__init__(storage, near=near, limit=limit)
        found = read_7z(View(storage, 0, storage.size), _MAX_MEMBERS)
        if found.encrypted:
            raise LockedImage(f"{self.name}: is encrypted, as 7z does it; unpack it first")
        if not found.complete:
            problem = found.problem or "its header is damaged, cut off or too large"
            raise FormatError(f"{self.name}: {problem}")
        streams = found.streams
        self._folders = streams.folders if streams else []
        self._packed: list[tuple[int, int]] = []
        self._places: list[tuple[int, int, int, int | None]] = []
        if streams is not None:
            self._locate(streams.start, streams.packed)
            self._number(streams.sizes, streams.checksums)
        self._list(zip(found.entries, found.numbers, strict=True))

    def size(self, name: str) -> int:
        number = self._member(name)
        return self._places[number][2] if number >= 0 else 0

    def open(self, name: str) -> Storage:
        number = self._member(name)
        shown = f"{self.name}:{name}"
        storage: Storage
        if number < 0:
            storage = MemoryStorage(b"", shown)
        else:
            folder, offset, size, _ = self._places[number]
            whole = self._copy(folder, lambda: self._unpack(folder, shown))
            if offset + size > whole.size:
                raise FormatError(f"{shown}: is cut off: what it is packed in ends before it")
            storage = SliceStorage(whole, offset, size, shown)
        storage.folder = self
        storage.member = name
        return storage

    def _locate(self, start: int, packed: list[int]) -> None:
        """Where the packed streams lie that the folders take, which take them in turn."""
        at = ctypes.sizeof(SignatureHeader) + start
        sizes = iter(packed)
        for folder in self._folders:
            own = [next(sizes, 0) for _ in range(folder.inputs)]
            self._packed.append((at, own[0] if own else 0))
            at += sum(own)

    def _number(self, sizes: list[int], checksums: list[int | None]) -> None:
        """Where files begin in what their folders unpack to."""
        files = iter(zip(sizes, checksums, strict=False))
        for number, folder in enumerate(self._folders):
            offset = 0
            for _ in range(folder.count):
                size, checksum = next(files, (0, None))
                self._places.append((number, offset, size, checksum))
                offset += size

    def _unpack(self, number: int, shown: str) -> Storage:
        folder = self._folders[number]
        at, stored = self._packed[number]
        methods = [method for method, _ in folder.coders]
        if at + stored > self._storage.size:
            raise FormatError(f"{shown}: is cut off: the archive ends in it")
        if _AES in methods:
            raise LockedImage(f"{shown}: is encrypted, as 7z does it; unpack it first")
        if folder.size > self._limit:
            raise UnsafeImage(
                f"{shown}: unpacks to {folder.size} bytes, and {self._limit} are allowed"
            )
        packed = SliceStorage(self._storage, at, stored, shown)
        if methods == [_COPY]:
            return packed
        if methods == [_DEFLATE]:
            return InflatedStorage(
                self._storage, shown, start=at, stored=stored, size=folder.size,
                checksum=folder.checksum,
            )  # fmt: skip
        if methods == [_BZIP2]:
            pieces = stream_pieces(packed, "bzip2")
        else:
            pieces = raw_lzma(packed, 0, _filters(folder, shown), shown)
        checked = self._checked(number, pieces, shown)
        return spool_pieces(checked, shown, directory=self._near, limit=self._limit)

    def _checked(self, number: int, pieces: Iterator[bytes], shown: str) -> Iterator[bytes]:
        """``pieces``, up to the size of the folder, with the checksums of its files."""
        ends = [
            (offset + size, checksum)
            for folder, offset, size, checksum in self._places
            if folder == number
        ]
        size = self._folders[number].size
        made = total = 0
        upcoming = iter(ends)
        end, checksum = next(upcoming, (size, None))
        for piece in pieces:
            view = memoryview(piece)[: size - made]
            taken = len(view)
            while view:
                part = view[: end - made] if end > made else view
                total = crc32_join(total, crc32(part), len(part))
                made += len(part)
                view = view[len(part) :]
                if made == end:
                    if checksum not in (None, total):
                        raise FormatError(f"{shown}: the packed data is corrupt (its checksum)")
                    total = 0
                    end, checksum = next(upcoming, (size, None))
                    while end == made and made < size:
                        end, checksum = next(upcoming, (size, None))
            yield piece[:taken]
            if made >= size:
                break
        if made < size:
            raise FormatError(f"{shown}: the packed data is corrupt (it ends after {made} bytes)")


def _filters(folder: PackedFolder, shown: str) -> list[dict[str, Any]]:
    """The standard library's words for the coders of a folder."""
    coders = list(folder.coders)
    found: list[dict[str, Any]] = []
    # Not in front of LZMA: the library keeps back its last bytes where no end is marked.
    x86 = [coder for coder in coders if coder[0] == _X86]
    if len(coders) == 2 and len(x86) == 1 and folder.inputs == 1:
        coders.remove(x86[0])
        if coders[0][0] == _LZMA2:
            found.append({"id": lzma.FILTER_X86})
        else:
            raise _unknown(shown)
    if len(coders) != 1:
        raise _unknown(shown)
    method, properties = coders[0]
    if method == _LZMA and len(properties) == 5:
        return [*found, lzma_filter(properties, shown)]
    if method == _LZMA2 and len(properties) == 1 and properties[0] <= 40:
        bits = properties[0]
        size = 0xFFFFFFFF if bits == 40 else (2 | bits & 1) << (bits // 2 + 11)
        if size > XZ_MEMORY:
            raise UnsupportedFeature(f"{shown}: needs more memory to unpack than is allowed")
        return [*found, {"id": lzma.FILTER_LZMA2, "dict_size": size}]
    raise _unknown(shown)


def _unknown(shown: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{shown}: is packed in a way that is not known; unpack it first")
