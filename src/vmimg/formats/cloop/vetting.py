"""Vets cloops: the script in front, the index, and how much comes out of how little.

A cloop begins with a shell script, and people run it: what stands there counts. The index says
where each block ends; of a large one the first MiB is looked at. Imports header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.cloop import structures as s
from vmimg.formats.cloop.header import CloopHeader, read_header
from vmimg.formats.detect import Evidence
from vmimg.formats.sampling import hidden_data, unfinished
from vmimg.formats.vetting import Finding
from vmimg.storage.base import Storage

__all__ = ["cloop_evidence", "vet_cloop"]

_MAX_INDEX: Final = 1 << 20
_PREAMBLE_SIZE: Final = 128
# What the makers of cloops have in their scripts, line by line.
_LINES: Final = (
    rb"#!/bin/sh",
    rb"#V[0-9.]+ Format",
    rb"(?:modprobe|insmod) cloop(?:\.o)? file=\$0(?: && mount (?:-r -t|-o ro,loop -t|-r) \w+ "
    rb"/dev/cloop\d? \$1)?",
    rb"exit \$\?",
    rb"#?",
)
_RATIO: Final = 200
_LARGE: Final = 1 << 30


def cloop_evidence(storage: Storage) -> Iterator[Evidence]:
    """The numbers of the header, where it can be read."""
    try:
        header = read_header(storage)
    except (FormatError, UnsupportedFeature):
        return
    yield Evidence(header.index, f"an index of {header.blocks} blocks of {header.block_size} bytes")


def vet_cloop(storage: Storage) -> Iterator[Finding]:
    """The script, both places where a header can be, and the index."""
    yield from _vet_copies(storage)
    yield from _vet_numbers(storage)
    try:
        header = read_header(storage)
    except (FormatError, UnsupportedFeature):
        return  # inspect says the same
    if header.version != 3:
        start = storage.size - s.HEAD_SIZE if header.at_end else 0
        yield from _vet_script(start, storage.read(start, _PREAMBLE_SIZE))
    yield from _vet_index(storage, header)


def _vet_copies(storage: Storage) -> Iterator[Finding]:
    """A header in front and another at the end: readers look in different places first."""
    if storage.size < 2 * s.HEAD_SIZE:
        return
    front = storage.read(s.SIGNATURE_OFFSET, 4) in s.SIGNATURES
    last = storage.size - s.HEAD_SIZE
    tail = storage.read(last, s.HEAD_SIZE)
    scripted = tail[s.SIGNATURE_OFFSET : s.SIGNATURE_OFFSET + 4] in s.SIGNATURES
    if front and (scripted or tail.endswith(s.SIGNATURE3)):
        yield Finding.of(
            "copies-disagree", "it has a header in front and another at the end", offset=last
        )


def _vet_numbers(storage: Storage) -> Iterator[Finding]:
    """Those of a header with a script, by their codes, before reading fails."""
    if storage.size < s.HEAD_SIZE:
        return
    for start in (0, storage.size - s.HEAD_SIZE):
        head = s.Head.from_buffer_copy(storage.read(start, s.HEAD_SIZE))
        if head.preamble[s.SIGNATURE_OFFSET : s.SIGNATURE_OFFSET + 4] not in s.SIGNATURES:
            continue
        if not head.block_size or head.block_size % 512 or head.block_size > s.MAX_BLOCK_SIZE:
            yield Finding.of(
                "impossible-size",
                f"its blocks are said to have {head.block_size} bytes",
                offset=start + s.Head.block_size.offset,
            )
        length = s.OFFSET_SIZE * (head.num_blocks + 1)
        if length > storage.size - s.HEAD_SIZE:
            yield Finding.of(
                "table-outside",
                f"the index of {head.num_blocks} blocks has {length} bytes, and the file "
                f"{storage.size}",
                offset=start + s.Head.num_blocks.offset,
            )
        return


def _vet_script(start: int, text: bytes) -> Iterator[Finding]:
    for line in text.rstrip(b"\0").split(b"\n"):
        if not any(re.fullmatch(known, line) for known in _LINES):
            yield Finding.of(
                "odd-field",
                "the script in its header is not that of a cloop",
                offset=start,
                evidence=line.decode("ascii", "replace"),
            )
            return


def _vet_index(storage: Storage, header: CloopHeader) -> Iterator[Finding]:
    import numpy as np

    count = min(header.blocks + 1, _MAX_INDEX // s.OFFSET_SIZE)
    entries = np.frombuffer(storage.read(header.index, count * s.OFFSET_SIZE), ">u8")
    yield from _vet_ways(storage, header, entries)
    if header.version == 4:
        entries = entries & np.uint64((1 << s.FLAGS_SHIFT) - 1)
    places = np.minimum(entries.astype("u8"), np.uint64(1 << 62)).astype(np.int64)
    lengths = np.diff(places)
    # Data lies between header and index, or behind them.
    first = 0 if header.at_end else header.index_end
    last = header.index if header.at_end else storage.size
    for code, mask, what in (
        ("truncated", places > storage.size, f"behind the end of the file, {storage.size}"),
        (
            "tables-overlap",
            (places < first) | ((places > last) & (places <= storage.size)),
            "over the header or the index",
        ),
    ):
        rows = np.flatnonzero(mask)
        if len(rows):
            row = int(rows[0])
            yield Finding.of(
                code,
                f"block {row} lies {what}, at {int(places[row])}",
                offset=header.index + s.OFFSET_SIZE * row,
            )
    rows = np.flatnonzero(lengths <= 0)
    if len(rows):
        yield Finding.of(
            "tables-overlap",
            f"block {int(rows[0])} ends where it begins, or before",
            offset=header.index + s.OFFSET_SIZE * int(rows[0]),
        )
    if count <= header.blocks:
        yield unfinished(f"of {header.blocks} blocks, {count} were looked at")
        return
    stored = int(places[-1] - places[0])
    if header.size > max(_LARGE, _RATIO * storage.size):
        yield Finding.of(
            "expands", f"its {storage.size} bytes are said to become a disk of {header.size}"
        )
    if header.at_end or stored < 0:
        return
    end = int(places[-1])
    yield from hidden_data(storage, end, storage.size, "there is data behind the last block")


def _vet_ways(storage: Storage, header: CloopHeader, entries: Any) -> Iterator[Finding]:
    """How blocks are stored, where each says so."""
    import numpy as np

    if header.version == 4:
        unknown = (entries[:-1] >> np.uint64(s.FLAGS_SHIFT)) > s.LZO1X
    elif header.flags is not None:
        count = max(0, len(entries) - 1)
        flags = np.frombuffer(storage.read(header.flags, count * s.FLAG_SIZE), ">u4")
        unknown = ~np.isin(flags, (0, *(bit for bit, _ in s.FLAGS3)))
    else:
        return
    rows = np.flatnonzero(unknown)
    if len(rows):
        yield Finding.of(
            "unknown-features", f"block {int(rows[0])} is stored in a way that nobody knows"
        )
