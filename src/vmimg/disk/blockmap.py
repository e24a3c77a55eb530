"""BlockLayer: the machine that nearly every disk format is.

The virtual disk is cut into equal blocks (clusters, grains) and a table says where each block lies.
A format gives the block size and one vectorised look-up; this class turns it into coalesced
extents, reads and writes. A format that keeps state inside a block (qcow2 subclusters, sector
bitmaps of VHD and VHDX) sets ``unit_size`` below ``block_size`` and answers `refine` as well. One
whose data is encrypted sets ``cipher``.

Nothing here runs once per block in Python except the decompression of compressed blocks: decisions
are made on arrays, data moves in runs.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Extent, Kind, Span, joined, joined_spans
from vmimg.disk.layer import Layer
from vmimg.errors import FormatError
from vmimg.storage.base import Buffer, Storage
from vmimg.units import align_up

__all__ = ["COMPRESSED", "BlockLayer", "Blocks"]

COMPRESSED: Final = 3
"""Beside the values of Kind, in arrays of kinds: DATA whose block is stored compressed."""

# Look-ups of map() are made over this many blocks at a time: 256 KiB of kinds and 2 MiB of offsets.
_MAP_WINDOW = 1 << 18
# Compressed blocks fetched with one read: bounds the memory of a read and keeps requests large.
_FETCH_BYTES = 4 << 20
# Decompressed blocks kept for readers that ask for less than a block at a time; few of large ones.
_DECODED_BLOCKS = 16
_DECODED_BYTES = 64 << 20

_ABSENT = int(Kind.ABSENT)
_ZERO = int(Kind.ZERO)
_DATA = int(Kind.DATA)
_PUBLIC_KIND = (Kind.ABSENT, Kind.ZERO, Kind.DATA, Kind.DATA)


@dataclass(slots=True)
class Blocks:
    """What a look-up answers for ``n`` consecutive blocks (or, refined, units).

    ``kinds``: uint8[n], a Kind or COMPRESSED. ``offsets``: int64[n], byte offset in the container
    of the data, -1 where there is none; a ZERO block may have one (preallocated). ``lengths``:
    int64[n], bytes to fetch of compressed blocks, None where no block is compressed. ``shared``:
    bool[n], data that something else (a snapshot) refers to as well and that must not be
    overwritten; None where nothing is. ``detail``: whatever the format wants to find again in
    `refine`.
    """

    kinds: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None
    shared: NDArray[np.bool_] | None = None
    detail: NDArray[np.uint64] | None = None

    @classmethod
    def absent(cls, count: int) -> Blocks:
        """``count`` blocks of which the layer knows nothing."""
        return cls(np.zeros(count, np.uint8), np.full(count, -1, np.int64))


class BlockLayer(Layer):
    """A layer of equal blocks. Subclasses set ``size``, ``block_size``, ``data`` and answer
    `lookup`.
    """

    block_size: int
    """Bytes of a block: a power of two times 512."""
    unit_size: int
    """Bytes whose state is known separately; block_size unless the format refines."""
    data: Storage
    """Where block data lies: the image file itself, or an external data file."""
    cipher: DataCipher | None = None
    """How the data of DATA blocks is encrypted; None: it is not. Applied to whole sectors of its
    granularity, wherever a read or write begins: so every place must be a multiple of that.
    Compressed blocks are not encrypted: no format has both."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[int, Buffer] = OrderedDict()
        self._decoded_lock = threading.Lock()
        self._write_lock = threading.RLock()

    # What a format answers

    @abstractmethod
    def lookup(self, first: int, count: int) -> Blocks:
        """The state of blocks ``first`` to ``first + count``, all inside the disk."""

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        """The same, unit by unit: ``n * block_size // unit_size`` entries.

        Called only where ``unit_size < block_size``. Units of a compressed block are COMPRESSED.
        """
        raise NotImplementedError

    def skip_absent(self, first: int) -> int:
        """The first block at or behind ``first`` that may be present.

        Lets a 64 TiB empty image be mapped without visiting its blocks. Answering ``first`` is
        right.
        """
        return first

    def decode(self, data: memoryview) -> Buffer:
        """Decompress one block: exactly block_size bytes, or FormatError."""
        raise NotImplementedError

    def decode_block(self, data: memoryview, virtual: int) -> Buffer:
        """The same where blocks are stored in several ways: that of virtual offset ``virtual``."""
        return self.decode(data)

    # What the machine makes of it

    def map(self, start: int, end: int) -> Iterator[Extent]:
        return joined(self._extents(start, end))

    def spans(self, start: int, end: int) -> Iterator[Span]:
        return joined_spans(self._spans(start, end))

    def _spans(self, start: int, end: int) -> Iterator[Span]:
        for position, until, blocks in self._windows(start, end):
            kinds = blocks.kinds
            if kinds.strides != (0,):  # a gap stays the one element that it is
                kinds = np.minimum(kinds, _DATA)
            base = position // self.unit_size * self.unit_size
            for low, high, kind in _runs(kinds, None, self.unit_size):
                yield (
                    max(position, base + low * self.unit_size),
                    min(until, base + high * self.unit_size),
                    _PUBLIC_KIND[kind],
                )

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        absent: list[tuple[int, int]] = []
        end = offset + len(buffer)
        if offset == end:
            return absent
        unit = self.unit_size
        first_block = offset // self.block_size
        blocks = self.lookup(first_block, -(-end // self.block_size) - first_block)
        fine = blocks
        if unit != self.block_size:
            fine = self.refine(first_block, blocks)
        base = first_block * self.block_size
        for low, high, kind in _runs(fine.kinds, fine.offsets, unit):
            run_start, run_end = base + low * unit, base + high * unit
            start, stop = max(offset, run_start), min(end, run_end)
            if start >= stop:
                continue
            part = buffer[start - offset : stop - offset]
            if kind == _DATA:
                self._read_plain(int(fine.offsets[low]) + start - run_start, start, part)
            elif kind == _ZERO:
                np.frombuffer(part, np.uint8)[:] = 0
            elif kind == COMPRESSED:
                self._read_compressed(first_block, blocks, start, part)
            else:
                absent.append((start, stop))
        return absent

    def _windows(self, start: int, end: int) -> Iterator[tuple[int, int, Blocks]]:
        """(start, end, state of the units of it) of consecutive pieces that cover [start, end)."""
        block_size = self.block_size
        while start < end:
            first = start // block_size
            present = self.skip_absent(first)
            if present > first:
                until = min(end, present * block_size)
                yield start, until, _gap(-(-until // self.unit_size) - start // self.unit_size)
                start = until
                continue
            count = min(-(-end // block_size) - first, _MAP_WINDOW * self.unit_size // block_size)
            count = max(1, count)
            blocks = self._units(first, count)
            until = min(end, (first + count) * block_size)
            if self.unit_size != block_size:
                # The window may begin inside its first block and end inside its last.
                unit, base = self.unit_size, first * block_size
                part = slice((start - base) // unit, -(-(until - base) // unit))
                blocks = Blocks(blocks.kinds[part], blocks.offsets[part])
            yield start, until, blocks
            start = until

    def _units(self, first: int, count: int) -> Blocks:
        """The state of the units of blocks; a writable layer sees to it that it is one moment's."""
        blocks = self.lookup(first, count)
        return blocks if self.unit_size == self.block_size else self.refine(first, blocks)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        unit, plain = self.unit_size, self.cipher is None
        for position, until, blocks in self._windows(start, end):
            base = position // unit * unit
            for low, high, kind in _runs(blocks.kinds, blocks.offsets, unit):
                run_start = base + low * unit
                first, last = max(position, run_start), min(until, base + high * unit)
                compressed = kind == COMPRESSED
                offset = int(blocks.offsets[low]) if plain and not compressed else -1
                yield Extent(
                    first,
                    last - first,
                    _PUBLIC_KIND[kind],
                    offset + first - run_start if offset >= 0 else None,
                    compressed,
                )

    def _read_plain(self, place: int, virtual: int, part: memoryview) -> None:
        if self.cipher is None:
            self._read_stored(place, virtual, part)
            return
        grain = self.cipher.granularity
        before = virtual % grain
        if not before and not len(part) % grain:
            self._read_stored(place, virtual, part)
            self.cipher.decrypt(place, virtual, part)
            return
        whole = memoryview(bytearray(align_up(before + len(part), grain)))
        self._read_stored(place - before, virtual - before, whole)
        self.cipher.decrypt(place - before, virtual - before, whole)
        part[:] = whole[before : before + len(part)]

    def _read_stored(self, place: int, virtual: int, part: memoryview) -> None:
        """Fill ``part`` with what the file has at ``place``."""
        beyond = place + len(part) - self.data.size
        if beyond > 0:
            # A writer may end its file inside the last block when nothing of the disk lies there.
            # Anything else that is missing was cut off, and must not read as zeros.
            here = len(part) - beyond
            if here < 0 or virtual + here < self.size:
                raise FormatError(
                    f"{self.name}: data of virtual offset {virtual} is said to be at {place} of "
                    f"{self.data.name}, which ends at {self.data.size}: it is truncated or damaged"
                )
            np.frombuffer(part, np.uint8)[here:] = 0
            part = part[:here]
        self.data.read_into(place, part)

    def _read_compressed(self, first: int, blocks: Blocks, start: int, part: memoryview) -> None:
        """Fill ``part``, virtual bytes from ``start``, all of it in compressed blocks."""
        size = self.block_size
        assert blocks.lengths is not None
        end = start + len(part)
        index, last = start // size - first, -(-end // size) - first
        while index < last:
            stop = _fetchable(blocks, index, last)
            low = int(blocks.offsets[index:stop].min())
            high = int((blocks.offsets[index:stop] + blocks.lengths[index:stop]).max())
            fetched: memoryview | None = None
            for number in range(index, stop):
                virtual = (first + number) * size
                place, length = int(blocks.offsets[number]), int(blocks.lengths[number])
                whole = start <= virtual and virtual + size <= end
                decoded = None if whole else self._recall(place)
                if decoded is None:
                    if fetched is None:
                        fetched = self._fetch(low, high)
                    decoded = self._decode_at(fetched[place - low : place - low + length], virtual)
                    if not whole:
                        self._remember(place, decoded)
                first_byte, last_byte = max(start, virtual), min(end, virtual + size)
                part[first_byte - start : last_byte - start] = memoryview(decoded)[
                    first_byte - virtual : last_byte - virtual
                ]
            index = stop

    def _fetch(self, low: int, high: int) -> memoryview:
        # The length of compressed data is counted in sectors and may reach past the end of the
        # file.
        high = min(high, self.data.size)
        if low >= high:
            raise FormatError(
                f"{self.name}: compressed data is said to be at {low}, but the file ends at "
                f"{self.data.size}: it is truncated or damaged"
            )
        buffer = memoryview(bytearray(high - low))
        self.data.read_into(low, buffer)
        return buffer

    def _decode_at(self, data: memoryview, virtual: int) -> Buffer:
        try:
            return self.decode_block(data, virtual)
        except FormatError as error:
            raise FormatError(
                f"{self.name}: the compressed block of virtual offset {virtual} is damaged: {error}"
            ) from None

    def _recall(self, place: int) -> Buffer | None:
        with self._decoded_lock:
            return self._decoded.get(place)

    def _remember(self, place: int, decoded: Buffer) -> None:
        most = max(1, min(_DECODED_BLOCKS, _DECODED_BYTES // self.block_size))
        with self._decoded_lock:
            self._decoded[place] = decoded
            while len(self._decoded) > most:
                self._decoded.popitem(last=False)

    def _forget_decoded(self) -> None:
        """To be called when compressed data may have been replaced."""
        with self._decoded_lock:
            self._decoded.clear()


def _gap(count: int) -> Blocks:
    """ABSENT blocks, as many as one likes: a stride of zero takes neither memory nor time."""
    return Blocks(
        np.broadcast_to(np.zeros(1, np.uint8), (count,)),
        np.broadcast_to(np.full(1, -1, np.int64), (count,)),
    )


def _fetchable(blocks: Blocks, index: int, last: int) -> int:
    """How far from block ``index`` one read can fetch without much that nobody asked for."""
    assert blocks.lengths is not None
    offsets, ends = (
        blocks.offsets[index:last],
        blocks.offsets[index:last] + blocks.lengths[index:last],
    )
    reach = np.maximum.accumulate(ends) - np.minimum.accumulate(offsets)
    wanted = np.cumsum(blocks.lengths[index:last])
    poor = np.flatnonzero((reach > _FETCH_BYTES) | (reach > 2 * wanted + 4096))
    return index + (max(1, int(poor[0])) if len(poor) else last - index)


def _runs(
    kinds: NDArray[np.uint8], offsets: NDArray[np.int64] | None, unit: int
) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, kind) of runs of like units; in plain ones the offsets go on, too."""
    count = len(kinds)
    if count == 0:
        return
    if kinds.strides[0] == 0 and (offsets is None or offsets.strides[0] == 0):
        yield 0, count, int(kinds[0])
        return
    breaks = kinds[1:] != kinds[:-1]
    if offsets is not None:
        follows = np.where(offsets[:-1] < 0, -1, offsets[:-1] + unit)
        breaks |= (offsets[1:] != follows) & (kinds[1:] != COMPRESSED)
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), count]
    starts = kinds[edges[:-1]].tolist()
    yield from zip(edges[:-1], edges[1:], starts, strict=True)
