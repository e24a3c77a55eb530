"""What a qcow2 image says of its encryption: recognised and reported, not decrypted. No numpy."""

from __future__ import annotations

import ctypes
from typing import Any

from vmimg.errors import FormatError
from vmimg.formats.luks import HEADER_BYTES, describe_luks1
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.storage.base import Storage

__all__ = ["describe_encryption"]


def describe_encryption(storage: Storage, header: Qcow2Header) -> dict[str, Any]:
    """Keys and values of qemu-img's "encrypt". Raises FormatError for a damaged LUKS header."""
    if header.crypt_method == s.CRYPT_AES:
        return {"format": "aes"}
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
    try:
        return describe_luks1(storage.read(place.offset, HEADER_BYTES))
    except FormatError as error:
        raise FormatError(f"{storage.name}: at offset {place.offset}: {error}") from None
