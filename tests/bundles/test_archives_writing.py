"""Tars that are written in one go, plain and compressed, as other programs see them."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peers
from vmimg import storage as storages
from vmimg.bundles.archives import (
    ArchiveWriter,
    DirectoryFolder,
    GzipTarWriter,
    TarWriter,
    digests,
    open_folder,
)
from vmimg.codecs import Level
from vmimg.errors import OptionError, StorageError, UnsafeImage
from vmimg.storage.base import Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.streaming import ByteSink

DISK = random.Random(1).randbytes(1_500_000) + bytes(3 << 20) + b"words " * 200_000
LONG = "/".join(["a-folder-of-some-length"] * 15) + "/" + "disk" * 40 + ".vmdk"


def sending(data: bytes, piece: int = 77_777) -> Callable[[ByteSink], int]:
    def send(sink: ByteSink) -> int:
        for start in range(0, len(data), piece):
            sink.write(data[start : start + piece])
        return len(data)

    return send


def fill(writer: ArchiveWriter) -> None:
    early = writer.reserve("first.ovf", 70_000)
    writer.add("small", b"12")
    writer.add_stream("known", len(DISK), sending(DISK))
    writer.add_stream("unknown", None, sending(DISK))
    writer.add_storage("folder/again", MemoryStorage(DISK))
    writer.add_directory("folder/empty")
    writer.add(LONG, b"long")
    writer.fill(early, b"<Envelope/>")
    writer.finish()


def check(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        assert tar.getnames() == [
            "first.ovf", "small", "known", "unknown", "folder/again", "folder/empty", LONG,
        ]  # fmt: skip
        for name, data in {
            "first.ovf": b"<Envelope/>".ljust(70_000, b"\n"),
            "small": b"12",
            "known": DISK,
            "unknown": DISK,
            "folder/again": DISK,
            LONG: b"long",
        }.items():
            found = tar.extractfile(name)
            assert found is not None
            assert found.read() == data


@pytest.mark.peer("tar", "bsdtar")
@pytest.mark.parametrize("flavour", ["ustar", "gnu"])
def test_others_read_a_tar_of_ours(tmp_path: Path, flavour: str) -> None:
    path = tmp_path / "a.tar"
    with storages.Output(path) as output:
        fill(TarWriter(output, flavour=flavour))  # type: ignore[arg-type]
    check(path, "r:")
    for program in ("tar", "bsdtar"):
        said = peers.run(program, "-tf", path)
        assert len(said.stdout.splitlines()) == 7
        assert not said.stderr


@pytest.mark.peer("tar", "gzip")
@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_others_read_a_tar_gz_of_ours(tmp_path: Path, level: Level) -> None:
    path = tmp_path / "a.tar.gz"
    with storages.Output(path) as output:
        fill(GzipTarWriter(output, level=level))
    assert path.stat().st_size < 6 << 20
    peers.run("gzip", "-t", path)
    peers.run("tar", "-tzf", path)
    check(path, "r:gz")


def test_any_number_of_threads_makes_the_same_bytes() -> None:
    made = []
    for threads in (1, 2, 3, 8):
        storage = MemoryStorage()
        fill(GzipTarWriter(storage, threads=threads))
        made.append(storage.getvalue())
    assert made[0] == made[1] == made[2] == made[3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2_200_000), st.booleans()), max_size=5))
def test_a_tar_gz_of_anything_reads_as_what_was_written(sizes: list[tuple[int, bool]]) -> None:
    storage = MemoryStorage()
    writer = GzipTarWriter(storage, threads=2)
    for number, (size, known) in enumerate(sizes):
        writer.add_stream(str(number), size if known else None, sending(DISK[:size], 500_000))
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(storage.getvalue()), mode="r:gz") as tar:
        for number, (size, _) in enumerate(sizes):
            found = tar.extractfile(str(number))
            assert found is not None
            assert found.read() == DISK[:size]


def test_an_image_is_written_in_its_place_in_any_order(tmp_path: Path) -> None:
    def write(storage: Storage) -> int:
        assert storage.size == 0
        storage.write(1 << 20, DISK)
        storage.zero(10 << 20, 4096)
        storage.write(0, b"header")
        assert storage.read(1 << 20, 100) == DISK[:100]
        with pytest.raises(StorageError):
            storage.read(storage.size, 1)
        return 9 << 20

    with storages.Output(tmp_path / "a.ova") as output:
        writer = TarWriter(output)
        writer.add("a.ovf", b"<Envelope/>")
        assert writer.add_image("disk.vmdk", write) == 9 << 20
        member = writer.last
        assert member is not None
        assert member.name == "disk.vmdk"
        sums = digests(output, ["sha1", "sha256"], offset=member.offset, length=member.size)
        writer.add("a.mf", b"behind it")
        writer.finish()
        # What is zeros was not written.
        assert output.allocated() < 6 << 20
    with tarfile.open(tmp_path / "a.ova") as tar:
        found = tar.extractfile("disk.vmdk")
        assert found is not None
        image = found.read()
        assert len(image) == 9 << 20
        assert image[:6] == b"header"
        assert image[1 << 20 :][: len(DISK)] == DISK
        assert sums["sha1"] == hashlib.sha1(image).hexdigest()
        assert sums["sha256"] == hashlib.sha256(image).hexdigest()
        behind = tar.extractfile("a.mf")
        assert behind is not None
        assert behind.read() == b"behind it"


def test_a_member_of_ten_gigabytes_has_its_size_in_base_256(tmp_path: Path) -> None:
    with storages.Output(tmp_path / "a.tar") as output:
        writer = TarWriter(output)
        writer.add_image("disk.raw", lambda storage: 10 << 30)
        writer.add("after", b"x")
        writer.finish()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [member.size for member in tar.getmembers()] == [10 << 30, 1]
    with open_folder(storages.open(tmp_path / "a.tar")) as folder:
        assert folder.size("disk.raw") == 10 << 30
        assert folder.open("disk.raw").read((10 << 30) - 10, 10) == bytes(10)
        assert folder.read("after", 1) == b"x"


def test_what_is_compressed_takes_no_image() -> None:
    with pytest.raises(OptionError, match="in any order"):
        GzipTarWriter(MemoryStorage()).add_image("disk", lambda storage: 0)


@pytest.mark.parametrize("make", [TarWriter, GzipTarWriter])
def test_what_was_reserved_must_be_filled_and_must_fit(
    make: Callable[[Storage], ArchiveWriter],
) -> None:
    writer = make(MemoryStorage())
    place = writer.reserve("a.ovf", 10)
    with pytest.raises(OptionError, match="was reserved and never filled in"):
        writer.finish()
    with pytest.raises(OptionError, match="has 11 bytes, and 10 were reserved"):
        writer.fill(place, b"x" * 11)
    writer.fill(place, b"x" * 10)
    with pytest.raises(OptionError, match="is filled in already"):
        writer.fill(place, b"x")


def test_there_is_no_checksum_of_an_unknown_name() -> None:
    with pytest.raises(OptionError, match="there is no checksum 'crc'"):
        digests(MemoryStorage(b"x"), ["crc"])


# Directories


def test_a_directory_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "Virtual Machines").mkdir()
    (tmp_path / "Virtual Machines" / "a.vmcx").write_bytes(b"machine")
    (tmp_path / "disk.vhdx").write_bytes(b"disk")
    with DirectoryFolder(tmp_path) as folder:
        assert folder.names() == ("Virtual Machines/a.vmcx", "disk.vhdx")
        assert folder.read("Virtual Machines/a.vmcx", 100) == b"machine"
        assert folder.size("disk.vhdx") == 4
        storage = folder.open("disk.vhdx")
        assert (storage.folder, storage.member) == (folder, "disk.vhdx")
        assert not folder.exists("Virtual Machines")
        with pytest.raises(StorageError, match="is no file"):
            folder.open("Virtual Machines")
        with pytest.raises(StorageError, match="no such file"):
            folder.open("other")


def test_a_link_out_of_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    inside = tmp_path / "machine"
    inside.mkdir()
    (inside / "disk").write_bytes(b"disk")
    (inside / "good").symlink_to("disk")
    (inside / "bad").symlink_to("../secret")
    (inside / "up").symlink_to("..")
    (inside / "loop").symlink_to("loop")
    with DirectoryFolder(inside) as folder:
        assert folder.names() == ("disk", "good")
        assert folder.read("good", 10) == b"disk"
        for name in ("bad", "up/secret", "../secret", str(tmp_path / "secret")):
            assert not folder.exists(name)
            with pytest.raises(UnsafeImage):
                folder.open(name)


def test_a_directory_with_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmimg.bundles.archives.directory._MAX_ENTRIES", 5)
    for number in range(6):
        (tmp_path / str(number)).touch()
    with pytest.raises(StorageError, match="more than 5 files"):
        DirectoryFolder(tmp_path).names()
