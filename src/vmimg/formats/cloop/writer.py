"""CloopWriter: lays out a new cloop of version 2.0. Places blocks, never touches guest data.

::

    header | n + 1 offsets | block 0 | block 1 | ...

Every block is stored, one of zeros as well: extract_compressed_fs and QEMU take the end of a block
for the beginning of the next one, so that blocks cannot share their data. What is not placed gets
the same compressed zeros each time, which come with the metadata. A header has no size in bytes, so
a disk has whole blocks: a block size is chosen that divides it.

Imports the writer contract and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.runs import runs
from vmimg.errors import OptionError
from vmimg.formats.cloop import structures as s
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.units import KIB, MIB, format_exact

__all__ = ["CloopWriter", "choose_block_size"]

_USUAL_BLOCK: Final = 64 * KIB
# create_compressed_fs warns of larger ones.
_LARGEST_CHOSEN: Final = 256 * KIB
# Offsets handed out at a time: half a MiB.
_PAGE_ENTRIES: Final = 1 << 16
# Zeros handed out at a time.
_ZEROS_BYTES: Final = MIB


def choose_block_size(size: int) -> int:
    """The block size for a disk of ``size`` bytes: of what divides it, the nearest to 64 KiB."""
    if size % _USUAL_BLOCK == 0:
        block = _USUAL_BLOCK
        # QEMU's limit is one of the number of blocks.
        while size // block > s.MAX_NEW_BLOCKS and size % (2 * block) == 0:
            block *= 2
        return block
    sectors, usual = size // 512, _USUAL_BLOCK // 512
    fitting = [n for n in range(1, _LARGEST_CHOSEN // 512 + 1) if sectors % n == 0]
    return 512 * min(fitting, key=lambda n: max(n, usual) / min(n, usual))


class CloopWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed.

    Memory: a page of the index.
    """

    compressed_only = True
    hides_parent = False

    def __init__(self, size: int, options: Mapping[str, OptionValue]) -> None:
        self.block_size = _block_size(size, options)
        self.codec = codec("zlib")
        self._blocks = size // self.block_size
        if self._blocks > s.MAX_NEW_BLOCKS:
            raise OptionError(
                f"a disk of {format_exact(size)} needs larger blocks than {self.block_size} bytes: "
                "QEMU reads no cloop of 2^26 or more; pass cluster_size, and --align with the "
                "same number"
            )
        self._zero = bytes(self.codec.compress(bytes(self.block_size), "best"))
        self._position = s.HEAD_SIZE + s.OFFSET_SIZE * (self._blocks + 1)
        """Where the next block goes."""
        self._next = 0
        """Its number."""
        self._page: NDArray[Any] = np.zeros(_PAGE_ENTRIES, ">u8")
        self._closed: list[tuple[int, bytes]] = []
        """Pages of the index that are complete and were not handed out yet."""
        self._gaps: list[tuple[int, int]] = []
        """Address and number of blocks of zeros that were not handed out yet."""

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """For estimates only: as if no block got smaller."""
        places = np.empty(len(blocks), np.int64)
        for low, high in runs(blocks):
            self._zeros_to(int(blocks[low]))
            places[low:high] = self._position + np.arange(high - low) * self._most
            self._append(high - low, self._most)
        return places

    def place_compressed(self, block: int, length: int, note: Any) -> int:
        self._zeros_to(block)
        place = self._position
        self._append(1, length)
        return place

    @property
    def settled(self) -> int:
        return self._gaps[0][0] if self._gaps else self._position

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        self._zeros_to(done)
        yield from self._waiting()

    def finish(self) -> Iterator[tuple[int, bytes]]:
        self._zeros_to(self._blocks)
        row = self._next % _PAGE_ENTRIES
        self._page[row] = self._position
        start = s.HEAD_SIZE + s.OFFSET_SIZE * (self._next - row)
        self._closed.append((start, self._page[: row + 1].tobytes()))
        yield from self._waiting()
        head = s.Head(s.PREAMBLE, self.block_size, self._blocks)
        yield 0, bytes(head)

    def full_size(self) -> int:
        return s.HEAD_SIZE + s.OFFSET_SIZE * (self._blocks + 1) + self._blocks * self._most

    @property
    def file_size(self) -> int:
        return self._position

    @property
    def _most(self) -> int:
        """Bytes of a block that does not compress: libdeflate's bound, the coders' largest."""
        return self.block_size + 5 * (self.block_size // 5000 + 1) + 16

    def _zeros_to(self, block: int) -> None:
        """Zeros for all blocks below ``block`` that have no place."""
        count = block - self._next
        if count > 0:
            self._gaps.append((self._position, count))
            self._append(count, len(self._zero))

    def _append(self, count: int, length: int) -> None:
        """Give the next ``count`` blocks, of ``length`` bytes each, their places."""
        while count:
            row = self._next % _PAGE_ENTRIES
            part = min(count, _PAGE_ENTRIES - row)
            if part == 1:
                self._page[row] = self._position
            else:
                self._page[row : row + part] = self._position + np.arange(part) * length
            self._position += part * length
            self._next += part
            count -= part
            if row + part == _PAGE_ENTRIES:
                start = s.HEAD_SIZE + s.OFFSET_SIZE * (self._next - _PAGE_ENTRIES)
                self._closed.append((start, self._page.tobytes()))

    def _waiting(self) -> Iterator[tuple[int, bytes]]:
        """What was placed here and is to be written."""
        gaps, self._gaps = self._gaps, []
        at_once = max(1, _ZEROS_BYTES // len(self._zero))
        for address, count in gaps:
            while count:
                part = min(count, at_once)
                yield address, self._zero * part
                address += part * len(self._zero)
                count -= part
        yield from self._closed
        self._closed.clear()


def _block_size(size: int, options: Mapping[str, OptionValue]) -> int:
    if "cluster_size" not in options:
        return choose_block_size(size)
    block = int(options["cluster_size"])
    if not 512 <= block <= s.MAX_BLOCK_SIZE or block % 512:
        raise OptionError(f"cluster_size is a multiple of 512 up to 64M, not {block}")
    if size % block:
        raise OptionError(
            f"a cloop has whole blocks, and a disk of {size} bytes is not a multiple of "
            f"cluster_size={block}: pass --align {block}, or leave cluster_size away"
        )
    return block
