"""Malformed cloops: one clear error of the vmimg tree, at once, in little memory.

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

from cloop_by_hand import LZ4, LZO, NONE, XZ, ZLIB, Image, pack
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

BLOCK = 65536
COUNT = 6
INDEX, DATA = 136, 136 + 8 * (COUNT + 1)

Change = Callable[[bytearray], None]

ALL = ("info", "chain", "read", "walk", "convert", "examine", "write")
READING = ("read_data", "convert", "examine")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "V2.0"


def put(offset: int, *values: int) -> Change:
    """32 bits each; an offset below zero counts from the end."""

    def change(file: bytearray) -> None:
        place = offset if offset >= 0 else len(file) + offset
        struct.pack_into(f">{len(values)}I", file, place, *values)

    return change


def put64(offset: int, *values: int) -> Change:
    def change(file: bytearray) -> None:
        place = offset if offset >= 0 else len(file) + offset
        struct.pack_into(f">{len(values)}Q", file, place, *values)

    return change


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def fill(start: int, end: int, byte: int) -> Change:
    def change(file: bytearray) -> None:
        file[start:end] = bytes([byte]) * (end - start)

    return change


CASES = [
    # The header
    Case("empty file", cut(0), "", ()),
    Case("only the script", cut(100), "", ()),
    Case("no block size", cut(128), "", ()),
    Case("half a number", cut(134), "", ()),
    Case("no index", cut(136), "index of 6 blocks"),
    Case("half an index", cut(136 + 27), "index of 6 blocks"),
    Case("an index without its end", cut(DATA - 1), "index of 6 blocks"),
    Case("block size 0", put(128, 0), "multiple of 512"),
    Case("block size 1000", put(128, 1000), "multiple of 512"),
    Case("block size 2^32-512", put(128, 2**32 - 512), "4294966784"),
    Case("block size 128 MiB", put(128, 128 << 20), "134217728"),
    Case("block size 64 MiB", put(128, 64 << 20), "ends after", ("read_data", "examine")),
    Case("block size 512", put(128, 512), "", ()),
    Case("blocks 2^32-1", put(132, 2**32 - 1), "index of 4294967295 blocks"),
    Case("blocks 2^28", put(132, 2**28), "index of 268435456 blocks"),
    Case("blocks, into the data", put(132, 40), "", ("convert", "examine")),
    Case("blocks 0", put(132, 0), "", ()),
    # The index
    Case("an offset behind the end", put64(INDEX, 1 << 40), "truncated", READING),
    Case("an offset of 2^64-1", put64(INDEX, 2**64 - 1), "truncated", READING),
    Case("offsets of 2^63", put64(INDEX, *[2**63] * 7), "truncated", READING),
    Case("offsets that descend", put64(INDEX + 8, 10), "truncated", READING),
    Case("all offsets the same", put64(INDEX, *[DATA] * 7), "truncated", READING),
    Case("all offsets 0", put64(INDEX, *[0] * 7), "truncated", READING),
    Case("an offset into the index", put64(INDEX, 150), "compressed block", READING),
    Case("no last offset", put64(INDEX + 48, 0), "truncated", READING),
    # The data
    Case("cut in front of the data", cut(DATA), "truncated", READING),
    Case("cut in the first block", cut(DATA + 10), "truncated", READING),
    Case("garbage", fill(DATA, DATA + 400, 0xFF), "corrupt", READING),
    Case("zeros", fill(DATA, DATA + 400, 0), "corrupt", READING),
    # V4.0
    Case("V4.0, kinds that nobody knows", put64(INDEX, *[0xF << 60 | DATA + n for n in range(7)]),
         "method 15", READING, "V4.0"),
    Case("V4.0, a plain block that is none", put64(INDEX + 8, 1 << 60 | DATA + 99),
         "truncated", READING, "V4.0"),
    Case("V4.0, xz that is none", put64(INDEX, 2 << 60 | DATA), "corrupt", READING, "V4.0"),
    Case("V4.0, LZ4 that is none", put64(INDEX, 3 << 60 | DATA), "", READING, "V4.0"),
    Case("V4.0, LZO that is none", put64(INDEX, 4 << 60 | DATA), "", READING, "V4.0"),
    Case("V4.0 at the end, blocks 2^32-1", put(-4, 2**32 - 1), "index of 42949", ALL, "end"),
    Case("V4.0 at the end, one block more", put(-4, COUNT + 1), "", READING, "end"),
    Case("V4.0 at the end, block size 0", put(-8, 0), "multiple of 512", ALL, "end"),
    # CLOOP3
    Case("CLOOP3, version 4", put(-12, 4), "version 4", ALL, "CLOOP3"),
    Case("CLOOP3, the index at 2^64-1", put64(-20, 2**64 - 1), "index is said", ALL, "CLOOP3"),
    Case("CLOOP3, the index at the end", put64(-20, 1), "", ALL, "CLOOP3"),
    Case("CLOOP3, only a tail", lambda file: file.__delitem__(slice(0, len(file) - 20)),
         "index is said", ALL, "CLOOP3"),
    Case("CLOOP3, only half a tail", lambda file: file.__delitem__(slice(0, len(file) - 12)),
         "", (), "CLOOP3"),
]  # fmt: skip


def bases() -> dict[str, bytes]:
    dice = random.Random(1)
    pieces = [dice.randbytes(300) * 5 for _ in range(COUNT)]
    pieces = [piece.ljust(BLOCK, b"\0") for piece in pieces]
    zlib = [(ZLIB, pack(ZLIB, piece)) for piece in pieces]
    mixed = [(way := (ZLIB, NONE, XZ)[n % 3], pack(way, p)) for n, p in enumerate(pieces)]
    return {
        "V2.0": Image(zlib).build(),
        "V4.0": Image(zlib, version=4).build(),
        "end": Image(mixed, version=4, at_end=True).build(),
        "CLOOP3": Image(mixed, version=3).build(),
    }


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".cloop", lambda case: bases()[case.base])
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
    for name, image in bases().items():
        paths.append(tmp_path / f"{name}.cloop")
        paths[-1].write_bytes(image)
    for name, outcome in put_through(tmp_path, paths).items():
        # There are no snapshots to open, and a cloop is not written.
        assert set(outcome.raised) == {"snapshot", "write"}, (name, outcome.raised)


def test_random_damage_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    images, paths = bases(), []
    for number in range(rounds(100)):
        image = bytearray(images[dice.choice(tuple(images))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            tail = range(len(image) - 200, len(image) - 4)
            place = dice.choice((128, 132, *range(INDEX, DATA + 40, 4), *tail))
            struct.pack_into(">I", image, place, any_value(dice))
        paths.append(tmp_path / f"{number}.cloop")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_large_blocks_that_hold_next_to_nothing_take_little_memory(tmp_path: Path) -> None:
    """Blocks as large as they may be, of zeros: 64 KiB in the file, 64 MiB in memory."""
    block = 64 << 20
    path = tmp_path / "a.cloop"
    Image([(ZLIB, pack(ZLIB, bytes(block)))] * 3, block).write(path)
    outcome = put_through(tmp_path, [path])["a.cloop"]
    assert set(outcome.raised) == {"snapshot", "write"}
    assert outcome.seconds < 2 * MAX_SECONDS
    assert outcome.mib < 2 * MAX_MIB


@pytest.mark.parametrize("way", [LZ4, LZO])
def test_packed_nonsense_is_an_error(tmp_path: Path, way: int) -> None:
    dice = random.Random(way)
    paths = []
    for number in range(20):
        stored = [(way, dice.randbytes(dice.randrange(1, 5000)))]
        paths.append(Image(stored, version=4).write(tmp_path / f"{number}.cloop"))
    for path, outcome in zip(paths, put_through(tmp_path, paths).values(), strict=True):
        assert list(objections(outcome, path)) == []
        assert "convert" in outcome.raised or outcome.raised.keys() == {"snapshot", "write"}
