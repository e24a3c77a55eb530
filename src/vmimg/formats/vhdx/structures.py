"""On-disk structures of VHDX, field by field in the order of MS-VHDX.

All numbers are little-endian; GUIDs are kept as their 16 bytes. The BAT is a numpy array elsewhere;
this module has its bit masks. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.units import GIB, KIB, MIB, TIB

SIGNATURE: Final = b"vhdxfile"
HEADER_SIGNATURE: Final = b"head"
REGION_SIGNATURE: Final = b"regi"
METADATA_SIGNATURE: Final = b"metadata"
LOG_SIGNATURE: Final = b"loge"
DESCRIPTOR_SIGNATURE: Final = b"desc"
ZERO_SIGNATURE: Final = b"zero"
DATA_SIGNATURE: Final = b"data"

# The header section: the first MiB of the file.
HEADER_OFFSETS: Final = (64 * KIB, 128 * KIB)
HEADER_SIZE: Final = 4 * KIB
REGION_TABLE_OFFSETS: Final = (192 * KIB, 256 * KIB)
REGION_TABLE_SIZE: Final = 64 * KIB
HEADER_SECTION: Final = MIB
MAX_REGIONS: Final = 2047

METADATA_TABLE_SIZE: Final = 64 * KIB
MAX_METADATA_ENTRIES: Final = 2047
MAX_ITEM_BYTES: Final = MIB

ALIGNMENT: Final = MIB
"""Of the log, of regions and of blocks."""
MIN_BLOCK: Final = MIB
MAX_BLOCK: Final = 256 * MIB
MAX_SIZE: Final = 64 * TIB
CHUNK_SECTORS: Final = 1 << 23
"""Sectors that one sector bitmap block describes."""
BITMAP_BLOCK: Final = MIB
LOG_SECTOR: Final = 4 * KIB
MAX_LOG_LENGTH: Final = 4 * GIB - MIB

Guid = ctypes.c_uint8 * 16
NO_GUID: Final = bytes(16)


def guid(text: str) -> bytes:
    """The 16 bytes of a GUID in a file; the first three parts are little-endian."""
    a, b, c, d, e = text.split("-")
    return (
        bytes.fromhex(a)[::-1] + bytes.fromhex(b)[::-1] + bytes.fromhex(c)[::-1]
    ) + bytes.fromhex(d + e)


def guid_text(data: bytes) -> str:
    """``data`` as people write a GUID, in lower case without braces."""
    parts = (data[3::-1], data[5:3:-1], data[7:5:-1], data[8:10], data[10:])
    return "-".join(part.hex() for part in parts)


BAT_REGION: Final = guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA_REGION: Final = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")

FILE_PARAMETERS: Final = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
VIRTUAL_DISK_SIZE: Final = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
VIRTUAL_DISK_ID: Final = guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR_SIZE: Final = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR_SIZE: Final = guid("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR: Final = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
VHDX_LOCATOR: Final = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")

# States of payload BAT entries. 5 was UNMAPPED in version 0.95 of the specification.
NOT_PRESENT: Final = 0
UNDEFINED: Final = 1
ZERO: Final = 2
UNMAPPED: Final = 3
UNMAPPED_V095: Final = 5
FULLY_PRESENT: Final = 6
PARTIALLY_PRESENT: Final = 7
# States of sector bitmap BAT entries.
BITMAP_NOT_PRESENT: Final = 0
BITMAP_PRESENT: Final = 6

STATE_MASK: Final = 7
OFFSET_MASK: Final = ~((1 << 20) - 1) & 0xFFFF_FFFF_FFFF_FFFF
BAT_ENTRY: Final = 8


class FileIdentifier(ctypes.LittleEndianStructure):
    """The first structure of the file. ``creator`` is UTF-16, for information only."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("signature", ctypes.c_char * 8), ("creator", ctypes.c_uint8 * 512))


class Header(ctypes.LittleEndianStructure):
    """One of the two headers; the rest of its 4 KiB is zeros. The checksum covers all of them."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("checksum", ctypes.c_uint32),
        ("sequence_number", ctypes.c_uint64),
        ("file_write_guid", Guid),
        ("data_write_guid", Guid),
        ("log_guid", Guid),
        ("log_version", ctypes.c_uint16),
        ("version", ctypes.c_uint16),
        ("log_length", ctypes.c_uint32),
        ("log_offset", ctypes.c_uint64),
    )


class RegionTableHeader(ctypes.LittleEndianStructure):
    """In front of the entries of a region table of 64 KiB, which the checksum covers."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("checksum", ctypes.c_uint32),
        ("entry_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class RegionTableEntry(ctypes.LittleEndianStructure):
    """Where a region is. ``required`` is bit 0: who does not know the region must not open."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("guid", Guid),
        ("file_offset", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("required", ctypes.c_uint32),
    )


class MetadataTableHeader(ctypes.LittleEndianStructure):
    """In front of the entries of the metadata table, which takes the region's first 64 KiB."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 8),
        ("reserved", ctypes.c_uint16),
        ("entry_count", ctypes.c_uint16),
        ("reserved2", ctypes.c_uint32 * 5),
    )


class MetadataTableEntry(ctypes.LittleEndianStructure):
    """Where a metadata item is, counted from the beginning of the region."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("item_id", Guid),
        ("offset", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("reserved2", ctypes.c_uint32),
    )


IS_USER: Final = 1
IS_VIRTUAL_DISK: Final = 2
IS_REQUIRED: Final = 4


class FileParameters(ctypes.LittleEndianStructure):
    """The metadata item of that name."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("block_size", ctypes.c_uint32), ("flags", ctypes.c_uint32))


LEAVE_BLOCKS_ALLOCATED: Final = 1
HAS_PARENT: Final = 2


class ParentLocatorHeader(ctypes.LittleEndianStructure):
    """In front of the entries of a parent locator."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("locator_type", Guid),
        ("reserved", ctypes.c_uint16),
        ("key_value_count", ctypes.c_uint16),
    )


class ParentLocatorEntry(ctypes.LittleEndianStructure):
    """Offsets are from the beginning of the item, lengths in bytes; both texts are UTF-16."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("key_offset", ctypes.c_uint32),
        ("value_offset", ctypes.c_uint32),
        ("key_length", ctypes.c_uint16),
        ("value_length", ctypes.c_uint16),
    )


class LogEntryHeader(ctypes.LittleEndianStructure):
    """The beginning of a log entry; descriptors follow at once, data sectors behind them."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("checksum", ctypes.c_uint32),
        ("entry_length", ctypes.c_uint32),
        ("tail", ctypes.c_uint32),
        ("sequence_number", ctypes.c_uint64),
        ("descriptor_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("log_guid", Guid),
        ("flushed_file_offset", ctypes.c_uint64),
        ("last_file_offset", ctypes.c_uint64),
    )


class ZeroDescriptor(ctypes.LittleEndianStructure):
    """Zeros to be written."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("reserved", ctypes.c_uint32),
        ("zero_length", ctypes.c_uint64),
        ("file_offset", ctypes.c_uint64),
        ("sequence_number", ctypes.c_uint64),
    )


class DataDescriptor(ctypes.LittleEndianStructure):
    """A sector to be written, with the bytes that its data sector has no room for."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("trailing_bytes", ctypes.c_uint8 * 4),
        ("leading_bytes", ctypes.c_uint8 * 8),
        ("file_offset", ctypes.c_uint64),
        ("sequence_number", ctypes.c_uint64),
    )


class DataSector(ctypes.LittleEndianStructure):
    """Bytes 8 to 4092 of a sector, between the halves of the sequence number: torn if they differ
    from the entry's.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("sequence_high", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 4084),
        ("sequence_low", ctypes.c_uint32),
    )
