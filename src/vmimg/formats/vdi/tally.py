"""Tally: what the whole block map says, for check and before the first write.

A few passes over the map, in pieces, with one byte of memory for each place of the file (a bounded
number of them at a time). Nothing runs once per block in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.vdi.header import VdiHeader
from vmimg.formats.vdi.layer import ZERO, Entries, load_entries
from vmimg.storage.base import Storage

__all__ = ["Tally", "map_pieces", "take_tally"]

# Entries read at a time: 4 MiB.
_PIECE: Final = 1 << 20
# Places looked at in one pass.
_PLACES: Final = 1 << 26
# Free places that are kept by their number; there are more of them in damaged images only.
_KEPT: Final = 1 << 20
_SHOWN: Final = 10


@dataclass(slots=True)
class Tally:
    """``entries``: blocks that have a place. ``too_large``: those whose place is not below the
    number of blocks. ``lost``: blocks whose data the file does not hold, or not all of it; ``cut``:
    those among them that are not counted as too large.
    ``shared``: entries over one for each place. ``highest``: the last place with a block, -1 for
    none. ``free``: places in front of that one without a block, ``free_count`` of them, some by
    number. ``fragments``: blocks that do not lie behind the one before. ``lines`` describe what is
    wrong with single entries.
    """

    entries: int = 0
    too_large: int = 0
    cut: int = 0
    lost: int = 0
    shared: int = 0
    highest: int = -1
    free_count: int = 0
    free: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    fragments: int = 0
    lines: list[str] = field(default_factory=list)


def map_pieces(storage: Storage, header: VdiHeader) -> Iterator[tuple[int, Entries]]:
    """(number of the first block, entries) of pieces of the map, in order."""
    for first in range(0, header.blocks, _PIECE):
        yield first, load_entries(storage, header, first, min(_PIECE, header.blocks - first))


def take_tally(storage: Storage, header: VdiHeader) -> Tally:
    """Count the map of ``storage``."""
    tally = Tally()
    # Places that are too large count for nothing: what lies in front of them is not called free.
    last, follows = -1, -1
    for first, entries in map_pieces(storage, header):
        rows = np.flatnonzero(entries < ZERO)
        if not len(rows):
            continue
        used = entries[rows].astype(np.int64)
        tally.entries += len(used)
        before = np.concatenate(([follows], used[:-1]))
        tally.fragments += int(np.count_nonzero((before >= 0) & (used != before + 1)))
        follows = int(used[-1])
        large = used >= header.blocks
        tally.too_large += int(np.count_nonzero(large))
        _note(tally, header, first + rows, used, large, "there are not that many")
        cut = _lost(header, storage.size, first + rows, used)
        tally.lost += int(np.count_nonzero(cut))
        cut &= ~large
        tally.cut += int(np.count_nonzero(cut))
        _note(tally, header, first + rows, used, cut, f"the file ends at {storage.size}")
        tally.highest = max(tally.highest, int(used.max()))
        kept = used[~large]
        last = max(last, int(kept.max()) if len(kept) else -1)
    for low in range(0, last + 1, _PLACES):
        _count_places(storage, header, tally, low, min(last + 1, low + _PLACES))
    return tally


def _lost(
    header: VdiHeader, file_size: int, blocks: NDArray[np.int64], places: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which blocks have guest data behind the end of the file."""
    needed = np.clip(header.size - blocks * header.block_size, 0, header.block_size)
    ends: NDArray[np.int64] = header.data_start + places * header.stride + needed
    return ends > file_size


def _count_places(storage: Storage, header: VdiHeader, tally: Tally, low: int, high: int) -> None:
    """What shares a place in [low, high), and which of them are free."""
    seen = np.zeros(high - low, np.bool_)
    total = 0
    for _, entries in map_pieces(storage, header):
        inside = entries[(entries >= low) & (entries < high)]
        seen[inside.astype(np.int64) - low] = True
        total += len(inside)
    distinct = int(np.count_nonzero(seen))
    tally.shared += total - distinct
    free = len(seen) - distinct
    tally.free_count += free
    if free and len(tally.free) < _KEPT:
        numbers = np.flatnonzero(~seen)[: _KEPT - len(tally.free)] + low
        tally.free = np.concatenate((tally.free, numbers))


def _note(
    tally: Tally,
    header: VdiHeader,
    blocks: NDArray[np.int64],
    places: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    why: str,
) -> None:
    for row in np.flatnonzero(wrong)[: max(0, _SHOWN - len(tally.lines))].tolist():
        tally.lines.append(
            f"virtual offset {int(blocks[row]) * header.block_size}: said to be in place "
            f"{int(places[row])}, but {why}"
        )
