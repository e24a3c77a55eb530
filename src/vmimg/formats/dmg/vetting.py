"""Vets a DMG: where its parts lie, the property list before it is parsed, and its block tables.

A block table says of each chunk where it is stored, how long it is and how much it becomes; a
reader that believes any of that reads elsewhere, or fills a disk from a few bytes. Where the
trailer itself is wrong, it is said here by its name before reading it fails. Tables are looked at
with numpy, as reading them is. Imports trailer and partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.partitions import Partition, read_partitions
from vmimg.formats.dmg.plist import PropertyListError, new_parser, read_property_list
from vmimg.formats.dmg.trailer import find_trailer, read_trailer
from vmimg.formats.sampling import first_data, hidden_data
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmimg.formats.detect import Evidence

__all__ = ["dmg_evidence", "vet_dmg"]

# QEMU reads no more of a list than this; here it is parsed up to where reading stops, too.
_MAX_LIST: Final = 16 << 20
_PIECE: Final = 64 << 10
# Bytes in front of which a list must come to its first element: a document type is no longer.
_MAX_PROLOGUE: Final = 64 << 10
_SHOWN: Final = 3
# Coders make nothing but zeros this small; what is in a disk image is not only that.
_RATIO: Final = 200
_LARGE: Final = 1 << 30
# A gap that is smaller is for alignment.
_GAP: Final = 4096


def vet_dmg(storage: Storage) -> Iterator[Finding]:
    """Of an image that is not encrypted; nothing where there is no trailer."""
    place = find_trailer(storage)
    if place is None:
        return
    yield from _vet_trailers(storage)
    koly = s.Koly.from_buffer_copy(storage.read(place, s.KOLY_SIZE))
    yield from _vet_koly(storage, place, koly)
    yield from _vet_list(storage, koly)
    yield from _vet_gaps(storage, place, koly)
    try:
        partitions = read_partitions(storage, read_trailer(storage))
    except (FormatError, UnsupportedFeature):
        return  # inspect says the same
    yield from _vet_tables(storage, koly, partitions)


def dmg_evidence(storage: Storage) -> Iterator[Evidence]:
    """What the trailer says of itself and of where the block tables are."""
    from vmimg.formats.detect import Evidence

    place = find_trailer(storage)
    if place is None:
        return
    koly = s.Koly.from_buffer_copy(storage.read(place, s.KOLY_SIZE))
    yield Evidence(place + 4, f"version {koly.Version}, a trailer of {s.KOLY_SIZE} bytes")
    for what, _, start, length in _areas(koly):
        if length and start + length <= storage.size:
            yield Evidence(start, f"its {what}, {length} bytes")


# The trailer


def _vet_trailers(storage: Storage) -> Iterator[Finding]:
    """One in front and one at the end: readers take the one or the other."""
    last = storage.size - s.KOLY_SIZE
    if last < s.KOLY_SIZE:
        return
    front, end = storage.read(0, s.KOLY_SIZE), storage.read(last, s.KOLY_SIZE)
    if front.startswith(s.KOLY) and end.startswith(s.KOLY) and front != end:
        yield Finding.of(
            "copies-disagree",
            "there is a trailer at the end and another in front, and they differ",
            offset=0,
        )


def _vet_koly(storage: Storage, place: int, koly: s.Koly) -> Iterator[Finding]:
    def at(name: str) -> int:
        return place + int(getattr(s.Koly, name).offset)

    if koly.Version != s.KOLY_VERSION:
        yield Finding.of(
            "unknown-version", f"it is of version {koly.Version}", offset=at("Version")
        )
    if koly.SegmentCount > 1:
        yield Finding.of(
            "external-extent",
            f"it is segment {koly.SegmentNumber} of {koly.SegmentCount}: the others are other "
            "files",
            offset=at("SegmentNumber"),
        )
    if koly.SectorCount >= s.MAX_SECTORS:
        yield Finding.of(
            "impossible-size",
            f"the disk is said to have {koly.SectorCount} sectors",
            offset=at("SectorCount"),
        )
    areas = []
    for what, name, start, length in _areas(koly):
        if start + length > storage.size:
            yield Finding.of(
                "truncated",
                f"its {what} is said to be {length} bytes at {start}, and the file ends at "
                f"{storage.size}",
                offset=at(name),
            )
        elif length:
            areas.append((start, start + length, what))
    areas.append((place, place + s.KOLY_SIZE, "trailer"))
    for (_, end, one), (start, _, other) in pairwise(sorted(areas)):
        if start < end:
            yield Finding.of(
                "tables-overlap", f"its {one} and its {other} lie in the same place", offset=start
            )
    for name in ("DataChecksum", "MasterChecksum"):
        checksum = getattr(koly, name)
        if checksum.type not in (s.CHECKSUM_NONE, s.CHECKSUM_CRC32) or checksum.size > 1024:
            yield Finding.of(
                "odd-field",
                f"a checksum of type {checksum.type} with {checksum.size} bits: nobody here can "
                "verify it",
                offset=at(name),
                severity=Severity.NOTE,
            )


def _areas(koly: s.Koly) -> Iterator[tuple[str, str, int, int]]:
    """(what, field, start, length) of what the trailer says is in the file."""
    yield "data fork", "DataForkOffset", int(koly.DataForkOffset), int(koly.DataForkLength)
    yield "resource fork", "RsrcForkOffset", int(koly.RsrcForkOffset), int(koly.RsrcForkLength)
    yield "property list", "XMLOffset", int(koly.XMLOffset), int(koly.XMLLength)


def _vet_gaps(storage: Storage, place: int, koly: s.Koly) -> Iterator[Finding]:
    """Bytes that belong to nothing. A code signature is where the trailer says."""
    areas = [(start, start + length) for _, _, start, length in _areas(koly) if length]
    areas.append(
        (int(koly.CodeSignatureOffset), int(koly.CodeSignatureOffset + koly.CodeSignatureLength))
    )
    areas.append((place, place + s.KOLY_SIZE))
    position = 0
    for start, end in sorted(areas):
        found = first_data(storage, position, min(start, storage.size))
        if found is not None and start - position >= _GAP:
            yield Finding.of(
                "hidden-data",
                f"there is data from {position} to {start}, which belongs to no part of it",
                offset=found,
            )
            return
        position = max(position, end)
    yield from hidden_data(storage, position, storage.size, "there is data behind all parts of it")


# The property list


class _Prologue(Exception):
    """The first element has come."""


def _vet_list(storage: Storage, koly: s.Koly) -> Iterator[Finding]:
    start, length = int(koly.XMLOffset), int(koly.XMLLength)
    if not length or start + length > storage.size:
        return
    if length > _MAX_LIST:
        yield Finding.of("xml-oversize", f"its property list has {length} bytes", offset=start)
        return
    declared: list[str] = []
    try:
        _read_prologue(storage.read(start, min(length, _MAX_PROLOGUE)), declared)
    except (expat.ExpatError, PropertyListError):
        return  # inspect says so
    if declared:
        yield Finding.of("xml-entities", f"its property list declares {declared[0]}", offset=start)
        return
    pieces = (
        storage.read(at, min(_PIECE, start + length - at))
        for at in range(start, start + length, _PIECE)
    )
    try:
        read_property_list(pieces)
    except PropertyListError as error:
        if "deep" in str(error):
            yield Finding.of("xml-oversize", f"its property list: {error}", offset=start)


def _read_prologue(data: bytes, declared: list[str]) -> None:
    """Put into ``declared`` what a document type declares of its own. Apple's declares nothing."""
    parser = new_parser()

    def doctype(name: str, system: str | None, public: str | None, internal: bool) -> None:
        if internal:
            declared.append("a document type of its own")
        elif system is not None and "apple.com/DTDs/" not in system:
            declared.append(f"the document type '{system}'")

    def entity(name: str, *_: object) -> None:
        declared.append(f"the entity '{name}'")

    def element(*_: object) -> None:
        raise _Prologue

    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = entity
    parser.StartElementHandler = element
    try:
        parser.Parse(data, False)
    except _Prologue:
        return


# Block tables


def _vet_tables(storage: Storage, koly: s.Koly, partitions: list[Partition]) -> Iterator[Finding]:
    import numpy as np

    size = int(koly.SectorCount) * s.SECTOR
    spans: list[tuple[int, int, str]] = []
    decoded = 0
    sources: list[NDArray[Any]] = []
    for partition in partitions:
        entries = np.frombuffer(partition.entries, np.dtype(s.ENTRY_FIELDS))
        ends = np.flatnonzero(entries["type"] == s.TERMINATOR)
        entries = entries[: ends[0]] if len(ends) else entries
        entries = entries[entries["type"] != s.COMMENT]
        yield from _vet_entries(storage, koly, partition, entries)
        if size and partition.start + partition.size > size:
            yield Finding.of(
                "copies-disagree",
                f"'{partition.name}' ends at {partition.start + partition.size}, and the trailer "
                f"says that the disk ends at {size}",
            )
        if partition.size:
            spans.append((partition.start, partition.start + partition.size, partition.name))
        coded = entries[np.isin(entries["type"], tuple(s.CODERS))]
        decoded += int(np.minimum(coded["sectors"], s.MAX_SECTORS).sum(dtype=np.float64)) * s.SECTOR
        sources.append(coded[["offset", "length"]])
    for (_, end, one), (start, _, other) in pairwise(sorted(spans)):
        if start < end:
            yield Finding.of(
                "tables-overlap", f"'{one}' and '{other}' are both from {start} on of the disk"
            )
            break
    rows = np.concatenate(sources) if sources else np.zeros(0, np.dtype(s.ENTRY_FIELDS))
    distinct = np.unique(rows)
    stored = int(np.minimum(distinct["length"], storage.size).sum(dtype=np.float64))
    if decoded > max(_LARGE, _RATIO * stored):
        yield Finding.of(
            "expands", f"{stored} bytes of compressed chunks are said to become {decoded}"
        )
    if len(rows) - len(distinct) > max(16, len(rows) // 2):
        yield Finding.of(
            "expands",
            f"{len(rows)} compressed chunks share {len(distinct)} places in the file",
        )


def _vet_entries(
    storage: Storage, koly: s.Koly, partition: Partition, entries: NDArray[Any]
) -> Iterator[Finding]:
    import numpy as np

    types, sectors = entries["type"], entries["sectors"]
    known = np.isin(types, (s.ZERO, s.RAW, s.IGNORE, *s.CODERS))
    coded = np.isin(types, tuple(s.CODERS))
    stored = coded | (types == s.RAW)
    most = np.uint64(s.MAX_SECTORS)
    wild = (entries["sector"] >= most) | (sectors >= most)
    ends = np.where(wild, 0, entries["sector"] + np.where(wild, 0, sectors))
    room = np.uint64(max(0, storage.size - partition.data_offset))
    length = np.minimum(entries["length"], room)
    outside = stored & ((entries["length"] > room) | (entries["offset"] > room - length))
    fork = int(koly.DataForkOffset + koly.DataForkLength) - partition.data_offset
    inside = np.uint64(max(0, min(fork, int(room))))
    beyond = stored & ~outside & (entries["offset"] + length > inside)
    if not koly.DataForkLength:
        beyond &= False
    rules: tuple[tuple[str, str, NDArray[Any]], ...] = (
        ("unknown-features", "has a type that nobody knows", ~known),
        ("impossible-size", "lies outside of any disk", wild),
        (
            "impossible-size",
            f"is larger than {s.MAX_CHUNK} bytes",
            coded & ~wild & (np.maximum(sectors, entries["length"] >> np.uint64(9))
                             > np.uint64(s.MAX_CHUNK // s.SECTOR)),
        ),
        (
            "impossible-size",
            "is not compressed, and not as long as its sectors",
            (types == s.RAW) & ~wild & (entries["length"] != sectors * np.uint64(s.SECTOR)),
        ),
        (
            "impossible-size",
            f"ends behind the {partition.size // s.SECTOR} sectors of its table",
            known & ~wild & (ends > np.uint64(partition.size // s.SECTOR)),
        ),
        ("truncated", f"ends behind the end of the file, {storage.size}", outside),
        ("table-outside", "ends behind the data fork, in other parts of the file", beyond),
    )  # fmt: skip
    for code, what, mask in rules:
        for row in islice(np.flatnonzero(mask), _SHOWN):
            entry = entries[row]
            yield Finding.of(
                code,
                f"'{partition.name}': the chunk of sectors {int(entry['sector'])}+"
                f"{int(entry['sectors'])}, type {int(entry['type']):#x}, {int(entry['length'])} "
                f"bytes at {int(entry['offset'])}, {what}",
            )
    used = entries[known & ~wild & (sectors != 0)]
    order = np.argsort(used["sector"], kind="stable")
    starts = used["sector"][order]
    over = np.flatnonzero(starts[1:] < (starts + used["sectors"][order])[:-1])
    if len(over):
        yield Finding.of(
            "tables-overlap",
            f"'{partition.name}': two chunks claim sector {int(starts[int(over[0]) + 1])}",
        )
