"""The library's verbs take a bundle where they take a disk, however it is handed over."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import pytest

import vmimg
from vmimg.errors import FormatError

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB) + b"content" * 1000 + bytes(MIB - 7000))
    return path


@pytest.fixture
def ova(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "machine.ova"
    vmimg.pack([disk], path)
    return path


def test_a_bundle_that_is_given_by_keyword_is_one_too(
    tmp_path: Path, disk: Path, ova: Path
) -> None:
    assert vmimg.measure(source=ova, format="raw").required == 2 * MIB
    vmimg.convert(source=ova, target=tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    assert vmimg.compare(a=ova, b=disk).identical
    vmimg.dd(source=ova, target=tmp_path / "part.raw", bs=MIB, count=1)
    assert (tmp_path / "part.raw").read_bytes() == bytes(MIB)


def test_with_its_format_said_a_bundle_is_its_bytes(tmp_path: Path, ova: Path) -> None:
    vmimg.convert(ova, tmp_path / "bytes.raw", source_format="raw")
    assert (tmp_path / "bytes.raw").read_bytes() == ova.read_bytes()


def open_files() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into Linux's /proc")
def test_a_bundle_is_closed_when_its_disk_is(ova: Path) -> None:
    disk = vmimg.open(ova)
    assert disk.read(MIB, 7) == b"content"
    assert str(ova) in open_files()
    disk.close()
    assert str(ova) not in open_files()


def test_an_archive_without_a_disk_is_no_disk(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "letters.zip", "w") as archive:
        archive.writestr("letter.txt", "Dear Sir")
    with pytest.raises(FormatError, match="there is no disk in it"):
        vmimg.open(tmp_path / "letters.zip")
