"""WritableVhdxLayer: writing in place into a VHDX.

The order of writes. Guest data goes to the file at once: over blocks that hold the same part of the
disk, or to new blocks that no table names. BAT and sector bitmaps change in memory. `commit`:

1. writes sector bitmap blocks that are new. Barrier: guest data, the file's new size, and what the
   commit before put in its place are durable.
2. writes one log entry with all sectors of BAT and bitmaps that changed. Barrier: from here on the
   guest's writes are durable, and all of them appear at once.
3. writes those sectors to their place, at leisure.

Blocks that are no longer named may be given out again after step 2. When memory for dirty tables
would no longer fit into one log entry, the same commit is made before the next change. Closing
brings everything to its place and declares the log clean.

Above a parent a block is filled sector by sector, and the sector bitmap says which; without one a
new block reads as zeros where nothing was written, because that is what new space reads as.

Spec: MS-VHDX 2.2 to 2.5. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import VhdxImage
from vmimg.formats.vhdx.layer import PAGE, Bytes, VhdxLayer
from vmimg.formats.vhdx.logwriter import LogWriter
from vmimg.formats.vhdx.space import Space
from vmimg.storage.base import Storage
from vmimg.units import align_down, align_up

__all__ = ["WritableVhdxLayer"]

# One step of a change makes 40 sectors dirty at most. The descriptors of 126 lie in the entry's
# first page: QEMU refuses an image whose log has an entry with half of its descriptors.
_DIRTY_SECTORS: Final = 80
# BAT entries of so many blocks take 33 sectors.
_HIDDEN_BLOCKS: Final = 1 << 14
# Without a parent the unit matters only for what is padded with zeros when a block is new.
_UNITS: Final = 2048


class WritableVhdxLayer(VhdxLayer, WritableBlockLayer):
    """One VHDX file, open for writing, its log clean; nothing is written before a change."""

    zero_state = False  # there is one for blocks, none for sectors: see _zero_units
    whole_blocks = False  # `allocate` makes the file as long as it must be

    def __init__(self, storage: Storage, image: VhdxImage) -> None:
        super().__init__(storage, image)
        self.writable = storage.writable
        if not image.has_parent:
            self.unit_size = max(4096, self.block_size // _UNITS)
        self._log = LogWriter(storage, image.headers)
        self._space = Space(self, lambda: self._dropped)
        self._begun = False
        self._uncommitted = False
        # Pages of BAT and bitmaps that the file does not have as they are, by their offset, and
        # the offsets of the sectors that differ.
        self._dirty: dict[int, Bytes] = {}
        self._dirty_sectors: set[int] = set()
        # Sector bitmap blocks that no table in the file names yet.
        self._new_bitmaps: set[int] = set()
        # Blocks that the tables in the file may still name.
        self._dropped: list[NDArray[np.int64]] = []
        self._shrunk = False

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._begun:
            if not self.image.header.log_length:
                raise UnsupportedFeature(
                    f"{self.name}: it has no log, so nothing can be written safely; convert it"
                )
            self._log.announce()
            self.image.headers = self._log.headers
            self._begun = True
        if len(self._dirty_sectors) >= _DIRTY_SECTORS:
            self.commit()
        self._uncommitted = True

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._space.allocate(len(blocks))

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._space.give_back(places)

    def assign(self, update: Update) -> None:
        places = update.places
        if self.image.has_parent:
            # Something was written, so each block has a place; and new space reads as zeros: what
            # was ZERO in a block without a place is there now.
            here = update.kinds != Kind.ABSENT
            self._ignore_behind_end(update.blocks, here)
            full = here.all(axis=1)
            self._set_bits(update.blocks[~full], here[~full])
            states = np.where(full, s.FULLY_PRESENT, s.PARTIALLY_PRESENT)
        else:
            # What is not present could read as anything.
            states = np.where(places >= 0, s.FULLY_PRESENT, s.ZERO)
        entries = np.maximum(places, 0).view(np.uint64) | states.astype(np.uint64)
        self._set_entries(self._indexes(update.blocks), entries)
        gone = (update.before.offsets >= 0) & (update.before.offsets != places)
        if gone.any():
            self._dropped.append(update.before.offsets[gone])

    def commit(self) -> None:
        if not self._uncommitted:
            return
        for place in sorted(self._new_bitmaps):
            for page in range(place, place + s.BITMAP_BLOCK, PAGE):
                if page in self._dirty:
                    self.storage.write(page, self._dirty[page].tobytes())
        self._barrier()
        if self._dirty_sectors:
            sectors = [(offset, self._sector(offset)) for offset in sorted(self._dirty_sectors)]
            self._write_log(sectors)
            for offset, data in sectors:
                self.storage.write(offset, data)
        self._dirty.clear()
        self._dirty_sectors.clear()
        self._new_bitmaps.clear()
        dropped, self._dropped = self._dropped, []
        self._shrunk |= bool(dropped)
        for places in dropped:
            self._space.give_back(places)
            for place in places.tolist():
                self.storage.discard(place, self.block_size)
        self._uncommitted = False

    def conclude(self) -> None:
        if not self._begun:
            return
        self._barrier()
        self._log.retire()
        if self._shrunk:
            with suppress(FormatError):  # of others' making, and no reason to fail
                self._space.trim()

    def close(self) -> None:
        self._leave(super().close)

    def _blocks(self, first: int, count: int) -> Blocks:
        with self._gate.shared():
            return super()._blocks(first, count)

    # Zeroing

    def _zero_units(self, start: int, end: int, discard: bool) -> None:
        if self.image.has_parent:
            head = min(end, align_up(start, self.block_size))
            tail = end if end == self.size else max(head, align_down(end, self.block_size))
            self._fill(start, head)
            if head < tail:  # whole blocks
                self._hide(head // self.block_size, -(-tail // self.block_size))
            self._fill(tail, end)
        elif self.image.leave_blocks_allocated:
            while start < end:
                first = start // self.block_size
                present = self.skip_absent(first)
                if present > first:
                    start = present * self.block_size
                    continue
                low, start = next(self._steps(start, end))
                self._fill(low, start)
        else:
            super()._zero_units(start, end, discard)

    def _hide(self, first: int, stop: int) -> None:
        """Make blocks [first, stop) zeros that hide the parent."""
        while first < stop:
            count = min(stop - first, _HIDDEN_BLOCKS)
            self.begin()
            before = self.lookup(first, count)
            assert before.detail is not None
            changed = np.flatnonzero(before.detail != s.ZERO)
            if len(changed):
                with self._gate.exclusive():
                    zeros = np.full(len(changed), s.ZERO, np.uint64)
                    self._set_entries(self._indexes(first + changed), zeros)
                    if (gone := before.offsets >= 0).any():
                        self._dropped.append(before.offsets[gone])
            first += count

    def _fill(self, start: int, end: int) -> None:
        """Write zeros to whole units."""
        for low, high in self._steps(start, end):
            self.begin()
            self._store(low, high, None)

    # Tables

    def _load_page(self, offset: int) -> Bytes:
        page = self._dirty.get(offset)
        return super()._load_page(offset) if page is None else page

    def search(self, low: int, high: int) -> int:
        found = super().search(low, high)
        per_page, base = PAGE // s.BAT_ENTRY, self.image.bat.offset
        for offset in sorted(self._dirty):
            first = (offset - base) // s.BAT_ENTRY
            if not base <= offset < base + self.image.bat.length or first >= found:
                continue
            begin = max(low, first)
            entries = self._dirty[offset].view("<u8")[begin - first : found - first]
            says = np.flatnonzero(self._says_something(entries))
            if first + per_page > low and len(says):
                return begin + int(says[0])
        return found

    def _indexes(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return blocks + blocks // self._ratio

    def _set_entries(self, indexes: NDArray[np.int64], entries: NDArray[np.uint64]) -> None:
        """Put ``entries`` at ``indexes`` (ascending) of the BAT."""
        places = self.image.bat.offset + indexes * s.BAT_ENTRY
        pages = places // PAGE
        edges = [0, *(np.flatnonzero(np.diff(pages)) + 1).tolist(), len(pages)]
        for start, stop in pairwise(edges):
            page = self._own_page(int(pages[start]) * PAGE)
            rows = places[start:stop] % PAGE // s.BAT_ENTRY
            page.view("<u8")[rows] = entries[start:stop]
        self._dirty_sectors.update((np.unique(places // s.LOG_SECTOR) * s.LOG_SECTOR).tolist())

    def _set_bits(self, blocks: NDArray[np.int64], here: NDArray[np.bool_]) -> None:
        """Put the bits of blocks (bool[n, sectors of a block]) into their sector bitmaps."""
        if not len(blocks):
            return
        bitmaps = self._own_bitmaps(np.unique(blocks // self._ratio).tolist())
        rows = np.packbits(here, axis=1, bitorder="little")
        length = rows.shape[1]
        for block, bits in zip(blocks.tolist(), rows, strict=True):
            chunk, number = divmod(block, self._ratio)
            start = bitmaps[chunk] + number * length
            position = start
            while position < start + length:
                offset, low = align_down(position, PAGE), position % PAGE
                high = min(PAGE, low + start + length - position)
                page = self._own_page(offset)
                before = position - start
                page[low:high] = bits[before : before + high - low]
                if bitmaps[chunk] not in self._new_bitmaps:
                    first = align_down(position, s.LOG_SECTOR)
                    self._dirty_sectors.update(range(first, offset + high, s.LOG_SECTOR))
                position += high - low

    def _own_bitmaps(self, chunks: list[int]) -> dict[int, int]:
        """Where the sector bitmap block of each chunk is; made where there is none."""
        found = {chunk: self._bitmap_place(chunk) for chunk in chunks}
        missing = [chunk for chunk in chunks if found[chunk] < 0]
        if missing:
            places = self._space.allocate_bitmaps(len(missing))
            for chunk, place in zip(missing, places, strict=True):
                found[chunk] = place
                self._new_bitmaps.add(place)
            indexes = np.array([self.bitmap_index(chunk) for chunk in missing], np.int64)
            self._set_entries(indexes, np.array(places, np.uint64) | np.uint64(s.BITMAP_PRESENT))
        return found

    def _own_page(self, offset: int) -> Bytes:
        page = self._dirty.get(offset)
        if page is None:
            page = self._dirty[offset] = self._pages.get(offset).copy()
            self._pages.put(offset, page)
        return page

    def _sector(self, offset: int) -> bytes:
        page = align_down(offset, PAGE)
        return self._dirty[page][offset - page : offset - page + s.LOG_SECTOR].tobytes()

    def _ignore_behind_end(self, blocks: NDArray[np.int64], units: NDArray[np.bool_]) -> None:
        """Sectors behind the end of the disk keep no block from being whole."""
        last = self.image.blocks - 1
        if blocks[-1] == last:
            units[-1, (self.size - last * self.block_size) // self.unit_size :] = True

    # Writing it out

    def _write_log(self, sectors: list[tuple[int, bytes]]) -> None:
        try:
            self._log.append(sectors)
        except BaseException as error:
            # The entry, or a header, may be durable or not: nothing may build on either.
            self._broken = error
            raise
        self.image.headers = self._log.headers
