"""vmimg check of DMG images: every checksum is verified, and it says of what the wrong one is."""

from __future__ import annotations

import plistlib
import struct
from pathlib import Path

import pytest

from dmg_by_hand import ADC, IGNORE, LZMA, RAW, ZERO, ZLIB, Chunk, Image, Partition
from vmimg.formats.checking import check

DATA = bytes(range(256)) * 64


def image() -> Image:
    return Image(
        [
            Partition("first", [Chunk(RAW, DATA), Chunk(ZERO, bytes(512 * 9))]),
            Partition(
                "second",
                [Chunk(ZLIB, DATA * 3), Chunk(IGNORE, bytes(4096)), Chunk(ADC, DATA)],
            ),
            Partition("third", [Chunk(LZMA, DATA)]),
        ]
    )


def problems(path: Path, file: bytes | bytearray) -> list[str]:
    path.write_bytes(file)
    report = check(path)
    assert report.corruptions == len(report.problems)
    assert report.exit_code == (2 if report.problems else 0)
    return report.problems


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.dmg"


def test_an_image_that_is_sound_is_said_to_be(path: Path) -> None:
    file, _ = image().build()
    assert problems(path, file) == []
    report = check(path)
    assert (report.total_clusters, report.allocated_clusters, report.compressed_clusters) == (
        6, 4, 3,
    )  # fmt: skip
    assert report.image_end_offset == len(file)


def test_a_changed_byte_is_found_in_its_partition_and_in_the_fork(path: Path) -> None:
    file = bytearray(image().build()[0])
    file[100] ^= 1
    found = problems(path, file)
    assert [line.split(":")[0] for line in found[:1]] == ["'first'"]
    assert "checksum" in found[0] and "data fork" in found[1] and len(found) == 2


def test_a_chunk_that_does_not_decode_is_named(path: Path) -> None:
    file = bytearray(image().build()[0])
    file[len(DATA) + 20 : len(DATA) + 40] = b"\xff" * 20
    found = problems(path, file)
    assert found[0].startswith(f"'second': the chunk of virtual offset {len(DATA) + 512 * 9}")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("offset", "says"),
    [
        (88, "the data fork has the checksum"),
        (360, "the checksums of the partitions have the checksum"),
    ],
)
def test_the_checksums_of_the_trailer_are_verified(path: Path, offset: int, says: str) -> None:
    file = bytearray(image().build()[0])
    file[len(file) - 512 + offset] ^= 1
    (found,) = problems(path, file)
    assert found.startswith(says)


def test_what_a_chunk_of_ignored_sectors_stands_for_is_in_no_checksum(path: Path) -> None:
    """7-Zip agrees; hdiutil writes such chunks for space that no file system uses."""
    with_zeros = Image([Partition("a", [Chunk(ZLIB, DATA), Chunk(ZERO, bytes(512))])])
    ignored = Image([Partition("a", [Chunk(ZLIB, DATA), Chunk(IGNORE, bytes(512))])])
    assert problems(path, with_zeros.build()[0]) == problems(path, ignored.build()[0]) == []


def test_checksums_that_are_not_there_are_not_missed(path: Path) -> None:
    file = bytearray(image().build()[0])
    for offset in (80, 352):
        struct.pack_into(">I", file, len(file) - 512 + offset, 0)
    file[100] ^= 1
    assert len(problems(path, file)) == 1


def test_of_many_problems_a_few_are_printed(path: Path) -> None:
    parts = [Partition(f"p{number}", [Chunk(RAW, DATA)]) for number in range(60)]
    file = bytearray(Image(parts).build()[0])
    for number in range(60):
        file[number * len(DATA)] ^= 1
    path.write_bytes(file)
    report = check(path)
    assert report.corruptions == 61 and len(report.problems) == 21
    assert report.problems[-1] == "and 41 more problems"


def test_a_partition_that_reaches_behind_its_end_is_named(path: Path) -> None:
    file, _ = image().build()
    place, length = struct.unpack_from(">QQ", file, len(file) - 512 + 216)
    listed = plistlib.loads(file[place : place + length])
    mish = bytearray(listed["resource-fork"]["blkx"][0]["Data"])
    struct.pack_into(">Q", mish, 16, 1)
    listed["resource-fork"]["blkx"][0]["Data"] = bytes(mish)
    new = plistlib.dumps(listed)
    assert len(new) == length
    (found,) = problems(path, file[:place] + new + file[place + length :])
    assert found == "'first': 2 chunks reach behind its end"
