"""What lies in the resources of a WIM, field by field; header and blob table are in `probe.wim`.

The metadata of an image: sizes of security descriptors and these, then the entry of the root, then
directories: entries one behind the other, up to one whose length is 0. Everything begins at a
multiple of 8 bytes. Behind an entry follow its streams. Sources: Microsoft's "Windows Imaging File
Format (WIM)" white paper; wimlib's headers dentry.h, resource.h, integrity.h for solid resources.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = [
    "COMPRESSORS",
    "DIRECTORY",
    "ENCRYPTED",
    "EPOCH",
    "MOUNT_POINT",
    "NORMAL",
    "NO_SECURITY",
    "PIECE_HEADER",
    "REPARSE_POINT",
    "SYMLINK",
    "EntryHeader",
    "IntegrityHeader",
    "LinkHeader",
    "SecurityHeader",
    "SolidHeader",
    "StreamHeader",
    "aligned",
]

# Attributes of a file.
DIRECTORY: Final = 0x10
NORMAL: Final = 0x80
REPARSE_POINT: Final = 0x400
ENCRYPTED: Final = 0x4000
# Tags of reparse points.
MOUNT_POINT: Final = 0xA0000003
SYMLINK: Final = 0xA000000C
NO_SECURITY: Final = 0xFFFFFFFF
EPOCH: Final = 116_444_736_000_000_000
"""1970 in the time of Windows, which is units of 100 ns since 1601."""
PIECE_HEADER: Final = 4
"""Bytes in front of each chunk in a pipable file: how long it is."""
COMPRESSORS: Final = {0: "none", 1: "XPRESS", 2: "LZX", 3: "LZMS"}
"""Of solid resources, by number."""


class SecurityHeader(ctypes.LittleEndianStructure):
    """At the beginning of the metadata; ``size``: all of it, with the sizes and descriptors."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("size", ctypes.c_uint32), ("count", ctypes.c_uint32))


class EntryHeader(ctypes.LittleEndianStructure):
    """A file or directory; its name follows, with a zero behind it unless it is empty, and its
    short name. ``hash``: SHA-1 of what is in it, zeros for nothing. ``link``: the number of its
    group of hard links; of a reparse point, the tag in the lower half.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("length", ctypes.c_uint64),
        ("attributes", ctypes.c_uint32),
        ("security", ctypes.c_uint32),
        ("children", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 2),
        ("created", ctypes.c_uint64),
        ("accessed", ctypes.c_uint64),
        ("written", ctypes.c_uint64),
        ("hash", ctypes.c_uint8 * 20),
        ("unknown", ctypes.c_uint32),
        ("link", ctypes.c_uint64),
        ("streams", ctypes.c_uint16),
        ("short_name_bytes", ctypes.c_uint16),
        ("name_bytes", ctypes.c_uint16),
    )


class StreamHeader(ctypes.LittleEndianStructure):
    """A stream of a file, its name behind it; the one without a name is what is in the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("length", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("hash", ctypes.c_uint8 * 20),
        ("name_bytes", ctypes.c_uint16),
    )


class LinkHeader(ctypes.LittleEndianStructure):
    """What a symbolic link holds; names follow. A mount point is without ``flags``. The substitute
    is what the system takes, the print name what it shows. Flag 1: relative.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("substitute_offset", ctypes.c_uint16),
        ("substitute_bytes", ctypes.c_uint16),
        ("print_offset", ctypes.c_uint16),
        ("print_bytes", ctypes.c_uint16),
        ("flags", ctypes.c_uint32),
    )


class SolidHeader(ctypes.LittleEndianStructure):
    """At the beginning of a solid resource; sizes of its chunks follow, of 4 bytes each."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("original_size", ctypes.c_uint64),
        ("chunk_size", ctypes.c_uint32),
        ("compression", ctypes.c_uint32),
    )


class IntegrityHeader(ctypes.LittleEndianStructure):
    """Of the table of checksums: one SHA-1 for each ``chunk_size`` bytes behind the header."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("chunk_size", ctypes.c_uint32),
    )


def aligned(length: int) -> int:
    """The next multiple of 8."""
    return length + 7 & ~7
