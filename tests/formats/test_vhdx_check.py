"""check for VHDX: what it finds, how it counts, and what repair mends without guessing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from test_vhdx_read import content_of

import peers
import vhdx_by_hand as by_hand
from vhdx_by_hand import BAT, FULL, HEADERS, MIB, PARTIAL, REGION_TABLES, Image, log_entry
from vmimg.errors import FormatError, OptionError
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk
from vmimg.transfer.create import create

DATA = random.Random(1).randbytes(4 * MIB)


def image() -> Image:
    blocks = {n: (FULL, DATA[n * MIB : (n + 1) * MIB]) for n in range(4)}
    return by_hand.make(8 * MIB, blocks)


def dirty(image: Image) -> None:
    image.dirty(log_entry(3, [(BAT, bytes(image[BAT : BAT + 4096]))], file_size=len(image)))


def bad_header(number: int) -> Callable[[Image], None]:
    return lambda image: image.put(HEADERS[number] + 2000, 1)


def bad_table(number: int) -> Callable[[Image], None]:
    return lambda image: image.put(REGION_TABLES[number] + 60000, 1)


def both(image: Image) -> None:
    bad_header(1)(image)
    bad_table(0)(image)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    ("change", "says", "corruptions"),
    [
        (bad_header(0), "header 1 is not valid", 1),
        (bad_header(1), "header 2 is not valid", 1),
        (bad_table(0), "region table 1 is not valid", 1),
        (bad_table(1), "region table 2 is not valid", 1),
        (both, "header 2 is not valid", 2),
        (dirty, "1 changes in 1 entries that were not made", 1),
    ],
)
def test_what_is_there_twice_or_logged_is_mended(
    tmp_path: Path, change: Callable[[Image], None], says: str, corruptions: int
) -> None:
    file = image()
    change(file)
    path = file.save(tmp_path / "image.vhdx")
    before = content_of(path)
    report = check(path)
    assert report.exit_code == 2
    assert report.corruptions == corruptions
    assert says in "\n".join(report.problems)
    assert path.read_bytes() == bytes(file)
    repaired = check(path, repair="all")
    assert (repaired.exit_code, repaired.fixed_corruptions) == (0, corruptions)
    assert check(path).problems == []
    assert content_of(path) == before
    peers.run("qemu-img", "check", "-f", "vhdx", path)


@pytest.mark.parametrize("state", [4, 7])
def test_states_that_cannot_be(tmp_path: Path, state: int) -> None:
    file = image()
    file.put(file.entry(6), 9 * MIB | state)
    path = file.save(tmp_path / "image.vhdx")
    report = check(path)
    assert report.corruptions >= 1
    assert f"state {state} cannot be here" in report.problems[0]
    with pytest.raises(FormatError, match="a state that"):
        content_of(path)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (1 << 40, "behind the end of the file"),
        (8 * MIB, "behind the end of the file"),
        (4 * MIB, "over another block or structure"),
        (BAT, "over another block or structure"),
        (0, "over another block or structure"),
    ],
)
def test_blocks_where_none_can_be(tmp_path: Path, place: int, says: str) -> None:
    file = image()
    file.put(file.entry(6), place | FULL)
    path = file.save(tmp_path / "image.vhdx")
    for repair in ("", "all"):
        report = check(path, repair=repair)
        assert report.corruptions == 1
        assert report.problems == [f"BAT entry 6: its block at {place} lies {says}"]
    assert path.read_bytes() == bytes(file)  # which of the two is right, nobody knows


@pytest.mark.peer("qemu-img")
def test_qemu_agrees_on_what_lies_behind_the_end(tmp_path: Path) -> None:
    file = image()
    file.put(file.entry(6), 1 << 40 | FULL)
    path = file.save(tmp_path / "image.vhdx")
    peers.run("qemu-img", "check", "-f", "vhdx", path, ok=(check(path).exit_code, 1))


def test_many_faults_are_counted_and_some_are_told(tmp_path: Path) -> None:
    file = by_hand.make(1 << 30, {})
    for block in range(1000):
        file.put(file.entry(block), (1 << 41) + block * MIB | FULL)
    report = check(file.save(tmp_path / "image.vhdx"))
    assert report.corruptions == 1000
    assert len(report.problems) == 11
    assert "990 more" in report.problems[-1]


def test_a_sector_bitmap_that_is_missing_or_lies_wrong(tmp_path: Path) -> None:
    parent = {"parent_linkage": "{" + str(by_hand.DATA_GUID) + "}", "relative_path": "parent.vhdx"}
    file = by_hand.make(
        4 * MIB, {1: (PARTIAL, DATA[:MIB])}, parent=parent, bitmaps={0: b"\xff" * 512}
    )
    path = file.save(tmp_path / "child.vhdx")
    assert check(path).exit_code == 0
    entry = file.bitmap_entry(0)
    for value, says in (
        (0, "no sector bitmap"),
        (4 * MIB | 3, "state 3"),
        (5 * MIB | FULL, "over another"),
        (1 << 45 | FULL, "behind the end"),
    ):
        file.put(entry, value)
        file.save(path)
        report = check(path)
        assert report.corruptions >= 1
        assert says in "\n".join(report.problems)


@pytest.mark.peer("qemu-img")
def test_space_at_the_end_that_nobody_uses_is_a_leak_and_is_cut_off(tmp_path: Path) -> None:
    file = image()
    size = len(file)
    file.grow(size + 3 * MIB)
    path = file.save(tmp_path / "image.vhdx")
    report = check(path)
    assert (report.exit_code, report.leaks) == (3, 3)
    report = check(path, repair="leaks")
    assert (report.exit_code, report.fixed_leaks) == (0, 3)
    assert path.stat().st_size == size
    assert content_of(path)[: 4 * MIB] == DATA
    peers.run("qemu-img", "check", "-f", "vhdx", path)


def test_leaks_are_left_alone_while_the_log_is_dirty(tmp_path: Path) -> None:
    file = image()
    file.grow(len(file) + 3 * MIB)
    dirty(file)
    path = file.save(tmp_path / "image.vhdx")
    report = check(path, repair="leaks")
    assert report.fixed_leaks == 0
    assert path.read_bytes() == bytes(file)
    report = check(path, repair="all")
    assert (report.exit_code, report.fixed_corruptions, report.fixed_leaks) == (0, 1, 3)


@pytest.mark.peer("qemu-img", "qemu-io")
@pytest.mark.parametrize("options", ["subformat=fixed", "block_size=1M", "block_size=32M"])
def test_what_qemu_makes_and_writes_is_sound(tmp_path: Path, options: str) -> None:
    path = tmp_path / "image.vhdx"
    peers.run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, path, "100M")
    assert check(path).exit_code == 0
    peers.run("qemu-io", "-f", "vhdx", "-c", "write 40M 3M", "-c", "write 5M 1k", path)
    report = check(path)
    assert (report.exit_code, report.problems) == (0, [])


def test_the_report_counts_blocks(tmp_path: Path) -> None:
    path = tmp_path / "image.vhdx"
    create(path, 40 * MIB, format="vhdx", options={"block_size": "1M"})
    with open_disk(path, writable=True) as disk:
        for block in (3, 30, 4, 20):
            disk.write(block * MIB, b"x")
    report = check(path)
    assert (report.total_clusters, report.allocated_clusters) == (40, 4)
    assert report.fragmented_clusters == 2  # 4 behind 3, and 30 behind 20
    assert report.image_end_offset == path.stat().st_size


def test_another_repair_is_not_known(tmp_path: Path) -> None:
    path = image().save(tmp_path / "image.vhdx")
    with pytest.raises(OptionError):
        check(path, repair="some")
