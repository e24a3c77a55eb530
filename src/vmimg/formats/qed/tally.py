"""Tally: what all tables of a QED image say, for check and before the first write.

One pass over the tables, in pieces. The numbers of the clusters in use are sorted where they are
few; where they are many, further passes mark them, a bounded number at a time. Nothing runs once
per cluster in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import QedHeader
from vmimg.formats.qed.layer import Entries, impossible, table_pieces
from vmimg.storage.base import Storage

__all__ = ["Tally", "take_tally"]

Numbers = NDArray[np.int64]

# Clusters that are sorted: 32 MiB of numbers, 256 GiB of data in clusters of the usual size.
_SORTED: Final = 1 << 22
# Clusters that are marked in one pass: 64 MiB.
_MARKED: Final = 1 << 26
# Free clusters that are kept by their number; there are more of them in damaged images only.
_KEPT: Final = 1 << 20
_SHOWN: Final = 10


@dataclass(slots=True)
class Tally:
    """``allocated``: L2 entries that name a cluster; ``fragments``: those that do not name the one
    behind the entry in front of them. ``bad_tables`` and ``bad_clusters``: entries that name no
    possible place. ``shared``: tables and clusters that lie, at least in part, where something else
    does. ``used``: clusters in use, each counted once; ``end``: the number behind the last of them.
    ``free``: clusters in front of that one which are not in use, ``free_count`` of them, some by
    number. ``tables``: offsets of the L2 tables that could be read. ``lines`` describe what is
    wrong with single entries.
    """

    allocated: int = 0
    fragments: int = 0
    bad_tables: int = 0
    bad_clusters: int = 0
    shared: int = 0
    used: int = 0
    end: int = 0
    free_count: int = 0
    free: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    tables: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    lines: list[str] = field(default_factory=list)

    @property
    def corruptions(self) -> int:
        return self.bad_tables + self.bad_clusters + self.shared


def take_tally(storage: Storage, header: QedHeader) -> Tally:
    """Count what the tables of ``storage`` say."""
    tally = Tally()
    _find_tables(storage, header, tally)
    # The L1 table stands first among those that data must not lie over.
    starts = np.sort(np.append(tally.tables, header.l1_offset)) // header.cluster_size
    tables = (starts[:, None] + np.arange(header.table_size)).reshape(-1)
    held: list[Numbers] | None = [tables]
    total = len(tables)
    tally.end = int(tables[-1]) + 1
    for clusters in _clusters(storage, header, tally, tally):
        over = _inside(clusters, starts, header.table_size)
        tally.shared += int(np.count_nonzero(over))
        clusters = clusters[~over]
        if not len(clusters):
            continue
        total += len(clusters)
        tally.end = max(tally.end, int(clusters.max()) + 1)
        if held is not None and total <= _SORTED:
            held.append(clusters)
        else:
            held = None
    if held is not None:
        _count(tally, header.header_size, np.sort(np.concatenate(held)))
    else:
        for low in range(header.header_size, tally.end, _MARKED):
            _mark(storage, header, tally, starts, low, min(tally.end, low + _MARKED))
    # What is in use twice was counted once as that.
    tally.shared += total - tally.used
    return tally


def _find_tables(storage: Storage, header: QedHeader, tally: Tally) -> None:
    """The L2 tables: which have a possible place, and one of their own."""
    found = [np.array([header.l1_offset], np.int64)]
    for first, entries in table_pieces(storage, header, header.l1_offset):
        rows = np.flatnonzero(entries)
        offsets = entries[rows]
        wrong = impossible(header, offsets, storage.size, table=True)
        tally.bad_tables += int(np.count_nonzero(wrong))
        _note(tally, "L1 entry", first + rows[wrong], offsets[wrong])
        found.append(offsets[~wrong].astype(np.int64))
    places = np.concatenate(found)
    # The first one that names a place keeps it; stable, so that the L1 table is never the second.
    order = np.argsort(places, kind="stable")
    common = header.table_size - np.diff(places[order]) // header.cluster_size
    near = common > 0
    second = np.unique(np.maximum(order[1:][near], order[:-1][near]))
    tally.shared += int(common[near].sum())
    for row in second[: max(0, _SHOWN - len(tally.lines))].tolist():
        tally.lines.append(f"an L2 table at {int(places[row])} lies over another table")
    keep = np.ones(len(places), np.bool_)
    keep[second] = False
    keep[0] = False
    tally.tables = places[keep]


def _clusters(
    storage: Storage, header: QedHeader, tally: Tally, count: Tally | None
) -> Iterator[Numbers]:
    """The clusters that the L2 tables name, by number, piece by piece. What else there is to say of
    the entries goes to ``count``.
    """
    for table in tally.tables.tolist():
        last = 0  # QEMU looks for fragments inside of a table
        for first, entries in table_pieces(storage, header, table):
            rows = np.flatnonzero(entries > s.ZERO)
            if not len(rows):
                continue
            offsets = entries[rows]
            wrong = impossible(header, offsets, storage.size)
            if count is not None:
                count.allocated += len(offsets)
                follows = np.append(np.uint64(last), offsets[:-1])
                apart = (follows != 0) & (follows + np.uint64(header.cluster_size) != offsets)
                count.fragments += int(np.count_nonzero(apart))
                count.bad_clusters += int(np.count_nonzero(wrong))
                _note(count, f"L2 table at {table}, entry", first + rows[wrong], offsets[wrong])
            last = int(offsets[-1])
            yield offsets[~wrong].astype(np.int64) // header.cluster_size


def _inside(clusters: Numbers, starts: Numbers, length: int) -> NDArray[np.bool_]:
    """Which of ``clusters`` lie in a table; ``starts``: where those begin, ascending."""
    before = np.searchsorted(starts, clusters, side="right") - 1
    inside: NDArray[np.bool_] = (before >= 0) & (clusters - starts[before] < length)
    return inside


def _count(tally: Tally, first: int, ordered: Numbers) -> None:
    """``ordered``: all clusters in use, sorted; clusters from ``first`` on could be."""
    distinct = ordered[np.append(True, np.diff(ordered) != 0)]
    tally.used = len(distinct)
    tally.free_count = tally.end - first - tally.used
    before = np.append(first - 1, distinct[:-1])
    gaps = np.flatnonzero(distinct - before > 1)
    missing = _KEPT
    free = []
    for low, high in zip((before[gaps] + 1).tolist(), distinct[gaps].tolist(), strict=True):
        if missing <= 0:
            break
        free.append(np.arange(low, min(high, low + missing), dtype=np.int64))
        missing -= high - low
    if free:
        tally.free = np.concatenate(free)


def _mark(
    storage: Storage, header: QedHeader, tally: Tally, starts: Numbers, low: int, high: int
) -> None:
    """Count the clusters in use in [low, high)."""
    seen = np.zeros(high - low, np.bool_)
    for step in range(header.table_size):
        tables = starts + step
        seen[tables[(tables >= low) & (tables < high)] - low] = True
    for clusters in _clusters(storage, header, tally, None):
        seen[clusters[(clusters >= low) & (clusters < high)] - low] = True
    used = int(np.count_nonzero(seen))
    tally.used += used
    tally.free_count += len(seen) - used
    if used < len(seen) and len(tally.free) < _KEPT:
        numbers = np.flatnonzero(~seen)[: _KEPT - len(tally.free)] + low
        tally.free = np.concatenate((tally.free, numbers))


def _note(tally: Tally, what: str, rows: NDArray[np.intp], offsets: Entries) -> None:
    room = max(0, _SHOWN - len(tally.lines))
    for row, offset in zip(rows[:room].tolist(), offsets[:room].tolist(), strict=True):
        tally.lines.append(f"{what} {row}: there can be nothing at {offset}")
