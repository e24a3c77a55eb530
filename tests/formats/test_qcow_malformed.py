"""Malformed qcow images of version 1: one clear error of the vmimg tree, at once, in little memory.

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

import qcow_by_hand as by_hand
from damaged import (
    MAX_MIB,
    MAX_SECONDS,
    Outcome,
    any_value,
    complaints,
    missed,
    objections,
    put_cases,
    put_through,
)
from qcow_by_hand import COMPRESSED, Image
from rounds import rounds

CLUSTER = 4096
LETTERS = "ppcc.p" + "." * 62 + "pc"
BASES = {
    "plain": Image(80 * CLUSTER, LETTERS, l2_bits=6),
    "small": Image(300 * 512, "pp.c" * 50, cluster_bits=9, l2_bits=6),
    "child": Image(80 * CLUSTER, LETTERS, l2_bits=6, backing=b"base"),
}
FILES = {name: image.build()[0] for name, image in BASES.items()}

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")
READING = ("read", "walk", "convert")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "plain"
    also: tuple[str, ...] = ()
    """Steps that must raise something."""


def put(offset: int, value: int, width: int = 4) -> Change:
    return lambda file: file.__setitem__(
        slice(offset, offset + width), (value % (1 << 8 * width)).to_bytes(width, "big")
    )


def entry(cluster: int, value: int) -> Change:
    return put(BASES["plain"].entries[cluster], value, 8)


def table(number: int, value: int) -> Change:
    return put(48 + 8 * number, value, 8)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def name(text: bytes, offset: int = 48) -> Change:
    def change(file: bytearray) -> None:
        struct.pack_into(">QI", file, by_hand.BACKING_OFFSET, offset, len(text))
        file[offset : offset + len(text)] = text

    return change


END = len(FILES["plain"])

CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only a magic", cut(4), "", ()),
    Case("magic and version", cut(8), "header has", ALL),
    Case("half a header", cut(40), "header has"),
    Case("nothing behind the header", cut(48), "behind the end of the file"),
    Case("half an L1 entry", cut(52), "behind the end of the file"),
    Case("wrong magic", put(0, 0x51464900), "", ()),
    # Numbers of the header
    *(
        Case(f"cluster_bits {value}", put(by_hand.CLUSTER_BITS, value, 1), f"is {value}")
        for value in (0, 8, 17, 63, 64, 255)
    ),
    *(
        Case(f"l2_bits {value}", put(by_hand.L2_BITS, value, 1), f"l2_bits is {value}")
        for value in (0, 5, 14, 63, 255)
    ),
    Case("padding", put(34, 0xFFFF, 2), "", ()),
    Case("crypt_method 2", put(by_hand.CRYPT_METHOD, 2), "method 2"),
    Case("crypt_method 2^32-1", put(by_hand.CRYPT_METHOD, 2**32 - 1), "method 4294967295"),
    Case("said to be encrypted", put(by_hand.CRYPT_METHOD, 1), "", ()),
    Case("size 0", put(by_hand.SIZE, 0, 8), "less than a sector"),
    Case("size 511", put(by_hand.SIZE, 511, 8), "less than a sector"),
    Case("size 2^64-1", put(by_hand.SIZE, 2**64 - 1, 8), "QEMU allows"),
    Case("size 2^63", put(by_hand.SIZE, 2**63, 8), "QEMU allows"),
    Case("size 2^45", put(by_hand.SIZE, 2**45, 8), "behind the end of the file"),
    Case("mtime", put(by_hand.MTIME, 2**32 - 1), "", ()),
    Case("L1 at 0", put(by_hand.L1_OFFSET, 0, 8), "over the header"),
    Case("L1 at 47", put(by_hand.L1_OFFSET, 47, 8), "over the header"),
    Case("L1 at the end", put(by_hand.L1_OFFSET, END - 8, 8), "behind the end of the file"),
    Case("L1 at 2^64-1", put(by_hand.L1_OFFSET, 2**64 - 1, 8), "behind the end of the file"),
    # Tables
    Case("a table over the header", table(0, 8), "over the header", READING, also=("examine",)),
    Case("a table over L1", table(0, 56), "over the header", READING, also=("examine", "write")),
    Case("a table at the end", table(0, END), "file ends at", READING, also=("examine", "write")),
    Case("a table half outside", table(0, END - 500), "file ends at", READING,
         also=("examine", "write")),
    Case("a table at 2^63", table(0, 2**63), "file ends at", READING, also=("examine", "write")),
    Case("a table at 2^64-1", table(0, 2**64 - 1), "file ends at", READING, also=("examine",)),
    Case("two tables in one place", table(1, BASES["plain"].l2[0]), "another's", ("examine",),
         also=("write",)),
    Case("overlapping tables", table(1, BASES["plain"].l2[0] + 8), "another's", ("examine",)),
    Case("no tables", lambda f: f.__setitem__(slice(48, 64), bytes(16)), "", ()),
    # Entries
    Case("a cluster over the header", entry(0, 0x30), "L2 entry", READING, also=("examine",)),
    Case("a cluster not on a sector", entry(0, 5000), "sector boundary", READING,
         also=("examine",)),
    Case("a cluster at the end", entry(0, (END + 511) // 512 * 512), "behind the end", READING,
         also=("examine",)),
    Case("a cluster at 2^63-512", entry(0, 2**63 - 512), "behind the end", READING,
         also=("examine",)),
    Case("a cluster half outside", entry(0, END // 512 * 512 - 512), "truncated", ("read",),
         also=("examine", "convert")),
    Case("two clusters in one place", lambda f: f.__setitem__(
         slice(BASES["plain"].entries[0], BASES["plain"].entries[0] + 8),
         f[BASES["plain"].entries[1] : BASES["plain"].entries[1] + 8]), "shares its place",
         ("examine",)),
    Case("packed data over the header", entry(2, COMPRESSED | 100 << 51 | 8), "L2 entry", READING,
         also=("examine",)),
    Case("packed data behind the end", entry(2, COMPRESSED | 100 << 51 | END), "behind the end",
         READING, also=("examine",)),
    Case("packed data at 2^51-1", entry(2, COMPRESSED | (1 << 63) - 1), "behind the end", READING,
         also=("examine",)),
    Case("packed data cut off", entry(2, COMPRESSED | 4095 << 51 | END - 10), "", (),
         also=("read", "examine")),
    Case("packed to nothing", entry(2, COMPRESSED | END - 100), "to nothing", READING,
         also=("examine",)),
    Case("packed data that is none", entry(2, COMPRESSED | 4000 << 51 | 100), "damaged",
         ("read", "convert"), also=("read", "convert")),
    # Cut off
    Case("cut in the middle", cut(END // 2), "", (), also=("examine", "convert")),
    Case("the last byte is missing", cut(END - 1), "", (), also=("examine", "convert")),
    # Backing files
    Case("no format for the parent", name(b"base"), "--backing-format", OPENING, "child"),
    Case("a name over the header", lambda f: struct.pack_into(">QI", f, 8, 40, 4),
         "over the header", base="child"),
    Case("a name behind the end", lambda f: struct.pack_into(">QI", f, 8, END, 4), "behind the end",
         base="child"),
    Case("a name at 2^64-1", lambda f: struct.pack_into(">QI", f, 8, 2**64 - 1, 4),
         "behind the end", base="child"),
    Case("a name of 2^32-1 bytes", lambda f: struct.pack_into(">QI", f, 8, 48, 2**32 - 1),
         "at most 1023", base="child"),
    Case("a name of 1024 bytes", lambda f: struct.pack_into(">QI", f, 8, 48, 1024), "at most 1023",
         base="child"),
    Case("a name of no bytes", lambda f: struct.pack_into(">QI", f, 8, 48, 0), "", (),
         base="child"),
    Case("names /etc/passwd", name(b"/etc/passwd", 64), "--allow-dir", OPENING, "small"),
    Case("names a file above", name(b"../base", 64), "--allow-dir", OPENING, "small"),
    Case("names an address", name(b"nbd://host/disk", 64), "", OPENING, "small"),
    Case("names itself", name(b"ITSELF", 64), "", OPENING, "small"),
    Case("a name that is no text", name(b"\xff\xfe\1", 64), "", OPENING, "small"),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".qcow", lambda case: FILES[case.base])
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert [*missed(outcome, case.steps, case.says), *missed(outcome, case.also, "")] == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name in ("plain", "small"):
        paths.append(tmp_path / f"{name}.qcow")
        paths[-1].write_bytes(FILES[name])
    for name, outcome in put_through(tmp_path, paths).items():
        # There are no snapshots to open.
        assert set(outcome.raised) == {"snapshot"}, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    paths = []
    for number in range(rounds(80)):
        base = dice.choice(list(BASES))
        image, file = BASES[base], bytearray(FILES[base])
        tables = [place for start in image.l2.values() for place in range(start, start + 512, 4)]
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice((*range(8, 48, 4), *range(48, 64, 4), dice.choice(tables)))
            struct.pack_into(">I", file, place, any_value(dice))
        paths.append(tmp_path / f"{number}.qcow")
        paths[-1].write_bytes(file)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_table_that_all_entries_name_is_read_once(tmp_path: Path) -> None:
    image = Image(1 << 30, "", cluster_bits=9, l2_bits=6)
    file = bytearray(image.build()[0])
    entries = (1 << 30) // (512 * 64)
    place = len(file)
    file[48 : 48 + 8 * entries] = place.to_bytes(8, "big") * entries
    file += bytes(512)
    (tmp_path / "a.qcow").write_bytes(file)
    outcome = put_through(tmp_path, [tmp_path / "a.qcow"])["a.qcow"]
    assert set(outcome.raised) == {"snapshot", "examine", "write"}
    assert list(objections(outcome, tmp_path / "a.qcow")) == []


def test_an_l1_table_as_large_as_it_can_be_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow"
    entries = ((1 << 31) - 1) // 8
    file = bytearray(Image(CLUSTER, "").build()[0])
    put(by_hand.SIZE, entries << 21, 8)(file)
    path.write_bytes(file)
    with path.open("r+b") as target:
        target.truncate(48 + 8 * entries)
    outcome = put_through(tmp_path, [path])["a.qcow"]
    assert set(outcome.raised) <= {"snapshot", "convert"}  # qcow2 holds less by default
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB
