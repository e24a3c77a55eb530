"""On-disk structures of QED, field by field in the order of QEMU's docs/interop/qed_spec.

::

    0                header, in header_size clusters; the backing file's name is in them, too
    l1_table_offset  the L1 table: a uint64 for each L2 table, the offset of its first byte or 0
    anywhere         L2 tables: a uint64 for each cluster of the disk; data clusters

All numbers are little-endian. L1 and L2 tables have table_size clusters each, whatever the size of
the disk. Tables are numpy arrays elsewhere. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.units import KIB, MIB

MAGIC: Final = b"QED\0"


class Header(ctypes.LittleEndianStructure):
    """The first bytes of the file. The last two fields mean something with BACKING_FILE only."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 4),
        ("cluster_size", ctypes.c_uint32),
        ("table_size", ctypes.c_uint32),
        ("header_size", ctypes.c_uint32),
        ("features", ctypes.c_uint64),
        ("compat_features", ctypes.c_uint64),
        ("autoclear_features", ctypes.c_uint64),
        ("l1_table_offset", ctypes.c_uint64),
        ("image_size", ctypes.c_uint64),
        ("backing_filename_offset", ctypes.c_uint32),
        ("backing_filename_size", ctypes.c_uint32),
    )


HEADER_SIZE: Final = ctypes.sizeof(Header)

# Features. An image with others must not be opened.
BACKING_FILE: Final = 1
NEED_CHECK: Final = 2
"""Somebody was writing, and did not come to an end."""
NO_PROBE: Final = 4
"""The backing file is raw, whatever it may look like."""
KNOWN_FEATURES: Final = BACKING_FILE | NEED_CHECK | NO_PROBE

# L2 entries; all others are offsets of clusters
UNALLOCATED: Final = 0
"""The backing file shows through."""
ZERO: Final = 1
"""Reads as zeros and has no cluster."""

MIN_CLUSTER: Final = 4 * KIB
MAX_CLUSTER: Final = 64 * MIB
DEFAULT_CLUSTER: Final = 64 * KIB
MIN_TABLE: Final = 1
MAX_TABLE: Final = 16
DEFAULT_TABLE: Final = 4
MAX_NAME: Final = 1023
"""Bytes of a backing file's name: QEMU refuses longer ones."""
SECTOR: Final = 512
