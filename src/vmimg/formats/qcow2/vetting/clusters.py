"""Where clusters of a qcow2 disk are, by a sample of its L2 tables, and what is behind the last.

Of each table a piece is read, of all tables so many that a MiB is read at the most. No numpy: most
steps are those of sets and comprehensions, and importing numpy takes longer.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from typing import Final

from vmimg.formats.clusters import Clusters
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.vetting.tables import Tables
from vmimg.formats.sampling import (
    hidden_data,
    last_entry,
    read_entries,
    spread,
    unfinished,
)
from vmimg.formats.vetting import Finding, Severity

__all__ = ["vet_clusters", "vet_tail"]

_RESERVED: Final = 0x3F00_0000_0000_01FE
"""Bits of a standard L2 entry that are zero; without version 3, bit 0 as well."""
_PIECE: Final = 64 << 10
_BUDGET: Final = 1 << 20
_MAX_PIECES: Final = 1024

# (where in the file, number of its first cluster of the disk, entries)
_Piece = tuple[int, int, "array[int]"]


def vet_clusters(tables: Tables) -> Iterator[Finding]:
    """What a sample of L2 tables shows."""
    if not tables.active:
        return
    header = tables.header
    pieces, share = _sample(tables)
    if share < 1:
        yield unfinished(f"looked at {share:.0%} of what {len(tables.active)} L2 tables have")
    yield from _vet_bits(tables, pieces)
    yield from _vet_behind_the_end(tables, pieces)
    if header.external_data:
        yield from _vet_external(tables, pieces)
        return
    shift = 62 - (header.cluster_bits - 8)
    place, sectors = (1 << shift) - 1, (1 << 62 - shift) - 1
    below = tables.cluster - 1
    entries = [
        e
        for piece in pieces
        for e in _entries(tables, piece)
        # What is not on a cluster boundary has been told.
        if e & s.OFFSET_MASK and (e & s.COMPRESSED_FLAG or not e & s.OFFSET_MASK & below)
    ]
    clusters = Clusters(
        cluster=tables.cluster,
        plain=[e & s.OFFSET_MASK for e in entries if not e & s.COMPRESSED_FLAG],
        packed=[
            (e & place, (e & place) // 512 * 512 + ((e >> shift & sectors) + 1) * 512)
            for e in entries
            if e & s.COMPRESSED_FLAG
        ],
        locate=partial(_locate, tables, pieces, place),
        share=share,
        counted=partial(_counted, tables),
    )
    # QEMU's own check takes it for a mistake only where a cluster and a byte are missing.
    yield from clusters.outside(tables.storage, tables.storage.size)
    many = (("an L2 table", tables.l2), ("a refcount block", tables.refblocks))
    yield from clusters.over(tables.areas, many)
    yield from clusters.apart()
    yield from clusters.expanding(tables.storage)


def vet_tail(tables: Tables) -> Iterator[Finding]:
    """Whether there is data behind the last cluster that a reference count is kept of."""
    header, storage = tables.header, tables.storage
    # Refcounts that are not up to date mean nothing.
    if header.incompatible_features & s.DIRTY or header.refcount_order > 6:
        return
    used = [n for n, entry in enumerate(tables.reftable) if entry & s.REFTABLE_OFFSET_MASK]
    if not used or len(tables.reftable) * 8 < header.refcount_table_clusters * tables.cluster:
        return
    block = tables.reftable[used[-1]] & s.REFTABLE_OFFSET_MASK
    if block not in tables.refblocks:
        return
    last = _last_count(tables, block)
    clusters = used[-1] * header.refcounts_per_block + last + 1
    end = clusters * tables.cluster
    if end + tables.cluster < storage.size:
        message = (
            f"the file goes on behind {end}, where its last cluster in use ends, with "
            f"{storage.size - end} bytes that are not all zeros"
        )
        yield from hidden_data(storage, end, storage.size, message)


def _sample(tables: Tables) -> tuple[list[_Piece], float]:
    """Pieces of L2 tables, and which part of all they are."""
    header = tables.header
    piece = min(tables.cluster, _PIECE)
    per_table = tables.cluster // piece
    total = len(tables.active) * per_table
    chosen = spread(total, min(_BUDGET // piece, _MAX_PIECES))
    numbers = _table_numbers(tables)
    found: list[_Piece] = []
    for number in chosen:
        table, part = divmod(number, per_table)
        start = tables.active[table] + part * piece
        first = numbers[table] * header.l2_entries + part * piece // header.l2_entry_size
        found.append((start, first, read_entries(tables.storage, start, piece, 8, "big")))
    return found, len(chosen) / total


def _table_numbers(tables: Tables) -> list[int]:
    """The L1 entry of each of ``tables.active``."""
    return [n for n, entry in enumerate(tables.l1) if entry & s.OFFSET_MASK in tables.l2]


def _entries(tables: Tables, piece: _Piece) -> array[int]:
    """The offsets and flags of ``piece``, without subcluster bitmaps."""
    return piece[2][::2] if tables.header.extended_l2 else piece[2]


def _vet_bits(tables: Tables, pieces: list[_Piece]) -> Iterator[Finding]:
    header = tables.header
    flags = header.version == 3 and not header.extended_l2
    reserved = _RESERVED if flags else _RESERVED | s.ZERO_FLAG
    width = header.l2_entry_size
    below = tables.cluster - 1
    for piece in pieces:
        table = _entries(tables, piece)
        wrong = [e for e in table if e & reserved and not e & s.COMPRESSED_FLAG]
        crooked = [e for e in table if e & s.OFFSET_MASK & below and not e & s.COMPRESSED_FLAG]
        if crooked:
            yield Finding.of(
                "malformed",
                f"a cluster of the disk is said to be at {crooked[0] & s.OFFSET_MASK}, which is "
                "not on a cluster boundary",
                offset=piece[0] + width * table.index(crooked[0]),
                evidence=f"{crooked[0]:#018x}",
            )
            return
        if wrong:
            yield Finding.of(
                "odd-field",
                "bits of an L2 entry are set that are reserved",
                offset=piece[0] + width * table.index(wrong[0]),
                evidence=f"{wrong[0]:#018x}",
                severity=Severity.ERROR,
            )
            return
        if header.extended_l2:
            bad = _contradiction(piece[2])
            if bad is not None:
                yield Finding.of(
                    "malformed",
                    "the subclusters of a cluster are said to be there and to be zeros, or to be "
                    "in no cluster",
                    offset=piece[0] + 8 * bad,
                    evidence=f"{piece[2][bad]:#018x}",
                )
                return


def _contradiction(table: array[int]) -> int | None:
    """The index of a subcluster bitmap that cannot be."""
    for number in range(0, len(table) - 1, 2):
        entry, bits = table[number], table[number + 1]
        if not bits or entry & s.COMPRESSED_FLAG:
            continue
        present = bits & 0xFFFF_FFFF
        # In an external data file a cluster may be at 0; COPIED says that it is there.
        nowhere = not entry & (s.OFFSET_MASK | s.COPIED)
        if present & bits >> 32 or (present and nowhere):
            return number + 1
    return None


def _vet_behind_the_end(tables: Tables, pieces: list[_Piece]) -> Iterator[Finding]:
    header = tables.header
    if header.nb_snapshots:
        return
    end = -(-header.size // tables.cluster)
    for piece in pieces:
        table = _entries(tables, piece)
        # Tables wholly behind the end have been found in the L1 table.
        if not piece[1] < end < piece[1] + len(table):
            continue
        first = end - piece[1]
        number = next((n for n in range(first, len(table)) if table[n] & s.OFFSET_MASK), None)
        if number is not None:
            yield Finding.of(
                "hidden-data",
                "tables lead to data behind the end of the disk",
                offset=piece[0] + number * header.l2_entry_size,
            )
            return


def _vet_external(tables: Tables, pieces: list[_Piece]) -> Iterator[Finding]:
    """With an external data file, clusters are at the same place in it as on the disk."""
    width = tables.header.l2_entry_size
    for piece in pieces:
        place = piece[1] * tables.cluster
        for number, entry in enumerate(_entries(tables, piece)):
            offset = entry & s.OFFSET_MASK
            if entry & s.COMPRESSED_FLAG or (offset and offset != place):
                yield Finding.of(
                    "malformed",
                    "a cluster is not in its place of the data file",
                    offset=piece[0] + number * width,
                    evidence=f"{entry:#018x}",
                )
                return
            place += tables.cluster


def _locate(tables: Tables, pieces: list[_Piece], mask: int, place: int) -> int | None:
    """Where an entry says that a cluster is at ``place``. ``mask``: of the offset of a compressed
    one.
    """

    def says(entry: int) -> bool:
        return entry & (mask if entry & s.COMPRESSED_FLAG else s.OFFSET_MASK) == place

    entries = [(piece[0], _entries(tables, piece)) for piece in pieces]
    return last_entry(entries, tables.header.l2_entry_size, says)


def _counted(tables: Tables, place: int, users: int) -> bool:
    """Whether ``users`` may share the cluster at ``place``, by its reference count."""
    block, index = divmod(place // tables.cluster, tables.header.refcounts_per_block)
    if block >= len(tables.reftable):
        return False
    start = tables.reftable[block] & s.REFTABLE_OFFSET_MASK
    if start not in tables.refblocks:
        return False
    bits = tables.header.refcount_bits
    if bits < 8:
        byte = tables.storage.read(start + index * bits // 8, 1)[0]
        count = byte >> index * bits % 8 & (1 << bits) - 1
    else:
        count = int.from_bytes(tables.storage.read(start + index * bits // 8, bits // 8), "big")
    return count >= users


def _last_count(tables: Tables, block: int) -> int:
    """The number of the last refcount in a block that is not zero; -1 where all are."""
    end = tables.cluster
    while end > 0:
        start = max(0, end - _PIECE)
        data = tables.storage.read(block + start, end - start).rstrip(b"\0")
        if data:
            last = start + len(data)  # bytes up to and with the last that counts
            return (last * 8 - 1) // tables.header.refcount_bits
        end = start
    return -1
