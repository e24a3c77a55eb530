"""check for VHDX: are headers, log, region tables and the BAT as they should be?

Corruptions are: a copy of header or region table that is not valid, region tables that differ, a
log that has to be replayed, BAT entries of a state that there is not, blocks behind the end of the
file, over each other or over another structure, partially present blocks without a sector bitmap.
Leaks are MiB at the end of the file that nothing uses; a gap further in front is no leak, new
blocks fill it. Facts: MS-VHDX and the behaviour of QEMU's block/vhdx.c.

Where it differs from QEMU, on purpose: QEMU looks neither at the second region table nor at a
header that it does not need, and reports no leaks. An image whose log has to be replayed it does
not even open for a check without repair (exit code 1); here the report is about the image as it is
after the replay, with one corruption more.

Repair replays the log, writes what has two copies anew from the good one, and cuts off what is
leaked. BAT entries that contradict each other are left alone: which is right, nobody knows.
"""

from __future__ import annotations

import uuid
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError, StorageError
from vmimg.formats.driver import CheckReport
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import (
    Headers,
    VhdxImage,
    pack_region_table,
    read_headers,
    read_image,
    read_region_table,
)
from vmimg.formats.vhdx.layer import Entries, VhdxLayer
from vmimg.formats.vhdx.log import read_log, replay, replayed, write_header
from vmimg.formats.vhdx.space import SCAN_ENTRIES, check_file_size, used_units
from vmimg.storage.base import Storage
from vmimg.units import MIB

__all__ = ["check_image"]

# Problems of one sort that are told one by one.
_TOLD: Final = 10
# QEMU leaves so much between the BAT and the first block.
_SLACK: Final = 4 * MIB


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The image is checked again after
    a repair: the report says what is left, and how much was fixed. Raises FormatError for what
    cannot be read as VHDX at all, StorageError when reading or writing fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if not repair:
        return _Survey(storage).report
    if not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    corruptions = _mend(storage) if repair == "all" else 0
    survey = _Survey(storage)
    leaks = 0
    if survey.report.leaks and not survey.report.corruptions:
        leaks = survey.report.leaks
        storage.resize(survey.end)
        storage.flush()
        survey = _Survey(storage)
    survey.report.fixed_corruptions = corruptions
    survey.report.fixed_leaks = leaks
    return survey.report


class _Survey:
    """One check, without changing anything. ``end``: where what is used of the file ends."""

    def __init__(self, storage: Storage) -> None:
        self.report = CheckReport(format="vhdx")
        self.end = 0
        self._storage = storage
        headers = read_headers(storage)
        self._check_headers(headers)
        found = read_log(storage, headers.header)
        if found is not None and found.patches:
            self._corrupt(
                f"the log holds {len(found.patches)} changes in {found.entries} entries that were "
                "not made: repair replays them"
            )
        elif headers.header.dirty:
            self.report.problems.append("not closed properly, but its log holds nothing to replay")
        image = read_image(replayed(storage, found), headers)
        for problem in image.problems:
            self._corrupt(problem)
        layer = VhdxLayer(replayed(storage, found), image)
        check_file_size(layer)
        self._check_blocks(layer)

    def _check_headers(self, headers: Headers) -> None:
        for number, copy in enumerate(headers.copies, 1):
            if copy is None:
                self._corrupt(f"header {number} is not valid: its checksum or signature is wrong")

    def _check_blocks(self, layer: VhdxLayer) -> None:
        image, report = layer.image, self.report
        report.total_clusters = image.blocks
        used = used_units(layer)
        last_place = -1
        position, total = 0, image.bat_entries
        while position < total:
            position = layer.search(position, total)
            stop = min(total, position + SCAN_ENTRIES)
            if position >= total:
                break
            entries = layer.entries(position, stop)
            numbers = np.arange(position, stop, dtype=np.int64)
            bitmap = numbers % (image.chunk_ratio + 1) == image.chunk_ratio
            states = entries & np.uint64(s.STATE_MASK)
            self._check_states(layer, numbers, states, bitmap)
            self._claim(layer, numbers, entries, bitmap, used)

            data = ~bitmap & (states >= s.FULLY_PRESENT)
            places = (entries[data] & np.uint64(s.OFFSET_MASK)).view(np.int64)
            report.allocated_clusters += len(places)
            if len(places):
                jumps = np.diff(places, prepend=last_place) != image.block_size
                report.fragmented_clusters += int(np.count_nonzero(jumps)) - (last_place < 0)
                last_place = int(places[-1])
            if image.has_parent:
                self._check_partial(layer, position, states, bitmap)
            position = stop
        self._measure(layer, used)

    def _check_states(
        self,
        layer: VhdxLayer,
        numbers: NDArray[np.int64],
        states: Entries,
        bitmap: NDArray[np.bool_],
    ) -> None:
        parent = layer.image.has_parent
        wrong = ~bitmap & (states == 4)
        if parent:
            wrong |= bitmap & (states != s.BITMAP_NOT_PRESENT) & (states != s.BITMAP_PRESENT)
        else:
            # QEMU 7.2 leaves rubbish in entries of sector bitmaps that nobody uses.
            wrong |= ~bitmap & (states == s.PARTIALLY_PRESENT)
        found = np.flatnonzero(wrong)
        self._corrupt_all(
            [
                f"BAT entry {int(numbers[n])}: state {int(states[n])} cannot be here"
                for n in found[:_TOLD]
            ],
            len(found),
            "BAT entries of a state that cannot be",
        )

    def _claim(
        self,
        layer: VhdxLayer,
        numbers: NDArray[np.int64],
        entries: Entries,
        bitmap: NDArray[np.bool_],
        used: NDArray[np.bool_],
    ) -> None:
        """Note what the entries name as used, and complain of what is so already."""
        image = layer.image
        held = layer.holds_place(entries)
        kinds = [(held & ~bitmap, image.block_size)]
        if image.has_parent:
            kinds.append((held & bitmap, s.BITMAP_BLOCK))
        for chosen, length in kinds:
            which = numbers[chosen]
            places = (entries[chosen] & np.uint64(s.OFFSET_MASK)).view(np.int64)
            # The last block of the disk may be cut short by the end of the file.
            needed = np.full(len(which), length, np.int64)
            last = layer.index(image.blocks - 1)
            needed[which == last] = min(length, image.size - (image.blocks - 1) * length)
            beyond = (places > layer.storage.size - needed) | (places < 0)
            self._tell(which, places, beyond, "lies behind the end of the file")
            which, places = which[~beyond], places[~beyond]
            over = np.ones(len(which), np.bool_)
            over[np.unique(places, return_index=True)[1]] = False  # the first of each place
            units = places // MIB
            for step in range(length // MIB):
                inside = units + step < len(used)
                over[inside] |= used[units[inside] + step]
            for step in range(length // MIB):
                inside = units + step < len(used)
                used[units[inside] + step] = True
            self._tell(which, places, over, "lies over another block or structure")

    def _tell(
        self,
        numbers: NDArray[np.int64],
        places: NDArray[np.int64],
        wrong: NDArray[np.bool_],
        what: str,
    ) -> None:
        found = np.flatnonzero(wrong)
        lines = [
            f"BAT entry {int(numbers[n])}: its block at {int(places[n])} {what}"
            for n in found[:_TOLD]
        ]
        self._corrupt_all(lines, len(found), f"blocks of which each {what}")

    def _check_partial(
        self, layer: VhdxLayer, first: int, states: Entries, bitmap: NDArray[np.bool_]
    ) -> None:
        """Partially present blocks need a sector bitmap."""
        image = layer.image
        partial = np.flatnonzero(~bitmap & (states == s.PARTIALLY_PRESENT))
        for chunk in np.unique((first + partial) // (image.chunk_ratio + 1)).tolist():
            number = layer.bitmap_index(chunk)
            entry = int(layer.entries(number, number + 1)[0])
            if entry & s.STATE_MASK == s.BITMAP_NOT_PRESENT:
                self._corrupt(
                    f"chunk {chunk} has partially present blocks, but no sector bitmap "
                    f"(BAT entry {number})"
                )

    def _measure(self, layer: VhdxLayer, used: NDArray[np.bool_]) -> None:
        taken = np.flatnonzero(used)
        structures = max(end for _, end in layer.structures())
        self.end = max((int(taken[-1]) + 1) * MIB, structures + _SLACK)
        self.report.image_end_offset = min(self.end, self._storage.size)
        # A fixed disk may have its space without having given it to blocks: QEMU makes such.
        if not layer.image.leave_blocks_allocated:
            self.report.leaks = max(0, (self._storage.size - self.end) // MIB)
        if self.report.leaks:
            self.report.problems.append(
                f"{self.report.leaks} MiB at the end of the file are in no use: leaked"
            )

    def _corrupt(self, problem: str) -> None:
        self._corrupt_all([problem], 1, "")

    def _corrupt_all(self, lines: list[str], count: int, more: str) -> None:
        self.report.problems += lines
        self.report.corruptions += count
        if count > len(lines):
            self.report.problems.append(f"{count - len(lines)} more {more}")


def _mend(storage: Storage) -> int:
    """Replay the log, and make two of what has to be there twice. How much was wrong."""
    headers = read_headers(storage)
    bad = sum(copy is None for copy in headers.copies)
    found = read_log(storage, headers.header)
    image = read_image(replayed(storage, found), headers)
    fixed = bad
    if headers.header.dirty:
        fixed += found is not None and bool(found.patches)
        headers = replay(storage, headers, found)
    elif bad:
        guid = uuid.uuid4().bytes_le
        for _ in range(2):
            headers = write_header(storage, headers, file_write_guid=guid)
    return fixed + _mend_region_tables(storage, image)


def _mend_region_tables(storage: Storage, image: VhdxImage) -> int:
    tables = [read_region_table(storage, offset) for offset in s.REGION_TABLE_OFFSETS]
    bad = [number for number, table in enumerate(tables) if table is None]
    for number in bad:
        storage.write(s.REGION_TABLE_OFFSETS[number], pack_region_table(image.regions))
    if bad:
        storage.flush()
    return len(bad)
