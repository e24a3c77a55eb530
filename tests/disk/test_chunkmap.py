"""ChunkLayer: chunks of any length, against a bytearray."""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmimg.disk.chunkmap import COMPRESSED, ChunkLayer, ChunkTable
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage

Piece = tuple[int, int]
"""A kind and a number of bytes."""


class Chunks(ChunkLayer):
    """Of zlib streams, which counts what it decodes."""

    format = "chunks"

    def __init__(self, size: int, table: ChunkTable, data: MemoryStorage) -> None:
        super().__init__(size, table, data)
        self.name = "a.chunks"
        self.count: Counter[int] = Counter()
        self.gate: threading.Barrier | None = None

    def decode(self, coder: int, data: memoryview, length: int) -> Buffer:
        self.count[zlib.crc32(data)] += 1
        if self.gate is not None:
            self.gate.wait(5)
        try:
            return zlib.decompress(data)
        except zlib.error as error:
            raise FormatError(str(error)) from None


def layer(pieces: Sequence[Piece]) -> tuple[Chunks, bytearray]:
    """A layer of these, and what it reads as; 255 where it has nothing."""
    file, content = bytearray(b"head"), bytearray()
    rows: list[tuple[int, int, int, int, int]] = []
    for number, (kind, length) in enumerate(pieces):
        data = bytes([number % 250 + 1]) * length
        if kind == Kind.ABSENT:
            content += b"\xff" * length
            continue
        stored = zlib.compress(data) if kind == COMPRESSED else data
        if kind == Kind.ZERO:
            data, stored = bytes(length), b""
        place = len(file) if stored else -1
        rows.append((len(content), length, kind, place, len(stored)))
        file += stored
        content += data
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    table = ChunkTable(
        columns[0], columns[1], columns[2].astype(np.uint8), columns[3], columns[4],
        np.zeros(len(rows), np.uint8),
    )  # fmt: skip
    return Chunks(len(content), table, MemoryStorage(file)), content


def read(made: Chunks, start: int, end: int) -> bytes:
    buffer = bytearray(b"\xaa" * (end - start))
    for low, high in made.read_present(start, memoryview(buffer)):
        buffer[low - start : high - start] = b"\xff" * (high - low)
    return bytes(buffer)


KINDS = [int(Kind.ABSENT), int(Kind.ZERO), int(Kind.DATA), COMPRESSED]
pieces = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 40)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(pieces, st.floats(0, 1), st.floats(0, 1))
def test_any_range_reads_and_maps_as_it_is(parts: list[Piece], a: float, b: float) -> None:
    made, content = layer(parts)
    start, end = sorted((int(a * len(content)), int(b * len(content))))
    assert read(made, start, end) == content[start:end]
    extents = list(made.map(start, end))
    spans = list(made.spans(start, end))
    for found in ([(e.start, e.end, e.kind) for e in extents], spans):
        assert [low for low, _, _ in found] == [start, *(high for _, high, _ in found)][
            : len(found)
        ]
        assert not found or found[-1][1] == end
    assert all(one[2] != other[2] for one, other in pairwise(spans))
    for extent in extents:
        part = content[extent.start : extent.end]
        if extent.offset is not None:
            assert made.data.read(extent.offset, extent.length) == part
        assert extent.compressed == (extent.kind == Kind.DATA and extent.offset is None)
        assert (extent.kind == Kind.ZERO) == (not any(part))
        assert (extent.kind == Kind.ABSENT) == (set(part) == {255})


def test_plain_chunks_that_follow_each_other_are_one_extent() -> None:
    made, content = layer([(Kind.DATA, 10), (Kind.DATA, 20), (COMPRESSED, 5), (COMPRESSED, 5)])
    assert [(e.start, e.length, e.offset) for e in made.map(0, len(content))] == [
        (0, 30, 4),
        (30, 10, None),
    ]


def test_a_chunk_that_is_asked_for_piece_by_piece_is_decoded_once() -> None:
    made, content = layer([(COMPRESSED, 1000)] * 3)
    assert b"".join(read(made, at, at + 7) for at in range(0, 2996, 7)) == content[:2996]
    assert set(made.count.values()) == {1}


def test_what_is_held_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    import vmimg.disk.chunkmap as chunkmap

    monkeypatch.setattr(chunkmap, "_CACHE_BYTES", 2500)
    made, _ = layer([(COMPRESSED, 1000)] * 5 + [(COMPRESSED, 9000)])
    for at in (0, 1000, 2000, 3000, 4000):
        read(made, at, at + 1)
    assert sum(map(len, made._held.values())) == made._held_bytes == 2000
    for _ in range(2):  # larger than all that may be held: held alone
        read(made, 5000, 5001)
    assert made._held_bytes == 9000 and set(made.count.values()) == {1}


def test_threads_that_want_the_same_chunk_wait_for_the_one_who_decodes_it() -> None:
    made, content = layer([(COMPRESSED, 1000), (COMPRESSED, 1000)])
    found: list[bytes] = []

    def want(start: int) -> None:
        found.append(read(made, start, start + 500))

    # Two different chunks pass the gate only together: they are decoded at the same time.
    made.gate = threading.Barrier(2)
    threads = [threading.Thread(target=want, args=(at,)) for at in (0, 100, 1000, 1100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and set(made.count.values()) == {1}
    assert set(found) == {bytes(content[:500]), bytes(content[1000:1500])}


def test_a_damaged_chunk_is_an_error_for_all_who_want_it_and_no_other() -> None:
    made, content = layer([(COMPRESSED, 1000), (COMPRESSED, 1000)])
    made.data.write(int(made.table.offsets[0]), b"\0\0\0\0")
    for _ in range(2):
        with pytest.raises(FormatError, match=r"a\.chunks: the chunk of virtual offset 0"):
            read(made, 1, 10)
    assert read(made, 1001, 1010) == content[1001:1010]


def test_a_million_chunks_are_looked_up_at_once() -> None:
    count = 1_000_000
    starts = np.arange(count, dtype=np.int64) * 1024
    table = ChunkTable(
        starts, np.full(count, 512), np.full(count, int(Kind.ZERO), np.uint8),
        np.full(count, -1), np.zeros(count, np.int64), np.zeros(count, np.uint8),
    )  # fmt: skip
    made = Chunks(count * 1024, table, MemoryStorage(b""))
    assert len(made.table) == 2 * count
    assert list(made.spans(count * 512 - 512, count * 512 + 512)) == [
        (count * 512 - 512, count * 512, Kind.ABSENT),
        (count * 512, count * 512 + 512, Kind.ZERO),
    ]
