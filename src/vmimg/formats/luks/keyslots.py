"""Keys: how a passphrase gives the volume key, of LUKS 1 and 2, and how a new one is kept.

A passphrase goes through a function that is slow on purpose (PBKDF2, Argon2) and gives the key that
a slot's material is encrypted with. The material is the volume key split into stripes, so that a
disk which keeps one bad block when a slot is wiped does not keep the key: of the stripes none may
be missing. A digest tells whether what came out is the volume key. All hashes and ciphers are
libraries'; the only arithmetic here is the exclusive-or of stripes.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from typing import Final

from vmimg.codecs.ciphers import SectorCipher, sector_cipher
from vmimg.errors import FormatError, LockedImage, OptionError, UnsupportedFeature
from vmimg.extras import require
from vmimg.formats.keys import candidates
from vmimg.formats.luks.luks1 import Luks1
from vmimg.formats.luks.luks2 import Argon2, Keyslot, Luks2
from vmimg.storage.base import Storage

__all__ = [
    "MIN_ITERATIONS",
    "af_merge",
    "af_split",
    "measured_iterations",
    "pbkdf2",
    "unlock_luks1",
    "unlock_luks2",
    "volume_cipher",
]

MIN_ITERATIONS: Final = 1000
"""Of PBKDF2, as the specification asks for."""

# What a header may ask of its reader, per slot and passphrase: a minute or two of work, and the
# memory that cryptsetup allows.
_MAX_ITERATIONS: Final = 1 << 27
_MAX_ARGON2_KIB: Final = 4 << 20
_MAX_ARGON2_WORK: Final = 64 << 20  # memory in KiB, times passes
_MAX_ARGON2_LANES: Final = 64

# As cryptsetup and QEMU spell them, to the names that hashlib has.
_HASHES: Final = {
    "sha1": "sha1",
    "sha224": "sha224",
    "sha256": "sha256",
    "sha384": "sha384",
    "sha512": "sha512",
    "ripemd160": "ripemd160",
    "whirlpool": "whirlpool",
    "sha3-256": "sha3_256",
    "sha3-512": "sha3_512",
    "blake2b-512": "blake2b",
    "blake2s-256": "blake2s",
}


def unlock_luks1(storage: Storage, header: Luks1, key: bytes) -> bytes:
    """The volume key that passphrase ``key`` gives; ``storage`` begins with the header.

    Raises LockedImage where no slot takes it.
    """
    volume_cipher(storage.name, header.cipher, header.mode, bytes(header.key_bytes))
    for candidate in candidates(key):
        for slot in header.slots:
            if not slot.active:
                continue
            stretched = pbkdf2(
                header.hash, candidate, slot.salt, slot.iterations, header.key_bytes, storage.name
            )
            cipher = volume_cipher(storage.name, header.cipher, header.mode, stretched)
            material = bytearray(storage.read(slot.offset, header.material_bytes(slot)))
            cipher.decrypt(0, memoryview(material))
            found = af_merge(material, header.key_bytes, slot.stripes, header.hash)
            digest = pbkdf2(
                header.hash,
                found,
                header.digest_salt,
                header.digest_iterations,
                len(header.digest),
                storage.name,
            )
            if hmac.compare_digest(digest, header.digest):
                return found
    raise wrong_key(storage.name)


def unlock_luks2(storage: Storage, header: Luks2, key: bytes) -> dict[str, bytes]:
    """The volume keys that passphrase ``key`` gives, by digest: of all digests that segments need.

    Raises LockedImage where no slot takes it.
    """
    wanted = {segment.digest for segment in header.segments}
    found: dict[str, bytes] = {}
    tried = False
    skipped = [f"{storage.name}: {reason}" for reason in header.skipped]
    for candidate in candidates(key):
        for slot, digest in _slots_in_turn(header, wanted):
            if digest in found:
                continue
            try:
                volume_key = _open_slot(storage, slot, candidate)
                kdf = header.digests[digest].kdf
                made = pbkdf2(
                    kdf.hash, volume_key, kdf.salt, kdf.iterations, kdf.length, storage.name
                )
            except UnsupportedFeature as error:
                skipped.append(str(error))  # another slot may do
                continue
            tried = True
            if hmac.compare_digest(made, header.digests[digest].value):
                found[digest] = volume_key
                if len(found) == len(wanted):
                    return found
    if not skipped:
        raise wrong_key(storage.name)
    if not tried:
        raise UnsupportedFeature(skipped[0])
    raise LockedImage(f"{skipped[0]}; none of the other key slots takes the passphrase or key")


def wrong_key(name: str) -> LockedImage:
    """What to raise where a key opens nothing."""
    return LockedImage(f"{name}: the passphrase or key is wrong")


def volume_cipher(
    name: str, cipher: str, mode: str, key: bytes, sector_size: int = 512
) -> SectorCipher:
    """The cipher of an image called ``name``; see `sector_cipher`."""
    try:
        return sector_cipher(cipher, mode, key, sector_size=sector_size)
    except ValueError as error:
        raise FormatError(f"{name}: its LUKS header is damaged: {error}") from None
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{name}: {error}") from error


def _slots_in_turn(header: Luks2, wanted: set[str]) -> Iterator[tuple[Keyslot, str]]:
    """The slots that any passphrase may open, those with priority first, and their digests."""
    for slot in sorted(header.keyslots.values(), key=lambda slot: (-slot.priority, int(slot.id))):
        if slot.priority > 0:
            for digest in sorted(wanted):
                if slot.id in header.digests[digest].keyslots:
                    yield slot, digest


def _open_slot(storage: Storage, slot: Keyslot, key: bytes) -> bytes:
    name = storage.name
    _hash_name(slot.af_hash, name)
    if isinstance(slot.kdf, Argon2):
        stretched = _argon2(slot.kdf, key, slot.area_key_bytes, name)
    else:
        stretched = pbkdf2(
            slot.kdf.hash, key, slot.kdf.salt, slot.kdf.iterations, slot.area_key_bytes, name
        )
    cipher, _, mode = slot.encryption.partition("-")
    opened = volume_cipher(name, cipher, mode, stretched)
    material = bytearray(storage.read(slot.offset, slot.material_bytes))
    opened.decrypt(0, memoryview(material))
    return af_merge(material, slot.key_bytes, slot.stripes, slot.af_hash)


# Functions that are slow on purpose


def pbkdf2(
    digest: str, key: bytes, salt: bytes, iterations: int, length: int, name: str = ""
) -> bytes:
    """PBKDF2 with HMAC; ``name``: whose header asks for it, in messages."""
    if iterations > _MAX_ITERATIONS:
        raise UnsupportedFeature(
            f"{name}: a key slot asks for {iterations} iterations of PBKDF2; "
            f"{_MAX_ITERATIONS} are allowed"
        )
    return hashlib.pbkdf2_hmac(_hash_name(digest, name), key, salt, iterations, length)


def _argon2(kdf: Argon2, key: bytes, length: int, name: str) -> bytes:
    if (
        kdf.memory > _MAX_ARGON2_KIB
        or kdf.memory * kdf.time > _MAX_ARGON2_WORK
        or kdf.cpus > _MAX_ARGON2_LANES
    ):
        raise UnsupportedFeature(
            f"{name}: a key slot asks for {kdf.memory} KiB of memory, {kdf.time} passes and "
            f"{kdf.cpus} threads of Argon2; 4 GiB, 64 passes over 1 GiB and "
            f"{_MAX_ARGON2_LANES} threads are allowed"
        )
    library = require("argon2", "crypt", f"{name}: a key slot of {kdf.kind}")
    low_level = require("argon2.low_level", "crypt", f"{name}: a key slot of {kdf.kind}")
    try:
        made: bytes = low_level.hash_secret_raw(
            key,
            kdf.salt,
            time_cost=kdf.time,
            memory_cost=kdf.memory,
            parallelism=kdf.cpus,
            hash_len=length,
            type=low_level.Type.ID if kdf.kind == "argon2id" else low_level.Type.I,
            version=0x13,
        )
    except library.exceptions.HashingError as error:
        raise UnsupportedFeature(f"{name}: Argon2 with {kdf.memory} KiB: {error}") from error
    return made


def measured_iterations(digest: str, length: int, milliseconds: int) -> int:
    """The iterations of PBKDF2 that take this machine so long, MIN_ITERATIONS at least."""
    count = MIN_ITERATIONS
    while True:
        began = time.perf_counter()
        pbkdf2(digest, bytes(32), bytes(32), count, length)
        spent = time.perf_counter() - began
        if spent > 0.01 or count > 1 << 22:
            wanted = int(count * milliseconds / (spent * 1000))
            return max(MIN_ITERATIONS, min(_MAX_ITERATIONS, wanted))
        count *= 4


def _hash_name(digest: str, name: str = "") -> str:
    """What hashlib calls it; ``name``: of the image, in messages."""
    found = _HASHES.get(digest)
    if found is None:
        raise UnsupportedFeature(f"{name}: the hash {digest!r} of its LUKS header is not supported")
    try:
        hashlib.new(found)
    except ValueError:
        raise UnsupportedFeature(
            f"{name}: the hash {digest} of its LUKS header is not in this Python's OpenSSL"
        ) from None
    return found


# The anti-forensic splitter


def af_merge(material: bytes | bytearray, length: int, stripes: int, digest: str) -> bytes:
    """The key of ``length`` bytes that ``stripes`` stripes of ``material`` make up."""
    diffuse = _diffuser(length, digest)
    state = 0
    for start in range(0, length * (stripes - 1), length):
        state = diffuse(state ^ int.from_bytes(material[start : start + length], "big"))
    last = int.from_bytes(material[length * (stripes - 1) : length * stripes], "big")
    return (state ^ last).to_bytes(length, "big")


def af_split(key: bytes, stripes: int, digest: str, random: Callable[[int], bytes]) -> bytes:
    """``key`` in ``stripes`` stripes: all but the last random, and the last what is missing."""
    length = len(key)
    material = bytearray(random(length * (stripes - 1)))
    missing = af_merge(material + key, length, stripes, digest)
    return bytes(material) + missing


def _diffuser(length: int, digest: str) -> Callable[[int], int]:
    name = _hash_name(digest)
    size = hashlib.new(name).digest_size
    pieces = [
        (number.to_bytes(4, "big"), start, min(length, start + size))
        for number, start in enumerate(range(0, length, size))
    ]

    def diffuse(state: int) -> int:
        data = state.to_bytes(length, "big")
        mixed = [
            hashlib.new(name, number + data[start:end]).digest()[: end - start]
            for number, start, end in pieces
        ]
        return int.from_bytes(b"".join(mixed), "big")

    return diffuse


def refuse_empty(key: bytes, name: str) -> None:
    """Raise OptionError where a new image is to be encrypted with nothing."""
    if not key:
        raise OptionError(f"{name}: the passphrase or key file for the new image is empty")
