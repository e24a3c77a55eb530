"""check for VHD: do footer, copy, header, BAT and blocks fit each other and the file?

Corruptions: a footer or header with a wrong checksum, a footer that is missing or differs from its
copy, a BAT that is too small, entries that name a place outside the file, over metadata or over
another block, parent locators outside the file. Leaks: space for whole blocks that no entry names;
gaps of less than 4096 bytes are alignment. qemu-img does not check VHD.

Repair mends what has one right answer:

- "all": a lost or damaged footer from its copy and the other way round; the checksum of a dynamic
  header in which everything else holds.
- "leaks" and "all": the last blocks are moved to where space was lost, and the end is cut off.

What it leaves alone: two good footers that differ, and entries that name a wrong place, for nobody
knows what was there.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0. Imports
the layer and numpy; `repair` where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import (
    DynamicFields,
    VhdImage,
    read_image,
)
from vmimg.formats.vhd.layer import Entries, read_bat
from vmimg.formats.vhd.locators import Locator, read_locators
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["Survey", "check_image", "survey"]

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Less than this in front of a block is there for alignment.
_GAP: Final = 4096
# Entries looked at in one go, and blocks that are told by name of each thing that is wrong.
_CHUNK: Final = 1 << 18
_TOLD: Final = 10
# What repair fills at one time.
_MOST_GAPS: Final = 1 << 16


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with ``storage``; ``repair`` is "", "leaks" or "all", and it is writable then.

    After a repair the image is checked again: the report says what is left and what was fixed.
    Raises FormatError for what cannot be read as VHD at all, StorageError when reading or writing
    fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    found = survey(storage)
    if not repair:
        return found.report
    if not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    from vmimg.formats.vhd.repair import mend

    mend(storage, found, repair)
    before, after = found.report, survey(storage).report
    after.fixed_corruptions = max(0, before.corruptions - after.corruptions)
    after.fixed_leaks = max(0, before.leaks - after.leaks)
    return after


@dataclass(slots=True)
class Survey:
    """One check. ``used``: end of the last thing in the file that something names; ``sound``:
    whether the blocks are where they can be, so that what is not named is nobody's. ``gaps``: the
    first of the stretches (start, end) that are nobody's and have room for a block of ``span``
    bytes, its bitmap included; not the one behind the last block.
    """

    image: VhdImage
    report: CheckReport = field(default_factory=lambda: CheckReport("vhd"))
    used: int = 0
    sound: bool = True
    span: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def lost(self, start: int, end: int, *, last: bool = False) -> int:
        """Blocks that there would be room for between ``start`` and ``end``."""
        count = max(0, end - start) // self.span
        if count and not last and len(self.gaps) < _MOST_GAPS:
            self.gaps.append((start, end))
        return count

    def corrupt(self, line: str, count: int = 1) -> None:
        self.report.corruptions += count
        self.report.problems.append(line)


def survey(storage: Storage) -> Survey:
    """Check ``storage`` without changing anything. Raises what `read_image` raises."""
    found = Survey(read_image(storage, lenient=True))
    _check_footers(found)
    if found.image.dynamic is not None:
        _check_dynamic(storage, found, found.image.dynamic)
    else:
        found.used = found.image.footer.offset
    found.report.image_end_offset = found.used
    return found


def _check_footers(survey: Survey) -> None:
    image = survey.image
    head, end = image.head, image.end
    if end is None:
        survey.corrupt("the footer at the end of the file is missing")
    elif not end.good:
        survey.corrupt("the checksum of the footer is wrong")
    if image.dynamic is None:
        return
    if head is None:
        survey.corrupt("the copy of the footer in front is missing")
    elif not head.good:
        survey.corrupt("the checksum of the copy of the footer is wrong")
    elif image.contradicting:
        survey.corrupt("the footer and its copy in front say different things")
    if not image.dynamic.good:
        survey.corrupt("the checksum of the dynamic header is wrong")


def _check_dynamic(storage: Storage, survey: Survey, header: DynamicFields) -> None:
    image, report = survey.image, survey.report
    survey.used = max(header.offset + s.DYNAMIC_HEADER_SIZE, align_up(header.table_end, s.SECTOR))
    metadata = [
        (0, s.FOOTER_SIZE),
        (header.offset, header.offset + s.DYNAMIC_HEADER_SIZE),
        (header.table_offset, align_up(header.table_end, s.SECTOR)),
    ]
    if image.differencing:
        metadata += [_check_locator(survey, each) for each in read_locators(storage, header)]
    bat = read_bat(storage, header, header.max_table_entries)
    report.total_clusters = -(-image.size // header.block_size)
    report.allocated_clusters = int(np.count_nonzero(bat != s.UNUSED))
    end = storage.size if image.end is None else image.end.offset
    span = header.bitmap_size + header.block_size
    sectors = _sound_entries(survey, bat, metadata, span, end)
    report.fragmented_clusters = sum(
        int(np.count_nonzero((steps < span) | (steps >= span + _GAP))) for steps in _steps(sectors)
    )
    sectors.sort()
    _check_overlaps(survey, bat, sectors, span)
    _count_leaks(survey, metadata, sectors, span, end)


def _sound_entries(
    survey: Survey, bat: Entries, metadata: list[tuple[int, int]], span: int, end: int
) -> Entries:
    """The entries whose blocks lie where they can; the others are corruptions."""
    wrong = bat == s.UNUSED
    faults: dict[str, list[tuple[int, int]]] = {}
    counts: dict[str, int] = {}
    for first in range(0, len(bat), _CHUNK):
        starts = bat[first : first + _CHUNK].astype(np.int64) * s.SECTOR
        bad = wrong[first : first + _CHUNK]

        def note(where: Mask, what: str, first: int = first, starts: Places = starts) -> None:
            numbers = np.flatnonzero(where)
            counts[what] = counts.get(what, 0) + len(numbers)
            told = faults.setdefault(what, [])
            for number in numbers[: _TOLD - len(told)].tolist():
                told.append((first + number, int(starts[number])))

        behind = ~bad & (starts + span > end)
        note(behind, f"reaches behind {end}, where the file ends")
        bad |= behind
        for low, high in metadata:
            over = ~bad & (starts < high) & (starts + span > low)
            note(over, f"lies over the metadata at {low}")
            bad |= over
    for what, told in faults.items():
        _tell(survey, told, counts[what], what)
    sound: Entries = bat[~wrong]
    return sound


def _check_overlaps(survey: Survey, bat: Entries, sectors: Entries, span: int) -> None:
    """Blocks in ascending order of ``sectors`` that begin before the one in front ends."""
    count, told = 0, list[tuple[int, int]]()
    for first, steps in zip(range(0, len(sectors), _CHUNK), _steps(sectors), strict=False):
        over = np.flatnonzero(steps < span)
        count += len(over)
        for index in over[: _TOLD - len(told)].tolist():
            sector = int(sectors[first + index + 1])
            told.append((int(np.flatnonzero(bat == sector)[-1]), sector * s.SECTOR))
    _tell(survey, told, count, "overlaps another block")


def _steps(sectors: Entries) -> Iterator[Places]:
    """Bytes from each of ``sectors`` to the next, in pieces."""
    for first in range(0, len(sectors) - 1, _CHUNK):
        starts = sectors[first : first + _CHUNK + 1].astype(np.int64) * s.SECTOR
        yield starts[1:] - starts[:-1]


def _check_locator(survey: Survey, locator: Locator) -> tuple[int, int]:
    if not locator.inside:
        survey.corrupt(f"the parent locator {locator.code} lies outside the file")
        return 0, 0
    return locator.offset, locator.offset + locator.space


def _tell(survey: Survey, told: list[tuple[int, int]], count: int, what: str) -> None:
    """``count`` corruptions, and a line for each of (block, where it is said to be)."""
    if not count:
        return
    survey.sound = False
    survey.report.corruptions += count
    for number, start in told:
        survey.report.problems.append(f"block {number}: said to be at {start}, {what}")
    if count > len(told):
        survey.report.problems.append(f"{count - len(told)} more blocks of which each {what}")


def _count_leaks(
    survey: Survey, metadata: list[tuple[int, int]], sectors: Entries, span: int, end: int
) -> None:
    """Count what is between and behind all that is named, in blocks; ``sectors`` ascend."""
    # Gaps with metadata in them, and those at both ends, one by one; the others in one go.
    lows = np.array([low for low, _ in metadata], np.int64) // s.SECTOR
    special = {0, len(sectors), *np.searchsorted(sectors, lows).tolist()}
    leaks = 0
    survey.span = span
    for index in sorted(special):
        low = int(sectors[index - 1]) * s.SECTOR + span if index else 0
        high = int(sectors[index]) * s.SECTOR if index < len(sectors) else end
        for start, stop in sorted(metadata):
            if low <= start < high:
                leaks += survey.lost(low, start)
                low = max(low, stop)
        leaks += survey.lost(low, high, last=index == len(sectors))
    for first, steps in zip(range(0, len(sectors), _CHUNK), _steps(sectors), strict=False):
        gaps = np.maximum(steps - span, 0) // span
        for index in special:
            if 0 <= index - 1 - first < len(gaps):
                gaps[index - 1 - first] = 0
        for index in np.flatnonzero(gaps).tolist():
            low = int(sectors[first + index]) * s.SECTOR + span
            leaks += survey.lost(low, low + int(steps[index]) - span)
    survey.used = max(survey.used, *(stop for _, stop in metadata))
    if len(sectors):
        survey.used = max(survey.used, int(sectors[-1]) * s.SECTOR + span)
    if leaks:
        survey.report.leaks += leaks
        survey.report.problems.append(f"{leaks} blocks that nothing refers to: leaked")
