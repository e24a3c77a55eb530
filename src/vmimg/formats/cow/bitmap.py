"""The bitmap of a COW image, in pages that are read when needed.

A bit for each sector, so 256 MiB of bitmap for each TiB of disk. Imports numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.cow.header import CowHeader
from vmimg.storage.base import Storage

__all__ = ["PAGE_BYTES", "PAGE_SECTORS", "Bitmap", "load_page", "set_bits"]

Bitmap = NDArray[np.uint8]

PAGE_BYTES: Final = 1 << 16
PAGE_SECTORS: Final = 8 * PAGE_BYTES


def load_page(storage: Storage, header: CowHeader, page: int) -> Bitmap:
    """Page ``page`` of the bitmap: uint8[bytes], bits behind the last sector cleared."""
    first = page * PAGE_BYTES
    count = min(PAGE_BYTES, header.bitmap_bytes - first)
    bits = np.frombuffer(storage.read(header.bitmap_offset + first, count), np.uint8)
    rest = header.sectors - 8 * first
    if rest < 8 * count:
        bits = bits.copy()
        bits[-1] &= (1 << rest % 8) - 1
    return bits


def set_bits(bitmap: Bitmap, bits: NDArray[np.int64], values: NDArray[np.bool_]) -> None:
    """Set bits of ``bitmap``, ascending numbers, to ``values``."""
    low, high = int(bits[0]) // 8, int(bits[-1]) // 8 + 1
    flat = np.unpackbits(bitmap[low:high], bitorder="little")
    flat[bits - 8 * low] = values
    bitmap[low:high] = np.packbits(flat, bitorder="little")
