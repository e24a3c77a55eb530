"""Vetting WIM archives: whether the header's resources and the table of blobs lie in the file and
fit together. Nothing is unpacked.

The structures are in `vmimg.probe.wim`, with their sources.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.wim import (
    COMPRESSED,
    COMPRESSION,
    COMPRESSIONS,
    FLAG_NAMES,
    MAX_XML,
    METADATA,
    RESOURCE_ONLY,
    SOLID,
    SPANNED,
    SPANNED_RESOURCE,
    VERSIONS,
    WRITE_IN_PROGRESS,
    BlobEntry,
    ResourceHeader,
    Wim,
    WimHeader,
    read_wim,
    read_xml,
)
from vmimg.units import format_size

__all__ = ["VETTERS", "vet_wim"]

_KNOWN_FLAGS: Final = sum(FLAG_NAMES) | sum(COMPRESSIONS)
_KNOWN_RESOURCE_FLAGS: Final = 0x1F
# XPRESS chunks have 4 KiB to 64 KiB, LZX to 2 MiB, LZMS to 1 GiB.
_MAX_CHUNK: Final = 1 << 30
# Each of a table of 20 000 blobs is looked at; a Windows has some 100 000.
_MAX_ENTRIES: Final = 20_000
_ENTRY: Final = ctypes.sizeof(BlobEntry)
# The best of LZX is some 5000:1 for zeros; LZMS has more.
_RATIO: Final = 1000
_HARMLESS: Final = 16 << 20
_SOLID_SIZE: Final = 1 << 32


def vet_wim(view: View) -> Iterator[Finding]:
    """Of a WIM, an ESD or a part of an SWM."""
    wim = read_wim(view)
    if wim is None:
        return
    yield from _vet_header(wim, view)
    yield from _vet_places(wim, view)
    yield from _vet_xml(wim, view)
    yield from _vet_blobs(wim, view)
    yield from _vet_integrity(wim, view)


def _vet_header(wim: Wim, view: View) -> Iterator[Finding]:
    header, at = wim.header, wim.offset
    flags = int(header.flags)
    if header.version not in VERSIONS:
        yield Finding.of("unknown-version", f"it is of version {wim.version}", offset=at + 12)
    if flags & ~_KNOWN_FLAGS:
        yield Finding.of(
            "unknown-features", f"unknown flags {flags & ~_KNOWN_FLAGS:#x} are set", offset=at + 16
        )
    if flags & COMPRESSION and wim.compression == "unknown":
        yield Finding.of(
            "unknown-features",
            f"it is compressed, and its flags {flags:#x} do not say by which one way",
            offset=at + 16,
        )
    chunk = int(header.chunk_size)
    if flags & COMPRESSION and (chunk < 4096 or chunk & (chunk - 1) or chunk > _MAX_CHUNK):
        yield Finding.of("odd-field", f"its chunks have {chunk} bytes", offset=at + 20)
    part, parts = int(header.part_number), int(header.total_parts)
    if not 1 <= part <= parts:
        yield Finding.of("odd-field", f"it is part {part} of {parts}", offset=at + 40)
    elif parts > 1:
        yield Finding.of(
            "external-extent", f"it is part {part} of {parts} of an archive", offset=at + 40
        )
    if parts > 1 and not flags & SPANNED:
        yield Finding.of(
            "odd-field", f"it has {parts} parts without the flag for that", offset=at + 16
        )
    if header.boot_index > header.image_count:
        yield Finding.of(
            "odd-field",
            f"it boots image {header.boot_index} of {header.image_count}",
            offset=at + 120,
        )
    if any(header.unused):
        yield Finding.of(
            "hidden-data", "there are bytes in the unused part of its header", offset=at + 148
        )
    if flags & WRITE_IN_PROGRESS:
        yield Finding.of("dirty", "it was being written to when it was last closed", offset=at + 16)
    if wim.encrypted:
        yield Finding.of("encrypted", "its XML says that it is an encrypted ESD")
    if wim.pipable:
        yield from _vet_copies(wim, view)


def _vet_copies(wim: Wim, view: View) -> Iterator[Finding]:
    """The header in front of a pipable file is the one at its end, without the places."""
    first = view.structure(WimHeader, 0)
    if wim.offset == 0:
        if not wim.header.xml_data.size_and_flags:
            yield Finding.of("truncated", "the complete header at the end of the file is missing")
        return
    if first is not None:
        for name in ("version", "flags", "chunk_size", "part_number", "total_parts", "image_count"):
            one, other = getattr(first, name), getattr(wim.header, name)
            if one != other:
                yield Finding.of(
                    "copies-disagree",
                    f"{name.replace('_', ' ')} is {one} in the first header, {other} in the last",
                    offset=wim.offset,
                )
        if bytes(first.guid) != bytes(wim.header.guid):
            yield Finding.of("copies-disagree", "the two headers have two GUIDs")


def _named(wim: Wim) -> Iterator[tuple[str, ResourceHeader]]:
    header = wim.header
    yield "the table of blobs", header.blob_table
    yield "the XML", header.xml_data
    yield "the metadata of the image to boot", header.boot_metadata
    yield "the table of checksums", header.integrity


def _vet_places(wim: Wim, view: View) -> Iterator[Finding]:
    places = []
    for name, place in _named(wim):
        if not place.size:
            if place.offset:
                yield Finding.of("odd-field", f"{name} is empty and yet lies at {place.offset}")
            continue
        if place.end > view.size or place.offset < ctypes.sizeof(WimHeader):
            yield Finding.of(
                "table-outside",
                f"{name} has {place.size} bytes at {place.offset}, and the file {view.size}",
                offset=wim.offset,
            )
            continue
        if place.flags & ~_KNOWN_RESOURCE_FLAGS:
            yield Finding.of("unknown-features", f"{name} has the flags {place.flags:#x}")
        if not place.flags & COMPRESSED and place.size != place.original_size:
            yield Finding.of(
                "member-size",
                f"{name} is not compressed, has {place.size} bytes, and states "
                f"{place.original_size}",
            )
        places.append((int(place.offset), place.end, name))
    places.sort()
    for (_, end, one), (start, _, other) in pairwise(places):
        if start < end:
            yield Finding.of("tables-overlap", f"{one} and {other} overlap", offset=start)


def _vet_xml(wim: Wim, view: View) -> Iterator[Finding]:
    from vmimg.probe.xml import scan

    place = wim.header.xml_data
    if not place.size or place.end > view.size:
        return
    if place.size > MAX_XML:
        yield Finding.of(
            "xml-oversize", f"its XML has {place.size} bytes", offset=int(place.offset)
        )
        return
    if place.flags & COMPRESSED:
        yield Finding.of("odd-field", "its XML is compressed", offset=int(place.offset))
        return
    data = read_xml(view, wim.header) or b""
    found = scan(data, ("IMAGE",))
    if found.code:
        yield Finding.of(found.code, f"in its XML: {found.problem}", offset=int(place.offset))
        return
    if data[:2] != b"\xff\xfe":
        yield Finding.of("odd-field", "its XML is not in UTF-16", offset=int(place.offset))
    if found.root != "WIM":
        yield Finding.of(
            "malformed", f"its XML is about a '{found.root}'", offset=int(place.offset)
        )
        return
    images = sum(element.within == ("WIM",) for element in found.elements)
    if images != wim.header.image_count:
        yield Finding.of(
            "copies-disagree",
            f"its header counts {wim.header.image_count} images, its XML {images}",
            offset=int(place.offset),
        )


def _vet_blobs(wim: Wim, view: View) -> Iterator[Finding]:
    """The table of blobs. In solid resources, places are in what they unpack to."""
    table = wim.header.blob_table
    if not table.size or table.end > view.size:
        return
    start = int(table.offset)
    if table.flags & COMPRESSED:
        yield Finding.of("odd-field", "its table of blobs is compressed", offset=start)
        return
    if table.size % _ENTRY:
        yield Finding.of(
            "malformed", f"its table of blobs has {table.size} bytes, not n times {_ENTRY}"
        )
    count = table.size // _ENTRY
    seen: set[bytes] = set()
    outside = duplicates = metadata = 0
    total = 0
    first = None
    metadata_parts = int(wim.header.total_parts)
    data = view.read(start, min(count, _MAX_ENTRIES) * _ENTRY)
    for number in range(len(data) // _ENTRY):
        entry = BlobEntry.from_buffer_copy(data, number * _ENTRY)
        place = entry.resource
        solid = bool(place.flags & SOLID)
        holder = solid and place.original_size == _SOLID_SIZE
        here = entry.part_number == wim.header.part_number
        if here and (holder or not solid) and place.end > view.size:
            outside += 1
            first = start + number * _ENTRY if first is None else first
        if entry.part_number > metadata_parts:
            yield Finding.of(
                "odd-field",
                f"a blob lies in part {entry.part_number} of {metadata_parts}",
                offset=start + number * _ENTRY,
            )
            metadata_parts = 0xFFFF  # said once
        if not solid:
            total += int(place.original_size)
            plain = not place.flags & (COMPRESSED | SPANNED_RESOURCE)
            if plain and place.size != place.original_size:
                yield Finding.of(
                    "member-size",
                    f"a blob is not compressed, has {place.size} bytes, and states "
                    f"{place.original_size}",
                    offset=start + number * _ENTRY,
                )
                return
        if place.flags & METADATA:
            # That of two equal images is stored twice.
            metadata += 1
        elif not holder:
            duplicates += bytes(entry.sha1) in seen
            seen.add(bytes(entry.sha1))
    images = int(wim.header.image_count)
    whole = wim.header.part_number == 1 and not wim.header.flags & RESOURCE_ONLY
    if whole and metadata < images and count <= _MAX_ENTRIES:
        yield Finding.of(
            "malformed", f"it has {images} images, and metadata for {metadata}", offset=start
        )
    if outside:
        yield Finding.of(
            "table-outside", f"{outside} of its {count} blobs end behind the file", offset=first
        )
    if duplicates:
        yield Finding.of(
            "odd-field", f"{duplicates} of its blobs are in the table more than once", offset=start
        )
    if total >= _HARMLESS and total >= _RATIO * view.size:
        yield Finding.of(
            "expands",
            f"its blobs state {format_size(total)} unpacked, and the file has "
            f"{format_size(view.size)}",
        )
    if count > _MAX_ENTRIES:
        yield Finding.of(
            "unfinished",
            f"only {_MAX_ENTRIES} of its {count} blobs were looked at",
            severity=Severity.NOTE,
        )


def _vet_integrity(wim: Wim, view: View) -> Iterator[Finding]:
    """Checksums of the bytes between the header and the end of the table of blobs."""
    place = wim.header.integrity
    if not place.size or place.end > view.size:
        return
    head = view.read(int(place.offset), 12)
    size, count, chunk = (int.from_bytes(head[a : a + 4], "little") for a in (0, 4, 8))
    covered = wim.header.blob_table.end - ctypes.sizeof(WimHeader)
    if size != place.size or place.size < 12 + 20 * count:
        yield Finding.of(
            "malformed",
            f"the table of checksums says that it has {size} bytes and {count} checksums, and has "
            f"{place.size} bytes",
            offset=int(place.offset),
        )
    elif not chunk or count != -(-covered // chunk):
        yield Finding.of(
            "malformed",
            f"{count} checksums of {chunk} bytes each do not cover {covered} bytes",
            offset=int(place.offset),
        )


# What "esd" and "swm" refine is vetted with them.
VETTERS: Final = {"wim": vet_wim}
