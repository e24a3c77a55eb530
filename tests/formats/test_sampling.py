"""Looking at a part of a file: what a sample of a table and a look for hidden data still see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmimg.formats.regions import Area, Blocks, collisions, overlaps
from vmimg.formats.sampling import first_data, last_entry, read_entries, read_table, spread
from vmimg.storage.memory import MemoryStorage

KIB = 1 << 10
MIB = 1 << 20


class Scattered(MemoryStorage):
    """Stored in pieces of 4 KiB, with a hole behind each."""

    read_bytes = 0

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        for place in range(start, end, 4 * KIB):
            yield place, min(place + 4 * KIB, end), bool(place // (4 * KIB) % 2)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read_bytes += len(buffer)
        super().read_into(offset, buffer)


def storage_with(size: int, *places: int) -> Scattered:
    data = bytearray(size)
    for place in places:
        data[place] = 1
    return Scattered(bytes(data), "file")


@pytest.mark.parametrize("place", [0, 200 * KIB, 4 * MIB - 1])
def test_data_is_seen_at_the_beginning_in_pieces_and_at_the_end(place: int) -> None:
    assert first_data(storage_with(4 * MIB, place), 0, 4 * MIB) == place


def test_what_is_read_in_search_of_data_does_not_grow_with_the_file() -> None:
    storage = storage_with(64 * MIB)
    assert first_data(storage, 0, storage.size) is None
    assert storage.read_bytes <= 2 * MIB


def test_data_outside_of_the_stretch_is_not_hidden_in_it() -> None:
    storage = storage_with(4 * MIB, 999, 2 * MIB)
    assert first_data(storage, 1000, 2 * MIB) is None
    assert first_data(storage, 3 * MIB, 2 * MIB) is None
    assert first_data(storage, 4 * MIB, 9 * MIB) is None


def test_a_sample_of_a_large_table_has_its_ends() -> None:
    count = MIB
    numbers = b"".join(number.to_bytes(4, "little") for number in range(count))
    table = read_table(MemoryStorage(numbers, "file"), 0, count, 4, "little")
    seen = dict(table)
    assert not table.whole and len(seen) <= count // 8
    assert all(number == entry for number, entry in seen.items())
    assert {0, count - 1} <= seen.keys()


def test_of_a_table_that_is_cut_off_the_whole_entries_are_read() -> None:
    storage = MemoryStorage(bytes(15) + b"\x07" + bytes(7), "file")
    assert list(read_entries(storage, 0, 64, 8, "big")) == [0, 7]
    assert list(read_entries(storage, 100, 64, 8, "big")) == []


def test_of_two_entries_for_one_place_the_later_is_found() -> None:
    pieces = [(512, [5, 7, 5]), (4096, [5, 9])]
    assert last_entry(pieces, 8, lambda entry: entry == 5) == 4096
    assert last_entry(pieces, 8, lambda entry: entry == 7) == 520
    assert last_entry(pieces, 8, lambda entry: entry == 1) is None


@pytest.mark.parametrize(("total", "most"), [(0, 4), (3, 4), (5, 4), (1000, 7)])
def test_numbers_that_are_spread_have_the_first_and_the_last(total: int, most: int) -> None:
    chosen = spread(total, most)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(total, most)
    assert not total or (chosen[0], chosen[-1]) == (0, total - 1)


def test_who_is_said_to_be_there_later_is_to_blame() -> None:
    table, name = Area("the table", 100, 300, said=8), Area("the name", 50, 150, said=16)
    (finding,) = overlaps([Area("the header", 0, 50), table, name])
    assert (finding.code, finding.offset) == ("tables-overlap", 16)
    assert finding.message == "the name, at 50, lies over the table, at 100 to 300"


def test_where_no_field_says_so_the_one_that_begins_later_is_to_blame() -> None:
    (finding,) = overlaps([Area("the table", 100, 300), Area("the header", 0, 112)])
    assert finding.offset == 100
    assert finding.message == "the table at 100 lies over the header, which ends at 112"


def test_an_area_without_bytes_lies_over_nothing() -> None:
    assert not list(collisions([Area("a", 0, 100), Area("b", 50, 50), Area("c", 100, 200)]))


def test_blocks_are_found_behind_the_end_over_an_area_and_over_each_other() -> None:
    blocks = Blocks([(400, 3), (0, 0), (100, 1), (150, 2)], 100)
    assert (blocks.count, blocks.end) == (4, 500)
    assert blocks.behind(499) == [(400, 3)] and blocks.behind(500) == []
    assert blocks.crowded() == [(150, 2)]
    assert blocks.over(Area("a", 199, 400)) == [(100, 1), (150, 2)]
    assert blocks.first_over(199, 400) == 100 and blocks.first_over(250, 400) is None
