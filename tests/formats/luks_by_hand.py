"""LUKS 2 volumes made from the specification, with nothing of vmimg: LUKS2 on-disk format 1.1.

::

    0 binary header, JSON | 16384 the same | 32768 key material of slot 0, slot 1 | 1 MiB segments
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import struct
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = [
    "AREA", "HEADER", "KEY", "PASSPHRASE", "PAYLOAD", "SECOND", "add_slot", "headers", "metadata",
    "volume", "xts",
]  # fmt: skip

PASSPHRASE = b"secret"
KEY = random.Random(64).randbytes(64)
HEADER = 16384
AREA = 258048
PAYLOAD = 1 << 20
SECOND = b"SKUL\xba\xbe"
STRIPES = 4000


def xts(
    key: bytes, data: bytes, sector: int = 0, size: int = 512, *, decrypt: bool = False
) -> bytes:
    """AES-XTS, sector by sector; ``sector`` and the IVs count units of 512 bytes."""
    out = []
    for start in range(0, len(data), size):
        iv = (sector + start // 512).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(key), modes.XTS(iv))
        worker = cipher.decryptor() if decrypt else cipher.encryptor()
        out.append(worker.update(data[start : start + size]))
    return b"".join(out)


def metadata(sector_size: int = 512, iterations: int = 1000) -> dict[str, Any]:
    """The JSON of a volume with one segment up to the end, and no key slot."""
    salt = bytes(range(32))
    digest = hashlib.pbkdf2_hmac("sha256", KEY, salt, iterations, 32)
    return {
        "keyslots": {},
        "tokens": {},
        "segments": {
            "0": {
                "type": "crypt", "offset": str(PAYLOAD), "size": "dynamic", "iv_tweak": "0",
                "encryption": "aes-xts-plain64", "sector_size": sector_size,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2", "keyslots": [], "segments": ["0"], "hash": "sha256",
                "iterations": iterations, "salt": text(salt), "digest": text(digest),
            }
        },
        "config": {"json_size": str(HEADER - 4096), "keyslots_size": str(PAYLOAD - 2 * HEADER)},
    }  # fmt: skip


def add_slot(
    root: dict[str, Any],
    file: bytearray,
    number: int = 0,
    passphrase: bytes = PASSPHRASE,
    key: bytes = KEY,
    **more: object,
) -> None:
    """A key slot for ``passphrase``: in ``root``, and its material in ``file``."""
    offset, salt = 2 * HEADER + number * AREA, bytes([number]) * 32
    root["keyslots"][str(number)] = {
        "type": "luks2", "key_size": len(key),
        "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
        "area": {
            "type": "raw", "offset": str(offset), "size": str(AREA),
            "encryption": "aes-xts-plain64", "key_size": 64,
        },
        "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": text(salt)},
    } | more  # fmt: skip
    root["digests"]["0"]["keyslots"].append(str(number))
    stretched = hashlib.pbkdf2_hmac("sha256", passphrase, salt, 1000, 64)
    material = xts(stretched, split(key))
    file[offset : offset + len(material)] = material


@cache
def split(key: bytes) -> bytes:
    """``key`` as stripes; LUKS on-disk format 1.2.3, 2.4."""
    dice, state, stripes = random.Random(7), bytes(len(key)), []
    for _ in range(STRIPES - 1):
        stripes.append(dice.randbytes(len(key)))
        mixed = bytes(a ^ b for a, b in zip(state, stripes[-1], strict=True))
        state = b"".join(
            hashlib.sha256(struct.pack(">I", n) + mixed[n * 32 : n * 32 + 32]).digest()
            for n in range(len(key) // 32)
        )
    return b"".join(stripes) + bytes(a ^ b for a, b in zip(state, key, strict=True))


def headers(
    root: dict[str, Any] | bytes, *, seqid: int = 3, second_seqid: int | None = None
) -> bytes:
    """Both headers with that JSON, 32 KiB."""
    said = root if isinstance(root, bytes) else json.dumps(root).encode()
    area = said.ljust(HEADER - 4096, b"\0")
    out = b""
    for magic, offset, number in (
        (b"LUKS\xba\xbe", 0, seqid),
        (SECOND, HEADER, seqid if second_seqid is None else second_seqid),
    ):
        binary = struct.pack(
            ">6sHQQ48s32s64s40s48sQ184x64x",
            magic, 2, HEADER, number, b"by hand", b"sha256", bytes([1 + bool(offset)]) * 64,
            b"01234567-89ab-cdef-0123-456789abcdef", b"", offset,
        ).ljust(4096, b"\0")  # fmt: skip
        checksum = hashlib.sha256(binary + area).digest()
        out += binary[:448] + checksum + binary[448 + 32 :] + area
    return out


def volume(content: bytes, *, sector_size: int = 512) -> tuple[bytearray, dict[str, Any]]:
    """A volume that holds ``content`` and opens with PASSPHRASE, and the JSON in its headers."""
    root, file = metadata(sector_size), bytearray(PAYLOAD)
    add_slot(root, file)
    file[: 2 * HEADER] = headers(root)
    file += xts(KEY, content, 0, sector_size)
    return file, copy.deepcopy(root)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()
