"""Malformed VDI images: one clear error of the vmimg tree, at once, in little memory.

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
from uuid import UUID

import pytest

import vdi_by_hand as by_hand
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
from vdi_by_hand import DIFF, FREE, ZERO, Image

MIB = 1 << 20
BLOCK = 65536
MAP, DATA = 512, 1024
PLACES = (2, 0, FREE, 1, ZERO, 3)

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


def put(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f"<{len(values)}I", file, offset, *values)


def put64(offset: int, value: int) -> Change:
    return lambda file: struct.pack_into("<Q", file, offset, value)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def field(
    name: str, offset: int, *values: int, says: str = "", steps: tuple[str, ...] = ALL
) -> Case:
    shown = ", ".join(f"{value:#x}" for value in values)
    return Case(f"{name} {shown}", put(offset, *values), says, steps)


CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only the text", cut(64), "", ()),
    Case("text and signature", cut(68), "", ()),
    Case("no header behind the signature", cut(72), "header has"),
    Case("half a header", cut(300), "header has"),
    Case("a header of version 0 in a file of version 1", cut(430), "header is said to have"),
    Case("a header that is cut off", cut(460), "header is said to have"),
    Case("nothing behind the header", cut(480), "behind the end of the file"),
    Case("wrong signature", put(64, 0xBEDA107E), "", ()),
    field("version", 68, 0, says="version 0.0"),
    field("version", 68, 0x10000, says="version 1.0"),
    field("version", 68, 0x20001, says="version 2.1"),
    field("version", 68, 0xFFFFFFFF, says="version 65535.65535"),
    # Numbers of the header
    field("header size", by_hand.CB_HEADER, 0, says="0 bytes"),
    field("header size", by_hand.CB_HEADER, 383, says="383 bytes"),
    field("header size", by_hand.CB_HEADER, 0xFFFFFFFF, says="4294967295 bytes"),
    field("type", by_hand.TYPE, 0, says="image type 0"),
    field("type", by_hand.TYPE, 5, says="image type 5"),
    field("type", by_hand.TYPE, 0xFFFFFFFF, says="image type 4294967295"),
    field("type", by_hand.TYPE, by_hand.UNDO, says="names no parent"),
    field("flags", by_hand.FLAGS, 0xFFFFFFFF, steps=()),
    field("map offset", by_hand.OFF_BLOCKS, 0, says="over the header"),
    field("map offset", by_hand.OFF_BLOCKS, 471, says="over the header"),
    field("map offset", by_hand.OFF_BLOCKS, 1 << 20, says="behind the end"),
    field("map offset", by_hand.OFF_BLOCKS, 0xFFFFFFFF, says="behind the end"),
    field("data offset", by_hand.OFF_DATA, 0, says="block map ends"),
    field("data offset", by_hand.OFF_DATA, MAP + 4 * 5, says="block map ends"),
    field("data offset", by_hand.OFF_DATA, 0xFFFFFFFF, says="ends at", steps=READING),
    field("legacy sector size", 360, 4096, says="sectors of 4096"),
    field("sector size", by_hand.LCHS + 12, 4096, says="sectors of 4096"),
    Case("size 2^64-1", put64(by_hand.CB_DISK, 2**64 - 1), "no room"),
    Case("size 2^63", put64(by_hand.CB_DISK, 2**63), "no room"),
    Case("size beyond the map", put64(by_hand.CB_DISK, 6 * BLOCK + 1), "no room"),
    Case("size 0", put64(by_hand.CB_DISK, 0), "", ()),
    field("block size", by_hand.CB_BLOCK, 0, says="power of two"),
    field("block size", by_hand.CB_BLOCK, 3 * 65536, says="power of two"),
    field("block size", by_hand.CB_BLOCK, 0xFFFFFFFF, says="power of two"),
    field("block size", by_hand.CB_BLOCK, 256, says="less than a sector"),
    field("block size", by_hand.CB_BLOCK, 1 << 31, says="ends at", steps=("read", "examine")),
    field("extra data", by_hand.CB_EXTRA, 3, says="power of two"),
    field("extra data", by_hand.CB_EXTRA, 1 << 31, says="ends at", steps=READING),
    field("blocks", by_hand.C_BLOCKS, 0, says="no room"),
    field("blocks", by_hand.C_BLOCKS, 5, says="no room"),
    field("blocks", by_hand.C_BLOCKS, 0x3FFFFFFF, says="behind the end"),
    field("blocks", by_hand.C_BLOCKS, 0xFFFFFFFF, says="behind the end"),
    field("blocks, into the data", by_hand.C_BLOCKS, 1000, says="block map ends"),
    field("allocated", by_hand.C_ALLOCATED, 0xFFFFFFFF, says="4294967295", steps=("examine",)),
    Case("a comment that is no text", put(84, *[0xFFFFFFFF] * 64), "", ()),
    # The map
    field("entry", MAP, 5, says="ends at", steps=READING),
    field("entry", MAP, 0xFFFFFFFD, says="ends at", steps=READING),
    field("entry", MAP, 0x7FFFFFFF, says="ends at", steps=READING),
    field("entries", MAP, 0, 0, 0, 0, 0, 0, says="share", steps=("examine", "write")),
    field("entries", MAP, *range(100, 106), says="ends at", steps=READING),
    # Cut off
    Case("cut in the map", cut(MAP + 13), "behind the end"),
    Case("cut in front of the data", cut(DATA), "ends at", READING),
    Case("cut in the first block", cut(DATA + 100), "", ("read", "examine")),
    Case("cut in the last block", cut(DATA + 4 * BLOCK - 1), "truncated", ("convert", )),
    # Version 0
    Case("version 0, blocks 2^32-1", put(364, 0xFFFFFFFF), "behind the end", ALL, "old"),
    Case("version 0, blocks 0", put(364, 0), "no room", ALL, "old"),
    Case("version 0, block size 0", put(360, 0), "power of two", ALL, "old"),
    Case("version 0, cut in the map", cut(425), "behind the end", ALL, "old"),
    Case("version 0, cut in the header", cut(419), "header has", ALL, "old"),
    Case("version 0, size 2^64-1", put64(352, 2**64 - 1), "no room", ALL, "old"),
    Case("version 0, differencing", put(72, DIFF), "names no parent", ALL, "old"),
    # Parents
    Case("a parent that is not there", lambda f: None, "no file beside it",
         (*OPENING, "chain"), "child"),
    Case("its own parent", lambda f: f.__setitem__(slice(424, 440), f[392:408]), "",
         (*OPENING, "chain"), "child"),
]  # fmt: skip


def bases() -> dict[str, bytes]:
    images = {
        "plain": Image(6 * BLOCK, PLACES, block=BLOCK),
        "old": Image(6 * BLOCK, PLACES, block=BLOCK, version=(0, 2)),
        "extra": Image(6 * BLOCK, PLACES, block=BLOCK, extra=512),
        "child": Image(6 * BLOCK, PLACES, block=BLOCK, kind=DIFF, linkage=UUID(int=5)),
    }
    return {name: image.build()[0] for name, image in images.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".vdi", lambda case: bases()[case.base])
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    steps = [step for step in case.steps if step not in case.also]
    assert [*missed(outcome, steps, case.says), *missed(outcome, case.also, "")] == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name in ("plain", "old", "extra"):
        paths.append(tmp_path / f"{name}.vdi")
        paths[-1].write_bytes(bases()[name])
    for name, outcome in put_through(tmp_path, paths).items():
        # There are no snapshots to open.
        assert set(outcome.raised) == {"snapshot"}, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    paths = []
    for number in range(rounds(80)):
        image = bytearray(bases()[dice.choice(("plain", "old", "extra", "child"))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice((*range(64, 84, 4), *range(340, 472, 4), *range(MAP, MAP + 24, 4)))
            value = any_value(dice)
            struct.pack_into("<I", image, place, value)
        paths.append(tmp_path / f"{number}.vdi")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_chain_that_loops_is_refused_at_once(tmp_path: Path) -> None:
    one = Image(BLOCK, (FREE,), kind=DIFF, seed=1, block=BLOCK)
    other = Image(BLOCK, (FREE,), kind=DIFF, seed=2, block=BLOCK)
    for name, image, parent in (("one", one, other), ("other", other, one)):
        image.linkage, image.parent_modify = parent.uuids()
        (tmp_path / f"{name}.vdi").write_bytes(image.build()[0])
    outcome = put_through(tmp_path, [tmp_path / "one.vdi"])["one.vdi"]
    for step in ("read", "walk", "convert", "chain"):
        assert outcome.raised[step][0] == "ChainError"
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB


def test_a_map_as_large_as_it_can_be_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    file = bytearray(Image(MIB, (FREE,)).build()[0])
    blocks = 1 << 24
    struct.pack_into("<QIIII", file, by_hand.CB_DISK, blocks * MIB, MIB, 0, blocks, 0)
    struct.pack_into("<II", file, by_hand.OFF_BLOCKS, 512, 512 + 4 * blocks)
    with path.open("wb") as target:
        target.write(file[:512])
        for _ in range(blocks // (1 << 20)):
            target.write(b"\xff" * (4 << 20))
    outcome = put_through(tmp_path, [path])["a.vdi"]
    assert set(outcome.raised) == {"snapshot"}
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB
