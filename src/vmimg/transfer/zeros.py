"""Find the blocks of a buffer that hold something. Vectorised; no Python runs per block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nonzero_blocks"]

# Words looked at before a whole block is: real data shows itself in the first few samples.
_SAMPLES = 8


def nonzero_blocks(buffer: memoryview, block: int) -> NDArray[np.bool_]:
    """bool[len(buffer) / block]: which blocks have a byte that is not zero.

    ``block`` is a power of two of at least 512 bytes and divides the buffer.
    """
    words = np.frombuffer(buffer, np.uint64).reshape(-1, block // 8)
    full: NDArray[np.bool_] = np.bitwise_or.reduce(words[:, :: block // 8 // _SAMPLES], axis=1) != 0
    doubtful = np.flatnonzero(~full)
    if len(doubtful) == len(full):
        return np.asarray(np.bitwise_or.reduce(words, axis=1) != 0)
    if len(doubtful):
        full[doubtful] = np.bitwise_or.reduce(words[doubtful], axis=1) != 0
    return full
