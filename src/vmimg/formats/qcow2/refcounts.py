"""Reference counts of 1 to 64 bits, as they stand in refcount blocks, to and from numpy arrays.

Counts narrower than a byte fill it from the least significant bit upwards; wider ones are
big-endian. Imports numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmimg.storage.base import Buffer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["pack_refcounts", "unpack_refcounts"]

_DTYPES = {3: ">u1", 4: ">u2", 5: ">u4", 6: ">u8"}


def unpack_refcounts(data: Buffer, order: int, dtype: DTypeLike = np.uint64) -> NDArray[Any]:
    """The counts (``dtype``, native, which must hold them) in ``data``, each 1 << ``order`` bits
    wide.
    """
    if order >= 3:
        return np.frombuffer(data, _DTYPES[order]).astype(dtype)
    raw = np.frombuffer(data, np.uint8)
    width, per_byte = 1 << order, 8 >> order
    counts = np.empty((len(raw), per_byte), dtype)
    for position in range(per_byte):
        counts[:, position] = raw >> (position * width) & ((1 << width) - 1)
    return counts.reshape(-1)


def pack_refcounts(counts: NDArray[Any], order: int) -> bytes:
    """The inverse of `unpack_refcounts`: every count must fit 1 << ``order`` bits.

    Narrower than a byte, the number of counts must be a whole number of bytes.
    """
    if order >= 3:
        return counts.astype(_DTYPES[order]).tobytes()
    width, per_byte = 1 << order, 8 >> order
    columns = counts.astype(np.uint8).reshape(-1, per_byte)
    raw = np.zeros(len(columns), np.uint8)
    for position in range(per_byte):
        raw |= columns[:, position] << (position * width)
    return raw.tobytes()
