"""Malformed DMG images: one clear error of the vmimg tree, at once, in little memory.

Every case is an image made by hand with one thing made wrong. It goes through everything that reads
images (`ordeal.py`), in a process with limits.
"""

from __future__ import annotations

import bz2
import lzma
import plistlib
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adc_by_hand import adc
from damaged import Outcome, any_value, complaints, missed, objections, put_cases, put_through
from dmg_by_hand import (
    ADC,
    BZIP2,
    IGNORE,
    LZFSE,
    LZMA,
    RAW,
    ZERO,
    ZLIB,
    Chunk,
    Image,
    Partition,
    encrypted,
)
from rounds import rounds

DATA = bytes(range(256)) * 256
SECTORS = len(DATA) // 512

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert")
ALL = (*OPENING, "info", "chain", "examine")
TABLES = (*OPENING, "examine")
READING = ("read", "convert", "examine")
# Nothing is to be written into, and there are no snapshots.
NEVER = {"write", "snapshot"}


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "list"


def image(form: str = "list", front: bool = False) -> Image:
    return Image(
        [
            Partition("first", [Chunk(RAW, DATA), Chunk(ZERO, bytes(512 * 20))]),
            Partition(
                "second",
                [Chunk(kind, DATA) for kind in (ZLIB, BZIP2, LZFSE, LZMA, ADC)]
                + [Chunk(IGNORE, bytes(512 * 99))],
            ),
        ],
        form=form,
        front=front,
    )


def bases() -> dict[str, bytes]:
    return {
        "list": image().build()[0],
        "fork": image("fork").build()[0],
        "front": image(front=True).build()[0],
        "encrypted": encrypted(image().build()[0], b"secret"),
    }


def put(offset: int, form: str, *values: int | bytes) -> Change:
    """From the end of the file, where ``offset`` is negative."""

    def change(file: bytearray) -> None:
        struct.pack_into(form, file, offset if offset >= 0 else len(file) + offset, *values)

    return change


def koly(offset: int, form: str, *values: int | bytes) -> Change:
    return put(offset - 512, form, *values)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size if size >= 0 else len(file) + size :]

    return change


def listed(new: Callable[[bytes], bytes]) -> Change:
    """Put another property list in the place of the one there is."""

    def change(file: bytearray) -> None:
        place, length = struct.unpack_from(">QQ", file, len(file) - 512 + 216)
        text = new(bytes(file[place : place + length]))
        struct.pack_into(">Q", file, len(file) - 512 + 224, len(text))
        file[place : place + length] = text

    return change


def table(number: int, change: Change) -> Change:
    """``change`` block table ``number`` of the list."""

    def new(text: bytes) -> bytes:
        resources = plistlib.loads(text)
        mish = bytearray(resources["resource-fork"]["blkx"][number]["Data"])
        change(mish)
        resources["resource-fork"]["blkx"][number]["Data"] = bytes(mish)
        return plistlib.dumps(resources)

    return listed(new)


def entry(row: int, offset: int, form: str, *values: int, partition: int = 1) -> Change:
    return table(partition, put(204 + 40 * row + offset, form, *values))


def fork(offset: int, form: str, value: int | bytes) -> Change:
    """From the start of the resource fork."""

    def change(file: bytearray) -> None:
        (start,) = struct.unpack_from(">Q", file, len(file) - 512 + RSRC)
        struct.pack_into(form, file, start + offset, value)

    return change


def many(count: int) -> Change:
    entries = struct.pack(">IIQQQQ", ZERO, 0, 0, 0, 0, 0) * count

    def new(mish: bytearray) -> None:
        mish[204:] = entries
        struct.pack_into(">I", mish, 200, count)

    return table(1, new)


def entities(text: bytes) -> bytes:
    """A billion laughs."""
    doctype = b'<!DOCTYPE plist [<!ENTITY a "aaaaaaaaaaaaaaaa">'
    for one, other in zip(b"abcdefgh", b"bcdefghi", strict=True):
        doctype += b'<!ENTITY %c "%b">' % (other, b"&%c;" % one * 16)
    head, _, body = text.partition(b"<plist")
    return head.partition(b"<!DOCTYPE")[0] + doctype + b"]><plist" + body.replace(b"first", b"&i;")


SIGNATURE, VERSION, SIZE = 0, 4, 8
FORK, FORK_SIZE, RSRC, RSRC_SIZE, SEGMENTS = 24, 32, 40, 48, 60
XML, XML_SIZE, SECTOR_COUNT = 216, 224, 492
KEY = 4096
"""Where `encrypted` puts the wrapped key."""
HUGE = (1 << 64) - 1

CASES = [
    # The trailer
    Case("empty file", cut(0), steps=()),
    Case("only the trailer", lambda f: f.__delitem__(slice(0, len(f) - 512)), "ends at"),
    Case("half a trailer", cut(-256), steps=()),
    Case("wrong signature", koly(SIGNATURE, ">4s", b"kolz"), steps=()),
    Case("version 3", koly(VERSION, ">I", 3), "version 3"),
    Case("version 2^32-1", koly(VERSION, ">I", 2**32 - 1), "version 4294967295"),
    Case("size of the trailer", koly(SIZE, ">I", 1024), steps=()),
    Case("data fork offset", koly(FORK, ">Q", HUGE), "ends at"),
    Case("data fork size", koly(FORK_SIZE, ">Q", HUGE), "ends at"),
    Case("data fork 1 byte too large", koly(FORK, ">Q", 1 << 40), "ends at"),
    Case("data fork of nothing far away", koly(FORK, ">QQ", HUGE, 0), "ends behind the end of the "
         "file", TABLES),
    Case("resource fork offset", koly(RSRC, ">QQ", HUGE, 1), "ends at"),
    Case("resource fork size", koly(RSRC_SIZE, ">Q", HUGE), "ends at"),
    Case("list offset", koly(XML, ">Q", HUGE), "ends at"),
    Case("list size", koly(XML_SIZE, ">Q", HUGE), "ends at"),
    Case("list in the data", koly(XML, ">Q", 0), "property list is damaged"),
    Case("no list and no fork", koly(XML_SIZE, ">Q", 0), "no block tables"),
    Case("segments", koly(SEGMENTS, ">I", 2**32 - 1), "4294967295 segments"),
    Case("sectors 2^64-1", koly(SECTOR_COUNT, ">Q", HUGE), "sectors"),
    Case("sectors 2^52-1", koly(SECTOR_COUNT, ">Q", (1 << 52) - 1), steps=()),
    Case("sectors 1", koly(SECTOR_COUNT, ">Q", 1), "behind the end of the disk", TABLES),
    Case("wrong checksums", koly(80, ">II", 77, 0xFFFF), steps=()),
    # The list
    Case("list cut off", listed(lambda t: t[: len(t) // 2]), "property list is damaged"),
    Case("list that is no XML", listed(lambda t: b"nonsense"), "property list is damaged"),
    Case("list of zeros", listed(lambda t: bytes(5000)), "property list is damaged"),
    Case("binary list", listed(lambda t: plistlib.dumps(plistlib.loads(t),
         fmt=plistlib.FMT_BINARY)), "property list is damaged"),
    Case("entities", listed(entities), "property list is damaged"),
    Case("an entity from outside", listed(lambda t: t.replace(
         b"<plist", b'<!DOCTYPE plist [<!ENTITY x SYSTEM "file:///etc/passwd">]><plist', 1).replace(
         b"first", b"&x;")), "property list is damaged"),
    Case("an unknown encoding", listed(lambda t: t.replace(b"UTF-8", b"UTF-9")),
         "the encoding 'UTF-9'"),
    Case("an encoding of two bytes", listed(lambda t: t.replace(b"UTF-8", b"GB18030")),
         "the encoding 'GB18030'"),
    Case("list of something else", listed(lambda t: plistlib.dumps([1, 2])), "no block tables"),
    Case("resources that are none", listed(lambda t: plistlib.dumps({"resource-fork": 1})),
         "no block tables"),
    Case("tables that are none", listed(lambda t: plistlib.dumps(
         {"resource-fork": {"blkx": "x"}})), "no block tables"),
    Case("no tables", listed(lambda t: plistlib.dumps({"resource-fork": {"blkx": []}})),
         "no block table"),
    Case("a table that is a number", listed(lambda t: plistlib.dumps(
         {"resource-fork": {"blkx": [7]}})), "has no data"),
    Case("a table without data", listed(lambda t: plistlib.dumps(
         {"resource-fork": {"blkx": [{"Name": "x"}]}})), "has no data"),
    Case("10000 tables", listed(lambda t: plistlib.dumps(
         {"resource-fork": {"blkx": [{"Data": b""}] * 10000}})), "10000 block tables"),
    Case("a list 5000 deep", listed(lambda t: b"<plist>" + b"<array>" * 5000 + b"</array>" * 5000
         + b"</plist>"), "more than 16 deep"),
    Case("a number that is none", listed(lambda t: t.replace(b"<string>0</string>",
         b"<integer>x</integer>")), steps=()),
    Case("an id that is no number", listed(lambda t: t.replace(b"<string>0</string>",
         b"<string>x</string>")), steps=()),
    Case("a list that is too large", listed(lambda t: t + b" " * (33 << 20)), "property list has"),
    # A block table
    Case("empty table", table(1, lambda m: m.clear()), "has 0 bytes"),
    Case("half a table", table(1, cut(200)), "has 200 bytes"),
    Case("table without mish", table(1, put(0, ">4s", b"mosh")), "does not begin with"),
    Case("entries cut off", table(1, cut(204 + 39)), "there is room for 0"),
    Case("2^32-1 entries", table(1, put(200, ">I", 2**32 - 1)), "4294967295 chunks"),
    Case("start 2^64-1", table(1, put(8, ">Q", HUGE)), "is of sectors"),
    Case("start 2^50", table(1, put(8, ">Q", 1 << 50)), "behind the end of the disk", TABLES),
    Case("start over the other", table(1, put(8, ">Q", 5)), "two chunks claim", TABLES),
    Case("size 2^64-1", table(1, put(16, ">Q", HUGE)), "is of sectors"),
    Case("data offset 2^64-1", table(1, put(24, ">Q", HUGE)), "behind the end of the file", TABLES),
    Case("data offset of the file's size", table(1, put(24, ">Q", 1 << 20)),
         "behind the end of the file", TABLES),
    Case("200000 chunks of nothing", many(200_000), steps=()),
    # Chunks
    Case("chunk type", entry(0, 0, ">I", 3), "type 0x3", TABLES),
    Case("chunk type", entry(0, 0, ">I", 0x80000003), "type 0x80000003", TABLES),
    Case("chunk start 2^64-1", entry(0, 8, ">Q", HUGE), "outside of any disk", TABLES),
    Case("chunk start 2^52-1", entry(0, 8, ">Q", (1 << 52) - 1), "behind the end of the disk",
         TABLES),
    Case("chunks at the same place", entry(1, 8, ">Q", 0), "two chunks claim", TABLES),
    Case("a chunk into the next", entry(0, 16, ">Q", SECTORS + 1), "two chunks claim", TABLES),
    Case("a chunk of 2^64-1 sectors", entry(0, 16, ">Q", HUGE), "outside of any disk", TABLES),
    Case("a chunk of a gigabyte", entry(0, 16, ">Q", 1 << 21), "is larger than 67108864", TABLES),
    Case("zeros of an exabyte", entry(5, 16, ">Q", 1 << 51), "behind the end of the disk", TABLES),
    Case("chunk at 2^64-1", entry(0, 24, ">Q", HUGE), "behind the end of the file", TABLES),
    Case("chunk at 2^63", entry(0, 24, ">Q", 1 << 63), "behind the end of the file", TABLES),
    Case("chunk of 2^64-1 bytes", entry(0, 32, ">Q", HUGE), "is larger than", TABLES),
    Case("chunk behind the end", entry(0, 32, ">Q", 1 << 20), "behind the end of the file", TABLES),
    Case("raw chunk too long", entry(0, 32, ">Q", 1024, partition=0), "not as long as", TABLES),
    Case("raw chunk of 2^64-1 sectors", entry(0, 16, ">Q", HUGE, partition=0), "outside", TABLES),
    Case("raw chunk of 2^64-512 bytes", entry(0, 16, ">QQQ", (1 << 51), 0, (1 << 60),
         partition=0), "behind the end of the file", TABLES),
    *(Case(f"a chunk of no bytes, {kind:#x}", entry(row, 32, ">Q", 0), "is damaged", READING)
      for row, kind in enumerate((ZLIB, BZIP2, LZFSE, LZMA, ADC))),
    *(Case(f"another's data as {kind:#x}", entry(row, 24, ">Q", 0), "is damaged", READING)
      for row, kind in enumerate((ZLIB, BZIP2, LZFSE, LZMA))),
    *(Case(f"a chunk cut short, {kind:#x}", entry(row, 32, ">Q", 40), "is damaged", READING)
      for row, kind in enumerate((ZLIB, BZIP2, LZFSE, LZMA, ADC))),
    *(Case(f"a chunk of too few sectors, {kind:#x}", entry(row, 16, ">Q", 1), "does not end",
           ("convert", "examine")) for row, kind in ((1, BZIP2), (2, LZFSE), (3, LZMA), (4, ADC))),
    Case("zlib of too few sectors", entry(0, 16, ">Q", 1), "checksum", ("examine",)),
    # The resource fork
    Case("fork of zeros", fork(0, "256s", bytes(256)), "", (), "fork"),
    *(Case(f"fork, header word {word} is {value:#x}", fork(4 * word, ">I", value), "", (), "fork")
      for word in range(4) for value in (0, 1, 300, 1 << 31, 2**32 - 1)),
    Case("fork cut off", koly(RSRC_SIZE, ">Q", 300), "resource fork is damaged", ALL, "fork"),
    Case("fork of 15 bytes", koly(RSRC_SIZE, ">Q", 15), "resource fork is damaged", ALL, "fork"),
    # In front
    Case("in front, cut", cut(1000), "ends at", ALL, "front"),
    Case("in front, only the trailer", cut(512), "ends at", ALL, "front"),
    Case("in front, half of it", cut(256), "", (), "front"),
    # Encrypted
    Case("encrypted, nothing changed", lambda f: None, "is encrypted", ("examine",), "encrypted"),
    Case("encrypted, cut in the header", cut(70), "", (), "encrypted"),
    Case("encrypted, cut in the data", cut(-1), "ends at", ALL, "encrypted"),
    Case("encrypted, version 3", put(8, ">I", 3), "version 3", ALL, "encrypted"),
    Case("encrypted, key of 2^32-1 bits", put(24, ">I", 2**32 - 1), "4294967295 bits", ALL,
         "encrypted"),
    Case("encrypted, block 0", put(52, ">I", 0), "blocks of 0", ALL, "encrypted"),
    Case("encrypted, block 2^31", put(52, ">I", 1 << 31), "blocks of", ALL, "encrypted"),
    Case("encrypted, block 513", put(52, ">I", 513), "blocks of 513", ALL, "encrypted"),
    Case("encrypted, size 2^64-1", put(56, ">Q", HUGE), "are encrypted", ALL, "encrypted"),
    Case("encrypted, offset 2^64-1", put(64, ">Q", HUGE), "ends at", ALL, "encrypted"),
    Case("encrypted, offset 0", put(64, ">Q", 0), "", ALL, "encrypted"),
    Case("encrypted, 2^32-1 keys", put(72, ">I", 2**32 - 1), "4294967295 keys", ALL, "encrypted"),
    Case("encrypted, no key", put(72, ">I", 0), "certificates only", OPENING, "encrypted"),
    Case("encrypted, a key of type 9", put(76, ">I", 9), "certificates", OPENING, "encrypted"),
    Case("encrypted, key at 2^64-1", put(80, ">Q", HUGE), "a key is said", OPENING, "encrypted"),
    Case("encrypted, key at 0", put(80, ">Q", 0), "", OPENING, "encrypted"),
    Case("encrypted, key of 2^64-1 bytes", put(88, ">Q", HUGE), "a key is said", OPENING,
         "encrypted"),
    Case("encrypted, key of 9 bytes", put(88, ">Q", 9), "a key is said", OPENING, "encrypted"),
    Case("encrypted, iterations 0", put(KEY + 8, ">I", 0), "0 iterations", OPENING, "encrypted"),
    Case("encrypted, iterations 2^32-1", put(KEY + 8, ">I", 2**32 - 1), "4294967295 iterations",
         OPENING, "encrypted"),
    Case("encrypted, salt of 33 bytes", put(KEY + 12, ">I", 33), "impossible length", OPENING,
         "encrypted"),
    Case("encrypted, vector of 7 bytes", put(KEY + 48, ">I", 7), "impossible length", OPENING,
         "encrypted"),
    *(Case(f"encrypted, blob of {size} bytes", put(KEY + 100, ">I", size), "wrapped key", OPENING,
           "encrypted") for size in (0, 7, 520, 2**32 - 8)),
    *(Case(f"encrypted, blob of {size} bytes", put(KEY + 100, ">I", size), "is wrong", OPENING,
           "encrypted") for size in (8, 40, 512)),
    Case("encrypted, blob changed", put(KEY + 144, ">I", 1), "is wrong", OPENING, "encrypted"),
    Case("encrypted, salt changed", put(KEY + 20, ">I", 1), "is wrong", OPENING, "encrypted"),
    Case("encrypted, 256 bits in place of 128", put(24, ">I", 256), "is wrong", OPENING,
         "encrypted"),
    Case("encrypted, data changed", put(-600, "64s", b"x" * 64), "", (), "encrypted"),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    files = bases()
    found = put_cases(folder, CASES, ".dmg", lambda case: files[case.base])
    return {str(number): each for number, each in enumerate(found)}


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_a_malformed_image_is_one_clear_error(
    number: int, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[str(number)]
    assert list(objections(outcome, path)) == []
    assert [*missed(outcome, CASES[number].steps, CASES[number].says)] == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name in ("list", "fork", "front"):
        paths.append(tmp_path / f"{name}.dmg")
        paths[-1].write_bytes(bases()[name])
    for name, outcome in put_through(tmp_path, paths).items():
        assert set(outcome.raised) == NEVER, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    files, paths = bases(), []
    made = image("fork")
    made.build()
    for number in range(rounds(120)):
        name = dice.choice(("list", "fork", "front", "encrypted"))
        file = bytearray(files[name])
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = any_value(dice)
            if name == "list" and dice.random() < 0.6:
                place = (
                    dice.randrange(51) * 4 if dice.random() < 0.4 else 204 + dice.randrange(60) * 4
                )
                table(1, put(place, ">I", value))(file)
                continue
            if name == "fork" and dice.random() < 0.7:
                places = range(made.places["tables"], len(file) - 512, 4)
            elif name == "encrypted":
                places = range(8, 96, 4)
            else:
                start = 0 if name == "front" else len(file) - 512
                places = range(start + 4, start + 512, 4)
            struct.pack_into(">I", file, dice.choice(places), value)
        paths.append(tmp_path / f"{number}.dmg")
        paths[-1].write_bytes(file)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_chunk_that_is_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    zeros = bytes(64 << 20)
    bombs = {
        ZLIB: zlib.compress(zeros),
        BZIP2: bz2.compress(zeros),
        LZMA: lzma.compress(zeros),
        ADC: adc(bytes(1000)) + b"\x7f\0\0" * 500_000,
    }
    paths = []
    for kind, stored in bombs.items():
        parts = [Partition("p", [Chunk(kind, DATA, stored=stored), Chunk(RAW, DATA)])]
        paths.append(tmp_path / f"{kind:x}.dmg")
        paths[-1].write_bytes(Image(parts).build()[0])
    found = put_through(tmp_path, paths)
    for path, kind in zip(paths, bombs, strict=True):
        outcome = found[path.name]
        assert list(objections(outcome, path)) == []
        steps = ("examine",) if kind == ZLIB else READING
        assert [*missed(outcome, steps, "")] == []


def test_chunks_as_large_as_they_can_be_take_little_memory(tmp_path: Path) -> None:
    zeros = bytes(64 << 20)
    stored = zlib.compress(zeros, 1)
    parts = [Partition("p", [Chunk(ZLIB, zeros, stored=stored) for _ in range(3)])]
    path = tmp_path / "a.dmg"
    path.write_bytes(Image(parts).build()[0])
    outcome = put_through(tmp_path, [path])[path.name]
    assert set(outcome.raised) == NEVER
    assert outcome.mib < 400
