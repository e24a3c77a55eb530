"""What vetting finds in a VMDK: here the headers of extents, in `vettext` the descriptor, in
`vettables` directories and grains.

Stands beside `header` and `descriptor`, which refuse what cannot be read; here each thing gets the
code of what is wrong with it, and what readers disagree about is told as well. At least as strict
as OpenStack's inspector, which refuses all but plain descriptors at sector 1, lines that it does
not know, and streams whose footer is not the header again. Extents and parents are never opened.

Spec: VMware "Virtual Disk Format 5.0"; seSparse after QEMU's block/vmdk.c. No numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.errors import VmimgError
from vmimg.formats.detect import Evidence
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.header import (
    SparseHeader,
    extent_kind,
    find_footer,
    read_extent_header,
)
from vmimg.formats.vmdk.vettables import vet_tables
from vmimg.formats.vmdk.vettext import Text, vet_text
from vmimg.storage.base import NotHeld, Storage

__all__ = ["evidence", "vet"]

_DESCRIPTOR_SECTOR: Final = 1
_KNOWN_FLAGS: Final = (
    s.FLAG_NEWLINE_TEST | s.FLAG_REDUNDANT | s.FLAG_ZERO_GRAIN | s.FLAG_COMPRESSED | s.FLAG_MARKERS
)
# What a footer repeats of the header; the place of the directory is what it is there for.
_REPEATED: Final = (
    "version",
    "flags",
    "capacity",
    "grainSize",
    "descriptorOffset",
    "descriptorSize",
    "numGTEsPerGT",
    "compressAlgorithm",
)
_MAX_SECTORS: Final = 1 << 53
_MAX_GD_ENTRIES: Final = 1 << 22
_TRAILER: Final = 3 * s.SECTOR
"""Marker, footer, end-of-stream marker."""
_PROBED: Final = 4096


def vet(storage: Storage) -> Iterator[Finding]:
    """Findings on the image in ``storage``. What reading refuses without a code of its own is left
    to it.
    """
    kind = extent_kind(storage.read(0, min(8, storage.size)))
    if kind is None:
        yield from _vet_text_file(storage)
        return
    checks = {"KDMV": _vet_hosted, "COWD": _vet_cowd, "SESPARSE": _vet_sesparse}
    yield from checks[kind](storage)
    try:
        header = read_extent_header(storage, lenient=True)
    except VmimgError:  # told above, or by who inspects it
        return
    gd, rgd = _fields_of_directories(header)
    if header.size or header.kind != "KDMV":
        yield from vet_tables(storage, header, gd, rgd)


def evidence(storage: Storage) -> tuple[Evidence, ...]:
    """Why it is taken for a VMDK, besides its magic: version, type, descriptor, footer."""
    found: list[Evidence] = []
    head = storage.read(0, min(storage.size, _PROBED))
    kind = extent_kind(head)
    text = head
    if kind == "KDMV" and len(head) >= s.SECTOR:
        raw = s.SparseExtentHeader.from_buffer_copy(head)
        found.append(Evidence(s.SparseExtentHeader.version.offset, f"version {raw.version}"))
        start = int(raw.descriptorOffset) * s.SECTOR
        text = head[start:] if 0 < start < len(head) and raw.descriptorSize else b""
        if raw.gdOffset == s.GD_AT_END:
            found += _evidence_of_footer(storage)
    elif kind is not None:
        text = b""
    place = text.find(s.DESCRIPTOR_MAGIC)
    shift = len(head) - len(text)
    if place >= 0:
        found.append(Evidence(shift + place, "a descriptor"))
    for line in text.split(b"\0")[0].split(b"\n"):
        if line.lower().startswith(b"createtype="):
            said = line.strip().decode("ascii", "replace")[:64]
            place = shift + text.find(line)
            if said.isprintable():
                found.append(Evidence(place, said))
            break
    return tuple(found)


def _evidence_of_footer(storage: Storage) -> Iterator[Evidence]:
    try:
        at = storage.size - _TRAILER + s.SECTOR
        if at > 0 and storage.read(at, 4) == s.SPARSE_MAGIC:
            yield Evidence(at, "a footer in front of the end-of-stream marker")
    except NotHeld:
        pass


# Descriptors


def _vet_text_file(storage: Storage) -> Iterator[Finding]:
    if storage.size > s.MAX_DESCRIPTOR:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor has {storage.size} bytes; no reader takes more than "
            f"{s.MAX_DESCRIPTOR}",
            offset=s.MAX_DESCRIPTOR,
        )
    length = min(storage.size, s.MAX_DESCRIPTOR)
    yield from vet_text(Text(storage.read(0, length), 0, embedded=False))


def _vet_embedded(storage: Storage, raw: s.SparseExtentHeader) -> Iterator[Finding]:
    """The descriptor inside a hosted sparse extent."""
    sector, sectors = int(raw.descriptorOffset), int(raw.descriptorSize)
    where = s.SparseExtentHeader.descriptorOffset.offset
    if not sector or not sectors:
        yield _lone_extent()
        return
    if sector != _DESCRIPTOR_SECTOR:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor is said to be at sector {sector}; every maker puts it at sector 1",
            offset=where,
        )
    start, length = sector * s.SECTOR, sectors * s.SECTOR
    if length > s.MAX_DESCRIPTOR + 1:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor has {length} bytes; no reader takes more than {s.MAX_DESCRIPTOR}",
            offset=s.SparseExtentHeader.descriptorSize.offset,
        )
        return
    if start + length > storage.size:
        yield Finding.of(
            "table-outside",
            f"the descriptor at {start} ({length} bytes) reaches behind the end of the file, "
            f"{storage.size}",
            offset=where,
        )
        return
    data = storage.read(start, length)
    if not data.partition(b"\0")[0].strip():
        yield Finding.of("odd-descriptor", "the descriptor is empty", offset=start)
        return
    text = Text(data, start, embedded=raw.capacity != 0)
    yield from vet_text(text)
    if raw.capacity and text.extents and text.sectors != raw.capacity:
        yield Finding.of(
            "copies-disagree",
            f"the disk has {raw.capacity} sectors by its header, {text.sectors} by its descriptor",
            offset=s.SparseExtentHeader.capacity.offset,
        )
    if raw.capacity and len(text.extents) > 1:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor inside an extent names {len(text.extents)} extents",
            offset=text.extents[1][0],
        )


def _lone_extent() -> Finding:
    return Finding.of(
        "odd-descriptor",
        "it has no descriptor: it is a part of an image that another file describes",
        offset=0,
        severity=Severity.WARNING,
    )


# Hosted sparse extents and streams


def _vet_hosted(storage: Storage) -> Iterator[Finding]:
    if storage.size < s.SECTOR:
        yield _truncated_header(storage, s.SECTOR)
        return
    raw = s.SparseExtentHeader.from_buffer_copy(storage.read(0, s.SECTOR))
    yield from _vet_fields(raw, 0)
    yield from _vet_embedded(storage, raw)
    if raw.gdOffset == s.GD_AT_END:
        yield from _vet_footer(storage, raw)
    elif raw.capacity and raw.overHead * s.SECTOR > storage.size:
        yield Finding.of(
            "truncated",
            f"its metadata takes {raw.overHead * s.SECTOR} bytes, the file has {storage.size}",
            offset=s.SparseExtentHeader.overHead.offset,
        )


def _vet_fields(raw: s.SparseExtentHeader, start: int) -> Iterator[Finding]:
    fields = s.SparseExtentHeader
    if not 1 <= raw.version <= 3:
        yield Finding.of(
            "unknown-version",
            f"it is of version {raw.version}; there are 1 to 3",
            offset=start + fields.version.offset,
        )
    if raw.flags & ~_KNOWN_FLAGS:
        yield Finding.of(
            "unknown-features",
            f"the flags {raw.flags & ~_KNOWN_FLAGS:#x} are not known",
            offset=start + fields.flags.offset,
        )
    if raw.compressAlgorithm not in (s.COMPRESSION_NONE, s.COMPRESSION_DEFLATE):
        yield Finding.of(
            "unknown-features",
            f"it is compressed by method {raw.compressAlgorithm}; known is 1, deflate",
            offset=start + fields.compressAlgorithm.offset,
        )
    elif bool(raw.flags & s.FLAG_COMPRESSED) != bool(raw.compressAlgorithm):
        yield Finding.of(
            "odd-field",
            "flags and method of compression contradict each other",
            offset=start + fields.flags.offset,
        )
    newline = bytes(
        (raw.singleEndLineChar, raw.nonEndLineChar, raw.doubleEndLineChar1, raw.doubleEndLineChar2)
    )
    if raw.flags & s.FLAG_NEWLINE_TEST and newline != s.END_OF_LINE_TEST:
        yield Finding.of(
            "odd-field",
            "its end-of-line characters were changed: the file was sent as text, and is damaged",
            offset=start + fields.singleEndLineChar.offset,
        )
    if raw.uncleanShutdown > 1:
        yield Finding.of(
            "odd-field",
            f"the mark of an unclean shutdown is {raw.uncleanShutdown}; it is 0 or 1",
            offset=start + fields.uncleanShutdown.offset,
        )
    grain = int(raw.grainSize)
    if raw.capacity and (not 1 <= grain <= s.MAX_GRAIN_SECTORS or grain & (grain - 1)):
        yield Finding.of(
            "impossible-size",
            f"its grains have {grain} sectors; a power of two up to {s.MAX_GRAIN_SECTORS} is "
            "possible",
            offset=start + fields.grainSize.offset,
        )
        return
    gtes = int(raw.numGTEsPerGT)
    if raw.capacity and not 1 <= gtes <= s.GTES_PER_GT:
        yield Finding.of(
            "impossible-size",
            f"its grain tables have {gtes} entries; there are 1 to {s.GTES_PER_GT}",
            offset=start + fields.numGTEsPerGT.offset,
        )
    elif raw.capacity >= _MAX_SECTORS or raw.capacity > _MAX_GD_ENTRIES * gtes * grain:
        yield Finding.of(
            "impossible-size",
            f"a disk of {raw.capacity} sectors has no room in one extent",
            offset=start + fields.capacity.offset,
        )


def _vet_footer(storage: Storage, raw: s.SparseExtentHeader) -> Iterator[Finding]:
    """The end of a stream: a marker, the footer, and the end-of-stream marker."""
    try:
        place = find_footer(storage)
    except VmimgError:
        place = None
    if place is None:
        yield Finding.of(
            "truncated",
            "it is a stream without the footer that says where its tables are",
            offset=storage.size,
        )
        return
    footer = s.SparseExtentHeader.from_buffer_copy(storage.read(place, s.SECTOR))
    for name in _REPEATED:
        if getattr(footer, name) != getattr(raw, name):
            yield Finding.of(
                "copies-disagree",
                f"header and footer differ in {name}: {getattr(raw, name)} and "
                f"{getattr(footer, name)}",
                offset=place + getattr(s.SparseExtentHeader, name).offset,
            )
    if footer.gdOffset == s.GD_AT_END:
        yield Finding.of(
            "copies-disagree",
            "the footer says that the tables are where another footer says",
            offset=place + s.SparseExtentHeader.gdOffset.offset,
        )
    marker = s.MetadataMarker.from_buffer_copy(storage.read(place - s.SECTOR, s.SECTOR))
    if any(marker.pad):
        yield Finding.of(
            "odd-field",
            "the marker in front of the footer has more than a marker has",
            offset=place - s.SECTOR + s.MetadataMarker.pad.offset,
        )
    yield from _vet_end_of_stream(storage, place + s.SECTOR)


def _vet_end_of_stream(storage: Storage, place: int) -> Iterator[Finding]:
    if place + s.SECTOR > storage.size:
        yield Finding.of(
            "truncated", "there is no end-of-stream marker behind the footer", offset=place
        )
        return
    sector = storage.read(place, s.SECTOR)
    if any(sector):
        yield Finding.of(
            "odd-field",
            "the end-of-stream marker behind the footer is not empty",
            offset=place + len(sector) - len(sector.lstrip(b"\0")),
        )
    behind = place + s.SECTOR
    if behind < storage.size:
        # No further than the footer was looked for.
        rest = storage.read(behind, storage.size - behind)
        data = rest.lstrip(b"\0")
        yield Finding.of(
            "hidden-data" if data else "odd-field",
            f"there are {len(rest)} bytes behind the end of the stream",
            offset=behind + (len(rest) - len(data) if data else 0),
        )


# Extents of ESX


def _vet_cowd(storage: Storage) -> Iterator[Finding]:
    fields, length = s.CowdHeader, s.COWD_GD_OFFSET * s.SECTOR
    if storage.size < length:
        yield _truncated_header(storage, length)
        return
    yield _lone_extent()
    raw = s.CowdHeader.from_buffer_copy(storage.read(0, length))
    if raw.version != s.COWD_VERSION:
        yield Finding.of(
            "unknown-version",
            f"it is of version {raw.version}; known is {s.COWD_VERSION}",
            offset=fields.version.offset,
        )
    if raw.flags & ~s.COWD_FLAGS:
        yield Finding.of(
            "unknown-features",
            f"the flags {raw.flags & ~s.COWD_FLAGS:#x} are not known",
            offset=fields.flags.offset,
        )
    grain = int(raw.grainSize)
    if not 1 <= grain <= s.MAX_GRAIN_SECTORS or grain & (grain - 1):
        yield Finding.of(
            "impossible-size",
            f"its grains have {grain} sectors; a power of two is possible",
            offset=fields.grainSize.offset,
        )
        return
    needed = -(-raw.numSectors // (grain * s.COWD_GTES_PER_GT))
    if raw.numGDEntries < needed:
        yield Finding.of(
            "impossible-size",
            f"its grain directory has {raw.numGDEntries} entries; {raw.numSectors} sectors need "
            f"{needed}",
            offset=fields.numGDEntries.offset,
        )


def _vet_sesparse(storage: Storage) -> Iterator[Finding]:
    fields = s.SeSparseConstHeader
    if storage.size < s.SECTOR:
        yield _truncated_header(storage, s.SECTOR)
        return
    yield _lone_extent()
    raw = fields.from_buffer_copy(storage.read(0, s.SECTOR))
    known = (
        ("version", s.SESPARSE_VERSION, "unknown-version"),
        ("grain_size", s.SESPARSE_GRAIN_SECTORS, "impossible-size"),
        ("grain_table_size", s.SESPARSE_GT_SECTORS, "impossible-size"),
        ("flags", 0, "unknown-features"),
        ("reserved1", 0, "unknown-features"),
        ("reserved2", 0, "unknown-features"),
        ("reserved3", 0, "unknown-features"),
        ("reserved4", 0, "unknown-features"),
    )
    for name, expected, code in known:
        if getattr(raw, name) != expected:
            yield Finding.of(
                code,
                f"its {name.replace('_', ' ')} is {getattr(raw, name):#x}; known is {expected:#x}",
                offset=getattr(fields, name).offset,
            )
    volatile = int(raw.volatile_header_offset) * s.SECTOR
    if volatile + s.SECTOR > storage.size:
        yield Finding.of(
            "table-outside",
            f"its volatile header is said to be at {volatile}, the file ends at {storage.size}",
            offset=fields.volatile_header_offset.offset,
        )
        return
    state = s.SeSparseVolatileHeader.from_buffer_copy(storage.read(volatile, s.SECTOR))
    if state.magic == s.SESPARSE_VOLATILE_MAGIC and state.replay_journal:
        yield Finding.of(
            "log-pending",
            "it was not closed: its journal has to be replayed by ESXi",
            offset=volatile + s.SeSparseVolatileHeader.replay_journal.offset,
        )


def _truncated_header(storage: Storage, length: int) -> Finding:
    return Finding.of(
        "truncated",
        f"the header of an extent has {length} bytes, the file {storage.size}",
        offset=storage.size,
    )


def _fields_of_directories(header: SparseHeader) -> tuple[int, int]:
    """Where in the file it is said where the directory is, and the redundant one."""
    if header.kind == "COWD":
        return int(s.CowdHeader.gdOffset.offset), 0
    if header.kind == "SESPARSE":
        return int(s.SeSparseConstHeader.grain_dir_offset.offset), 0
    start = header.footer_offset or 0
    fields = s.SparseExtentHeader
    return start + int(fields.gdOffset.offset), start + int(fields.rgdOffset.offset)
