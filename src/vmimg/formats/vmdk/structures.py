"""On-disk structures of VMDK, field by field in the order of the specifications.

All numbers are little-endian; offsets and sizes count sectors of 512 bytes unless a field says
otherwise. Grain directories and grain tables are numpy arrays elsewhere. No logic, no numpy.

Specs: VMware "Virtual Disk Format 5.0" for hosted sparse extents (KDMV) and ESX COW disks (COWD);
seSparse is not documented by VMware: QEMU's block/vmdk.c has the fields that are known.
"""

from __future__ import annotations

import ctypes
from typing import Final

SECTOR: Final = 512

SPARSE_MAGIC: Final = b"KDMV"
COWD_MAGIC: Final = b"COWD"
SESPARSE_MAGIC: Final = 0x0000_0000_CAFE_BABE
SESPARSE_VOLATILE_MAGIC: Final = 0x0000_0000_CAFE_CAFE
DESCRIPTOR_MAGIC: Final = b"# Disk DescriptorFile"


class SparseExtentHeader(ctypes.LittleEndianStructure):
    """The first sector of a hosted sparse extent; also the footer of a streamed one."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magicNumber", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("capacity", ctypes.c_uint64),
        ("grainSize", ctypes.c_uint64),
        ("descriptorOffset", ctypes.c_uint64),
        ("descriptorSize", ctypes.c_uint64),
        ("numGTEsPerGT", ctypes.c_uint32),
        ("rgdOffset", ctypes.c_uint64),
        ("gdOffset", ctypes.c_uint64),
        ("overHead", ctypes.c_uint64),
        ("uncleanShutdown", ctypes.c_uint8),
        ("singleEndLineChar", ctypes.c_uint8),
        ("nonEndLineChar", ctypes.c_uint8),
        ("doubleEndLineChar1", ctypes.c_uint8),
        ("doubleEndLineChar2", ctypes.c_uint8),
        ("compressAlgorithm", ctypes.c_uint16),
        ("pad", ctypes.c_uint8 * 433),
    )


class GrainMarker(ctypes.LittleEndianStructure):
    """In front of a compressed grain; ``size`` bytes of data (zlib, RFC 1950) follow at once.

    ``lba`` is the virtual sector of the grain. The next marker begins on a sector.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("lba", ctypes.c_uint64), ("size", ctypes.c_uint32))


class MetadataMarker(ctypes.LittleEndianStructure):
    """A sector in front of ``numSectors`` of metadata; ``size`` 0 tells it from a grain's."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("numSectors", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 496),
    )


class CowdHeader(ctypes.LittleEndianStructure):
    """The first four sectors of an ESX COW disk (vmfsSparse)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magicNumber", ctypes.c_char * 4),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("numSectors", ctypes.c_uint32),
        ("grainSize", ctypes.c_uint32),
        ("gdOffset", ctypes.c_uint32),
        ("numGDEntries", ctypes.c_uint32),
        ("freeSector", ctypes.c_uint32),
        # a union: of a child this, of a root disk CowdGeometry
        ("parentFileName", ctypes.c_char * 1024),
        ("parentGeneration", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("name", ctypes.c_char * 60),
        ("description", ctypes.c_char * 512),
        ("savedGeneration", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 8),
        ("uncleanShutdown", ctypes.c_uint32),
        ("padding", ctypes.c_uint8 * 396),
    )


class CowdGeometry(ctypes.LittleEndianStructure):
    """What stands in a root disk at `CowdHeader.parentFileName`."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("cylinders", ctypes.c_uint32),
        ("heads", ctypes.c_uint32),
        ("sectors", ctypes.c_uint32),
    )


class SeSparseConstHeader(ctypes.LittleEndianStructure):
    """The first sector of a seSparse extent: what never changes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
        ("grain_size", ctypes.c_uint64),
        ("grain_table_size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("reserved1", ctypes.c_uint64),
        ("reserved2", ctypes.c_uint64),
        ("reserved3", ctypes.c_uint64),
        ("reserved4", ctypes.c_uint64),
        ("volatile_header_offset", ctypes.c_uint64),
        ("volatile_header_size", ctypes.c_uint64),
        ("journal_header_offset", ctypes.c_uint64),
        ("journal_header_size", ctypes.c_uint64),
        ("journal_offset", ctypes.c_uint64),
        ("journal_size", ctypes.c_uint64),
        ("grain_dir_offset", ctypes.c_uint64),
        ("grain_dir_size", ctypes.c_uint64),
        ("grain_tables_offset", ctypes.c_uint64),
        ("grain_tables_size", ctypes.c_uint64),
        ("free_bitmap_offset", ctypes.c_uint64),
        ("free_bitmap_size", ctypes.c_uint64),
        ("backmap_offset", ctypes.c_uint64),
        ("backmap_size", ctypes.c_uint64),
        ("grains_offset", ctypes.c_uint64),
        ("grains_size", ctypes.c_uint64),
        ("pad", ctypes.c_uint8 * 304),
    )


class SeSparseVolatileHeader(ctypes.LittleEndianStructure):
    """A sector of a seSparse extent that changes as it is written."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("free_gt_number", ctypes.c_uint64),
        ("next_txn_seq_number", ctypes.c_uint64),
        ("replay_journal", ctypes.c_uint64),
        ("pad", ctypes.c_uint8 * 480),
    )


# SparseExtentHeader.flags
FLAG_NEWLINE_TEST: Final = 1 << 0
"""The four end-of-line characters are there to find a file that was sent as text."""
FLAG_REDUNDANT: Final = 1 << 1
"""The redundant grain directory and its tables are used."""
FLAG_ZERO_GRAIN: Final = 1 << 2
"""A grain table entry of 1 says that the grain reads as zeros."""
FLAG_COMPRESSED: Final = 1 << 16
FLAG_MARKERS: Final = 1 << 17

END_OF_LINE_TEST: Final = b"\n \r\n"
"""singleEndLineChar to doubleEndLineChar2."""

COMPRESSION_NONE: Final = 0
COMPRESSION_DEFLATE: Final = 1

GD_AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""gdOffset of a stream's header: the footer has the true one."""

# MetadataMarker.type
MARKER_END_OF_STREAM: Final = 0
MARKER_GRAIN_TABLE: Final = 1
MARKER_GRAIN_DIRECTORY: Final = 2
MARKER_FOOTER: Final = 3

GTE_ZERO: Final = 1
"""The grain table entry of a zeroed grain, with FLAG_ZERO_GRAIN."""

GTES_PER_GT: Final = 512
"""Entries of a grain table in hosted sparse extents. All known writers use this number."""
DEFAULT_GRAIN_SECTORS: Final = 128
COWD_GTES_PER_GT: Final = 4096
COWD_GRAIN_SECTORS: Final = 1
COWD_GD_OFFSET: Final = 4
"""Sector of the grain directory, behind the header."""
COWD_FLAGS: Final = 3
COWD_VERSION: Final = 1


SESPARSE_VERSION: Final = 0x0000_0002_0000_0001
SESPARSE_GRAIN_SECTORS: Final = 8
SESPARSE_GT_SECTORS: Final = 64
SESPARSE_GTES_PER_GT: Final = SESPARSE_GT_SECTORS * SECTOR // 8

# CIDs
NO_PARENT_CID: Final = 0xFFFF_FFFF
"""parentCID of an image without a parent."""
UNKNOWN_CID: Final = 0xFFFF_FFFE
"""CID of an image that was never written."""

# Limits
MAX_DESCRIPTOR: Final = (1 << 20) - 1
"""Bytes of descriptor text that are read, QEMU's number. Those in the field have one or two KiB;
in pieces of 2 GiB, 40 TiB of disk fit."""
MAX_EXTENTS: Final = 1 << 15
"""62 TiB, the largest disk of vSphere, in pieces of 2 GiB are 31744."""
MAX_SPARSE_SECTORS: Final = 1 << 32
"""Grain table entries count sectors of the file in 32 bits."""
MAX_GRAIN_SECTORS: Final = 1 << 21
"""QEMU's: a grain of 1 GiB is not real."""
MAX_HELD_GRAIN: Final = 4 << 20
"""Bytes of a grain that has to be held in memory as a whole, to decompress it or to fill a new one.
Those in the field have 64 KiB."""
