"""The header of LUKS 1: parsed, checked, described, and laid out anew. No numpy.

::

    0 header (592 bytes) | 4096 key material of slot 0 | ... | slot 7 | payload

Each slot holds the volume key, split into stripes of which none may be missing and encrypted with a
key that a passphrase gives. Spec: LUKS on-disk format 1.2.3.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.luks import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["MAX_MATERIAL", "SLOTS", "STRIPES", "Luks1", "Slot1", "describe_luks1", "read_luks1"]

SLOTS: Final = 8
STRIPES: Final = 4000
# Slots begin on these boundaries, as cryptsetup and QEMU lay them out.
_SLOT_ALIGNMENT: Final = 4096
# A volume key: XTS with two keys of 256 bits is the longest there is; there is no shorter one than
# AES-128.
_KEY_BYTES: Final = range(16, 65)
MAX_MATERIAL: Final = 16 << 20
"""Bytes of key material that are read at most; 4000 stripes of 64 bytes are 256000."""


@dataclass(frozen=True, slots=True)
class Slot1:
    """A key slot; ``offset`` in bytes from the header. ``salt`` and ``iterations`` of PBKDF2."""

    active: bool
    offset: int
    stripes: int = STRIPES
    iterations: int = 0
    salt: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Luks1:
    """What a header says; offsets in bytes. ``mode``: of the cipher, with its IV: "xts-plain64"."""

    cipher: str
    mode: str
    hash: str
    payload_offset: int
    key_bytes: int
    digest: bytes
    digest_salt: bytes
    digest_iterations: int
    uuid: str
    slots: tuple[Slot1, ...]

    @property
    def header_bytes(self) -> int:
        """What header and slots take: from there on another thing may lie."""
        return max(slot.offset + self.material_bytes(slot) for slot in self.slots)

    def material_bytes(self, slot: Slot1) -> int:
        """Bytes of the key material of ``slot``, in whole sectors."""
        return align_up(self.key_bytes * slot.stripes, s.SECTOR)

    def pack(self) -> bytes:
        """The header as it stands in a file."""
        raw = s.Luks1Header()
        raw.magic, raw.version = s.MAGIC, 1
        raw.cipher_name, raw.cipher_mode = self.cipher.encode(), self.mode.encode()
        raw.hash_spec, raw.uuid = self.hash.encode(), self.uuid.encode()
        raw.payload_offset, raw.key_bytes = self.payload_offset // s.SECTOR, self.key_bytes
        raw.mk_digest[:], raw.mk_digest_salt[:] = self.digest, self.digest_salt
        raw.mk_digest_iterations = self.digest_iterations
        for place, slot in zip(raw.key_slots, self.slots, strict=True):
            place.active = s.SLOT_ACTIVE if slot.active else s.SLOT_INACTIVE
            place.iterations, place.salt[:] = slot.iterations, slot.salt
            place.key_material_offset = slot.offset // s.SECTOR
            place.stripes = slot.stripes
        return bytes(raw)


def slot_offsets(key_bytes: int) -> tuple[list[int], int]:
    """Where the slots of a new header lie, and where its payload begins; in bytes."""
    step = align_up(key_bytes * STRIPES, _SLOT_ALIGNMENT)
    offsets = [_SLOT_ALIGNMENT + n * step for n in range(SLOTS)]
    return offsets, offsets[-1] + step


def read_luks1(storage: Storage) -> Luks1:
    """The header at the beginning of ``storage``, and only if its slots lie in front of its payload
    and inside. Raises FormatError.
    """
    name = storage.name
    data = storage.read(0, min(s.HEADER_BYTES, storage.size))
    if s.luks_version(data) != 1 or len(data) < s.HEADER_BYTES:
        raise FormatError(f"{name}: there is no LUKS 1 header")
    header = _parse(data)
    if header.key_bytes not in _KEY_BYTES:
        raise FormatError(f"{name}: a LUKS volume key of {header.key_bytes} bytes is not possible")
    if not header.payload_offset:
        raise UnsupportedFeature(
            f"{name}: is a LUKS header by itself, its data lies in another file; "
            "that is not supported"
        )
    head = ctypes.sizeof(s.Luks1Header)
    for number, slot in enumerate(header.slots):
        if not slot.active:
            continue
        if not 0 < header.key_bytes * slot.stripes <= MAX_MATERIAL:
            raise FormatError(f"{name}: key slot {number} has {slot.stripes} stripes")
        end = slot.offset + header.material_bytes(slot)
        if slot.offset < head or end > min(header.payload_offset, storage.size):
            raise FormatError(
                f"{name}: key slot {number} is said to be at {slot.offset}, which is not between "
                f"the LUKS header and the data at {header.payload_offset}"
            )
        if not slot.iterations:
            raise FormatError(f"{name}: key slot {number} has no iterations")
    if not header.digest_iterations:
        raise FormatError(f"{name}: the digest of the volume key has no iterations")
    return header


def describe_luks1(data: bytes) -> dict[str, Any]:
    """What qemu-img's JSON says of a LUKS 1 header; offsets in bytes.

    Raises FormatError where ``data`` does not begin with one.
    """
    if s.luks_version(data) != 1 or len(data) < s.HEADER_BYTES:
        raise FormatError("there is no LUKS 1 header")
    header = _parse(data)
    chaining, _, generator = header.mode.partition("-")
    generator, _, generator_hash = generator.partition(":")
    # XTS uses two keys of half the length.
    key_bits = header.key_bytes * (4 if chaining == "xts" else 8)
    facts: dict[str, Any] = {
        "format": "luks",
        "ivgen-alg": generator,
        "hash-alg": header.hash,
        "cipher-alg": f"{header.cipher}-{key_bits}",
        "cipher-mode": chaining,
        "uuid": header.uuid,
        "slots": [_describe_slot(slot) for slot in header.slots],
        "payload-offset": header.payload_offset,
        "master-key-iters": header.digest_iterations,
    }
    if generator_hash:
        facts["ivgen-hash-alg"] = generator_hash
    return facts


def _parse(data: bytes) -> Luks1:
    raw = s.Luks1Header.from_buffer_copy(data)
    return Luks1(
        cipher=s.plain_text(raw.cipher_name),
        mode=s.plain_text(raw.cipher_mode),
        hash=s.plain_text(raw.hash_spec),
        payload_offset=raw.payload_offset * s.SECTOR,
        key_bytes=raw.key_bytes,
        digest=bytes(raw.mk_digest),
        digest_salt=bytes(raw.mk_digest_salt),
        digest_iterations=raw.mk_digest_iterations,
        uuid=s.plain_text(raw.uuid),
        slots=tuple(
            Slot1(
                slot.active == s.SLOT_ACTIVE,
                slot.key_material_offset * s.SECTOR,
                slot.stripes,
                slot.iterations,
                bytes(slot.salt),
            )
            for slot in raw.key_slots
        ),
    )


def _describe_slot(slot: Slot1) -> dict[str, Any]:
    facts: dict[str, Any] = {"active": slot.active, "key-offset": slot.offset}
    if slot.active:
        facts |= {"iters": slot.iterations, "stripes": slot.stripes}
    return facts
