"""SparseWriter: lays out hosted sparse disks, in one file or in pieces of 2 GiB.

Each file, every part of it known beforehand but the entries of the tables::

    header | descriptor | redundant directory | its tables | directory | tables | pad | grains

monolithicSparse is one such file. twoGbMaxExtentSparse is a descriptor, NAME.vmdk, and pieces
NAME-s001.vmdk, NAME-s002.vmdk, ... without one. The tables lie where VMware puts them, in front and
contiguous. A table that maps nothing is never written: it is a hole, and reads as zeros.

Spec: VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError
from vmimg.formats.driver import Companion, Writer
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.flatwriter import FIRST_COMPANION, SPLIT_SECTORS
from vmimg.formats.vmdk.newdescriptor import ExtentLine, NewDescriptor
from vmimg.units import GIB, align_up, format_size

__all__ = ["DESCRIPTOR_SECTORS", "GRAIN", "SparseWriter", "new_header"]

GRAIN: Final = s.DEFAULT_GRAIN_SECTORS * s.SECTOR
"""Bytes of a grain."""
DESCRIPTOR_SECTORS: Final = 20
"""Of an embedded descriptor: what every tool reserves."""

_GT_SECTORS: Final = s.GTES_PER_GT * 4 // s.SECTOR
_GT_BYTES: Final = _GT_SECTORS * s.SECTOR
# Between the starts of two pieces. A piece and its tables are a little larger than 2 GiB.
_STRIDE: Final = 4 * GIB


class SparseWriter(Writer):
    """See Writer. Tables are handed out as soon as they are complete."""

    block_size = GRAIN

    def __init__(self, new: NewDescriptor) -> None:
        self._new = new
        self.hides_parent = new.zeroed_grain
        self._split = new.subformat == "twoGbMaxExtentSparse"
        most = SPLIT_SECTORS if self._split else max(1, new.sectors)
        starts = range(0, max(1, new.sectors), most)
        self._per_piece = -(-most // s.DEFAULT_GRAIN_SECTORS)
        """Grains of a piece but the last."""
        self._pieces = [
            _Piece(
                min(most, new.sectors - start),
                FIRST_COMPANION + number * _STRIDE if self._split else 0,
                embedded=not self._split,
            )
            for number, start in enumerate(starts)
        ]
        for piece in self._pieces:
            piece.check_size()
        names = [new.name]
        if self._split:
            names = [f"{new.stem}-s{number:03}.vmdk" for number in range(1, len(self._pieces) + 1)]
            self.companions = tuple(
                Companion(name, piece.address)
                for name, piece in zip(names, self._pieces, strict=True)
            )
        self._extents = [
            ExtentLine(piece.sectors, "SPARSE", name)
            for name, piece in zip(names, self._pieces, strict=True)
        ]
        self._text()  # fails now, not after hours, when names do not fit
        self._tables: dict[tuple[int, int], NDArray[np.uint32]] = {}
        """Those that may still get entries, by piece and number."""
        self._file_size = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        self._new.placed(blocks)
        places = np.empty(len(blocks), np.int64)
        for number, low, high in self._by_piece(blocks):
            piece = self._pieces[number]
            sectors = piece.allocate(high - low)
            self._assign(number, blocks[low:high], sectors)
            places[low:high] = piece.address + sectors * s.SECTOR
        return places

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        self._new.placed_zeros(blocks)
        for number, low, high in self._by_piece(blocks):
            self._assign(number, blocks[low:high], np.full(high - low, s.GTE_ZERO, np.int64))

    @property
    def settled(self) -> int:
        return 0 if self._split else self._pieces[0].size

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        for key in sorted(self._tables):
            number, table = key
            local = min((table + 1) * s.GTES_PER_GT, self._per_piece)
            if number * self._per_piece + local <= done:
                yield from self._close(key)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for key in sorted(self._tables):
            yield from self._close(key)
        version = 2 if self._new.zeroed_grain else 1
        flags = s.FLAG_NEWLINE_TEST | s.FLAG_REDUNDANT
        if self._new.zeroed_grain:
            flags |= s.FLAG_ZERO_GRAIN
        for piece in self._pieces:
            header = new_header(piece.sectors, version, flags)
            header.descriptorOffset = 1 if piece.embedded else 0
            header.descriptorSize = DESCRIPTOR_SECTORS if piece.embedded else 0
            header.rgdOffset, header.gdOffset = piece.directories
            header.overHead = piece.overhead
            yield piece.address, bytes(header)
            for offset in piece.directories:
                yield piece.address + offset * s.SECTOR, piece.directory(offset)
        text = self._text()
        self._file_size = len(text) if self._split else self._pieces[0].size
        yield 0 if self._split else s.SECTOR, text

    def full_size(self) -> int:
        pieces = sum(piece.full_size for piece in self._pieces)
        return pieces + len(self._text()) if self._split else pieces

    @property
    def file_size(self) -> int:
        return self._file_size

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return tuple(piece.size for piece in self._pieces) if self._split else ()

    def _text(self) -> bytes:
        if self._split:
            return self._new.render(self._extents)
        return self._new.render_embedded(self._extents, DESCRIPTOR_SECTORS)

    def _by_piece(self, blocks: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """(piece, first, last + 1): which of ``blocks`` lie in which piece."""
        low = 0
        while low < len(blocks):
            number = int(blocks[low]) // self._per_piece
            high = int(np.searchsorted(blocks, (number + 1) * self._per_piece))
            yield number, low, high
            low = high

    def _assign(self, number: int, blocks: NDArray[np.int64], entries: NDArray[np.int64]) -> None:
        """Put ``entries`` of ``blocks`` (ascending, all in one piece) into their tables."""
        grains = blocks - number * self._per_piece
        low = 0
        while low < len(grains):
            index = int(grains[low]) // s.GTES_PER_GT
            high = int(np.searchsorted(grains, (index + 1) * s.GTES_PER_GT))
            table = self._tables.get((number, index))
            if table is None:
                table = self._tables[number, index] = np.zeros(s.GTES_PER_GT, "<u4")
            table[grains[low:high] - index * s.GTES_PER_GT] = entries[low:high]
            low = high

    def _close(self, key: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
        number, index = key
        piece, table = self._pieces[number], self._tables.pop(key).tobytes()
        for directory in piece.directories:
            sector = directory + piece.directory_sectors + index * _GT_SECTORS
            yield piece.address + sector * s.SECTOR, table


class _Piece:
    """One sparse file of ``sectors`` of the disk, at ``address``. Offsets count its sectors."""

    def __init__(self, sectors: int, address: int, *, embedded: bool) -> None:
        self.sectors = sectors
        self.address = address
        self.embedded = embedded
        self._grains = -(-sectors // s.DEFAULT_GRAIN_SECTORS)
        self._table_count = -(-self._grains // s.GTES_PER_GT)
        self.directory_sectors = max(1, -(-self._table_count * 4 // s.SECTOR))
        tables = self._table_count * _GT_SECTORS
        first = 1 + (DESCRIPTOR_SECTORS if embedded else 0)
        second = first + self.directory_sectors + tables
        self.directories = (first, second)
        """The redundant one and the other."""
        self.overhead = align_up(second + self.directory_sectors + tables, s.DEFAULT_GRAIN_SECTORS)
        self._next = self.overhead

    def check_size(self) -> None:
        """Raise OptionError when the file could not take all grains."""
        if self.full_size > s.MAX_SPARSE_SECTORS * s.SECTOR:
            raise OptionError(
                f"one sparse file holds less than 2 TiB, not {format_size(self.sectors * 512)}; "
                "subformat=twoGbMaxExtentSparse and monolithicFlat hold more"
            )

    def allocate(self, grains: int) -> NDArray[np.int64]:
        """The sectors of so many new grains."""
        first = self._next
        self._next += grains * s.DEFAULT_GRAIN_SECTORS
        return np.arange(first, self._next, s.DEFAULT_GRAIN_SECTORS, dtype=np.int64)

    def directory(self, offset: int) -> bytes:
        """The grain directory at ``offset``: its tables follow it."""
        first = offset + self.directory_sectors
        entries = first + np.arange(self._table_count, dtype=np.int64) * _GT_SECTORS
        return entries.astype("<u4").tobytes().ljust(self.directory_sectors * s.SECTOR, b"\0")

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._next * s.SECTOR

    @property
    def full_size(self) -> int:
        """Bytes of the file when all grains are there."""
        return self.overhead * s.SECTOR + self._grains * GRAIN


def new_header(sectors: int, version: int, flags: int) -> s.SparseExtentHeader:
    """A header without the offsets, for ``sectors`` of a disk."""
    header = s.SparseExtentHeader(
        magicNumber=s.SPARSE_MAGIC,
        version=version,
        flags=flags,
        capacity=sectors,
        grainSize=s.DEFAULT_GRAIN_SECTORS,
        numGTEsPerGT=s.GTES_PER_GT,
        compressAlgorithm=s.COMPRESSION_NONE,
    )
    (
        header.singleEndLineChar,
        header.nonEndLineChar,
        header.doubleEndLineChar1,
        header.doubleEndLineChar2,
    ) = s.END_OF_LINE_TEST
    return header
