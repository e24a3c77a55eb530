"""Vets the header of an encrypted DMG: what it asks of who opens it. Imports encryption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.dmg import structures as s
from vmimg.formats.vetting import Finding
from vmimg.storage.base import Storage

__all__ = ["vet_encrypted"]

# hdiutil asks for what takes its Mac half a second: some hundred thousand.
_MANY_ITERATIONS: Final = 5_000_000
_MAX_KEYS: Final = 64
_MODE_CBC: Final = 5
_AES: Final = 0x8000_0001
_PBKDF2: Final = 103


def vet_encrypted(storage: Storage) -> Iterator[Finding]:
    """Of version 2; version 1 is refused by who reads it."""
    header = s.EncryptedHeader.from_buffer_copy(storage.read(0, s.ENCRYPTED_SIZE))
    if header.signature != s.ENCRYPTED:
        yield Finding.of("unknown-version", "it is encrypted as version 1 (cdsaencr)")
        return
    if header.version != 2:
        yield Finding.of(
            "unknown-version", f"its encryption is of version {header.version}", offset=8
        )
        return
    if header.enc_mode != _MODE_CBC or header.enc_algorithm != _AES:
        yield Finding.of(
            "unknown-features",
            f"it is encrypted by algorithm {header.enc_algorithm:#x} in mode {header.enc_mode}",
            offset=s.EncryptedHeader.enc_mode.offset,
        )
    end = header.dataoffset + header.datasize
    if end > storage.size:
        yield Finding.of(
            "truncated",
            f"its encrypted data is said to end at {end}, and the file ends at {storage.size}",
            offset=s.EncryptedHeader.datasize.offset,
        )
    if header.keys > _MAX_KEYS:
        yield Finding.of(
            "impossible-size",
            f"it is said to have {header.keys} keys",
            offset=s.EncryptedHeader.keys.offset,
        )
        return
    for number in range(header.keys):
        yield from _vet_key(storage, s.ENCRYPTED_SIZE + number * s.POINTER_SIZE)


def _vet_key(storage: Storage, place: int) -> Iterator[Finding]:
    if place + s.POINTER_SIZE > storage.size:
        return
    pointer = s.KeyPointer.from_buffer_copy(storage.read(place, s.POINTER_SIZE))
    if pointer.offset + pointer.length > storage.size:
        yield Finding.of(
            "table-outside",
            f"a key is said to be {pointer.length} bytes at {pointer.offset}, and the file ends at "
            f"{storage.size}",
            offset=place,
        )
        return
    if pointer.type != s.KEY_PASSPHRASE or pointer.length < s.PASSPHRASE_KEY_SIZE:
        return
    key = s.PassphraseKey.from_buffer_copy(storage.read(pointer.offset, s.PASSPHRASE_KEY_SIZE))
    if not 0 < key.kdf_iteration_count <= _MANY_ITERATIONS:
        yield Finding.of(
            "costly-key",
            f"a key asks for {key.kdf_iteration_count} iterations of PBKDF2",
            offset=pointer.offset + s.PassphraseKey.kdf_iteration_count.offset,
        )
    if key.kdf_algorithm != _PBKDF2:
        yield Finding.of(
            "unknown-features",
            f"a key is derived by algorithm {key.kdf_algorithm}",
            offset=pointer.offset,
        )
