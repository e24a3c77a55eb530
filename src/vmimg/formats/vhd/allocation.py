"""WritableVhdLayer: writing in place into a dynamic or differencing VHD.

The order of writes. A new block goes behind everything else. `allocate` first writes the footer
behind the new end, so that the file ends with one; the old one is overwritten by and by. Guest data
goes to the file at once: into blocks that the BAT does not name yet, or, above a parent, into
sectors whose bits are not set yet. `commit`:

1. writes the sector bitmaps of new blocks. Barrier: all that is going to be named is durable.
2. writes BAT entries, and bitmaps of old blocks in which sectors came to life. Each entry, old or
   new, is right by itself, in any order. Barrier: now the guest's writes are durable.

Killed or cut off anywhere, the file has blocks that nobody names (leaks), at worst. The footer at
the end may not have arrived: if the power fails, or in the instant between the file's growing and
the footer's being written. That is what the copy in front is for, which is never written here.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0. Imports the block machine of disk.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, StorageError
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import VhdImage
from vmimg.formats.vhd.layer import Bitmap, VhdLayer
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["WritableVhdLayer"]

# Data of new blocks begins at multiples of this, as the writer lays it out. No block is smaller.
_PAGE: Final = 4096
# What may wait in memory before a commit is made: bytes of bitmaps, entries of the BAT.
_DIRTY_BYTES: Final = 16 << 20
_DIRTY_ENTRIES: Final = 1 << 20


class WritableVhdLayer(VhdLayer, WritableBlockLayer):
    """A dynamic or differencing VHD open for writing; nothing is written before the first change.

    Space is never given up: the format has no word for a block that was. What is discarded is
    punched out of its block, which costs the file nothing where holes are to be had.
    """

    zero_state = False
    whole_blocks = False

    def __init__(self, storage: Storage, image: VhdImage) -> None:
        super().__init__(storage, image)
        self.writable = storage.writable
        if self.parent is None:
            # So that a page of a new block can be written without the rest of it, which is a hole.
            self.unit_size = _PAGE
        # Above a parent, too, the bits of a bitmap's byte are set together: libvhdi takes an unset
        # bit behind a set one in the same byte for zeros, not for the parent's.
        self.granularity = _PAGE
        self._footer = image.footer.raw
        self._end: int | None = None
        """Where the footer is; None before the first change."""
        self._before = 0
        """Where it was before the last allocation."""
        self._new_bitmaps: dict[int, Bitmap] = {}
        """By the place of the data: of blocks that the BAT in the file does not name."""
        self._changed_bitmaps: dict[int, Bitmap] = {}
        self._changed_entries: set[int] = set()
        self._uncommitted = False

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        if self.parent is not None:
            return super().refine(first, blocks)
        units = self.block_size // self.unit_size
        steps = np.arange(units, dtype=np.int64) * self.unit_size
        places = np.where(
            blocks.offsets[:, None] >= 0, blocks.offsets[:, None] + steps, np.int64(-1)
        )
        return Blocks(np.repeat(blocks.kinds, units), places.reshape(-1))

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        super().zero(offset, length)

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if self._end is None:
            self._prepare()
        waiting = len(self._new_bitmaps) + len(self._changed_bitmaps)
        if waiting * self._bitmap_size > _DIRTY_BYTES or (
            len(self._changed_entries) > _DIRTY_ENTRIES
        ):
            self.commit()
        self._uncommitted = True

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        assert self._end is not None, "begin() comes first"
        first = align_up(self._end + self._bitmap_size, _PAGE)
        step = align_up(self._bitmap_size + self.block_size, _PAGE)
        places = first + np.arange(len(blocks), dtype=np.int64) * step
        end = int(places[-1]) + self.block_size
        if end > s.UNUSED * s.SECTOR:
            raise StorageError(
                f"{self.name}: the file would grow beyond 2 TiB, where VHD cannot name a block"
            )
        self.storage.write(end, self._footer)
        self._before, self._end = self._end, end
        return places

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        if int(places[-1]) + self.block_size != self._end:
            return  # a leak, then
        try:
            # Cut off and extended again, the place is zeros, as a new one must be.
            self.storage.write(self._before, self._footer)
            self.storage.resize(self._before + s.FOOTER_SIZE)
            self._end = self._before
        except StorageError:
            pass

    def assign(self, update: Update) -> None:
        if self.parent is None:
            # Of a new block all is here: what nobody wrote of it is a hole.
            bitmaps = np.full((len(update.blocks), self._bitmap_size), 0xFF, np.uint8)
        else:
            bitmaps = np.zeros((len(update.blocks), self._bitmap_size), np.uint8)
            bits = np.packbits(update.kinds == Kind.DATA, axis=1)
            bitmaps[:, : bits.shape[1]] = bits
        fresh = update.before.offsets < 0
        places = update.places.tolist()
        for place, bitmap, new in zip(places, bitmaps, fresh.tolist(), strict=True):
            self._set_bitmap(place, bitmap, new=new)
        numbers = update.blocks[fresh]
        self._bat[numbers] = (update.places[fresh] - self._bitmap_size) // s.SECTOR
        self._changed_entries.update(numbers.tolist())
        self._present = None

    def commit(self) -> None:
        if not self._uncommitted:
            return
        for place, bitmap in self._new_bitmaps.items():
            self._write_bitmap(place, bitmap)
        self._barrier()
        if self._changed_bitmaps or self._changed_entries:
            for place, bitmap in self._changed_bitmaps.items():
                self._write_bitmap(place, bitmap)
            self._write_entries()
            self._barrier()
        self._new_bitmaps.clear()
        self._changed_bitmaps.clear()
        self._changed_entries.clear()
        self._uncommitted = False

    def close(self) -> None:
        self._leave(super().close)

    def _store(self, start: int, end: int, source: memoryview | None) -> None:
        super()._store(start, end, source)
        if self.parent is None:
            self._mark(start, end)

    # Before the first change

    def _prepare(self) -> None:
        """Find the end of the file, and refuse an image in which a write would hit two blocks."""
        self._refuse_all_unsound()
        span = self._bitmap_size + self.block_size
        sectors = np.sort(self._bat[self._bat != s.UNUSED])
        close = np.diff(sectors) < span // s.SECTOR
        if close.any():
            place = int(sectors[np.flatnonzero(close)[0] + 1]) * s.SECTOR
            raise FormatError(
                f"{self.name}: two blocks overlap at {place}; "
                "run vmimg check, and do not write to it"
            )
        used = int(sectors[-1]) * s.SECTOR + span if len(sectors) else 0
        footer = self.image.end
        if footer is not None and footer.good and used <= footer.offset:
            self._end = footer.offset
            return
        # It was lost, or the last block reaches over it: the first write makes a new one anyway.
        end = align_up(max(used, self.storage.size), s.SECTOR)
        self.storage.write(end, self._footer)
        self._end = end

    # Bitmaps and entries

    def _load_bitmap(self, place: int) -> Bitmap:
        held = self._new_bitmaps.get(place)
        if held is None:
            held = self._changed_bitmaps.get(place)
        return super()._load_bitmap(place) if held is None else held

    def _set_bitmap(self, place: int, bitmap: Bitmap, *, new: bool) -> None:
        waiting = self._new_bitmaps if new or place in self._new_bitmaps else self._changed_bitmaps
        waiting[place] = bitmap
        self._bitmaps.put(place, bitmap)

    def _mark(self, start: int, end: int) -> None:
        """Set the bits of [start, end), which was written in blocks that are there.

        Without a parent nobody here looks at them; others do.
        """
        for number in range(start // self.block_size, -(-end // self.block_size)):
            place = int(self._bat[number]) * s.SECTOR + self._bitmap_size
            bitmap = self._bitmaps.get(place)
            base = number * self.block_size
            low = max(0, start - base) // s.SECTOR
            high = -(-min(self.block_size, end - base) // s.SECTOR)
            bits = np.unpackbits(bitmap[low // 8 : -(-high // 8)])
            if bits[low % 8 : low % 8 + high - low].all():
                continue
            bits[low % 8 : low % 8 + high - low] = 1
            bitmap = bitmap.copy()
            bitmap[low // 8 : -(-high // 8)] = np.packbits(bits)
            self._set_bitmap(place, bitmap, new=False)

    def _write_bitmap(self, place: int, bitmap: Bitmap) -> None:
        self.storage.write(place - self._bitmap_size, bitmap.tobytes())

    def _write_entries(self) -> None:
        numbers = np.array(sorted(self._changed_entries), np.int64)
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                entries = self._bat[run[0] : run[-1] + 1].astype(">u4").tobytes()
                self.storage.write(self.header.table_offset + int(run[0]) * 4, entries)
