"""check and repair of qcow version 1, which qemu-img has not: nothing made up, nothing lost."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_qcow_read import by_qemu, content_of

import peers
from qcow_by_hand import COMPRESSED, Image
from vmimg.errors import FormatError
from vmimg.formats.checking import check

CLUSTER, TABLE = 4096, 512
SIZE = 200 * CLUSTER
LETTERS = "ppc.cp" + "." * 58 + "pp.cc" + "." * 59 + "p.p"
"""Of three L2 tables, 64 clusters each, and none for the fourth."""

Change = Callable[[bytearray, Image], None]


def sample() -> Image:
    return Image(SIZE, LETTERS, l2_bits=6, align=CLUSTER)


def entry(cluster: int, value: Callable[[bytearray, Image], int]) -> Change:
    """The L2 entry of ``cluster`` is to be that."""
    return lambda file, image: struct.pack_into(
        ">Q", file, image.entries[cluster], value(file, image)
    )


def table(number: int, value: Callable[[bytearray, Image], int]) -> Change:
    """The L1 entry of table ``number`` is to be that."""
    return lambda file, image: struct.pack_into(">Q", file, 48 + 8 * number, value(file, image))


def of(cluster: int) -> Callable[[bytearray, Image], int]:
    """What the entry of that cluster is."""
    return lambda file, image: int(struct.unpack_from(">Q", file, image.entries[cluster])[0])


def more(*changes: Change) -> Change:
    def change(file: bytearray, image: Image) -> None:
        for one in changes:
            one(file, image)

    return change


def add(size: int) -> Change:
    return lambda file, image: file.extend(b"\xaa" * (-len(file) % CLUSTER + size))


def blank(cluster: int) -> Change:
    """The data of ``cluster`` is zeros."""

    def change(file: bytearray, image: Image) -> None:
        start = of(cluster)(file, image)
        file[start : start + CLUSTER] = bytes(CLUSTER)

    return change


@dataclass(frozen=True)
class Case:
    """``corruptions`` and ``leaks``: what check counts; ``left``: corruptions after a repair."""

    name: str
    change: Change
    corruptions: int = 0
    leaks: int = 0
    says: str = ""
    left: int = 0


CASES = [
    Case("sound", more()),
    Case("space behind the last cluster", add(2 * CLUSTER), 0, 2, "2 clusters behind"),
    Case("less than a cluster behind the last", add(CLUSTER - 1)),
    Case("a cluster gone", entry(5, lambda f, i: 0), 0, 1, "not used"),
    Case("two clusters in one place", entry(0, of(5)), 1, 1, "shares its place"),
    Case("three clusters in one place", more(entry(0, of(5)), entry(64, of(5))), 2, 2, "shares"),
    Case("two packed clusters in one place", entry(2, of(4)), 1, 0, "shares its place"),
    Case("a cluster over a table", entry(0, lambda f, i: i.l2[1] // 512 * 512), 1, 1, "shares"),
    Case("two tables in one place", table(3, lambda f, i: i.l2[0]), 1, 0, "over another's"),
    Case("a table over a cluster", more(blank(5), table(3, lambda f, i: of(5)(f, i) + 8)), 1, 0,
         "shares its place"),
    Case("a cluster over the header", entry(0, lambda f, i: 1), 1, 1,
         "over the header", 1),
    Case("a cluster behind the end", entry(0, lambda f, i: len(f) + CLUSTER), 1, 1,
         "but the file ends", 1),
    Case("a cluster half behind the end", entry(0, lambda f, i: (len(f) - 600) // 512 * 512), 1, 1,
         "but the file ends", 1),
    Case("a packed cluster behind the end",
         entry(2, lambda f, i: COMPRESSED | 100 << 51 | len(f) - 50), 1, 0, "the file ends", 1),
    Case("packed to nothing", entry(2, lambda f, i: COMPRESSED | len(f) - 50), 1, 0, "nothing", 1),
    Case("a cluster not on a sector", entry(0, lambda f, i: of(5)(f, i) + 100), 1, 1,
         "sector boundary", 1),
    Case("a table behind the end", table(0, lambda f, i: len(f)), 1, 3, "its L2 table", 1),
    Case("a table over the header", table(0, lambda f, i: 8), 1, 3, "over the header", 1),
    Case("a table at 2^64-1", table(0, lambda f, i: 2**64 - 1), 1, 3, "its L2 table", 1),
]  # fmt: skip


def make(path: Path, case: Case) -> None:
    image = sample()
    file = bytearray(image.build()[0])
    case.change(file, image)
    path.write_bytes(file)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_counted(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "a.qcow"
    make(path, case)
    before = path.read_bytes()
    report = check(path)
    assert report.corruptions == case.corruptions, report.problems
    # What lies over something else is counted once; so may the space beside it be.
    assert (report.leaks > 0) == (case.leaks > 0), report.problems
    assert report.exit_code == (2 if case.corruptions else 3 if case.leaks else 0)
    assert any(case.says in line for line in report.problems) or not case.says
    assert path.read_bytes() == before


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("repair", ["leaks", "all"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_repair_changes_nothing_of_what_the_guest_sees(
    tmp_path: Path, case: Case, repair: str
) -> None:
    path = tmp_path / "a.qcow"
    make(path, case)
    readable = not case.left
    wanted = content_of(path) if readable else b""
    before = path.read_bytes()
    report = check(path, repair=repair)
    left = case.left if repair == "all" else case.corruptions
    assert report.corruptions == left == check(path).corruptions
    assert report.fixed_corruptions == case.corruptions - left
    if not left:
        # A packed cluster gets a place of its own behind the end, and cannot be moved from there.
        assert report.leaks <= case.leaks + 1 and content_of(path) == wanted
        if repair == "leaks":
            assert report.fixed_leaks + report.leaks == case.leaks
    if repair == "leaks" and case.corruptions:
        assert path.read_bytes() == before  # it may be all that is left of something
    if not left:
        assert content_of(path) == wanted == by_qemu(path)


@pytest.mark.parametrize("shuffle", [False, True])
def test_gaps_are_filled_from_behind(tmp_path: Path, shuffle: bool) -> None:
    path = tmp_path / "a.qcow"
    image = Image(300 * CLUSTER, "p" * 300, l2_bits=6, align=CLUSTER, shuffle=shuffle)
    file = bytearray(image.build()[0])
    for cluster in (*range(3, 60, 2), *range(100, 150)):
        struct.pack_into(">Q", file, image.entries[cluster], 0)
    path.write_bytes(file)
    wanted = content_of(path)
    assert check(path).leaks == 79
    report = check(path, repair="leaks")
    assert (report.leaks, report.fixed_leaks) == (0, 79)
    assert path.stat().st_size <= len(file) - 74 * CLUSTER
    assert content_of(path) == wanted == by_qemu(path)


def test_what_is_packed_and_fragmented_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow"
    path.write_bytes(Image(8 * 4096, "pppcc.pp", shuffle=False).build()[0])
    report = check(path)
    assert (report.total_clusters, report.allocated_clusters) == (8, 7)
    assert report.compressed_clusters == 2
    assert report.image_end_offset == path.stat().st_size


def test_more_clusters_than_are_looked_at_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmimg.formats.qcow import tally

    monkeypatch.setattr(tally, "_REGION_CLUSTERS", 3)
    monkeypatch.setattr(tally, "_BATCH_BYTES", 1)
    for case in CASES:
        make(tmp_path / "a.qcow", case)
        report = check(tmp_path / "a.qcow")
        assert report.corruptions == case.corruptions, case.name
        assert (report.leaks > 0) == (case.leaks > 0), case.name


def test_a_repair_does_not_blow_up_a_file_by_what_its_tables_say(tmp_path: Path) -> None:
    image = Image(4000 * 65536, "p", cluster_bits=16, l2_bits=6, shuffle=False)
    file = bytearray(image.build()[0])
    for number in range(64):
        struct.pack_into(">Q", file, image.l2[0] + 8 * number, 0x200 + 0x1000)
    (tmp_path / "a.qcow").write_bytes(file)
    size = len(file)
    report = check(tmp_path / "a.qcow", repair="all")
    assert report.corruptions > 60
    assert (tmp_path / "a.qcow").stat().st_size == size


def test_what_is_no_qcow_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))
    with pytest.raises(FormatError, match="magic"):
        check(tmp_path / "a", format="qcow")


@pytest.mark.peer("qemu-img", "qemu-io")
def test_what_qemu_makes_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow"
    peers.run("qemu-img", "create", "-q", "-f", "qcow", path, "4M")
    peers.run("qemu-io", "-f", "qcow", "-c", "write -c 0 4096", "-c", "write 1M 70k", path)
    assert check(path).exit_code == 0
