"""7z archives, as the 7z program makes them, read in place where that can be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peers
from vmimg import storage as storages
from vmimg.bundles.archives import open_folder
from vmimg.errors import (
    FormatError,
    LockedImage,
    StorageError,
    UnsafeImage,
    UnsupportedFeature,
    VmimgError,
)
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage

FILES = {
    "disk.img": random.Random(1).randbytes(300_000) + bytes(500_000),
    "notes.txt": b"some words " * 1000,
    "empty": b"",
}

pytestmark = pytest.mark.peer("7z")


def packed(folder: Path, *options: str) -> Path:
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    archive = folder / "a.7z"
    peers.run("7z", "a", "-bd", *options, archive, *FILES, cwd=folder)
    return archive


@pytest.mark.parametrize(
    "options",
    [
        ["-mx=0"],
        ["-m0=lzma"],
        ["-m0=lzma2"],
        ["-m0=deflate"],
        ["-m0=bzip2"],
        ["-m0=bcj", "-m1=lzma2"],
        ["-ms=off"],
        ["-mx=0", "-mhc=off"],
    ],
    ids=" ".join,
)
def test_members_are_read_however_they_are_packed(tmp_path: Path, options: list[str]) -> None:
    with open_folder(storages.open(packed(tmp_path, *options)), "7z") as folder:
        assert set(folder.names()) == set(FILES)
        for name, data in FILES.items():
            assert folder.size(name) == len(data)
            assert folder.read(name, 1 << 20) == data
        disk = folder.open("disk.img")
        assert disk.read(299_000, 2000) == FILES["disk.img"][299_000:301_000]
        assert disk.folder is folder
        with pytest.raises(StorageError, match="there is no file"):
            folder.open("other")


def test_a_member_that_is_only_copied_is_read_where_it_lies(tmp_path: Path) -> None:
    archive = packed(tmp_path, "-mx=0")
    # A copy would have to be made there.
    with open_folder(storages.open(archive), near="/nowhere/at/all") as folder:
        disk = folder.open("disk.img")
        assert isinstance(disk, SliceStorage)
        assert disk.read(0, disk.size) == FILES["disk.img"]


@pytest.mark.parametrize("options", [["-pfoo"], ["-pfoo", "-mhe=on"]], ids=" ".join)
def test_an_encrypted_one_says_so(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(LockedImage, match="encrypted"):
        open_folder(storages.open(packed(tmp_path, *options)))


def test_what_is_packed_in_another_way_says_so(tmp_path: Path) -> None:
    with (
        open_folder(storages.open(packed(tmp_path, "-m0=ppmd"))) as folder,
        pytest.raises(UnsupportedFeature, match="unpack it first"),
    ):
        folder.open("disk.img")


def test_what_unpacks_to_more_than_is_allowed_is_refused(tmp_path: Path) -> None:
    with (
        open_folder(storages.open(packed(tmp_path)), limit=1000) as folder,
        pytest.raises(UnsafeImage, match="1000 are allowed"),
    ):
        folder.open("disk.img")


def test_corrupt_data_is_found_by_its_checksum(tmp_path: Path) -> None:
    archive = packed(tmp_path)
    data = bytearray(archive.read_bytes())
    data[200_000] ^= 0xFF
    with (
        open_folder(MemoryStorage(bytes(data))) as folder,
        pytest.raises(FormatError, match="corrupt"),
    ):
        folder.open("disk.img")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    (folder / "disk").write_bytes(b"content " * 500)
    peers.run("7z", "a", "-bd", "-mhc=off", folder / "a.7z", "disk", cwd=folder)
    return (folder / "a.7z").read_bytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_raises_our_errors_only(small: bytes, data: st.DataObject) -> None:
    import zlib

    archive = bytearray(small)
    start = 32 + int.from_bytes(archive[12:20], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(start, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
    archive[28:32] = zlib.crc32(archive[start:]).to_bytes(4, "little")
    archive[8:12] = zlib.crc32(archive[12:32]).to_bytes(4, "little")
    try:
        with open_folder(MemoryStorage(bytes(archive)), limit=1 << 20) as folder:
            for name in folder.names():
                disk = folder.open(name)
                disk.read(0, min(disk.size, 1000))
    except VmimgError:
        pass
