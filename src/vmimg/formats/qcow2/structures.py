"""On-disk structures of qcow2, field by field in the order of QEMU's docs/interop/qcow2.

All numbers are big-endian. Tables (L1, L2, refcounts) are numpy arrays elsewhere; this module has
their bit masks. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

MAGIC: Final = b"QFI\xfb"

# Lengths of the header: version 2; the least of version 3; version 3 with compression_type.
V2_LENGTH: Final = 72
V3_LENGTH: Final = 104
V3_FULL_LENGTH: Final = 112


class Header(ctypes.BigEndianStructure):
    """The header of version 3; version 2 is its first 72 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("backing_file_offset", ctypes.c_uint64),
        ("backing_file_size", ctypes.c_uint32),
        ("cluster_bits", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("crypt_method", ctypes.c_uint32),
        ("l1_size", ctypes.c_uint32),
        ("l1_table_offset", ctypes.c_uint64),
        ("refcount_table_offset", ctypes.c_uint64),
        ("refcount_table_clusters", ctypes.c_uint32),
        ("nb_snapshots", ctypes.c_uint32),
        ("snapshots_offset", ctypes.c_uint64),
        # version 3
        ("incompatible_features", ctypes.c_uint64),
        ("compatible_features", ctypes.c_uint64),
        ("autoclear_features", ctypes.c_uint64),
        ("refcount_order", ctypes.c_uint32),
        ("header_length", ctypes.c_uint32),
        # additional fields
        ("compression_type", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 7),
    )


class ExtensionHeader(ctypes.BigEndianStructure):
    """In front of the data of a header extension; the data is padded to a multiple of 8."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("type", ctypes.c_uint32), ("length", ctypes.c_uint32))


class FeatureName(ctypes.BigEndianStructure):
    """An entry of the feature name table."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint8),
        ("bit", ctypes.c_uint8),
        ("name", ctypes.c_char * 46),
    )


class BitmapsExtension(ctypes.BigEndianStructure):
    """Where the directory of persistent bitmaps is."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("nb_bitmaps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("bitmap_directory_size", ctypes.c_uint64),
        ("bitmap_directory_offset", ctypes.c_uint64),
    )


class BitmapEntry(ctypes.BigEndianStructure):
    """An entry of the bitmap directory; extra data, name and padding to 8 follow."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("bitmap_table_offset", ctypes.c_uint64),
        ("bitmap_table_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("type", ctypes.c_uint8),
        ("granularity_bits", ctypes.c_uint8),
        ("name_size", ctypes.c_uint16),
        ("extra_data_size", ctypes.c_uint32),
    )


class EncryptionExtension(ctypes.BigEndianStructure):
    """Where the LUKS header is."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class SnapshotEntry(ctypes.BigEndianStructure):
    """An entry of the snapshot table; extra data, id, name and padding to 8 follow."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("l1_table_offset", ctypes.c_uint64),
        ("l1_size", ctypes.c_uint32),
        ("id_str_size", ctypes.c_uint16),
        ("name_size", ctypes.c_uint16),
        ("date_sec", ctypes.c_uint32),
        ("date_nsec", ctypes.c_uint32),
        ("vm_clock_nsec", ctypes.c_uint64),
        ("vm_state_size", ctypes.c_uint32),
        ("extra_data_size", ctypes.c_uint32),
    )


class SnapshotExtra(ctypes.BigEndianStructure):
    """The extra data of a snapshot entry that is defined so far; an entry may hold less of it."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("vm_state_size", ctypes.c_uint64),
        ("disk_size", ctypes.c_uint64),
        ("icount", ctypes.c_uint64),
    )


# Header extension types
EXT_END: Final = 0x00000000
EXT_BACKING_FORMAT: Final = 0xE2792ACA
EXT_FEATURE_NAMES: Final = 0x6803F857
EXT_BITMAPS: Final = 0x23852875
EXT_ENCRYPTION: Final = 0x0537BE77
EXT_DATA_FILE: Final = 0x44415441

# Incompatible features
DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
EXTERNAL_DATA: Final = 1 << 2
COMPRESSION_TYPE: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4
KNOWN_INCOMPATIBLE: Final = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2

# Compatible features
LAZY_REFCOUNTS: Final = 1 << 0

# Auto-clear features
BITMAPS_CONSISTENT: Final = 1 << 0
DATA_FILE_RAW: Final = 1 << 1

# (feature type, bit, name) as QEMU writes them in the feature name table
FEATURE_NAMES: Final = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)

# Compression types
COMPRESSION_NAMES: Final = ("zlib", "zstd")
COMPRESSION_CODECS: Final = ("deflate", "zstd")
"""What QEMU calls zlib has no zlib header: it is the deflate stream alone."""

# Encryption methods
CRYPT_NONE: Final = 0
CRYPT_AES: Final = 1
CRYPT_LUKS: Final = 2

# Table entries
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
"""Bits 9 to 55: the host offset in L1 entries and standard L2 entries."""
REFTABLE_OFFSET_MASK: Final = 0xFFFF_FFFF_FFFF_FE00
"""Bits 9 to 63: the offset of a refcount block."""
COPIED: Final = 1 << 63
"""L1 and L2 entries: the refcount is exactly one, so it may be overwritten in place."""
COMPRESSED_FLAG: Final = 1 << 62
"""L2 entries: a compressed cluster descriptor."""
ZERO_FLAG: Final = 1 << 0
"""Standard L2 entries of version 3 without subclusters: reads as zeros."""
SUBCLUSTERS: Final = 32
"""Subclusters of a cluster, with extended L2 entries."""

# QEMU's own limits: what vmimg writes, QEMU reads, and what no reader accepts is refused
MAX_L1_BYTES: Final = 32 << 20
MAX_REFTABLE_BYTES: Final = 8 << 20
MAX_SNAPSHOTS: Final = 65536
MAX_SNAPSHOT_TABLE_BYTES: Final = 64 << 20
MAX_BITMAPS: Final = 65535
MAX_BACKING_NAME: Final = 1023
MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
MIN_EXTENDED_CLUSTER_BITS: Final = 14
