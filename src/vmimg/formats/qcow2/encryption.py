"""How a qcow2 image is encrypted: described, and opened with a key. No numpy to describe it.

LUKS: a LUKS 1 header with its key slots lies in clusters that a header extension names, and the IV
of a sector counts its place in the file. The old AES: 128 bits in CBC mode, the key is the
passphrase itself, the IV counts the guest's sectors, and nothing tells a wrong passphrase. Metadata
and compressed clusters are not encrypted.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

from vmimg.errors import FormatError
from vmimg.formats.luks.luks1 import describe_luks1
from vmimg.formats.luks.structures import HEADER_BYTES
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.storage.base import Storage
from vmimg.storage.slice import SliceStorage

if TYPE_CHECKING:
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.keys import Keys

__all__ = ["aes_cipher", "describe_encryption", "open_cipher", "sealed_cipher"]

_AES_KEY_BYTES: Final = 16


def describe_encryption(storage: Storage, header: Qcow2Header) -> dict[str, Any]:
    """Keys and values of qemu-img's "encrypt". Raises FormatError for a damaged LUKS header."""
    if header.crypt_method == s.CRYPT_AES:
        return {"format": "aes"}
    luks = _luks_header(storage, header)
    try:
        return describe_luks1(luks.read(0, HEADER_BYTES))
    except FormatError as error:
        raise FormatError(f"{luks.name}: {error}") from None


def open_cipher(storage: Storage, header: Qcow2Header, keys: Keys | None) -> DataCipher | None:
    """What decrypts the data; None where it is not encrypted. With ``keys`` None, a sealed one.

    Raises LockedImage for a key that is wrong, and FormatError for a damaged LUKS header.
    """
    if not header.crypt_method:
        return None
    if keys is None:
        return sealed_cipher(storage.name, header)
    if header.crypt_method == s.CRYPT_AES:
        return aes_cipher(storage.name, keys(storage.name))
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.luks.keyslots import unlock_luks1, volume_cipher
    from vmimg.formats.luks.luks1 import read_luks1

    luks = _luks_header(storage, header)
    found = read_luks1(luks)
    key = unlock_luks1(luks, found, keys(storage.name))
    cipher = volume_cipher(storage.name, found.cipher, found.mode, key)
    return DataCipher(storage.name, cipher, "place")


def sealed_cipher(name: str, header: Qcow2Header) -> DataCipher:
    """The cipher of those who have no key to the image called ``name``."""
    from vmimg.disk.crypt import DataCipher

    return DataCipher(name, None, "virtual" if header.crypt_method == s.CRYPT_AES else "place")


def aes_cipher(name: str, passphrase: bytes) -> DataCipher:
    """The old AES: the first 16 bytes of ``passphrase`` are the key, zeros what is missing."""
    from vmimg.codecs.ciphers import sector_cipher
    from vmimg.disk.crypt import DataCipher

    key = passphrase.split(b"\0", 1)[0][:_AES_KEY_BYTES].ljust(_AES_KEY_BYTES, b"\0")
    return DataCipher(name, sector_cipher("aes", "cbc-plain64", key), "virtual")


def _luks_header(storage: Storage, header: Qcow2Header) -> SliceStorage:
    """The LUKS header and its key slots, as far as the file goes. Raises FormatError."""
    data = header.extension(s.EXT_ENCRYPTION)
    if data is None or len(data) != ctypes.sizeof(s.EncryptionExtension):
        raise FormatError(
            f"{storage.name}: encrypted with LUKS, but the header extension that says where its "
            "LUKS header lies is missing or damaged"
        )
    place = s.EncryptionExtension.from_buffer_copy(data)
    if place.offset % header.cluster_size or place.length < HEADER_BYTES:
        raise FormatError(
            f"{storage.name}: a LUKS header of {place.length} bytes at offset {place.offset} "
            "is not possible"
        )
    if place.offset + HEADER_BYTES > storage.size:
        raise FormatError(
            f"{storage.name}: the LUKS header at offset {place.offset} lies behind the end of the "
            f"file ({storage.size}): it is truncated or damaged"
        )
    length = min(int(place.length), storage.size - int(place.offset))
    name = f"{storage.name}: LUKS header at offset {place.offset}"
    return SliceStorage(storage, int(place.offset), length, name)
