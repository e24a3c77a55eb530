"""Space: which parts of a VHDX file new blocks may have.

Found out when the first new block is asked for: what no structure and no BAT entry names is free.
Blocks fill gaps first; new ones come from the end of the file. Everything is counted in MiB, the
alignment of blocks. Imports the layer and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhdx import structures as s
from vmimg.units import MIB, TIB, align_up, format_size

if TYPE_CHECKING:
    from vmimg.formats.vhdx.layer import VhdxLayer

__all__ = ["SCAN_ENTRIES", "Space", "check_file_size", "named_places", "used_units"]

SCAN_ENTRIES: Final = 1 << 18
"""BAT entries looked at in one go."""
# A disk of 64 TiB with all of its blocks, and room to spare.
_MAX_FILE: Final = 96 * TIB


class Space:
    """Gives out places for blocks and sector bitmap blocks of ``layer``; all read as zeros."""

    def __init__(self, layer: VhdxLayer, pending: Callable[[], list[NDArray[np.int64]]]) -> None:
        self._layer = layer
        self._pending = pending
        """Blocks that the tables in memory do not name any more, but those in the file may."""
        self._blocks: list[int] | None = None
        """Free places for blocks, the first one last."""
        self._crumbs: list[int] = []
        """Free MiB that are too few for a block."""

    def allocate(self, count: int) -> NDArray[np.int64]:
        """Places for ``count`` blocks: int64[count]."""
        storage, size = self._layer.storage, self._layer.block_size
        free = self._free()
        # Together they are read and written in one go; so a gap is filled only by as many as fit.
        taken = [free.pop() for _ in range(min(count, len(free)))]
        try:
            for place in taken:
                storage.zero(place, size)
            start = align_up(storage.size, MIB)
            new = count - len(taken)
            if new:
                storage.resize(start + new * size)
        except BaseException:
            free += reversed(taken)
            raise
        places = [*taken, *range(start, start + new * size, size)]
        return np.array(places, np.int64)

    def allocate_bitmaps(self, count: int) -> list[int]:
        """Places for ``count`` sector bitmap blocks."""
        storage = self._layer.storage
        self._free()
        taken = [self._crumbs.pop() for _ in range(min(count, len(self._crumbs)))]
        try:
            for place in taken:
                storage.zero(place, s.BITMAP_BLOCK)
            start = align_up(storage.size, MIB)
            new = count - len(taken)
            if new:
                storage.resize(start + new * s.BITMAP_BLOCK)
        except BaseException:
            self._crumbs += reversed(taken)
            raise
        return [*taken, *range(start, start + new * s.BITMAP_BLOCK, s.BITMAP_BLOCK)]

    def give_back(self, places: NDArray[np.int64]) -> None:
        """Blocks that nothing in the file names any more."""
        if self._blocks is not None:  # otherwise the search will find them
            self._blocks.extend(reversed(places.tolist()))

    def _free(self) -> list[int]:
        if self._blocks is None:
            self._blocks = self._find()
        return self._blocks

    def trim(self) -> None:
        """Cut off what is free at the end of the file. Nothing in it may name that any more."""
        if self._layer.image.leave_blocks_allocated:
            return
        storage, size = self._layer.storage, self._layer.block_size
        blocks = self._free()
        free, end = set(blocks), storage.size
        while end - size in free:
            end -= size
            free.remove(end)
        if end < storage.size:
            self._blocks = [place for place in blocks if place < end]
            storage.resize(end)

    def _find(self) -> list[int]:
        layer = self._layer
        check_file_size(layer)
        used = used_units(layer)
        width = layer.block_size // MIB
        for places in self._pending():
            for step in range(width):
                used[places // MIB + step] = True
        for places, length in named_places(layer):
            units = places // MIB
            clash = len(np.unique(units)) < len(units) or bool((units < 0).any())
            units = units[units >= 0]
            for step in range(length):
                # What reaches behind the end of the file is nothing that could be free.
                inside = units + step < len(used)
                clash |= bool(used[units[inside] + step].any())
            for step in range(length):
                inside = units + step < len(used)
                used[units[inside] + step] = True
            if clash:
                raise FormatError(
                    f"{layer.name}: blocks lie over each other or over another structure: nothing "
                    "may be written to it; see what vmimg check says"
                )
        edges = np.flatnonzero(np.diff(used, prepend=True, append=True)).tolist()
        free = list[int]()
        for first, stop in zip(edges[::2], edges[1::2], strict=True):
            whole = (stop - first) // width
            free += [(first + number * width) * MIB for number in range(whole)]
            self._crumbs += [unit * MIB for unit in range(first + whole * width, stop)]
        self._crumbs.reverse()
        return free[::-1]


def check_file_size(layer: VhdxLayer) -> None:
    """Raise UnsupportedFeature for a file too large to keep a note of each of its MiB."""
    if layer.storage.size > _MAX_FILE:
        raise UnsupportedFeature(
            f"{layer.name}: a file of {format_size(layer.storage.size)} is more than a VHDX needs; "
            f"{format_size(_MAX_FILE)} are the most that is looked through"
        )


def used_units(layer: VhdxLayer) -> NDArray[np.bool_]:
    """For each whole MiB of the file whether a structure other than blocks lies there."""
    used = np.zeros(layer.storage.size // MIB, np.bool_)
    for start, end in layer.structures():
        used[start // MIB : align_up(end, MIB) // MIB] = True
    return used


def named_places(layer: VhdxLayer) -> Iterator[tuple[NDArray[np.int64], int]]:
    """(places in bytes, MiB of each) that BAT entries name, a window of entries at a time."""
    image, position = layer.image, 0
    while position < image.bat_entries:
        position = layer.search(position, image.bat_entries)
        if position >= image.bat_entries:
            return
        stop = min(image.bat_entries, position + SCAN_ENTRIES)
        numbers = np.arange(position, stop, dtype=np.int64)
        bitmap = numbers % (image.chunk_ratio + 1) == image.chunk_ratio
        entries = layer.entries(position, stop)
        held = layer.holds_place(entries)
        places = (entries & np.uint64(s.OFFSET_MASK)).view(np.int64)
        yield places[held & ~bitmap], image.block_size // MIB
        if image.has_parent:  # otherwise nobody uses them, and QEMU 7.2 leaves rubbish there
            yield places[held & bitmap], s.BITMAP_BLOCK // MIB
        position = stop
