"""LUKS headers, version 1 and 2: recognised and described, by themselves or inside another image.

Nothing is decrypted here. Spec: LUKS on-disk format 1.2.3, LUKS2 on-disk format 1.1. No numpy.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from vmimg.errors import FormatError

__all__ = ["HEADER_BYTES", "MAGIC", "Luks1Header", "Luks2Header", "describe_luks1", "luks_version"]

MAGIC: Final = b"LUKS\xba\xbe"
HEADER_BYTES: Final = 592

_SLOT_ACTIVE: Final = 0x00AC71F3
_SECTOR: Final = 512


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
    """The binary header of version 2, as far as anything is read from it; JSON follows at 4096."""

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
    )


def luks_version(data: bytes) -> int:
    """The version that the header at the beginning of ``data`` claims; 0 where there is none."""
    return int.from_bytes(data[6:8], "big") if data[:6] == MAGIC and len(data) >= 8 else 0


def describe_luks1(data: bytes) -> dict[str, Any]:
    """What qemu-img's JSON says of a LUKS 1 header; offsets in bytes.

    Raises FormatError where ``data`` does not begin with one.
    """
    if luks_version(data) != 1 or len(data) < HEADER_BYTES:
        raise FormatError("there is no LUKS 1 header")
    header = Luks1Header.from_buffer_copy(data)
    mode, _, generator = _text(header.cipher_mode).partition("-")
    generator, _, generator_hash = generator.partition(":")
    # XTS uses two keys of half the length.
    key_bits = header.key_bytes * (4 if mode == "xts" else 8)
    facts: dict[str, Any] = {
        "format": "luks",
        "ivgen-alg": generator,
        "hash-alg": _text(header.hash_spec),
        "cipher-alg": f"{_text(header.cipher_name)}-{key_bits}",
        "cipher-mode": mode,
        "uuid": _text(header.uuid),
        "slots": [_describe_slot(slot) for slot in header.key_slots],
        "payload-offset": header.payload_offset * _SECTOR,
        "master-key-iters": header.mk_digest_iterations,
    }
    if generator_hash:
        facts["ivgen-hash-alg"] = generator_hash
    return facts


def _describe_slot(slot: KeySlot) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "active": slot.active == _SLOT_ACTIVE,
        "key-offset": slot.key_material_offset * _SECTOR,
    }
    if facts["active"]:
        facts |= {"iters": slot.iterations, "stripes": slot.stripes}
    return facts


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace")
