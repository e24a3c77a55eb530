"""QcowWriter: lays out a new qcow image. Places clusters, never touches guest data.

::

    header | name of the backing file | L1 | clusters, packed compressed ones, each L2 table behind
    the clusters that it maps

as QEMU does, but that its L2 tables stand in front of their clusters. All of it is appended, so a
finished part never changes; the L1 table is known at the end. Imports the writer contract and
numpy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.layer import ParentRef
from vmimg.errors import OptionError
from vmimg.formats.driver import Writer
from vmimg.formats.qcow import structures as s
from vmimg.formats.qcow.header import QcowHeader, pack_header
from vmimg.formats.qcow.layer import L1_PAGE, Entries
from vmimg.units import align_up

__all__ = ["QcowWriter"]

_EMPTY_PAGE = bytes(8 * L1_PAGE)


class QcowWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes."""

    hides_parent = False

    def __init__(self, size: int, *, parent: ParentRef | None = None) -> None:
        if not size:
            raise OptionError("a qcow image of version 1 cannot be empty: QEMU reads none")
        cluster_bits, l2_bits = s.NEW_BITS if parent is None else s.NEW_CHILD_BITS
        self._header = QcowHeader(
            size=size,
            cluster_bits=cluster_bits,
            l2_bits=l2_bits,
            l1_table_offset=0,
            backing_file=None if parent is None else parent.path,
        )
        self._head = pack_header(self._header)
        self.block_size = self._header.cluster_size
        self.codec = codec("deflate")
        self._end = self._head_end
        """Where the file ends so far."""
        self._l1: dict[int, Entries] = {}
        """The pages of the L1 table that name something."""
        self._tables: dict[int, Entries] = {}

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        size = self.block_size
        offsets = self._allocate(len(blocks) * size) + np.arange(len(blocks), dtype=np.int64) * size
        self._assign(blocks, offsets.view(np.uint64))
        return offsets

    def place_compressed(self, block: int, length: int, note: object) -> int:
        offset = self._end
        self._end += length
        entry = s.COMPRESSED_FLAG | length << 63 - self._header.cluster_bits | offset
        self._assign(np.array([block], np.int64), np.array([entry], np.uint64))
        return offset

    @property
    def settled(self) -> int:
        return self._end

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            if (index + 1) * self._header.l2_entries <= done:
                yield self._close_table(index)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            yield self._close_table(index)
        header = self._header
        # The last page is padded to a sector, as QEMU does.
        room = align_up(8 * header.l1_entries, s.SECTOR)
        for index in range(-(-header.l1_entries // L1_PAGE)):
            start = 8 * L1_PAGE * index
            page = self._l1.get(index)
            data = _EMPTY_PAGE if page is None else page.astype(">u8").tobytes()
            yield header.l1_table_offset + start, data[: min(len(data), room - start)]
        yield 0, self._head

    def full_size(self) -> int:
        header, size = self._header, self.block_size
        end = align_up(self._head_end, size)
        return end + header.clusters * size + header.l1_entries * align_up(header.l2_bytes, size)

    @property
    def file_size(self) -> int:
        return self._end

    @property
    def _head_end(self) -> int:
        return len(self._head) + align_up(8 * self._header.l1_entries, s.SECTOR)

    def _allocate(self, length: int) -> int:
        """The offset of ``length`` bytes at the end of the file, on a cluster boundary."""
        offset = align_up(self._end, self.block_size)
        self._end = offset + length
        return offset

    def _assign(self, blocks: NDArray[np.int64], entries: Entries) -> None:
        """Put ``entries`` of ``blocks`` (ascending) into their L2 tables."""
        per_table = self._header.l2_entries
        start = 0
        while start < len(blocks):
            index = int(blocks[start]) // per_table
            stop = int(np.searchsorted(blocks, (index + 1) * per_table))
            table = self._tables.get(index)
            if table is None:
                table = self._tables[index] = np.zeros(per_table, np.uint64)
            table[blocks[start:stop] - index * per_table] = entries[start:stop]
            start = stop

    def _close_table(self, index: int) -> tuple[int, bytes]:
        table = self._tables.pop(index)
        offset = self._allocate(self._header.l2_bytes)
        number, row = divmod(index, L1_PAGE)
        page = self._l1.get(number)
        if page is None:
            page = self._l1[number] = np.zeros(L1_PAGE, np.uint64)
        page[row] = offset
        return offset, table.astype(">u8").tobytes()
