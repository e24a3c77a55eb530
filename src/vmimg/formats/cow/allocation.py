"""WritableCowLayer: writing in place into a COW image.

The order of writes. Guest data goes to the file at once, to the one place that a sector has.
`commit` then waits until it is durable, and writes the bits; waits again, and gives back the space
of sectors whose bits were cleared. Killed or cut off anywhere, a bit that is set has its data
there. (QEMU did the same, but before each write of the bitmap.)

Spec: QEMU block/cow.c. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.runs import runs
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.bitmap import PAGE_BYTES, PAGE_SECTORS, Bitmap, set_bits
from vmimg.formats.cow.header import CowHeader
from vmimg.formats.cow.layer import CowLayer
from vmimg.storage.base import Storage

__all__ = ["WritableCowLayer"]

# Changed pages of the bitmap that may wait in memory: 16 MiB.
_DIRTY_PAGES: Final = 256


class _Page:
    """A page of the bitmap that the file does not have as it is, in the bytes [low, high)."""

    __slots__ = ("bits", "high", "low")

    def __init__(self, bits: Bitmap) -> None:
        self.bits = bits
        self.low, self.high = len(bits), 0


class WritableCowLayer(CowLayer, WritableBlockLayer):
    """A COW file, open for writing; nothing is written before the first change."""

    zero_state = False
    whole_blocks = False

    def __init__(self, storage: Storage, header: CowHeader) -> None:
        super().__init__(storage, header)
        self.writable = storage.writable
        self._dirty: dict[int, _Page] = {}
        self._dropped: list[tuple[int, int]] = []
        """(first, behind the last) of sectors whose space is to be given back."""
        self._uncommitted = False

    def skip_absent(self, first: int) -> int:
        # A page that is read while a bit is set must not be kept as it was.
        with self._gate.shared():
            return super().skip_absent(first)

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if len(self._dirty) > _DIRTY_PAGES:
            self.commit()
        self._uncommitted = True

    def own_places(self, blocks: Blocks) -> NDArray[np.int64]:
        return blocks.offsets.copy()

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.header.data_offset + blocks * s.SECTOR

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        pass

    def assign(self, update: Update) -> None:
        present = update.places >= 0
        pages = update.blocks // PAGE_SECTORS
        starts = np.flatnonzero(np.diff(pages, prepend=-1)).tolist()
        # All that can fail comes first.
        own = [self._own_page(int(pages[start])) for start in starts]
        for page, start, stop in zip(own, starts, [*starts[1:], len(pages)], strict=True):
            bits = update.blocks[start:stop] % PAGE_SECTORS
            set_bits(page.bits, bits, present[start:stop])
            page.low = min(page.low, int(bits[0]) // 8)
            page.high = max(page.high, int(bits[-1]) // 8 + 1)
        if update.discard:
            gone = update.blocks[~present]
            self._dropped += [(int(gone[low]), int(gone[high - 1]) + 1) for low, high in runs(gone)]

    def commit(self) -> None:
        if not self._uncommitted:
            return
        self._barrier()
        if self._dirty:
            for index, page in sorted(self._dirty.items()):
                if page.low < page.high:
                    place = self.header.bitmap_offset + index * PAGE_BYTES + page.low
                    self.storage.write(place, page.bits[page.low : page.high].tobytes())
            self._barrier()
            self._dirty.clear()
        dropped, self._dropped = self._dropped, []
        for first, last in dropped:
            # Some of them may have been written since.
            clear = first + np.flatnonzero(self._bits(first, last - first) == 0)
            for low, high in runs(clear):
                place = self.header.data_offset + int(clear[low]) * s.SECTOR
                self.storage.discard(place, (high - low) * s.SECTOR)
        self._uncommitted = False

    def close(self) -> None:
        self._leave(super().close)

    # Helpers

    def _load_page(self, page: int) -> Bitmap:
        dirty = self._dirty.get(page)
        return super()._load_page(page) if dirty is None else dirty.bits

    def _own_page(self, index: int) -> _Page:
        page = self._dirty.get(index)
        if page is None:
            page = self._dirty[index] = _Page(self._pages.get(index).copy())
            self._pages.put(index, page.bits)
        return page

    def _following_page(self, page: int) -> int:
        waiting = [index for index in self._dirty if index >= page]
        return min([super()._following_page(page), *waiting])
