"""Growing images of Bochs, made by hand: no program at hand makes them.

Written from the structures in Bochs's hdimage.h, by offset, and with nothing of vmimg's own:

    0     "Bochs Virtual HD Image" (32), "Redolog" (16), "Growing" (16), version, header (4 each)
    72    catalog, bitmap, extent (4 each); in version 2 timestamp (4); disk (8)
    512   catalog: a place for each extent (4 each)
    then  places: a bitmap in whole sectors, bit 0 for the first sector, and the extent

A new image of bximage has all places free, and the file ends behind the catalog.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

TYPE, SUBTYPE, VERSION, HEADER = 32, 48, 64, 68
CATALOG, BITMAP, EXTENT, TIMESTAMP = 72, 76, 80, 84
DISK_1, DISK_2 = 84, 88

FREE = 0xFFFFFFFF
V1, V2 = 0x00010000, 0x00020000


@dataclass
class Image:
    """What an image shall be. ``places``: an entry for each extent; ``written``: the share of the
    sectors of an extent that have data. ``seed`` makes data and bitmaps.
    """

    size: int
    places: Sequence[int]
    version: int = V2
    extent: int = 4096
    bitmap: int = 1
    """Bytes, not yet rounded up to a sector."""
    subtype: bytes = b"Growing"
    header: int = 512
    written: float = 0.6
    more_entries: int = 0
    seed: int = 1

    @property
    def data_start(self) -> int:
        return self.header + 4 * (len(self.places) + self.more_entries)

    @property
    def stride(self) -> int:
        return -(-self.bitmap // 512) * 512 + self.extent

    def build(self) -> tuple[bytes, bytes]:
        """The file, and what the disk reads as."""
        dice = random.Random(self.seed)
        entries = [*self.places, *[FREE] * self.more_entries]
        used = [place for place in self.places if place != FREE]
        file = bytearray(self.data_start + self.stride * (max(used, default=-1) + 1))

        def put(offset: int, width: int, *numbers: int) -> None:
            for number in numbers:
                file[offset : offset + width] = number.to_bytes(width, "little")
                offset += width

        for offset, text in ((0, b"Bochs Virtual HD Image"), (TYPE, b"Redolog")):
            file[offset : offset + len(text)] = text
        file[SUBTYPE : SUBTYPE + len(self.subtype)] = self.subtype
        put(VERSION, 4, self.version, self.header, len(entries), self.bitmap, self.extent)
        put(DISK_1 if self.version == V1 else DISK_2, 8, self.size)
        put(self.header, 4, *entries)
        content = bytearray(len(self.places) * self.extent)
        for number, place in enumerate(self.places):
            if place == FREE:
                continue
            start = self.data_start + place * self.stride
            data = start + self.stride - self.extent
            for sector in range(self.extent // 512):
                piece = dice.randbytes(512)
                # What was never written is not zeros there.
                file[data + sector * 512 : data + sector * 512 + 512] = piece
                if dice.random() < self.written:
                    file[start + sector // 8] |= 1 << sector % 8
                    at = number * self.extent + sector * 512
                    content[at : at + 512] = piece
        return bytes(file), bytes(content[: self.size // 512 * 512])
