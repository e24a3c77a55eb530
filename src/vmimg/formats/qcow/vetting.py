"""What a stranger's qcow image (version 1) could do to its reader.

The header is read whatever it says, where `read_header` of this format refuses to go on; of the L2
tables a sample is. There are no reference counts, so no cluster may be used twice. No numpy. Spec:
QEMU block/qcow.c.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from vmimg.formats.clusters import Clusters
from vmimg.formats.detect import Evidence
from vmimg.formats.qcow import structures as s
from vmimg.formats.regions import Area, overlaps
from vmimg.formats.sampling import last_entry, read_entries, spread, unfinished
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["find_evidence", "vet_image"]

_MAX_L1_BYTES: Final = 1 << 20
_BUDGET: Final = 1 << 20
_MAX_TABLES: Final = 1024

_Table = tuple[int, "array[int]"]


def find_evidence(storage: Storage) -> tuple[Evidence, ...]:
    """See `Driver.evidence`."""
    if storage.size < s.HEADER_SIZE:
        return ()
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    if raw.version != s.VERSION or not _bits_fit(raw):
        return ()
    return (
        Evidence(_at("cluster_bits"), f"clusters of {format_size(1 << raw.cluster_bits)}"),
        Evidence(_at("l2_bits"), f"L2 tables of {1 << raw.l2_bits} entries"),
    )


def vet_image(storage: Storage) -> Iterator[Finding]:
    """See `Driver.vet`."""
    if storage.size < s.HEADER_SIZE:
        yield Finding.of(
            "truncated",
            f"a qcow header has {s.HEADER_SIZE} bytes, the file {storage.size}",
            offset=storage.size,
        )
        return
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    if raw.version != s.VERSION:
        yield Finding.of(
            "unknown-version", f"it is of version {raw.version}", offset=_at("version")
        )
        return
    if not _bits_fit(raw):
        field = "l2_bits"
        if not s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS:
            field = "cluster_bits"
        yield Finding.of(
            "impossible-size",
            f"clusters are said to have 2^{raw.cluster_bits} bytes and tables 2^{raw.l2_bits} "
            "entries; 2^9 to 2^16 and 2^6 to 2^13 are possible",
            offset=_at(field),
        )
        return
    yield from _vet_fields(raw)
    areas = [Area("the header", 0, s.HEADER_SIZE)]
    yield from _vet_name(storage, raw, areas)
    yield from _vet_tables(storage, raw, areas)


def _bits_fit(raw: s.Header) -> bool:
    return bool(
        s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS
        and s.MIN_L2_BITS <= raw.l2_bits <= s.MAX_L2_BITS
    )


def _at(field: str) -> int:
    place: int = getattr(s.Header, field).offset
    return place


def _vet_fields(raw: s.Header) -> Iterator[Finding]:
    if raw.crypt_method not in (s.CRYPT_NONE, s.CRYPT_AES):
        yield Finding.of(
            "unknown-features",
            f"it is encrypted by method {raw.crypt_method}; there is 1 (AES)",
            offset=_at("crypt_method"),
        )
    if raw.size % s.SECTOR and raw.size > s.SECTOR:
        yield Finding.of(
            "odd-field",
            f"a virtual size of {raw.size} bytes is no number of sectors: programs differ in where "
            "they end",
            offset=_at("size"),
        )
    if raw.padding:
        yield Finding.of(
            "odd-field",
            "the padding of the header is not zeros",
            offset=_at("padding"),
            severity=Severity.NOTE,
        )


def _vet_name(storage: Storage, raw: s.Header, areas: list[Area]) -> Iterator[Finding]:
    start, length = int(raw.backing_file_offset), int(raw.backing_file_size)
    if not start:
        return
    if length > s.MAX_BACKING_NAME:
        yield Finding.of(
            "impossible-size",
            f"the name of the backing file is said to have {length} bytes; 1023 are the most",
            offset=_at("backing_file_size"),
        )
    elif start + length > storage.size:
        yield Finding.of(
            "table-outside",
            f"the name of the backing file, {length} bytes at {start}, is not in the file",
            offset=_at("backing_file_offset"),
        )
    elif not length:
        yield Finding.of(
            "backing-file",
            "it has a place for the name of a backing file, and no name there",
            offset=_at("backing_file_offset"),
        )
    else:
        what = "the name of the backing file"
        areas.append(Area(what, start, start + length, _at("backing_file_offset")))


def _vet_tables(storage: Storage, raw: s.Header, areas: list[Area]) -> Iterator[Finding]:
    reach = raw.cluster_bits + raw.l2_bits
    entries = -(-(int(raw.size) // s.SECTOR * s.SECTOR) >> reach)
    start, length = int(raw.l1_table_offset), 8 * entries
    if raw.size < s.SECTOR or entries > s.MAX_L1_ENTRIES:
        yield Finding.of(
            "impossible-size",
            f"a virtual size of {raw.size} bytes is not possible",
            offset=_at("size"),
        )
        return
    if start + length > storage.size:
        yield Finding.of(
            "table-outside",
            f"the L1 table, {length} bytes at {start}, is not in the file ({storage.size} bytes)",
            offset=_at("l1_table_offset"),
        )
        return
    areas.append(Area("the L1 table", start, start + length, _at("l1_table_offset")))
    found = list(overlaps(areas))
    yield from found
    if found:
        return
    table = read_entries(storage, start, min(length, _MAX_L1_BYTES), 8, "big")
    bytes_of_table = 8 << raw.l2_bits
    known: dict[int, int] = {}
    wrong = None
    for number, place in enumerate(table):
        if not place:
            continue
        said = start + 8 * number
        if place + bytes_of_table > storage.size:
            wrong = wrong or Finding.of(
                "table-outside",
                f"an L2 table, {bytes_of_table} bytes at {place}, is not in the file "
                f"({storage.size} bytes)",
                offset=said,
            )
        elif place in known:
            wrong = wrong or Finding.of(
                "tables-overlap", f"two entries lead to an L2 table at {place}", offset=said
            )
        else:
            known[place] = said
    if wrong is not None:
        yield wrong
    tables = [Area("an L2 table", at, at + bytes_of_table, said) for at, said in known.items()]
    yield from overlaps([*areas, *tables])
    # What lies over something is no table.
    lying = [at for at in known if not _over_any(at, at + bytes_of_table, areas)]
    if length > _MAX_L1_BYTES:
        yield unfinished(f"not looked at: the L1 table behind its first {_MAX_L1_BYTES} bytes")
    yield from _vet_clusters(storage, raw, areas, sorted(lying))


def _over_any(start: int, end: int, areas: list[Area]) -> bool:
    return any(area.start < end and start < area.end for area in areas)


def _vet_clusters(
    storage: Storage, raw: s.Header, areas: list[Area], tables: list[int]
) -> Iterator[Finding]:
    if not tables:
        return
    width = 8 << int(raw.l2_bits)
    chosen = spread(len(tables), min(_BUDGET // width, _MAX_TABLES))
    pieces: list[_Table] = [
        (tables[n], read_entries(storage, tables[n], width, 8, "big")) for n in chosen
    ]
    if len(chosen) < len(tables):
        yield unfinished(f"looked at {len(chosen)} of {len(tables)} L2 tables")
    bits = int(raw.cluster_bits)
    place = (1 << 63 - bits) - 1
    size = (1 << bits) - 1

    def locate(wanted: int) -> int | None:
        return last_entry(
            pieces, 8, lambda e: (e & place if e & s.COMPRESSED_FLAG else e) == wanted
        )

    entries = [e for _, table in pieces for e in table if e]
    clusters = Clusters(
        cluster=1 << bits,
        plain=[e for e in entries if not e & s.COMPRESSED_FLAG],
        packed=[
            (e & place, (e & place) + (e >> 63 - bits & size))
            for e in entries
            if e & s.COMPRESSED_FLAG
        ],
        locate=locate,
        share=len(chosen) / len(tables),
    )
    yield from clusters.outside(storage, storage.size - 1)
    yield from clusters.over(areas, ())
    yield from clusters.over_tables("an L2 table", tables, width)
    yield from clusters.apart()
    yield from clusters.expanding(storage)
