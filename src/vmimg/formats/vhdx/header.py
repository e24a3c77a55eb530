"""The header section and the metadata of a VHDX: parsed, checked, and written. No numpy.

::

    0      file identifier             1 MiB  log (a ring of entries)
    64 K   header 1                           metadata region: table, items from 64 KiB on
    128 K  header 2                           BAT region
    192 K  region table 1                     payload blocks, sector bitmap blocks
    256 K  region table 2

Of two headers the valid one with the higher sequence number counts. The region tables are copies of
each other. Nothing is believed: each number is checked against the limits of MS-VHDX and the size
of the file before anything is read or allocated by it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.crc32c import crc32c
from vmimg.formats.vhdx.locators import ParentLocator, parse_locator
from vmimg.storage.base import Storage
from vmimg.units import MIB, align_up, format_size

__all__ = [
    "Headers",
    "Region",
    "VhdxHeader",
    "VhdxImage",
    "next_header",
    "pack_header",
    "pack_identifier",
    "pack_metadata",
    "pack_region_table",
    "read_headers",
    "read_image",
    "read_region_table",
]

Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VhdxHeader:
    """One header. GUIDs as 16 bytes; ``log_guid`` of zeros: the log is empty."""

    sequence_number: int
    file_write_guid: bytes
    data_write_guid: bytes
    log_guid: bytes
    log_version: int
    version: int
    log_length: int
    log_offset: int

    @property
    def dirty(self) -> bool:
        """The log may hold what has to be replayed."""
        return self.log_guid != s.NO_GUID


@dataclass(frozen=True, slots=True)
class Headers:
    """Both copies, None for one that is not valid, and which of them counts (0 or 1)."""

    copies: tuple[VhdxHeader | None, VhdxHeader | None]
    current: int

    @property
    def header(self) -> VhdxHeader:
        found = self.copies[self.current]
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the file, in bytes."""

    guid: bytes
    offset: int
    length: int
    required: bool = True

    @property
    def name(self) -> str:
        """For messages."""
        known = {s.BAT_REGION: "BAT", s.METADATA_REGION: "metadata"}
        return known.get(self.guid, s.guid_text(self.guid))


@dataclass(slots=True)
class VhdxImage:
    """All that stands in front of the blocks. Sizes and offsets in bytes."""

    creator: str
    headers: Headers
    regions: tuple[Region, ...]
    bat: Region
    metadata: Region
    block_size: int
    leave_blocks_allocated: bool
    has_parent: bool
    size: int
    logical_sector_size: int
    physical_sector_size: int
    disk_id: bytes
    locator: ParentLocator | None = None
    problems: list[str] = field(default_factory=list)
    """What is wrong but did not keep it from being read: a bad copy of something."""

    @property
    def header(self) -> VhdxHeader:
        return self.headers.header

    @property
    def blocks(self) -> int:
        """Payload blocks."""
        return -(-self.size // self.block_size)

    @property
    def chunk_ratio(self) -> int:
        """Payload blocks that share a sector bitmap block."""
        return s.CHUNK_SECTORS * self.logical_sector_size // self.block_size

    @property
    def chunks(self) -> int:
        return -(-self.blocks // self.chunk_ratio)

    @property
    def bat_entries(self) -> int:
        """BAT entries, those of sector bitmap blocks among them."""
        if self.has_parent:
            return self.chunks * (self.chunk_ratio + 1)
        return self.blocks + max(0, self.blocks - 1) // self.chunk_ratio


def read_image(storage: Storage, headers: Headers) -> VhdxImage:
    """What ``storage``, its log replayed, says in front of its blocks.

    Raises FormatError for what breaks the format, UnsupportedFeature for what must not be ignored.
    """
    problems: list[str] = []
    regions = _regions(storage, problems.append)
    _check_regions(storage, headers.header, regions)
    bat, metadata = (_known(storage, regions, guid) for guid in (s.BAT_REGION, s.METADATA_REGION))
    for region in regions:
        if region.required and region not in (bat, metadata):
            raise UnsupportedFeature(
                f"{storage.name}: it has a region {region.name} that must not be ignored "
                "and is not known here"
            )
    items = _read_items(storage, metadata)
    image = _parameters(storage, headers, regions, bat, metadata, items)
    image.problems = problems
    if image.bat_entries * s.BAT_ENTRY > bat.length:
        raise FormatError(
            f"{storage.name}: the BAT has room for {bat.length // s.BAT_ENTRY} entries; a disk of "
            f"{format_size(image.size)} needs {image.bat_entries}"
        )
    return image


def read_headers(storage: Storage) -> Headers:
    """Both headers of ``storage``. Raises FormatError where neither is valid."""
    name = storage.name
    end = s.REGION_TABLE_OFFSETS[1] + s.REGION_TABLE_SIZE
    if storage.size < end:
        raise FormatError(
            f"{name}: the headers and region tables of a VHDX end at {end}, the file at "
            f"{storage.size}: it is truncated"
        )
    if storage.read(0, 8) != s.SIGNATURE:
        raise FormatError(f"{name}: not a VHDX image: the signature at offset 0 is missing")
    first, second = (_read_header(storage, offset) for offset in s.HEADER_OFFSETS)
    if first is None and second is None:
        raise FormatError(f"{name}: neither header is valid: their checksums do not fit")
    if first is not None and second is not None:
        if first.sequence_number == second.sequence_number and first != second:
            raise FormatError(
                f"{name}: two different headers have the same sequence number "
                f"({first.sequence_number})"
            )
        # Disk2VHD writes two that are the same; either will do.
        current = int(second.sequence_number > first.sequence_number)
    else:
        current = int(first is None)
    headers = Headers((first, second), current)
    _check_header(storage, headers.header)
    return headers


def read_region_table(storage: Storage, offset: int) -> tuple[Region, ...] | None:
    """The regions that the table at ``offset`` lists; None where it is not valid."""
    data = bytearray(storage.read(offset, s.REGION_TABLE_SIZE))
    raw = s.RegionTableHeader.from_buffer_copy(data)
    if raw.signature != s.REGION_SIGNATURE or raw.entry_count > s.MAX_REGIONS:
        return None
    if _checksum(data) != raw.checksum:
        return None
    width, start = ctypes.sizeof(s.RegionTableEntry), ctypes.sizeof(raw)
    regions = []
    for number in range(raw.entry_count):
        entry = s.RegionTableEntry.from_buffer_copy(data, start + number * width)
        guid, required = bytes(entry.guid), bool(entry.required & 1)
        regions.append(Region(guid, int(entry.file_offset), int(entry.length), required))
    return tuple(regions)


# Writing


def pack_identifier(creator: str) -> bytes:
    """The file identifier."""
    text = creator.encode("utf-16-le").ljust(512, b"\0")
    return bytes(s.FileIdentifier(s.SIGNATURE, (ctypes.c_uint8 * 512)(*text)))


def pack_header(header: VhdxHeader) -> bytes:
    """A header in its 4 KiB."""
    raw = s.Header(
        signature=s.HEADER_SIGNATURE,
        sequence_number=header.sequence_number,
        file_write_guid=s.Guid(*header.file_write_guid),
        data_write_guid=s.Guid(*header.data_write_guid),
        log_guid=s.Guid(*header.log_guid),
        log_version=header.log_version,
        version=header.version,
        log_length=header.log_length,
        log_offset=header.log_offset,
    )
    return _sealed(bytes(raw).ljust(s.HEADER_SIZE, b"\0"))


def pack_region_table(regions: tuple[Region, ...]) -> bytes:
    """A region table in its 64 KiB."""
    parts = [bytes(s.RegionTableHeader(s.REGION_SIGNATURE, 0, len(regions), 0))]
    for region in regions:
        entry = s.RegionTableEntry(
            s.Guid(*region.guid), region.offset, region.length, int(region.required)
        )
        parts.append(bytes(entry))
    return _sealed(b"".join(parts).ljust(s.REGION_TABLE_SIZE, b"\0"))


def pack_metadata(image: VhdxImage, locator: bytes | None) -> bytes:
    """The used part of the metadata region: table and items."""
    flags = s.HAS_PARENT if image.has_parent else 0
    flags |= s.LEAVE_BLOCKS_ALLOCATED if image.leave_blocks_allocated else 0
    disk = s.IS_VIRTUAL_DISK | s.IS_REQUIRED
    items = [
        (s.FILE_PARAMETERS, bytes(s.FileParameters(image.block_size, flags)), s.IS_REQUIRED),
        (s.VIRTUAL_DISK_SIZE, image.size.to_bytes(8, "little"), disk),
        (s.VIRTUAL_DISK_ID, image.disk_id, disk),
        (s.LOGICAL_SECTOR_SIZE, image.logical_sector_size.to_bytes(4, "little"), disk),
        (s.PHYSICAL_SECTOR_SIZE, image.physical_sector_size.to_bytes(4, "little"), disk),
    ]
    if locator is not None:
        items.append((s.PARENT_LOCATOR, locator, s.IS_REQUIRED))
    table = [bytes(s.MetadataTableHeader(s.METADATA_SIGNATURE, 0, len(items)))]
    place, contents = s.METADATA_TABLE_SIZE, list[bytes]()
    for item, content, flag in items:
        table.append(bytes(s.MetadataTableEntry(s.Guid(*item), place, len(content), flag, 0)))
        padded = content.ljust(align_up(len(content), 8), b"\0")
        contents.append(padded)
        place += len(padded)
    return b"".join(table).ljust(s.METADATA_TABLE_SIZE, b"\0") + b"".join(contents)


def _sealed(data: bytes) -> bytes:
    """``data`` with its checksum put where the headers and region tables have it."""
    return data[:4] + crc32c(data).to_bytes(4, "little") + data[8:]


def _checksum(data: bytearray) -> int:
    """The checksum that ``data`` should have; clears the field."""
    data[4:8] = bytes(4)
    return crc32c(data)


# Headers


def _read_header(storage: Storage, offset: int) -> VhdxHeader | None:
    data = bytearray(storage.read(offset, s.HEADER_SIZE))
    raw = s.Header.from_buffer_copy(data)
    if raw.signature != s.HEADER_SIGNATURE or _checksum(data) != raw.checksum:
        return None
    return VhdxHeader(
        sequence_number=int(raw.sequence_number),
        file_write_guid=bytes(raw.file_write_guid),
        data_write_guid=bytes(raw.data_write_guid),
        log_guid=bytes(raw.log_guid),
        log_version=int(raw.log_version),
        version=int(raw.version),
        log_length=int(raw.log_length),
        log_offset=int(raw.log_offset),
    )


def _check_header(storage: Storage, header: VhdxHeader) -> None:
    name = storage.name
    if header.version != 1:
        raise UnsupportedFeature(f"{name}: VHDX version {header.version}; known is 1")
    if header.log_version != 0:
        raise UnsupportedFeature(f"{name}: VHDX log version {header.log_version}; known is 0")
    if header.log_offset % MIB or header.log_length % MIB:
        raise FormatError(
            f"{name}: the log ({header.log_length} bytes at {header.log_offset}) is not in "
            "whole MiB"
        )
    if header.log_length and header.log_offset < s.HEADER_SECTION:
        raise FormatError(f"{name}: the log at {header.log_offset} lies over the headers")
    if header.log_offset + header.log_length > storage.size:
        raise FormatError(
            f"{name}: the log ({header.log_length} bytes at {header.log_offset}) reaches behind "
            f"the end of the file ({storage.size}): it is truncated or damaged"
        )


# Regions


def _regions(storage: Storage, complain: Complain) -> tuple[Region, ...]:
    first, second = (read_region_table(storage, offset) for offset in s.REGION_TABLE_OFFSETS)
    if first is None and second is None:
        raise FormatError(f"{storage.name}: neither region table is valid: checksums do not fit")
    for number, table in ((1, first), (2, second)):
        if table is None:
            complain(f"region table {number} is not valid")
    if first is not None and second is not None and first != second:
        complain("the two region tables list different regions")
    found = first if first is not None else second
    assert found is not None
    return found


def _known(storage: Storage, regions: tuple[Region, ...], guid: bytes) -> Region:
    found = [region for region in regions if region.guid == guid]
    name = Region(guid, 0, 0).name
    if len(found) != 1:
        raise FormatError(
            f"{storage.name}: the region table lists {len(found)} {name} regions; there is one"
        )
    return found[0]


def _check_regions(storage: Storage, header: VhdxHeader, regions: tuple[Region, ...]) -> None:
    name = storage.name
    taken = [(0, s.HEADER_SECTION, "headers")]
    if header.log_length:
        taken.append((header.log_offset, header.log_offset + header.log_length, "log"))
    for region in regions:
        if region.offset % MIB or region.length % MIB or not region.length:
            raise FormatError(
                f"{name}: the {region.name} region ({region.length} bytes at {region.offset}) is "
                "not in whole MiB"
            )
        if region.offset + region.length > storage.size:
            raise FormatError(
                f"{name}: the {region.name} region ({region.length} bytes at {region.offset}) "
                f"reaches behind the end of the file ({storage.size}): it is truncated or damaged"
            )
        taken.append((region.offset, region.offset + region.length, f"{region.name} region"))
    taken.sort(key=lambda part: part[0])  # the headers stay in front of what claims their place
    for (_, end, one), (start, _, other) in pairwise(taken):
        if start < end:
            raise FormatError(f"{name}: the {other} at {start} lies over the {one}")


# Metadata


def _read_items(storage: Storage, region: Region) -> dict[bytes, bytes]:
    """The known metadata items, by their id."""
    name = storage.name
    table = storage.read(region.offset, s.METADATA_TABLE_SIZE)
    raw = s.MetadataTableHeader.from_buffer_copy(table)
    if raw.signature != s.METADATA_SIGNATURE:
        raise FormatError(f"{name}: the metadata table at {region.offset} has no signature")
    if raw.entry_count > s.MAX_METADATA_ENTRIES:
        raise FormatError(
            f"{name}: a metadata table of {raw.entry_count} entries; "
            f"{s.MAX_METADATA_ENTRIES} are allowed"
        )
    items: dict[bytes, bytes] = {}
    width, first = ctypes.sizeof(s.MetadataTableEntry), ctypes.sizeof(raw)
    for number in range(raw.entry_count):
        entry = s.MetadataTableEntry.from_buffer_copy(table, first + number * width)
        item, offset, length = bytes(entry.item_id), int(entry.offset), int(entry.length)
        if item not in _MIN_LENGTHS or entry.flags & s.IS_USER:
            if entry.flags & s.IS_REQUIRED:
                raise UnsupportedFeature(
                    f"{name}: it has metadata {s.guid_text(item)} that must not be ignored "
                    "and is not known here"
                )
            continue
        what = _MIN_LENGTHS[item][1]
        if item in items:
            raise FormatError(f"{name}: the metadata table lists the {what} twice")
        if length > s.MAX_ITEM_BYTES or length < _MIN_LENGTHS[item][0]:
            raise FormatError(f"{name}: the {what} has {length} bytes, which cannot be")
        if offset < s.METADATA_TABLE_SIZE or offset + length > region.length:
            raise FormatError(
                f"{name}: the {what} ({length} bytes at {offset}) does not lie in the metadata "
                "region"
            )
        items[item] = storage.read(region.offset + offset, length)
    for item, (_, what) in _MIN_LENGTHS.items():
        if item not in items and item != s.PARENT_LOCATOR:
            raise FormatError(f"{name}: the metadata has no {what}")
    return items


_MIN_LENGTHS = {
    s.FILE_PARAMETERS: (8, "file parameters"),
    s.VIRTUAL_DISK_SIZE: (8, "virtual disk size"),
    s.VIRTUAL_DISK_ID: (16, "virtual disk id"),
    s.LOGICAL_SECTOR_SIZE: (4, "logical sector size"),
    s.PHYSICAL_SECTOR_SIZE: (4, "physical sector size"),
    s.PARENT_LOCATOR: (20, "parent locator"),
}


def _parameters(
    storage: Storage,
    headers: Headers,
    regions: tuple[Region, ...],
    bat: Region,
    metadata: Region,
    items: dict[bytes, bytes],
) -> VhdxImage:
    name = storage.name
    parameters = s.FileParameters.from_buffer_copy(items[s.FILE_PARAMETERS])
    block_size = int(parameters.block_size)
    size = int.from_bytes(items[s.VIRTUAL_DISK_SIZE][:8], "little")
    logical = int.from_bytes(items[s.LOGICAL_SECTOR_SIZE][:4], "little")
    physical = int.from_bytes(items[s.PHYSICAL_SECTOR_SIZE][:4], "little")
    if not s.MIN_BLOCK <= block_size <= s.MAX_BLOCK or block_size & (block_size - 1):
        raise FormatError(
            f"{name}: a block size of {block_size}; it is a power of two from 1 MiB to 256 MiB"
        )
    for what, sector in (("logical", logical), ("physical", physical)):
        if sector not in (512, 4096):
            raise FormatError(f"{name}: {what} sectors of {sector} bytes; there are 512 and 4096")
    if size > s.MAX_SIZE or size % logical:
        raise FormatError(
            f"{name}: a virtual size of {size} bytes; it is whole sectors of {logical}, "
            "64 TiB at most"
        )
    has_parent = bool(parameters.flags & s.HAS_PARENT)
    locator = None
    if has_parent:
        if s.PARENT_LOCATOR not in items:
            raise FormatError(f"{name}: it has a parent, but no parent locator")
        locator = parse_locator(items[s.PARENT_LOCATOR], name)
    return VhdxImage(
        creator=_creator(storage),
        headers=headers,
        regions=regions,
        bat=bat,
        metadata=metadata,
        block_size=block_size,
        leave_blocks_allocated=bool(parameters.flags & s.LEAVE_BLOCKS_ALLOCATED),
        has_parent=has_parent,
        size=size,
        logical_sector_size=logical,
        physical_sector_size=physical,
        disk_id=items[s.VIRTUAL_DISK_ID][:16],
        locator=locator,
    )


def _creator(storage: Storage) -> str:
    text = storage.read(8, 512).decode("utf-16-le", "replace").partition("\0")[0]
    return "".join(c if c.isprintable() else "?" for c in text).strip()


def next_header(headers: Headers, **changes: bytes) -> Headers:
    """``headers`` after the copy that does not count was rewritten: it does, from then on."""
    header = headers.header
    newer = replace(header, sequence_number=header.sequence_number + 1, **changes)  # type: ignore[arg-type]
    slot = 1 - headers.current
    copies = (newer, headers.copies[1]) if slot == 0 else (headers.copies[0], newer)
    return Headers(copies, slot)
