"""QEMU's legacy AES encryption, as qcow versions 1 and 2 know it.

AES-128 in CBC mode, each sector of 512 bytes with its number on the disk as the IV. The key is the
passphrase: its first 16 bytes, filled up with zeros. Nothing in the image tells whether it is the
right one. Compressed clusters are not encrypted.

Spec: QEMU crypto/block-qcow.c. Imports codecs.
"""

from __future__ import annotations

from typing import Final

from vmimg.disk.crypt import DataCipher
from vmimg.formats.keys import Keys

__all__ = ["legacy_aes"]

_KEY_BYTES: Final = 16


def legacy_aes(name: str, keys: Keys | None) -> DataCipher:
    """The cipher of the image called ``name``, sealed where ``keys`` is None.

    A newline behind the passphrase counts as QEMU counts it, that of a key file: there is nothing
    by which one could tell whether it belongs to it. Raises LockedImage where there is no key.
    """
    if keys is None:
        return DataCipher(name, None, "virtual")
    from vmimg.codecs.ciphers import sector_cipher

    # A string of C ends at the first zero byte.
    key = keys(name).partition(b"\0")[0][:_KEY_BYTES].ljust(_KEY_BYTES, b"\0")
    return DataCipher(name, sector_cipher("aes", "cbc-plain64", key), "virtual")
