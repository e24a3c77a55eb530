"""BlockStorage: a disk in an XVA, made of its blocks where they lie.

xapi reads blocks one behind the other: one that follows number n by k lies (k - 1) times the first
block's length behind the end of n, and one without bytes, which was sent to keep a connection
alive, takes a number and no room. So do we. Source: xen-api, ocaml/xapi/stream_vdi.ml,
recv_all_vdi. Imports storage and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.bundles.xva.members import Blocks
from vmimg.errors import FormatError
from vmimg.storage.folder import Folder
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.view import ReadOnlyView
from vmimg.units import MIB

__all__ = ["BLOCK", "BlockStorage"]

BLOCK: Final = MIB
"""Bytes of a block, as xapi has them since version 4."""
# Blocks of another length are from before; xapi itself keeps a block in memory.
_MAX_BLOCK: Final = 256 * MIB
_MAX_SIZE: Final = 1 << 60

Numbers = NDArray[np.int64]


class BlockStorage(ReadOnlyView):
    """``size`` bytes made of ``blocks`` in ``folder``, zeros where there is none. ``size`` 0: as
    far as the blocks reach.

    Raises FormatError for blocks that do not fit in there, and where the last one is missing: an
    exporter always writes it, and without it the export was cut off.
    """

    def __init__(self, folder: Folder, blocks: Blocks, size: int) -> None:
        name = f"{folder.name}:{blocks.directory}"
        order, starts, lengths = _placed(folder, blocks, name)
        end = int(starts[-1] + lengths[-1])
        size = size or end
        if end > size:
            raise FormatError(
                f"{name}: its blocks reach to byte {end}, and the disk has {size}: the description "
                "lies, or the blocks are another disk's"
            )
        if end < size:
            raise FormatError(
                f"{name}: its blocks end at byte {end}, and the disk has {size}: the last block is "
                "missing, so the export was cut off"
            )
        super().__init__(MemoryStorage(b"", name), size)
        self.folder = folder
        self.member = blocks.directory
        self._blocks = blocks
        self._order = order
        self._starts, self._ends = starts, starts + lengths

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self._check(offset, len(buffer))
        low = int(np.searchsorted(self._ends, offset, "right"))
        high = int(np.searchsorted(self._starts, end, "left"))
        position = offset
        assert self.folder is not None
        for row in range(low, high):  # a MiB each: what it costs is the read
            start, stop = int(self._starts[row]), int(self._ends[row])
            first, last = max(start, offset), min(stop, end)
            _clear(buffer[position - offset : first - offset])
            with self.folder.open(self._blocks.name(int(self._order[row]))) as block:
                block.read_into(first - start, buffer[first - offset : last - offset])
            position = last
        _clear(buffer[position - offset :])

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        if start >= end:
            return
        self._check(start, end - start)
        low = int(np.searchsorted(self._ends, start, "right"))
        high = int(np.searchsorted(self._starts, end, "left"))
        starts, ends = self._starts[low:high], self._ends[low:high]
        # Runs begin where a block does not go on from the one in front of it.
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        firsts = starts[np.concatenate(([0], breaks))] if len(starts) else starts
        lasts = ends[np.concatenate((breaks - 1, [len(ends) - 1]))] if len(ends) else ends
        position = start
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            first, last = max(first, start), min(last, end)
            if position < first:
                yield position, first, True
            yield first, last, False
            position = last
        if position < end:
            yield position, end, True

    def allocated(self) -> int:
        return int((self._ends - self._starts).sum())


def _placed(folder: Folder, blocks: Blocks, name: str) -> tuple[Numbers, Numbers, Numbers]:
    """(numbers, starts, lengths) of the blocks that hold bytes, in ascending order: int64[n]."""
    numbers = np.sort(np.frombuffer(blocks.numbers, np.int64))
    if (numbers[1:] == numbers[:-1]).any():
        raise FormatError(f"{name}: a block of it is there twice")
    lengths = np.fromiter(
        (folder.size(blocks.name(number)) for number in numbers.tolist()), np.int64, len(numbers)
    )
    unit = int(lengths[0])
    if not 0 < unit <= _MAX_BLOCK or int(lengths.max()) > _MAX_BLOCK:
        raise FormatError(f"{name}: its first block has {unit} bytes, and {BLOCK} are usual")
    if numbers[0] != 0:
        raise FormatError(f"{name}: its first block, which is always written, is missing")
    if int(numbers[-1]) > _MAX_SIZE // unit:
        raise FormatError(f"{name}: it has a block with the number {int(numbers[-1])}")
    if (lengths[:-1] % unit).any():
        raise FormatError(f"{name}: its blocks differ in length")
    skipped = np.diff(numbers, prepend=np.int64(-1)) - 1
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)[:-1]))
    starts = np.cumsum(skipped) * unit + before
    full = lengths > 0
    return numbers[full], starts[full], lengths[full]


def _clear(view: memoryview) -> None:
    if len(view):
        np.frombuffer(view, np.uint8)[:] = 0
