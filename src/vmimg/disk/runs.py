"""Runs: stretches of numbers that go up by equal steps, found without a loop over the numbers.

Blocks one behind the other become one read or write by it. Imports numpy only.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["runs"]


def runs(values: NDArray[np.int64], step: int = 1) -> list[tuple[int, int]]:
    """(first, last + 1) indices of stretches of ``values`` in which each is ``step`` above the
    last.
    """
    if not len(values):
        return []
    edges = np.flatnonzero(values[1:] != values[:-1] + step) + 1
    bounds = [0, *edges.tolist(), len(values)]
    return list(pairwise(bounds))
