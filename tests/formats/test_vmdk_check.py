"""check for VMDK: what it finds, that qemu-img agrees where it looks, and what repair mends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmdk_by_hand import NOWHERE, Sparse, cowd, descriptor, hosted, se_sparse, stream
from vmimg.errors import ChainError, FormatError
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk

MIB = 1 << 20
SIZE = 40 * MIB
CONTENT = awkward_disk(SIZE, 21, 1 << 20)
TEXT = descriptor(f'RW {SIZE // 512} SPARSE "disk.vmdk"')


def sparse() -> Sparse:
    return hosted(CONTENT, text=TEXT)


def write(path: Path, image: bytes | bytearray) -> Path:
    path.write_bytes(image)
    return path


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "subformat",
    [
        "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
        "streamOptimized",
    ],
)  # fmt: skip
def test_what_qemu_makes_is_sound(tmp_path: Path, subformat: str) -> None:
    write_sparse(tmp_path / "raw", CONTENT[: 5 * MIB])
    image = tmp_path / "disk.vmdk"
    options = f"subformat={subformat}"
    peers.run("qemu-img", "convert", "-O", "vmdk", "-o", options, tmp_path / "raw", image)
    report = check(image)
    assert (report.exit_code, report.problems) == (0, [])
    if "Flat" not in subformat:
        assert report.total_clusters == 80
        assert report.allocated_clusters > 10
        compressed = report.allocated_clusters if subformat == "streamOptimized" else 0
        assert report.compressed_clusters == compressed


@pytest.mark.parametrize(
    "image",
    [
        sparse(), hosted(CONTENT, text=TEXT, grain=8, backwards=True), cowd(CONTENT[:MIB]),
        hosted(CONTENT, text=TEXT, zeroed={1, 2}, version=2), hosted(CONTENT, redundant=False),
        se_sparse(CONTENT, zeroed={1}), stream(CONTENT, text=None),
        stream(CONTENT[:-512], text=None, footer=False),
    ],
    ids=("sparse", "small grains", "COWD", "zeroed", "one directory", "seSparse", "stream",
         "no footer"),
)  # fmt: skip
def test_images_by_hand_are_sound(tmp_path: Path, image: bytes) -> None:
    report = check(write(tmp_path / "disk.vmdk", image))
    assert (report.exit_code, report.problems) == (0, [])


def lose_grain(image: Sparse) -> None:
    for redundant in (False, True):
        image.put(image.entry(0, redundant=redundant), NOWHERE)


def cut(image: Sparse) -> None:
    del image[-65536 * 2 :]


# What is done to the image, words of the problem, and the exit code: 1 where QEMU has it too.
DAMAGE: list[tuple[str, Callable[[Sparse], None], str, int]] = [
    ("grain behind the end", lose_grain, "behind the end", 1),
    ("cut off", cut, "behind the end", 1),
    (
        "two grains in one place",
        lambda i: i.put(i.entry(0), i.u32(i.entry(len(CONTENT) // 65536 - 1))),
        "over one another",
        2,
    ),
    ("grain over the directory", lambda i: i.put(i.entry(0), i.gd // 512), "over metadata", 2),
    ("table outside", lambda i: i.put(i.gd, NOWHERE), "outside the file", 2),
    ("redundant table outside", lambda i: i.put(i.rgd, NOWHERE), "redundant grain tables", 2),
    ("table in one directory only", lambda i: i.put(i.rgd + 4, 0), "only one of the two", 2),
    ("copies differ", lambda i: i.put(i.entry(0, redundant=True), 0), "differ", 2),
    ("two tables in one place", lambda i: i.put(i.gd, i.u32(i.gd + 4)), "tables that lie over", 2),
    ("sent as text", lambda i: i.put(74, 0x0D, 1), "end-of-line", 2),
    ("another capacity", lambda i: i.put(12, SIZE // 512 - 8, 8), "the descriptor says", 2),
    ("not closed", lambda i: i.put(72, 1, 1), "closed properly", 3),
    ("no CID", lambda i: i.put(i.index(b"CID="), 0x2323_2323), "no CID", 1),
]


@pytest.mark.parametrize(
    ("change", "says", "code"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE]
)
def test_damage_is_found(
    tmp_path: Path, change: Callable[[Sparse], None], says: str, code: int
) -> None:
    image = sparse()
    change(image)
    report = check(write(tmp_path / "disk.vmdk", image))
    assert any(says in problem for problem in report.problems), report.problems
    assert all("disk.vmdk" in problem for problem in report.problems)
    assert report.exit_code == code


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("change", [lose_grain, cut], ids=("lost", "cut"))
def test_qemu_has_the_same_exit_code_for_data_that_is_missing(
    tmp_path: Path, change: Callable[[Sparse], None]
) -> None:
    image = sparse()
    path = write(tmp_path / "disk.vmdk", image)
    assert peers.run("qemu-img", "check", path).returncode == check(path).exit_code == 0
    change(image)
    write(path, image)
    assert peers.run("qemu-img", "check", path, ok=(1,)).returncode == check(path).exit_code == 1


MENDED = (
    "table outside", "redundant table outside", "table in one directory only", "copies differ",
    "not closed",
)  # fmt: skip


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("name", MENDED)
def test_what_has_a_sound_copy_is_mended(tmp_path: Path, name: str) -> None:
    image = sparse()
    next(d[1] for d in DAMAGE if d[0] == name)(image)
    path = write(tmp_path / "disk.vmdk", image)
    before = check(path)
    report = check(path, repair="all")
    assert report.exit_code == 0
    assert (report.fixed_corruptions, report.fixed_leaks) == (before.corruptions, before.leaks)
    assert check(path).problems == []
    with open_disk(path) as disk:
        assert disk.read(0, SIZE) == CONTENT
    raw = tmp_path / "raw"
    peers.run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, raw)
    assert raw.read_bytes() == CONTENT
    with open_disk(path, writable=True) as disk:
        disk.write(0, b"x")


def test_repair_guesses_nothing(tmp_path: Path) -> None:
    for name in ("grain behind the end", "two grains in one place", "sent as text"):
        image = sparse()
        next(d[1] for d in DAMAGE if d[0] == name)(image)
        path = write(tmp_path / "disk.vmdk", image)
        with open_disk(path) as disk:
            before = disk.read(MIB, 20 * MIB)
        assert check(path, repair="all").exit_code in (1, 2)
        with open_disk(path) as disk:
            assert disk.read(MIB, 20 * MIB) == before


def test_repair_of_leaks_touches_no_table(tmp_path: Path) -> None:
    image = sparse()
    image.put(image.rgd, NOWHERE)
    image.put(72, 1, 1)
    path = write(tmp_path / "disk.vmdk", image)
    report = check(path, repair="leaks")
    assert (report.fixed_leaks, report.fixed_corruptions, report.exit_code) == (1, 0, 2)
    image.put(72, 0, 1)
    assert path.read_bytes() == bytes(image)


def test_markers_and_footer_of_a_stream(tmp_path: Path) -> None:
    whole = stream(CONTENT[: 4 * MIB], text=None)
    path = tmp_path / "disk.vmdk"
    for place, value, says in (
        (128 * 512, 9, "markers are those of other sectors"),
        (128 * 512 + 9, 0xFF, "longer than the space"),
        (len(whole) - 1024 + 12, 1, "footer says"),
        (len(whole) - 500, 1, "end-of-stream"),
    ):
        image = bytearray(whole)
        image[place] = value
        report = check(write(path, image))
        assert report.exit_code in (1, 2)
        assert any(says in problem for problem in report.problems), (says, report.problems)
    with pytest.raises(FormatError, match="cut short"):
        check(write(path, whole[:-2048]))


def test_extents_are_checked_too(tmp_path: Path) -> None:
    half = SIZE // 2
    first, second = hosted(CONTENT[:half]), hosted(CONTENT[half:])
    lines = [f'RW {half // 512} SPARSE "s{n}.vmdk"' for n in (1, 2)]
    path = write(tmp_path / "disk.vmdk", descriptor(*lines, kind="twoGbMaxExtentSparse"))
    write(tmp_path / "s1.vmdk", first)
    with pytest.raises(ChainError, match=r"s2\.vmdk"):
        check(path)
    write(tmp_path / "s2.vmdk", second)
    assert check(path).exit_code == 0
    second.put(second.entry(3, redundant=True), NOWHERE)
    write(tmp_path / "s2.vmdk", second)
    report = check(path)
    assert report.exit_code == 2
    assert [str(tmp_path / "s2.vmdk") in problem for problem in report.problems] == [True]
    assert check(path, repair="all").exit_code == 0
    write(tmp_path / "s2.vmdk", hosted(CONTENT[half:-512]))
    assert check(path).exit_code == 2


def test_flat_extents_that_are_too_short(tmp_path: Path) -> None:
    path = write(tmp_path / "disk.vmdk", descriptor('RW 9 FLAT "f" 0', kind="monolithicFlat"))
    write(tmp_path / "f", bytes(512 * 9))
    assert check(path).exit_code == 0
    write(tmp_path / "f", bytes(512 * 9 - 1))
    assert check(path).exit_code == 2


def test_damage_in_a_cow_disk_and_in_se_sparse(tmp_path: Path) -> None:
    image = cowd(CONTENT[:MIB])
    gt = 5 * 512
    image[gt : gt + 4] = (NOWHERE).to_bytes(4, "little")
    report = check(write(tmp_path / "disk.vmdk", image))
    assert report.exit_code == 1
    image = se_sparse(CONTENT[:MIB])
    del image[-4096:]
    report = check(write(tmp_path / "disk.vmdk", image))
    assert report.exit_code == 1
    assert any("behind the end" in problem for problem in report.problems)
