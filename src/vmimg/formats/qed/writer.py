"""QedWriter: lays out a new QED image. Places clusters, never touches guest data.

::

    header | L1 table | data clusters, each L2 table behind the data it maps

What is behind the L1 table is appended, so a finished part never changes and memory stays bounded;
header and L1 table are known at the end. Imports the writer contract and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.layer import ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import QedHeader, max_size, pack_header
from vmimg.formats.qed.layer import Entries, page_entries
from vmimg.units import format_size

__all__ = ["QedWriter"]


class QedWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed."""

    def __init__(
        self, size: int, options: Mapping[str, OptionValue], *, parent: ParentRef | None = None
    ) -> None:
        self._header = _new_header(size, options, parent)
        self.block_size = self._header.cluster_size
        self._per_page = page_entries(self._header)
        self._l1: dict[int, int] = {}
        """Offsets of the tables that were handed out."""
        self._tables: dict[int, dict[int, Entries]] = {}
        """The others that have entries, by their numbers: pages of them, by the first cluster."""
        self._next = self._header.header_size + self._header.table_size
        """The next free cluster of the file."""

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets = (self._next + np.arange(len(blocks), dtype=np.int64)) * self.block_size
        self._next += len(blocks)
        self._assign(blocks, offsets.astype(np.uint64))
        return offsets

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        self._assign(blocks, np.full(len(blocks), s.ZERO, np.uint64))

    @property
    def settled(self) -> int:
        return self.file_size

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            if (index + 1) * self._header.entries <= done:
                yield from self._close_table(index)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._tables):
            yield from self._close_table(index)
        l1 = np.zeros(self._header.tables, "<u8")
        l1[list(self._l1.keys())] = list(self._l1.values())
        yield self._header.l1_offset, l1.tobytes()
        yield 0, pack_header(self._header)

    def full_size(self) -> int:
        header = self._header
        tables = (1 + header.tables) * header.table_bytes
        return header.first_cluster + tables + header.blocks * header.cluster_size

    @property
    def file_size(self) -> int:
        return self._next * self.block_size

    def _assign(self, blocks: NDArray[np.int64], entries: Entries) -> None:
        """Put ``entries`` of ``blocks`` (ascending) into their pages."""
        start, per_page = 0, self._per_page
        while start < len(blocks):
            base = int(blocks[start]) // per_page * per_page
            stop = int(np.searchsorted(blocks, base + per_page))
            table = self._tables.setdefault(base // self._header.entries, {})
            if base not in table:
                table[base] = np.zeros(per_page, np.uint64)
            table[base][blocks[start:stop] - base] = entries[start:stop]
            start = stop

    def _close_table(self, index: int) -> Iterator[tuple[int, bytes]]:
        offset = self._l1[index] = self.file_size
        self._next += self._header.table_size
        pages = self._tables.pop(index)
        for base, page in pages.items():
            row = base - index * self._header.entries
            yield offset + 8 * row, page.astype("<u8").tobytes()


def _new_header(
    size: int, options: Mapping[str, OptionValue], parent: ParentRef | None
) -> QedHeader:
    """The header of a new image. Raises OptionError for options that do not fit together, with the
    words of what to change.
    """
    cluster, tables = int(options["cluster_size"]), int(options["table_size"])
    if not s.MIN_CLUSTER <= cluster <= s.MAX_CLUSTER or cluster & (cluster - 1):
        raise OptionError(f"cluster_size is a power of two from 4k to 64M, not {cluster}")
    if not s.MIN_TABLE <= tables <= s.MAX_TABLE or tables & (tables - 1):
        raise OptionError(f"table_size is 1, 2, 4, 8 or 16 clusters, not {tables}")
    largest = max_size(cluster, tables)
    if largest >= 1 << 64:
        # QEMU calculates this number in 64 bits, gets 0, and finds every disk too large.
        raise OptionError(
            f"QEMU takes no QED image with cluster_size={cluster} and table_size={tables}: "
            "its tables could map more than 64 bits can count; choose a smaller one"
        )
    if size > largest:
        raise OptionError(
            f"a disk of {format_size(size)} needs larger clusters or tables: with "
            f"cluster_size={cluster} and table_size={tables} QED holds {format_size(largest)}"
        )
    header = QedHeader(
        cluster_size=cluster, table_size=tables, size=size, l1_offset=cluster, header_size=1
    )
    if parent is not None:
        header.backing_file = parent.path
        header.features = s.BACKING_FILE
        if parent.format == "raw":
            header.features |= s.NO_PROBE
    pack_header(header)  # fails now, not after hours, when the name does not fit
    return header
