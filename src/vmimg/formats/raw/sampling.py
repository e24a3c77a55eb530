"""Looks for data where there should be none, without reading all of it.

Holes cost nothing; of what is stored, the beginning, the end and some pieces between are read. So
an answer of None means "none was found", not "there is none". Imports storage.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from vmimg.storage.base import Storage

__all__ = ["first_data"]

_MAX_EXTENTS: Final = 64
# Read whole at either end of a stretch of data.
_EDGE: Final = 64 << 10
_PIECE: Final = 4096
_PIECES: Final = 16
_BUDGET: Final = 1 << 20


def first_data(storage: Storage, start: int, end: int) -> int | None:
    """The place of the first byte that is not zero among those looked at in [start, end)."""
    start, end = max(0, start), min(end, storage.size)
    if start >= end:
        return None
    budget = _BUDGET
    for low, high, hole in islice(storage.extents(start, end), _MAX_EXTENTS):
        if hole:
            continue
        for place, length in _pieces(low, high):
            budget -= length
            if budget < 0:
                return None
            data = storage.read(place, length)
            if any(data):
                return place + length - len(data.lstrip(b"\0"))
    return None


def _pieces(low: int, high: int) -> list[tuple[int, int]]:
    """(place, length) of what is read of a stretch of data, in order."""
    if high - low <= 4 * _EDGE:
        return [(low, high - low)]
    inner = high - low - 2 * _EDGE
    between = [low + _EDGE + inner * n // (_PIECES + 1) for n in range(1, _PIECES + 1)]
    return [(low, _EDGE), *((place, _PIECE) for place in between), (high - _EDGE, _EDGE)]
