"""What a stranger's QED image could do to its reader.

The header is read whatever it says, where `read_header` of this format refuses to go on; of the L2
tables a sample is. There are no reference counts, so no cluster may be used twice. No numpy. Spec:
QEMU docs/interop/qed_spec.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from vmimg.formats.clusters import Clusters
from vmimg.formats.detect import Evidence
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import max_size
from vmimg.formats.regions import Area
from vmimg.formats.sampling import (
    first_data,
    last_entry,
    read_entries,
    spread,
    unfinished,
)
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_down, format_size

__all__ = ["find_evidence", "vet_image"]

# An L1 table has up to 1 GiB, whatever the disk: only what the disk needs of it is read.
_MAX_L1_BYTES: Final = 1 << 20
_PIECE: Final = 64 << 10
_BUDGET: Final = 1 << 20
_HEAD_BYTES: Final = 256 << 10


def find_evidence(storage: Storage) -> tuple[Evidence, ...]:
    """See `Driver.evidence`."""
    if storage.size < s.HEADER_SIZE:
        return ()
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    if not _cluster_fits(raw.cluster_size) or not _table_fits(raw.table_size):
        return ()
    return (
        Evidence(_at("cluster_size"), f"clusters of {format_size(raw.cluster_size)}"),
        Evidence(_at("table_size"), f"tables of {raw.table_size} clusters"),
    )


def vet_image(storage: Storage) -> Iterator[Finding]:
    """See `Driver.vet`."""
    if storage.size < s.HEADER_SIZE:
        yield Finding.of(
            "truncated",
            f"a QED header has {s.HEADER_SIZE} bytes, the file {storage.size}",
            offset=storage.size,
        )
        return
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    yield from _vet_features(raw)
    if not _cluster_fits(raw.cluster_size):
        yield Finding.of(
            "impossible-size",
            f"clusters are said to have {raw.cluster_size} bytes; a power of two from "
            f"{s.MIN_CLUSTER} to {s.MAX_CLUSTER} is possible",
            offset=_at("cluster_size"),
        )
        return
    if not _table_fits(raw.table_size):
        yield Finding.of(
            "impossible-size",
            f"tables are said to have {raw.table_size} clusters; 1, 2, 4, 8 and 16 are possible",
            offset=_at("table_size"),
        )
        return
    limit = align_down(storage.size, raw.cluster_size)
    head = raw.header_size * raw.cluster_size
    if not 0 < head <= limit:
        yield Finding.of(
            "impossible-size",
            f"the header is said to have {raw.header_size} clusters of {raw.cluster_size} bytes, "
            f"the file has {storage.size} bytes",
            offset=_at("header_size"),
        )
        return
    yield from _vet_name(storage, raw, head)
    if raw.image_size % s.SECTOR or raw.image_size > max_size(raw.cluster_size, raw.table_size):
        yield Finding.of(
            "impossible-size",
            f"a virtual size of {raw.image_size} bytes is no number of sectors, or more than the "
            "tables can map",
            offset=_at("image_size"),
        )
        return
    yield from _vet_tables(storage, raw, head, limit)


def _at(field: str) -> int:
    place: int = getattr(s.Header, field).offset
    return place


def _cluster_fits(size: int) -> bool:
    return s.MIN_CLUSTER <= size <= s.MAX_CLUSTER and not size & (size - 1)


def _table_fits(size: int) -> bool:
    return s.MIN_TABLE <= size <= s.MAX_TABLE and not size & (size - 1)


def _vet_features(raw: s.Header) -> Iterator[Finding]:
    unknown = raw.features & ~s.KNOWN_FEATURES
    if unknown:
        yield Finding.of(
            "unknown-features",
            f"who does not know these features must not open it: {_bits(unknown)}",
            offset=_at("features"),
            evidence=f"{raw.features:#018x}",
        )
    for field in ("compat_features", "autoclear_features"):
        value = getattr(raw, field)
        if value:
            yield Finding.of(
                "odd-field",
                f"it has features that are not known, and may be ignored: {_bits(value)}",
                offset=_at(field),
                severity=Severity.NOTE,
            )
    if raw.features & s.NO_PROBE and not raw.features & s.BACKING_FILE:
        yield Finding.of(
            "odd-field",
            "its backing file is said to be raw, and it has none",
            offset=_at("features"),
        )
    if raw.backing_filename_size and not raw.features & s.BACKING_FILE:
        yield Finding.of(
            "odd-field",
            "it has the name of a backing file, without the bit which says that it uses one",
            offset=_at("backing_filename_size"),
        )


def _bits(value: int) -> str:
    return ", ".join(f"bit {bit}" for bit in range(64) if value >> bit & 1)


def _vet_name(storage: Storage, raw: s.Header, head: int) -> Iterator[Finding]:
    start, length = int(raw.backing_filename_offset), int(raw.backing_filename_size)
    gaps = [(s.HEADER_SIZE, head)]
    if raw.features & s.BACKING_FILE:
        if not 0 < length <= s.MAX_NAME:
            yield Finding.of(
                "impossible-size",
                f"the name of the backing file is said to have {length} bytes; 1 to {s.MAX_NAME} "
                "are possible",
                offset=_at("backing_filename_size"),
            )
            return
        if start + length > head:
            yield Finding.of(
                "table-outside",
                f"the name of the backing file, {length} bytes at {start}, is not in the header",
                offset=_at("backing_filename_offset"),
            )
            return
        if start < s.HEADER_SIZE:
            yield Finding.of(
                "tables-overlap",
                f"the name of the backing file is said to be at {start}, over the header",
                offset=_at("backing_filename_offset"),
            )
            return
        gaps = [(s.HEADER_SIZE, start), (start + length, head)]
    for begin, end in gaps:
        place = first_data(storage, begin, min(end, begin + _HEAD_BYTES))
        if place is not None:
            yield Finding.of(
                "hidden-data", "there is data behind all that the header has", offset=place
            )
            return


def _vet_tables(storage: Storage, raw: s.Header, head: int, limit: int) -> Iterator[Finding]:
    cluster = int(raw.cluster_size)
    width = int(raw.table_size) * cluster
    start = int(raw.l1_table_offset)
    if start < head:
        yield Finding.of(
            "tables-overlap",
            f"the L1 table is said to be at {start}, over the header",
            offset=_at("l1_table_offset"),
        )
        return
    if start % cluster or start + width > limit:
        yield Finding.of(
            "table-outside",
            f"the L1 table, {width} bytes at {start}, is not on a cluster boundary or not in the "
            f"file ({storage.size} bytes)",
            offset=_at("l1_table_offset"),
        )
        return
    per_table = width // 8
    needed = -(-int(raw.image_size) // (per_table * cluster))
    length = 8 * min(needed, per_table)
    table = read_entries(storage, start, min(length, _MAX_L1_BYTES), 8, "little")
    if length > _MAX_L1_BYTES:
        yield unfinished(f"not looked at: the L1 table behind its first {_MAX_L1_BYTES} bytes")
    areas = [Area("the header", 0, head), Area("the L1 table", start, start + width)]
    known: dict[int, int] = {}
    told: set[str] = set()
    for number, place in enumerate(table):
        said = start + 8 * number
        code = _misplaced(place, width, cluster, limit, areas) if place else ""
        if place in known:
            code = "tables-overlap"
        if code and code not in told:
            told.add(code)
            yield Finding.of(
                code,
                f"an L2 table, {width} bytes, is said to be at {place}"
                + (", where something else is" if code == "tables-overlap" else ""),
                offset=said,
            )
        if place and not code:
            known[place] = said
    tables = sorted(known)
    for one, other in pairwise(tables):
        if other - one < width:
            yield Finding.of(
                "tables-overlap",
                f"an L2 table is said to be at {other}, over that at {one}",
                offset=known[other],
            )
            break
    yield from _vet_clusters(storage, raw, limit, areas, tables)


def _misplaced(place: int, width: int, cluster: int, limit: int, areas: list[Area]) -> str:
    """The code of what is wrong with a table at ``place``, or nothing."""
    if place % cluster or place + width > limit:
        return "table-outside"
    if any(place < area.end and area.start < place + width for area in areas):
        return "tables-overlap"
    return ""


def _vet_clusters(
    storage: Storage, raw: s.Header, limit: int, areas: list[Area], tables: list[int]
) -> Iterator[Finding]:
    if not tables:
        return
    cluster = int(raw.cluster_size)
    width = int(raw.table_size) * cluster
    piece = min(width, _PIECE)
    per_table = width // piece
    total = len(tables) * per_table
    chosen = spread(total, _BUDGET // piece)
    pieces: list[tuple[int, array[int]]] = []
    for number in chosen:
        table, part = divmod(number, per_table)
        begin = tables[table] + part * piece
        pieces.append((begin, read_entries(storage, begin, piece, 8, "little")))
    if len(chosen) < total:
        yield unfinished(
            f"looked at {len(chosen) / total:.0%} of what {len(tables)} L2 tables have"
        )

    def locate(wanted: int) -> int | None:
        return last_entry(pieces, 8, lambda entry: entry == wanted)

    plain = [e for _, entries in pieces for e in entries if e > s.ZERO]
    crooked = next((e for e in plain if e % cluster), None)
    if crooked is not None:
        yield Finding.of(
            "malformed",
            f"a cluster of the disk is said to be at {crooked}, which is not on a cluster boundary",
            offset=locate(crooked),
        )
        return
    clusters = Clusters(cluster, plain, [], locate, len(chosen) / total)
    yield from clusters.outside(storage, limit - cluster)
    yield from clusters.over(areas, ())
    yield from clusters.over_tables("an L2 table", tables, width)
    yield from clusters.expanding(storage)
