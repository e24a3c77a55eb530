"""Malformed QED images: one clear error of the vmimg tree, at once, in little memory.

Every case is an image made by hand with one thing made wrong. It goes through everything that reads
images (`ordeal.py`), in a process with limits. ``says``: words of the error that the steps named in
``steps`` must raise; the others may raise it as well, and never anything but a VmimgError.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import qed_by_hand as by_hand
from damaged import MAX_MIB, MAX_SECONDS, Outcome, any_value, missed, objections, put_through
from qed_by_hand import NO_PROBE, ZERO, Image
from rounds import rounds

MIB = 1 << 20
CLUSTER = 4096
L1, L2 = CLUSTER, 3 * CLUSTER
TABLES = {0: 3, 1: 7}
BLOCKS = {0: 6, 1: 5, 2: ZERO, 40: 11, 1023: 9, 1024: 10}

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")
READING = ("read", "walk", "convert")
TABLE = ("walk", "convert", "examine")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "plain"
    also: tuple[str, ...] = ()
    """Steps that must raise something."""


def put(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f"<{len(values)}I", file, offset, *values)


def put64(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f"<{len(values)}Q", file, offset, *values)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def field(name: str, offset: int, value: int, says: str = "", steps: tuple[str, ...] = ALL) -> Case:
    return Case(f"{name} {value:#x}", put(offset, value), says, steps)


def field64(
    name: str,
    offset: int,
    value: int,
    says: str = "",
    steps: tuple[str, ...] = ALL,
    also: tuple[str, ...] = (),
) -> Case:
    return Case(f"{name} {value:#x}", put64(offset, value), says, steps, also=also)


CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only the magic", cut(4), "header has 64 bytes"),
    Case("half a header", cut(40), "header has 64 bytes"),
    Case("no whole cluster", cut(64), "header is said to have"),
    Case("nothing behind the header", cut(CLUSTER), "behind the end of the file"),
    Case("half an L1 table", cut(2 * CLUSTER), "behind the end of the file"),
    Case("wrong magic", put(0, 0x444551 ^ 1), "", ()),
    # Numbers of the header
    field("cluster size", by_hand.CLUSTER_SIZE, 0, "power of two"),
    field("cluster size", by_hand.CLUSTER_SIZE, 512, "power of two"),
    field("cluster size", by_hand.CLUSTER_SIZE, 5000, "power of two"),
    field("cluster size", by_hand.CLUSTER_SIZE, 1 << 26, "the header is said to have"),
    field("cluster size", by_hand.CLUSTER_SIZE, 1 << 27, "power of two"),
    field("cluster size", by_hand.CLUSTER_SIZE, 0xFFFFFFFF, "power of two"),
    field("cluster size", by_hand.CLUSTER_SIZE, 8192, "L1 table is said to be at 4096"),
    field("table size", by_hand.TABLE_SIZE, 0, "power of two"),
    field("table size", by_hand.TABLE_SIZE, 3, "power of two"),
    field("table size", by_hand.TABLE_SIZE, 32, "power of two"),
    field("table size", by_hand.TABLE_SIZE, 0xFFFFFFFF, "power of two"),
    field("table size", by_hand.TABLE_SIZE, 16, "behind the end"),
    field("header size", by_hand.HEADER_SIZE, 0, "0 clusters"),
    field("header size", by_hand.HEADER_SIZE, 2, "not a cluster behind the header"),
    field("header size", by_hand.HEADER_SIZE, 1000, "1000 clusters"),
    field("header size", by_hand.HEADER_SIZE, 0xFFFFFFFF, "4294967295 clusters"),
    field64("features", by_hand.FEATURES, 8, "bit 3 of features"),
    field64("features", by_hand.FEATURES, 2**63, "bit 63 of features"),
    field64("features", by_hand.FEATURES, 2**64 - 1, "not known"),
    field64("features", by_hand.FEATURES, 2, "", ()),
    field64("features", by_hand.FEATURES, 4, "", ()),
    field64("features", by_hand.FEATURES, 1, "0 bytes; there may be"),
    field64("compatible features", by_hand.COMPAT, 2**64 - 1, "", ()),
    field64("autoclear features", by_hand.AUTOCLEAR, 2**64 - 1, "", ()),
    field64("L1 table", by_hand.L1_OFFSET, 0, "not a cluster behind the header"),
    field64("L1 table", by_hand.L1_OFFSET, 4097, "not a cluster behind the header"),
    field64("L1 table", by_hand.L1_OFFSET, 11 * CLUSTER, "behind the end"),
    field64("L1 table", by_hand.L1_OFFSET, 2**40, "behind the end"),
    field64("L1 table", by_hand.L1_OFFSET, 2**63, "behind the end"),
    field64("L1 table", by_hand.L1_OFFSET, 2**64 - CLUSTER, "behind the end"),
    field64("L1 table over data", by_hand.L1_OFFSET, 5 * CLUSTER, "", READING),
    field64("L1 table over an L2 table", by_hand.L1_OFFSET, L2, "", (), also=("write", "examine")),
    field64("size", by_hand.IMAGE_SIZE, 0, "", ()),
    field64("size", by_hand.IMAGE_SIZE, 511, "number of sectors"),
    field64("size", by_hand.IMAGE_SIZE, 1024 * 4 * MIB + 512, "more than its tables"),
    field64("size", by_hand.IMAGE_SIZE, 2**63 - 512, "more than its tables"),
    field64("size", by_hand.IMAGE_SIZE, 2**63, "number of sectors"),
    field64("size", by_hand.IMAGE_SIZE, 2**64 - 512, "number of sectors"),
    field64("the largest size", by_hand.IMAGE_SIZE, 1024 * 4 * MIB, "", ()),
    # The L1 table
    field64("L1 entry", L1, 1, "no room for it", READING, ("examine", "write")),
    field64("L1 entry", L1, 2 * CLUSTER - 8, "no room for it", READING, ("examine", "write")),
    field64("L1 entry", L1, 11 * CLUSTER, "no room for it", READING, ("examine", "write")),
    field64("L1 entry", L1, 2**63, "no room for it", READING, ("examine", "write")),
    field64("L1 entry", L1, 2**64 - 1, "no room for it", READING, ("examine", "write")),
    field64("an L2 table over L1", L1, L1, "", ("examine", "write")),
    field64("an L2 table over another", L1, 7 * CLUSTER, "", ("examine", "write")),
    field64("an L2 table half over another", L1, 8 * CLUSTER, "", ("examine", "write")),
    field64("an L2 table in data", L1, 5 * CLUSTER, "", ("examine", "write"), ("walk",)),
    field64("an L1 entry behind the last", L1 + 8 * 1000, 2**50, "", ("examine", "write")),
    Case("every L1 entry names one table", put64(L1, *[L2] * 1024), "", ("examine", "write")),
    Case("a large disk of one table",
         lambda f: (put64(L1, *[L2] * 1024)(f), put64(by_hand.IMAGE_SIZE, 4096 * MIB)(f))[1],
         "1024 L2 tables are said to be in a file of 12 clusters", OPENING,
         also=("examine",)),
    # L2 tables
    field64("L2 entry", L2, 2, "no cluster there", READING, ("examine", "write")),
    field64("L2 entry", L2, 4097, "no cluster there", READING, ("examine", "write")),
    field64("L2 entry", L2, 12 * CLUSTER, "no cluster there", READING, ("examine", "write")),
    field64("L2 entry", L2, 2**63 - CLUSTER, "no cluster there", READING, ("examine", "write")),
    field64("L2 entry", L2, 2**63, "no cluster there", READING, ("examine", "write")),
    field64("L2 entry", L2, 2**64 - 1, "no cluster there", READING, ("examine", "write")),
    field64("data in the header", L2, 0x800, "no cluster there", READING, ("examine", "write")),
    field64("data in the L1 table", L2, CLUSTER, "", ("examine", "write")),
    field64("data in an L2 table", L2, L2, "", ("examine", "write")),
    field64("data in other data", L2, 5 * CLUSTER, "", ("examine", "write")),
    Case("every block in one cluster", put64(L2, *[5 * CLUSTER] * 1024), "",
         ("examine", "write")),
    Case("every L2 entry is all ones", put64(L2, *[2**64 - 1] * 1024), "no cluster there",
         READING, also=("examine", "write")),
    # Cut off
    Case("cut in the second L2 table", cut(8 * CLUSTER), "no", TABLE[:2], also=("examine",)),
    Case("cut in front of the data", cut(5 * CLUSTER), "no", READING, also=("examine", "write")),
    Case("cut in the last cluster", cut(12 * CLUSTER - 1), "no cluster there",
         ("read", "convert", "walk"), also=("examine", "write")),
    # Backing files
    Case("a name behind the header", put(by_hand.NAME_OFFSET, CLUSTER - 3, 8),
         "not inside the header", ALL, "child"),
    Case("a name at 2^32-1", put(by_hand.NAME_OFFSET, 2**32 - 1, 8),
         "not inside the header", ALL, "child"),
    Case("a name of 2^32-1 bytes", put(by_hand.NAME_OFFSET, 64, 2**32 - 1),
         "not inside the header", ALL, "child"),
    Case("a name of 1024 bytes", put(by_hand.NAME_OFFSET, 64, 1024),
         "1 to 1023", ALL, "child"),
    Case("a name of no bytes", put(by_hand.NAME_OFFSET, 64, 0), "1 to 1023", ALL, "child"),
    Case("a name of NULs", lambda f: f.__setitem__(slice(64, 72), bytes(8)), "is empty",
         (*OPENING, "chain"), "child"),
    Case("a name that is no text", lambda f: f.__setitem__(slice(64, 72), b"\xff\xfeno.raw"),
         "", (*OPENING, "chain"), "child"),
    Case("a name for the terminal", lambda f: f.__setitem__(slice(64, 72), b"\n\x1b[31mno"),
         "control characters", ALL, "child"),
    Case("a parent that is not there", lambda f: None, "base.raw", (*OPENING, "chain"), "child"),
    Case("a parent of no format", put64(by_hand.FEATURES, 1), "--backing-format",
         (*OPENING, "chain"), "child"),
    Case("/etc/passwd", lambda f: f.__setitem__(slice(60, 75), b"\x0b\0\0\0/etc/passwd"),
         "--allow-dir /etc", (*OPENING, "chain"), "child"),
    Case("its own parent", lambda f: f.__setitem__(slice(60, 72), b"\x08\0\0\0self.qed"),
         "", (*OPENING, "chain"), "child"),
]  # fmt: skip


def bases() -> dict[str, bytes]:
    images = {
        "plain": Image(8 * MIB, TABLES, BLOCKS),
        "child": Image(8 * MIB, TABLES, BLOCKS, backing=b"base.raw", features=NO_PROBE),
    }
    return {name: image.build()[0] for name, image in images.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    paths = []
    for number, case in enumerate(CASES):
        image = bytearray(bases()[case.base])
        case.change(image)
        # One is called as it says that its parent is.
        paths.append(folder / ("self.qed" if case.name == "its own parent" else f"{number}.qed"))
        paths[-1].write_bytes(image)
    found = put_through(folder, paths)
    return {case.name: (path, found[path.name]) for case, path in zip(CASES, paths, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    steps = [step for step in case.steps if step not in case.also]
    assert [*missed(outcome, steps, case.says), *missed(outcome, case.also, "")] == []


def test_the_image_is_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    path = tmp_path / "plain.qed"
    path.write_bytes(bases()["plain"])
    (outcome,) = put_through(tmp_path, [path]).values()
    assert set(outcome.raised) == {"snapshot"}, outcome.raised  # there are none to open


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    paths = []
    for number in range(rounds(80)):
        image = bytearray(bases()[dice.choice(("plain", "child"))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice((*range(4, 64, 4), *range(L1, L1 + 16, 4), *range(L2, L2 + 24, 4)))
            value = any_value(dice)
            struct.pack_into("<I", image, place, value)
        paths.append(tmp_path / f"{number}.qed")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    problems = {
        path.name: list(objections(found[path.name], path, ("base.raw",), ("OptionError",)))
        for path in paths
    }
    assert {name: said for name, said in problems.items() if said} == {}


def test_a_chain_that_loops_is_refused_at_once(tmp_path: Path) -> None:
    for name, parent in (("one", "other"), ("other", "one")):
        image = Image(MIB, backing=parent.encode() + b".qed")
        (tmp_path / f"{name}.qed").write_bytes(image.build()[0])
    from vmimg.disk.policy import ParentPolicy
    from vmimg.errors import ChainError
    from vmimg.formats.opening import open_disk

    with pytest.raises(ChainError, match="loops"):
        open_disk(tmp_path / "one.qed", policy=ParentPolicy(parent_format="qed"))


@pytest.mark.parametrize("clusters", [4096, 64 * MIB])
def test_tables_as_large_as_they_can_be_take_no_memory(tmp_path: Path, clusters: int) -> None:
    """Files that are holes, with L1 entries that name many tables in them."""
    path = tmp_path / "a.qed"
    table = 16 * clusters
    entries = min(table // 8, 1024)
    head = bytearray(Image(MIB, table_size=16).build()[0][:4096])
    struct.pack_into("<I", head, by_hand.CLUSTER_SIZE, clusters)
    size = min(entries * (table // 8) * clusters, (1 << 62))
    struct.pack_into("<QQ", head, by_hand.L1_OFFSET, clusters, size)
    with path.open("wb") as file:
        file.write(head)
        file.seek(clusters)
        file.write(
            struct.pack(f"<{entries}Q", *(clusters + (n + 1) * table for n in range(entries)))
        )
        file.truncate(clusters + (entries + 1) * table)
    outcome = put_through(tmp_path, [path])["a.qed"]
    assert set(outcome.raised) <= {"snapshot", "convert"}
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB, outcome
