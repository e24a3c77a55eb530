"""Encrypted DMG images, version 2 ("encrcdsa"): the header, the keys, and the decrypted view.

::

    0            EncryptedHeader, then a KeyPointer for each copy of the keys
    ...          the copies: wrapped by a passphrase, a certificate or a key bag
    dataoffset   the image, or the bare disk, in blocks of 512 or 4096 bytes

A passphrase goes through PBKDF2 (HMAC-SHA-1) to a key of Triple DES, which wraps an AES key, a key
of HMAC-SHA-1, and "CKIE" to know them by. Block n is encrypted by AES-CBC; its initialisation
vector is the beginning of the HMAC of n, in four bytes. Version 1 has its header at the end, and no
AES-256; no system has made it since Mac OS X 10.3, and it is refused by name.

Known from vfdecrypt (Weinmann, Appelbaum, Fromme) and dmgwiz; Apple published nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from vmimg.errors import FormatError, LockedImage, UnsupportedFeature
from vmimg.extras import require
from vmimg.formats.dmg import structures as s
from vmimg.formats.keys import Keys, candidates
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["DecryptedStorage", "EncryptedImage", "is_encrypted", "read_encrypted", "unlock"]

_PURPOSE: Final = "encrypted DMG images"
_AES_BLOCK: Final = 16
_HMAC_KEY: Final = 20
_WRAPPING_KEY: Final = 24
_CHECK: Final = b"CKIE\0"
_MAX_KEYS: Final = 64
# hdiutil asks for what takes its Mac half a second; this is some seconds.
_MAX_ITERATIONS: Final = 10_000_000
# Decrypted at one time.
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One copy of the keys that a passphrase opens."""

    iterations: int
    salt: bytes
    iv: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class EncryptedImage:
    """The header's numbers, checked against the file. Sizes in bytes."""

    key_bits: int
    block_size: int
    data_size: int
    data_offset: int
    uuid: UUID
    keys: tuple[s.KeyPointer, ...]


def is_encrypted(storage: Storage) -> bool:
    """Whether ``storage`` is an encrypted image of any version."""
    if storage.size < s.ENCRYPTED_SIZE:
        return False
    length = len(s.ENCRYPTED)
    return (
        storage.read(0, length) == s.ENCRYPTED
        or storage.read(storage.size - length, length) == s.ENCRYPTED_1
    )


def read_encrypted(storage: Storage) -> EncryptedImage:
    """What the header of an encrypted image says. Raises FormatError and UnsupportedFeature."""
    name = storage.name
    header = s.EncryptedHeader.from_buffer_copy(storage.read(0, s.ENCRYPTED_SIZE))
    if header.signature != s.ENCRYPTED:
        raise UnsupportedFeature(
            f"{name}: is an encrypted DMG of version 1 (cdsaencr); convert it on a Mac"
        )
    if header.version != 2:
        raise UnsupportedFeature(f"{name}: is an encrypted DMG of version {header.version}")
    if header.key_bits not in (128, 256):
        raise UnsupportedFeature(f"{name}: is encrypted with a key of {header.key_bits} bits")
    block = header.blocksize
    if block < s.SECTOR or block > 1 << 20 or block & (block - 1):
        raise FormatError(f"{name}: is encrypted in blocks of {block} bytes")
    # The last block is whole in the file, however much of it counts.
    stored = -(-header.datasize // block) * block
    if stored // block > 0xFFFF_FFFF:
        raise FormatError(f"{name}: says that {header.datasize} bytes are encrypted")
    if header.dataoffset < s.ENCRYPTED_SIZE or header.dataoffset + stored > storage.size:
        raise FormatError(
            f"{name}: its encrypted data is said to be {header.datasize} bytes at "
            f"{header.dataoffset}, but the file ends at {storage.size}: it is truncated or damaged"
        )
    end = s.ENCRYPTED_SIZE + header.keys * s.POINTER_SIZE
    if header.keys > _MAX_KEYS or end > storage.size:
        raise FormatError(f"{name}: says that it has {header.keys} keys")
    pointers = storage.read(s.ENCRYPTED_SIZE, header.keys * s.POINTER_SIZE)
    return EncryptedImage(
        key_bits=header.key_bits,
        block_size=block,
        data_size=header.datasize,
        data_offset=header.dataoffset,
        uuid=UUID(bytes=bytes(header.uuid)),
        keys=tuple(
            s.KeyPointer.from_buffer_copy(pointers, place)
            for place in range(0, len(pointers), s.POINTER_SIZE)
        ),
    )


def unlock(storage: Storage, image: EncryptedImage, keys: Keys) -> DecryptedStorage:
    """The decrypted view of ``storage``, which owns it; LockedImage for a wrong passphrase."""
    wrapped = list(_passphrase_keys(storage, image))
    if not wrapped:
        raise UnsupportedFeature(
            f"{storage.name}: is encrypted for certificates only; a passphrase does not open it"
        )
    require("cryptography", "dmg", _PURPOSE)
    for passphrase in candidates(keys(storage.name)):
        for one in wrapped:
            opened = _unwrap(one, passphrase, image.key_bits // 8)
            if opened is not None:
                view = DecryptedStorage(storage, image, *opened)
                _refuse_sparse(view)
                return view
    raise LockedImage(f"{storage.name}: the passphrase or key is wrong")


class DecryptedStorage(ReadOnlyView):
    """What is in an encrypted image, decrypted as it is read. Owns ``base``. Read only."""

    def __init__(
        self, base: Storage, image: EncryptedImage, aes_key: bytes, hmac_key: bytes
    ) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        super().__init__(base, image.data_size)
        self._offset = image.data_offset
        self._block = image.block_size
        self._hmac_key = hmac_key
        # CBC decrypts each cipher block by itself and adds the one before: in ECB all of a piece is
        # one call, whatever the number of its vectors.
        self._cipher = Cipher(algorithms.AES(aes_key), modes.ECB())

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self._check(offset, len(buffer))
        block = self._block
        position = offset
        while position < end:
            first = position // block
            last = min(-(-end // block), first + max(1, _PIECE // block))
            plain = self._blocks(first, last)
            stop = min(end, last * block)
            buffer[position - offset : stop - offset] = plain[
                position - first * block : stop - first * block
            ]
            position = stop

    def _blocks(self, first: int, last: int) -> memoryview:
        """Blocks ``first`` to ``last``, decrypted."""
        import hmac

        import numpy as np

        block = self._block
        length = (last - first) * block
        stored = bytearray(length)
        self._base.read_into(self._offset + first * block, memoryview(stored))
        decryptor = self._cipher.decryptor()
        plain = np.frombuffer(decryptor.update(stored), np.uint64).copy()
        before = np.empty(length // 8, np.uint64)
        before[2:] = np.frombuffer(stored, np.uint64)[:-2]
        vectors = b"".join(
            hmac.digest(self._hmac_key, number.to_bytes(4, "big"), "sha1")[:_AES_BLOCK]
            for number in range(first, last)
        )
        before.reshape(-1, block // 8)[:, :2] = np.frombuffer(vectors, np.uint64).reshape(-1, 2)
        plain ^= before
        return plain.data.cast("B")


def _passphrase_keys(storage: Storage, image: EncryptedImage) -> Iterator[WrappedKey]:
    for pointer in image.keys:
        if pointer.type != s.KEY_PASSPHRASE:
            continue
        place, size = pointer.offset, s.PASSPHRASE_KEY_SIZE
        if pointer.length < size or place + pointer.length > storage.size:
            raise FormatError(
                f"{storage.name}: a key is said to be {pointer.length} bytes at {place}"
            )
        key = s.PassphraseKey.from_buffer_copy(storage.read(place, size))
        length = key.encrypted_keyblob_size
        if key.kdf_salt_len > 32 or key.blob_enc_iv_size > 32 or key.blob_enc_iv_size < 8:
            raise FormatError(f"{storage.name}: a key has a salt or vector of an impossible length")
        if not 0 < key.kdf_iteration_count <= _MAX_ITERATIONS:
            raise FormatError(
                f"{storage.name}: a key asks for {key.kdf_iteration_count} iterations of PBKDF2"
            )
        if not length or length % 8 or length > min(1024, pointer.length - size):
            raise FormatError(f"{storage.name}: a wrapped key is said to have {length} bytes")
        yield WrappedKey(
            iterations=key.kdf_iteration_count,
            salt=bytes(key.kdf_salt[: key.kdf_salt_len]),
            iv=bytes(key.blob_enc_iv[:8]),
            blob=storage.read(place + size, length),
        )


def _unwrap(key: WrappedKey, passphrase: bytes, aes_length: int) -> tuple[bytes, bytes] | None:
    """(AES key, HMAC key); None where the passphrase is wrong."""
    import hashlib

    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    triple_des = _triple_des()
    derived = hashlib.pbkdf2_hmac("sha1", passphrase, key.salt, key.iterations, _WRAPPING_KEY)
    decryptor = Cipher(triple_des(derived), modes.CBC(key.iv)).decryptor()
    plain = decryptor.update(key.blob) + decryptor.finalize()
    padding = plain[-1]
    if not 1 <= padding <= 8 or plain[-padding:] != bytes([padding]) * padding:
        return None
    plain = plain[:-padding]
    if len(plain) != aes_length + _HMAC_KEY + len(_CHECK) or not plain.endswith(_CHECK):
        return None
    return plain[:aes_length], plain[aes_length : aes_length + _HMAC_KEY]


def _triple_des() -> Any:
    try:
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    except ImportError:  # before 43
        from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES
    return TripleDES


def _refuse_sparse(view: DecryptedStorage) -> None:
    if view.size >= 4 and view.read(0, 4) == s.SPARSE_IMAGE:
        raise UnsupportedFeature(
            f"{view.name}: a sparse image (.sparseimage) is in it; convert it on a Mac"
        )
