"""A new LUKS 1 volume: its random key, its header, and one slot for the passphrase.

Used for bare volumes and for those inside qcow2. What is random here (keys, salts, the identifier)
is meant to differ from run to run: two images with the same key would tell on each other.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from vmimg.disk.crypt import DataCipher
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.keys import Keys
from vmimg.formats.luks.keyslots import (
    MIN_ITERATIONS,
    af_split,
    measured_iterations,
    pbkdf2,
    refuse_empty,
    volume_cipher,
)
from vmimg.formats.luks.luks1 import SLOTS, STRIPES, Luks1, Slot1, slot_offsets

__all__ = ["NewVolume", "new_volume"]


def new_volume(
    options: Mapping[str, OptionValue], name: str, keys: Keys | None, prefix: str = ""
) -> NewVolume:
    """The volume that ``options`` (their names with ``prefix`` in front) ask for.

    ``keys`` None: one of which only sizes are wanted. Raises OptionError.
    """

    def option(key: str, default: str) -> str:
        return str(options.get(prefix + key, default))

    algorithm, _, bits = option("cipher-alg", "aes-256").partition("-")
    chaining, generator = option("cipher-mode", "xts"), option("ivgen-alg", "plain64")
    if generator == "essiv":
        generator += ":" + option("ivgen-hash-alg", "sha256")
    elif prefix + "ivgen-hash-alg" in options:
        raise OptionError(f"option {prefix}ivgen-hash-alg is for the IVs of essiv only")
    if chaining != "xts" and bits == "192":
        # 4000 stripes of 24 bytes are no whole sectors; QEMU ends in an assertion, reading them.
        raise OptionError(f"{prefix}cipher-alg=aes-192 needs {prefix}cipher-mode=xts")
    passphrase = None
    if keys is not None:
        passphrase = keys(name)
        refuse_empty(passphrase, name)
    return NewVolume(
        name,
        algorithm,
        f"{chaining}-{generator}",
        option("hash-alg", "sha256"),
        int(bits) // 8 * (2 if chaining == "xts" else 1),
        int(options.get(prefix + "iter-time", 2000)),
        passphrase,
    )


@dataclass(frozen=True)
class NewVolume:
    """Everything is drawn and made once, when first asked for: a twin shares it.

    ``iter_time`` in milliseconds; ``passphrase`` None: sizes only.
    """

    name: str
    cipher: str
    mode: str
    hash: str
    key_bytes: int
    iter_time: int
    passphrase: bytes | None = field(repr=False)

    @property
    def payload_offset(self) -> int:
        """Bytes of header and key slots."""
        return slot_offsets(self.key_bytes)[1]

    @cached_property
    def key(self) -> bytes:
        """The volume key."""
        return secrets.token_bytes(self.key_bytes)

    def data_cipher(self, counts: str) -> DataCipher:
        """See DataCipher; sealed where there is no passphrase."""
        cipher = None
        if self.passphrase is not None:
            cipher = volume_cipher(self.name, self.cipher, self.mode, self.key)
        return DataCipher(self.name, cipher, "place" if counts == "place" else "virtual")

    @cached_property
    def parts(self) -> tuple[tuple[int, bytes], ...]:
        """(offset, bytes) of the header and of the key material; nothing without a passphrase."""
        if self.passphrase is None:
            return ()
        offsets, payload = slot_offsets(self.key_bytes)
        iterations = measured_iterations(self.hash, self.key_bytes, self.iter_time)
        slot = Slot1(True, offsets[0], STRIPES, iterations, secrets.token_bytes(32))
        stretched = pbkdf2(self.hash, self.passphrase, slot.salt, iterations, self.key_bytes)
        salt, count = secrets.token_bytes(32), max(MIN_ITERATIONS, iterations // 8)
        header = Luks1(
            cipher=self.cipher,
            mode=self.mode,
            hash=self.hash,
            payload_offset=payload,
            key_bytes=self.key_bytes,
            digest=pbkdf2(self.hash, self.key, salt, count, 20),
            digest_salt=salt,
            digest_iterations=count,
            uuid=str(uuid.uuid4()),
            slots=(slot, *(Slot1(False, offset) for offset in offsets[1:])),
        )
        material = bytearray(header.material_bytes(slot))
        split = af_split(self.key, STRIPES, self.hash, secrets.token_bytes)
        material[: len(split)] = split
        cipher = volume_cipher(self.name, self.cipher, self.mode, stretched)
        cipher.encrypt(0, memoryview(material))
        assert len(header.slots) == SLOTS
        return (0, header.pack()), (slot.offset, bytes(material))
