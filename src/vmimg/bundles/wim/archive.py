"""Archive: a WIM file with its other parts: header, XML, table of blobs, and each blob's bytes.

Only what is asked for is read: the header first, the table of blobs when somebody wants one, the
other parts of a split archive then as well. They lie beside the first and are called as wimlib and
DISM call them: name.swm, name2.swm, name3.swm. Sources: see structures. Imports probe and storage.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from vmimg.bundles.wim.resources import Held, Row, solid, table
from vmimg.codecs.libwim import Decompressor
from vmimg.errors import ChainError, FormatError, UnsupportedFeature
from vmimg.formats.raw.findings import View
from vmimg.probe.wim import (
    COMPRESSED,
    METADATA,
    SOLID,
    BlobEntry,
    ResourceHeader,
    Wim,
    read_wim,
    read_xml,
)
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.slice import SliceStorage

__all__ = ["Archive", "Blob"]

_ENTRY: Final = ctypes.sizeof(BlobEntry)
_MAX_BLOBS: Final = 600_000
_MAX_CHUNKS: Final = 1 << 20
_MAX_DECODERS: Final = 8
# Blobs do not overlap; some makers store metadata of equal images once.
_MOST_SHARED: Final = 4
# The original size of an entry that is a solid resource, not what lies in one.
_SOLID_SIZE: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Blob:
    """``offset`` and ``size``: in the file, or in what the solid resources of ``run`` hold, whose
    number ``run`` is; -1 for none. ``original``: bytes it holds. ``part``: from 1.
    """

    part: int
    offset: int
    size: int
    original: int
    flags: int
    run: int
    sha1: bytes


class Archive:
    """``folder[name]`` is the file; ``folder`` belongs to others. Raises FormatError."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._member = name
        storage = folder.open(name)
        self.name = storage.name
        self.view = View(storage, 0, storage.size)
        wim = read_wim(self.view)
        if wim is None:
            raise FormatError(f"{self.name}: is no WIM archive")
        self.wim: Wim = wim
        self._parts: dict[int, tuple[Storage, Wim]] = {int(wim.header.part_number): (storage, wim)}
        self._runs: list[Storage] = []
        self._room = _MAX_CHUNKS
        self._held = Held()
        self._decoders: dict[tuple[str, int], Decompressor] = {}

    @property
    def storage(self) -> Storage:
        """The file that was named."""
        return self.view.storage

    def xml(self) -> bytes:
        """The document that describes the images. Raises FormatError where it is out of reach."""
        data = read_xml(self.view, self.wim.header)
        if data is None:
            place = self.wim.header.xml_data
            raise FormatError(
                f"{self.name}: its XML has {place.size} bytes at {place.offset}, which cannot be "
                "read"
            )
        return data

    @cached_property
    def images(self) -> Sequence[Blob]:
        """The metadata of each image, in their order. Raises FormatError."""
        found = self._tables[1]
        count = int(self.wim.header.image_count)
        if len(found) < count:
            raise FormatError(f"{self.name}: has {count} images, and metadata of {len(found)}")
        return found[:count]

    def find(self, sha1: bytes) -> Blob:
        """The blob of that checksum. Raises ChainError where another archive must hold it."""
        blob = self._tables[0].get(sha1)
        if blob is None:
            raise ChainError(
                f"{self.name}: what has the SHA-1 {sha1.hex()} is not in it: it lies in the "
                "archive that this one is a delta of, or in a part that is missing"
            )
        return blob

    def blobs(self) -> Iterator[Blob]:
        """All of them, in the order in which they lie."""
        blobs, images = self._tables
        yield from images
        yield from sorted(blobs.values(), key=lambda each: (each.part, each.run, each.offset))

    def open(self, blob: Blob) -> Storage:
        """What is in a blob, read in place. It lives as long as the archive. Raises FormatError."""
        base, wim = self._parts[blob.part]
        if blob.run >= 0:
            inside = self._runs[blob.run]
            if blob.offset + blob.original > inside.size:
                raise FormatError(f"{self.name}: a blob ends behind its solid resource")
            return SliceStorage(inside, blob.offset, blob.original)
        return self._resource(base, wim, blob.offset, blob.size, blob.original, blob.flags)

    def parts(self) -> Iterator[tuple[Storage, Wim]]:
        """All of a split archive; the file alone where it is not the first of them."""
        header = self.wim.header
        if header.part_number == 1:
            for number in range(1, int(header.total_parts) + 1):
                yield self._part(number)
        else:
            yield self.storage, self.wim

    def close(self) -> None:
        """Closes the parts."""
        for storage, _ in self._parts.values():
            storage.close()

    def _resource(
        self, base: Storage, wim: Wim, offset: int, size: int, original: int, flags: int
    ) -> Storage:
        if offset + size > base.size:
            raise FormatError(f"{base.name}: {size} bytes at {offset} lie behind its end")
        if flags & COMPRESSED and original:
            kind = wim.compression.removesuffix("2")
            chunk = int(wim.header.chunk_size)
            return table(
                base, offset, size, original, kind, chunk, wim.pipable, self._decoder
            )  # fmt: skip
        if size != original:
            raise FormatError(f"{base.name}: {size} bytes at {offset} cannot hold {original}")
        return SliceStorage(base, offset, size)

    def _decoder(self, kind: str, chunk: int) -> Decompressor:
        if (kind, chunk) not in self._decoders:
            if len(self._decoders) == _MAX_DECODERS:
                self._decoders.clear()
            self._decoders[kind, chunk] = Decompressor(kind, chunk)
        return self._decoders[kind, chunk]

    @cached_property
    def _tables(self) -> tuple[dict[bytes, Blob], list[Blob]]:
        """Blobs by their checksum, and the metadata of the images."""
        if self.wim.encrypted:
            raise UnsupportedFeature(
                f"{self.name}: is an encrypted ESD, as Microsoft's downloads are: nobody but the "
                "one who downloads it has the key"
            )
        header = self.wim.header
        if header.total_parts > 1 and header.part_number != 1:
            raise ChainError(
                f"{self.name}: is part {header.part_number} of {header.total_parts}: name the first"
            )
        blobs: dict[bytes, Blob] = {}
        images: list[Blob] = []
        for number in range(1, max(1, int(header.total_parts)) + 1):
            storage, wim = self._part(number)
            for blob in self._read_table(storage, wim, number):
                if blob.flags & METADATA:
                    images.append(blob)
                else:
                    blobs.setdefault(blob.sha1, blob)
            if len(blobs) + len(images) > _MAX_BLOBS:
                raise UnsupportedFeature(f"{self.name}: holds more than {_MAX_BLOBS} blobs")
        self._check_overlap([*images, *blobs.values()])
        return blobs, images

    def _check_overlap(self, blobs: Iterable[Blob]) -> None:
        """Raises FormatError where the same bytes would be read over and over."""
        taken: Counter[tuple[int, int]] = Counter()
        for blob in blobs:
            taken[blob.part, blob.run] += blob.size
        for (part, run), size in taken.items():
            there = self._runs[run].size if run >= 0 else self._parts[part][0].size
            if size > _MOST_SHARED * there:
                raise FormatError(
                    f"{self.name}: its blobs take {size} bytes, where there are {there}"
                )

    def _part(self, number: int) -> tuple[Storage, Wim]:
        if number not in self._parts:
            stem, dot, suffix = self._member.rpartition(".")
            name = f"{stem}{number}{dot}{suffix}" if dot else f"{suffix}{number}"
            if not self._folder.exists(name):
                raise ChainError(f"{self.name}: part {number} of it is missing: {name}")
            storage = self._folder.open(name)
            wim = read_wim(View(storage, 0, storage.size))
            if wim is None or wim.guid != self.wim.guid or wim.header.part_number != number:
                raise ChainError(f"{storage.name}: is not part {number} of {self.name}")
            self._parts[number] = storage, wim
        return self._parts[number]

    def _read_table(self, storage: Storage, wim: Wim, part: int) -> Iterator[Blob]:
        place: ResourceHeader = wim.header.blob_table
        size = int(place.original_size)
        if size % _ENTRY or size // _ENTRY > _MAX_BLOBS:
            raise FormatError(f"{storage.name}: its table of blobs has {size} bytes")
        if not size:
            return
        opened = self._resource(
            storage, wim, int(place.offset), place.size, size, place.flags
        )  # fmt: skip
        data = opened.read(0, size)
        run: list[Storage] = []
        for at in range(0, size, _ENTRY):
            entry = BlobEntry.from_buffer_copy(data, at)
            where = entry.resource
            flags, offset, length = where.flags, int(where.offset), where.size
            if flags & SOLID and where.original_size == _SOLID_SIZE:
                packed, count = solid(
                    storage, offset, length, self._decoder, self._held, self._room
                )
                self._room -= count
                run.append(packed)
                continue
            if run:
                self._runs.append(Row(run))
                run = []
            if flags & SOLID and not self._runs:
                raise FormatError(f"{storage.name}: a blob lies in a solid resource that is none")
            yield Blob(
                part,
                offset,
                length,
                length if flags & SOLID else int(where.original_size),
                flags,
                len(self._runs) - 1 if flags & SOLID else -1,
                bytes(entry.sha1),
            )
