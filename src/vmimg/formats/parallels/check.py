"""check for Parallels: does the BAT give each cluster a place of its own, inside the file?

Counts as ``qemu-img check`` does (that of QEMU 8 and later, where 7 looks at less): an image that
was not closed, a cluster outside of the file, one that shares its place with another, and a wrong
data_off are corruptions; whole clusters behind the last one are leaks, gaps between clusters are
not. Where the two part, on purpose:

- the clusters of a format extension are in use, not leaks;
- a damaged format extension is a corruption (QEMU then does not open the image at all);
- a cluster that begins between two places is a corruption; the specification forbids it;
- the last cluster may be cut short behind the end of the disk: nothing of the guest's is missing.

Repair "leaks" cuts off what lies behind the last cluster. "all" does as QEMU: what lies outside of
the file is lost, and reads as zeros from then on; of clusters that share a place all but the first
get a copy; the mark of being in use is cleared, last. A damaged format extension is taken off,
unless it says that the image must not be changed then.

A bundle is checked image by image, and what its descriptor says of them. Imports the tally.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.runs import runs
from vmimg.errors import ChainError, FormatError, OptionError, StorageError, UnsupportedFeature
from vmimg.formats.driver import CheckReport, Companions
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.allocation import write_state
from vmimg.formats.parallels.bundle import (
    Descriptor,
    Image,
    StorageRange,
    braced,
    read_descriptor,
)
from vmimg.formats.parallels.extension import Extension, read_extension
from vmimg.formats.parallels.header import ParallelsHeader, read_header
from vmimg.formats.parallels.opening import open_companion
from vmimg.formats.parallels.tally import Tally, bat_pieces, take_tally
from vmimg.formats.vetting import printable
from vmimg.storage.base import Storage

__all__ = ["check_bundle", "check_file"]

_COPY_BYTES: Final = 4 << 20
# One byte of memory each.
_MAX_PLACES: Final = 1 << 28


def check_file(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of the expanding image in ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as a Parallels image at all, StorageError when reading or writing fails.
    """
    _check_repair(storage, repair)
    header = read_header(storage)
    extension = read_extension(storage, header)
    tally = take_tally(storage, header, extension)
    found = _report(storage, header, extension, tally)
    if not repair:
        return found
    keeper = extension is not None and bool(extension.keeper)
    if repair == "all" and found.corruptions and not keeper:
        _mend(storage, header, extension, tally)
        header = read_header(storage)
        extension = read_extension(storage, header)
        tally = take_tally(storage, header, extension)
    left = _report(storage, header, extension, tally)
    # Of a damaged image, what no cluster refers to may be all that is left of something.
    if left.leaks and not left.corruptions:
        storage.resize(_end(header, tally))
        storage.flush()
        left = _report(storage, header, extension, tally)
    left.fixed_corruptions = max(0, found.corruptions - left.corruptions)
    left.fixed_leaks = max(0, found.leaks - left.leaks)
    return left


def check_bundle(storage: Storage, *, companions: Companions, repair: str = "") -> CheckReport:
    """The same, of all images that the descriptor in ``storage`` names."""
    _check_repair(storage, repair)
    descriptor = read_descriptor(storage)
    if descriptor.refusal:
        raise UnsupportedFeature(f"{descriptor.name}: {descriptor.refusal}")
    total = CheckReport(format="parallels")
    total.problems = descriptor.broken()
    for guid in descriptor.parents:
        for each in descriptor.storages:
            if guid not in each.images:
                total.problems.append(f"no image is named for the snapshot {braced(guid)}")
    total.corruptions = len(total.problems)
    for each in descriptor.storages:
        for image in each.images.values():
            _add_image(descriptor, each, image, total, companions, repair)
    return total


def _add_image(
    descriptor: Descriptor,
    each: StorageRange,
    image: Image,
    total: CheckReport,
    companions: Companions,
    repair: str,
) -> None:
    size = each.end - each.start
    present = image.guid == descriptor.top
    try:
        file = open_companion(image.file, companions, read_only=not repair)
        if image.plain:
            if file.size < size:
                total.corruptions += 1
                total.problems.append(f"{printable(image.file)}: has {file.size} bytes, not {size}")
            return
        header = read_header(file)
        report = check_file(file, repair=repair)
    except (ChainError, FormatError, UnsupportedFeature) as error:
        total.corruptions += 1
        total.problems.append(str(error))
        return
    if each.block_size not in (0, header.block_size):
        report.corruptions += 1
        report.problems.append(
            f"has clusters of {header.block_size} bytes, and its storage says {each.block_size}"
        )
    if header.size < size and present:
        report.corruptions += 1
        report.problems.append(f"is a disk of {header.size} bytes, and its storage has {size}")
    for name in (
        "leaks", "corruptions", "fixed_leaks", "fixed_corruptions", "total_clusters",
        "allocated_clusters", "fragmented_clusters",
    ):  # fmt: skip
        setattr(total, name, getattr(total, name) + getattr(report, name))
    total.problems += [f"{printable(image.file)}: {line}" for line in report.problems]


def _check_repair(storage: Storage, repair: str) -> None:
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if repair and not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")


def _report(
    storage: Storage, header: ParallelsHeader, extension: Extension | None, tally: Tally
) -> CheckReport:
    problems = []
    corruptions = 0
    if header.dirty:
        corruptions += 1
        problems.append("it was not closed properly, or is open elsewhere")
    if header.data_off_wrong is not None:
        corruptions += 1
        problems.append(header.data_off_wrong)
    if extension is not None and extension.wrong:
        corruptions += 1
        problems.append(f"its format extension is damaged: {extension.wrong}")
    problems += tally.lines
    damaged = tally.outside + tally.cut + tally.misplaced
    if damaged > len(tally.lines):
        problems.append(f"{damaged - len(tally.lines)} more clusters with an impossible place")
    if tally.shared:
        problems.append(f"{tally.shared} clusters share their place with another")
    corruptions += damaged + tally.shared
    end = _end(header, tally)
    leaks = -(-(storage.size - end) // header.block_size) if storage.size > end else 0
    if leaks:
        problems.append(f"{storage.size - end} bytes behind the last cluster are not used")
    return CheckReport(
        format="parallels",
        leaks=leaks,
        corruptions=corruptions,
        total_clusters=header.entries,
        allocated_clusters=tally.entries - tally.outside,
        fragmented_clusters=tally.fragments,
        image_end_offset=end,
        problems=problems,
    )


def _end(header: ParallelsHeader, tally: Tally) -> int:
    """Where the last cluster that is in use ends."""
    return header.data_start + (tally.highest + 1) * header.block_size


def _mend(
    storage: Storage, header: ParallelsHeader, extension: Extension | None, tally: Tally
) -> None:
    """Make the image sound. Copies are durable before the BAT names them; the mark goes last."""
    if header.data_off_wrong is not None:
        header.data_off = header.least_data_start // s.SECTOR
        place = int(s.Header.data_off.offset)
        storage.write(place, header.data_off.to_bytes(4, "little"))
        storage.flush()
        tally = take_tally(storage, header, extension)
    if tally.outside:
        _forget(storage, header)
    if tally.cut:
        # Half of a cluster is better than none of it.
        storage.resize(max(storage.size, tally.end))
    if not tally.sound:
        tally = take_tally(storage, header, extension)
    if tally.shared:
        _separate(storage, header, tally)
    storage.flush()
    if header.dirty or (extension is not None and extension.wrong):
        # Stale or not: the program that had it open may have changed the disk under the bitmaps.
        write_state(storage, header, in_use=s.CLOSED)
        storage.flush()


def _forget(storage: Storage, header: ParallelsHeader) -> None:
    """Take the clusters out of the BAT of which the file holds nothing."""
    for first, entries in bat_pieces(storage, header):
        lost = entries.astype(np.int64) * header.unit >= storage.size
        _write_entries(storage, first + np.flatnonzero(lost), np.zeros(int(lost.sum()), np.int64))


def _separate(storage: Storage, header: ParallelsHeader, tally: Tally) -> None:
    """Give all but the first cluster of each place a copy behind the end."""
    size, unit = header.block_size, header.unit
    if tally.highest >= _MAX_PLACES:
        return
    seen = np.zeros(tally.highest + 1, np.bool_)
    target = _end(header, tally)
    numbers: list[NDArray[np.int64]] = []
    sources: list[NDArray[np.int64]] = []
    for first, entries in bat_pieces(storage, header):
        rows = np.flatnonzero(entries)
        offsets = entries[rows].astype(np.int64) * unit - header.data_start
        placed = (offsets >= 0) & (offsets % size == 0)
        rows, places = rows[placed], offsets[placed] // size
        _, leading = np.unique(places, return_index=True)
        again = np.ones(len(places), np.bool_)
        again[leading] = seen[places[leading]]
        seen[places] = True
        numbers.append(first + rows[again])
        sources.append(places[again] * size + header.data_start)
    blocks, origins = np.concatenate(numbers), np.concatenate(sources)
    targets = target + np.arange(len(blocks), dtype=np.int64) * size
    if len(targets) and int(targets[-1]) // unit > 0xFFFF_FFFF:
        return  # no room: what the BAT can name ends here
    for origin, place in zip(origins.tolist(), targets.tolist(), strict=True):
        _copy(storage, origin, place, size)
    storage.flush()
    _write_entries(storage, blocks, targets // unit)


def _copy(storage: Storage, origin: int, target: int, size: int) -> None:
    """Copy a cluster, as much of it as the file holds."""
    end = min(origin + size, storage.size)
    for position in range(origin, end, _COPY_BYTES):
        piece = storage.read(position, min(_COPY_BYTES, end - position))
        storage.write(target + position - origin, piece)
    if storage.size < target + size:
        storage.resize(target + size)


def _write_entries(storage: Storage, blocks: NDArray[np.int64], entries: NDArray[np.int64]) -> None:
    for low, high in runs(blocks):
        place = s.BAT_OFFSET + s.BAT_ENTRY * int(blocks[low])
        storage.write(place, entries[low:high].astype("<u4").tobytes())
