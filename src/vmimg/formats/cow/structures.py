"""On-disk structures of COW, as in QEMU's block/cow.c (2004 to 2014).

::

    0                         header, 1056 bytes; 1048 where the program that made it had 32 bits
    behind it                 a bit per sector of 512 bytes: bit n is bit n % 8 of byte n / 8
    rounded up to a sector    sector n of the disk at n * 512 from here; those whose bit is not set
                              are the backing file's

All numbers are big-endian. QEMU took the layout of User Mode Linux and its magic, but gave the name
of the backing file 1024 bytes where UML has 4096, and left the rest to the compiler: size is
aligned to 8 bytes or to 4. UML's own images, of versions 1 to 3, are told apart from these by where
a sector size stands. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

MAGIC: Final = b"OOOM"
MAGIC_SWAPPED: Final = MAGIC[::-1]
"""User Mode Linux wrote version 1 in the byte order of the machine."""
VERSION: Final = 2
SECTOR: Final = 512
NAME_BYTES: Final = 1024


class Header64(ctypes.BigEndianStructure):
    """cow_header_v2 as compilers for 64 bits lay it out. ``mtime``: the backing file's, when the
    image was made; 0 where there is none.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("backing_file", ctypes.c_char * NAME_BYTES),
        ("mtime", ctypes.c_int32),
        ("padding", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("sectorsize", ctypes.c_uint32),
        ("padding2", ctypes.c_uint32),
    )


class Header32(ctypes.BigEndianStructure):
    """The same for 32 bits x86, which aligns nothing to 8 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("backing_file", ctypes.c_char * NAME_BYTES),
        ("mtime", ctypes.c_int32),
        ("size", ctypes.c_uint64),
        ("sectorsize", ctypes.c_uint32),
    )


# Where the sector size stands in version 2 of User Mode Linux, packed and not.
UML_SECTORSIZE: Final = (8 + 4096 + 4 + 8, 8 + 4096 + 8 + 8)

MAX_SIZE: Final = ((1 << 31) - SECTOR - ctypes.sizeof(Header64)) // SECTOR * SECTOR * 8 * SECTOR
"""QEMU computed with 31 bits where the data begins: just under 8 TiB."""
