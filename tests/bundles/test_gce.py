"""Images of Google Compute Engine, made and opened."""

from __future__ import annotations

import gzip
import random
import tarfile
from pathlib import Path

import pytest

import peers
import vmimg
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import pack
from vmimg.errors import OptionError
from vmimg.units import GIB, MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """70 MiB, with data at the beginning, in the middle and at the end."""
    path = tmp_path / "disk.img"
    dice = random.Random(1)
    with path.open("wb") as file:
        file.truncate(70 * MIB)
        for offset in (0, 20 * MIB, 20 * MIB + 300_000, 70 * MIB - 50_000):
            file.seek(offset)
            file.write(dice.randbytes(50_000))
    return path


def check_unpacked(disk: Path, unpacked: Path, size: int) -> None:
    assert unpacked.stat().st_size == size
    with unpacked.open("rb") as file, disk.open("rb") as source:
        assert file.read(70 * MIB) == source.read()
        assert file.read(10 * MIB) == bytes(10 * MIB)


@pytest.mark.peer("tar")
def test_gnu_tar_unpacks_a_disk_of_whole_gigabytes(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.tar.gz"
    made = pack([disk], target, kind="gce")
    assert made.size == target.stat().st_size < 4 * MIB
    size = next(loss for loss in made.losses if loss.key == "drives[0].size")
    assert (size.value, size.instead) == (str(70 * MIB), GIB)
    assert "whole GiB" in size.reason
    peers.run("tar", "-xzf", target, "-C", tmp_path)
    check_unpacked(disk, tmp_path / "disk.raw", GIB)


@pytest.mark.peer("tar")
def test_without_a_map_of_holes_they_are_zeros(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tar writes all of them out: no more than needed, then.
    monkeypatch.setattr("vmimg.bundles.gce.GIB", 90 * MIB)
    target = tmp_path / "image.tar.gz"
    pack([disk], target, kind="gce", options={"sparse": "off"})
    peers.run("tar", "-xzf", target, "-C", tmp_path)
    check_unpacked(disk, tmp_path / "disk.raw", 90 * MIB)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_header_is_the_old_gnu_format(disk: Path, tmp_path: Path, sparse: bool) -> None:
    target = tmp_path / "image.tar.gz"
    pack([disk], target, kind="gce", options={"sparse": sparse})
    with gzip.open(target) as file:
        header = file.read(512)
    assert header[257:265] == b"ustar  \0"
    member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert member.name == "disk.raw"
    assert member.type == (tarfile.GNUTYPE_SPARSE if sparse else tarfile.REGTYPE)
    assert sparse or member.size == GIB


@pytest.mark.parametrize("sparse", [True, False])
def test_we_open_what_we_make(disk: Path, tmp_path: Path, sparse: bool) -> None:
    target = tmp_path / "image.tar.gz"
    pack([disk], target, kind="gce", options={"sparse": sparse})
    with open_bundle(target) as bundle:
        assert bundle.kind == "gce"
        assert [(each.name, each.format, each.size) for each in bundle.disks] == [
            ("disk", "raw", GIB)
        ]
        with bundle.open_disk() as inside:
            assert inside.size == GIB
            want = disk.read_bytes()
            for offset in (0, 20 * MIB, 70 * MIB - 60_000):
                length = min(400_000, len(want) - offset)
                assert inside.read(offset, length) == want[offset : offset + length]


@pytest.mark.peer("tar", "qemu-img")
def test_what_googles_documents_say_to_type_is_converted(disk: Path, tmp_path: Path) -> None:
    with disk.open("r+b") as file:
        file.truncate(GIB)
    disk.rename(tmp_path / "disk.raw")
    target = tmp_path / "image.tar.gz"
    peers.run("tar", "--format=oldgnu", "-Sczf", target, "-C", tmp_path, "disk.raw")
    vmimg.convert(target, tmp_path / "out.qcow2")
    peers.run("qemu-img", "compare", tmp_path / "out.qcow2", tmp_path / "disk.raw")


def test_a_disk_with_a_boot_record_of_another_format_is_raw_all_the_same(tmp_path: Path) -> None:
    """A guest can write a qcow2 header to its first sector."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(MIB))
    target = tmp_path / "image.tar.gz"
    pack([vmimg.open(path, format="raw")], target, kind="gce")
    with open_bundle(target) as bundle, bundle.open_disk() as inside:
        assert inside.format == "raw"
        assert inside.read(0, 4) == b"QFI\xfb"


def test_two_disks_or_other_files_are_refused(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.tar.gz"
    with pytest.raises(OptionError, match="one disk, not 2"):
        pack([disk, disk], target, kind="gce")
    with pytest.raises(OptionError, match="a disk and nothing else"):
        pack([disk], target, kind="gce", files={"licence": disk})
    assert not target.exists()
