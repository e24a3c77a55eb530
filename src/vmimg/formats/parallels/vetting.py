"""Vets Parallels images: the header and the BAT of a file, and what a DiskDescriptor.xml names.

The header's own contradictions are said by their codes before reading it fails. Of the BAT the
first MiB is looked at; `vmimg check` looks at all of it. Imports header, extension and bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

from vmimg.errors import ChainError, FormatError, UnsupportedFeature
from vmimg.formats.detect import Evidence
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.bundle import Descriptor, read_descriptor
from vmimg.formats.parallels.extension import Extension, read_extension
from vmimg.formats.parallels.header import ParallelsHeader, read_header
from vmimg.formats.sampling import hidden_data, unfinished
from vmimg.formats.vetting import Finding, Severity, is_outside, of_name
from vmimg.storage.base import Storage

__all__ = ["bundle_evidence", "file_evidence", "vet_bundle", "vet_file"]

_MAX_BAT: Final = 1 << 20
_MAX_XML: Final = 1 << 20
# Images, features and states that are named one by one; what is bad goes first.
_SHOWN: Final = 64
_STATES: Final = (s.CLOSED, s.IN_USE, s.CLOSED_21)


def file_evidence(storage: Storage) -> Iterator[Evidence]:
    """What the header of an expanding image says."""
    if storage.size < s.HEADER_SIZE:
        return
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    yield Evidence(s.Header.version.offset, f"version {raw.version}")
    yield Evidence(
        s.Header.tracks.offset, f"a BAT of {raw.nb_bat_entries} clusters of {raw.tracks} sectors"
    )


def bundle_evidence(storage: Storage) -> Iterator[Evidence]:
    """Where the root element is."""
    head = storage.read(0, min(storage.size, 4096))
    place = head.find(b"<Parallels_disk_image")
    if place >= 0:
        yield Evidence(place, "the element Parallels_disk_image")


# An expanding image


def vet_file(storage: Storage) -> Iterator[Finding]:
    """The header, the BAT, the format extension, and what lies behind the last cluster."""
    if storage.size < s.HEADER_SIZE:
        return
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    yield from _vet_header(storage, raw)
    try:
        header = read_header(storage)
    except (FormatError, UnsupportedFeature):
        return  # inspect says the same
    yield from _vet_start(header)
    extension = read_extension(storage, header)
    if extension is not None:
        yield from _vet_extension(storage, extension)
    yield from _vet_bat(storage, header, extension)


def _vet_header(storage: Storage, raw: s.Header) -> Iterator[Finding]:
    if raw.version != s.VERSION:
        yield Finding.of(
            "unknown-version", f"it is of version {raw.version}", offset=s.Header.version.offset
        )
    if not 0 < raw.tracks <= s.MAX_CLUSTER_SECTORS:
        yield Finding.of(
            "impossible-size",
            f"a cluster is said to have {raw.tracks} sectors",
            offset=s.Header.tracks.offset,
        )
    old = raw.magic == s.MAGIC_OLD
    sectors = raw.nb_sectors & 0xFFFF_FFFF if old else raw.nb_sectors
    if old and raw.nb_sectors >> 32:
        yield Finding.of(
            "odd-field",
            f"its size is {raw.nb_sectors} sectors, or {sectors} for who knows that old images "
            "have 32 bits for it",
            offset=s.Header.nb_sectors.offset,
        )
    if raw.nb_bat_entries > s.MAX_ENTRIES or sectors > raw.nb_bat_entries * max(1, raw.tracks):
        yield Finding.of(
            "impossible-size",
            f"a disk of {sectors} sectors has no room in {raw.nb_bat_entries} clusters of "
            f"{raw.tracks}",
            offset=s.Header.nb_sectors.offset,
        )
    end = s.BAT_OFFSET + s.BAT_ENTRY * raw.nb_bat_entries
    if end > storage.size:
        yield Finding.of(
            "table-outside",
            f"the BAT ends at {end}, and the file at {storage.size}",
            offset=s.Header.nb_bat_entries.offset,
        )
    if raw.in_use not in _STATES:
        yield Finding.of(
            "odd-field",
            f"its state is {raw.in_use:#x}, which is neither open nor closed",
            offset=s.Header.in_use.offset,
        )
    if raw.flags & ~s.FLAG_EMPTY:
        yield Finding.of(
            "unknown-features",
            f"flags are set that nobody knows: {raw.flags:#x}",
            offset=s.Header.flags.offset,
        )


def _vet_start(header: ParallelsHeader) -> Iterator[Finding]:
    wrong = header.data_off_wrong
    if wrong is None:
        return
    # Too early is over the BAT. What is merely crooked QEMU puts right without a word.
    over = 0 < header.data_off * s.SECTOR < header.table_end
    yield Finding.of(
        "tables-overlap" if over else "odd-field", wrong, offset=s.Header.data_off.offset
    )


def _vet_extension(storage: Storage, extension: Extension) -> Iterator[Finding]:
    if extension.wrong:
        code = "malformed"
        if "checksum" in extension.wrong:
            code = "checksum-wrong"
        elif extension.offset + s.SECTOR > storage.size:
            code = "table-outside"
        yield Finding.of(
            code, f"its format extension: {extension.wrong}", offset=s.Header.ext_off.offset
        )
    for magic, flags in extension.unknown[:_SHOWN]:
        needed = bool(flags & s.NECESSARY)
        yield Finding.of(
            "unknown-features",
            f"its format extension has a feature {magic:#018x} that nobody knows"
            + (", and which must be understood" if needed else ""),
            offset=extension.offset,
            severity=None if needed else Severity.WARNING,
        )


def _vet_bat(
    storage: Storage, header: ParallelsHeader, extension: Extension | None
) -> Iterator[Finding]:
    import numpy as np

    length = min(s.BAT_ENTRY * header.entries, _MAX_BAT)
    table = np.frombuffer(storage.read(s.BAT_OFFSET, length), "<u4")
    rows = np.flatnonzero(table)
    places = table[rows].astype(np.int64) * header.unit
    start, size = header.data_start, header.block_size
    early = np.flatnonzero(places < max(start, header.table_end))
    outside = np.flatnonzero(places >= storage.size)
    order = np.argsort(places, kind="stable")
    close = np.flatnonzero(np.diff(places[order]) < size)
    for code, found, what in (
        ("tables-overlap", early, f"lies over the header or the BAT, which end at {start}"),
        ("truncated", outside, f"lies behind the end of the file, {storage.size}"),
        ("tables-overlap", order[close + 1], "lies over another cluster"),
    ):
        if len(found):
            row = int(found[0])
            yield Finding.of(
                code,
                f"the cluster of virtual offset {int(rows[row]) * size}, at {int(places[row])}, "
                f"{what} ({len(found)} such)",
                offset=s.BAT_OFFSET + s.BAT_ENTRY * int(rows[row]),
            )
    if header.entries * s.BAT_ENTRY > length:
        yield unfinished(f"of {header.entries} entries of the BAT, {len(table)} were looked at")
        return
    inside = places[places < storage.size]
    end = max(header.table_end, start, int(inside.max()) + size if len(inside) else 0)
    if extension is not None:
        end = max([end, *(place + size for place in extension.clusters)])
    yield from hidden_data(
        storage, end, storage.size, "there is data behind the last cluster that is used"
    )


# A bundle


def vet_bundle(storage: Storage) -> Iterator[Finding]:
    """The descriptor: as XML first, then what it names. Nothing that it names is opened."""
    if storage.size > _MAX_XML:
        yield Finding.of("xml-oversize", f"the descriptor has {storage.size} bytes")
        return
    yield from _vet_xml(storage.read(0, storage.size))
    try:
        descriptor = read_descriptor(storage)
    except ChainError as error:
        yield Finding.of("malformed", str(error).removeprefix(f"{storage.name}: "))
        return
    except (FormatError, UnsupportedFeature):
        return  # inspect says the same
    yield from _vet_images(descriptor)
    for line in descriptor.broken()[:_SHOWN]:
        yield Finding.of("malformed", line)
    volume = descriptor.parent_volume
    if volume:
        yield of_name("backing-file", "backing-file-outside", volume, "the volume below it")
    elif descriptor.refusal and not descriptor.encrypted:
        yield Finding.of("unsupported", descriptor.refusal)


def _vet_xml(data: bytes) -> Iterator[Finding]:
    """What no descriptor has, by its code: reading it stops at the first of these."""
    parser = expat.ParserCreate()
    declared: list[str] = []
    depth = deepest = 0

    def begin(name: str, _: dict[str, str]) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if deepest > 64:
            raise _Enough

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def declare(name: str, *_: object) -> None:
        declared.append(name)
        raise _Enough

    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = declare
    parser.EntityDeclHandler = declare
    try:
        parser.Parse(data, True)
    except _Enough:
        pass
    except (expat.ExpatError, LookupError, ValueError):
        return  # inspect says so
    if declared:
        yield Finding.of(
            "xml-entities", f"the descriptor declares a document type or entity '{declared[0]}'"
        )
    elif deepest > 32:
        yield Finding.of("xml-oversize", "the elements of the descriptor are nested too deep")


class _Enough(Exception):
    """No need to read on."""


def _vet_images(descriptor: Descriptor) -> Iterator[Finding]:
    named: dict[str, int] = {}
    files = [image.file for storage in descriptor.storages for image in storage.images.values()]
    for file in files:
        named[file] = named.get(file, 0) + 1
    names = sorted(named, key=lambda file: not is_outside(file))
    for file in names[:_SHOWN]:
        yield of_name("external-extent", "extent-outside", file, "one of its images")
    for file, count in named.items():
        if count > 1:
            yield Finding.of(
                "tables-overlap",
                f"'{file}' is named as {count} images: who writes one destroys the others",
                evidence=file,
            )
            return
