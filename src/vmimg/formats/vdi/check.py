"""check for VDI: does the block map give each block a place of its own, and does the header count
them?

Counts as ``qemu-img check`` does: each entry that is not below the number of blocks, each that
shares its place with another, and a wrong cBlocksAllocated is a corruption. Beyond that, which QEMU
does not look at:

- a block whose data the file does not hold (it was cut off) is a corruption;
- so is a block in a place that the header counts as free, even where the number is right:
  VirtualBox and QEMU would write the next new block over it;
- places without a block are leaks.

QEMU repairs nothing. Here "all" brings the blocks of the map into the first places, so that both
rules hold: a block that lies behind them, or shares its place with another, is copied, and still
reads as it did. What the file does not hold is not made up. "leaks" cuts off what lies behind the
last block. Imports the tally, and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport
from vmimg.formats.vdi.header import VdiHeader, read_header
from vmimg.formats.vdi.layer import ZERO
from vmimg.formats.vdi.tally import Tally, map_pieces, take_tally
from vmimg.storage.base import Storage

__all__ = ["check_image"]

_COPY_BYTES: Final = 4 << 20


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as VDI at all, StorageError when reading or writing fails.
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
    if repair == "all" and found.corruptions and not tally.lost:
        _compact(storage, header, tally)
        header.blocks_allocated = tally.entries
        count = tally.entries.to_bytes(4, "little")
        storage.write(header.count_offset, count)
        storage.flush()
        tally = take_tally(storage, header)
    left = _report(storage, header, tally)
    # Of a damaged image, what no block refers to may be all that is left of something.
    if left.leaks and not left.corruptions:
        storage.resize(_end(header, tally))
        storage.flush()
        left = _report(storage, header, tally)
    left.fixed_corruptions = max(0, found.corruptions - left.corruptions)
    left.fixed_leaks = max(0, found.leaks - left.leaks)
    return left


def _report(storage: Storage, header: VdiHeader, tally: Tally) -> CheckReport:
    problems = list(tally.lines)
    damaged = tally.too_large + tally.cut
    if damaged > len(problems):
        problems.append(f"{damaged - len(problems)} more blocks with an impossible place")
    if tally.shared:
        problems.append(f"{tally.shared} blocks share their place with another")
    corruptions = damaged + tally.shared
    counted = tally.entries - tally.too_large
    if header.blocks_allocated != counted:
        corruptions += 1
        problems.append(
            f"the header counts {header.blocks_allocated} allocated blocks, the map has {counted}"
        )
    elif not damaged and tally.highest >= counted:
        corruptions += 1
        problems.append(
            f"there is a block in place {tally.highest}, but the header says that the places "
            f"from {counted} are free"
        )
    leaks = tally.free_count
    if tally.free_count:
        problems.append(f"{tally.free_count} places between blocks are not used")
    behind = (storage.size - _end(header, tally)) // header.stride
    if behind > 0 and not getattr(storage, "is_device", False):
        leaks += behind
        problems.append(f"{behind} places behind the last block are not used")
    return CheckReport(
        format="vdi",
        leaks=leaks,
        corruptions=corruptions,
        total_clusters=-(-header.size // header.block_size),
        allocated_clusters=tally.entries,
        fragmented_clusters=tally.fragments,
        image_end_offset=_end(header, tally),
        problems=problems,
    )


def _end(header: VdiHeader, tally: Tally) -> int:
    """Where the last place that is in use ends."""
    return header.offset_data + (tally.highest + 1) * header.stride


def _compact(storage: Storage, header: VdiHeader, tally: Tally) -> None:
    """Give the blocks of the map the places from 0 on, one each, moving as few as can be.

    The copies are durable before the map names them, and nothing is overwritten that a block still
    refers to.
    """
    count = tally.entries
    taken = np.zeros(count, np.bool_)
    blocks: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = []
    for first, entries in map_pieces(storage, header):
        rows = np.flatnonzero(entries < ZERO)
        used = entries[rows].astype(np.int64)
        # The first block that names a place keeps it.
        _, leading = np.unique(used, return_index=True)
        stays = np.zeros(len(used), np.bool_)
        stays[leading] = True
        stays &= used < count
        stays[stays] = ~taken[used[stays]]
        taken[used[stays]] = True
        blocks.append(first + rows[~stays])
        places.append(used[~stays])
    if not blocks:
        return
    moving, sources = np.concatenate(blocks), np.concatenate(places)
    targets = np.flatnonzero(~taken)
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        _copy_place(storage, header, source, target)
    storage.flush()
    for low, high in _runs(moving):
        place = header.offset_blocks + 4 * int(moving[low])
        storage.write(place, targets[low:high].astype("<u4").tobytes())
    storage.flush()


def _copy_place(storage: Storage, header: VdiHeader, source: int, target: int) -> None:
    """Copy a block with its extra data, as much of it as the file holds."""
    start = header.offset_data + source * header.stride
    shift = (target - source) * header.stride
    end = min(start + header.stride, storage.size)
    for position in range(start, end, _COPY_BYTES):
        piece = storage.read(position, min(_COPY_BYTES, end - position))
        storage.write(position + shift, piece)
    if end + shift < storage.size:
        missing = min(start + header.stride - end, storage.size - end - shift)
        storage.zero(end + shift, missing)


def _runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of runs of consecutive numbers."""
    if len(numbers):
        edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        yield from pairwise(edges)
