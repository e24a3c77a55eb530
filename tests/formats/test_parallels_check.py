"""check and repair of Parallels images: qemu-img's verdict where it looks, nothing of the guest's
lost where there is something left.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_parallels_read import content_of, with_bitmaps

import parallels_by_hand as by_hand
import peers
from parallels_by_hand import BRANCH, FIRST, NONE, SECOND, TOP, Bundle, Image, tree
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.driver import CheckReport
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.create import create

MIB = 1 << 20
PLACES = (2, 0, NONE, 1, NONE, 3)

Change = Callable[[bytearray], None]


def entry(block: int, place: int) -> Change:
    """Put a cluster at a place, counted from where data begins (1 MiB)."""
    return lambda file: struct.pack_into("<I", file, by_hand.BAT + 4 * block, 1 + place)


def put(offset: int, value: int) -> Change:
    return lambda file: struct.pack_into("<I", file, offset, value)


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
    """``qemu``: the exit code of qemu-img check, 7.2. ``ours`` where it looks further, as later
    versions do, or sees it otherwise. ``lost``: clusters that read as zeros afterwards.
    """

    name: str
    change: Change
    qemu: int
    corruptions: int = 0
    leaks: int = 0
    says: str = ""
    ours: int | None = None
    lost: tuple[int, ...] = ()

    @property
    def code(self) -> int:
        return self.qemu if self.ours is None else self.ours


CASES = [
    Case("sound", more(), 0),
    Case("closed", put(by_hand.USED, by_hand.CLOSED), 0),
    Case("in use", put(by_hand.USED, by_hand.IN_USE), 2, 1, says="not closed properly"),
    Case("a place behind the end", entry(2, 7), 2, 1, says="the file ends at", lost=(2,)),
    Case("a place far behind the end", entry(5, 2**32 - 2), 2, 1, 1, lost=(5,)),
    Case("at the end", entry(2, 4), 0, 1, says="the file ends at", ours=2, lost=(2,)),
    Case("two in one place", entry(3, 0), 0, 1, says="1 clusters share", ours=2),
    Case("three in one place", more(entry(3, 0), entry(5, 0)), 3, 2, 1,
         says="2 clusters share", ours=2),
    Case("space behind the last", add(2 * MIB), 3, 0, 2, says="2097152 bytes behind"),
    Case("a little behind the last", add(5), 3, 0, 1),
    Case("a cluster gone, the last", entry(5, -1), 3, 0, 1),
    Case("a cluster gone, in the middle", entry(1, -1), 0),
    Case("no clusters", more(*(entry(n, -1) for n in range(6))), 3, 0, 4),
    Case("data_off of 0", put(by_hand.DATA_OFF, 0), 0, 1, says="data area", ours=2),
    Case("data_off in the BAT", put(by_hand.DATA_OFF, 1), 0, 1, says="data area", ours=2),
    Case("data_off between clusters", put(by_hand.DATA_OFF, 2049), 0, 1, ours=2),
    Case("the last cluster cut", cut(4 * MIB + 512), 0, 1, says="the file ends at", ours=2),
    Case("data cut off", cut(3 * MIB), 2, 2, lost=(0, 5)),
    Case("dirty and shared and leaking",
         more(put(by_hand.USED, by_hand.IN_USE), entry(3, 2), add(MIB)), 2, 2, 1),
]  # fmt: skip


def make(path: Path, case: Case) -> bytes:
    file = bytearray(Image(6 * MIB, PLACES).build()[0])
    case.change(file)
    path.write_bytes(file)
    return bytes(file)


def counts(report: CheckReport) -> tuple[int, int]:
    return report.corruptions, report.leaks


def readable(path: Path, skip: tuple[int, ...]) -> list[bytes | None]:
    with open_disk(path) as disk:
        return [None if n in skip else disk.read(n * MIB, MIB) for n in range(6)]


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_finds_what_is_wrong_and_agrees_with_qemu(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "a.hds"
    file = make(path, case)
    theirs = peers.run("qemu-img", "check", "-f", "parallels", path, ok=(0, 2, 3)).returncode
    report = check(path)
    assert (report.exit_code, counts(report)) == (case.code, (case.corruptions, case.leaks))
    assert theirs == case.qemu
    assert bool(report.problems) == bool(case.corruptions + case.leaks)
    assert case.says in "\n".join(report.problems)
    assert path.read_bytes() == file


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_repair_mends_and_leaves_what_is_read(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "a.hds"
    make(path, case)
    cut_off = (5,) if case.name == "the last cluster cut" else ()
    before = readable(path, (*case.lost, *cut_off))
    report = check(path, repair="all")
    assert counts(report) == (0, 0), report.problems
    assert report.fixed_corruptions == case.corruptions
    assert check(path).exit_code == 0
    after = readable(path, cut_off)
    wanted = [bytes(MIB) if n in case.lost else data for n, data in enumerate(before)]
    assert after == wanted
    peers.run("qemu-img", "check", "-f", "parallels", path)
    with open_disk(path, writable=True) as disk:
        disk.write(2 * MIB, b"x")


def test_repair_of_leaks_cuts_off_and_touches_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    by_name = {case.name: case for case in CASES}
    file = make(path, by_name["space behind the last"])
    report = check(path, repair="leaks")
    assert (report.exit_code, report.fixed_leaks) == (0, 2)
    assert path.read_bytes() == file[: -2 * MIB]
    file = make(path, by_name["dirty and shared and leaking"])
    assert check(path, repair="leaks").exit_code == 2
    assert path.read_bytes() == file, "of a damaged image nothing is thrown away"


@pytest.mark.parametrize("cluster", [63 * 512, 4096])
def test_old_images_are_checked_and_mended_as_well(tmp_path: Path, cluster: int) -> None:
    path = tmp_path / "a.hds"
    image = Image(6 * cluster, (0, 1, 0, NONE, 2, 1), cluster=cluster, old=True, data_off=0)
    path.write_bytes(image.build()[0])
    before = content_of(path)
    assert counts(check(path)) == (2, 0)
    report = check(path, repair="all")
    assert (report.exit_code, report.fixed_corruptions) == (0, 2)
    assert content_of(path) == before
    file = bytearray(path.read_bytes())
    file[by_hand.BAT] += 1
    path.write_bytes(file)
    report = check(path)
    assert report.exit_code == 2 and "clusters of" in report.problems[0]


@pytest.mark.peer("qemu-img")
def test_statistics_are_those_of_qemu(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    for places in ((0, 1, 2, NONE), (3, 2, NONE, 0, 1, NONE), (5, 0, 1, 3, 2, 4)):
        path.write_bytes(Image(len(places) * MIB, places).build()[0])
        theirs = peers.run_json("qemu-img", "check", "-f", "parallels", "--output=json", path)
        assert check(path).to_json(str(path)) == theirs


def test_an_extension_is_in_use_and_a_damaged_one_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file = bytearray(with_bitmaps().build()[0])
    path.write_bytes(file)
    before = content_of(path)
    assert check(path).exit_code == 0
    assert check(path, repair="all").exit_code == 0
    assert path.read_bytes() == bytes(file)
    file[-1] ^= 1
    path.write_bytes(file)
    report = check(path)
    assert counts(report) == (1, 3) and "checksum" in "\n".join(report.problems)
    report = check(path, repair="all")
    assert (report.exit_code, report.fixed_corruptions) == (0, 1)
    assert image_info(path)[0].image.details.get("bitmaps") is None
    assert content_of(path) == before
    # A cluster of the guest's may not lie in one of a bitmap.
    file = bytearray(with_bitmaps().build()[0])
    struct.pack_into("<I", file, by_hand.BAT + 4, 1 + 3)
    path.write_bytes(file)
    assert counts(check(path)) == (1, 0)


@pytest.mark.peer("qemu-img")
def test_what_qemu_and_we_make_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    peers.run("qemu-img", "create", "-q", "-f", "parallels", path, "10G")
    peers.run("qemu-io", "-f", "parallels", "-c", "write 5G 3M", "-c", "write 0 1k", path)
    assert check(path).exit_code == 0
    create(path, 1 << 45, format="parallels", replace=True)
    report = check(path)
    assert (report.exit_code, report.total_clusters) == (0, 1 << 25)


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file = bytearray(Image(MIB, (0,)).build()[0])
    file[by_hand.ENTRIES] = 0
    path.write_bytes(file)
    with pytest.raises(FormatError, match="no room"):
        check(path)


# Bundles


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_bundle_is_checked_image_by_image(tmp_path: Path, pieces: int) -> None:
    bundle, contents = tree(pieces=pieces, root="Plain")
    path = bundle.write(tmp_path / "disk.hdd")
    report = check(path)
    assert report.exit_code == 0, report.problems
    assert (report.total_clusters, report.allocated_clusters) == (18 * pieces, 6 * pieces)
    one = path / f"disk.hdd.{pieces - 1}.{SECOND}.hds"
    file = bytearray(one.read_bytes())
    struct.pack_into("<I", file, by_hand.USED, by_hand.IN_USE)
    one.write_bytes(file + b"x")
    report = check(path)
    assert counts(report) == (1, 1)
    assert all(one.name in problem for problem in report.problems)
    report = check(path, repair="all")
    assert (report.exit_code, report.fixed_corruptions, report.fixed_leaks) == (0, 1, 1)
    assert check(path).exit_code == 0
    for guid in (TOP, BRANCH):
        with open_disk(path, snapshot=guid) as disk:
            assert disk.read(0, disk.size) == contents[guid]


def test_what_a_descriptor_says_is_checked(tmp_path: Path) -> None:
    def report(bundle: Bundle, number: int) -> CheckReport:
        return check(bundle.write(tmp_path / f"{number}.hdd"))

    bundle, _ = tree()
    bundle.cluster = 4096
    assert "its storage says 4096" in report(bundle, 0).problems[0]
    bundle, _ = tree()
    bundle.shots = [(FIRST, SECOND), (SECOND, FIRST), (TOP, FIRST), (BRANCH, FIRST)]
    found = report(bundle, 1)
    assert found.corruptions == 4 and "loops" in found.problems[0]
    bundle, _ = tree()
    bundle.files = [file for file in bundle.files if file[2] != SECOND]
    assert report(bundle, 2).problems == [f"no image is named for the snapshot {SECOND}"]
    bundle, _ = tree(root="Plain")
    del bundle.names[f"disk.hdd.0.{SECOND}.hds"]
    name = f"disk.hdd.0.{FIRST}.hds"
    bundle.names[name] = bundle.names[name][:-1]
    found = report(bundle, 3)
    assert found.corruptions == 2 and found.exit_code == 2
    bundle, _ = tree()
    bundle.size *= 2
    bundle.files = [(0, bundle.size, *file[2:]) for file in bundle.files]
    assert report(bundle, 4).corruptions == 1
    bundle, _ = tree()
    bundle.parameters = "<Encryption><Engine>" + FIRST + "</Engine></Encryption>"
    with pytest.raises(UnsupportedFeature, match="encrypted"):
        report(bundle, 5)
