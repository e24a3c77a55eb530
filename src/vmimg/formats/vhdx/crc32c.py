"""CRC-32C (Castagnoli), without a library for it.

Structures of VHDX are a few bytes in front of zeros up to 4 or 64 KiB, so zeros at the end are not
walked over: running over n bytes of zeros multiplies the register by x to the 8n, modulo the
polynomial. What is left goes eight bytes at a time through tables in plain Python (some 10 MB/s);
whole logs go through numpy, all sectors at once (`sector_remainders`).

A *remainder* is the register after the data when it began at zero: without what makes a CRC depend
on its length, remainders of pieces can be put together.
"""

from __future__ import annotations

import sys
from array import array
from functools import cache
from typing import TYPE_CHECKING, Final

from vmimg.storage.base import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["combine", "crc32c", "finished", "remainder", "sector_remainders"]

_POLYNOMIAL: Final = 0x82F63B78
"""Bit-reversed: bit 31 stands for x to the 0; x to the 32 is left out."""
_ONES: Final = 0xFFFF_FFFF
_ONE: Final = 0x8000_0000
"""x to the 0, bit-reversed."""

# Lanes of this many bytes run beside each other in numpy.
_LANE: Final = 64


def crc32c(data: Buffer) -> int:
    """The CRC-32C of ``data``."""
    return finished(remainder(data), len(data))


def finished(value: int, length: int) -> int:
    """The CRC-32C of ``length`` bytes whose remainder is ``value``."""
    return value ^ _multiply(_ONES, _power(length)) ^ _ONES


def remainder(data: Buffer) -> int:
    """The remainder of ``data``, in plain Python."""
    head = bytes(data).rstrip(b"\0")
    zeros = len(data) - len(head)
    # Zeros in front change no remainder: they fill up the first word.
    words = array("Q", bytes(-len(head) % 8) + head)
    if sys.byteorder == "big":
        words.byteswap()
    t0, t1, t2, t3, t4, t5, t6, t7 = _tables()
    crc = 0
    for word in words:
        word ^= crc
        crc = (
            t7[word & 255]
            ^ t6[word >> 8 & 255]
            ^ t5[word >> 16 & 255]
            ^ t4[word >> 24 & 255]
            ^ t3[word >> 32 & 255]
            ^ t2[word >> 40 & 255]
            ^ t1[word >> 48 & 255]
            ^ t0[word >> 56]
        )
    return _multiply(crc, _power(zeros)) if zeros else crc


def combine(first: int, second: int, length: int) -> int:
    """The remainder of two pieces, the second ``length`` bytes long, from those of each."""
    return _multiply(first, _power(length)) ^ second


def sector_remainders(data: Buffer, sector: int) -> list[int]:
    """The remainder of each sector of ``data`` (a whole number of sectors, each a power of two and
    64 bytes or more), by numpy.
    """
    import numpy as np

    words = np.frombuffer(data, "<u8").reshape(-1, _LANE // 8)
    tables = np.array(_tables(), np.uint64)
    mask = np.uint64(255)
    crc = np.zeros(len(words), np.uint64)
    for column in range(_LANE // 8):
        word = words[:, column] ^ crc
        crc = tables[7][word & mask]
        for number in range(1, 8):
            crc ^= tables[7 - number][(word >> np.uint64(8 * number)) & mask]
    length = _LANE
    while length < sector:
        crc = _multiply_all(crc[::2], _power(length)) ^ crc[1::2]
        length *= 2
    remainders: list[int] = crc.tolist()
    return remainders


@cache
def _tables() -> tuple[list[int], ...]:
    """Table n: the register after a byte and n bytes of zeros."""
    first = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        first.append(value)
    tables = [first]
    for _ in range(7):
        before = tables[-1]
        tables.append([first[value & 255] ^ (value >> 8) for value in before])
    return tuple(tables)


@cache
def _power(length: int) -> int:
    """The power 8 * ``length`` of x, modulo the polynomial."""
    result, square = _ONE, _ONE >> 8
    while length:
        if length & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        length >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials, modulo the polynomial."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & _ONES
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _multiply_all(values: NDArray[np.uint64], factor: int) -> NDArray[np.uint64]:
    """`_multiply` of each of ``values``."""
    import numpy as np

    product = np.zeros(len(values), np.uint64)
    for bit in range(31, -1, -1):
        chosen = (values >> np.uint64(bit)) & np.uint64(1)
        product ^= chosen * np.uint64(factor)
        factor = (factor >> 1) ^ (_POLYNOMIAL if factor & 1 else 0)
    return product
