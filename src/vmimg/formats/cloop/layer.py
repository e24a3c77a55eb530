"""CloopLayer: one cloop, for reading. There is no writing in place: blocks follow each other
without room.

The index is read in pages when needed. All blocks are stored, those of zeros too; these are found
by what they are compressed to, so that a sparse disk is as sparse again. Imports the block machine
of disk, and codecs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import Buffer, codec
from vmimg.disk.blockmap import COMPRESSED, BlockLayer, Blocks
from vmimg.disk.extent import Kind
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.cloop import structures as s
from vmimg.formats.cloop.header import CloopHeader
from vmimg.storage.base import Storage

__all__ = ["CloopLayer", "longest"]

# Entries of a page: half a MiB of offsets, for 4 GiB of disk with the usual blocks.
_PAGE_ENTRIES: Final = 1 << 16
_CACHED_PAGES: Final = 32
_COMPARED_BYTES: Final = 4 << 20
# `xz -9` asks for 64 MiB, whatever it compresses; a stream can ask for 4 GiB.
_DICTIONARY: Final = 72 << 20
_CODECS: Final = {s.ZLIB: "zlib", s.XZ: "lzma"}
_OFFSET_MASK: Final = np.uint64((1 << s.FLAGS_SHIFT) - 1)


def longest(block_size: int) -> int:
    """Bytes that a block can take: LZO1X grows by a sixteenth when nothing can be compressed."""
    return block_size + block_size // 16 + 4096


class CloopLayer(BlockLayer):
    """One file of any version."""

    format = "cloop"

    def __init__(self, storage: Storage, header: CloopHeader) -> None:
        super().__init__()
        self.storage = self.data = storage
        self.header = header
        self.name = storage.name
        self.size = header.size
        self.block_size = self.unit_size = self.granularity = header.block_size
        self._offsets = _Table(storage, header.index, ">u8", header.blocks + 1)
        self._zero_blocks: dict[int, NDArray[np.uint8] | None] = {}
        """By their lengths; None where a block of that length is not of zeros."""
        self._short = header.block_size // 256 + 64
        """What compressed zeros have at most."""
        self._flags = None
        if header.flags is not None:
            self._flags = _Table(storage, header.flags, ">u4", header.blocks)

    def lookup(self, first: int, count: int) -> Blocks:
        ways, places = self.places(first, count)
        lengths = np.diff(places)
        plain = ways == s.NONE
        kinds = np.where(plain, np.uint8(Kind.DATA), np.uint8(COMPRESSED))
        # As long as the disk; decode_block fills it up.
        kinds[plain & (lengths < self.block_size)] = COMPRESSED
        offsets = places[:-1].copy()
        short = (ways == s.ZLIB) & (lengths <= self._short)
        if short.any():
            zero = self._find_zeros(places, np.where(short, lengths, 0))
            kinds[zero] = Kind.ZERO
            offsets[zero] = -1
        return Blocks(kinds, offsets, lengths)

    def places(self, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """How the blocks are stored, uint8[count], and where, int64[count + 1]: each ends where the
        next one begins. Raises FormatError for what cannot be.
        """
        entries = self._offsets.read(first, count + 1)
        ways = self.ways(first, entries[:-1])
        if self.header.version == 4:
            entries = entries & _OFFSET_MASK
        # What does not fit into a signed number is behind the end of any file.
        places = np.minimum(entries, np.uint64(np.iinfo(np.int64).max)).astype(np.int64)
        lengths = np.diff(places)
        wrong = (places[1:] > self.storage.size) | (lengths <= 0)
        wrong |= lengths > longest(self.block_size)
        unlike = (ways == s.NONE) & (lengths != self.block_size)
        last = self.header.blocks - 1 - first
        if last < count and lengths[last] < self.block_size:
            unlike[last] = False
        wrong |= unlike
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"{self.name}: the block of virtual offset {(first + index) * self.block_size} is "
                f"said to be at {int(places[index])} to {int(places[index + 1])} of a file of "
                f"{self.storage.size} bytes: it is truncated or damaged"
            )
        return ways, places

    def ways(self, first: int, entries: NDArray[Any]) -> NDArray[np.uint8]:
        """How the blocks from ``first``, whose entries these are, are stored: uint8[n]."""
        ways = np.zeros(len(entries), np.uint8)
        if self.header.version == 4:
            ways[:] = entries >> np.uint64(s.FLAGS_SHIFT)
        elif self._flags is not None:
            flags = self._flags.read(first, len(entries))
            ways[:] = s.NONE
            for bit, way in reversed(s.FLAGS3):
                ways[flags & np.uint32(bit) != 0] = way
        return ways

    def decode_block(self, data: memoryview, virtual: int) -> Buffer:
        number = virtual // self.block_size
        way = s.ZLIB
        if self.header.version != 2:
            way = int(self.ways(number, self._offsets.read(number, 1))[0])
        block = self._unpack(data, way, last=number == self.header.blocks - 1)
        missing = self.block_size - len(block)
        if not missing:
            return block
        # Some makers end the last block where the disk ends.
        if number < self.header.blocks - 1 or not block:
            raise FormatError(f"it holds {len(block)} of {self.block_size} bytes")
        return bytes(block) + bytes(missing)

    def close(self) -> None:
        self.storage.close()

    def _find_zeros(
        self, places: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which blocks are of zeros, of those that have a length here: bool[n].

        One program compresses zeros to the same bytes each time. So a run of blocks of one length
        is compared with one that was decompressed: a fiftieth of the work of doing so with each.
        """
        zero = np.zeros(len(lengths), np.bool_)
        edges = np.flatnonzero(lengths[1:] != lengths[:-1]) + 1
        for low, high in pairwise([0, *edges.tolist(), len(lengths)]):
            length = int(lengths[low])
            if not length:
                continue
            known = self._zero_block(int(places[low]), length)
            if known is None:
                continue
            at_once = max(1, _COMPARED_BYTES // length)
            for start in range(low, high, at_once):
                stop = min(high, start + at_once)
                data = self.storage.read(int(places[start]), (stop - start) * length)
                rows = np.frombuffer(data, np.uint8).reshape(-1, length)
                zero[start:stop] = (rows == known).all(axis=1)
        return zero

    def _zero_block(self, place: int, length: int) -> NDArray[np.uint8] | None:
        """What a block of zeros of that length is compressed to, going by the one at ``place``."""
        if length not in self._zero_blocks:
            data, known = self.storage.read(place, length), None
            try:
                block = codec("zlib").decompress(data, self.block_size)
                if not np.frombuffer(block, np.uint8).any():
                    known = np.frombuffer(data, np.uint8)
            except FormatError:
                pass  # whoever reads the block says so
            self._zero_blocks[length] = known
        return self._zero_blocks[length]

    def _unpack(self, data: memoryview, way: int, *, last: bool) -> Buffer:
        if way in _CODECS:
            try:
                return codec(_CODECS[way]).decompress(data, self.block_size)
            except FormatError:
                if not last:
                    raise
            return _short(data, self.block_size, way)
        if way == s.NONE:
            return data
        if way == s.LZ4:
            from vmimg.codecs import lz4

            return lz4.decompress(data, self.block_size)
        if way == s.LZO1X:
            from vmimg.codecs import lzo

            return lzo.decompress(data, self.block_size)
        raise UnsupportedFeature(
            f"{self.name}: blocks compressed by method {way}, which cloop.h does not name"
        )


def _short(data: memoryview, size: int, way: int) -> bytes:
    """What the stream of a last block holds, which may be less than ``size`` bytes."""
    import lzma
    import zlib

    decoder: Any = zlib.decompressobj()
    try:
        if way == s.XZ:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY)
        block: bytes = decoder.decompress(data, size)
    except (zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"the compressed data is corrupt ({error})") from None
    if not decoder.eof:
        raise FormatError(f"the compressed data does not end after {len(block)} bytes")
    return block


class _Table:
    """``count`` numbers of ``storage`` from ``offset``, read in pages."""

    def __init__(self, storage: Storage, offset: int, dtype: str, count: int) -> None:
        self._storage = storage
        self._offset = offset
        self._dtype = np.dtype(dtype)
        self._count = count
        self._pages: PageCache[NDArray[Any]] = PageCache(self._load, _CACHED_PAGES)

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Numbers ``first`` to ``first + count``, in native byte order; not to be changed."""
        index, row = divmod(first, _PAGE_ENTRIES)
        if row + count <= _PAGE_ENTRIES:
            return self._pages.get(index)[row : row + count]
        parts = []
        while count > 0:
            part = self._pages.get(index)[row : row + count]
            parts.append(part)
            count -= len(part)
            index, row = index + 1, 0
        return np.concatenate(parts)

    def _load(self, index: int) -> NDArray[Any]:
        first = index * _PAGE_ENTRIES
        count = min(_PAGE_ENTRIES, self._count - first)
        width = self._dtype.itemsize
        data = self._storage.read(self._offset + width * first, width * count)
        return np.frombuffer(data, self._dtype).astype(self._dtype.newbyteorder("="))
