"""check and repair of QED: qemu-img's verdict, qemu-img's repairs, and leaks taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_qed_read import by_qemu, content_of

import peers
import qed_by_hand as by_hand
from qed_by_hand import NEED_CHECK, ZERO, Image
from vmimg.errors import FormatError
from vmimg.formats.checking import check
from vmimg.formats.qed import tally

MIB = 1 << 20
CLUSTER = 4096
# Header 0, L1 table 1 and 2, L2 tables 3 and 4, 7 and 8, data in 5, 6, 9 and 10.
TABLES = {0: 3, 1: 7}
BLOCKS = {0: 6, 1: 5, 2: ZERO, 1023: 9, 1024: 10}

Change = Callable[[bytearray], None]


def l1(index: int, place: int) -> Change:
    return number(CLUSTER + 8 * index, place)


def l2(block: int, place: int) -> Change:
    return number(TABLES[block // 1024] * CLUSTER + 8 * (block % 1024), place)


def number(offset: int, value: int) -> Change:
    def change(file: bytearray) -> None:
        file[offset : offset + 8] = value.to_bytes(8, "little")

    return change


def more(*changes: Change) -> Change:
    def change(file: bytearray) -> None:
        for one in changes:
            one(file)

    return change


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def add(size: int) -> Change:
    return lambda file: file.extend(b"\xaa" * size)


@dataclass(frozen=True)
class Case:
    """``mended``: repair leaves nothing. ``left``: leaks that it leaves."""

    name: str
    change: Change
    corruptions: int = 0
    leaks: int = 0
    says: str = ""
    mended: bool = True
    left: int = 0


MARK = number(by_hand.FEATURES, NEED_CHECK)
CASES = [
    Case("sound", more()),
    Case("not closed", MARK),
    Case("less than a cluster behind the last", add(3000)),
    Case("clusters behind the last", add(3 * CLUSTER), 0, 3, "3 clusters behind"),
    Case("not closed, with a leak", more(MARK, add(CLUSTER)), 0, 1),
    Case("a cluster that nothing names", l2(1, 0), 0, 1, "1 clusters between", left=1),
    Case("a table that nothing names", l1(1, 0), 0, 3, "2 clusters between", left=2),
    Case("a cluster behind the end", l2(1, 11 * CLUSTER), 1, 1,
         f"L2 table at {3 * CLUSTER}, entry 1: there can be nothing at {11 * CLUSTER}", left=1),
    Case("a cluster far behind the end", l2(1, 2**63 - CLUSTER), 1, 1, left=1),
    Case("the last cluster there could be", l2(1, 2**64 - CLUSTER), 1, 1, left=1),
    Case("a cluster in the header", l2(1, 2), 1, 1, "nothing at 2", left=1),
    Case("a cluster askew", l2(1, 5 * CLUSTER + 512), 1, 1, left=1),
    Case("a table behind the end", l1(1, 11 * CLUSTER), 1, 3, "L1 entry 1", left=2),
    Case("a table of which half is there", l1(1, 10 * CLUSTER), 1, 3, left=2),
    Case("a table in the header", l1(1, 0x200), 1, 3, left=2),
    Case("a table that is zeros", l1(1, 1), 1, 3, left=2),
    Case("tables that the disk has no use for", l1(500, 2**40), 1, 0, "L1 entry 500"),
    Case("not closed, and never written", more(MARK, l2(700, 12 * CLUSTER)), 1),
    Case("the last cluster is cut off", cut(10 * CLUSTER + 512), 1, 0, "nothing at 40960"),
    Case("two blocks in one cluster", l2(1, 6 * CLUSTER), 1, 1, "1 tables or clusters share",
         mended=False),
    Case("three blocks in one cluster", more(l2(1, 6 * CLUSTER), l2(1024, 6 * CLUSTER)), 2, 2,
         "2 tables or clusters share", mended=False),
    Case("two tables in one place", l1(1, 3 * CLUSTER), 2, 3, "lies over another table",
         mended=False),
    Case("a table over the L1 table", l1(1, CLUSTER), 2, 3, "lies over another table",
         mended=False),
    Case("data in the L1 table", l2(1024, 2 * CLUSTER), 1, 1, mended=False),
    Case("data in its own table", l2(1024, 8 * CLUSTER), 1, 1, mended=False),
    Case("not closed, and shared", more(MARK, l2(1, 6 * CLUSTER)), 1, 1, mended=False),
    Case("shared, and impossible", more(l2(1, 6 * CLUSTER), l2(1024, 2**50)), 2, 2, mended=False),
]  # fmt: skip


def make(path: Path, case: Case) -> None:
    file = bytearray(Image(8 * MIB, TABLES, BLOCKS).build()[0])
    case.change(file)
    path.write_bytes(file)


def verdict(corruptions: int, leaks: int) -> int:
    return 2 if corruptions else 3 if leaks else 0


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_finds_what_is_wrong_and_agrees_with_qemu(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "a.qed"
    make(path, case)
    file = path.read_bytes()
    report = check(path)
    assert (report.corruptions, report.leaks) == (case.corruptions, case.leaks), report.problems
    assert report.exit_code == verdict(case.corruptions, case.leaks)
    assert bool(report.problems) == bool(case.corruptions + case.leaks)
    assert case.says in "\n".join(report.problems)
    assert path.read_bytes() == file
    command = ("qemu-img", "check", "--output", "json", path)
    theirs = peers.run_json(*command, ok=(report.exit_code,))
    ours = report.to_json(str(path))
    keys = {"corruptions", "leaks", "total-clusters", "allocated-clusters", "fragmented-clusters"}
    assert {key: theirs.get(key, 0) for key in keys} == {key: ours.get(key, 0) for key in keys}


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_repair_does_what_qemu_does_and_takes_leaks_back(tmp_path: Path, case: Case) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    make(ours, case)
    make(theirs, case)
    report = check(ours, repair="all")
    # QEMU leaves leaks.
    code = verdict(report.corruptions, case.leaks)
    peers.run("qemu-img", "check", "-r", "all", theirs, ok=(code,))
    if case.mended:
        assert (report.corruptions, report.leaks) == (0, case.left), report.problems
        assert report.fixed_corruptions == case.corruptions
        # What is cleared may have kept clusters from being leaks at the end.
        assert content_of(ours) == by_qemu(theirs, tmp_path) == by_qemu(ours, tmp_path)
        mine, other = ours.read_bytes(), theirs.read_bytes()
        assert mine[: len(other)] == other[: len(mine)]
        assert mine[by_hand.FEATURES] == 0
    else:
        assert report.corruptions > 0
        # QEMU takes the mark away whenever it closes an image.
        mine, other = ours.read_bytes(), theirs.read_bytes()
        assert mine[16 + 8 :] == other[16 + 8 :]
    again = check(ours)
    assert (again.corruptions, again.leaks) == (report.corruptions, report.leaks)
    peers.run("qemu-img", "check", ours, ok=(report.exit_code,))


def test_repair_of_leaks_gives_up_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.qed"
    by_name = {case.name: case for case in CASES}
    make(path, by_name["not closed, with a leak"])
    size = path.stat().st_size
    report = check(path, repair="leaks")
    assert (report.exit_code, report.fixed_leaks) == (0, 1)
    assert path.stat().st_size == size - CLUSTER
    make(path, by_name["a cluster behind the end"])
    file = path.read_bytes()
    assert check(path, repair="leaks").exit_code == 2
    assert path.read_bytes() == file


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_many_clusters_are_counted_like_few(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.qed"
    make(path, case)
    few = check(path)
    monkeypatch.setattr(tally, "_SORTED", 0)
    monkeypatch.setattr(tally, "_MARKED", 3)
    many = check(path)
    assert (many.corruptions, many.leaks, many.problems) == (
        few.corruptions, few.leaks, few.problems,
    )  # fmt: skip


@pytest.mark.peer("qemu-img")
def test_what_qemu_img_writes_is_sound(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "a.qed"
    raw.write_bytes(b"x" * MIB + bytes(3 * MIB) + b"y" * 512)
    peers.run("qemu-img", "convert", "-O", "qed", raw, path)
    report = check(path)
    assert report.exit_code == 0
    assert report.image_end_offset == path.stat().st_size


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.qed"
    file = bytearray(Image(MIB).build()[0])
    file[by_hand.TABLE_SIZE] = 3
    path.write_bytes(file)
    with pytest.raises(FormatError, match="power of two"):
        check(path)


@pytest.mark.peer("qemu-img")
def test_large_files_have_no_leaks_that_are_none(tmp_path: Path) -> None:
    # QEMU divides by cluster_size - 1: behind 4095 clusters of 4 KiB it finds one that is none.
    path = tmp_path / "a.qed"
    blocks = {block: 3 + 2 * (block // 1024 + 1) + block for block in range(4200)}
    tables = {index: 3 + 2 * index + 1024 * index for index in range(5)}
    image = Image(32 * MIB, tables, blocks)
    path.write_bytes(image.build()[0])
    assert check(path).exit_code == 0
    peers.run("qemu-img", "check", path, ok=(0, 3))
