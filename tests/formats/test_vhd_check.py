"""Checking and repairing VHD: each thing that can be wrong is found, and mended if it has one right
answer.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import vhd_by_hand as hand
from samples import write_sparse
from vmimg.errors import FormatError
from vmimg.formats.checking import check
from vmimg.formats.driver import CheckReport
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import find
from vmimg.formats.vhd import structures as s
from vmimg.storage import MemoryStorage
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.convert import convert

MIB = 1 << 20
BLOCK = 16384
SIZE = 20 * BLOCK
CONTENT = random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2)
PARENT = hand.Parent(locators=[(b"W2ru", "base.vhd".encode("utf-16-le"))])


class Recorder(MemoryStorage):
    """Remembers what was written."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.log: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: Buffer) -> None:
        self.log.append((offset, bytes(data)))
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self.log.append((offset, bytes(length)))
        super().zero(offset, length)


def no_companions(named: str, role: str) -> Storage:
    raise AssertionError(f"nobody asked for {named}")


def plain() -> bytearray:
    return bytearray(hand.dynamic(CONTENT, block=BLOCK))


def entry(image: bytearray, block: int, value: int | None = None) -> int:
    place = 1536 + 4 * block
    if value is not None:
        struct.pack_into(">I", image, place, value)
    return int(struct.unpack_from(">I", image, place)[0])


def run(path: Path, image: bytes | bytearray, repair: str = "") -> CheckReport:
    path.write_bytes(image)
    return check(path, repair=repair)


def counts(report: CheckReport) -> tuple[int, int, int]:
    return report.corruptions, report.leaks, report.exit_code


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_images_of_qemu_img_are_sound(tmp_path: Path, subformat: str) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image.vhd"
    content = bytearray(9 * MIB)
    content[3 * MIB : 3 * MIB + 4] = content[8 * MIB : 8 * MIB + 4] = b"data"
    write_sparse(raw, bytes(content))
    options = f"subformat={subformat},force_size=on"
    peers.run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, image)
    report = check(image)
    assert (counts(report), report.problems) == ((0, 0, 0), [])
    if subformat == "dynamic":
        assert (report.total_clusters, report.allocated_clusters) == (5, 2)
        assert report.image_end_offset == image.stat().st_size - 512


def test_gaps_for_alignment_are_no_leaks(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * 5 * MIB)
    convert(raw, tmp_path / "image.vhd", format="vhd")
    report = check(tmp_path / "image.vhd")
    assert (counts(report), report.fragmented_clusters) == ((0, 0, 0), 0)


def lose_end(image: bytearray) -> None:
    del image[-512:]


def blank_end(image: bytearray) -> None:
    image[-512:] = bytes(512)


def damage_end(image: bytearray) -> None:
    image[-400] ^= 1


def blank_head(image: bytearray) -> None:
    image[:512] = bytes(512)


def damage_head(image: bytearray) -> None:
    image[100] ^= 1


def damage_header_sum(image: bytearray) -> None:
    image[512 + 36] ^= 1


def cut_in_the_footer(image: bytearray) -> None:
    del image[-300:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_end, "footer at the end of the file is missing"),
        (blank_end, "footer at the end of the file is missing"),
        (cut_in_the_footer, "footer at the end of the file is missing"),
        (damage_end, "checksum of the footer is wrong"),
        (blank_head, "copy of the footer in front is missing"),
        (damage_head, "checksum of the copy"),
        (damage_header_sum, "checksum of the dynamic header"),
    ],
)
def test_what_has_a_copy_or_follows_from_the_rest_is_mended(
    tmp_path: Path, damage: Callable[[bytearray], None], words: str
) -> None:
    path, image = tmp_path / "image.vhd", plain()
    damage(image)
    report = run(path, image)
    assert counts(report) == (1, 0, 2)
    assert words in report.problems[0]
    assert path.read_bytes() == image
    assert counts(run(path, image, repair="leaks")) == (1, 0, 2)
    mended = run(path, image, repair="all")
    assert (counts(mended), mended.fixed_corruptions) == ((0, 0, 0), 1)
    assert path.read_bytes().rstrip(b"\0") == bytes(plain()).rstrip(b"\0")


def test_a_header_that_may_name_the_wrong_parent_is_not_declared_right(tmp_path: Path) -> None:
    image = bytearray(hand.dynamic(CONTENT, block=BLOCK, parent=PARENT))
    damage_header_sum(image)
    report = run(tmp_path / "image.vhd", image, repair="all")
    assert (counts(report), report.fixed_corruptions) == ((1, 0, 2), 0)
    with pytest.raises(FormatError, match="check"):
        open_disk(tmp_path / "image.vhd", writable=True)


def test_nothing_is_given_up_by_a_header_that_may_be_wrong(tmp_path: Path) -> None:
    # It points to where there are only ones, by which the disk is empty and all blocks are lost.
    path, image = tmp_path / "image.vhd", plain()
    place = len(image) - 512 - BLOCK
    image[place : place + 512] = b"\xff" * 512
    image[512 + 16 : 512 + 24] = place.to_bytes(8, "big")
    for repair in ("leaks", "all"):
        report = run(path, image, repair)
        assert report.corruptions == 1 and report.leaks >= 8
        assert path.read_bytes() == image


def test_two_good_footers_that_differ_are_left_alone(tmp_path: Path) -> None:
    image = plain()
    image[-512:] = hand.footer(SIZE, 3, saved=1)
    report = run(tmp_path / "image.vhd", image, repair="all")
    assert counts(report) == (1, 0, 2)
    assert "say different things" in report.problems[0]
    assert (tmp_path / "image.vhd").read_bytes() == image


@pytest.mark.parametrize(
    ("change", "found", "words"),
    [
        (lambda i: entry(i, 2, 0x7FFFFFFF), (1, 1, 2), "behind"),
        (lambda i: entry(i, 2, 1), (1, 1, 2), "over the metadata at 512"),
        (lambda i: entry(i, 2, 3), (1, 1, 2), "over the metadata at 1536"),
        (lambda i: entry(i, 2, 0), (1, 1, 2), "over the metadata at 0"),
        (lambda i: entry(i, 2, entry(i, 3)), (1, 1, 2), "overlaps"),
        (lambda i: entry(i, 2, entry(i, 3) + 1), (2, 1, 2), "overlaps"),
        (lambda i: entry(i, 15, entry(i, 3)), (1, 0, 2), "overlaps"),
    ],
)
def test_a_wrong_entry_is_found_and_nobody_guesses(
    tmp_path: Path, change: Callable[[bytearray], int], found: tuple[int, int, int], words: str
) -> None:
    image = plain()
    change(image)
    report = run(tmp_path / "image.vhd", image)
    assert counts(report) == found
    assert words in "; ".join(report.problems)
    assert counts(run(tmp_path / "image.vhd", image, repair="all")) == found
    assert (tmp_path / "image.vhd").read_bytes() == image


def test_many_wrong_entries_are_counted_and_some_named(tmp_path: Path) -> None:
    image = bytearray(hand.dynamic(b"x" * 4096 * 50))
    for number in range(30):
        entry(image, number, 1)
    report = run(tmp_path / "image.vhd", image)
    assert report.corruptions == 30
    assert len(report.problems) < 15


def test_leaks_behind_the_last_block_are_cut_off(tmp_path: Path) -> None:
    path, image = tmp_path / "image.vhd", plain()
    last = max(range(20), key=lambda n: (entry(image, n) + 1) % 2**32)
    assert last == 9
    entry(image, 9, 0xFFFFFFFF)
    entry(image, 8, 0xFFFFFFFF)
    assert counts(run(path, image)) == (0, 2, 3)
    for repair in ("leaks", "all"):
        report = run(path, image, repair)
        assert (counts(report), report.fixed_leaks) == ((0, 0, 0), 2)
        assert path.stat().st_size == len(image) - 2 * (512 + BLOCK)
        with open_disk(path) as disk:
            assert disk.read(0, SIZE) == CONTENT[: 8 * BLOCK].ljust(SIZE, b"\0")


def test_leaks_between_blocks_are_filled_with_the_last_ones(tmp_path: Path) -> None:
    path, image = tmp_path / "image.vhd", plain()
    expected = bytearray(CONTENT)
    for number in (0, 3, 4, 7):
        entry(image, number, 0xFFFFFFFF)
        expected[number * BLOCK : (number + 1) * BLOCK] = bytes(BLOCK)
    assert counts(run(path, image)) == (0, 4, 3)
    report = run(path, image, "leaks")
    assert (counts(report), report.fixed_leaks) == ((0, 0, 0), 4)
    assert path.stat().st_size <= len(image) - 4 * (512 + BLOCK) + 4096
    with open_disk(path) as disk:
        assert disk.read(0, SIZE) == expected


def test_a_repair_may_be_cut_off_anywhere(tmp_path: Path) -> None:
    image = plain()
    expected = bytearray(CONTENT)
    for number in (1, 2, 5):
        entry(image, number, 0xFFFFFFFF)
        expected[number * BLOCK : (number + 1) * BLOCK] = bytes(BLOCK)
    storage = Recorder(bytes(image))
    find("vhd").driver().check(storage, companions=no_companions, repair="all")
    file = MemoryStorage(bytes(image))
    path = tmp_path / "image.vhd"
    for entry_ in [*storage.log, None]:
        path.write_bytes(file.getvalue())
        with open_disk(path) as disk:
            assert disk.read(0, SIZE) == expected
        assert check(path).corruptions == 0
        if entry_ is not None:
            file.write(*entry_)
    assert check(path).exit_code in (0, 3)


def test_a_lost_footer_comes_back_behind_the_last_block(tmp_path: Path) -> None:
    """As after a power failure: blocks that nothing names, and no footer behind them."""
    path, image = tmp_path / "image.vhd", plain()
    image[-512:] = random.Random(2).randbytes(3 * (BLOCK + 512) + 700)
    report = run(path, image, "all")
    assert (counts(report), report.fixed_corruptions) == ((0, 0, 0), 1)
    assert path.read_bytes() == plain()


def test_footers_of_511_bytes_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    for image in (hand.dynamic(CONTENT, old=True), hand.fixed(CONTENT, old=True)):
        assert counts(run(path, image)) == (0, 0, 0)


def test_a_fixed_disk_with_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    image = bytearray(hand.fixed(CONTENT))
    image[-400] ^= 1
    (tmp_path / "image.vhd").write_bytes(image)
    report = check(tmp_path / "image.vhd", format="vhd", repair="all")
    assert counts(report) == (1, 0, 2)


def test_a_locator_outside_of_the_file_is_reported(tmp_path: Path) -> None:
    image = bytearray(hand.dynamic(CONTENT, block=BLOCK, parent=PARENT))
    assert counts(run(tmp_path / "image.vhd", image)) == (0, 0, 0)
    place = 512 + s.DynamicHeader.parent_locators.offset + 16
    image[place : place + 8] = (1 << 40).to_bytes(8, "big")
    image[512:1536] = hand.checked(bytes(image[512:1536]), 36)
    report = run(tmp_path / "image.vhd", image)
    assert counts(report) == (1, 0, 2)
    assert "parent locator W2ru" in report.problems[0]
