"""Chunks: the entries of all block tables as one sorted table, checked against file and disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.chunkmap import COMPRESSED, ChunkTable
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.partitions import Partition
from vmimg.storage.base import Storage

__all__ = ["all_chunks", "partition_chunks"]

_NEITHER: Final = (s.COMMENT, s.TERMINATOR)
_ZEROS: Final = (s.ZERO, s.IGNORE)

Entries = NDArray[Any]


def all_chunks(storage: Storage, size: int, partitions: Sequence[Partition]) -> ChunkTable:
    """The chunks of a disk of ``size`` bytes. Raises FormatError where one lies outside of disk or
    file or over another, and UnsupportedFeature for a coder that nobody knows.
    """
    parts = [partition_chunks(storage, partition) for partition in partitions]
    table = ChunkTable(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("starts", "lengths", "kinds", "offsets", "stored", "coders")
        )
    )
    if np.any(table.starts[1:] < table.starts[:-1]):
        table = table.take(np.argsort(table.starts, kind="stable"))
    ends = table.starts + table.lengths
    over = np.flatnonzero(table.starts[1:] < ends[:-1])
    if len(over):
        row = int(over[0])
        raise FormatError(
            f"{storage.name}: two chunks claim the virtual offset {int(table.starts[row + 1])}"
        )
    if len(ends) and int(ends[-1]) > size:
        raise FormatError(
            f"{storage.name}: a chunk ends at the virtual offset {int(ends[-1])}, behind the end "
            f"of the disk, {size}"
        )
    return table


def partition_chunks(storage: Storage, partition: Partition) -> ChunkTable:
    """The chunks of one partition in the order of its table, each checked by itself. ``coders`` are
    the lowest bytes of their types.
    """
    entries: Entries = np.frombuffer(partition.entries, np.dtype(s.ENTRY_FIELDS))
    types = entries["type"]
    # What stands behind the terminator is nobody's.
    ends = np.flatnonzero(types == s.TERMINATOR)
    if len(ends):
        entries, types = entries[: ends[0]], types[: ends[0]]
    keep = ~np.isin(types, _NEITHER) & (entries["sectors"] != 0)
    entries, types = entries[keep], types[keep]
    what = f"{storage.name}: '{partition.name}'"
    known = np.isin(types, (s.RAW, *_ZEROS, *s.CODERS))
    if not np.all(known):
        raise UnsupportedFeature(f"{what} has a chunk of type {int(types[~known][0]):#x}")
    coded = ~np.isin(types, (s.RAW, *_ZEROS))
    stored = ~np.isin(types, _ZEROS)
    _check_sizes(storage, partition, entries, types, coded, stored)
    sectors = entries["sectors"].astype(np.int64)
    lengths = sectors * s.SECTOR
    starts = partition.start + entries["sector"].astype(np.int64) * s.SECTOR
    kinds = np.full(len(types), int(Kind.DATA), np.uint8)
    kinds[coded] = COMPRESSED
    kinds[~stored] = int(Kind.ZERO)
    data_offset = min(partition.data_offset, storage.size)
    offsets = np.where(stored, data_offset + entries["offset"].astype(np.int64), -1)
    held = np.where(stored, entries["length"].astype(np.int64), 0)
    return ChunkTable(starts, lengths, kinds, offsets, held, (types & 0xFF).astype(np.uint8))


def _check_sizes(
    storage: Storage,
    partition: Partition,
    entries: Entries,
    types: NDArray[np.uint32],
    coded: NDArray[np.bool_],
    stored: NDArray[np.bool_],
) -> None:
    """Raise FormatError where a number of an entry cannot be. All are below 2^63 afterwards."""
    what = f"{storage.name}: '{partition.name}'"

    def refuse(wrong: NDArray[np.bool_], problem: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            entry = entries[rows[0]]
            raise FormatError(
                f"{what}: its chunk of sectors {int(entry['sector'])}+{int(entry['sectors'])}, "
                f"{int(entry['length'])} bytes at {int(entry['offset'])}, {problem}"
            )

    most = np.uint64(s.MAX_SECTORS)
    refuse((entries["sector"] >= most) | (entries["sectors"] >= most), "lies outside of any disk")
    too_many = entries["sectors"] > np.uint64(s.MAX_CHUNK // s.SECTOR)
    refuse(
        coded & (too_many | (entries["length"] > np.uint64(s.MAX_CHUNK))),
        f"is larger than {s.MAX_CHUNK} bytes",
    )
    room = np.uint64(max(0, storage.size - partition.data_offset))
    length = np.minimum(entries["length"], room)
    outside = (entries["length"] > room) | (entries["offset"] > room - length)
    refuse(stored & outside, f"ends behind the end of the file, {storage.size}")
    raw = types == s.RAW
    refuse(
        raw & (entries["length"] != entries["sectors"] * np.uint64(s.SECTOR)),
        "is not compressed, and not as long as its sectors",
    )
