"""Repair of VHD: what check found and what has one right answer.

Each step leaves a sound file if it is the last one: the footer is written behind the last block
before the end is cut off; a block is copied, and durable, before the BAT names the copy. Imports
check's survey, and numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.check import Survey, survey
from vmimg.formats.vhd.header import FoundFooter, pack
from vmimg.formats.vhd.layer import read_bat
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["mend"]

# Data of a moved block begins at a multiple of this where there is room.
_PAGE: Final = 4096
# Copied at a time; zeros become holes in pieces of this size.
_PIECE: Final = 64 << 10


def mend(storage: Storage, found: Survey, repair: str) -> None:
    """Mend what ``found`` says of ``storage``; ``repair`` is "leaks" or "all"."""
    header = found.image.dynamic
    # A header that is not right may name a wrong BAT, by which all blocks are lost: nothing is
    # given up by it, not even when its checksum was mended just now.
    sure = header is not None and header.good and not found.image.contradicting
    if repair == "all":
        _mend_footers(storage, found)
        _mend_header(storage, found)
        found = survey(storage)
    end = found.image.end
    if sure and found.sound and end is not None and end.good:
        if found.gaps:
            _fill_gaps(storage, found)
            found = survey(storage)
        _cut_tail(storage, found)
    storage.flush()


def _mend_footers(storage: Storage, found: Survey) -> None:
    image = found.image
    head, end = image.head, image.end
    if image.dynamic is None or not image.footer.good:
        return
    if not found.sound and (end is None or not end.good):
        return  # where the footer belongs is not known
    if end is None or not end.good:
        storage.write(_footer_place(storage, found.used, end), image.footer.raw)
    if head is None or not head.good:
        storage.write(0, image.footer.raw)


def _footer_place(storage: Storage, used: int, end: FoundFooter | None) -> int:
    """Where the footer goes that is not there: over the damaged one, or behind everything."""
    if end is not None and end.offset >= used:
        return end.offset
    if used + s.FOOTER_SIZE >= storage.size:
        return used
    # A damaged one whose cookie is gone, or data of a block that was not linked any more.
    return align_up(storage.size, s.SECTOR)


def _mend_header(storage: Storage, found: Survey) -> None:
    """Set the checksum of a header that is right as far as one can see."""
    header = found.image.dynamic
    if header is None or header.good or not found.sound or found.report.leaks:
        return
    if found.image.differencing or found.image.contradicting:
        return  # who its parent is cannot be seen
    fields = s.DynamicHeader.from_buffer_copy(header.raw)
    storage.write(header.offset, pack(fields))


def _fill_gaps(storage: Storage, found: Survey) -> None:
    """Move the last blocks into gaps between the others."""
    header = found.image.dynamic
    assert header is not None
    bat = read_bat(storage, header, header.max_table_entries)
    numbers = np.flatnonzero(bat != s.UNUSED)
    numbers = numbers[np.argsort(bat[numbers])]
    moved: dict[int, int] = {}
    last = len(numbers) - 1
    for low, high in found.gaps:
        end = low
        while last >= 0:
            start = align_up(end + header.bitmap_size, _PAGE) - header.bitmap_size
            if start + found.span > high:
                start = align_up(end, s.SECTOR)
            number = int(numbers[last])
            place = int(bat[number]) * s.SECTOR
            end = start + found.span
            if end > high or place < start:
                break
            _copy(storage, place, start, found.span)
            moved[number] = start // s.SECTOR
            last -= 1
    storage.flush()
    for number, sector in moved.items():
        storage.write(header.table_offset + 4 * number, sector.to_bytes(4, "big"))
    storage.flush()


def _copy(storage: Storage, source: int, target: int, length: int) -> None:
    for offset in range(0, length, _PIECE):
        piece = storage.read(source + offset, min(_PIECE, length - offset))
        if piece.count(0) == len(piece):
            storage.zero(target + offset, len(piece))
        else:
            storage.write(target + offset, piece)


def _cut_tail(storage: Storage, found: Survey) -> None:
    """Put the footer behind the last block where there is space for blocks in between."""
    end = found.image.end
    assert end is not None
    if end.offset - found.used < found.span:
        return
    storage.write(found.used, end.raw)
    storage.flush()
    storage.resize(found.used + s.FOOTER_SIZE)
