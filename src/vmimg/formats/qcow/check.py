"""check for qcow: does each table and each cluster have a place of its own in the file?

qemu-img has no check for version 1. Here:

- an L2 table or a cluster outside of the file, over the header or the L1 table, is a corruption; so
  is a plain cluster that is not on a sector boundary, which QEMU does not read;
- what lies over something else is a corruption: writing to one would change the other;
- whole clusters of the file that nothing refers to are leaks: what a writer appended and, cut off,
  never named; what was discarded; what QEMU wrote twice.

Repair "all" copies what lies over something else to the end of the file, so that it has its own
place and still reads as it did. What the file does not hold is not made up, and its entry not
dropped, for the disk would then read as zeros, or as the parent, where it cannot be known.
"leaks" moves the last clusters and tables into the gaps, as far as they can be moved (what is
packed cannot), and cuts off what lies behind the last one; of a damaged image, nothing is given up:
it may be all that is left of something. Each step leaves a
sound file if it is the last one: a copy is durable before an entry names it. Imports the tally, and
numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport
from vmimg.formats.qcow import structures as s
from vmimg.formats.qcow.header import QcowHeader, read_header
from vmimg.formats.qcow.layer import Entries
from vmimg.formats.qcow.tally import (
    COMPRESSED,
    TABLE,
    Items,
    Tally,
    l2_tables,
    plain_clusters,
    take_tally,
)
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["check_image"]

# Clusters moved into gaps with one barrier.
_MOVED: Final = 1 << 16


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as qcow at all, StorageError when reading or writing fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if repair and not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    header = read_header(storage)
    tally = take_tally(storage, header)
    found = left = _report(storage, header, tally)
    if not repair:
        return found
    if repair == "all":
        # First tables: only then is it known what their entries share.
        for _ in range(3):
            if not _separate(storage, header, tally):
                break
            tally = take_tally(storage, header)
    left = _report(storage, header, tally)
    if left.leaks and tally.sound:
        while _fill_gaps(storage, header, tally):
            tally = take_tally(storage, header)
        storage.resize(max(tally.end, _least_size(header)))
        storage.flush()
        left = _report(storage, header, tally)
    left.fixed_corruptions = max(0, found.corruptions - left.corruptions)
    left.fixed_leaks = max(0, found.leaks - left.leaks)
    return left


def _report(storage: Storage, header: QcowHeader, tally: Tally) -> CheckReport:
    problems = list(tally.lines)
    corruptions = tally.lost_tables + tally.shared_tables + tally.lost + tally.shared
    if corruptions > len(problems):
        problems.append(f"{corruptions - len(problems)} more entries with an impossible place")
    size = header.cluster_size
    leaks = tally.gap_clusters
    if tally.gap_clusters:
        problems.append(f"{tally.gap_clusters} clusters between others are not used")
    behind = storage.size // size - -(-max(tally.end, _least_size(header)) // size)
    if behind > 0 and not getattr(storage, "is_device", False):
        leaks += behind
        problems.append(f"{behind} clusters behind the last one are not used")
    return CheckReport(
        format="qcow",
        leaks=leaks,
        corruptions=corruptions,
        total_clusters=header.clusters,
        allocated_clusters=tally.allocated,
        fragmented_clusters=tally.fragments,
        compressed_clusters=tally.compressed,
        image_end_offset=tally.end,
        problems=problems,
    )


def _least_size(header: QcowHeader) -> int:
    """Bytes of an image without clusters: the L1 table is followed by the rest of its sector."""
    return header.l1_table_offset + align_up(8 * header.l1_entries, s.SECTOR)


def _separate(storage: Storage, header: QcowHeader, tally: Tally) -> bool:
    """Copy what lies over something else to the end of the file. Says whether there was any."""
    items = Items.join(tally.to_move)
    tables = items.kinds == TABLE
    if tables.any():
        # What is in them now has its entry elsewhere afterwards.
        items = items.pick(tables)
    # A file is not blown up by what its tables say: a repair at most doubles it.
    if not len(items) or int(items.lengths.sum()) > storage.size:
        return False
    end = storage.size
    places = []
    for start, length in zip(items.starts.tolist(), items.lengths.tolist(), strict=True):
        end = align_up(end, header.cluster_size)
        places.append(end)
        _copy(storage, start, end, length)
        end += length
    storage.flush()
    entries = np.array(places, np.uint64)
    packed = items.kinds == COMPRESSED
    shift = np.uint64(63 - header.cluster_bits)
    lengths = items.lengths.astype(np.uint64) << shift
    entries = np.where(packed, entries | lengths | np.uint64(s.COMPRESSED_FLAG), entries)
    _point(storage, items, entries.astype(np.uint64))
    return True


def _fill_gaps(storage: Storage, header: QcowHeader, tally: Tally) -> bool:
    """Move what lies last into the first gaps: L2 tables, or else plain clusters; packed ones stay.
    Says whether anything was moved.
    """
    size = header.cluster_size
    if not tally.gaps:
        return False
    gaps = np.concatenate(tally.gaps)
    counts = np.cumsum(gaps[:, 1] - gaps[:, 0])
    gaps = gaps[: int(np.searchsorted(counts, _MOVED)) + 1]
    places = [np.arange(low, min(high, low + _MOVED)) for low, high in gaps.tolist()]
    if not places:
        return False
    free = np.concatenate(places)[:_MOVED] * size
    # Where the file would end without gaps: only what reaches behind that has to move.
    end = tally.end - tally.gap_clusters * size
    for last in (l2_tables(storage, header), plain_clusters(storage, header, len(free))):
        last = last.pick((last.starts + last.lengths > end) & (last.lengths <= size))
        last = last.pick(np.argsort(-last.starts, kind="stable"))
        count = min(len(last), len(free))
        useful = int(np.count_nonzero(free[:count] < last.starts[:count]))
        if useful:
            moved, room = last.pick(np.arange(useful)), free[:useful]
            for item, place in enumerate(room.tolist()):
                _copy(storage, int(moved.starts[item]), place, int(moved.lengths[item]))
            storage.flush()
            _point(storage, moved, room.astype(np.uint64))
            return True
    return False


def _copy(storage: Storage, start: int, place: int, length: int) -> None:
    # The file may end inside the last cluster where nothing of the disk lies there.
    here = max(0, min(length, storage.size - start))
    storage.write(place, storage.read(start, here).ljust(length, b"\0"))


def _point(storage: Storage, items: Items, entries: Entries) -> None:
    """Write ``entries`` to where those of ``items`` are, and wait until they are durable."""
    for pointer, entry in zip(items.pointers.tolist(), entries.tolist(), strict=True):
        storage.write(pointer, entry.to_bytes(8, "big"))
    storage.flush()
