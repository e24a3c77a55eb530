"""Malformed VHD: one clear error of the vmimg tree, at once, in little memory.

Every case is a sound image with one thing made wrong. It goes through everything that reads images
(`ordeal.py`), in a process with limits. ``says``: words of the error that the steps named in
``steps`` must raise; the others may raise it as well, and never anything but a VmimgError.
"""

from __future__ import annotations

import ctypes
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import damaged
import vhd_by_hand as hand
from damaged import MAX_MIB, MAX_SECONDS, ORDEAL, Outcome, any_value, missed, objections
from rounds import rounds
from vmimg.formats.vhd import structures as s

BLOCK = 16384
SIZE = 30 * BLOCK
NOISE = random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2)
PARENT = hand.Parent(locators=[(b"W2ru", ".\\base.vhd".encode("utf-16-le"))])

BASES = {
    "dynamic": hand.dynamic(NOISE, block=BLOCK),
    "fixed": hand.fixed(NOISE),
    "chain": hand.dynamic(NOISE, block=BLOCK, parent=PARENT, present=set(range(0, 400, 3))),
}

Change = Callable[[bytearray], None]


def set_footer(**fields: int) -> Change:
    """Change both footers (the one, of a fixed disk), their checksums right."""

    def change(image: bytearray) -> None:
        for start in (0, len(image) - 512):
            if image[start : start + 8] == b"conectix":
                raw = s.Footer.from_buffer_copy(image, start)
                for name, value in fields.items():
                    setattr(raw, name, value)
                image[start : start + 512] = hand.checked(bytes(raw), 64)

    return change


def set_header(**fields: int) -> Change:
    def change(image: bytearray) -> None:
        raw = s.DynamicHeader.from_buffer_copy(image, 512)
        for name, value in fields.items():
            setattr(raw, name, value)
        image[512:1536] = hand.checked(bytes(raw), 36)

    return change


def set_locator(text: str = "", code: bytes = b"W2ru", **fields: int) -> Change:
    """Change the first locator; its data is replaced where ``text`` is given."""

    def change(image: bytearray) -> None:
        raw = s.DynamicHeader.from_buffer_copy(image, 512)
        entry = raw.parent_locators[0]
        entry.platform_code[:] = code
        ctypes.memset(raw.parent_unicode_name, 0, 512)
        if text:
            data = text.encode("utf-16-le", "surrogatepass")
            data = data if code.startswith(b"W2") else text.encode()
            place = entry.platform_data_offset
            image[place : place + len(data)] = data
            entry.platform_data_length = len(data)
        for name, value in fields.items():
            setattr(entry, name, value)
        image[512:1536] = hand.checked(bytes(raw), 36)

    return change


def set_entry(block: int, value: int) -> Change:
    return lambda image: put(image, 1536 + 4 * block, value)


def put(image: bytearray, place: int, value: int) -> None:
    image[place : place + 4] = value.to_bytes(4, "big")


def cut(size: int) -> Change:
    """Cut the file off; from its end where negative."""

    def change(image: bytearray) -> None:
        del image[size:]

    return change


def garble(start: int, length: int) -> Change:
    def change(image: bytearray) -> None:
        begin = start % len(image)
        image[begin : begin + length] = bytes(b ^ 0x5A for b in image[begin : begin + length])

    return change


def both(one: Change, other: Change) -> Change:
    def change(image: bytearray) -> None:
        one(image)
        other(image)

    return change


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ("read",)
    base: str = "dynamic"


OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")
ABSOLUTE = set_locator(text="\\etc\\passwd", code=b"W2ku")

CASES = [
    # What it is
    Case("empty file", cut(0), "", ()),
    Case("only a cookie", cut(8), "", ()),
    Case("half a footer", cut(300), "", ()),
    Case("nothing but the copy", cut(512), "dynamic header", ALL),
    Case("half a dynamic header", cut(1000), "dynamic header", ALL),
    Case("no BAT", cut(1536), "reaches behind the end", ALL),
    Case("half a BAT", cut(1600), "reaches behind the end", ALL),
    Case("no blocks", cut(2048), "truncated or damaged", ("read", "read_data", "walk")),
    Case("cut in a bitmap", cut(2048 + 100), "truncated or damaged"),
    Case("cut in a block", cut(2048 + 512 + 5000), "truncated or damaged"),
    Case("cut in the last block", cut(-512 - 300), "truncated or damaged", ("convert",)),
    Case("the footer alone is gone", cut(-512), "missing", ("examine",)),
    Case("half of the footer is gone", cut(-200), "missing", ("examine",)),
    Case("both footers garbled", both(garble(60, 8), garble(-400, 8)), "checksum", ALL[:-1]),
    Case("both cookies gone", both(garble(0, 8), garble(-512, 8)), "", ()),
    Case("one copy garbled", garble(60, 8), "copy", ("examine", "write")),
    # Numbers of the footer
    Case("disk type 0", set_footer(disk_type=0), "disk type 0", ALL),
    Case("disk type 5", set_footer(disk_type=5), "disk type 5", ALL),
    Case("disk type 2^32-1", set_footer(disk_type=2**32 - 1), "disk type", ALL),
    Case("dynamic says it is fixed", set_footer(disk_type=2), "", ()),
    Case("version 2", set_footer(file_format_version=0x20000), "version 2.0", ALL),
    Case("version 0", set_footer(file_format_version=0), "version 0.0", ALL),
    Case("size 0", set_footer(current_size=0), "", ()),
    Case("size 2^63", set_footer(current_size=2**63), "2040 GiB", ALL),
    Case("size 2^64-1", set_footer(current_size=2**64 - 1), "2040 GiB", ALL),
    Case("size beyond 2040 GiB", set_footer(current_size=(2040 << 30) + 512), "2040", ALL),
    Case("size beyond the BAT", set_footer(current_size=SIZE + 1024), "entries", ALL),
    Case("size 2040 GiB", set_footer(current_size=2040 << 30), "entries", ALL),
    Case("an odd size", set_footer(current_size=SIZE - 100), "", ()),
    Case("no geometry", set_footer(cylinders=0, heads=0), "", ()),
    Case("header at 0", set_footer(data_offset=0), "no dynamic header", ALL),
    Case("header at 100", set_footer(data_offset=100), "no dynamic header", ALL),
    Case("header behind the end", set_footer(data_offset=2**40), "dynamic header", ALL),
    Case("header at 2^64-1", set_footer(data_offset=2**64 - 1), "dynamic header", ALL),
    Case("fixed, larger than its file", set_footer(current_size=SIZE * 2), "", (), "fixed"),
    Case("fixed, cut", cut(-5000), "", (), "fixed"),
    Case("fixed, size 2^64-1", set_footer(current_size=2**64 - 1), "", (), "fixed"),
    Case("fixed, says it is dynamic", set_footer(disk_type=3), "", (), "fixed"),
    # Numbers of the dynamic header
    Case("header cookie", garble(512, 8), "no dynamic header", ALL),
    Case("header garbled", garble(512 + 700, 8), "checksum", ("examine", "write")),
    Case("header version 2", set_header(header_version=0x20000), "version 2.0", ALL),
    Case("no entries", set_header(max_table_entries=0), "0 entries, 30", ALL),
    Case("too few entries", set_header(max_table_entries=29), "29 entries, 30", ALL),
    Case("2^22 entries", set_header(max_table_entries=2**22), "behind the end", ALL),
    Case("2^32-1 entries", set_header(max_table_entries=2**32 - 1), "entries", ALL),
    Case("2^30 entries", set_header(max_table_entries=2**30), "entries", ALL),
    Case("block size 0", set_header(block_size=0), "block size of 0", ALL),
    Case("block size 512", set_header(block_size=512), "block size of 512", ALL),
    Case("block size 3M", set_header(block_size=3 << 20), "block size of 3145728", ALL),
    Case("block size 2^31", set_header(block_size=2**31), "block size of", ALL),
    Case("block size 2^32-1", set_header(block_size=2**32 - 1), "block size", ALL),
    Case("larger blocks", set_header(block_size=2 << 20), "truncated or damaged", ("convert",)),
    Case("BAT at 0", set_header(table_offset=0), "over a header", ALL),
    Case("BAT over the header", set_header(table_offset=1000), "over a header", ALL),
    Case("BAT at the end", set_header(table_offset=len(BASES["dynamic"]) - 10), "behind", ALL),
    Case("BAT at 2^63", set_header(table_offset=2**63), "behind the end", ALL),
    Case("BAT at 2^64-1", set_header(table_offset=2**64 - 1), "behind the end", ALL),
    Case("BAT in the blocks", set_header(table_offset=40000), "", ()),
    # Entries
    Case("block at 0", set_entry(0, 0), "over a header", OPENING),
    Case("block over the header", set_entry(0, 1), "over a header", OPENING),
    Case("block over the BAT", set_entry(0, 3), "over a header", OPENING),
    Case("block at the end", set_entry(0, len(BASES["dynamic"]) // 512 - 1), "ends", OPENING),
    Case("block at 2^31", set_entry(0, 2**31), "ends", OPENING),
    Case("block at 2^32-2", set_entry(0, 2**32 - 2), "ends", OPENING),
    Case("last block at 2^32-2", set_entry(29, 2**32 - 2), "ends", ("read", "convert")),
    Case("blocks in one place", set_entry(1, 4), "overlap", ("examine", "write")),
    # Bitmaps and parents
    Case("chain: block at 2^31", set_entry(0, 2**31), "ends", OPENING, "chain"),
    Case("chain: block over the BAT", set_entry(0, 3), "over a header", OPENING, "chain"),
    Case("chain: cut", cut(20000), "truncated or damaged", ("convert",), "chain"),
    Case("chain: cut in a bitmap", cut(3000), "truncated or damaged", (), "chain"),
    Case("no name", set_locator(platform_data_length=0), "empty", OPENING, "chain"),
    Case("a name without an end", set_locator(platform_data_length=2**32 - 1), "empty",
         OPENING, "chain"),
    Case("a name at 2^64-1", set_locator(platform_data_offset=2**64 - 1), "empty",
         OPENING, "chain"),
    Case("a name that is no text", set_locator(text="\ud800\udc00x\ud8ff"), "", OPENING, "chain"),
    Case("an odd length", set_locator(platform_data_length=13), "", OPENING, "chain"),
    Case("passwd", ABSOLUTE, "--allow-dir", OPENING, "chain"),
    Case("passwd, relative", set_locator(text="..\\" * 20 + "etc\\passwd"), "--allow-dir",
         OPENING, "chain"),
    Case("passwd, as a URL", set_locator(text="file:///etc/passwd", code=b"MacX"), "--allow-dir",
         OPENING, "chain"),
    Case("a URL", set_locator(text="file://localhost/json:%7B%7D", code=b"MacX"), "",
         OPENING, "chain"),
    Case("two lines", set_locator(text="base\n.vhd"), "empty", OPENING, "chain"),
    Case("json:", set_locator(text="json:{}"), "not a file", OPENING, "chain"),
    Case("nbd:", set_locator(text="nbd://host/disk"), "not a file", OPENING, "chain"),
    Case("a parent that is a directory", set_locator(text="."), "", OPENING, "chain"),
    Case("a parent that is no VHD", set_locator(text=".\\text"), "", OPENING, "chain"),
    Case("another parent", set_header(parent_time_stamp=0, reserved=0), "", (), "chain"),
]  # fmt: skip


def put_through(folder: Path, images: list[Path], batch: int = 1000) -> dict[str, Outcome]:
    found = damaged.put_through(folder, images, batch)
    for outcome in found.values():
        # A VHD has no snapshots, and the step says so.
        if "snapshot" in outcome.raised and outcome.raised["snapshot"].ours:
            del outcome.raised["snapshot"]
    return found


def check_outcome(outcome: Outcome, path: Path) -> list[str]:
    return list(objections(outcome, path, named=("base.vhd", "text"), nameless=()))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "base.vhd").write_bytes(hand.dynamic(NOISE))
    (folder / "text").write_text("not a disk")
    paths = []
    for number, case in enumerate(CASES):
        image = bytearray(BASES[case.base])
        case.change(image)
        path = folder / f"{number}.vhd"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(folder, paths, batch=50)
    return {case.name: (path, found[path.name]) for case, path in zip(CASES, paths, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert check_outcome(outcome, path) == []
    assert list(missed(outcome, case.steps, case.says)) == []


@pytest.mark.parametrize("base", BASES)
def test_the_images_are_fine_before_anything_is_made_wrong(base: str, tmp_path: Path) -> None:
    (tmp_path / "base.vhd").write_bytes(hand.dynamic(NOISE))
    (tmp_path / "a.vhd").write_bytes(BASES[base])
    assert put_through(tmp_path, [tmp_path / "a.vhd"])["a.vhd"].raised == {}


def test_cut_anywhere_an_image_is_an_error_or_reads_as_it_was(tmp_path: Path) -> None:
    whole = BASES["dynamic"]
    sizes = {at + off for at in (*range(0, 2560, 512), *range(2048, len(whole), 16896))
             for off in (-1, 0, 1)}  # fmt: skip
    paths = []
    for size in sorted(size for size in sizes if 0 <= size < len(whole)):
        path = tmp_path / f"{size}.vhd"
        path.write_bytes(whole[:size])
        paths.append(path)
    found = put_through(tmp_path, paths)
    for path in paths:
        assert check_outcome(found[path.name], path) == [], path.name


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(3)
    (tmp_path / "base.vhd").write_bytes(hand.dynamic(NOISE))
    paths = []
    for number in range(rounds(80)):
        image = bytearray(BASES[dice.choice(("dynamic", "chain", "chain"))])
        places = [*range(8, 84, 4), *range(520, 570, 4), *range(1088, 1130, 4)]
        places += range(1536, 1536 + 120, 4)
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = any_value(dice)
            put(image, dice.choice(places), value)
        # With right checksums more is believed.
        image[:512] = hand.checked(bytes(image[:512]), 64)
        image[512:1536] = hand.checked(bytes(image[512:1536]), 36)
        if dice.random() < 0.5:
            image[-512:] = image[:512]
        path = tmp_path / f"{number}.vhd"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(tmp_path, paths)
    wrong = {path.name: check_outcome(found[path.name], path) for path in paths}
    assert {name: problems for name, problems in wrong.items() if problems} == {}


def test_a_chain_that_loops_is_refused(tmp_path: Path) -> None:
    for name, parent in (("one.vhd", "two.vhd"), ("two.vhd", "one.vhd"), ("self.vhd", "self.vhd")):
        locators = [(b"W2ru", f".\\{parent}".encode("utf-16-le"))]
        who = hand.Parent(id=hand.CHILD_ID, locators=locators)
        image = hand.dynamic(NOISE, block=BLOCK, parent=who, present={1})
        (tmp_path / name).write_bytes(image)
    paths = [tmp_path / "one.vhd", tmp_path / "self.vhd"]
    found = put_through(tmp_path, paths)
    for path in paths:
        outcome = found[path.name]
        assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB
        for step in (*OPENING, "chain"):
            assert outcome.raised[step][0] == "ChainError", step
            assert "loops" in outcome.raised[step][1]
        assert "info" not in outcome.raised


@pytest.mark.parametrize("kind", ["one place", "different places", "nothing there"])
def test_the_largest_table_takes_neither_time_nor_memory(tmp_path: Path, kind: str) -> None:
    entries = (2040 << 30) >> 19
    step = (1 << 19) // 512 + 1
    first = 3 + -(-entries * 4 // 512)
    if kind == "different places":
        table = b"".join((first + n * step).to_bytes(4, "big") for n in range(entries))
        end = (first + entries * step) * 512
    else:
        entry = (first if kind == "one place" else 2**32 - 3).to_bytes(4, "big")
        table, end = entry * entries, (first + step) * 512
    image = bytearray(hand.dynamic(bytes(512), block=1 << 19, present=set()))
    set_footer(current_size=2040 << 30)(image)
    set_header(max_table_entries=entries)(image)
    path = tmp_path / "a.vhd"
    with open(path, "wb") as file:
        file.write(image[:1536] + table)
        file.seek(end)
        file.write(image[:512])
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import ordeal, pathlib, time\n"
        "path, raised, slow = pathlib.Path(sys.argv[2]), {}, 0.0\n"
        "for step in (ordeal.info, ordeal.read, ordeal.examine, ordeal.write):\n"
        "    began = time.process_time()\n"
        "    try: step(path, path.parent)\n"
        "    except ordeal.VmimgError as error: raised[step.__name__] = str(error)\n"
        "    slow = max(slow, time.process_time() - began)\n"
        "print(json.dumps([raised, slow, ordeal.peak_mib()]))\n"
    )
    command = [sys.executable, "-c", script, str(ORDEAL.parent), str(path)]
    said = subprocess.run(command, check=True, capture_output=True).stdout
    raised, seconds, mib = json.loads(said)
    assert (
        sorted(raised)
        == {
            "one place": ["examine", "write"],
            "different places": [],
            "nothing there": ["examine", "read", "write"],
        }[kind]
    )
    assert seconds < MAX_SECONDS
    assert mib < MAX_MIB
