"""What vetting finds in a VHDX: here headers, log and regions, in `vetblocks` what lies in those.

Stands beside `header`, which refuses what cannot be read; here each thing gets the code of what is
wrong with it. One header that is torn is what a power failure leaves, and is only noted. Where a
log of ordinary size has to be replayed, what is looked at is the file after that. Spec: MS-VHDX.
No numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.errors import VmimgError
from vmimg.formats.detect import Evidence
from vmimg.formats.regions import Area, overlaps
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.crc32c import crc32c
from vmimg.formats.vhdx.header import Region, read_headers, read_region_table
from vmimg.formats.vhdx.log import read_log, replayed
from vmimg.formats.vhdx.vetblocks import vet_metadata
from vmimg.storage.base import NotHeld, Storage
from vmimg.units import MIB

__all__ = ["evidence", "vet"]

_VERSION: Final = 1
_LOG_VERSION: Final = 0
# A larger log is not read here. Hyper-V's and QEMU's have 1 MiB.
_MOST_LOG: Final = 2 * MIB
_ENTRIES_AT: Final = 16
_ENTRY_BYTES: Final = 32
# What the two headers of a sound file agree in: the others change with each update.
_STEADY: Final = ("version", "log_version", "log_offset", "log_length")


def vet(storage: Storage) -> Iterator[Finding]:
    """Findings on the image in ``storage``. What `read_image` refuses without a code of its own is
    left to it.
    """
    end = s.REGION_TABLE_OFFSETS[1] + s.REGION_TABLE_SIZE
    if storage.size < end:
        yield Finding.of(
            "truncated",
            f"headers and region tables end at {end}, the file at {storage.size}",
            offset=storage.size,
        )
        return
    copies = [_header(storage, offset) for offset in s.HEADER_OFFSETS]
    yield from _vet_headers(copies)
    sound = [
        (raw, offset)
        for raw, offset in zip(copies, s.HEADER_OFFSETS, strict=True)
        if raw is not None
    ]
    if not sound:
        return
    header, place = max(sound, key=lambda each: int(each[0].sequence_number))
    yield from _vet_header(storage, header, place)
    if bytes(header.log_guid) != s.NO_GUID:
        storage, finding = _after_log(storage, header, place)
        yield finding
    yield from _vet_regions(storage, header)


def evidence(storage: Storage) -> tuple[Evidence, ...]:
    """Why it is taken for a VHDX, besides its magic: its headers and region tables."""
    try:
        headers = [
            Evidence(offset, "a header with a good checksum")
            for offset in s.HEADER_OFFSETS
            if offset + s.HEADER_SIZE <= storage.size and _header(storage, offset) is not None
        ]
        tables = [
            Evidence(offset, "a region table with a good checksum")
            for offset in s.REGION_TABLE_OFFSETS
            if offset + s.REGION_TABLE_SIZE <= storage.size and read_region_table(storage, offset)
        ]
    except NotHeld:
        return ()
    return (*headers, *tables)


# Headers and the log


def _header(storage: Storage, offset: int) -> s.Header | None:
    """The header at ``offset``; None where it is not valid."""
    data = bytearray(storage.read(offset, s.HEADER_SIZE))
    raw = s.Header.from_buffer_copy(data)
    data[4:8] = bytes(4)
    return raw if raw.signature == s.HEADER_SIGNATURE and raw.checksum == crc32c(data) else None


def _vet_headers(copies: list[s.Header | None]) -> Iterator[Finding]:
    first, second = copies
    if first is None and second is None:
        yield Finding.of(
            "checksum-wrong",
            "neither header is valid: checksum or signature is wrong",
            offset=s.HEADER_OFFSETS[0],
        )
        return
    for number, (raw, offset) in enumerate(zip(copies, s.HEADER_OFFSETS, strict=True), 1):
        if raw is None:
            yield Finding.of(
                "checksum-wrong",
                f"header {number} is not valid, as after a power failure; the other one counts",
                offset=offset,
                severity=Severity.NOTE,
            )
    if first is None or second is None:
        return
    differing = [name for name in _STEADY if getattr(first, name) != getattr(second, name)]
    if first.sequence_number == second.sequence_number and bytes(first) != bytes(second):
        yield Finding.of(
            "copies-disagree",
            f"two different headers have the same sequence number, {first.sequence_number}",
            offset=s.HEADER_OFFSETS[1] + s.Header.sequence_number.offset,
        )
    elif differing:
        yield Finding.of(
            "copies-disagree",
            f"the two headers differ in {', '.join(differing)}",
            offset=s.HEADER_OFFSETS[1] + getattr(s.Header, differing[0]).offset,
        )


def _vet_header(storage: Storage, header: s.Header, place: int) -> Iterator[Finding]:
    for name, known in (("version", _VERSION), ("log_version", _LOG_VERSION)):
        if getattr(header, name) != known:
            yield Finding.of(
                "unknown-version",
                f"its {name.replace('_', ' ')} is {getattr(header, name)}; known is {known}",
                offset=place + getattr(s.Header, name).offset,
            )
    start, length = int(header.log_offset), int(header.log_length)
    if start + length > storage.size:
        yield Finding.of(
            "table-outside",
            f"the log ({length} bytes at {start}) reaches behind the end of the file, "
            f"{storage.size}",
            offset=place + s.Header.log_offset.offset,
        )


def _after_log(storage: Storage, header: s.Header, place: int) -> tuple[Storage, Finding]:
    """The file as it reads when the log is replayed, and what to say of the log."""
    said = "it was not closed: there may be changes in its log"
    if header.log_length <= _MOST_LOG:
        try:
            found = read_log(storage, read_headers(storage).header)
        except VmimgError:  # inspecting says what is wrong
            found = None
        if found is not None:
            if found.patches:
                said = f"its log holds {len(found.patches)} changes that were not made in the file"
            else:
                said = "it was not closed, but there is nothing in its log"
            storage = replayed(storage, found)
    return storage, Finding.of("log-pending", said, offset=place + s.Header.log_guid.offset)


# Regions


def _vet_regions(storage: Storage, header: s.Header) -> Iterator[Finding]:
    tables = [read_region_table(storage, offset) for offset in s.REGION_TABLE_OFFSETS]
    first, second = tables
    for number, (table, offset) in enumerate(zip(tables, s.REGION_TABLE_OFFSETS, strict=True), 1):
        if table is None:
            yield Finding.of(
                "checksum-wrong",
                f"region table {number} is not valid: checksum, signature or count is wrong",
                offset=offset,
            )
    if first is not None and second is not None and first != second:
        yield Finding.of(
            "copies-disagree",
            "the two region tables list different regions",
            offset=s.REGION_TABLE_OFFSETS[1] + _ENTRIES_AT,
        )
    regions = first if first is not None else second
    if regions is None:
        return
    base = s.REGION_TABLE_OFFSETS[first is None]
    for number, region in enumerate(regions):
        yield from _vet_region(storage, region, base + _ENTRIES_AT + number * _ENTRY_BYTES)
    areas = _areas(header, regions)
    yield from overlaps(areas, most=8)
    by_guid = {region.guid: region for region in reversed(regions)}
    bat, metadata = by_guid.get(s.BAT_REGION), by_guid.get(s.METADATA_REGION)
    sound = [
        region
        for region in (bat, metadata)
        if region is not None and region.offset + region.length <= storage.size
    ]
    if bat in sound and metadata in sound:
        assert bat is not None and metadata is not None
        yield from vet_metadata(storage, metadata, bat, areas)


def _vet_region(storage: Storage, region: Region, place: int) -> Iterator[Finding]:
    if region.guid not in (s.BAT_REGION, s.METADATA_REGION):
        yield Finding.of(
            "unknown-features" if region.required else "hidden-data",
            f"it has a region {region.name}, which nobody here knows"
            + (", and which must not be ignored" if region.required else ""),
            offset=place,
        )
    if region.offset + region.length > storage.size:
        yield Finding.of(
            "table-outside",
            f"the {region.name} region ({region.length} bytes at {region.offset}) reaches behind "
            f"the end of the file, {storage.size}",
            offset=place + s.RegionTableEntry.file_offset.offset,
        )


def _areas(header: s.Header, regions: tuple[Region, ...]) -> list[Area]:
    log = int(header.log_offset)
    return [
        Area("the headers", 0, s.HEADER_SECTION),
        Area("the log", log, log + int(header.log_length)),
        *(
            Area(f"the {region.name} region", region.offset, region.offset + region.length)
            for region in regions
        ),
    ]
