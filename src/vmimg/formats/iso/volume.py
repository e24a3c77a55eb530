"""Reads what a disc says of itself: volume descriptors, boot catalogue, Joliet, Rock Ridge, UDF.

A bounded number of bytes is read (about 200 KiB at most), none of them is believed: what does not
fit the file is a problem to report, never a read. Serves the format iso, and raw disks and
partitions that hold a disc. Imports storage and units; no numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Protocol, TypeVar

from vmimg.formats.iso import structures as s
from vmimg.units import format_size

__all__ = ["BootEntry", "Bytes", "Joliet", "Udf", "Volume", "descriptors", "is_disc", "read_volume"]

# Continuations of the system use area of the root directory that are followed.
_MAX_CONTINUATIONS: Final = 16
# Sizes are rounded up by some makers; less than this is not worth a word.
_SLACK: Final = 64 << 10


class Bytes(Protocol):
    """A disk or partition: `read` is cut at its end, and comes back empty behind it."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``."""
        ...


@dataclass(frozen=True, slots=True)
class BootEntry:
    """An entry of the boot catalogue. ``size``: the bytes that are loaded, or those of the emulated
    floppy; ``offset``: where they are.
    """

    platform: str
    bootable: bool
    media: str
    load_segment: int
    size: int
    offset: int
    section: str = ""


@dataclass(frozen=True, slots=True)
class Joliet:
    """``level``: 1 to 3."""

    level: int
    label: str


@dataclass(frozen=True, slots=True)
class Udf:
    """``standard``: NSR02 or NSR03. The rest is "" or None where its descriptors are not found;
    ``size``: the bytes up to the end of the partition and of the descriptors; there may be more.
    """

    standard: str
    label: str = ""
    revision: str = ""
    block_size: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """What a disc is.

    ``iso9660`` is False for UDF alone. Names are "" and dates None where they are not set;
    ``rock_ridge`` is the version, "" without. ``size``: bytes that it says it takes. ``el_torito``:
    there is a boot record, whether or not its catalogue can be read.
    """

    iso9660: bool
    label: str = ""
    size: int | None = None
    block_size: int = s.SECTOR
    system: str = ""
    volume_set: str = ""
    publisher: str = ""
    preparer: str = ""
    application: str = ""
    created: str | None = None
    modified: str | None = None
    expires: str | None = None
    effective: str | None = None
    joliet: Joliet | None = None
    enhanced: bool = False
    rock_ridge: str = ""
    el_torito: bool = False
    boot: tuple[BootEntry, ...] = ()
    udf: Udf | None = None
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``ISO 9660`` or ``UDF``."""
        return "ISO 9660" if self.iso9660 else "UDF"


def is_disc(disk: Bytes) -> bool:
    """Whether the descriptors are those of ISO 9660 or UDF, without looking further."""
    return any(
        (_is_9660(head) and head[0] == s.PRIMARY) or head[1:6] in s.UDF_STANDARDS
        for head in descriptors(disk)
    )


def read_volume(disk: Bytes) -> Volume | None:
    """The disc that ``disk`` is, or None. Raises StorageError only."""
    primary: s.VolumeDescriptor | None = None
    joliet: Joliet | None = None
    enhanced, el_torito, standard = False, False, ""
    boot: list[BootEntry] = []
    problems: list[str] = []
    terminated = False
    for head in descriptors(disk):
        if head[1:6] in s.UDF_STANDARDS:
            standard = head[1:6].decode()
        if not _is_9660(head):
            continue
        kind = head[0]
        terminated = terminated or kind == s.TERMINATOR
        if kind == s.PRIMARY and primary is None:
            primary = _structure(s.VolumeDescriptor, head)
        elif kind == s.BOOT_RECORD and head[7:].startswith(s.EL_TORITO) and not el_torito:
            el_torito = True
            record = _structure(s.BootRecord, head)
            if record is not None:
                boot = list(_boot_entries(disk, int(record.boot_catalog), problems))
        elif kind == s.SUPPLEMENTARY:
            found = _structure(s.VolumeDescriptor, head)
            escapes = bytes(found.escape_sequences) if found is not None else b""
            if found is not None and escapes[:3] in s.JOLIET:
                joliet = Joliet(s.JOLIET[escapes[:3]], _utf16(found.volume_identifier))
            elif found is not None and found.volume_descriptor_version == s.ENHANCED_VERSION:
                enhanced = True
    udf = _udf(disk, standard) if standard else None
    if primary is None:
        if udf is None:
            return None
        return Volume(
            iso9660=False,
            label=udf.label,
            size=udf.size,
            block_size=udf.block_size or s.SECTOR,
            joliet=joliet,
            el_torito=el_torito,
            boot=tuple(boot),
            udf=udf,
            problems=(*problems, *_udf_problems(udf), *_too_short(disk, udf.size)),
        )
    if not terminated:
        problems.append("the set of volume descriptors has no terminator")
    block = int(primary.logical_block_size.little)
    size = int(primary.volume_space_size.little) * block
    problems += _disagreements(primary)
    return Volume(
        iso9660=True,
        label=_text(primary.volume_identifier),
        size=size,
        block_size=block,
        system=_text(primary.system_identifier),
        volume_set=_text(primary.volume_set_identifier),
        publisher=_text(primary.publisher_identifier),
        preparer=_text(primary.data_preparer_identifier),
        application=_text(primary.application_identifier),
        created=_date(primary.volume_creation),
        modified=_date(primary.volume_modification),
        expires=_date(primary.volume_expiration),
        effective=_date(primary.volume_effective),
        joliet=joliet,
        enhanced=enhanced,
        rock_ridge=_rock_ridge(disk, primary, block),
        el_torito=el_torito,
        boot=tuple(boot),
        udf=udf,
        problems=(
            *problems,
            *(_udf_problems(udf) if udf is not None else ()),
            *_too_short(disk, size),
        ),
    )


_Structure = TypeVar("_Structure", bound=ctypes.Structure)


def _structure(kind: type[_Structure], data: bytes) -> _Structure | None:
    """The structure that ``data`` begins with; None where it is too short."""
    return kind.from_buffer_copy(data) if len(data) >= ctypes.sizeof(kind) else None


def descriptors(disk: Bytes) -> Iterator[bytes]:
    """The sectors of the volume descriptors, as long as there is one that is known."""
    first = s.FIRST_DESCRIPTOR * s.SECTOR
    step = s.SECTOR
    for number in range(s.MAX_DESCRIPTORS):
        head = disk.read(first + number * step, s.SECTOR)
        # On sectors of 4096 bytes, which only UDF has, they are as far apart.
        if number == 1 and head[1:6] not in _IDENTIFIERS:
            step = 2 * s.SECTOR
            head = disk.read(first + step, s.SECTOR)
        if head[1:6] not in _IDENTIFIERS or len(head) < s.SECTOR:
            return
        yield head


_IDENTIFIERS: Final = (s.STANDARD_IDENTIFIER, *s.UDF_EXTENDED_AREA, *s.UDF_STANDARDS)


def _is_9660(head: bytes) -> bool:
    return head[1:6] == s.STANDARD_IDENTIFIER


def _disagreements(primary: s.VolumeDescriptor) -> Iterator[str]:
    """Numbers that differ between their two byte orders: readers will see two different discs."""
    for what, field in (
        ("volume", primary.volume_space_size),
        ("logical block", primary.logical_block_size),
    ):
        little, big = int(field.little), int.from_bytes(bytes(field.big), "big")
        if little != big:
            yield f"the size of a {what} is {little} in one byte order and {big} in the other"
    block = int(primary.logical_block_size.little)
    if block not in (512, 1024, 2048):
        yield f"has logical blocks of {block} bytes"


def _too_short(disk: Bytes, size: int | None) -> Iterator[str]:
    if size is not None and size > disk.size + _SLACK:
        yield (
            f"it says that it takes {format_size(size)} ({size} bytes), more than the "
            f"{format_size(disk.size)} there are: truncated"
        )


# El Torito


def _boot_entries(disk: Bytes, catalogue: int, problems: list[str]) -> Iterator[BootEntry]:
    table = disk.read(catalogue * s.SECTOR, (s.MAX_BOOT_ENTRIES + 1) * 2 * s.BOOT_ENTRY)
    validation = _structure(s.ValidationEntry, table)
    if validation is None:
        problems.append(f"the boot catalogue in sector {catalogue} lies behind the end")
        return
    if (
        validation.header_id != s.VALIDATION_ID
        or bytes(validation.key) != s.VALIDATION_KEY
        or sum(memoryview(table[: s.BOOT_ENTRY]).cast("H")) & 0xFFFF
    ):
        problems.append(f"the boot catalogue in sector {catalogue} is damaged")
        return
    where = s.BOOT_ENTRY

    def following() -> bytes:
        nonlocal where
        where += s.BOOT_ENTRY
        return table[where - s.BOOT_ENTRY : where]

    initial = _structure(s.BootEntry, following())
    if initial is None:
        problems.append("the boot catalogue has no entry")
        return
    yield _boot_entry(disk, initial, int(validation.platform_id), "", problems)
    count, more = 1, True
    while more:
        header = _structure(s.SectionHeader, following())
        if header is None or header.header_indicator not in (s.SECTION_MORE, s.SECTION_FINAL):
            return
        more = header.header_indicator == s.SECTION_MORE
        section = _plain(bytes(header.id_string))
        for _ in range(header.number_of_section_entries):
            entry = _structure(s.BootEntry, following())
            if entry is None or count >= s.MAX_BOOT_ENTRIES:
                problems.append(f"the boot catalogue goes on behind its {count} first entries")
                return
            yield _boot_entry(disk, entry, int(header.platform_id), section, problems)
            count += 1
            extended = bool(entry.boot_media_type & s.EXTENSION_FOLLOWS)
            while extended:
                extension = following()
                if len(extension) < s.BOOT_ENTRY or extension[0] != s.EXTENSION:
                    return
                extended = bool(extension[1] & s.EXTENSION_FOLLOWS)


def _boot_entry(
    disk: Bytes, entry: s.BootEntry, platform: int, section: str, problems: list[str]
) -> BootEntry:
    kind = entry.boot_media_type & 0x0F
    media, emulated = s.MEDIA.get(kind, (f"type {kind}", 0))
    size = emulated or int(entry.sector_count) * s.VIRTUAL_SECTOR
    offset = int(entry.load_rba) * s.SECTOR
    if offset + min(size, 1) > disk.size:
        problems.append(f"a boot image at {offset} lies behind the end of the file: truncated")
    return BootEntry(
        platform=s.PLATFORMS.get(platform, f"platform {platform:#04x}"),
        bootable=entry.boot_indicator == s.BOOTABLE,
        media=media,
        load_segment=int(entry.load_segment),
        size=size,
        offset=offset,
        section=section,
    )


# Rock Ridge


def _rock_ridge(disk: Bytes, primary: s.VolumeDescriptor, block: int) -> str:
    """The version of Rock Ridge that the first record of the root directory declares, or ""."""
    start = int(primary.root_directory_record.location_of_extent.little) * block
    data = disk.read(start, 255)
    record = _structure(s.DirectoryRecord, data)
    if record is None or record.length < ctypes.sizeof(record):
        return ""
    data = data[: record.length]
    # The identifier is padded, so that the system use area begins at an even offset.
    names = ctypes.sizeof(record) + record.length_of_file_identifier
    area = data[names + names % 2 :]
    if not area.startswith(s.SUSP_MAGIC):
        return ""
    version = ""
    for _ in range(_MAX_CONTINUATIONS):
        continuation = None
        while len(area) >= 4 and area[2] >= 4:
            name, entry, area = area[:2], area[: area[2]], area[area[2] :]
            if name == b"ER" and len(entry) >= 8:
                identifier = entry[8 : 8 + entry[4]]
                version = s.ROCK_RIDGE.get(identifier, version)
            elif name in (b"PX", b"RR"):
                version = version or "1.09"
            elif name == b"CE" and len(entry) >= 28:
                continuation = entry
            elif name == b"ST":
                break
        if continuation is None:
            break
        sector, offset, length = (
            int.from_bytes(continuation[at : at + 4], "little") for at in (4, 12, 20)
        )
        area = disk.read(sector * block + offset, min(length, s.SECTOR))
    return version


# UDF


def _udf(disk: Bytes, standard: str) -> Udf:
    for sector in s.UDF_SECTOR_SIZES:
        last = disk.size // sector - 1
        for place in (s.UDF_ANCHOR_SECTOR, last, last - s.UDF_ANCHOR_SECTOR):
            anchor = _structure(s.UdfAnchor, _tagged(disk, place, sector, s.UDF_ANCHOR))
            if anchor is None:
                continue
            extents = (anchor.main, anchor.reserve)
            for extent in extents:
                found = _udf_sequence(disk, sector, extent, extents, standard)
                if found is not None:
                    return found
    return Udf(standard)


def _udf_sequence(
    disk: Bytes,
    sector: int,
    extent: s.UdfExtent,
    extents: tuple[s.UdfExtent, ...],
    standard: str,
) -> Udf | None:
    label, volume, revision = "", "", ""
    block: int | None = None
    ends = [int(e.extent_location) + int(e.extent_length) // sector for e in extents]
    found = False
    count = min(int(extent.extent_length) // sector, s.MAX_UDF_DESCRIPTORS)
    for number in range(count):
        place = int(extent.extent_location) + number
        data = _tagged(disk, place, sector)
        if not data:
            break
        kind = int.from_bytes(data[:2], "little")
        if kind == s.UDF_TERMINATING:
            break
        if kind == s.UDF_PRIMARY:
            primary = s.UdfPrimary.from_buffer_copy(data)
            label, found = _dstring(bytes(primary.volume_identifier)), True
        elif kind == s.UDF_PARTITION:
            part = s.UdfPartition.from_buffer_copy(data)
            ends.append(int(part.partition_starting_location) + int(part.partition_length))
        elif kind == s.UDF_LOGICAL_VOLUME:
            logical = s.UdfLogicalVolume.from_buffer_copy(data)
            volume, found = _dstring(bytes(logical.logical_volume_identifier)), True
            block = int(logical.logical_block_size)
            if bytes(logical.domain_identifier).startswith(s.UDF_DOMAIN):
                revision = f"{logical.domain_revision >> 8}.{logical.domain_revision & 0xFF:02x}"
    if not found:
        return None
    return Udf(standard, volume or label, revision, block, max(ends) * sector)


def _tagged(disk: Bytes, place: int, sector: int, kind: int | None = None) -> bytes:
    """The descriptor in that sector, b"" where none is whose tag is right."""
    if place <= 0:
        return b""
    data = disk.read(place * sector, 512)
    tag = _structure(s.UdfTag, data)
    if tag is None or len(data) < 512 or tag.tag_location != place:
        return b""
    total = sum(data[:16]) - tag.tag_checksum
    if total & 0xFF != tag.tag_checksum or (kind is not None and tag.tag_identifier != kind):
        return b""
    return data


def _udf_problems(udf: Udf) -> Iterator[str]:
    if udf.block_size is None:
        yield "it is said to have UDF, but the descriptors of UDF are missing or damaged"


# Words from a stranger's disc end up on a terminal: they are kept printable.


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text.partition("\0")[0].strip())


def _plain(data: bytes) -> str:
    return _printable(data.decode("utf-8", "replace"))


def _text(field: ctypes.Array[ctypes.c_uint8]) -> str:
    return _plain(bytes(field))


def _utf16(field: ctypes.Array[ctypes.c_uint8]) -> str:
    return _printable(bytes(field).decode("utf-16-be", "replace"))


def _dstring(data: bytes) -> str:
    """OSTA compressed Unicode: the width of a letter in front, the length in the last byte."""
    text = data[1 : max(1, min(data[-1], len(data) - 1))]
    encoding = {8: "latin-1", 16: "utf-16-be"}.get(data[0])
    return _printable(text.decode(encoding, "replace")) if encoding else ""


def _date(field: ctypes.Array[ctypes.c_uint8]) -> str | None:
    """ISO 8601 from ECMA-119's digits, whose zone is in quarters of an hour; None where not set."""
    data = bytes(field)
    digits = data[:16]
    if not digits.isdigit() or not digits.strip(b"0"):
        return None
    numbers = [int(digits[a:b]) for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))]
    quarter = int.from_bytes(data[16:17], "little", signed=True)
    try:
        zone = timezone(timedelta(minutes=15 * quarter))
        year, month, day, hour, minute, second = numbers
        return datetime(year, month, day, hour, minute, second, tzinfo=zone).isoformat()
    except ValueError:
        return None
