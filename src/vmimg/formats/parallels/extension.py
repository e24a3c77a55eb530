"""The format extension: one cluster that ext_off points to, with features behind a checksum.

::

    0     magic, MD5 of the rest of the cluster
    24    feature: magic, flags, size; its data; filled up to 8 bytes
    ...   until a feature with the magic 0

The one feature that is known is the dirty bitmap: which parts of the disk changed since the backup
of that id. Nothing of it is needed to read the disk, so what is wrong with it is said and not
raised. No numpy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.header import ParallelsHeader
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["Bitmap", "Extension", "read_extension"]

_HEAD = 24
_FEATURE = 24
_BITMAP = 32
_MOST_FEATURES = 1000


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap. ``granularity``: bytes of the disk for a bit. ``clusters``: bytes in the file
    where its own clusters begin.
    """

    id: UUID
    granularity: int
    clusters: tuple[int, ...]


@dataclass(slots=True)
class Extension:
    """``offset``: where its cluster begins. ``wrong``: what is wrong with it, "" for nothing.
    ``unknown``: (magic, flags) of the features that are not known.
    """

    offset: int
    wrong: str = ""
    bitmaps: list[Bitmap] = field(default_factory=list)
    unknown: list[tuple[int, int]] = field(default_factory=list)

    @property
    def clusters(self) -> list[int]:
        """Where all its clusters begin."""
        return [self.offset, *(place for bitmap in self.bitmaps for place in bitmap.clusters)]

    @property
    def keeper(self) -> str:
        """Why the image must not be changed by who drops the extension; "" where it may be."""
        for magic, flags in self.unknown:
            if flags & (s.NECESSARY | s.TRANSIT):
                return f"its extension {magic:#018x} is unknown, and has to be kept"
        return ""

    def to_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"offset": self.offset, "valid": not self.wrong}
        if self.wrong:
            facts["error"] = self.wrong
        if self.unknown:
            facts["unknown-features"] = [
                {"magic": f"{magic:#018x}", "flags": flags} for magic, flags in self.unknown
            ]
        return facts


def read_extension(storage: Storage, header: ParallelsHeader) -> Extension | None:
    """The extension of the image; None where there is none. Raises StorageError only."""
    if not header.ext_off:
        return None
    extension = Extension(header.ext_off * s.SECTOR)
    size, place = header.block_size, extension.offset
    if size > s.MAX_EXTENSION:
        extension.wrong = f"clusters of {size} bytes are too large to be read for it"
    elif place < header.table_end or place + size > storage.size:
        extension.wrong = f"it is said to be at {place}, where the file has no cluster"
    else:
        try:
            cluster = bytearray(size)
            storage.read_into(place, memoryview(cluster))
            _parse(cluster, storage, header, extension)
        except _Wrong as error:
            extension.wrong = str(error)
    if extension.wrong:
        extension.bitmaps.clear()
    return extension


class _Wrong(Exception):
    pass


def _parse(
    cluster: bytearray, storage: Storage, header: ParallelsHeader, extension: Extension
) -> None:
    head = s.ExtensionHeader.from_buffer_copy(cluster) if len(cluster) >= _HEAD else None
    if head is None or head.magic != s.EXTENSION_MAGIC:
        raise _Wrong("its magic is wrong")
    digest = hashlib.md5(memoryview(cluster)[_HEAD:], usedforsecurity=False).digest()
    if bytes(head.m_CheckSum) != digest:
        raise _Wrong("its checksum is wrong")
    position = _HEAD
    while True:
        if position + _FEATURE > len(cluster):
            raise _Wrong("it does not end")
        feature = s.FeatureHeader.from_buffer_copy(cluster, position)
        if feature.magic == s.END_OF_FEATURES:
            return
        position += _FEATURE
        if feature.data_size > len(cluster) - position:
            raise _Wrong(f"a feature has {feature.data_size} bytes, more than the cluster")
        data = cluster[position : position + feature.data_size]
        if len(extension.bitmaps) + len(extension.unknown) >= _MOST_FEATURES:
            raise _Wrong(f"it has more than {_MOST_FEATURES} features")
        if feature.magic == s.DIRTY_BITMAP:
            extension.bitmaps.append(_bitmap(data, storage, header))
        else:
            extension.unknown.append((feature.magic, feature.flags))
        position = align_up(position + feature.data_size, 8)


def _bitmap(data: bytearray, storage: Storage, header: ParallelsHeader) -> Bitmap:
    if len(data) < _BITMAP:
        raise _Wrong(f"a dirty bitmap of {len(data)} bytes")
    raw = s.DirtyBitmap.from_buffer_copy(data)
    grain = raw.granularity
    if not grain or grain & (grain - 1):
        raise _Wrong(f"a dirty bitmap with a granularity of {grain} sectors")
    if raw.size != header.sectors:
        raise _Wrong(f"a dirty bitmap of {raw.size} sectors, and the disk has {header.sectors}")
    bits = -(-raw.size // grain)
    if raw.l1_size != -(-bits // (8 * header.block_size)):
        raise _Wrong(f"a dirty bitmap of {bits} bits with {raw.l1_size} clusters")
    if _BITMAP + 8 * raw.l1_size > len(data):
        raise _Wrong("a dirty bitmap whose table is cut off")
    table = memoryview(data)[_BITMAP : _BITMAP + 8 * raw.l1_size]
    entries = [int.from_bytes(table[at : at + 8], "little") for at in range(0, len(table), 8)]
    # 0 and 1 stand for clusters of zeros and of ones.
    places = tuple(entry * s.SECTOR for entry in entries if entry > 1)
    for place in places:
        if place < header.table_end or place >= storage.size:
            raise _Wrong(f"a dirty bitmap with a cluster at {place}, where the file has none")
    return Bitmap(UUID(bytes=bytes(raw.id)), grain * s.SECTOR, places)
