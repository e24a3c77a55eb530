"""LUKS on disk, versions 1 and 2, field by field as the specifications have it. No numpy.

Version 1: LUKS on-disk format 1.2.3. Version 2: LUKS2 on-disk format 1.1. All numbers are
big-endian; version 2 goes on in JSON behind its binary header.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = [
    "HEADER_BYTES",
    "JSON_OFFSET",
    "LUKS2_HEADER_SIZES",
    "MAGIC",
    "SECOND_MAGIC",
    "SECTOR",
    "SECTOR_SIZES",
    "SLOT_ACTIVE",
    "SLOT_INACTIVE",
    "KeySlot",
    "Luks1Header",
    "Luks2Header",
    "luks_version",
    "plain_text",
]

SECTOR: Final = 512
SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
"""What may have one IV, in version 2."""
MAGIC: Final = b"LUKS\xba\xbe"
SECOND_MAGIC: Final = b"SKUL\xba\xbe"
"""Of the second header of version 2, so that it is not found where a device begins."""
HEADER_BYTES: Final = 592
"""Of the header of version 1; that of version 2 up to its checksum is shorter."""
JSON_OFFSET: Final = 4096
"""Where the JSON of version 2 begins, from the beginning of each of its headers."""
LUKS2_HEADER_SIZES: Final = tuple(16384 << n for n in range(9))
"""What a header of version 2 may take, binary part and JSON: 16 KiB to 4 MiB. The second follows
the first."""

SLOT_ACTIVE: Final = 0x00AC71F3
SLOT_INACTIVE: Final = 0x0000DEAD


class KeySlot(ctypes.BigEndianStructure):
    """A key slot of version 1; the offset is in sectors of 512 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("active", ctypes.c_uint32),
        ("iterations", ctypes.c_uint32),
        ("salt", ctypes.c_uint8 * 32),
        ("key_material_offset", ctypes.c_uint32),
        ("stripes", ctypes.c_uint32),
    )


class Luks1Header(ctypes.BigEndianStructure):
    """The header of version 1; the payload offset is in sectors of 512 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 6),
        ("version", ctypes.c_uint16),
        ("cipher_name", ctypes.c_char * 32),
        ("cipher_mode", ctypes.c_char * 32),
        ("hash_spec", ctypes.c_char * 32),
        ("payload_offset", ctypes.c_uint32),
        ("key_bytes", ctypes.c_uint32),
        ("mk_digest", ctypes.c_uint8 * 20),
        ("mk_digest_salt", ctypes.c_uint8 * 32),
        ("mk_digest_iterations", ctypes.c_uint32),
        ("uuid", ctypes.c_char * 40),
        ("key_slots", KeySlot * 8),
    )


class Luks2Header(ctypes.BigEndianStructure):
    """The binary header of version 2. The checksum is made over it, with ``csum`` as zeros, and the
    JSON area.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 6),
        ("version", ctypes.c_uint16),
        ("hdr_size", ctypes.c_uint64),
        ("seqid", ctypes.c_uint64),
        ("label", ctypes.c_char * 48),
        ("checksum_alg", ctypes.c_char * 32),
        ("salt", ctypes.c_uint8 * 64),
        ("uuid", ctypes.c_char * 40),
        ("subsystem", ctypes.c_char * 48),
        ("hdr_offset", ctypes.c_uint64),
        ("padding", ctypes.c_uint8 * 184),
        ("csum", ctypes.c_uint8 * 64),
    )


def plain_text(data: bytes) -> str:
    """A name of a header: what is not printable became question marks, for it goes to terminals."""
    text = data.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)


def luks_version(data: bytes) -> int:
    """The version that the header at the beginning of ``data`` claims; 0 where there is none."""
    return int.from_bytes(data[6:8], "big") if data[:6] == MAGIC and len(data) >= 8 else 0
