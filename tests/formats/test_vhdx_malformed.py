"""Malformed VHDX: one clear error of the vmimg tree, at once, in little memory.

Every case is an image put together by hand with one thing made wrong, its checksums right again. It
goes through everything that reads images (`ordeal.py`), in a process with limits. ``says``: words
of the error that the steps named in ``steps`` must raise; the others may raise it as well, and
never anything but a VmimgError.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import vhdx_by_hand as by_hand
from damaged import Outcome, any_value, complaints, missed, objections, put_through
from rounds import rounds
from vhdx_by_hand import (
    BAT,
    FULL,
    HEADERS,
    LOG,
    LOG_LENGTH,
    METADATA,
    MIB,
    PARTIAL,
    REGION_TABLES,
    ZERO,
    Image,
    log_entry,
)

SIZE = 6 * MIB
NOISE = random.Random(1).randbytes(2 * MIB)

Change = Callable[[Image], None]


def plain() -> Image:
    blocks = {0: (FULL, NOISE[:MIB]), 2: (ZERO, b""), 4: (FULL, NOISE[MIB:])}
    return by_hand.make(SIZE, blocks)


def dirty() -> Image:
    image = plain()
    sector = bytes(image[BAT : BAT + 4096])
    entries = (
        log_entry(3, [(BAT, sector), (BAT + 4096, 8192)], file_size=len(image)),
        log_entry(4, [(BAT, sector)], file_size=len(image)),
    )
    image.dirty(*entries)
    return image


def child() -> Image:
    parent = {
        "parent_linkage": "{" + str(by_hand.DATA_GUID) + "}",
        "relative_path": ".\\parent.vhdx",
    }
    blocks = {0: (FULL, NOISE[:MIB]), 1: (PARTIAL, NOISE[MIB:])}
    return by_hand.make(SIZE, blocks, parent=parent, bitmaps={0: b"\xa5" * 300})


BASES = {"plain": plain(), "dirty": dirty(), "child": child()}


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ("read",)
    base: str = "plain"


OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")


def cut(size: int) -> Change:
    def change(image: Image) -> None:
        del image[size:]

    return change


def headers(offset: int, value: int, width: int) -> Change:
    """A field of both headers."""

    def change(image: Image) -> None:
        for start in HEADERS:
            image.put(start + offset, value, width)
        image.seal(tables=False)

    return change


def tables(offset: int, value: int, width: int) -> Change:
    """A field of both region tables; entry 0 is the BAT, at 16, entry 1 the metadata, at 48."""

    def change(image: Image) -> None:
        for start in REGION_TABLES:
            image.put(start + offset, value, width)
        image.seal(headers=False)

    return change


def put(offset: int, value: int, width: int = 8) -> Change:
    return lambda image: image.put(offset, value, width)


def item(name: str, value: int, width: int, offset: int = 0) -> Change:
    """A number in a metadata item."""
    return lambda image: image.put(image.item_places[name] + offset, value, width)


def item_entry(number: int, offset: int, value: int, width: int = 4) -> Change:
    """A field of an entry of the metadata table: 16 offset, 20 length, 24 flags."""
    return put(METADATA + 32 + 32 * number + offset, value, width)


def locator(entries: dict[str, str]) -> Change:
    def change(image: Image) -> None:
        data = by_hand.locator(entries)
        start = image.item_places["locator"]
        image[start : start + len(data)] = data
        image.put(METADATA + 32 + 32 * 5 + 20, len(data), 4)

    return change


def in_log(*entries: bytes) -> Change:
    return lambda image: image.dirty(*entries)


def no_checksums(image: Image) -> None:
    for start in HEADERS:
        image.put(start + 4, 1, 4)


def same_number(image: Image) -> None:
    image.header(0, 2)
    image.put(HEADERS[0] + 20, 1)
    image.seal()


def item_twice(image: Image) -> None:
    image[METADATA + 64 : METADATA + 80] = image[METADATA + 32 : METADATA + 48]


def ones(image: Image) -> None:
    image[BAT : BAT + 4096] = b"\xff" * 4096


def key_twice(image: Image) -> None:
    first, second = (image.item_places["locator"] + offset for offset in (20, 32))
    image.put(second, image.get(first, 4), 4)
    image.put(second + 8, image.get(first + 8, 2), 2)


def large_log(image: Image) -> None:
    """A ring full of entries that are right, each with many descriptors."""
    zeros = [(BAT + MIB // 2, 4096)] * 126
    size = len(image)
    entries = [log_entry(n + 1, zeros, file_size=size) for n in range(LOG_LENGTH // 4096)]
    image.dirty(*entries)


def many_descriptors(image: Image) -> None:
    image.dirty(log_entry(3, [(BAT + MIB // 2, 4096)] * 32000, file_size=len(image)))


CASES = [
    # What it is
    Case("wrong signature", put(0, 0), "", ()),
    Case("empty file", cut(0), "", ()),
    Case("only a signature", cut(8), "truncated", ALL),
    Case("cut in the first header", cut(65536 + 50), "truncated", ALL),
    Case("cut behind the headers", cut(192 << 10), "truncated", ALL),
    Case("cut in the second region table", cut(300 << 10), "truncated", ALL),
    Case("cut in the header section", cut(400 << 10), "truncated", ALL),
    Case("cut in the log", cut(LOG + 4096), "the log", ALL),
    Case("cut behind the log", cut(BAT), "BAT region", ALL),
    Case("cut in the BAT", cut(BAT + 4096), "BAT region", ALL),
    Case("cut in the metadata", cut(METADATA + 65536), "metadata region", ALL),
    Case("cut in front of the blocks", cut(4 * MIB), "behind the end", OPENING),
    Case("cut in a block", cut(4 * MIB + 5000), "behind the end", OPENING),
    # Headers
    Case("no header has a checksum", no_checksums, "neither", ALL),
    Case("no header has a signature", headers(0, 0, 4), "neither header", ALL),
    Case("version 0", headers(66, 0, 2), "version 0", ALL),
    Case("version 2", headers(66, 2, 2), "version 2", ALL),
    Case("log version 1", headers(64, 1, 2), "log version 1", ALL),
    Case("log not aligned", headers(72, 4096, 8), "whole MiB", ALL),
    Case("log of half a MiB", headers(68, MIB // 2, 4), "whole MiB", ALL),
    Case("log over the headers", headers(72, 0, 8), "over the headers", ALL),
    Case("log over the BAT", headers(72, BAT, 8), "lies over the", ALL),
    Case("log behind the end", headers(72, 1 << 50, 8), "behind the end", ALL),
    Case("log at 2^64 - 1 MiB", headers(72, 2**64 - MIB, 8), "behind the end", ALL),
    Case("log of 4 GiB", headers(68, 2**32 - MIB, 4), "behind the end", ALL),
    Case("two different headers of a number", same_number, "same sequence", ALL),
    # Region tables
    Case("no region table has a signature", tables(0, 0, 4), "neither region table", ALL),
    Case("a region table of 2048 entries", tables(8, 2048, 4), "neither region table", ALL),
    Case("a region table of 2^32-1 entries", tables(8, 2**32 - 1, 4), "neither region", ALL),
    Case("no entries", tables(8, 0, 4), "0 BAT regions", ALL),
    Case("no metadata", tables(8, 1, 4), "0 metadata regions", ALL),
    Case("2047 entries of zeros", tables(8, 2047, 4), "whole MiB", ALL),
    Case("BAT not aligned", tables(32, BAT + 4096, 8), "whole MiB", ALL),
    Case("BAT of 0", tables(40, 0, 4), "whole MiB", ALL),
    Case("BAT at 0", tables(32, 0, 8), "lies over the headers", ALL),
    Case("BAT behind the end", tables(32, 1 << 50, 8), "behind the end", ALL),
    Case("BAT at 2^64 - 1 MiB", tables(32, 2**64 - MIB, 8), "behind the end", ALL),
    Case("BAT of 4 GiB", tables(40, 2**32 - MIB, 4), "behind the end", ALL),
    Case("BAT over the metadata", tables(32, METADATA, 8), "lies over the", ALL),
    Case("metadata over the log", tables(64, LOG, 8), "lies over the", ALL),
    Case("an unknown region that must be known", tables(16, 1, 8), "must not be ignored", ()),
    # Metadata
    Case("no metadata signature", put(METADATA, 0), "no signature", ALL),
    Case("no metadata entries", put(METADATA + 10, 0, 2), "has no file parameters", ALL),
    Case("4 metadata entries", put(METADATA + 10, 4, 2), "no physical sector size", ALL),
    Case("65535 metadata entries", put(METADATA + 10, 65535, 2), "2047 are allowed", ALL),
    Case("an unknown item that must be known", item_entry(1, 0, 5, 8), "must not be ignored", ALL),
    Case("an item twice", item_twice, "twice", ALL),
    Case("an item behind the region", item_entry(0, 16, MIB - 4), "does not lie in", ALL),
    Case("an item at 2^32-1", item_entry(1, 16, 2**32 - 1), "does not lie in", ALL),
    Case("an item in the table", item_entry(1, 16, 0), "does not lie in", ALL),
    Case("an item of 0 bytes", item_entry(1, 20, 0), "cannot be", ALL),
    Case("an item of 4 GiB", item_entry(1, 20, 2**32 - 1), "cannot be", ALL),
    Case("block size 0", item("parameters", 0, 4), "block size of 0", ALL),
    Case("block size 1", item("parameters", 1, 4), "block size of 1", ALL),
    Case("block size 3 MiB", item("parameters", 3 * MIB, 4), "block size", ALL),
    Case("block size 512 MiB", item("parameters", 512 * MIB, 4), "block size", ALL),
    Case("block size 2^32-1", item("parameters", 2**32 - 1, 4), "block size", ALL),
    Case("size 2^64-512", item("size", 2**64 - 512, 8), "virtual size", ALL),
    Case("size of 64 TiB and a sector", item("size", (64 << 40) + 512, 8), "virtual size", ALL),
    Case("size of 64 TiB", item("size", 64 << 40, 8), "the BAT has room for", ALL),
    Case("size of half a sector", item("size", 256, 8), "whole sectors", ALL),
    Case("size 0", item("size", 0, 8), "", ()),
    Case("sectors of 0", item("logical", 0, 4), "logical sectors of 0", ALL),
    Case("sectors of 520", item("logical", 520, 4), "logical sectors of 520", ALL),
    Case("sectors of 2^31", item("physical", 2**31, 4), "physical sectors", ALL),
    Case("a parent without a locator", item("parameters", 2, 4, 4), "no parent locator", ALL),
    # BAT
    Case("a block behind the end", put(BAT, 1 << 50 | FULL), "behind the end", OPENING),
    Case("a block at 2^64 - 1 MiB", put(BAT, 2**64 - MIB | FULL), "behind the end", OPENING),
    Case("a block at 2^63", put(BAT, 2**63 | FULL), "behind the end", OPENING),
    Case("a block over the headers", put(BAT, FULL), "over another", OPENING),
    Case("a block over the BAT", put(BAT, BAT | FULL), "over another", OPENING),
    Case("a block over the log", put(BAT, LOG | FULL), "over another", OPENING),
    Case("two blocks in one place", put(BAT + 32, 4 * MIB | FULL), "over another", ("examine",)),
    Case("state 4", put(BAT + 8, 4), "a state", ("read_data", "convert")),
    Case("state 7 without a parent", put(BAT, 4 * MIB | PARTIAL), "a state", OPENING),
    Case("entries of ones", ones, "a state", OPENING),
    Case("reserved bits", put(BAT, 4 * MIB | FULL | 0xFFFF8), "", ()),
    Case("rubbish behind the BAT's entries", put(BAT + 6 * 8, 2**64 - 1), "", ()),
    # Logs
    Case("a log that names a guid only", in_log(), "", ()),
    Case("a log over the headers", in_log(log_entry(3, [(0, 4096)])), "wants to write", ALL),
    Case("a log over itself", in_log(log_entry(3, [(LOG + 4096, 4096)])), "wants to write", ALL),
    Case("a log of 2^63 zeros", in_log(log_entry(3, [(BAT, 2**63)])), "wants to write", ALL),
    Case("a log of zeros at 2^64", in_log(log_entry(3, [(2**64 - 4096, 4096)])), "wants to", ALL),
    Case(
        "a log of a truncated file", in_log(log_entry(3, [], file_size=1 << 40)), "truncated", ALL
    ),
    Case(
        "a log of a file of 2^63",
        in_log(log_entry(3, [], file_size=2**63, flushed=MIB)),
        "a file of",
        ALL,
    ),
    Case("a log of a file of 2^60", in_log(log_entry(3, [], file_size=2**60, flushed=MIB)), "", ()),
    Case(
        "a log that zeros the metadata",
        in_log(log_entry(3, [(METADATA, 65536)])),
        "no signature",
        ALL,
    ),
    Case("a log that zeros the BAT", in_log(log_entry(3, [(BAT, MIB)])), "", ()),
    Case("sequence 0", in_log(log_entry(0, [(0, 4096)])), "", ()),
    Case("a tail that is not there", in_log(log_entry(3, [(0, 4096)], tail=8192)), "", ()),
    Case("a tail of 2^32-1", in_log(log_entry(3, [(0, 4096)], tail=2**32 - 1)), "", ()),
    Case("an entry of 2^32 bytes", put(LOG + 8, 2**32 - 4096, 4), "", (), "dirty"),
    Case("an entry of 0 bytes", put(LOG + 8, 0, 4), "", (), "dirty"),
    Case("2^32-1 descriptors", put(LOG + 24, 2**32 - 1, 4), "", (), "dirty"),
    Case("a ring full of entries", large_log, "", ()),
    Case("32000 descriptors", many_descriptors, "", ()),
    # Parents
    Case("the parent is missing", lambda i: None, "parent.vhdx", OPENING, "child"),
    Case(
        "the parent is /etc/passwd",
        locator({"parent_linkage": "{}", "absolute_win32_path": "\\etc\\passwd"}),
        "passwd",
        OPENING,
        "child",
    ),
    Case(
        "the parent is above",
        locator({"relative_path": "..\\..\\..\\etc\\passwd"}),
        "passwd",
        OPENING,
        "child",
    ),
    Case(
        "the parent is a URL", locator({"relative_path": "nbd://host/export"}), "", OPENING, "child"
    ),
    Case("no path", locator({"parent_linkage": "{}"}), "names no file", ALL, "child"),
    Case("a path with a NUL", locator({"relative_path": "a\0b"}), "", OPENING, "child"),
    Case("an unknown locator", item("locator", 0, 8), "a parent locator of type", ALL, "child"),
    Case("65535 keys", item("locator", 65535, 2, 18), "does not fit", ALL, "child"),
    Case("a key behind the end", item("locator", 2**32 - 1, 4, 20), "does not lie", ALL, "child"),
    Case("a value behind the end", item("locator", 65535, 2, 30), "does not lie", ALL, "child"),
    Case("a key of odd length", item("locator", 3, 2, 28), "does not lie", ALL, "child"),
    Case("a key twice", key_twice, "twice", ALL, "child"),
]


def copy(base: str) -> Image:
    image = Image(BASES[base])
    image.__dict__.update(BASES[base].__dict__)
    return image


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    folder = tmp_path_factory.mktemp("malformed")
    paths = []
    for number, case in enumerate(CASES):
        image = copy(case.base)
        case.change(image)
        paths.append(image.save(folder / f"{number}.vhdx"))
    found = put_through(folder, paths, batch=60)
    return {case.name: (path, found[path.name]) for case, path in zip(CASES, paths, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert list(missed(outcome, case.steps, case.says)) == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    image = copy("plain").save(tmp_path / "a.vhdx")
    assert set(put_through(tmp_path, [image])["a.vhdx"].raised) == {"snapshot"}
    by_hand.make(SIZE, {}).save(tmp_path / "parent.vhdx")
    image = copy("child").save(tmp_path / "b.vhdx")
    assert set(put_through(tmp_path, [image])["b.vhdx"].raised) == {"snapshot"}


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    by_hand.make(SIZE, {}).save(tmp_path / "parent.vhdx")
    paths = []
    for number in range(rounds(40)):
        image = copy(dice.choice(sorted(BASES)))
        places = [
            *(start + n for start in HEADERS for n in range(0, 80, 4)),
            *(start + n for start in REGION_TABLES for n in range(0, 80, 4)),
            *range(METADATA, METADATA + 260, 4),
            *range(METADATA + 65536, METADATA + 65536 + 120, 4),
            *range(BAT, BAT + 64, 4),
            *range(LOG, LOG + 200, 4),
        ]
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = any_value(dice)
            image.put(dice.choice(places), value, 4)
        image.seal()
        paths.append(image.save(tmp_path / f"{number}.vhdx"))
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}
