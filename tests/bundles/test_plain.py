"""Archives of one disk: opened whatever they are packed in, and made."""

from __future__ import annotations

import gzip
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

import peers
import vmimg
from vmimg import storage as storages
from vmimg.bundles.archives import open_folder
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import pack
from vmimg.errors import FormatError, OptionError
from vmimg.formats.opening import open_storage_disk
from vmimg.units import MIB

DATA = random.Random(1).randbytes(200_000)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(5 * MIB)
        file.seek(MIB)
        file.write(DATA)
    return path


def check(path: Path, disk: Path, format: str) -> None:
    with vmimg.open(path) as inside:
        assert inside.format == format
        assert inside.size == 5 * MIB
        assert inside.read(0, 5 * MIB) == disk.read_bytes()


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize(
    "suffix", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2", ".zip"]
)
def test_an_archive_is_made_and_opened(
    disk: Path, tmp_path: Path, suffix: str, format: str
) -> None:
    target = tmp_path / f"out{suffix}"
    made = pack([disk], target, kind="disk-archive", format=format, threads=2)
    assert made.size == target.stat().st_size
    check(target, disk, format)
    with open_bundle(target) as bundle:
        assert bundle.kind == "disk-archive"
        assert len(bundle.folder.names()) == 1


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize(
    ("suffix", "program"), [(".gz", "gzip"), (".xz", "xz"), (".zst", "zstd"), (".bz2", "bzip2")]
)
def test_a_disk_alone_in_a_stream_is_unpacked_by_its_program(
    disk: Path, tmp_path: Path, suffix: str, program: str, format: str
) -> None:
    target = tmp_path / f"out.img{suffix}"
    pack([disk], target, kind="disk-archive", format=format)
    image = tmp_path / "unpacked"
    image.write_bytes(peers.run(program, "-dc", target).stdout)
    check(image, disk, format)
    with open_folder(storages.open(target)) as folder:
        assert folder.names() == ("out.img",)
        assert folder.read("out.img", 10 * MIB) == image.read_bytes()


@pytest.mark.peer("tar", "7z")
def test_what_other_programs_pack_is_opened(disk: Path, tmp_path: Path) -> None:
    vmimg.convert(disk, tmp_path / "disk.qcow2")
    (tmp_path / "README.txt").write_text("about it")
    for name, command in {
        "a.tar.xz": ("tar", "-cJf"),
        "a.tar": ("tar", "-cf"),
        "a.7z": ("7z", "a", "-bd"),
        "a.zip": ("7z", "a", "-bd", "-tzip"),
    }.items():
        target = tmp_path / name
        peers.run(*command, target, "README.txt", "disk.qcow2", cwd=tmp_path)
        check(target, disk, "qcow2")
        with open_bundle(target) as bundle:
            assert bundle.facts["other-files"] == 1


@pytest.mark.peer("qemu-img")
def test_a_zip_is_converted_in_one_command(disk: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(disk, "appliance/disk.img")
    vmimg.convert(tmp_path / "a.zip", tmp_path / "out.vhdx")
    peers.run("qemu-img", "compare", tmp_path / "out.vhdx", disk)


def test_a_backing_file_beside_a_disk_in_the_archive_is_found(disk: Path, tmp_path: Path) -> None:
    vmimg.convert(disk, tmp_path / "base.qcow2")
    vmimg.create(
        tmp_path / "top.qcow2", format="qcow2", backing="base.qcow2", backing_format="qcow2"
    )
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "base.qcow2", "base.qcow2")
        tar.add(tmp_path / "top.qcow2", "top.qcow2")
    with (
        open_folder(storages.open(tmp_path / "a.tar.gz")) as folder,
        open_storage_disk(folder.open("top.qcow2")) as inside,
    ):
        assert inside.read(0, 5 * MIB) == disk.read_bytes()


def test_an_archive_without_a_disk_is_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
        archive.writestr("b.txt", "text")
    with pytest.raises(FormatError):
        open_bundle(tmp_path / "a.zip")


def test_an_extension_that_says_nothing_is_refused(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="its extension says"):
        pack([disk], tmp_path / "out.7z", kind="disk-archive")
    assert not (tmp_path / "out.7z").exists()


def test_files_are_carried_along_where_there_is_room(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "licence").write_text("free")
    files = {"licence.txt": tmp_path / "licence"}
    pack([disk], tmp_path / "out.tar.gz", kind="disk-archive", files=files)
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert tar.getnames()[1:] == ["licence.txt"]
    with pytest.raises(OptionError, match="room for the disk only"):
        pack([disk], tmp_path / "out.gz", kind="disk-archive", files=files)


def test_the_same_disk_makes_the_same_archive(disk: Path, tmp_path: Path) -> None:
    for suffix in (".tar.gz", ".zip", ".gz"):
        made = []
        for threads in (1, 4):
            # The disk in it is called after the archive.
            (tmp_path / str(threads)).mkdir(exist_ok=True)
            target = tmp_path / str(threads) / f"out{suffix}"
            pack([disk], target, kind="disk-archive", threads=threads)
            made.append(target.read_bytes())
        assert made[0] == made[1]
    assert gzip.decompress(made[0]) == disk.read_bytes()
