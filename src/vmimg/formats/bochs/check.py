"""check for Bochs images: does each entry of the catalog name a place of its own, in the file?

QEMU does not check them. An entry whose place the file does not have, one that shares its place
with another, and an extent of which written sectors are cut off are corruptions; places that no
entry names are leaks. Nothing is repaired: nobody could know what belongs where. Imports numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from vmimg.formats.bochs import structures as s
from vmimg.formats.bochs.header import BochsHeader, read_header
from vmimg.formats.bochs.layer import impossible, read_catalog
from vmimg.formats.driver import CheckReport
from vmimg.storage.base import Storage

__all__ = ["check_image"]

_SHOWN: Final = 10


def check_image(storage: Storage) -> CheckReport:
    """What is wrong with the metadata of ``storage``. Raises FormatError for what cannot be read as
    a Bochs image at all.
    """
    header = read_header(storage)
    catalog = read_catalog(storage, header)
    used = np.flatnonzero(catalog != s.UNALLOCATED)
    places = catalog[used].astype(np.int64)
    wrong = impossible(header, catalog[used], storage.size)
    problems = [
        f"virtual offset {extent * header.extent_size}: said to be in place {place}, but the file "
        f"ends at {storage.size}"
        for extent, place in zip(
            used[wrong][:_SHOWN].tolist(), places[wrong][:_SHOWN].tolist(), strict=True
        )
    ]
    damaged = int(np.count_nonzero(wrong))
    if damaged > len(problems):
        problems.append(f"{damaged - len(problems)} more extents with an impossible place")
    kept = places[~wrong]
    distinct = np.unique(kept)
    shared = len(kept) - len(distinct)
    if shared:
        problems.append(f"{shared} extents share their place with another")
    end = int(distinct[-1]) + 1 if len(distinct) else 0
    cut = 0
    if len(distinct) and _is_cut(storage, header, end - 1):
        cut = 1
        problems.append(
            f"written sectors of the extent in place {end - 1} lie behind the end of the file "
            f"({storage.size})"
        )
    # Bochs takes the place behind the last one that it knows: what is beyond is not counted.
    leaks = end - len(distinct)
    if leaks:
        problems.append(f"{leaks} places between extents are not used")
    return CheckReport(
        format="bochs",
        leaks=leaks,
        corruptions=damaged + shared + cut,
        total_clusters=header.extents,
        allocated_clusters=len(used),
        fragmented_clusters=int(np.count_nonzero(np.diff(places) != 1)),
        image_end_offset=min(storage.size, header.data_start + end * header.stride),
        problems=problems,
    )


def _is_cut(storage: Storage, header: BochsHeader, place: int) -> bool:
    """Whether the last place has written sectors that the file does not hold."""
    start = header.data_start + place * header.stride
    held = (storage.size - start - header.bitmap_size) // s.SECTOR
    count = header.extent_size // s.SECTOR
    if held >= count:
        return False
    bitmap = np.frombuffer(storage.read(start, -(-count // 8)), np.uint8)
    return bool(np.unpackbits(bitmap, count=count, bitorder="little")[held:].any())
