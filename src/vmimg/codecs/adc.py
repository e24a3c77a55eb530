"""Apple Data Compression (ADC): what UDCO images of DMG and old NDIF images are made of. Read only:
no system has made such images since Mac OS X 10.2.

A block is a row of runs. The first byte of each says of which kind it is::

    1nnnnnnn                    n + 1 bytes follow as they are
    01nnnnnn dddddddd dddddddd  n + 4 bytes from d + 1 bytes back
    00nnnndd dddddddd           n + 3 bytes from d + 1 bytes back

Bytes are copied one after the other, so a run may read what it wrote itself. Runs are done as
slices here, none byte by byte. Known from libdmg-hfsplus, dmg2img and 7-Zip; Apple published
nothing.
"""

from __future__ import annotations

from vmimg.codecs import Buffer, Codec, Level
from vmimg.errors import FormatError, UnsupportedFeature

__all__ = ["Adc"]


class Adc(Codec):
    """ADC runs; the block ends where they end."""

    name = "adc"

    def compress(self, data: Buffer, level: Level = "default") -> bytes:
        raise UnsupportedFeature("ADC can be read, but not written")

    def decompress(self, data: Buffer, size: int) -> bytearray:
        """See Codec. Runs that make more than ``size`` bytes are an error as well."""
        runs = bytes(data)
        block = bytearray()
        at, end = 0, len(runs)
        while at < end:
            first = runs[at]
            if first & 0x80:
                at += 1
                stop = at + (first & 0x7F) + 1
                if stop > end:
                    raise FormatError("the compressed data ends within a run")
                block += runs[at:stop]
                at = stop
            else:
                try:
                    if first & 0x40:
                        length = (first & 0x3F) + 4
                        distance = (runs[at + 1] << 8 | runs[at + 2]) + 1
                        at += 3
                    else:
                        length = (first >> 2) + 3
                        distance = ((first & 3) << 8 | runs[at + 1]) + 1
                        at += 2
                except IndexError:
                    raise FormatError("the compressed data ends within a run") from None
                start = len(block) - distance
                if start < 0:
                    raise FormatError(f"a run copies from {-start} bytes in front of the block")
                piece = block[start : start + length]
                if distance < length:
                    piece = (piece * (length // distance + 1))[:length]
                block += piece
            if len(block) > size:
                raise FormatError(f"the compressed data does not end after {size} bytes")
        if len(block) != size:
            raise FormatError(f"the compressed data ends after {len(block)} of {size} bytes")
        return block
