"""Malformed COW images: one clear error of the vmimg tree, at once, in little memory.

Every case is an image made by hand with one thing made wrong. It goes through everything that reads
images (`ordeal.py`), in a process with limits. ``says``: words of the error that the steps named in
``steps`` must raise; the others may raise it as well, and never anything but a VmimgError.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cow_by_hand as by_hand
from cow_by_hand import SECTOR, Image
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
from rounds import rounds

SECTORS = 1000
PRESENT = [*range(0, 300, 2), *range(600, 700), 999]
BASES = {
    "plain": Image(SECTORS * SECTOR, PRESENT),
    "old": Image(SECTORS * SECTOR, PRESENT, bits=32),
    "child": Image(SECTORS * SECTOR, PRESENT, backing=b"base"),
}
FILES = {name: image.build() for name, image in BASES.items()}
DATA = BASES["plain"].data

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "plain"


def put(offset: int, value: int, width: int = 4) -> Change:
    return lambda file: file.__setitem__(
        slice(offset, offset + width), value.to_bytes(width, "big")
    )


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def name(text: bytes) -> Change:
    return lambda file: struct.pack_into(">1024s", file, by_hand.NAME, text)


CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only a magic", cut(4), "", ()),
    Case("magic and version", cut(8), "header has"),
    Case("cut in the name", cut(500), "header has"),
    Case("cut in the size", cut(1043), "header has"),
    Case("cut in the header of 32 bits", cut(1046), "header has", base="old"),
    Case("wrong magic", put(0, 0x4F4F4F4E), "", ()),
    Case("version 0", put(4, 0), "", ()),
    Case("version 1", put(4, 1), "User Mode Linux"),
    Case("version 3", put(4, 3), "User Mode Linux"),
    Case("version 2^32-1", put(4, 2**32 - 1), "", ()),
    # Numbers
    *(
        Case(f"sector size {value}", put(by_hand.SECTORSIZE_64, value), "no sector size of 512")
        for value in (0, 511, 4096, 2**32 - 1)
    ),
    Case("sector size 0 in 32 bits", put(by_hand.SECTORSIZE_32, 0), "no sector size", base="old"),
    Case("size 0", put(by_hand.SIZE_64, 0, 8), "0 bytes is not possible"),
    Case("size 511", put(by_hand.SIZE_64, 511, 8), "511 bytes is not possible"),
    Case("size 2^64-1", put(by_hand.SIZE_64, 2**64 - 1, 8), "is not possible"),
    Case("size 2^63-1", put(by_hand.SIZE_64, 2**63 - 1, 8), "behind the end of the file"),
    Case("size 2^42", put(by_hand.SIZE_64, 1 << 42, 8), "behind the end of the file"),
    Case("size 2^42 in 32 bits", put(by_hand.SIZE_32, 1 << 42, 8), "behind the end", base="old"),
    Case("size no multiple of a sector", put(by_hand.SIZE_64, 1000 * SECTOR - 1, 8), "", ()),
    Case("size of more than there is", put(by_hand.SIZE_64, 3 << 30, 8), "behind the end"),
    Case("mtime 2^32-1", put(by_hand.MTIME, 2**32 - 1), "", ()),
    Case("padding", put(by_hand.MTIME + 4, 2**32 - 1), "", ()),
    # Cut off
    Case("nothing behind the header", cut(by_hand.HEADER_64), "behind the end of the file"),
    Case("cut in the bitmap", cut(by_hand.HEADER_64 + 100), "behind the end of the file"),
    Case("cut behind the bitmap", cut(by_hand.HEADER_64 + 125), "truncated", ("read", "convert")),
    Case("cut in the data", cut(DATA + 600 * SECTOR + 5), "truncated", ("convert",)),
    Case("the last byte is missing", cut(-1), "truncated", ("read", "convert")),
    Case("all bits set", lambda f: f.__setitem__(slice(1056, 1181), b"\xff" * 125), "", ()),
    # Backing files
    Case("no format for the parent", lambda f: None, "--backing-format", OPENING, "child"),
    Case("names /etc/passwd", name(b"/etc/passwd"), "--allow-dir", OPENING),
    Case("names a file above", name(b"../base"), "--allow-dir", OPENING),
    Case("names an address", name(b"nbd://host/disk"), "", OPENING),
    Case("names itself", name(b"ITSELF"), "", OPENING),
    Case("a name that is no text", name(b"\xff\xfe\1"), "", OPENING),
    Case("a name without an end", name(b"x" * 1024), "", OPENING),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".cow", lambda case: FILES[case.base])
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert list(missed(outcome, case.steps, case.says)) == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name in ("plain", "old"):
        paths.append(tmp_path / f"{name}.cow")
        paths[-1].write_bytes(FILES[name])
    for name, outcome in put_through(tmp_path, paths).items():
        # There are no snapshots to open.
        assert set(outcome.raised) == {"snapshot"}, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    paths = []
    for number in range(rounds(60)):
        file = bytearray(FILES[dice.choice(list(BASES))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice(
                (*range(0, 8, 4), *range(1032, 1056, 4), 1056 + 4 * dice.choice(range(31)))
            )
            struct.pack_into(">I", file, place, any_value(dice))
        paths.append(tmp_path / f"{number}.cow")
        paths[-1].write_bytes(file)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_bitmap_as_large_as_it_can_be_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.cow"
    image = Image(7 << 40)
    file = bytearray(Image(SECTOR).build()[: by_hand.HEADER_64])
    put(by_hand.SIZE_64, image.size, 8)(file)
    path.write_bytes(file)
    os.truncate(path, image.data)
    outcome = put_through(tmp_path, [path])["a.cow"]
    assert set(outcome.raised) <= {"snapshot", "convert"}  # qcow2 holds less by default
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB
