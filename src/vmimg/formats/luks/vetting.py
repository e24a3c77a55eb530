"""What a stranger's LUKS volume could do to its reader: version 1; that of 2 is in `vetting2`.

The header decides how much work and memory trying a passphrase takes, and where key material is
read from. What is encrypted cannot be vetted. No numpy. Spec: LUKS on-disk format 1.2.3.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from vmimg.formats.detect import Evidence
from vmimg.formats.luks import structures as s
from vmimg.formats.luks.luks1 import MAX_MATERIAL, STRIPES
from vmimg.formats.luks.vetting2 import vet_luks2
from vmimg.formats.luks.work import MAX_ITERATIONS, costly_pbkdf2, vet_cipher
from vmimg.formats.regions import Area, overlaps
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["find_evidence", "vet_luks1", "vet_volume"]

_KEY_BYTES: Final = range(16, 65)
_SLOTS_AT: Final = int(s.Luks1Header.key_slots.offset)
_SLOT_BYTES: Final = ctypes.sizeof(s.KeySlot)


def vet_volume(storage: Storage) -> Iterator[Finding]:
    """See `Driver.vet`."""
    head = storage.read(0, min(8, storage.size))
    version = s.luks_version(head)
    if version == 1:
        yield from vet_luks1(storage)
    elif version == 2 or head[:6] != s.MAGIC:
        # Of version 2 the first header may be gone.
        yield from vet_luks2(storage)
    else:
        yield Finding.of(
            "unknown-version", f"it is of version {version}; there are 1 and 2", offset=6
        )


def find_evidence(storage: Storage) -> tuple[Evidence, ...]:
    """See `Driver.evidence`."""
    head = storage.read(0, min(s.HEADER_BYTES, storage.size))
    version = s.luks_version(head)
    if len(head) < s.HEADER_BYTES or version not in (1, 2):
        return ()
    found = [Evidence(6, f"version {version}")]
    if version == 1:
        raw = s.Luks1Header.from_buffer_copy(head)
        cipher = s.plain_text(raw.cipher_name) + "-" + s.plain_text(raw.cipher_mode)
        place = int(s.Luks1Header.cipher_name.offset)
        found.append(Evidence(place, f"the cipher '{cipher}'"))
        active = sum(slot.active == s.SLOT_ACTIVE for slot in raw.key_slots)
        slots = "a key slot in use" if active == 1 else f"{active} key slots in use"
        found.append(Evidence(_SLOTS_AT, slots))
        return tuple(found)
    size = s.Luks2Header.from_buffer_copy(head).hdr_size
    if size in s.LUKS2_HEADER_SIZES and size + 6 <= storage.size:
        if storage.read(s.JSON_OFFSET, 1) == b"{":
            found.append(Evidence(s.JSON_OFFSET, "JSON"))
        if storage.read(size, 6) == s.SECOND_MAGIC:
            found.append(Evidence(size, "a second header"))
    return tuple(found)


def vet_luks1(storage: Storage) -> Iterator[Finding]:
    """A header of version 1, wherever it stands; ``storage`` begins with it."""
    if storage.size < s.HEADER_BYTES:
        yield Finding.of(
            "truncated",
            f"a LUKS header has {s.HEADER_BYTES} bytes, and {storage.size} are left",
            offset=storage.size,
        )
        return
    raw = s.Luks1Header.from_buffer_copy(storage.read(0, s.HEADER_BYTES))
    fields = s.Luks1Header
    name, mode = s.plain_text(raw.cipher_name), s.plain_text(raw.cipher_mode)
    yield from vet_cipher(name, mode, int(fields.cipher_name.offset))
    if raw.key_bytes not in _KEY_BYTES:
        yield Finding.of(
            "impossible-size",
            f"the volume key is said to have {raw.key_bytes} bytes; 16 to 64 are possible",
            offset=int(fields.key_bytes.offset),
        )
        return
    payload = raw.payload_offset * s.SECTOR
    if payload > storage.size:
        yield Finding.of(
            "truncated",
            f"its data is said to be at {payload}, and the file ends at {storage.size}",
            offset=int(fields.payload_offset.offset),
        )
    place = int(fields.mk_digest_iterations.offset)
    yield from _vet_iterations("the digest of the volume key", raw.mk_digest_iterations, place)
    yield from _vet_slots(storage, raw, payload)


def _vet_slots(storage: Storage, raw: s.Luks1Header, payload: int) -> Iterator[Finding]:
    areas = [Area("the header", 0, s.HEADER_BYTES)]
    if payload:
        place = int(s.Luks1Header.payload_offset.offset)
        # To the end of time: where it begins behind the file, slots are not to blame.
        areas.append(Area("the data", payload, 1 << 62, place))
    active = 0
    for number, slot in enumerate(raw.key_slots):
        at, what = _SLOTS_AT + number * _SLOT_BYTES, f"key slot {number}"
        if slot.active not in (s.SLOT_ACTIVE, s.SLOT_INACTIVE):
            yield Finding.of(
                "odd-field",
                f"{what} is neither in use nor free",
                offset=at,
                evidence=f"{slot.active:#010x}",
                severity=Severity.ERROR,
            )
            continue
        if slot.active == s.SLOT_INACTIVE:
            # Nobody reads it; but what takes it into use will write there.
            if slot.stripes != STRIPES:
                yield Finding.of(
                    "odd-field",
                    f"{what}, not in use, has {slot.stripes} stripes, not {STRIPES}",
                    offset=at + int(s.KeySlot.stripes.offset),
                )
            continue
        active += 1
        length = raw.key_bytes * slot.stripes
        if not 0 < length <= MAX_MATERIAL:
            yield Finding.of(
                "impossible-size",
                f"{what} is said to have {slot.stripes} stripes",
                offset=at + int(s.KeySlot.stripes.offset),
            )
            continue
        place = at + int(s.KeySlot.iterations.offset)
        yield from _vet_iterations(what, slot.iterations, place)
        start = slot.key_material_offset * s.SECTOR
        end = start + align_up(length, s.SECTOR)
        place = at + int(s.KeySlot.key_material_offset.offset)
        if end > storage.size:
            yield Finding.of(
                "table-outside",
                f"{what} is said to be at {start}, {length} bytes, and the file ends at "
                f"{storage.size}",
                offset=place,
            )
            continue
        areas.append(Area(what, start, end, place))
    yield from overlaps(areas)
    if not active:
        yield Finding.of("odd-field", "no key slot is in use: nobody can open it", offset=_SLOTS_AT)


def _vet_iterations(what: str, iterations: int, place: int) -> Iterator[Finding]:
    if not iterations:
        yield Finding.of("impossible-size", f"{what} has no iterations", offset=place)
    elif iterations > MAX_ITERATIONS:
        yield costly_pbkdf2(what, iterations, place)
