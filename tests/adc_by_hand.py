"""A packer of Apple Data Compression, which no program makes any more: see `adc`."""

from __future__ import annotations

import struct

__all__ = ["adc"]


def adc(data: bytes) -> bytes:
    """ADC, with runs of all three kinds where there is something to repeat."""
    packed = bytearray()
    at = plain = 0

    def flush(until: int) -> None:
        for low in range(plain, until, 128):
            part = data[low : min(until, low + 128)]
            packed.append(0x80 | len(part) - 1)
            packed.extend(part)

    while at < len(data):
        length = distance = 0
        for back in (1, 3, 512, 1024, 1500, 4096, 65536):
            count = 0
            while (
                back <= at
                and count < 67
                and at + count < len(data)
                and data[at + count] == data[at + count - back]
            ):
                count += 1
            if count > length:
                length, distance = count, back
        if length < 4:
            at += 1
            continue
        flush(at)
        if distance <= 1024:
            length = min(length, 18)
            packed += bytes([length - 3 << 2 | distance - 1 >> 8, distance - 1 & 0xFF])
        else:
            packed += struct.pack(">BH", 0x40 | length - 4, distance - 1)
        at += length
        plain = at
    flush(len(data))
    return bytes(packed)
