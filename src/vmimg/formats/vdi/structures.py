"""On-disk structures of VDI, field by field in the order of VirtualBox's VDICore.h.

::

    0          PreHeader: text, signature, version
    72         Header0 (version 0.x), Header1 or Header1Plus (version 1.1)
    offBlocks  the block map: a uint32 for each block of the disk
    offData    blocks, one behind the other, each with cbBlockExtra bytes in front of it

All numbers are little-endian, and so are the first three fields of each UUID. The map is a numpy
array elsewhere. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.units import KIB, MIB

SIGNATURE: Final = 0xBEDA107F
FILE_INFO: Final = b"<<< Oracle VM VirtualBox Disk Image >>>\n"
"""For eyes only. Innotek, Sun and QEMU wrote their own names here."""

COMMENT_SIZE: Final = 256
SECTOR: Final = 512


class PreHeader(ctypes.LittleEndianStructure):
    """VDIPREHEADER: what all versions begin with."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("szFileInfo", ctypes.c_char * 64),
        ("u32Signature", ctypes.c_uint32),
        ("u32Version", ctypes.c_uint32),
    )


class Geometry(ctypes.LittleEndianStructure):
    """VDIDISKGEOMETRY; cylinders 0 means not calculated."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("cCylinders", ctypes.c_uint32),
        ("cHeads", ctypes.c_uint32),
        ("cSectors", ctypes.c_uint32),
        ("cbSector", ctypes.c_uint32),
    )


class Header0(ctypes.LittleEndianStructure):
    """VDIHEADER0. The map follows at once, and the data the map."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("u32Type", ctypes.c_uint32),
        ("fFlags", ctypes.c_uint32),
        ("szComment", ctypes.c_uint8 * COMMENT_SIZE),
        ("LegacyGeometry", Geometry),
        ("cbDisk", ctypes.c_uint64),
        ("cbBlock", ctypes.c_uint32),
        ("cBlocks", ctypes.c_uint32),
        ("cBlocksAllocated", ctypes.c_uint32),
        ("uuidCreate", ctypes.c_uint8 * 16),
        ("uuidModify", ctypes.c_uint8 * 16),
        ("uuidLinkage", ctypes.c_uint8 * 16),
    )


class Header1(ctypes.LittleEndianStructure):
    """VDIHEADER1."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("cbHeader", ctypes.c_uint32),
        ("u32Type", ctypes.c_uint32),
        ("fFlags", ctypes.c_uint32),
        ("szComment", ctypes.c_uint8 * COMMENT_SIZE),
        ("offBlocks", ctypes.c_uint32),
        ("offData", ctypes.c_uint32),
        ("LegacyGeometry", Geometry),
        ("u32Dummy", ctypes.c_uint32),
        ("cbDisk", ctypes.c_uint64),
        ("cbBlock", ctypes.c_uint32),
        ("cbBlockExtra", ctypes.c_uint32),
        ("cBlocks", ctypes.c_uint32),
        ("cBlocksAllocated", ctypes.c_uint32),
        ("uuidCreate", ctypes.c_uint8 * 16),
        ("uuidModify", ctypes.c_uint8 * 16),
        ("uuidLinkage", ctypes.c_uint8 * 16),
        ("uuidParentModify", ctypes.c_uint8 * 16),
    )


class Header1Plus(ctypes.LittleEndianStructure):
    """VDIHEADER1PLUS: told from VDIHEADER1 by its cbHeader, not by the version."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("v1", Header1), ("LCHSGeometry", Geometry))


HEADER_OFFSET: Final = ctypes.sizeof(PreHeader)
HEADER0_SIZE: Final = ctypes.sizeof(Header0)  # 348
HEADER1_SIZE: Final = ctypes.sizeof(Header1)  # 384
HEADER1_PLUS_SIZE: Final = ctypes.sizeof(Header1Plus)  # 400

VERSION_1_1: Final = 0x0001_0001

# Image types
NORMAL: Final = 1
FIXED: Final = 2
UNDO: Final = 3
DIFF: Final = 4
TYPE_NAMES: Final = {NORMAL: "dynamic", FIXED: "fixed", UNDO: "undo", DIFF: "differencing"}

# Image flags
ZERO_EXPAND: Final = 1
"""Fill new blocks with zeros; says nothing about those that are there."""

# Map entries
BLOCK_FREE: Final = 0xFFFF_FFFF
"""Never written: the parent shows through."""
BLOCK_ZERO: Final = 0xFFFF_FFFE
"""Discarded: reads as zeros. Every smaller entry counts places from offData."""

# What new images look like
DATA_ALIGN: Final = MIB
"""VirtualBox aligns map and data to this since version 4.2, for the pages of flash memory."""
MIN_NEW_BLOCK: Final = 4 * KIB
MAX_NEW_BLOCK: Final = 256 * MIB
MAX_BLOCKS: Final = ((1 << 32) - DATA_ALIGN - DATA_ALIGN) // 4
"""offData has 32 bits: header and map, both aligned, end in front of 4 GiB."""
