"""CRC-32 (ISO 3309, zlib's), of bytes, of zeros that nobody reads, and of parts put together.

By ISA-L, seven times as fast as zlib. What is joined was computed in any order, in any thread.
"""

from __future__ import annotations

from functools import cache

from isal import isal_zlib

__all__ = ["crc32", "crc32_join", "crc32_zeros"]


def crc32(data: bytes | bytearray | memoryview) -> int:
    """The checksum of ``data``."""
    return isal_zlib.crc32(data)


def crc32_join(first: int, second: int, length: int) -> int:
    """The checksum of bytes whose first part has the checksum ``first``, and whose second part, of
    ``length`` bytes, has ``second``.
    """
    return isal_zlib.crc32_combine(first, second, length)


def crc32_zeros(length: int) -> int:
    """The checksum of so many zeros, in time that grows with the number of their digits."""
    crc, power = 0, 0
    while length:
        if length & 1:
            crc = isal_zlib.crc32_combine(crc, _zeros(power), 1 << power)
        length >>= 1
        power += 1
    return crc


@cache
def _zeros(power: int) -> int:
    """The checksum of 2 to the ``power`` zeros."""
    if not power:
        return isal_zlib.crc32(b"\0")
    half = _zeros(power - 1)
    return isal_zlib.crc32_combine(half, half, 1 << (power - 1))
