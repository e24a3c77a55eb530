"""Tally: what all tables of a qcow image say, for check and before the first write.

Each L1 entry, and each entry of an L2 table, names a stretch of the file; no two may overlap. They
are sorted by where they begin, as many at a time as a bounded part of the file can hold. A loop
turns once per batch of L2 tables, never once per cluster; no byte of the file is taken for part of
two tables, whatever the L1 table says, so the work is bounded by the size of the file.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.qcow import structures as s
from vmimg.formats.qcow.header import QcowHeader
from vmimg.formats.qcow.layer import (
    L1_PAGE,
    Entries,
    load_table,
    split_compressed,
)
from vmimg.storage.base import Storage
from vmimg.storage.holes import Holes

__all__ = [
    "COMPRESSED",
    "PLAIN",
    "TABLE",
    "Items",
    "Tally",
    "l1_pieces",
    "plain_clusters",
    "take_tally",
]

Numbers = NDArray[np.int64]

# Bytes of L2 tables read at a time.
_BATCH_BYTES: Final = 4 << 20
# Clusters that are sorted at a time, where they do not overlap.
_REGION_CLUSTERS: Final = 1 << 21
# Stretches that are kept one by one; there are more of them in damaged images only.
_KEPT: Final = 1 << 20
_SHOWN: Final = 10

TABLE, PLAIN, COMPRESSED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Items:
    """Stretches of the file, ``n`` of them, each with the entry that names it.

    ``starts``, ``lengths``: int64[n], bytes. ``pointers``: int64[n], where in the file the entry
    is. ``entries``: uint64[n]. ``virtual``: int64[n], the first byte of the disk that it serves.
    ``kinds``: uint8[n], TABLE, PLAIN or COMPRESSED.
    """

    starts: Numbers
    lengths: Numbers
    pointers: Numbers
    entries: Entries
    virtual: Numbers
    kinds: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def pick(self, which: NDArray[np.bool_] | Numbers) -> Items:
        """Some of them, by mask or index."""
        return Items(
            self.starts[which],
            self.lengths[which],
            self.pointers[which],
            self.entries[which],
            self.virtual[which],
            self.kinds[which],
        )

    @classmethod
    def join(cls, parts: list[Items]) -> Items:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, none, none.view(np.uint64), none, np.zeros(0, np.uint8))
        return cls(
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.pointers for part in parts]),
            np.concatenate([part.entries for part in parts]),
            np.concatenate([part.virtual for part in parts]),
            np.concatenate([part.kinds for part in parts]),
        )


@dataclass(slots=True)
class Tally:
    """``lost_tables``: L1 entries that name no place for a table. ``shared_tables``: those whose
    table begins inside another; their own clusters are not counted. ``lost``: clusters whose data
    the file does not hold, or that lie where none can. ``shared``: what else begins inside
    something; ``to_move``: what must be copied so that each has its own place. ``allocated``,
    ``compressed``, ``fragments``: clusters. ``end``: of the last stretch. ``gaps``: (first, behind
    the last) of places, in clusters of the file, that nothing refers to, as int64[n, 2];
    ``gap_clusters`` of them in all. ``lines`` describe what is wrong with single entries.
    """

    lost_tables: int = 0
    shared_tables: int = 0
    lost: int = 0
    shared: int = 0
    to_move: list[Items] = field(default_factory=list)
    allocated: int = 0
    compressed: int = 0
    fragments: int = 0
    end: int = 0
    gaps: list[Numbers] = field(default_factory=list)
    gap_clusters: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not (self.lost_tables or self.shared_tables or self.lost or self.shared)


def l1_pieces(storage: Storage, header: QcowHeader) -> Iterator[tuple[int, Entries]]:
    """(number of the first, entries) of pieces of the L1 table, in order, without holes."""
    start = header.l1_table_offset
    holes = Holes(storage, start, header.l1_end)
    index = 0
    while index < header.l1_entries:
        index = max(index, (holes.skip(start + 8 * index) - start) // 8)
        count = min(L1_PAGE, header.l1_entries - index)
        if count:
            yield index, load_table(storage, start + 8 * index, count)
        index += count


def take_tally(storage: Storage, header: QcowHeader) -> Tally:
    """Count what the tables of ``storage`` name."""
    tally = Tally(end=header.l1_end)
    tables = _tables(storage, header, tally)
    region = _REGION_CLUSTERS * header.cluster_size
    regions = np.zeros(0, np.int64)
    follows = -1
    kept: list[Items] | None = []
    for items in _clusters(storage, header, tables):
        items = _inside(storage, header, tally, items)
        tally.allocated += len(items)
        tally.compressed += int(np.count_nonzero(items.kinds == COMPRESSED))
        if not len(items):
            continue
        ends = items.starts + items.lengths
        before = np.concatenate(([follows], ends[:-1]))
        tally.fragments += int(np.count_nonzero((before >= 0) & (items.starts != before)))
        follows = int(ends[-1])
        regions = np.union1d(regions, items.starts // region)
        if kept is not None:
            kept.append(items)
            if tally.allocated > _REGION_CLUSTERS:
                kept = None  # too many to hold: they are read again, part by part
    regions = np.union1d(regions, tables.starts // region)
    for number in regions.tolist():
        mine = [tables] if kept is None else [tables, *kept]
        if kept is None:
            again = Tally()
            for items in _clusters(storage, header, tables):
                items = _inside(storage, header, again, items)
                mine.append(items.pick(items.starts // region == number))
        joined = Items.join(mine)
        if len(regions) > 1:
            joined = joined.pick(joined.starts // region == number)
        _compare(header, tally, joined)
    return tally


def plain_clusters(storage: Storage, header: QcowHeader, most: int) -> Items:
    """Of a sound image, up to ``most`` of the plain clusters with the highest places."""
    tables = _tables(storage, header, Tally())
    best = Items.join([])
    for items in _clusters(storage, header, tables):
        best = Items.join([best, items.pick(items.kinds == PLAIN)])
        if len(best) > most:
            best = best.pick(np.argsort(best.starts)[-most:])
    return best


def l2_tables(storage: Storage, header: QcowHeader) -> Items:
    """The L2 tables of a sound image."""
    return _tables(storage, header, Tally())


def _tables(storage: Storage, header: QcowHeader, tally: Tally) -> Items:
    """The L2 tables that have a place of their own, in the order of the disk."""
    own = Items.join([])
    span = header.cluster_size * header.l2_entries
    size = header.l2_bytes
    for first, entries in l1_pieces(storage, header):
        rows = np.flatnonzero(entries)
        if not len(rows):
            continue
        numbers = (first + rows).astype(np.int64)
        offsets = entries[rows]
        wrong = offsets < np.uint64(header.l1_end)
        wrong |= offsets > np.uint64(max(0, storage.size - size))
        tally.lost_tables += int(np.count_nonzero(wrong))
        for row in np.flatnonzero(wrong)[: max(0, _SHOWN - len(tally.lines))].tolist():
            tally.lines.append(
                f"virtual offset {int(numbers[row]) * span}: its L2 table is said to be at "
                f"{int(offsets[row])}, over the header or outside of the file, which ends at "
                f"{storage.size}"
            )
        numbers, offsets = numbers[~wrong], offsets[~wrong]
        piece = Items(
            offsets.view(np.int64),
            np.full(len(offsets), size, np.int64),
            header.l1_table_offset + 8 * numbers,
            offsets,
            numbers * span,
            np.full(len(offsets), TABLE, np.uint8),
        )
        own = _apart(tally, Items.join([own, piece]), size)
    return own.pick(np.argsort(own.virtual))


def _apart(tally: Tally, tables: Items, size: int) -> Items:
    """Those of ``tables`` that begin inside no other, ascending; the others are counted.

    They are not read: what stands there belongs to another.
    """
    tables = tables.pick(np.argsort(tables.starts, kind="stable"))
    apart = np.ones(len(tables), np.bool_)
    apart[1:] = tables.starts[1:] - tables.starts[:-1] >= size
    if apart.all():
        return tables
    shared = tables.pick(~apart)
    tally.shared_tables += len(shared)
    if sum(map(len, tally.to_move)) < _KEPT:
        tally.to_move.append(shared)
    for row in range(min(len(shared), max(0, _SHOWN - len(tally.lines)))):
        tally.lines.append(
            f"virtual offset {int(shared.virtual[row])}: its L2 table at "
            f"{int(shared.starts[row])} lies over another's"
        )
    return tables.pick(apart)


def _clusters(storage: Storage, header: QcowHeader, tables: Items) -> Iterator[Items]:
    """The clusters that the tables name, batch by batch."""
    per_table, size = header.l2_entries, header.l2_bytes
    rows = max(1, _BATCH_BYTES // size)
    for start in range(0, len(tables), rows):
        batch = tables.pick(np.arange(start, min(start + rows, len(tables))))
        words = np.empty(len(batch) * per_table, np.uint64)
        view = words.view(np.uint8).data
        for row, offset in enumerate(batch.starts.tolist()):
            storage.read_into(offset, view[row * size : (row + 1) * size])
        index = np.flatnonzero(words)
        if not len(index):
            continue
        entries = words[index].view(">u8").astype(np.uint64)
        table, position = index // per_table, index % per_table
        packed = entries >= np.uint64(s.COMPRESSED_FLAG)
        places, lengths = split_compressed(entries, header.cluster_bits)
        yield Items(
            np.where(packed, places, entries.view(np.int64)),
            np.where(packed, lengths, np.int64(header.cluster_size)),
            batch.starts[table] + 8 * position,
            entries,
            batch.virtual[table] + position * header.cluster_size,
            np.where(packed, np.uint8(COMPRESSED), np.uint8(PLAIN)),
        )


def _inside(storage: Storage, header: QcowHeader, tally: Tally, items: Items) -> Items:
    """Those of ``items`` that lie where they can; the others are counted and described."""
    needed = np.clip(header.size - items.virtual, 0, header.cluster_size)
    needed = np.where(items.kinds == PLAIN, needed, items.lengths)
    wrong = np.zeros(len(items), np.bool_)
    for bad, why in (
        (items.starts < header.l1_end, "over the header or the L1 table"),
        (
            items.starts > storage.size - needed,
            f"but the file ends at {storage.size}",
        ),
        (
            (items.kinds == PLAIN) & (items.starts % s.SECTOR != 0),
            "which is not on a sector boundary",
        ),
        (items.lengths == 0, "compressed to nothing"),
    ):
        new = bad & ~wrong
        wrong |= bad
        for row in np.flatnonzero(new)[: max(0, _SHOWN - len(tally.lines))].tolist():
            tally.lines.append(
                f"virtual offset {int(items.virtual[row])}: said to be at "
                f"{int(items.starts[row])}, {why}"
            )
    if not wrong.any():
        return items
    tally.lost += int(np.count_nonzero(wrong))
    return items.pick(~wrong)


def _compare(header: QcowHeader, tally: Tally, items: Items) -> None:
    """Find what overlaps, and the gaps, in the next region of the file."""
    items = items.pick(np.argsort(items.starts, kind="stable"))
    ends = np.maximum.accumulate(np.concatenate(([tally.end], items.starts + items.lengths)))
    over = items.starts < ends[:-1]
    if over.any():
        shared = items.pick(over)
        tally.shared += len(shared)
        tally.to_move.append(shared.pick(np.arange(len(shared))[:_KEPT]))
        for row in range(min(len(shared), max(0, _SHOWN - len(tally.lines)))):
            what = "its L2 table" if shared.kinds[row] == TABLE else "its data"
            tally.lines.append(
                f"virtual offset {int(shared.virtual[row])}: {what} at {int(shared.starts[row])} "
                "shares its place with something else"
            )
    _count_gap(header, tally, ends[:-1][~over], items.starts[~over])
    tally.end = int(ends[-1])


def _count_gap(header: QcowHeader, tally: Tally, starts: Numbers, ends: Numbers) -> None:
    size = header.cluster_size
    gaps = np.stack((-(-starts // size), ends // size), axis=1)
    gaps = gaps[gaps[:, 0] < gaps[:, 1]]
    tally.gap_clusters += int((gaps[:, 1] - gaps[:, 0]).sum())
    tally.gaps.append(gaps[:_KEPT])
