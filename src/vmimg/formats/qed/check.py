"""check for QED: does each entry of the tables name a place of its own?

Counts as ``qemu-img check`` does: an entry that names no possible place is a corruption, and so is
each table or cluster that lies where something else does; clusters that nothing names are leaks.
(QEMU 7.2 counts one leak too many for every cluster_size - 1 clusters of the file, from 4 GiB on
with clusters of 64 KiB: it divides by that number in place of cluster_size.)

"all" repairs as QEMU does: what names an impossible place is cleared, so that it reads as if it had
never been written (after a crash it never was), and an image without corruptions is no longer
marked as in need of a check. What is shared stays as it is: nobody knows whose it was. Beyond that,
leaked clusters at the end of the file are cut off, by "leaks" as well; writing in place uses those
in between again. Imports the tally, and numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import QedHeader, read_header, write_features
from vmimg.formats.qed.layer import impossible, table_pieces
from vmimg.formats.qed.tally import Tally, take_tally
from vmimg.storage.base import Storage

__all__ = ["check_image", "cut_off"]

_ENTRY: Final = 8


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as QED at all, StorageError when reading or writing fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if repair and not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    header = read_header(storage)
    tally = take_tally(storage, header)
    found = _report(storage, header, tally)
    if not repair:
        return found
    if repair == "all" and tally.bad_tables + tally.bad_clusters:
        _clear_impossible(storage, header, tally)
        tally = take_tally(storage, header)
    # Of a damaged image, what nothing refers to may be all that is left of something.
    if not tally.corruptions:
        cut_off(storage, header, tally)
        if repair == "all" and header.need_check:
            header.features &= ~s.NEED_CHECK
            write_features(storage, header)
            storage.flush()
    left = _report(storage, header, tally)
    left.fixed_corruptions = max(0, found.corruptions - left.corruptions)
    left.fixed_leaks = max(0, found.leaks - left.leaks)
    return left


def cut_off(storage: Storage, header: QedHeader, tally: Tally) -> None:
    """End the file behind the last cluster that is in use."""
    end = tally.end * header.cluster_size
    # Less than a cluster is no leak: somebody may have put something there.
    if header.limit(storage.size) > end and not getattr(storage, "is_device", False):
        storage.resize(end)
        storage.flush()


def _report(storage: Storage, header: QedHeader, tally: Tally) -> CheckReport:
    problems = list(tally.lines)
    damaged = tally.bad_tables + tally.bad_clusters
    if damaged > len(problems):
        problems.append(f"{damaged - len(problems)} more entries that name impossible places")
    if tally.shared:
        problems.append(f"{tally.shared} tables or clusters share their place with another")
    behind = 0
    if not getattr(storage, "is_device", False):
        behind = max(0, header.limit(storage.size) // header.cluster_size - tally.end)
    if tally.free_count:
        problems.append(f"{tally.free_count} clusters between others are not used")
    if behind:
        problems.append(f"{behind} clusters behind the last one are not used")
    return CheckReport(
        format="qed",
        leaks=tally.free_count + behind,
        corruptions=tally.corruptions,
        total_clusters=header.blocks,
        allocated_clusters=tally.allocated,
        fragmented_clusters=tally.fragments,
        image_end_offset=tally.end * header.cluster_size,
        problems=problems,
    )


def _clear_impossible(storage: Storage, header: QedHeader, tally: Tally) -> None:
    """Clear the entries that name impossible places, of the L2 tables and then of the L1 table."""
    for table in (*tally.tables.tolist(), header.l1_offset):
        is_l1 = table == header.l1_offset
        for first, entries in table_pieces(storage, header, table):
            named = entries > (0 if is_l1 else s.ZERO)
            wrong = named & impossible(header, entries, storage.size, table=is_l1)
            if not wrong.any():
                continue
            rows = np.flatnonzero(wrong)
            low, high = int(rows[0]), int(rows[-1]) + 1
            mended = np.where(wrong, np.uint64(s.UNALLOCATED), entries)[low:high]
            storage.write(table + _ENTRY * (first + low), mended.astype("<u8").tobytes())
        storage.flush()
