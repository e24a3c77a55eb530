"""What a stranger's COW image could do to its reader.

There is little to go wrong: a header with a name in it, a bitmap, and sectors in their places. No
numpy. Spec: QEMU block/cow.c.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from vmimg.errors import VmimgError
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.header import CowHeader, find_layout, read_header
from vmimg.formats.detect import Evidence
from vmimg.formats.sampling import hidden_data, unfinished
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_down

__all__ = ["find_evidence", "vet_image"]

_NAME_AT: Final = 8
_PIECE: Final = 64 << 10
_BUDGET: Final = 2 << 20


def find_evidence(storage: Storage) -> tuple[Evidence, ...]:
    """See `Driver.evidence`."""
    try:
        header = read_header(storage)
    except VmimgError:
        return ()
    wide = header.bitmap_offset == ctypes.sizeof(s.Header64)
    place = _at(wide, "sectorsize")
    return (
        Evidence(4, f"version {s.VERSION}"),
        Evidence(place, f"a sector size of {s.SECTOR}, as {64 if wide else 32} bits lay it out"),
    )


def vet_image(storage: Storage) -> Iterator[Finding]:
    """See `Driver.vet`. Raises what reading the header does, for what has no code of its own."""
    head = storage.read(0, min(8, storage.size))
    version = int.from_bytes(head[4:], "big") if head[:4] == s.MAGIC else 1
    if len(head) == 8 and version != s.VERSION:
        yield Finding.of(
            "unknown-version",
            f"it is of version {version}, and QEMU's is version {s.VERSION}: User Mode Linux has "
            "others",
            offset=4,
        )
        return
    raw = find_layout(storage)
    wide = isinstance(raw, s.Header64)
    size = align_down(int(raw.size), s.SECTOR)
    if raw.size < s.SECTOR or raw.size >= 1 << 63:
        yield Finding.of(
            "impossible-size",
            f"a virtual size of {raw.size} bytes is not possible",
            offset=_at(wide, "size"),
        )
        return
    if raw.size % s.SECTOR:
        yield Finding.of(
            "odd-field",
            f"a virtual size of {raw.size} bytes is no number of sectors: programs differ in where "
            "they end",
            offset=_at(wide, "size"),
        )
    yield from _vet_name(raw)
    header = CowHeader(size=size, bitmap_offset=ctypes.sizeof(raw))
    if header.bitmap_end > storage.size:
        yield Finding.of(
            "table-outside",
            f"the bitmap, {header.bitmap_bytes} bytes at {header.bitmap_offset}, is not in the "
            f"file ({storage.size} bytes)",
            offset=_at(wide, "size"),
        )
        return
    yield from _vet_bitmap(storage, header)
    end = header.data_offset + header.size
    yield from hidden_data(
        storage, end, storage.size, f"the file goes on behind {end}, where the disk ends"
    )


def _at(wide: bool, field: str) -> int:
    place: int = getattr(s.Header64 if wide else s.Header32, field).offset
    return place


def _vet_name(raw: s.Header64 | s.Header32) -> Iterator[Finding]:
    # As bytes: ctypes cuts a string off at its first zero.
    field = bytes(raw)[_NAME_AT : _NAME_AT + s.NAME_BYTES]
    name, end, rest = field.partition(b"\0")
    if not end:
        yield Finding.of(
            "odd-field",
            "the name of the backing file does not end: programs differ in where they end it",
            offset=_NAME_AT,
            severity=Severity.ERROR,
        )
    elif any(rest):
        behind = len(name) + 1 + len(rest) - len(rest.lstrip(b"\0"))
        yield Finding.of(
            "hidden-data",
            "there is data behind the name of the backing file",
            offset=_NAME_AT + behind,
        )


def _vet_bitmap(storage: Storage, header: CowHeader) -> Iterator[Finding]:
    """Whether the last sector that is there is in the file. From the end: that of an empty disk may
    be long.
    """
    end, budget = header.bitmap_end, _BUDGET
    while end > header.bitmap_offset and budget > 0:
        start = max(header.bitmap_offset, end - _PIECE)
        data = storage.read(start, end - start).rstrip(b"\0")
        budget -= end - start
        end = start
        if not data:
            continue
        sector = (start - header.bitmap_offset + len(data)) * 8 - 8 + data[-1].bit_length() - 1
        said = start + len(data) - 1
        if sector >= header.sectors:
            yield Finding.of(
                "odd-field",
                "bits of the bitmap are set for sectors behind the end of the disk",
                offset=said,
                severity=Severity.NOTE,
            )
            # Of the last byte only: there are 7 at the most.
            sector = header.sectors - 1
        place = header.data_offset + sector * s.SECTOR
        if place >= storage.size:
            yield Finding.of(
                "truncated",
                f"sector {sector} of the disk is said to be at {place}, behind the end of the file "
                f"({storage.size})",
                offset=said,
            )
        return
    if end > header.bitmap_offset:
        yield unfinished(f"not looked at: {end - header.bitmap_offset} bytes of the bitmap")
