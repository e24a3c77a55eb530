"""Reading QED: images of qemu-img and qemu-io, images made by hand, chains of all kinds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import qed_by_hand as by_hand
from qed_by_hand import NEED_CHECK, NO_PROBE, ZERO, Image, flat
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.layer import ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, OptionError, UnsafeImage, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert

KIB, MIB = 1 << 10, 1 << 20


def content_of(path: Path, parent_format: str | None = None) -> bytes:
    with open_disk(path, policy=ParentPolicy(parent_format=parent_format)) as disk:
        return disk.read(0, disk.size)


def by_qemu(path: Path, folder: Path, format: str = "qed") -> bytes:
    """What QEMU reads."""
    peers.run("qemu-img", "convert", "-f", format, "-O", "raw", path, folder / "by_qemu")
    return (folder / "by_qemu").read_bytes()


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "options",
    ["cluster_size=4k,table_size=2", "cluster_size=4k,table_size=16", "cluster_size=64k",
     "cluster_size=1M,table_size=8"],
)  # fmt: skip
@pytest.mark.parametrize("size", [512, MIB, 9 * MIB + 1536])
def test_what_qemu_img_makes_reads_as_its_source(tmp_path: Path, options: str, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.qed"
    peers.run("qemu-img", "convert", "-O", "qed", "-o", options, raw, image)
    assert content_of(image) == content
    ours = image_info(image)[0].to_json()
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    for key in ("virtual-size", "format", "cluster-size", "dirty-flag"):
        assert ours[key] == theirs[key]


@pytest.mark.peer("qemu-img", "qemu-io")
def test_the_map_is_that_of_qemu(tmp_path: Path) -> None:
    image = tmp_path / "a.qed"
    peers.run("qemu-img", "create", "-q", "-f", "qed", "-o", "cluster_size=4k", image, "40M")
    writes = ["write -P 1 8k 100k", "write -z 1M 1M", "write -P 2 39M 4k", "write -P 3 4M 9M"]
    peers.run("qemu-io", *[word for write in writes for word in ("-c", write)], image)
    theirs = [
        (row["start"], row["length"], row["offset"])
        for row in peers.run_json("qemu-img", "map", "--output", "json", image)
        if row["data"]
    ]
    with open_disk(image) as disk:
        extents = [extent for extent in disk.map() if extent.kind == Kind.DATA]
        ours = [(extent.start, extent.length, extent.offset) for extent in extents]
        zeros = [(start, end) for start, end, kind in disk.top.spans(0, MIB * 3) if kind == 1]
    assert ours == theirs and len(ours) > 2
    assert zeros == [(MIB, 2 * MIB)]


def test_scattered_clusters_and_tables_in_a_long_header(tmp_path: Path) -> None:
    places = random.Random(1).sample(range(9, 60), 40)
    blocks = dict(zip(random.Random(2).sample(range(2048), 40), places, strict=True))
    blocks |= {5: ZERO, 1030: ZERO}
    image = Image(8 * MIB, {0: 7, 1: 60}, blocks, header_size=3, l1=4, features=0)
    file, content = image.build()
    path = tmp_path / "a.qed"
    path.write_bytes(file)
    wanted = flat(image, content)
    assert content_of(path) == wanted
    with open_disk(path) as disk:
        for start in random.Random(3).sample(range(disk.size), 20):
            length = min(30_000, disk.size - start)
            assert disk.read(start, length) == wanted[start : start + length]
    if peers.has("qemu-img"):
        assert by_qemu(path, tmp_path) == wanted


def test_tables_of_one_cluster_are_read_though_qemu_refuses_them(tmp_path: Path) -> None:
    image = Image(3 * MIB, {0: 2, 1: 3}, {7: 4, 600: 5}, table_size=1)
    file, content = image.build()
    (tmp_path / "a.qed").write_bytes(file)
    assert content_of(tmp_path / "a.qed") == flat(image, content)
    assert any("QEMU refuses" in note for note in image_info(tmp_path / "a.qed")[0].image.notes)


# Backing files


def raw_base(folder: Path) -> tuple[Path, bytes]:
    content = random.Random(9).randbytes(3 * MIB) + bytes(MIB)
    (folder / "base.raw").write_bytes(content)
    return folder / "base.raw", content


def qemu_child(folder: Path, base: Path, format: str, name: str, *writes: str) -> Path:
    """A QED above ``base``, written into by QEMU."""
    path = folder / name
    peers.run(
        *("qemu-img", "create", "-q", "-f", "qed", "-b", base.name, "-F", format, path), cwd=folder
    )
    peers.run("qemu-io", *[word for write in writes for word in ("-c", write)], path)
    return path


@pytest.mark.peer("qemu-img", "qemu-io")
def test_a_raw_backing_file_is_declared_and_zeros_hide_it(tmp_path: Path) -> None:
    base, content = raw_base(tmp_path)
    path = qemu_child(tmp_path, base, "raw", "a.qed", "write -P 7 100k 70k", "write -z 1M 512k")
    wanted = bytearray(content)
    wanted[100 * KIB : 170 * KIB] = b"\7" * (70 * KIB)
    wanted[MIB : MIB + 512 * KIB] = bytes(512 * KIB)
    assert content_of(path) == wanted
    assert image_info(path)[0].image.parent == ParentRef("base.raw", "raw")
    with open_disk(path) as disk:
        assert next(iter(disk.top.spans(MIB, 2 * MIB))) == (MIB, MIB + 512 * KIB, Kind.ZERO)


@pytest.mark.peer("qemu-img", "qemu-io")
def test_the_format_of_other_backing_files_has_to_be_said(tmp_path: Path) -> None:
    base, content = raw_base(tmp_path)
    middle = tmp_path / "middle.qcow2"
    convert(base, middle)
    path = qemu_child(tmp_path, middle, "qcow2", "a.qed", "write -P 7 100k 70k")
    assert image_info(path)[0].image.parent == ParentRef("middle.qcow2", None)
    with pytest.raises(ChainError, match="--backing-format"):
        content_of(path)
    wanted = content[: 100 * KIB] + b"\7" * (70 * KIB) + content[170 * KIB :]
    assert content_of(path, "qcow2") == wanted


@pytest.mark.peer("qemu-img", "qemu-io")
def test_qed_above_qed_above_raw(tmp_path: Path) -> None:
    base, content = raw_base(tmp_path)
    middle = qemu_child(tmp_path, base, "raw", "m.qed", "write -P 1 0 1M", "write -z 2M 128k")
    top = qemu_child(tmp_path, middle, "qed", "t.qed", "write -P 2 512k 1M")
    wanted = bytearray(content)
    wanted[: 512 * KIB] = b"\1" * (512 * KIB)
    wanted[512 * KIB : 1536 * KIB] = b"\2" * MIB
    wanted[2 * MIB : 2 * MIB + 128 * KIB] = bytes(128 * KIB)
    assert content_of(top, "qed") == wanted == by_qemu(top, tmp_path)


def test_a_raw_parent_is_not_probed_whatever_it_looks_like(tmp_path: Path) -> None:
    # CVE-2008-2004: a guest that owns a raw disk writes an image's header into it.
    trap = Image(MIB, backing=b"/etc/passwd", features=NO_PROBE).build()[0]
    (tmp_path / "base.raw").write_bytes(trap)
    image = Image(len(trap), backing=b"base.raw", features=NO_PROBE)
    (tmp_path / "a.qed").write_bytes(image.build()[0])
    assert content_of(tmp_path / "a.qed", "qed") == trap


def test_a_shorter_backing_file_ends_in_zeros(tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(b"x" * 5000)
    image = Image(20_480, {0: 3}, {4: 5}, backing=b"base.raw", features=NO_PROBE)
    file, content = image.build()
    (tmp_path / "a.qed").write_bytes(file)
    assert content_of(tmp_path / "a.qed") == flat(image, content, b"x" * 5000)


@pytest.mark.parametrize("named", [b"/etc/passwd", b"../x", b"nbd://host/disk", b"json:{}"])
def test_a_backing_file_elsewhere_is_not_followed(tmp_path: Path, named: bytes) -> None:
    image = Image(MIB, backing=named, features=NO_PROBE)
    (tmp_path / "a.qed").write_bytes(image.build()[0])
    with pytest.raises(UnsafeImage):
        content_of(tmp_path / "a.qed")


def test_the_name_may_be_anywhere_in_the_header(tmp_path: Path) -> None:
    raw_base(tmp_path)
    image = Image(
        MIB, backing=b"base.raw", features=NO_PROBE, header_size=2, l1=2, name_offset=8000
    )
    (tmp_path / "a.qed").write_bytes(image.build()[0])
    assert image_info(tmp_path / "a.qed")[0].image.parent == ParentRef("base.raw", "raw")


# Features


def test_unknown_features_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.qed").write_bytes(Image(MIB, features=1 << 3 | 1 << 40).build()[0])
    read: tuple[Callable[[Path], object], ...] = (content_of, image_info)
    for one in read:
        with pytest.raises(UnsupportedFeature, match="bit 3, 40 of features"):
            one(tmp_path / "a.qed")


def test_unknown_compatible_and_autoclear_features_are_passed_over(tmp_path: Path) -> None:
    image = Image(MIB, {0: 3}, {0: 5}, compat=1 << 9, autoclear=1 << 63)
    file, content = image.build()
    (tmp_path / "a.qed").write_bytes(file)
    assert content_of(tmp_path / "a.qed") == flat(image, content)
    details = image_info(tmp_path / "a.qed")[0].image.details
    assert (details["compatible-features"], details["autoclear-features"]) == (1 << 9, 1 << 63)


@pytest.mark.peer("qemu-img", "qemu-io")
def test_an_image_that_nobody_closed_is_dirty_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.qed"
    peers.run("qemu-img", "create", "-q", "-f", "qed", path, "4M")
    peers.run("qemu-io", "-c", "write -P 9 1M 64k", "-c", "abort", path, ok=(-6, 134))
    assert path.read_bytes()[by_hand.FEATURES] == NEED_CHECK
    before = path.read_bytes()
    assert image_info(path)[0].to_json()["dirty-flag"]
    assert content_of(path)[MIB : MIB + 64 * KIB] == b"\x09" * (64 * KIB)
    assert path.read_bytes() == before


def test_there_are_no_snapshots(tmp_path: Path) -> None:
    (tmp_path / "a.qed").write_bytes(Image(MIB).build()[0])
    with pytest.raises(OptionError, match="no snapshots"):
        open_disk(tmp_path / "a.qed", snapshot="1")


def test_a_part_of_a_cluster_at_the_end_of_the_file_is_none(tmp_path: Path) -> None:
    # QEMU counts whole clusters only, and finds nothing where this one should be.
    file, _ = Image(MIB, {0: 3}, {0: 5, 1: 6}).build()
    path = tmp_path / "a.qed"
    path.write_bytes(file[:-512])
    with open_disk(path) as disk:
        assert len(disk.read(0, 4096)) == 4096
        with pytest.raises(FormatError, match="no cluster there"):
            disk.read(4096, 1)
    if peers.has("qemu-io"):
        done = peers.run("qemu-io", "-r", "-c", "read 4k 512", path, ok=(0, 1))
        assert b"read failed" in done.stdout + done.stderr


def test_an_empty_disk_as_large_as_they_get_is_mapped_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.qed"
    # 64 MiB clusters, and tables of 1 GiB that are a hole of the file but for a few entries.
    cluster = 64 * MIB
    head = bytearray(Image(MIB, table_size=16).build()[0][:4096])
    head[by_hand.CLUSTER_SIZE : by_hand.CLUSTER_SIZE + 4] = cluster.to_bytes(4, "little")
    head[by_hand.L1_OFFSET : by_hand.L1_OFFSET + 8] = cluster.to_bytes(8, "little")
    head[by_hand.IMAGE_SIZE : by_hand.IMAGE_SIZE + 8] = (1 << 53).to_bytes(8, "little")
    data, block = 33 * cluster, 100_000_000
    with path.open("wb") as file:
        file.write(head)
        for offset, number in ((cluster, 17 * cluster), (17 * cluster + 8 * block, data)):
            file.seek(offset)
            file.write(number.to_bytes(8, "little"))
        file.truncate(data + cluster)
    with open_disk(path, policy=ParentPolicy(max_size=1 << 53)) as disk:
        spans = [span for span in disk.spans() if span[2] == Kind.DATA]
        assert spans == [(block * cluster, (block + 1) * cluster, Kind.DATA)]


def test_what_a_crash_left_in_the_tables_says_what_to_do(tmp_path: Path) -> None:
    file = bytearray(Image(MIB, {0: 3}, {0: 5}, features=NEED_CHECK).build()[0])
    file[3 * 4096 + 8 : 3 * 4096 + 16] = (6 * 4096).to_bytes(8, "little")
    path = tmp_path / "a.qed"
    path.write_bytes(file)
    with open_disk(path) as disk, pytest.raises(FormatError, match="--repair all"):
        disk.read(4096, 512)
    check(path, repair="all")
    assert content_of(path)[4096:8192] == bytes(4096)
