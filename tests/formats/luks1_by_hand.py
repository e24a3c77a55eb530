"""LUKS 1 volumes made by hand, to look at and not to unlock: the key material is noise.

Written from the LUKS on-disk format 1.2.3, by offset, and with nothing of vmimg's own::

    0 header (592) | 4096 key material of slot 0 | ... slot 7 | payload
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

__all__ = ["SLOTS", "SLOT_BYTES", "Volume"]

# Where fields are in the file.
VERSION, CIPHER, MODE, HASH = 6, 8, 40, 72
PAYLOAD, KEY_BYTES, ITERATIONS, SLOTS = 104, 108, 164, 208
SLOT_BYTES = 48
# In a slot.
SLOT_ITERATIONS, SLOT_OFFSET, SLOT_STRIPES = 4, 40, 44

ACTIVE, FREE = 0x00AC71F3, 0x0000DEAD


@dataclass
class Volume:
    """What a volume shall be. ``content``: bytes of its payload."""

    cipher: bytes = b"aes"
    mode: bytes = b"xts-plain64"
    key_bytes: int = 16
    content: int = 8192

    @property
    def step(self) -> int:
        """Bytes from slot to slot."""
        return -(-self.key_bytes * 4000 // 4096) * 4096

    @property
    def payload(self) -> int:
        return 4096 + 8 * self.step

    def slot(self, number: int) -> int:
        """Where the fields of a slot are."""
        return SLOTS + number * SLOT_BYTES

    def build(self) -> bytearray:
        dice = random.Random(1)
        head = b"LUKS\xba\xbe" + struct.pack(
            ">H32s32s32sII20s32sI40s",
            1, self.cipher, self.mode, b"sha256", self.payload // 512, self.key_bytes,
            dice.randbytes(20), dice.randbytes(32), 1000,
            b"01234567-89ab-cdef-0123-456789abcdef",
        )  # fmt: skip
        for number in range(8):
            offset = (4096 + number * self.step) // 512
            state = (ACTIVE, 100000) if number == 0 else (FREE, 0)
            head += struct.pack(">II32sII", *state, dice.randbytes(32), offset, 4000)
        file = bytearray(head.ljust(4096, b"\0")) + dice.randbytes(self.step)
        return file.ljust(self.payload, b"\0") + dice.randbytes(self.content)
