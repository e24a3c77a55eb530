"""Reading the L2 tables of a qcow2 image in bulk, for check and repair.

A loop turns once per batch of tables, never once per cluster; a batch has 4 MiB of tables or one
table. Only entries that say something are kept, as arrays. Imports references and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.references import L2Tables, Words
from vmimg.storage.base import Storage

__all__ = ["L2_RESERVED", "Entries", "scan"]

Mask = NDArray[np.bool_]
Indexes = NDArray[np.int64]

L2_RESERVED: Final = 0x3F00_0000_0000_01FE
"""Bits of a standard L2 entry that must be zero."""

_BATCH_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Entries:
    """The entries of some L2 tables that are not all zeros, in the order of the tables.

    ``table``: its number in the list of L2 tables; ``position``: the entry's number in its table;
    ``bitmap``: the subclusters' bits, zeros without extended L2.
    """

    header: Qcow2Header
    table: Indexes
    position: Indexes
    entry: Words
    bitmap: Words
    offset: Words = field(init=False)
    """Host offsets, of what is not compressed."""
    compressed: Mask = field(init=False)
    """Compressed cluster descriptors."""
    copied: Mask = field(init=False)
    """Those with the flag that the cluster has one reference only."""
    zero: Mask = field(init=False)
    """Clusters that read as zeros as a whole; with subclusters the bitmap says so, not this."""
    stored: Mask = field(init=False)
    """Those with a plain cluster of their own, whether it reads as zeros or not."""

    def __post_init__(self) -> None:
        self.offset = self.entry & np.uint64(s.OFFSET_MASK)
        self.compressed = (self.entry & np.uint64(s.COMPRESSED_FLAG)) != 0
        self.copied = (self.entry & np.uint64(s.COPIED)) != 0
        self.zero = ((self.entry & np.uint64(s.ZERO_FLAG)) != 0) & ~self.compressed
        if self.header.extended_l2:
            self.zero[:] = False
        self.stored = (self.offset != 0) & ~self.compressed
        if self.header.external_data:
            # Offset 0 is a place like any other in a data file; the flag tells it from "nothing".
            self.stored |= self.copied & ~self.zero & ~self.compressed

    def spans(self) -> tuple[Indexes, Indexes]:
        """Offset and size in bytes of the compressed entries."""
        entries = self.entry[self.compressed]
        shift = 62 - (self.header.cluster_bits - 8)
        offsets = (entries & np.uint64((1 << shift) - 1)).astype(np.int64)
        mask = np.uint64((1 << (self.header.cluster_bits - 8)) - 1)
        sectors = ((entries >> np.uint64(shift)) & mask).astype(np.int64) + 1
        return offsets, sectors * 512 - (offsets & 511)


def scan(
    storage: Storage, header: Qcow2Header, tables: L2Tables, wanted: Mask
) -> Iterator[Entries]:
    """The entries of the tables that are ``wanted`` (one bool each), batch by batch.

    What lies behind the end of the file is zeros, as it is to QEMU.
    """
    inside = wanted & (tables.offset < np.uint64(storage.size))
    numbers = np.flatnonzero(inside).astype(np.int64)
    rows = max(1, _BATCH_BYTES // header.cluster_size)
    for start in range(0, len(numbers), rows):
        batch = numbers[start : start + rows]
        words = _load(storage, tables.offset[batch].astype(np.int64), header.cluster_size)
        entries = _decode(header, words, batch)
        if len(entries.entry):
            yield entries


def _load(storage: Storage, offsets: Indexes, cluster: int) -> NDArray[np.uint64]:
    """The tables at ``offsets``, one behind the other, in the byte order of the file."""
    words = np.zeros(len(offsets) * cluster // 8, np.uint64)
    view = words.view(np.uint8).data
    # Tables that lie together are read together.
    cuts = np.flatnonzero(np.diff(offsets) != cluster) + 1
    bounds = [0, *cuts.tolist(), len(offsets)]
    for first, last in pairwise(bounds):
        begin = int(offsets[first])
        base = first * cluster - begin
        end = min(begin + (last - first) * cluster, storage.size)
        for start, stop, hole in storage.extents(begin, end):
            if not hole:
                storage.read_into(start, view[base + start : base + stop])
    return words


def _decode(header: Qcow2Header, words: NDArray[np.uint64], numbers: Indexes) -> Entries:
    per_table = header.l2_entries
    if header.extended_l2:
        pairs = words.reshape(-1, 2)
        index = np.flatnonzero(pairs[:, 0] | pairs[:, 1])
        bitmap = pairs[index, 1].view(">u8").astype(np.uint64)
        entry = pairs[index, 0].view(">u8").astype(np.uint64)
    else:
        index = np.flatnonzero(words)
        entry = words[index].view(">u8").astype(np.uint64)
        bitmap = np.zeros(len(index), np.uint64)
    index = index.astype(np.int64)
    return Entries(header, numbers[index // per_table], index % per_table, entry, bitmap)
