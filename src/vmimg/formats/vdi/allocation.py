"""WritableVdiLayer: writing in place into a VDI image.

New blocks go behind the last one: VirtualBox and QEMU take cBlocksAllocated for the number of the
next free place, so the places in use are always 0 to cBlocksAllocated - 1. For the same reason a
block never gives its place back: discarding it punches a hole in the file, and the block reads as
zeros where it is. (Otherwise the last block would have to be moved into the gap, as VirtualBox
does, one block of data for each block that is discarded.)

The order of writes. Guest data goes to the file at once: into places that the block has already, or
that nothing refers to. `commit` then

1. writes cBlocksAllocated. Barrier: now all that the map is going to name is durable, and counted.
2. writes the map entries: each, old or new, is right by itself. Barrier.

Killed or cut off anywhere, the count is right or too high. That costs space, and check mends it; a
count that is too low would have the next block of VirtualBox overwrite the last one of ours.

The first write gives the image a new uuidModify, so that images made above it notice.

Spec: VirtualBox src/VBox/Storage/VDI.cpp. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError
from vmimg.formats.vdi.header import VdiHeader
from vmimg.formats.vdi.layer import PAGE_ENTRIES, ZERO, Entries, VdiLayer
from vmimg.formats.vdi.tally import take_tally
from vmimg.storage.base import Storage

__all__ = ["WritableVdiLayer"]

# Changed pages of the map that may wait in memory: 16 MiB.
_DIRTY_PAGES: Final = 64


class _Page:
    """A page of the map that the file does not have as it is, in the rows [low, high)."""

    __slots__ = ("entries", "high", "low")

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.low, self.high = len(entries), 0


class WritableVdiLayer(VdiLayer, WritableBlockLayer):
    """A VDI file, open for writing; nothing is written before the first change.

    Refuses images in which two blocks share a place or have none in the file.
    """

    zero_through = True
    """A block that has a place keeps it when it becomes zeros."""

    def __init__(self, storage: Storage, header: VdiHeader) -> None:
        super().__init__(storage, header)
        self.writable = storage.writable
        self._prepared = False
        self._next = 0
        """The place behind the last one in use."""
        self._free = np.zeros(0, np.int64)
        """Places in front of it that are not in use: what a crash left behind."""
        self._counted = header.blocks_allocated
        """cBlocksAllocated in the file."""
        self._dirty: dict[int, _Page] = {}
        self._uncommitted = False

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._prepared:
            self._prepare()
        if len(self._dirty) > _DIRTY_PAGES:
            self.commit()
        self._uncommitted = True

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        reused = self._free[: len(blocks)]
        new = len(blocks) - len(reused)
        if self._next + new > self.header.blocks:
            raise FormatError(
                f"{self.name}: there is no place left for {len(blocks)} blocks: places are lost; "
                "run vmimg check --repair all first"
            )
        self._free = self._free[len(reused) :]
        added = np.arange(self._next, self._next + new, dtype=np.int64)
        self._next += new
        offsets = np.concatenate((reused, added)) * self.header.stride + self.header.data_start
        extra = self.header.block_extra
        if extra:
            # What stands there belongs to whatever was in the place before.
            for place in offsets[: len(reused)].tolist():
                self.storage.zero(place - extra, extra)
        return offsets

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._free = np.sort(np.concatenate((self._free, self._numbers(places))))
        while len(self._free) and self._free[-1] == self._next - 1:
            self._next -= 1
            self._free = self._free[:-1]

    def assign(self, update: Update) -> None:
        # A block that has a place keeps it, whatever else is asked: its data was zeroed there.
        before = update.before
        placed = (update.places >= 0) & (update.places != before.offsets)
        zeroed = (update.places < 0) & (before.offsets < 0) & (update.kinds[:, 0] == Kind.ZERO)
        changed = placed | (zeroed & (before.kinds != Kind.ZERO))
        if not changed.any():
            return
        numbers = np.where(placed, self._numbers(update.places), int(ZERO))
        blocks, entries = update.blocks[changed], numbers[changed].astype(np.uint32)
        indexes = blocks // PAGE_ENTRIES
        starts = np.flatnonzero(np.diff(indexes, prepend=-1)).tolist()
        pages = [self._own_page(int(indexes[start])) for start in starts]
        for page, start, stop in zip(pages, starts, [*starts[1:], len(blocks)], strict=True):
            rows = blocks[start:stop] % PAGE_ENTRIES
            page.entries[rows] = entries[start:stop]
            page.low = min(page.low, int(rows[0]))
            page.high = max(page.high, int(rows[-1]) + 1)

    def commit(self) -> None:
        if not self._uncommitted:
            return
        if self._counted != self._next:
            self.storage.write(self.header.count_offset, self._next.to_bytes(4, "little"))
            self._counted = self.header.blocks_allocated = self._next
        self._barrier()
        if self._dirty:
            for index, page in self._dirty.items():
                place = self.header.offset_blocks + 4 * (index * PAGE_ENTRIES + page.low)
                rows = page.entries[page.low : page.high]
                if len(rows):
                    self.storage.write(place, rows.astype("<u4").tobytes())
            self._barrier()
            self._dirty.clear()
        self._uncommitted = False

    def close(self) -> None:
        self._leave(super().close)

    # Helpers

    def _prepare(self) -> None:
        tally = take_tally(self.storage, self.header)
        for count, what in (
            (tally.too_large + tally.cut, "blocks are said to be where the file has no place"),
            (tally.shared, "blocks share a place with another"),
        ):
            if count:
                raise FormatError(
                    f"{self.name}: {count} {what}; writing would make it worse: "
                    "see what vmimg check says"
                )
        self._next, self._free = tally.highest + 1, tally.free
        modification = uuid4()
        self.storage.write(self.header.modify_offset, modification.bytes_le)
        self._barrier()
        self.header.uuid_modify = modification
        self._prepared = True

    def _numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The map entries for offsets of data."""
        return (places - self.header.data_start) // self.header.stride

    def _load_page(self, index: int) -> Entries:
        page = self._dirty.get(index)
        return super()._load_page(index) if page is None else page.entries

    def _own_page(self, index: int) -> _Page:
        page = self._dirty.get(index)
        if page is None:
            page = self._dirty[index] = _Page(self._pages.get(index).copy())
            self._pages.put(index, page.entries)
        return page
