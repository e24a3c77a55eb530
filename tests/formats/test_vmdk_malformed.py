"""Malformed VMDKs: one clear error of the vmimg tree, at once, in little memory.

Every case is a sound image by hand with one thing made wrong. It goes through everything that reads
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

import damaged
from damaged import Outcome, any_value, missed, objections
from rounds import rounds
from samples import awkward_disk
from vmdk_by_hand import NOWHERE, Sparse, cowd, descriptor, hosted, marker, se_sparse, stream

MIB = 1 << 20

SIZE = 3 * MIB
CONTENT = b"\1" * 200_000 + awkward_disk(SIZE, 31)[200_000:]
HUGE = 0xFFFF_FFFF_FFFF_FFFF

Image = bytearray
Change = Callable[[Image], None]


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ("read",)
    base: str = "sparse"


OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")
ALONE = ("info", "chain", "examine")


def text(*lines: str, kind: str = "monolithicFlat", hint: str = "") -> bytes:
    return descriptor(*lines, kind=kind, hint=hint)


def bases() -> dict[str, bytes]:
    whole = f'RW {SIZE // 512} SPARSE "x.vmdk"'
    return {
        "sparse": bytes(hosted(CONTENT, text=descriptor(whole))),
        "single": bytes(hosted(CONTENT, text=descriptor(whole), redundant=False)),
        "stream": stream(CONTENT, text=descriptor(whole, kind="streamOptimized")),
        "whole stream": stream(CONTENT, text=None, footer=False),
        "cowd": bytes(cowd(CONTENT)),
        "sesparse": bytes(se_sparse(CONTENT)),
        "text": text(f'RW {SIZE // 512} FLAT "flat" 0'),
    }


def put(offset: int, value: int, width: int = 4) -> Change:
    def change(image: Image) -> None:
        image[offset : offset + width] = value.to_bytes(width, "little")

    return change


def cut(size: int) -> Change:
    def change(image: Image) -> None:
        del image[size:]

    return change


def both(*changes: Change) -> Change:
    def change(image: Image) -> None:
        for one in changes:
            one(image)

    return change


def become(data: bytes) -> Change:
    def change(image: Image) -> None:
        image[:] = data

    return change


def replaced(old: bytes, new: bytes) -> Change:
    def change(image: Image) -> None:
        assert old in image
        image[:] = image.replace(old, new)

    return change


def u64(image: Image, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 8], "little")


def in_gd(value: int, redundant: bool = False) -> Change:
    """Set the first entry of the (redundant) grain directory, to ``value`` sectors."""
    return lambda image: put(u64(image, 48 if redundant else 56) * 512, value)(image)


def in_gt(value: int) -> Change:
    """Set the entry of the first grain, in the table of the first directory."""

    def change(image: Image) -> None:
        gd = u64(image, 56) * 512
        gt = int.from_bytes(image[gd : gd + 4], "little") * 512
        put(gt, value)(image)

    return change


def footer(offset: int, value: int, width: int = 8) -> Change:
    return lambda image: put(len(image) - 1024 + offset, value, width)(image)


# Offsets in the header of a hosted sparse extent
VERSION, FLAGS, CAPACITY, GRAIN, TEXT_AT, TEXT_SIZE = 4, 8, 12, 20, 28, 36
GTES, RGD, GD, OVERHEAD, COMPRESSION = 44, 48, 56, 64, 77

SPARSE = [
    Case("only the magic", cut(4), steps=()),
    Case("half a header", cut(300), "512 bytes", ALL),
    Case("only a header", cut(512), "behind the end", ALL),
    Case("version 0", put(VERSION, 0), "version 0", ALL),
    Case("version 4", put(VERSION, 4), "version 4", ALL),
    Case("capacity 2^64-1", put(CAPACITY, HUGE, 8), "capacity", ALL),
    Case("capacity 2^52", put(CAPACITY, 1 << 52, 8), "directory", ALL),
    Case("capacity 2^38", put(CAPACITY, 1 << 38, 8), "directory", OPENING),
    Case("no capacity", put(CAPACITY, 0, 8), "", OPENING),
    Case("grain size 0", put(GRAIN, 0, 8), "grain size", ALL),
    Case("grain size 3", put(GRAIN, 3, 8), "grain size", ALL),
    Case("grain size 2^63", put(GRAIN, 1 << 63, 8), "grain size", ALL),
    Case("grain size 2^40", put(GRAIN, 1 << 40, 8), "grain size", ALL),
    Case("grain size 1 GiB", both(put(GRAIN, 1 << 21, 8), put(CAPACITY, 1 << 24, 8)), "",
         ("read", "write")),
    Case("compressed grains of 1 GiB", put(GRAIN, 1 << 21, 8), "grains of", ALL, "whole stream"),
    Case("descriptor at 2^60", put(TEXT_AT, 1 << 60, 8), "descriptor", ALL),
    Case("descriptor at 2^40", put(TEXT_AT, 1 << 40, 8), "behind the end", ALL),
    Case("descriptor of 2^40", put(TEXT_SIZE, 1 << 40, 8), "descriptor", ALL),
    Case("no entries in a table", put(GTES, 0), "grain tables of 0", ALL),
    Case("2^32-1 entries in a table", put(GTES, 2**32 - 1), "grain tables of", ALL),
    Case("a sound first directory", put(RGD, 1 << 60, 8), "redundant", ALL),
    Case("both directories outside", both(put(GD, 1 << 40, 8), put(RGD, 1 << 40, 8)),
         "grain directory", OPENING),
    Case("directory at 2^60", put(GD, 1 << 60, 8), "grain directory", ALL),
    Case("directory at 0", put(GD, 0, 8), "grain directory", ("read",), "single"),
    Case("overhead 2^60", put(OVERHEAD, 1 << 60, 8), "overhead", ALL),
    Case("overhead 2^40", put(OVERHEAD, 1 << 40, 8), "truncated", OPENING),
    Case("unknown compression", put(COMPRESSION, 2, 2), "method 2", ALL),
    Case("compressed all at once", put(COMPRESSION, 1, 2), "", ("read",)),
    Case("directory entry outside", in_gd(NOWHERE), "grain table", ("read",), "single"),
    Case("directory entry 2^32-1", in_gd(2**32 - 1), "grain table", ("read",), "single"),
    Case("grain outside", in_gt(NOWHERE), "ends at", ("read",)),
    Case("grain 2^32-1", in_gt(2**32 - 1), "ends at", ("read",)),
    Case("grain in the header", in_gt(1), "over metadata", ("examine",)),
    Case("directory is its own table", lambda i: in_gd(u64(i, GD))(i), "", ("examine",), "single"),
    Case("cut in the tables", cut(11 * 512), "behind the end", ALL),
    Case("cut in the grains", cut(65536 + 100_000), "", ("examine",)),
]  # fmt: skip

STREAMS = [
    Case("no footer", cut(len(stream(CONTENT, text=None)) - 4096), "", ALL, "stream"),
    Case("footer without its place", footer(GD, HUGE), "footer", ALL, "stream"),
    Case("footer's directory outside", footer(GD, 1 << 40), "directory", OPENING, "stream"),
    Case("footer of version 9", footer(VERSION, 9, 4), "version 9", ALL, "stream"),
    Case("footer's capacity 2^52", footer(CAPACITY, 1 << 52), "directory", ALL, "stream"),
    Case("marker of another grain", put(128 * 512, 999, 8), "sector 999", ("read",), "stream"),
    Case("marker of 0 bytes", put(128 * 512 + 8, 0), "marker", ("read",), "stream"),
    Case("marker of 2^32-1 bytes", put(128 * 512 + 8, 2**32 - 1), "marker", ("read",), "stream"),
    Case("garbled data", put(128 * 512 + 12, HUGE, 8), "damaged", ("read",), "stream"),
    Case("header compressed otherwise", footer(COMPRESSION, 7, 2), "method 7", ALL, "stream"),
]

# Offsets in the header of a COW disk
COW = [
    Case("half a COWD header", cut(1000), "2048 bytes", ALL, "cowd"),
    Case("COWD version 2", put(4, 2), "version 2", ALL, "cowd"),
    Case("COWD of 2^32-1 sectors", put(12, 2**32 - 1), "directory", ALL, "cowd"),
    Case("COWD grain size 0", put(16, 0), "grain size", ALL, "cowd"),
    Case("COWD grain size 2^31", put(16, 1 << 31), "grain size", ALL, "cowd"),
    Case("COWD directory outside", put(20, NOWHERE), "directory", OPENING, "cowd"),
    Case("COWD directory at 0", put(20, 0), "directory", ("read",), "cowd"),
    Case("COWD directory too small", put(24, 0), "entries", ALL, "cowd"),
    Case("COWD directory of 2^32-1", put(24, 2**32 - 1), steps=(), base="cowd"),
    Case("COWD table outside", put(2048, NOWHERE), "grain table", ("read",), "cowd"),
    Case("COWD grain outside", put(5 * 512, NOWHERE), "ends at", ("read",), "cowd"),
    Case("COWD free sector 2^32-1", put(28, 2**32 - 1), steps=(), base="cowd"),
    Case("COWD names /etc/passwd", lambda i: i.__setitem__(slice(32, 44), b"/etc/passwd\0"),
         "", ("read", "chain"), "cowd"),
]  # fmt: skip

SESPARSE = [
    Case("half a seSparse header", cut(300), "512 bytes", ALL, "sesparse"),
    Case("no volatile header", cut(700), "volatile", ALL, "sesparse"),
    Case("seSparse version", put(8, 3, 8), "version", ALL, "sesparse"),
    Case("seSparse capacity 2^63", put(16, 1 << 63, 8), "capacity", ALL, "sesparse"),
    Case("seSparse capacity 2^50", put(16, 1 << 50, 8), "directory", ALL, "sesparse"),
    Case("seSparse grain size", put(24, 16, 8), "grain size", ALL, "sesparse"),
    Case("seSparse table size", put(32, 1, 8), "table size", ALL, "sesparse"),
    Case("seSparse flags", put(40, 1, 8), "flags", ALL, "sesparse"),
    Case("seSparse volatile outside", put(80, 1 << 40, 8), "volatile", ALL, "sesparse"),
    Case("seSparse directory outside", put(128, 1 << 40, 8), "directory", ALL, "sesparse"),
    Case("seSparse directory of 0", put(136, 0, 8), "directory", ALL, "sesparse"),
    Case("seSparse tables outside", put(144, 1 << 40, 8), "grain table", ("read",), "sesparse"),
    Case("seSparse grains outside", put(192, 1 << 40, 8), "ends at", ("read",), "sesparse"),
    Case("seSparse directory entry", put(16 * 512 + 4, 0xFF), "directory", ("read",), "sesparse"),
    Case("seSparse table entry", put(17 * 512, HUGE, 8), "table entry", ("read",), "sesparse"),
    Case("seSparse grain 2^60", put(17 * 512, 0x3FFF_FFFF_FFFF_FFFF, 8), "", ("read",), "sesparse"),
]


def lines(*given: str, hint: str = "") -> Change:
    return become(text(*given, hint=hint))


TEXTS = [
    Case("no extents", lines(), "no extents", OPENING, "text"),
    Case("unknown extent", lines('RW 1 FLOPPY "f" 0'), "FLOPPY", ALL, "text"),
    Case("extent without a file", lines("RW 1 FLAT"), "names no file", ALL, "text"),
    Case("flat without an offset", lines('RW 1 FLAT "f"'), "begins", ALL, "text"),
    Case("an empty name", lines('RW 1 FLAT "" 0'), "names no file", ALL, "text"),
    Case("extent of 10^18 sectors", lines(f'RW {10**18} FLAT "f" 0'), "out of range", ALL, "text"),
    Case("extents of 2^62", lines(*['RW 9000000000000000 FLAT "f" 0'] * 2), "EiB", ALL, "text"),
    Case("sectors that are no number", lines('RW x FLAT "f" 0'), "cannot be read", ALL, "text"),
    Case("offset of 10^19", lines(f'RW 1 FLAT "f" {10**19 - 1}'), "out of range", ALL, "text"),
    Case("raw device mapping", lines('RW 1 VMFSRDM "f"'), "VMFSRDM", OPENING, "text"),
    Case("no such extent", lines('RW 1 FLAT "gone" 0'), "gone", OPENING, "text"),
    Case("extent /etc/passwd", lines('RW 1 FLAT "/etc/passwd" 0'), "--allow-dir", OPENING, "text"),
    Case("extent ../..", lines('RW 1 SPARSE "../../x"'), "--allow-dir", OPENING, "text"),
    Case("extent json:", lines('RW 1 SPARSE "json:{}"'), "follows files only", OPENING, "text"),
    Case("extent with a NUL", replaced(b'"flat"', b'"fl\0t"'), "", OPENING, "text"),
    Case("flat is too short", lines(f'RW {SIZE} FLAT "flat" 0'), "truncated", OPENING, "text"),
    Case("flat begins behind the end", lines('RW 1 FLAT "flat" 99999999'), "truncated", OPENING,
         "text"),
    Case("sparse is no VMDK", lines('RW 1 SPARSE "flat"'), "not a sparse", OPENING, "text"),
    Case("sparse is a descriptor", lines('RW 1 SPARSE "other"'), "not a sparse", OPENING, "text"),
    Case("parent /etc/passwd", lines("RW 1 ZERO", hint="/etc/passwd"), "", ("read", "chain"),
         "text"),
    Case("parent of 5000 letters", lines("RW 1 ZERO", hint="x" * 5000), "parent",
         (*OPENING, "info"), "text"),
    Case("CID of letters", replaced(b"CID=0123abcd", b"CID=wxyz"), "CID", ALL, "text"),
    Case("CID of 9 digits", replaced(b"CID=0123abcd", b"CID=0123abcde"), "CID", ALL, "text"),
    Case("all of it is one line", become(b"# Disk DescriptorFile" + b"x" * 100_000), "", OPENING,
         "text"),
    Case("2 MiB of text", become(text() + b"#\n" * MIB), "are read", ALL, "text"),
    Case("40000 extents", become(text(*["RW 1 ZERO"] * 40000)), "40000 extents", ALL, "text"),
    Case("5000 extents of one file", become(text(*['RW 1 FLAT "flat" 0'] * 5000)), steps=(),
         base="text"),
    Case("a million quotes", become(text('RW 1 FLAT "' + '"' * 900_000)), "", OPENING, "text"),
    Case("a million blanks", become(text("RW 1" + " " * 900_000 + "FLAT")), "", OPENING, "text"),
    # Where it is no UTF-8, the text is searched for its encoding.
    Case("a million empty lines", become(text() + b"\xff" + b"\n" * 900_000), "", OPENING, "text"),
    Case("invalid UTF-8", replaced(b'"flat"', b'"fl\xff\xfe"'), "", OPENING, "text"),
]  # fmt: skip

CASES = [*SPARSE, *STREAMS, *COW, *SESPARSE, *TEXTS]


def put_through(folder: Path, images: list[Path], batch: int = 1000) -> dict[str, Outcome]:
    (folder / "flat").write_bytes(CONTENT)
    (folder / "other").write_bytes(text('RW 1 FLAT "flat" 0'))
    found = damaged.put_through(folder, images, batch)
    for outcome in found.values():
        # There are no snapshots in a VMDK; the step says so of all images.
        outcome.raised.pop("snapshot", None)
    return found


def check_outcome(outcome: Outcome, path: Path) -> list[str]:
    return list(objections(outcome, path, named=("/flat", "/other"), nameless=()))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    folder = tmp_path_factory.mktemp("malformed")
    sound = bases()
    paths = []
    for number, case in enumerate(CASES):
        image = bytearray(sound[case.base])
        case.change(image)
        path = folder / f"{number}.vmdk"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(folder, paths, batch=40)
    return {case.name: (path, found[path.name]) for case, path in zip(CASES, paths, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert check_outcome(outcome, path) == []
    assert list(missed(outcome, case.steps, case.says)) == []


@pytest.mark.parametrize("base", sorted(bases()))
def test_the_images_are_fine_before_anything_is_made_wrong(base: str, tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(bases()[base])
    raised = put_through(tmp_path, [tmp_path / "a.vmdk"])["a.vmdk"].raised
    assert raised.keys() == (
        {"write"} if base not in ("sparse", "single", "cowd", "text") else set()
    )


@pytest.mark.parametrize("base", ["sparse", "stream", "cowd", "sesparse"])
def test_cut_anywhere_an_image_is_an_error_or_reads_as_it_was(base: str, tmp_path: Path) -> None:
    whole = bases()[base]
    dice = random.Random(base)
    sizes = {at + off for at in (512, 1024, 2048, 4096, 11264, 65536) for off in (-1, 0, 1)}
    sizes |= {dice.randrange(len(whole)) // 512 * 512 for _ in range(10)}
    sizes |= {len(whole) - n for n in (1, 511, 512, 513, 1024, 1536)}
    paths = []
    for size in sorted(sizes):
        path = tmp_path / f"{size}.vmdk"
        path.write_bytes(whole[:size])
        paths.append(path)
    found = put_through(tmp_path, paths)
    for path in paths:
        assert check_outcome(found[path.name], path) == [], path.name
    from vmimg.errors import VmimgError
    from vmimg.formats.opening import open_disk

    for path in paths:
        path.write_bytes(whole[: int(path.stem)])
        if int(path.stem) < 512:
            continue
        try:
            with open_disk(path, format="vmdk") as disk:
                assert disk.read(0, disk.size) == CONTENT, path.name
        except VmimgError:
            continue


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_metadata_never_ends_otherwise(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    sound = bases()
    paths = []
    for number in range(rounds(40)):
        base = dice.choice(sorted(sound))
        image = bytearray(sound[base])
        if base == "text":
            places = list(range(len(image) - 4))
        else:
            places = [
                *range(4, 208, 2), *range(512, 1024, 4), *range(10240, 12288, 4),
                *range(2560, 9728, 16), *range(len(image) - 3000, len(image) - 8, 8),
            ]  # fmt: skip
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = any_value(dice)
            put(dice.choice(places), value)(image)
        path = tmp_path / f"{number}.vmdk"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(tmp_path, paths)
    wrong = {path.name: check_outcome(found[path.name], path) for path in paths}
    assert {name: problems for name, problems in wrong.items() if problems} == {}


def test_a_huge_file_of_holes_costs_nothing(tmp_path: Path) -> None:
    """A directory of 4 million entries, in a file of 8 TiB."""
    path = tmp_path / "holes.vmdk"
    head = bytearray(bytes(hosted(bytes(65536)))[:512])
    for offset, value, width in (
        (CAPACITY, 1 << 31, 8), (GRAIN, 1, 8), (RGD, 0, 8), (GD, 1, 8), (FLAGS, 1, 4),
    ):  # fmt: skip
        put(offset, value, width)(head)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(8 << 40)
    outcome = put_through(tmp_path, [path])["holes.vmdk"]
    assert check_outcome(outcome, path) == []


def test_markers_are_made_as_the_specification_says() -> None:
    assert struct.unpack_from("<QII", marker(4, 1)) == (4, 0, 1)
    assert isinstance(hosted(b""), Sparse)
