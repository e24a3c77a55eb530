"""COW images made by hand: no program that makes QEMU's is left, since QEMU dropped the format in
2015, and those of User Mode Linux are another matter.

Written from the structure in QEMU's block/cow.c (cow_header_v2), by offset, and with nothing of
vmimg's own. It was written as the compiler laid it out:

    0      magic, version, backing_file (1024), mtime
    1036   64 bits: 4 bytes of padding, size (8), sectorsize, 4 bytes of padding: 1056 in all
    1036   32 bits: size (8), sectorsize: 1048 in all

The bitmap follows, a bit per sector, the first in the lowest bit; then, on the next multiple of
512, the sectors.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Collection
from dataclasses import dataclass

SECTOR = 512

# Where fields are in the file.
VERSION, NAME, MTIME = 4, 8, 1032
SIZE_64, SECTORSIZE_64, HEADER_64 = 1040, 1048, 1056
SIZE_32, SECTORSIZE_32, HEADER_32 = 1036, 1044, 1048


@dataclass
class Image:
    """What an image shall be. ``present``: the sectors that are there."""

    size: int
    present: Collection[int] = ()
    backing: bytes = b""
    mtime: int = 0
    bits: int = 64
    seed: int = 1

    @property
    def header(self) -> int:
        return HEADER_64 if self.bits == 64 else HEADER_32

    @property
    def data(self) -> int:
        """Where sector 0 is."""
        return -(-(self.header + -(-self.size // SECTOR // 8)) // SECTOR) * SECTOR

    def build(self) -> bytes:
        head = b"OOOM" + struct.pack(">I1024sI", 2, self.backing, self.mtime)
        if self.bits == 64:
            head += struct.pack(">IQII", 0, self.size, SECTOR, 0)
        else:
            head += struct.pack(">QI", self.size, SECTOR)
        bitmap = bytearray(-(-self.size // SECTOR // 8))
        for sector in self.present:
            bitmap[sector // 8] |= 1 << sector % 8
        file = bytearray(head + bitmap)
        for sector, content in self.sectors().items():
            start = self.data + sector * SECTOR
            file.extend(bytes(max(0, start + SECTOR - len(file))))
            file[start : start + SECTOR] = content
        return bytes(file)

    def sectors(self) -> dict[int, bytes]:
        """What is in the sectors that are there."""
        dice = random.Random(self.seed)
        return {sector: dice.randbytes(SECTOR) for sector in sorted(self.present)}

    def flat(self, parent: bytes = b"") -> bytes:
        """What the disk reads as, above a parent or above nothing."""
        disk = bytearray(parent[: self.size].ljust(self.size, b"\0"))
        for sector, content in self.sectors().items():
            disk[sector * SECTOR : (sector + 1) * SECTOR] = content
        return bytes(disk)
