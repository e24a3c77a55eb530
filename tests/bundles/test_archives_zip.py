"""Zips, read in place and made, with the programs that everybody has."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peers
from vmimg import storage as storages
from vmimg.bundles.archives import ZipWriter, open_folder, zipwriting
from vmimg.errors import FormatError, LockedImage, OptionError, StorageError, VmimgError
from vmimg.storage.base import Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage
from vmimg.transfer.streaming import ByteSink

DISK = random.Random(1).randbytes(50_000) + bytes(900_000) + b"words " * 10_000


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_members_are_read_however_they_are_packed(method: int) -> None:
    with open_folder(MemoryStorage(zipped(method, disk=DISK, empty=b"")), "zip") as folder:
        assert folder.names() == ("disk", "empty")
        assert folder.size("disk") == len(DISK)
        disk = folder.open("disk")
        assert disk.read(0, len(DISK)) == DISK
        assert disk.read(940_000, 20_000) == DISK[940_000:960_000]
        assert disk.folder is folder
        assert folder.read("empty", 1) == b""


def test_a_stored_member_is_a_window_on_the_archive() -> None:
    with open_folder(MemoryStorage(zipped(zipfile.ZIP_STORED, disk=DISK))) as folder:
        assert isinstance(folder.open("disk"), SliceStorage)


def test_a_zip_behind_something_else_is_read() -> None:
    data = b"#!/bin/sh\n" * 100 + zipped(disk=DISK)
    with open_folder(MemoryStorage(data), "zip") as folder:
        assert folder.read("disk", 1 << 20) == DISK


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_reads_of_a_deflated_member_agree_with_a_model(data: st.DataObject) -> None:
    with open_folder(MemoryStorage(ZIP)) as folder:
        disk = folder.open("disk")
        for _ in range(data.draw(st.integers(1, 20))):
            start = data.draw(st.integers(0, len(DISK)))
            length = data.draw(st.integers(0, len(DISK) - start))
            assert disk.read(start, length) == DISK[start : start + length]


ZIP = zipped(disk=DISK)


def test_a_wrong_checksum_is_found_by_reading_to_the_end() -> None:
    data = bytearray(ZIP)
    at = data.rfind(b"PK\x01\x02")
    data[at + 16] ^= 1
    with (
        open_folder(MemoryStorage(bytes(data))) as folder,
        pytest.raises(FormatError, match="checksum"),
    ):
        folder.open("disk").read(0, len(DISK))


def test_a_size_that_lies_is_found() -> None:
    data = bytearray(ZIP)
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0x7FFFFFFF)
    with open_folder(MemoryStorage(bytes(data))) as folder:
        disk = folder.open("disk")
        assert disk.size == 0x7FFFFFFF
        with pytest.raises(FormatError):
            disk.read(0x70000000, 100)


def test_an_encrypted_member_says_so() -> None:
    data = bytearray(ZIP)
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    with open_folder(MemoryStorage(bytes(data))) as folder, pytest.raises(LockedImage):
        folder.open("disk")


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_zip_that_is_cut_off_is_an_error(cut: int) -> None:
    with pytest.raises(FormatError, match="directory of members"):
        open_folder(MemoryStorage(ZIP[:-cut]), "zip")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 255)), max_size=5))
def test_a_damaged_directory_raises_our_errors_only(changes: list[tuple[int, int]]) -> None:
    data = bytearray(zipped(disk=b"content " * 100, other=b"x"))
    for back, value in changes:
        data[-min(back, len(data))] = value
    try:
        with open_folder(MemoryStorage(bytes(data)), "zip") as folder:
            for name in folder.names():
                disk = folder.open(name)
                disk.read(0, min(disk.size, 1000))
    except VmimgError:
        pass


# Writing


def write(path: Path, *, compress: bool, threads: int = 0) -> None:
    def image(storage: Storage) -> int:
        storage.write(5000, DISK)
        storage.write(0, b"head")
        storage.resize(2_000_000)
        return 2_000_000

    def send(sink: ByteSink) -> int:
        for start in range(0, len(DISK), 77_777):
            sink.write(DISK[start : start + 77_777])
        return len(DISK)

    with storages.Output(path, replace=True) as output:
        writer = ZipWriter(output, compress=compress, threads=threads)
        early = writer.reserve("first.ovf", 100)
        writer.add("twelve", b"12")
        writer.add_image("image.vmdk", image)
        assert writer.last is not None
        assert writer.last.size == 2_000_000
        assert output.read(writer.last.offset, 4) == b"head"
        writer.add_stream("disk", None, send)
        writer.add_storage("folder/again", MemoryStorage(DISK))
        writer.add_directory("empty")
        writer.fill(early, b"<Envelope/>")
        writer.finish()


@pytest.mark.parametrize("compress", [True, False])
def test_what_we_write_others_read(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "a.zip"
    write(path, compress=compress)
    peers.run("7z", "t", path)
    peers.run("bsdtar", "-tf", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "first.ovf", "twelve", "image.vmdk", "disk", "folder/again", "empty/",
        ]  # fmt: skip
        assert archive.read("disk") == archive.read("folder/again") == DISK
        assert archive.read("image.vmdk")[5000 : 5000 + len(DISK)] == DISK
        assert archive.read("first.ovf") == b"<Envelope/>".ljust(100, b"\n")
    with open_folder(storages.open(path)) as folder:
        assert folder.read("folder/again", 1 << 20) == DISK
        assert folder.read("image.vmdk", 1 << 21)[:4] == b"head"


@pytest.mark.peer("bsdtar", "7z")
@pytest.mark.parametrize("compress", [True, False])
def test_members_of_more_than_four_gigabytes_have_zip64_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    # The fields are those of large members, whatever the size of these.
    monkeypatch.setattr(zipwriting, "_SURELY_NARROW", 0)
    monkeypatch.setattr(zipwriting, "_WIDE_FROM", 1000)
    path = tmp_path / "a.zip"
    write(path, compress=compress)
    peers.run("7z", "t", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("disk") == DISK
    with open_folder(storages.open(path)) as folder:
        assert folder.read("disk", 1 << 20) == DISK


def test_any_number_of_threads_makes_the_same_zip(tmp_path: Path) -> None:
    for threads in (1, 2, 5):
        write(tmp_path / f"{threads}.zip", compress=True, threads=threads)
    first = (tmp_path / "1.zip").read_bytes()
    assert (tmp_path / "2.zip").read_bytes() == first
    assert (tmp_path / "5.zip").read_bytes() == first


def test_a_name_that_leads_out_is_not_written() -> None:
    writer = ZipWriter(MemoryStorage())
    for name in ("/etc/passwd", "../up", "a/../../b", "", "a\\b", "x\0y", "."):
        with pytest.raises(OptionError, match="is no name for a member"):
            writer.add(name, b"")
    writer.add("a/b", b"")
    with pytest.raises(OptionError, match="two members are called 'a/b'"):
        writer.add("a//./b", b"")


def test_what_was_announced_must_come() -> None:
    writer = ZipWriter(MemoryStorage())
    with pytest.raises(StorageError, match="has 2 bytes, and 3 were announced"):
        writer.add_stream("disk", 3, lambda sink: [sink.write(b"ab"), 2][1] or 0)
