"""Tally: what the whole BAT says, for check and before the first write.

A few passes over the BAT, in pieces, with one byte of memory for each place of the file (a bounded
number of them at a time). A place is where a cluster can be: place n begins n clusters behind the
start of the data area. Nothing runs once per cluster in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.extension import Extension
from vmimg.formats.parallels.header import ParallelsHeader
from vmimg.formats.parallels.layer import Entries, load_entries
from vmimg.storage.base import Storage

__all__ = ["Tally", "bat_pieces", "lost_clusters", "take_tally"]

# Entries read at a time: 4 MiB.
_PIECE: Final = 1 << 20
# Places looked at in one pass.
_PLACES: Final = 1 << 26
# Free places that are kept by their number.
_KEPT: Final = 1 << 20
_SHOWN: Final = 10


@dataclass(slots=True)
class Tally:
    """``entries``: clusters that have a place. ``outside``: those of which the file holds nothing;
    ``cut``: those of which it does not hold all that the guest has in them. ``misplaced``: those
    that begin in front of the data area or between two places. ``shared``: entries over one for
    each place. ``highest``: the last place in use, -1 for none, and ``free`` those in front of it
    that are not. ``end``: where the last cluster of the BAT ends, 0 for none. ``fragments``:
    clusters that do not lie behind the one before. ``lines`` describe what is wrong with single
    entries.
    """

    entries: int = 0
    outside: int = 0
    cut: int = 0
    misplaced: int = 0
    shared: int = 0
    highest: int = -1
    end: int = 0
    free: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    fragments: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not (self.outside or self.cut or self.misplaced or self.shared)


def bat_pieces(storage: Storage, header: ParallelsHeader) -> Iterator[tuple[int, Entries]]:
    """(number of the first cluster, entries) of pieces of the BAT, in order, without its holes."""
    first = 0
    for low, high, hole in storage.extents(s.BAT_OFFSET, header.table_end):
        if hole:
            continue
        first = max(first, (low - s.BAT_OFFSET) // s.BAT_ENTRY)
        last = min(header.entries, -(-(high - s.BAT_OFFSET) // s.BAT_ENTRY))
        while first < last:
            count = min(_PIECE, last - first)
            yield first, load_entries(storage, header, first, count)
            first += count


def take_tally(
    storage: Storage, header: ParallelsHeader, extension: Extension | None = None
) -> Tally:
    """Count the BAT of ``storage``; the clusters of ``extension`` are in use as well."""
    tally = Tally()
    start, size = header.data_start, header.block_size
    last_block, last_place = -2, -1
    for first, entries in bat_pieces(storage, header):
        rows = np.flatnonzero(entries)
        if not len(rows):
            continue
        blocks = first + rows
        offsets = entries[rows].astype(np.int64) * header.unit
        tally.entries += len(rows)
        tally.end = max(tally.end, int(offsets.max()) + size)
        before = np.concatenate(([last_place], offsets[:-1]))
        follows = np.concatenate(([last_block], blocks[:-1])) == blocks - 1
        tally.fragments += int(np.count_nonzero(follows & (offsets != before + size)))
        last_block, last_place = int(blocks[-1]), int(offsets[-1])

        outside = offsets >= storage.size
        cut = lost_clusters(header, storage.size, blocks, offsets) & ~outside
        misplaced = (offsets < start) | ((offsets - start) % size != 0)
        for mask, why in (
            (outside, f"the file ends at {storage.size}"),
            (cut, f"the file ends at {storage.size}"),
            (misplaced & ~outside, f"clusters of {size} bytes lie from {start} on"),
        ):
            _note(tally, header, blocks, offsets, mask, why)
        tally.outside += int(np.count_nonzero(outside))
        tally.cut += int(np.count_nonzero(cut))
        tally.misplaced += int(np.count_nonzero(misplaced & ~outside))
        placed = offsets[~misplaced & ~outside]
        if len(placed):
            tally.highest = max(tally.highest, (int(placed.max()) - start) // size)
    extra = _places_of(header, extension)
    tally.highest = max([tally.highest, *extra.tolist()])
    for low in range(0, tally.highest + 1, _PLACES):
        high = min(tally.highest + 1, low + _PLACES)
        _count_places(storage, header, tally, extra, low, high)
    return tally


def lost_clusters(
    header: ParallelsHeader, file_size: int, blocks: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which clusters have guest data behind the end of the file."""
    needed = np.clip(header.size - blocks * header.block_size, 0, header.block_size)
    lost: NDArray[np.bool_] = offsets + needed > file_size
    return lost


def _places_of(header: ParallelsHeader, extension: Extension | None) -> NDArray[np.int64]:
    """The places that the extension takes: each, where it is not aligned, two."""
    if extension is None or extension.wrong:
        return np.zeros(0, np.int64)
    starts = np.array(extension.clusters, np.int64) - header.data_start
    starts = starts[starts >= 0]
    size = header.block_size
    return np.unique(np.concatenate((starts // size, (starts + size - 1) // size)))


def _count_places(
    storage: Storage,
    header: ParallelsHeader,
    tally: Tally,
    extra: NDArray[np.int64],
    low: int,
    high: int,
) -> None:
    """What shares a place in [low, high), and which of them are free."""
    seen = np.zeros(high - low, np.bool_)
    own = extra[(extra >= low) & (extra < high)] - low
    seen[own] = True
    total = len(own)
    start, size = header.data_start, header.block_size
    between: list[NDArray[np.int64]] = []
    for _, entries in bat_pieces(storage, header):
        offsets = entries[entries != 0].astype(np.int64) * header.unit - start
        offsets = offsets[(offsets >= low * size) & (offsets < high * size)]
        whole = offsets % size == 0
        numbers = offsets // size - low
        seen[numbers[whole]] = True
        total += int(np.count_nonzero(whole))
        if not whole.all():
            between.append(numbers[~whole])
    tally.shared += total - int(np.count_nonzero(seen))
    for numbers in between:  # counted as misplaced; each takes something of two places
        seen[numbers] = True
        seen[np.minimum(numbers + 1, high - low - 1)] = True
    for at in range(0, high - low, _PIECE):
        room = _KEPT - len(tally.free)
        if room > 0:
            numbers = np.flatnonzero(~seen[at : at + _PIECE])[:room] + low + at
            tally.free = np.concatenate((tally.free, numbers))


def _note(
    tally: Tally,
    header: ParallelsHeader,
    blocks: NDArray[np.int64],
    offsets: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    why: str,
) -> None:
    for row in np.flatnonzero(wrong)[: max(0, _SHOWN - len(tally.lines))].tolist():
        tally.lines.append(
            f"virtual offset {int(blocks[row]) * header.block_size}: said to be at "
            f"{int(offsets[row])}, but {why}"
        )
