"""Vets Bochs images: the header's numbers and the catalog. Imports header."""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.bochs import structures as s
from vmimg.formats.bochs.header import read_header
from vmimg.formats.detect import Evidence
from vmimg.formats.sampling import hidden_data
from vmimg.formats.vetting import Finding, printable
from vmimg.storage.base import Storage

__all__ = ["bochs_evidence", "vet_bochs"]


def bochs_evidence(storage: Storage) -> Iterator[Evidence]:
    """Type, subtype and version."""
    if storage.size < s.STANDARD_SIZE:
        return
    head = s.StandardHeader.from_buffer_copy(storage.read(0, s.STANDARD_SIZE))
    kind, subtype = (
        printable(text.decode("ascii", "replace")) for text in (head.type, head.subtype)
    )
    version = f"{head.version >> 16}.{head.version & 0xFFFF}"
    yield Evidence(s.StandardHeader.type.offset, f"'{kind}', '{subtype}', version {version}")


def vet_bochs(storage: Storage) -> Iterator[Finding]:
    """What breaks the format by its code first; then the catalog, which is at most 4 MiB."""
    if storage.size < s.HEADER_SIZE:
        return
    yield from _vet_header(storage)
    try:
        header = read_header(storage)
    except (FormatError, UnsupportedFeature):
        return  # inspect says the same
    import numpy as np

    data = storage.read(header.catalog_offset, 4 * header.entries)
    catalog = np.frombuffer(data, "<u4")
    if np.any(catalog[header.extents :] != s.UNALLOCATED):
        yield Finding.of(
            "odd-field",
            "the catalog has places for extents behind the end of the disk",
            offset=header.catalog_offset + 4 * header.extents,
        )
    rows = np.flatnonzero(catalog[: header.extents] != s.UNALLOCATED)
    places = catalog[rows].astype(np.int64)
    starts = header.data_start + places * header.stride
    outside = np.flatnonzero(starts + header.bitmap_size > storage.size)
    order = np.argsort(places, kind="stable")
    again = order[1:][np.diff(places[order]) == 0]
    for code, found, what in (
        ("truncated", outside, f"but the file ends at {storage.size}"),
        ("tables-overlap", again, "as another one is"),
    ):
        if len(found):
            row = int(rows[found[0]])
            yield Finding.of(
                code,
                f"the extent of virtual offset {row * header.extent_size} is said to be in place "
                f"{int(places[found[0]])}, {what} ({len(found)} such)",
                offset=header.catalog_offset + 4 * row,
            )
    inside = starts[starts < storage.size]
    end = int(inside.max()) + header.stride if len(inside) else header.data_start
    yield from hidden_data(
        storage, end, storage.size, "there is data behind the last extent that is used"
    )


def _vet_header(storage: Storage) -> Iterator[Finding]:
    head = s.StandardHeader.from_buffer_copy(storage.read(0, s.STANDARD_SIZE))
    if head.version not in (s.VERSION_1, s.VERSION_2):
        yield Finding.of(
            "unknown-version",
            f"it is of version {head.version >> 16}.{head.version & 0xFFFF}",
            offset=s.StandardHeader.version.offset,
        )
        return
    kind = s.SpecificHeader if head.version == s.VERSION_2 else s.SpecificHeader1
    raw = kind.from_buffer_copy(storage.read(s.STANDARD_SIZE, s.HEADER_SIZE - s.STANDARD_SIZE))

    def at(name: str) -> int:
        return s.STANDARD_SIZE + int(getattr(kind, name).offset)

    extent = int(raw.extent)
    if not s.SECTOR <= extent <= s.MAX_EXTENT or extent & (extent - 1):
        yield Finding.of("impossible-size", f"an extent has {extent} bytes", offset=at("extent"))
    elif raw.disk > raw.catalog * extent:
        yield Finding.of(
            "impossible-size",
            f"a disk of {raw.disk} bytes has no room in {raw.catalog} extents of {extent} bytes",
            offset=at("disk"),
        )
    elif not -(-extent // s.SECTOR // 8) <= raw.bitmap <= s.MAX_EXTENT:
        yield Finding.of("impossible-size", f"a bitmap has {raw.bitmap} bytes", offset=at("bitmap"))
    if head.header < s.HEADER_SIZE:
        yield Finding.of(
            "tables-overlap",
            f"the catalog is said to be at {head.header}, in the header",
            offset=s.StandardHeader.header.offset,
        )
    elif raw.catalog > s.MAX_CATALOG:
        yield Finding.of(
            "impossible-size", f"the catalog has {raw.catalog} entries", offset=at("catalog")
        )
    elif head.header + 4 * raw.catalog > storage.size:
        yield Finding.of(
            "table-outside",
            f"the catalog ends at {head.header + 4 * raw.catalog}, and the file at {storage.size}",
            offset=at("catalog"),
        )
