"""On-disk structures of VHD, field by field in the order of Microsoft's Virtual Hard Disk Image
Format Specification 1.0.

All numbers are big-endian. The block allocation table is a numpy array elsewhere. No logic, no
numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

SECTOR: Final = 512

COOKIE: Final = b"conectix"
DYNAMIC_COOKIE: Final = b"cxsparse"

FOOTER_SIZE: Final = 512
# "Versions previous to Microsoft Virtual PC 2004 create disk images that have a 511-byte disk
# footer": the last reserved byte is missing.
OLD_FOOTER_SIZE: Final = 511
DYNAMIC_HEADER_SIZE: Final = 1024

VERSION: Final = 0x0001_0000
# Of Footer.features: a temporary disk; a bit that is always set.
TEMPORARY: Final = 0x1
RESERVED_FEATURE: Final = 0x2

# Of Footer.disk_type
FIXED: Final = 2
DYNAMIC: Final = 3
DIFFERENCING: Final = 4
TYPE_NAMES: Final = {FIXED: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}

# Of Footer.data_offset of a fixed disk, and of DynamicHeader.data_offset
NO_OFFSET: Final = 0xFFFF_FFFF_FFFF_FFFF
# A BAT entry whose block is not there
UNUSED: Final = 0xFFFF_FFFF

# Time stamps count from 2000-01-01 00:00:00 UTC.
EPOCH: Final = 946_684_800

# The geometry that stands for any disk that is too large for one.
MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS = 65535, 16, 255
# 2040 GiB: what Hyper-V and QEMU take. BAT entries are 32-bit numbers of sectors.
MAX_SIZE: Final = 0xFF00_0000 * SECTOR


class Footer(ctypes.BigEndianStructure):
    """At the end of the file; in dynamic and differencing disks a copy of it is at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("cookie", ctypes.c_char * 8),
        ("features", ctypes.c_uint32),
        ("file_format_version", ctypes.c_uint32),
        ("data_offset", ctypes.c_uint64),
        ("time_stamp", ctypes.c_uint32),
        ("creator_application", ctypes.c_uint8 * 4),
        ("creator_version", ctypes.c_uint32),
        ("creator_host_os", ctypes.c_uint8 * 4),
        ("original_size", ctypes.c_uint64),
        ("current_size", ctypes.c_uint64),
        ("cylinders", ctypes.c_uint16),
        ("heads", ctypes.c_uint8),
        ("sectors_per_track", ctypes.c_uint8),
        ("disk_type", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("unique_id", ctypes.c_uint8 * 16),
        ("saved_state", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 427),
    )


class ParentLocatorEntry(ctypes.BigEndianStructure):
    """Where one platform's name of the parent is."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("platform_code", ctypes.c_uint8 * 4),
        ("platform_data_space", ctypes.c_uint32),
        ("platform_data_length", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("platform_data_offset", ctypes.c_uint64),
    )


class DynamicHeader(ctypes.BigEndianStructure):
    """Of dynamic and differencing disks, at Footer.data_offset."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("cookie", ctypes.c_char * 8),
        ("data_offset", ctypes.c_uint64),
        ("table_offset", ctypes.c_uint64),
        ("header_version", ctypes.c_uint32),
        ("max_table_entries", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("parent_unique_id", ctypes.c_uint8 * 16),
        ("parent_time_stamp", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("parent_unicode_name", ctypes.c_uint8 * 512),
        ("parent_locators", ParentLocatorEntry * 8),
        ("reserved2", ctypes.c_uint8 * 256),
    )
