"""check and repair of VDI: qemu-img's verdict where it has one, and nothing made up."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_vdi_read import content_of

import peers
import vdi_by_hand as by_hand
from vdi_by_hand import DIFF, FIXED, FREE, ZERO, Image
from vmimg.errors import FormatError
from vmimg.formats.checking import check
from vmimg.formats.driver import CheckReport

MIB = 1 << 20
BLOCKS = 6
PLACES = (2, 0, FREE, 1, ZERO, 3)
MAP, DATA = 512, 1024

Change = Callable[[bytearray], None]


def entry(block: int, place: int) -> Change:
    return lambda file: struct.pack_into("<I", file, MAP + 4 * block, place)


def count(number: int) -> Change:
    return lambda file: struct.pack_into("<I", file, by_hand.C_ALLOCATED, number)


def more(*changes: Change) -> Change:
    def change(file: bytearray) -> None:
        for one in changes:
            one(file)

    return change


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def add(size: int) -> Change:
    return lambda file: file.extend(b"\xaa" * size)


@dataclass(frozen=True)
class Case:
    """``qemu``: the exit code of qemu-img check. ``ours`` where it looks further than that."""

    name: str
    change: Change
    qemu: int
    corruptions: int = 0
    leaks: int = 0
    says: str = ""
    mended: bool = True
    ours: int | None = None
    bare: bool = False
    """Made for blocks without extra data."""

    @property
    def code(self) -> int:
        return self.qemu if self.ours is None else self.ours


CASES = [
    Case("sound", more(), 0),
    Case("count too high", count(5), 2, 1, says="counts 5 allocated blocks, the map has 4"),
    Case("count too low", count(3), 2, 1, says="counts 3"),
    Case("count of 2^32-1", count(2**32 - 1), 2, 1, says="counts 4294967295"),
    Case("two blocks in one place", entry(3, 0), 2, 1, 1, says="share their place"),
    Case(
        "three blocks in one place", more(entry(3, 0), entry(5, 0)), 2, 2, 2, says="2 blocks share"
    ),
    Case(
        "a place that is not below the number of blocks, in the file",
        more(entry(5, 6), add(4 * MIB)), 2, 2, 1, says="there are not that many",
        bare=True,
    ),
    Case(
        "a place that cannot be",
        entry(0, 2**32 - 3), 2, 2, 1, says="place 4294967293", mended=False,
    ),
    Case("a block gone, with its place", entry(5, FREE), 2, 1, 1, says="the map has 3"),
    Case("a block gone, in the middle", entry(1, FREE), 2, 1, 1, says="not used"),
    Case("a gap that the count hides", more(entry(1, FREE), count(3)), 0, 1, 1,
         says="place 3, but the header says that the places from 3 are free", ours=2),
    Case("space behind the last block", add(2 * MIB), 0, 0, 2,
         says="2 places behind", ours=3, bare=True),
    Case("less than a block behind the last", add(MIB - 1), 0, bare=True),
    Case("the last place is cut off", cut(DATA + 3 * MIB + 5), 0, 1,
         says="the file ends at", mended=False, ours=2, bare=True),
    Case("all data is cut off", cut(DATA), 0, 4, mended=False, ours=2),
]  # fmt: skip


def make(path: Path, case: Case, extra: int = 0) -> bytes:
    """The image of the case; returns what it read as before."""
    file, _ = Image(BLOCKS * MIB, PLACES, extra=extra).build()
    path.write_bytes(file)
    before = content_of(path)
    changed = bytearray(file)
    case.change(changed)
    path.write_bytes(changed)
    return before


def counts(report: CheckReport) -> tuple[int, int]:
    return report.corruptions, report.leaks


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_finds_what_is_wrong_and_agrees_with_qemu(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "a.vdi"
    make(path, case)
    file = path.read_bytes()
    peers.run("qemu-img", "check", path, ok=(case.qemu,))
    report = check(path)
    assert report.exit_code == case.code, report.problems
    assert counts(report) == (case.corruptions, case.leaks), report.problems
    assert bool(report.problems) == bool(case.corruptions + case.leaks)
    assert case.says in "\n".join(report.problems)
    assert path.read_bytes() == file


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    ("case", "extra"),
    [(case, extra) for case in CASES for extra in (0, 512) if not (extra and case.bare)],
    ids=lambda value: value.name if isinstance(value, Case) else f"extra {value}",
)
def test_repair_mends_what_can_be_and_leaves_what_is_read(
    tmp_path: Path, case: Case, extra: int
) -> None:
    path = tmp_path / "a.vdi"
    make(path, case, extra=extra)
    file = path.read_bytes()
    if not case.mended:
        found = check(path)
        left = check(path, repair="all")
        assert counts(left) == counts(found)
        assert left.fixed_corruptions == left.fixed_leaks == 0
        assert path.read_bytes() == file
        return
    before = content_of(path)
    report = check(path, repair="all")
    assert counts(report) == (0, 0), report.problems
    assert report.fixed_corruptions == case.corruptions
    assert (report.fixed_leaks > 0) == (case.leaks > 0)
    assert content_of(path) == before
    assert check(path).exit_code == 0
    peers.run("qemu-img", "check", path)
    used = sorted(e for e in struct.unpack_from(f"<{BLOCKS}I", path.read_bytes(), MAP) if e < ZERO)
    assert used == list(range(len(used)))
    if not extra:
        raw = tmp_path / "raw"
        raw.write_bytes(before)
        peers.run("qemu-img", "compare", "-f", "vdi", "-F", "raw", path, raw)


def test_repair_of_leaks_cuts_off_what_is_behind_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    by_name = {case.name: case for case in CASES}
    before = make(path, by_name["space behind the last block"])
    size = path.stat().st_size
    report = check(path, repair="leaks")
    assert (report.exit_code, report.fixed_leaks) == (0, 2)
    assert path.stat().st_size == size - 2 * MIB
    assert content_of(path) == before
    make(path, by_name["a block gone, with its place"])
    file = path.read_bytes()
    assert check(path, repair="leaks").exit_code == 2
    assert path.read_bytes() == file, "of a damaged image nothing is thrown away"


def test_a_moved_block_takes_its_extra_data_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    file = bytearray(Image(2 * MIB, (1, FREE), extra=512).build()[0])
    file[DATA + 512 + MIB : DATA + 1024 + MIB] = b"service".ljust(512, b"!")
    path.write_bytes(file)
    report = check(path, repair="all")
    assert (report.exit_code, report.fixed_corruptions, report.fixed_leaks) == (0, 1, 1)
    assert path.read_bytes()[DATA : DATA + 7] == b"service"
    assert path.stat().st_size == DATA + 512 + MIB


@pytest.mark.parametrize("version", [(0, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", [FIXED, DIFF])
def test_images_that_qemu_does_not_read_are_checked_as_well(
    tmp_path: Path, version: tuple[int, int], kind: int
) -> None:
    linkage = Image(MIB, (0,), seed=8).uuids()[0] if kind == DIFF else None
    path = tmp_path / "a.vdi"
    image = Image(3 * 65536, (0, 1, 2), kind=kind, version=version, block=65536, linkage=linkage)
    path.write_bytes(image.build()[0])
    report = check(path)
    assert report.exit_code == 0
    assert (report.total_clusters, report.allocated_clusters) == (3, 3)
    assert report.image_end_offset == path.stat().st_size
    image.places = (0, 0, 2)
    path.write_bytes(image.build()[0])
    assert check(path).exit_code == 2
    assert check(path, repair="all").exit_code == 0


@pytest.mark.peer("qemu-img")
def test_what_qemu_img_writes_is_sound(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "a.vdi"
    raw.write_bytes(b"x" * MIB + bytes(3 * MIB) + b"y" * 700)
    for static in ("on", "off"):
        peers.run("qemu-img", "convert", "-O", "vdi", "-o", f"static={static}", raw, path)
        assert check(path).exit_code == 0


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    file = bytearray(Image(MIB, (0,)).build()[0])
    file[by_hand.CB_BLOCK] = 3
    path.write_bytes(file)
    with pytest.raises(FormatError, match="power of two"):
        check(path)
