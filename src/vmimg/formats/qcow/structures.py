"""On-disk structures of qcow version 1, field by field as in QEMU's block/qcow.c.

::

    0              Header, 48 bytes
    behind it      name of the backing file
    l1_table_...   L1 table: for each L2 table its offset in the file, 0 where there is none
    anywhere       L2 tables, 1 << l2_bits entries each; clusters; compressed clusters, packed
                   byte by byte

All numbers are big-endian. There are no reference counts, no snapshots, and no word on the format
of the backing file. Tables are numpy arrays elsewhere. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

MAGIC: Final = b"QFI\xfb"
VERSION: Final = 1
SECTOR: Final = 512


class Header(ctypes.BigEndianStructure):
    """QCowHeader. ``mtime`` was the backing file's in the first versions of QEMU, and is 0 since;
    nobody ever compared it.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("backing_file_offset", ctypes.c_uint64),
        ("backing_file_size", ctypes.c_uint32),
        ("mtime", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("cluster_bits", ctypes.c_uint8),
        ("l2_bits", ctypes.c_uint8),
        ("padding", ctypes.c_uint16),
        ("crypt_method", ctypes.c_uint32),
        ("l1_table_offset", ctypes.c_uint64),
    )


HEADER_SIZE: Final = ctypes.sizeof(Header)

CRYPT_NONE: Final = 0
CRYPT_AES: Final = 1

COMPRESSED_FLAG: Final = 1 << 63
"""L2 entries: cluster_bits bits of length in bytes follow, then the offset."""

# QEMU's own limits
MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 16
MIN_L2_BITS: Final = 9 - 3
MAX_L2_BITS: Final = 16 - 3
MAX_L1_ENTRIES: Final = ((1 << 31) - 1) // 8
MAX_BACKING_NAME: Final = 1023

# What new images look like, as qemu-img makes them: (cluster_bits, l2_bits). Above a backing file
# clusters have the size of a sector, so that nothing must be copied up.
NEW_BITS: Final = (12, 9)
NEW_CHILD_BITS: Final = (9, 12)
L1_ALIGN: Final = 8
MAX_SIZE: Final = MAX_L1_ENTRIES << sum(NEW_BITS)
