"""The map of a file that nobody wrote, against the file itself, put together in memory."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmimg.errors import UnsupportedFeature
from vmimg.transfer.filemap import FileMap, MapBuilder

DISK = random.Random(1).randbytes(1 << 17)


def add(builder: MapBuilder, *runs: tuple[int, int, int]) -> None:
    places, sources, lengths = np.array(runs, np.int64).T
    builder.add_data(places, sources, lengths)


def read(file_map: FileMap, start: int, end: int, disk: bytes = DISK) -> bytes:
    """What a reader makes of it: data, then metadata, zeros where there is neither."""
    buffer = bytearray(end - start)
    for place, source, length in file_map.data(start, end):
        assert start <= place and place + length <= end and length > 0
        buffer[place - start : place - start + length] = disk[source : source + length]
    file_map.metadata_into(start, memoryview(buffer))
    return bytes(buffer)


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[int, int, bytes]]:
    """(place, source or -1, bytes), in any order, none over another."""
    pieces, at = [], 0
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from([0, 0, 1, 512, 3000]))
        length = draw(st.sampled_from([1, 8, 512, 4096, 70_000]))
        if draw(st.booleans()):
            source = draw(st.integers(0, len(DISK) - length))
            pieces.append((at, source, DISK[source : source + length]))
        else:
            pattern = draw(st.sampled_from([b"\0", b"\xff", b"\0\0\0\1\2\3\4\5", b"table"]))
            pieces.append((at, -1, (pattern * length)[:length]))
        at += length
    return draw(st.permutations(pieces))


@settings(deadline=None, max_examples=80)
@given(layouts(), st.data())
def test_it_reads_as_what_was_put_into_it(
    layout: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    size = max((place + len(content) for place, _, content in layout), default=0) + 100
    file, builder = bytearray(size), MapBuilder()
    for place, source, content in layout:
        file[place : place + len(content)] = content
        if source < 0:
            builder.add_metadata(place, content)
        else:
            add(builder, (place, source, len(content)))
    file_map = builder.finish(size)
    assert read(file_map, 0, size) == file
    for _ in range(5):
        start = data.draw(st.integers(0, size))
        end = data.draw(st.integers(start, size))
        assert read(file_map, start, end) == file[start:end]


def test_what_goes_on_in_the_file_and_on_the_disk_is_one_run() -> None:
    builder = MapBuilder()
    add(builder, (512, 0, 512), (1024, 512, 512))
    add(builder, (1536, 1024, 512))
    add(builder, (2048, 4096, 512), (2560, 4608, 512), (4096, 5120, 512))
    runs = list(builder.finish(8192).data(0, 8192))
    assert runs == [(512, 0, 1536), (2048, 4096, 1024), (4096, 5120, 512)]


@pytest.mark.parametrize("order", ["ascending", "mixed"])
def test_many_pages_of_runs_are_found_again(order: str) -> None:
    """More than are stay unpacked, in units of all sizes, steps backwards on the disk as well."""
    chance = np.random.default_rng(4)
    count = 150_000
    lengths = chance.integers(1, 9, count) * 4096
    places = np.cumsum(lengths + chance.integers(0, 3, count) * 512) - lengths
    sources = chance.permutation(count) * 65536
    wanted = list(zip(places.tolist(), sources.tolist(), lengths.tolist(), strict=True))
    builder = MapBuilder()
    parts = np.array_split(np.arange(count), 37)
    if order == "mixed":
        random.Random(3).shuffle(parts)
    for part in parts:
        builder.add_data(places[part], sources[part], lengths[part])
    file_map = builder.finish(int(places[-1] + lengths[-1]))
    assert list(file_map.data(0, file_map.size)) == wanted
    for at in chance.integers(0, count, 200).tolist():
        place, source, length = wanted[at]
        assert list(file_map.data(place + 1, place + length)) == [
            (place + 1, source + 1, length - 1)
        ]


def test_metadata_that_is_the_same_again_takes_no_room_again() -> None:
    builder = MapBuilder()
    bitmap = random.Random(2).randbytes(4096)
    for number in range(5000):
        builder.add_metadata(number * 8192, bitmap)
    file_map = builder.finish(5000 * 8192)
    assert file_map.held < 64 << 10
    assert read(file_map, 8192 * 4999, 8192 * 5000) == bitmap + bytes(4096)


def test_tables_are_kept_small_in_either_order_of_bytes() -> None:
    for kind in (">u8", "<u8", ">u4", "<u4"):
        builder = MapBuilder()
        table = (np.arange(1 << 17) * 65536 // 512 + 2048).astype(kind).tobytes()
        builder.add_metadata(12345, table)
        file_map = builder.finish(12345 + len(table))
        assert file_map.held < len(table) // 40
        assert read(file_map, 12345, file_map.size) == table


def test_two_things_in_one_place_are_refused() -> None:
    builder = MapBuilder()
    add(builder, (4096, 0, 4096))
    add(builder, (0, 8192, 4097))
    with pytest.raises(UnsupportedFeature, match="one place"):
        builder.finish(8192)
