"""Malformed Bochs images: one clear error of the vmimg tree, at once, in little memory.

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

import bochs_by_hand as by_hand
from bochs_by_hand import FREE, V1, Image
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

MIB = 1 << 20
MAP = 512
PLACES = (2, 0, FREE, 1, FREE, 3)

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert")
ALL = (*OPENING, "info", "chain", "examine", "write")
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


def text(offset: int, value: bytes) -> Change:
    return lambda file: file.__setitem__(slice(offset, offset + len(value)), value)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def field(name: str, offset: int, value: int, says: str = "", steps: tuple[str, ...] = ALL) -> Case:
    return Case(f"{name} {value:#x}", put(offset, value), says, steps)


CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only the magic", cut(23), "header has 96 bytes"),
    Case("half a header", cut(80), "header has 96 bytes"),
    Case("nothing behind the header", cut(512), "behind the end of the file"),
    Case("half a catalog", cut(520), "behind the end of the file"),
    Case("wrong magic", text(0, b"bochs"), "", ()),
    Case("a magic that goes on", text(22, b"s"), "", ()),
    Case("another type", text(by_hand.TYPE, b"Flat\0"), "type 'Flat'"),
    Case("a type without an end", text(by_hand.TYPE, b"R" * 16), "type 'RRRRRRRRRRRRRRRR'"),
    Case("a type for the terminal", text(by_hand.TYPE, b"\x1b[31m\n\0"), r"'\x1b[31m\n'"),
    Case("a type that is no text", text(by_hand.TYPE, b"\xff\xfe\0"), "type"),
    Case("a subtype without an end", text(by_hand.SUBTYPE, b"Growing " * 2), "subtype"),
    field("version", by_hand.VERSION, 0, "version 0.0"),
    field("version", by_hand.VERSION, 0x30000, "version 3.0"),
    field("version", by_hand.VERSION, 0xFFFFFFFF, "version 65535.65535"),
    # Numbers of the header
    field("header", by_hand.HEADER, 0, "header is said to have 0"),
    field("header", by_hand.HEADER, 95, "header is said to have 95"),
    field("header", by_hand.HEADER, 0xFFFFFFFF, "behind the end"),
    field("header", by_hand.HEADER, 1024, "", ()),
    field("catalog", by_hand.CATALOG, 0, "no room"),
    field("catalog", by_hand.CATALOG, 5, "no room"),
    field("catalog", by_hand.CATALOG, 1 << 20, "behind the end"),
    field("catalog", by_hand.CATALOG, (1 << 20) + 1, "there may be"),
    field("catalog", by_hand.CATALOG, 0xFFFFFFFF, "there may be"),
    field("bitmap", by_hand.BITMAP, 0, "takes 1"),
    field("bitmap", by_hand.BITMAP, 0xFFFFFFFF, "takes 1"),
    field("bitmap", by_hand.BITMAP, 8 * MIB, "ends at", READING),
    field("extent", by_hand.EXTENT, 0, "power of two"),
    field("extent", by_hand.EXTENT, 256, "power of two"),
    field("extent", by_hand.EXTENT, 4097, "power of two"),
    field("extent", by_hand.EXTENT, 8192, "takes 2"),
    field("extent", by_hand.EXTENT, 16 * MIB, "power of two"),
    field("extent", by_hand.EXTENT, 0xFFFFFFFF, "power of two"),
    field("extent", by_hand.EXTENT, 2048, "no room"),
    Case("the largest extent", put(by_hand.BITMAP, 2048, 8 * MIB), "ends at", READING),
    Case("size 2^64-1", put64(by_hand.DISK_2, 2**64 - 1), "no room"),
    Case("size 2^63", put64(by_hand.DISK_2, 2**63), "no room"),
    Case("size beyond the catalog", put64(by_hand.DISK_2, 6 * 4096 + 512), "no room"),
    Case("size 0", put64(by_hand.DISK_2, 0), "", ()),
    Case("version 1, size 2^64-1", put64(by_hand.DISK_1, 2**64 - 1), "no room", ALL, "old"),
    # The catalog
    field("entry", MAP, 4, "ends at", READING),
    field("entry", MAP, 0x7FFFFFFF, "ends at", READING),
    field("entry", MAP, 0xFFFFFFFE, "ends at", READING),
    Case("entries in one place", put(MAP, 0, 0, FREE), "share", ("examine",)),
    Case("all entries in one place", put(MAP, *[0] * 6), "has room for 4", OPENING,
         also=("examine",)),
    Case("all entries past the end", put(MAP, *range(100, 106)), "ends at",
         (*READING, "examine")),
    # Cut off
    Case("cut in front of the places", cut(536), "ends at", READING),
    Case("cut in the first bitmap", cut(1000), "ends at", READING),
    Case("cut behind the first bitmap", cut(1048), "", (), also=("walk", "convert", "examine")),
    Case("cut in the last bitmap", cut(536 + 3 * 4608 + 100), "ends at", ("walk", "convert")),
    Case("cut in the last extent", cut(536 + 4 * 4608 - 1), "truncated", ("read", "convert")),
]  # fmt: skip


def bases() -> dict[str, bytes]:
    images = {
        "plain": Image(6 * 4096, PLACES, written=1),
        "old": Image(6 * 4096, PLACES, version=V1, written=1),
    }
    return {name: image.build()[0] for name, image in images.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".img", lambda case: bases()[case.base])
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    steps = [step for step in case.steps if step not in (*case.also, "write")]
    assert [*missed(outcome, steps, case.says), *missed(outcome, case.also, "")] == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name, file in bases().items():
        paths.append(tmp_path / f"{name}.img")
        paths[-1].write_bytes(file)
    for name, outcome in put_through(tmp_path, paths).items():
        # There are no snapshots to open, and nothing is written.
        assert set(outcome.raised) == {"snapshot", "write"}, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    paths = []
    for number in range(rounds(80)):
        image = bytearray(bases()[dice.choice(("plain", "old"))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice((*range(64, 96, 4), *range(MAP, MAP + 24, 4)))
            struct.pack_into("<I", image, place, any_value(dice))
        paths.append(tmp_path / f"{number}.img")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


@pytest.mark.parametrize("extent", [512, 8 * MIB])
def test_a_catalog_as_large_as_it_can_be_takes_no_memory(tmp_path: Path, extent: int) -> None:
    """Every entry names the same place: as much disk as can be, from a file of 4 MiB."""
    path = tmp_path / "a.img"
    entries = 1 << 20
    bitmap = max(1, extent // 4096)
    image = Image(entries * extent, (0,), extent=extent, bitmap=bitmap, more_entries=entries - 1)
    file = bytearray(image.build()[0])
    file[MAP : MAP + 4 * entries] = bytes(4 * entries)
    path.write_bytes(file)
    outcome = put_through(tmp_path, [path])["a.img"]
    for step in OPENING:
        assert "has room for 1" in outcome.raised[step].message
    assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB, outcome
