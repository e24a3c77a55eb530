"""check for COW: is the data of each sector that the bitmap counts in the file?

There is little that could be wrong: each sector has one place. A set bit whose sector the file does
not hold is a corruption: it was cut off, and is not made up. Bits behind the last sector, which no
reader looks at, are cleared by a repair. Imports numpy.
"""

from __future__ import annotations

import numpy as np

from vmimg.disk.runs import runs
from vmimg.errors import OptionError, StorageError
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.bitmap import PAGE_BYTES, PAGE_SECTORS, load_page
from vmimg.formats.cow.header import CowHeader, read_header
from vmimg.formats.driver import CheckReport
from vmimg.storage.base import Storage
from vmimg.storage.holes import Holes

__all__ = ["check_image"]


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with the metadata of ``storage``.

    ``repair``: "", "leaks" or "all"; the storage is writable then. The report says what is left
    after a repair, and how much was fixed. Raises FormatError for what cannot be read as COW at
    all, StorageError when reading or writing fails.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair={repair}: there are 'leaks' and 'all'")
    if repair and not storage.writable:
        raise StorageError(f"{storage.name}: is not open for writing and cannot be repaired")
    header = read_header(storage)
    report = CheckReport(format="cow", total_clusters=header.sectors)
    _count_sectors(storage, header, report)
    stray = _stray_bits(storage, header)
    if stray and repair == "all":
        last = header.bitmap_end - 1
        kept = storage.read(last, 1)[0] & ((1 << header.sectors % 8) - 1)
        storage.write(last, bytes([kept]))
        storage.flush()
        report.fixed_corruptions = 1
    elif stray:
        report.corruptions += 1
        report.problems.append(f"{stray} bits are set behind that of the last sector")
    behind = storage.size - max(header.data_offset, report.image_end_offset)
    if behind >= s.SECTOR and not getattr(storage, "is_device", False):
        # What was dropped, or was written and never counted: cut off, it costs nobody anything.
        if repair:
            storage.resize(max(header.bitmap_end, report.image_end_offset))
            storage.flush()
            report.fixed_leaks = behind // s.SECTOR
        else:
            report.leaks = behind // s.SECTOR
            report.problems.append(f"{report.leaks} sectors behind the last one are not used")
    return report


def _count_sectors(storage: Storage, header: CowHeader, report: CheckReport) -> None:
    """Fill in how many sectors there are, how scattered, and which of them the file lacks."""
    held = (storage.size - header.data_offset) // s.SECTOR
    pages = -(-header.bitmap_bytes // PAGE_BYTES)
    start = header.bitmap_offset
    holes = Holes(storage, start, header.bitmap_end)
    last, page = -1, 0
    while page < pages:
        page = max(page, (holes.skip(start + page * PAGE_BYTES) - start) // PAGE_BYTES)
        if start + page * PAGE_BYTES >= header.bitmap_end:
            break
        bits = load_page(storage, header, page)
        if bits.any():
            sectors = np.flatnonzero(np.unpackbits(bits, bitorder="little")) + page * PAGE_SECTORS
            report.allocated_clusters += len(sectors)
            pieces = runs(sectors.astype(np.int64))
            first_goes_on = last < 0 or last + 1 == int(sectors[0])
            report.fragmented_clusters += len(pieces) - first_goes_on
            last = int(sectors[-1])
            lost = int(np.count_nonzero(sectors >= held))
            if lost and not report.corruptions:
                first = int(sectors[sectors >= held][0]) * s.SECTOR
                report.problems.append(
                    f"virtual offset {first}: said to be at {header.data_offset + first}, but the "
                    f"file ends at {storage.size}"
                )
            report.corruptions += lost
        page += 1
    if report.corruptions > 1:
        report.problems.append(f"{report.corruptions - 1} more sectors behind the end of the file")
    report.image_end_offset = max(
        header.bitmap_end, header.data_offset + (last + 1) * s.SECTOR if last >= 0 else 0
    )


def _stray_bits(storage: Storage, header: CowHeader) -> int:
    """How many bits are set behind that of the last sector."""
    if not header.sectors % 8:
        return 0
    return (storage.read(header.bitmap_end - 1, 1)[0] >> header.sectors % 8).bit_count()
