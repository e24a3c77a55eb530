"""On-disk structures of Bochs's redologs, field by field in the order of its hdimage.h.

::

    0       StandardHeader
    72      SpecificHeader, in version 1 SpecificHeader1
    header  the catalog: a uint32 for each extent of the disk, its place or UNALLOCATED
    behind  places, one behind the other: a bitmap, in whole sectors, and the extent's sectors.
            Bit n of byte m is set where sector 8 m + n was written.

A growing disk is a redolog above nothing. All numbers are little-endian. The catalog is a numpy
array elsewhere. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.units import MIB

MAGIC: Final = b"Bochs Virtual HD Image\0"
REDOLOG: Final = "Redolog"
GROWING: Final = "Growing"
SUBTYPES: Final = {
    "Undoable": "an undoable redolog",
    "Volatile": "a volatile redolog",
    "vvfat": "the redolog of a directory that is shown as a disk",
}
"""Others, by what to call them: each is of no use without the disk that it was written above, and
does not say which that is."""

VERSION_1: Final = 0x00010000
VERSION_2: Final = 0x00020000


class StandardHeader(ctypes.LittleEndianStructure):
    """standard_header_t; the texts end with a NUL."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 32),
        ("type", ctypes.c_char * 16),
        ("subtype", ctypes.c_char * 16),
        ("version", ctypes.c_uint32),
        ("header", ctypes.c_uint32),
    )


class SpecificHeader1(ctypes.LittleEndianStructure):
    """redolog_specific_header_v1_t."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("catalog", ctypes.c_uint32),
        ("bitmap", ctypes.c_uint32),
        ("extent", ctypes.c_uint32),
        ("disk", ctypes.c_uint64),
    )


class SpecificHeader(ctypes.LittleEndianStructure):
    """redolog_specific_header_t: since version 2 with the time stamp of the disk below."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("catalog", ctypes.c_uint32),
        ("bitmap", ctypes.c_uint32),
        ("extent", ctypes.c_uint32),
        ("timestamp", ctypes.c_uint32),
        ("disk", ctypes.c_uint64),
    )


STANDARD_SIZE: Final = ctypes.sizeof(StandardHeader)
HEADER_SIZE: Final = STANDARD_SIZE + ctypes.sizeof(SpecificHeader)

UNALLOCATED: Final = 0xFFFF_FFFF
SECTOR: Final = 512
MAX_CATALOG: Final = 1 << 20
"""As in QEMU: what the largest disk takes that bximage makes, of 8 TiB."""
MAX_EXTENT: Final = 8 * MIB
