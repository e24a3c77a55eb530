"""A WIM of a directory: the files, the metadata, the table of blobs, the XML, the checksums.

The same directory makes the same bytes, whatever the time and the number of threads: the GUID is
hashed of what is in it, times are those of the files (SOURCE_DATE_EPOCH at the latest), and the
image is as old as the newest of them. Owners, modes and access rights are not taken. Sources: see
structures. Imports packing, scanning, metadata.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.wim.metadata import description, link_data, metadata
from vmimg.bundles.wim.packing import Blob, Coder, Place, Source, write_blobs, write_solid
from vmimg.bundles.wim.scanning import Node, scan
from vmimg.bundles.wim.structures import IntegrityHeader
from vmimg.bundles.wim.verifying import digest_of
from vmimg.errors import OptionError
from vmimg.formats.iso.making import source_date
from vmimg.probe.wim import (
    COMPRESSION,
    COMPRESSIONS,
    METADATA,
    VERSIONS,
    BlobEntry,
    ResourceHeader,
    WimHeader,
)
from vmimg.storage.base import Storage
from vmimg.storage.output import Output
from vmimg.transfer.engine import Progress

__all__ = ["make_wim"]

_HEADER: Final = ctypes.sizeof(WimHeader)
# Of each coder: bytes of a chunk by itself, and in a solid resource. Microsoft reads no other LZX;
# chunks of 64 MiB, as its own ESDs have, would take 576 MiB for each thread.
_CHUNKS: Final = {
    "none": (1 << 20, 0),
    "XPRESS": (1 << 15, 1 << 16),
    "LZX": (1 << 15, 1 << 21),
    "LZMS": (1 << 17, 1 << 23),
}
_INTEGRITY_CHUNK: Final = 10 << 20
_PLAIN, _SOLID = VERSIONS


def make_wim(package: Package, target: str, how: How) -> Made:
    """The archive at ``target``, of `Package.directory`. Raises OptionError, StorageError."""
    options = how.options
    kind = str(options["compression"])
    kind = kind.upper() if kind != "none" else kind
    solid = bool(options["solid"])
    if solid and kind == "none":
        raise OptionError("files that are packed as one are compressed: set solid=off")
    chunk, solid_chunk = _CHUNKS[kind]
    latest = source_date()
    nodes = scan(package.directory)
    coder = Coder(kind, chunk, how.level, how.threads)
    with Output(target, replace=how.replace) as storage:
        made = _Archive(storage, how.progress, None if latest is None else latest * 10**9)
        packer = Coder(kind, solid_chunk, how.level, how.threads) if solid else None
        made.write_files(nodes, coder, packer)
        made.write_metadata(nodes, coder)
        made.write_end(nodes, package.directory, options)
        made.write_header(kind, chunk, solid, boot=bool(options["boot"]))
        size = storage.size
    return Made(target, size)


class _Archive:
    """What has been written of it."""

    def __init__(self, storage: Storage, progress: Progress | None, latest: int | None) -> None:
        self._storage = storage
        self._progress = progress
        self._latest = latest
        self._at = _HEADER
        self._blobs: list[Blob] = []
        self._solid: list[Place] = []
        self._image = Blob(b"", Place(0, 0, 0, 0))
        self._table = self._xml = self._integrity = Place(0, 0, 0, 0)

    def write_files(self, nodes: list[Node], coder: Coder, packer: Coder | None) -> None:
        """Contents of files, and targets of links."""
        holders = _holders(nodes)
        sources = list(holders)
        done, total = 0, max(1, sum(source.size for source in sources))

        def told(length: int) -> None:
            nonlocal done
            done += length
            if self._progress is not None:
                self._progress(done, total)

        if packer is not None and sources:
            # Files of one kind side by side compress each other.
            sources.sort(key=lambda each: (os.path.splitext(each.path)[1].lower(), each.path))
            place, places = write_solid(sources, self._storage, self._at, packer, told)
            self._solid.append(place)
            self._at += place.size
        else:
            places = list(write_blobs(sources, self._storage, self._at, coder, told))
            self._at = places[-1].offset + places[-1].size if places else self._at
        known: dict[bytes, Blob] = {}
        for source, place in zip(sources, places, strict=True):
            for node in holders[source]:
                node.sha1 = source.sha1
            blob = known.setdefault(source.sha1, Blob(source.sha1, place, 0))
            blob.count += len(holders[source])
        self._blobs = list(known.values())

    def write_metadata(self, nodes: list[Node], coder: Coder) -> None:
        data = metadata(nodes, self._latest)
        source = Source("the metadata", len(data), data)
        (place,) = write_blobs([source], self._storage, self._at, coder, lambda length: None)
        place = Place(place.size, place.flags | METADATA, place.offset, place.original)
        self._image = Blob(source.sha1, place)
        self._at += place.size

    def write_end(self, nodes: list[Node], directory: str, options: Mapping[str, Any]) -> None:
        """The table of blobs, the XML, the checksums."""
        table = b"".join(
            [_entry(self._image)]
            + [_entry(Blob(bytes(20), place)) for place in self._solid]
            + [_entry(blob) for blob in self._blobs]
        )
        self._table = self._append(table, METADATA)
        newest = max(node.written for node in nodes)
        name = options.get("name") or os.path.basename(os.path.realpath(directory)) or "image"
        xml = description(
            nodes,
            name=str(name),
            text=str(options.get("description") or ""),
            created=newest if self._latest is None else min(newest, self._latest),
            total=self._at,
        )
        self._xml = self._append(xml, METADATA)
        self._guid = UUID(bytes=hashlib.sha256(table + xml).digest()[:16], version=5)
        if options["integrity"]:
            end = self._table.offset + self._table.size
            digests = [
                digest_of(self._storage, at, min(at + _INTEGRITY_CHUNK, end))
                for at in range(_HEADER, end, _INTEGRITY_CHUNK)
            ]
            header = IntegrityHeader(
                ctypes.sizeof(IntegrityHeader) + 20 * len(digests), len(digests), _INTEGRITY_CHUNK
            )
            self._integrity = self._append(bytes(header) + b"".join(digests), 0)

    def write_header(self, kind: str, chunk: int, solid: bool, *, boot: bool) -> None:
        compressed = kind != "none"
        flag = next((bit for bit, name in COMPRESSIONS.items() if name == kind), 0)
        header = WimHeader(
            header_size=_HEADER,
            version=_SOLID if solid or kind == "LZMS" else _PLAIN,
            flags=COMPRESSION | flag if compressed else 0,
            chunk_size=chunk if compressed else 0,
            part_number=1,
            total_parts=1,
            image_count=1,
            blob_table=_resource(self._table),
            xml_data=_resource(self._xml),
            boot_index=int(boot),
            integrity=_resource(self._integrity),
        )
        header.magic[:] = b"MSWIM\0\0\0"
        header.guid[:] = self._guid.bytes_le
        if boot:
            header.boot_metadata = _resource(self._image.place)
        self._storage.write(0, bytes(header))
        # What was written over by fewer bytes may reach behind the end.
        self._storage.resize(self._at)

    def _append(self, data: bytes, flags: int) -> Place:
        place = Place(len(data), flags, self._at, len(data))
        self._storage.write(self._at, data)
        self._at += len(data)
        return place


def _holders(nodes: list[Node]) -> dict[Source, list[Node]]:
    """What is to be stored, and which files hold it: each name of it, and all that are equal."""
    lengths = Counter(node.size for node in nodes if node.kind == "file")
    found: dict[tuple[Any, ...], Source] = {}
    holders: dict[Source, list[Node]] = {}
    for node in nodes:
        if node.kind == "directory" or (node.kind == "file" and not node.size):
            continue
        source = Source(node.path, node.size)
        key: tuple[Any, ...] = ("path", node.path)
        if node.kind == "link":
            data = link_data(node)
            source = Source(node.path, len(data), data)
            key = ("data", data)
        elif node.link:
            key = ("link", node.link)
        elif lengths[node.size] > 1:
            for _ in source.pieces(1 << 20):
                pass
            key = ("sha1", source.sha1)
        source = found.setdefault(key, source)
        holders.setdefault(source, []).append(node)
    return holders


def _entry(blob: Blob) -> bytes:
    entry = BlobEntry(_resource(blob.place), 1, blob.count)
    entry.sha1[:] = blob.sha1
    return bytes(entry)


def _resource(place: Place) -> ResourceHeader:
    return ResourceHeader(place.size | place.flags << 56, place.offset, place.original)
