"""check of cloops: what of their blocks cannot be read."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from cloop_by_hand import XZ, ZLIB, Image, pack
from samples import awkward_disk
from vmimg.errors import UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.transfer.convert import convert

BLOCK = 65536
CONTENT = awkward_disk(100 * BLOCK)


def image(**more: object) -> Image:
    pieces = [CONTENT[n : n + BLOCK] for n in range(0, len(CONTENT), BLOCK)]
    return Image([(ZLIB, zlib.compress(piece)) for piece in pieces], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "layout",
    [{}, {"version": 4}, {"version": 4, "at_end": True}, {"version": 3}],
    ids=str,
)
def test_a_sound_image_has_nothing(tmp_path: Path, layout: dict[str, object]) -> None:
    report = check(image(**layout).write(tmp_path / "a"))
    assert (report.exit_code, report.problems) == (0, [])
    assert report.total_clusters == report.compressed_clusters == 100


def test_one_damaged_byte_is_found_by_the_checksum_and_the_block_named(tmp_path: Path) -> None:
    path = image().write(tmp_path / "a")
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[136 + 8 * 83 : 136 + 8 * 84], "big")
    data[start + 2000] ^= 1
    path.write_bytes(data)
    report = check(path)
    assert (report.exit_code, report.corruptions) == (2, 1)
    assert f"virtual offset {83 * BLOCK}" in report.problems[0]


def test_a_truncated_image_loses_its_last_blocks(tmp_path: Path) -> None:
    path = image().write(tmp_path / "a")
    data = path.read_bytes()
    start = int.from_bytes(data[136 + 8 * 60 : 136 + 8 * 61], "big")
    path.write_bytes(data[: start + 1])
    report = check(path)
    assert (report.exit_code, report.corruptions) == (2, 40)
    assert len(report.problems) == 11 and "30 more" in report.problems[-1]


def test_bytes_that_belong_to_nothing_are_leaks(tmp_path: Path) -> None:
    path = image().write(tmp_path / "a")
    with path.open("ab") as file:
        file.write(b"more")
    report = check(path)
    assert (report.exit_code, report.leaks) == (3, 1)
    assert "4 bytes behind the last block" in report.problems[0]


def test_an_unknown_method_is_no_corruption(tmp_path: Path) -> None:
    path = Image([(XZ, pack(XZ, bytes(BLOCK))), (7, b"what?")], version=4).write(tmp_path / "a")
    report = check(path)
    assert (report.exit_code, report.errors, report.corruptions) == (1, 1, 0)


def test_nothing_can_be_repaired(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(CONTENT)
    convert(raw, tmp_path / "a.cloop")
    with pytest.raises(UnsupportedFeature, match="repair"):
        check(tmp_path / "a.cloop", repair="all")
