"""VhdxLayer: a VHDX, for reading.

The BAT says of each payload block what it is and where. Behind the entries of a chunk (as many
blocks as 2^23 sectors make up) it has one more, for the chunk's sector bitmap block: 1 MiB with a
bit for each sector, lowest bit first, which tells of partially present blocks of a differencing
disk what is here and what is the parent's::

    BAT   p0 p1 ... pr-1 | bitmap of chunk 0 | pr ... | bitmap of chunk 1 | ...

Tables are read in pages when needed and kept in a bounded cache. Nothing is believed before it is
checked. Writing is in `allocation`, a subclass. Spec: MS-VHDX 2.4, 2.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Extent, Kind, Span, joined_spans
from vmimg.disk.layer import Layer
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import VhdxImage
from vmimg.storage.base import Storage
from vmimg.units import KIB, MIB

__all__ = ["PAGE", "Entries", "VhdxLayer"]

Entries = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

PAGE: Final = 64 * KIB
"""Bytes of a page of BAT or sector bitmap."""
# 8 MiB of pages: the whole BAT of a disk of 32 TiB in blocks of 32 MiB.
_PAGES: Final = 128
# Of the BAT, searched through at a time for an entry that says anything.
_SCAN: Final = MIB
_SCAN_MOST: Final = 64 * MIB

# Blocks that `map` looks up at a time.
_MAP_BLOCKS: Final = 1 << 16

_STATE = np.uint64(s.STATE_MASK)
_OFFSET = np.uint64(s.OFFSET_MASK)

# The kind of a block by its state, without and above a parent. 255: there is no such state.
_KINDS: Final = np.array(
    [
        [Kind.ABSENT] * 4 + [255, Kind.ABSENT, Kind.DATA, 255],
        [Kind.ABSENT, Kind.ZERO, Kind.ZERO, Kind.ZERO, 255, Kind.ZERO, Kind.DATA, Kind.DATA],
    ],
    np.uint8,
)


class VhdxLayer(BlockLayer):
    """One VHDX file, its log replayed. ``image`` is what stands in front of its blocks."""

    format = "vhdx"

    def __init__(self, storage: Storage, image: VhdxImage) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.image = image
        self.name = storage.name
        self.size = image.size
        self.block_size = image.block_size
        self.unit_size = image.logical_sector_size if image.has_parent else self.block_size
        self.granularity = self.unit_size if image.has_parent else 1
        if image.locator is not None:
            self.parent = image.locator.reference(storage.name)
        self._ratio = image.chunk_ratio
        self._kinds = _KINDS[int(image.has_parent)]
        self._pages = PageCache(self._load_page, _PAGES)

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._payload_entries(first, count)
        states = entries & _STATE
        kinds = self._kinds[states]
        held = kinds == Kind.DATA
        offsets = np.where(held, (entries & _OFFSET).view(np.int64), np.int64(-1))
        self._check(first, entries, kinds, offsets)
        return Blocks(kinds, offsets, detail=states)

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        assert blocks.detail is not None
        count, unit = len(blocks.kinds), self.unit_size
        per_block = self.block_size // unit
        kinds = np.repeat(blocks.kinds, per_block).reshape(count, per_block)
        partial = np.flatnonzero(blocks.detail == s.PARTIALLY_PRESENT)
        for number in partial.tolist():
            bits = np.unpackbits(self._bitmap(first + number), bitorder="little")
            kinds[number] = bits * np.uint8(Kind.DATA)
        steps = np.arange(per_block, dtype=np.int64) * unit
        offsets = blocks.offsets[:, None] + steps
        offsets[kinds != Kind.DATA] = -1
        return Blocks(kinds.reshape(-1), offsets.reshape(-1))

    def skip_absent(self, first: int) -> int:
        blocks = self.image.blocks
        at = self.index(first)
        if not self._says_something(np.array([self._entry(at)], np.uint64))[0]:
            at = self.search(at + 1, self.index(blocks - 1) + 1)
        else:
            return first
        # An entry of a sector bitmap stands for the block behind it.
        row, column = divmod(at, self._ratio + 1)
        return min(blocks, row * self._ratio + column)

    def spans(self, start: int, end: int) -> Iterator[Span]:
        # Blocks are large, and where nobody wrote into one the file has holes. They need not be
        # read; `map` still says where they are.
        return joined_spans(self._pieces(start, end))

    def _pieces(self, start: int, end: int) -> Iterator[Span]:
        for extent in self.map(start, end):
            if extent.offset is None:
                yield extent.start, extent.end, extent.kind
                continue
            stop = min(extent.offset + extent.length, self.storage.size)
            shift = extent.start - extent.offset
            for low, high, hole in self.storage.extents(extent.offset, stop):
                yield low + shift, high + shift, Kind.ZERO if hole else Kind.DATA
            if stop + shift < extent.end:
                yield max(stop + shift, extent.start), extent.end, Kind.DATA

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        # Block by block where a block is one thing, which nearly all are: sectors are 65536 times
        # as many.
        size = self.block_size
        while start < end:
            first = start // size
            present = self.skip_absent(first)
            if present > first:
                stop = min(end, present * size)
                yield Extent(start, stop - start, Kind.ABSENT)
                start = stop
                continue
            count = min(-(-end // size) - first, _MAP_BLOCKS)
            blocks = self._blocks(first, count)
            kinds, offsets = blocks.kinds, blocks.offsets
            assert blocks.detail is not None
            partial = blocks.detail == s.PARTIALLY_PRESENT
            follows = np.where(offsets[:-1] < 0, -1, offsets[:-1] + size)
            breaks = (kinds[1:] != kinds[:-1]) | (offsets[1:] != follows)
            breaks |= partial[1:] | partial[:-1]
            for low, high in pairwise([0, *(np.flatnonzero(breaks) + 1).tolist(), count]):
                position, base = max(start, (first + low) * size), (first + low) * size
                stop = min(end, (first + high) * size)
                if partial[low]:
                    yield from super()._extents(position, stop)
                    continue
                offset = int(offsets[low])
                place = offset + position - base if offset >= 0 else None
                yield Extent(position, stop - position, Kind(kinds[low]), place)
            start = min(end, (first + count) * size)

    def _blocks(self, first: int, count: int) -> Blocks:
        """`lookup`, for `map`; a writable layer sees to it that it is one moment's."""
        return self.lookup(first, count)

    def parent_mismatch(self, parent: Layer) -> str | None:
        if self.image.locator is None or not isinstance(parent, VhdxLayer):
            return None
        linkages = self.image.locator.linkages
        found = s.guid_text(parent.image.header.data_write_guid)
        if not linkages or found in linkages:
            return None
        return f"has the DataWriteGuid {found}, and it was made above {' or '.join(linkages)}"

    def close(self) -> None:
        self.storage.close()

    # The BAT

    def index(self, block: int) -> int:
        """The BAT entry of a block."""
        return block + block // self._ratio

    def bitmap_index(self, chunk: int) -> int:
        """The BAT entry of a chunk's sector bitmap."""
        return chunk * (self._ratio + 1) + self._ratio

    def _payload_entries(self, first: int, count: int) -> Entries:
        low, high = self.index(first), self.index(first + count - 1) + 1
        entries = self.entries(low, high)
        if high - low == count:
            return entries
        numbers = np.arange(first, first + count, dtype=np.int64)
        found: Entries = entries[numbers + numbers // self._ratio - low]
        return found

    def entries(self, low: int, high: int) -> Entries:
        """BAT entries [low, high): uint64, a copy."""
        entries = np.empty(high - low, np.uint64)
        per_page = PAGE // s.BAT_ENTRY
        position = low
        while position < high:
            page, start = divmod(position, per_page)
            stop = min(per_page, start + high - position)
            table = self._pages.get(self.image.bat.offset + page * PAGE).view("<u8")
            entries[position - low : position - low + stop - start] = table[start:stop]
            position += stop - start
        return entries

    def _entry(self, index: int) -> int:
        return int(self.entries(index, index + 1)[0])

    def _load_page(self, offset: int) -> Bytes:
        """The page at ``offset`` of the file: uint8[PAGE]."""
        return np.frombuffer(self.storage.read(offset, PAGE), np.uint8)

    def holds_place(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries keep the place that they name."""
        states = entries & _STATE
        # The offset of absent and zero blocks is reserved; undefined and unmapped ones may keep
        # theirs.
        held: NDArray[np.bool_] = (states != s.NOT_PRESENT) & (states != s.ZERO)
        held &= (states >= s.FULLY_PRESENT) | ((entries & _OFFSET) != 0)
        return held

    def _says_something(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries (of payload blocks, or else harmless) are not simply absent."""
        states = entries & _STATE
        says: NDArray[np.bool_] = states != s.NOT_PRESENT
        if not self.image.has_parent:
            # Undefined and unmapped blocks may keep their place in the file.
            says &= ((entries & _OFFSET) != 0) | (states == 4) | (states >= s.FULLY_PRESENT)
            says &= states != s.ZERO
        return says

    def search(self, low: int, high: int) -> int:
        """The first BAT entry in [low, high) that says something, or ``high``; may stop early, at
        one that does not.
        """
        start = self.image.bat.offset + low * s.BAT_ENTRY
        limit = min(self.image.bat.offset + high * s.BAT_ENTRY, start + _SCAN_MOST)
        end = self.image.bat.offset + high * s.BAT_ENTRY
        for begin, stop, hole in self.storage.extents(start, end):
            if hole:
                continue
            # Holes of a file do not end in the middle of an entry, but nobody promises that.
            begin -= begin % s.BAT_ENTRY
            while begin < stop:
                if begin >= limit:
                    return (begin - self.image.bat.offset) // s.BAT_ENTRY
                length = min(_SCAN, stop - begin + -(stop - begin) % s.BAT_ENTRY)
                entries = np.frombuffer(self.storage.read(begin, length), "<u8")
                # Of what is mostly absent or zero this is a fifth of the time.
                quiet = s.NOT_PRESENT if self.image.has_parent else s.UNMAPPED
                if entries.max() > quiet:
                    found = np.flatnonzero(self._says_something(entries))
                    if len(found):
                        return (begin - self.image.bat.offset) // s.BAT_ENTRY + int(found[0])
                begin += length
        return high

    # Sector bitmaps

    def _bitmap(self, block: int) -> Bytes:
        """The bits of a partially present block: uint8[sectors of a block / 8]."""
        chunk, number = divmod(block, self._ratio)
        place = self._bitmap_place(chunk)
        if place < 0:
            raise FormatError(
                f"{self.name}: the block of virtual offset {block * self.block_size} is partially "
                "present, but its chunk has no sector bitmap: the BAT is damaged"
            )
        length = self.block_size // self.unit_size // 8
        start, bits = place + number * length, np.empty(length, np.uint8)
        position = start
        while position < start + length:
            page, low = position - position % PAGE, position % PAGE
            high = min(PAGE, low + start + length - position)
            target = position - start
            bits[target : target + high - low] = self._pages.get(page)[low:high]
            position += high - low
        return bits

    def _bitmap_place(self, chunk: int) -> int:
        """Where a chunk's sector bitmap block is, -1 where it has none."""
        entry = self._entry(self.bitmap_index(chunk))
        if entry & s.STATE_MASK == s.BITMAP_NOT_PRESENT:
            return -1
        place = entry & s.OFFSET_MASK
        if entry & s.STATE_MASK != s.BITMAP_PRESENT or not self._is_room(place, s.BITMAP_BLOCK):
            raise FormatError(
                f"{self.name}: the BAT entry {entry:#018x} of the sector bitmap of chunk {chunk} "
                "cannot be: the BAT is damaged"
            )
        return place

    # Checks

    def _is_room(self, place: int, length: int) -> bool:
        """Whether a block may lie there: inside the file, and over no structure."""
        if place + length > self.storage.size:
            return False
        return not any(start < place + length and place < end for start, end in self.structures())

    def structures(self) -> list[tuple[int, int]]:
        """(start, end) of what is no block."""
        header = self.image.header
        log = (header.log_offset, header.log_offset + header.log_length)
        regions = [(region.offset, region.offset + region.length) for region in self.image.regions]
        return [(0, s.HEADER_SECTION), log, *regions]

    def _check(
        self, first: int, entries: Entries, kinds: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> None:
        wrong, problem = kinds == 255, "has a state that its kind of disk does not know"
        if not wrong.any():
            held, ends = kinds == Kind.DATA, offsets + self.block_size
            # A fixed disk that others cut to length may lack the end of its last block.
            numbers = np.arange(first, first + len(kinds), dtype=np.int64)
            needed = np.minimum(self.block_size, self.size - numbers * self.block_size)
            wrong = held & ((offsets > self.storage.size - needed) | (offsets < 0))
            problem = "lies behind the end of the file"
            if not wrong.any():
                problem = "lies over another structure of the file"
                for start, end in self.structures():
                    wrong |= held & (offsets < end) & (ends > start)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the block of virtual offset {(first + index) * self.block_size} "
                f"(BAT entry {int(entries[index]):#018x}) {problem}: "
                "the file is truncated or damaged"
            )
