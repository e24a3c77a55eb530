"""Reading VMDK: each kind of it, made by qemu-img or by hand, and what others see in it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmdk_by_hand import cowd, descriptor, hosted, marker, se_sparse, stream
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, UnsafeImage, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.detect import detect
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vmdk.descriptor import parse_descriptor
from vmimg.storage.memory import MemoryStorage

SUBFORMATS = (
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
)
MIB = 1 << 20
SIZE = 5 * MIB + 37 * 512


def read_all(path: Path, **more: Any) -> bytes:
    with open_disk(path, **more) as disk:
        return disk.read(0, disk.size)


def by_qemu(path: Path) -> bytes:
    raw = path.with_suffix(".by-qemu")
    peers.run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, raw)
    return raw.read_bytes()


def by_dissect(path: Path) -> bytes:
    peers.require("dissect.hypervisor")
    from dissect.hypervisor.disk.vmdk import VMDK

    disk = VMDK(path)
    data: bytes = disk.read(disk.size)
    return data


def by_libvmdk(path: Path) -> bytes:
    peers.require("pyvmdk")
    import pyvmdk

    handle = pyvmdk.handle()
    handle.open(str(path))
    handle.open_extent_data_files()
    data: bytes = handle.read_buffer_at_offset(handle.get_media_size(), 0)
    handle.close()
    return data


def data_of(path: Path, seed: int = 1) -> bytes:
    content = awkward_disk(SIZE, seed)
    write_sparse(path, content)
    return content


# What qemu-img makes


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_what_qemu_makes_reads_as_what_went_in(tmp_path: Path, subformat: str) -> None:
    content = data_of(tmp_path / "raw")
    image = tmp_path / "disk.vmdk"
    options = f"subformat={subformat}"
    peers.run("qemu-img", "convert", "-O", "vmdk", "-o", options, tmp_path / "raw", image)
    assert read_all(image) == content
    noise = random.Random(2)
    with open_disk(image) as disk:
        for _ in range(50):
            start = noise.randrange(SIZE)
            length = min(SIZE - start, noise.choice([1, 512, 65536, 300_000]))
            assert disk.read(start, length) == content[start : start + length]


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_info_says_what_qemu_img_says(tmp_path: Path, subformat: str) -> None:
    image = tmp_path / "disk.vmdk"
    peers.run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", image, "3G")
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    ours = image_info(image)[0].to_json()
    assert ours["virtual-size"] == theirs["virtual-size"] == 3 << 30
    assert ours["dirty-flag"] is theirs["dirty-flag"] is False
    data, expected = ours["format-specific"]["data"], theirs["format-specific"]["data"]
    for key in ("cid", "parent-cid", "create-type"):
        assert data[key] == expected[key]
    assert data["adapter-type"] == "ide"
    if subformat.startswith("twoGb"):
        # Nothing that the text names is opened; the grains of the extents stay unknown.
        for extent in expected["extents"]:
            extent.pop("cluster-size", None)
    assert data["extents"] == expected["extents"]
    if "cluster-size" in ours:
        assert ours["cluster-size"] == theirs["cluster-size"]


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_the_map_names_the_places_that_qemu_names(tmp_path: Path, subformat: str) -> None:
    data_of(tmp_path / "raw")
    image = tmp_path / "disk.vmdk"
    options = f"subformat={subformat}"
    peers.run("qemu-img", "convert", "-O", "vmdk", "-o", options, tmp_path / "raw", image)
    theirs = {
        (entry["start"], entry["length"], entry.get("offset"))
        for entry in peers.run_json("qemu-img", "map", "--output", "json", image)
        if entry["data"]
    }
    with open_disk(image) as disk:
        extents = [extent for extent in disk.map() if extent.kind == Kind.DATA]
    ours = {(extent.start, extent.length, extent.offset) for extent in extents}
    assert ours == theirs
    file = None if subformat == "monolithicSparse" else str(tmp_path / "disk-s001.vmdk")
    assert {extent.file for extent in extents} == {file}


@pytest.mark.peer("qemu-img", "qemu-io")
def test_extents_are_joined_where_two_gigabytes_end(tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    options = "subformat=twoGbMaxExtentSparse"
    peers.run("qemu-img", "create", "-q", "-f", "vmdk", "-o", options, image, "5G")
    edge = 2 << 30
    commands = (f"write -P 1 {edge - 65536} 128k", f"write -P 2 {2 * edge - 512} 1k")
    words = [word for command in commands for word in ("-c", command)]
    peers.run("qemu-io", "-f", "vmdk", *words, image)
    with open_disk(image) as disk:
        assert disk.size == 5 << 30
        assert disk.read(edge - 65537, 131074) == b"\0" + b"\1" * 131072 + b"\0"
        assert disk.read(2 * edge - 513, 1026) == b"\0" + b"\2" * 1024 + b"\0"
        data = [extent for extent in disk.map() if extent.kind == Kind.DATA]
        files = {extent.file for extent in data}
        assert files == {str(tmp_path / f"disk-s00{n}.vmdk") for n in (1, 2, 3)}
        spans = [span for span in disk.spans() if span[2] == Kind.DATA]
        assert spans == [
            (edge - 65536, edge + 65536, Kind.DATA), (2 * edge - 65536, 2 * edge + 65536, Kind.DATA)
        ]  # fmt: skip


@pytest.mark.peer("qemu-img")
def test_an_extent_is_a_disk_by_itself(tmp_path: Path) -> None:
    content = data_of(tmp_path / "raw")
    options = "subformat=twoGbMaxExtentSparse"
    command = ("convert", "-O", "vmdk", "-o", options, tmp_path / "raw", tmp_path / "disk.vmdk")
    peers.run("qemu-img", *command)
    assert read_all(tmp_path / "disk-s001.vmdk") == content
    image = image_info(tmp_path / "disk-s001.vmdk")[0].image
    assert "extent without a descriptor" in image.notes[0]


@pytest.mark.peer("qemu-img")
def test_a_disk_of_terabytes_is_looked_through_in_no_time(tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    peers.run("qemu-img", "create", "-q", "-f", "vmdk", image, "8T")
    began = time.process_time()
    with open_disk(image) as disk:
        assert [(e.start, e.length, e.kind) for e in disk.map()] == [(0, 8 << 40, Kind.ABSENT)]
        assert list(disk.spans()) == [(0, 8 << 40, Kind.ABSENT)]
        assert disk.read((8 << 40) - 10, 10) == bytes(10)
    assert time.process_time() - began < 0.5


# Hosted sparse extents by hand


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("grain", [1, 16, 128])
def test_versions_and_grain_sizes(tmp_path: Path, version: int, grain: int) -> None:
    content = awkward_disk(MIB + 8192, 3)
    text = descriptor(f'RW {len(content) // 512} SPARSE "disk.vmdk"')
    image = tmp_path / "disk.vmdk"
    image.write_bytes(hosted(content, text=text, version=version, grain=grain, backwards=True))
    assert read_all(image) == content
    assert by_qemu(image) == content
    if grain == 128:
        assert by_dissect(image) == content


@pytest.mark.peer("qemu-img")
def test_small_grain_tables(tmp_path: Path) -> None:
    content = awkward_disk(MIB, 3)
    image = tmp_path / "disk.vmdk"
    text = descriptor(f'RW {len(content) // 512} SPARSE "disk.vmdk"')
    image.write_bytes(hosted(content, text=text, grain=8, gtes=100))
    assert read_all(image) == content == by_qemu(image)


@pytest.mark.peer("qemu-img")
def test_zeroed_grains_are_zero_and_hide_the_parent(tmp_path: Path) -> None:
    content = bytes(range(1, 256)) * 4112 + bytes(16)
    content = content[: 16 * 65536]
    text = descriptor(f'RW {len(content) // 512} SPARSE "disk.vmdk"')
    image = tmp_path / "disk.vmdk"
    image.write_bytes(hosted(content, text=text, version=2, zeroed={3, 4}, absent={7}))
    expected = bytearray(content)
    for grain in (3, 4, 7):
        expected[grain * 65536 : (grain + 1) * 65536] = bytes(65536)
    assert read_all(image) == expected == by_qemu(image)
    with open_disk(image) as disk:
        kinds = [(e.start // 65536, e.kind) for e in disk.map() if e.kind != Kind.DATA]
    assert kinds == [(3, Kind.ZERO), (7, Kind.ABSENT)]


def test_an_entry_of_one_without_the_flag_is_a_place(tmp_path: Path) -> None:
    content = awkward_disk(MIB, 3)
    image = hosted(content)
    image.put(image.entry(2), 1)
    (tmp_path / "disk.vmdk").write_bytes(image)
    with open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.read(2 * 65536, 512) == image[512:1024]


@pytest.mark.parametrize("damage", ["entry behind the end", "entry is 0", "directory is lost"])
def test_the_redundant_directory_stands_in_for_a_damaged_one(tmp_path: Path, damage: str) -> None:
    content = awkward_disk(40 * MIB, 3)
    image = hosted(content)
    if damage == "entry behind the end":
        image.put(image.gd + 4, 0x7FFF_FFFF)
    elif damage == "entry is 0":
        image.put(image.gd, 0)
    else:
        image.put(56, 1 << 40, 8)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(image)
    assert read_all(path) == content


def test_without_a_sound_copy_damage_is_an_error_and_no_zeros(tmp_path: Path) -> None:
    image = hosted(awkward_disk(MIB, 3), redundant=False)
    image.put(image.gd, 0x7FFF_FFFF)
    (tmp_path / "disk.vmdk").write_bytes(image)
    with pytest.raises(FormatError, match="grain table of virtual offset 0"):
        read_all(tmp_path / "disk.vmdk")


# Streams


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("footer", [True, False])
def test_streams_with_and_without_a_footer(tmp_path: Path, version: int, footer: bool) -> None:
    content = awkward_disk(SIZE, 4)
    text = descriptor(f'RW {SIZE // 512} SPARSE "disk.vmdk"', kind="streamOptimized")
    image = tmp_path / "disk.vmdk"
    image.write_bytes(stream(content, text=text, version=version, footer=footer))
    assert read_all(image) == content
    assert by_qemu(image) == content
    assert by_libvmdk(image) == content
    with open_disk(image) as disk:
        assert disk.read(SIZE - 700, 700) == content[-700:]
        assert any(extent.compressed for extent in disk.map())
    info = image_info(image)[0].to_json()["format-specific"]["data"]
    assert info["extents"][0]["compressed"] is True


def test_seven_zip_sees_the_same_stream(tmp_path: Path) -> None:
    content = awkward_disk(SIZE, 4)
    text = descriptor(f'RW {SIZE // 512} SPARSE "disk.vmdk"', kind="streamOptimized")
    (tmp_path / "disk.vmdk").write_bytes(stream(content, text=text))
    out = peers.run("7z", "e", "-so", "-tvmdk", tmp_path / "disk.vmdk").stdout
    assert out == content == read_all(tmp_path / "disk.vmdk")


def test_a_stream_cut_short_says_so(tmp_path: Path) -> None:
    whole = stream(awkward_disk(SIZE, 4), text=None)
    for cut in (1024, 1536, 2048, len(whole) // 2):
        (tmp_path / "disk.vmdk").write_bytes(whole[:-cut])
        with pytest.raises(FormatError, match=r"cut short|truncated"):
            read_all(tmp_path / "disk.vmdk")
    # Without the mark of its end, and padded as some copies are, all of it is there.
    for complete in (whole[:-512], whole + bytes(5000)):
        (tmp_path / "disk.vmdk").write_bytes(complete)
        assert read_all(tmp_path / "disk.vmdk") == awkward_disk(SIZE, 4)


def test_a_grain_with_the_marker_of_another_is_damage(tmp_path: Path) -> None:
    image = bytearray(stream(awkward_disk(SIZE, 4), text=None))
    image[128 * 512] = 77
    (tmp_path / "disk.vmdk").write_bytes(image)
    with open_disk(tmp_path / "disk.vmdk") as disk, pytest.raises(FormatError, match="sector 77"):
        disk.read(0, 512)


def test_grains_of_a_stream_in_any_order(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(3 * 65536)
    image = bytearray(stream(content, text=None, footer=False))
    gt = image.index(marker(4, 1)) + 512
    first, last = image[gt : gt + 4], image[gt + 8 : gt + 12]
    image[gt : gt + 4], image[gt + 8 : gt + 12] = last, first
    places = [int.from_bytes(piece, "little") * 512 for piece in (first, last)]
    image[places[0] : places[0] + 8] = (2 * 128).to_bytes(8, "little")
    image[places[1] : places[1] + 8] = bytes(8)
    (tmp_path / "disk.vmdk").write_bytes(image)
    swapped = content[2 * 65536 :] + content[65536 : 2 * 65536] + content[:65536]
    assert read_all(tmp_path / "disk.vmdk") == swapped


# ESX: COWD, seSparse, VMFS


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("grain", [1, 8, 128])
def test_a_cow_disk_of_esx(tmp_path: Path, grain: int) -> None:
    content = awkward_disk(5 * MIB, 6)
    (tmp_path / "disk-delta.vmdk").write_bytes(cowd(content, grain=grain))
    text = descriptor(f'RW {len(content) // 512} VMFSSPARSE "disk-delta.vmdk"', kind="vmfsSparse")
    (tmp_path / "disk.vmdk").write_bytes(text)
    assert read_all(tmp_path / "disk.vmdk") == content == by_qemu(tmp_path / "disk.vmdk")
    assert read_all(tmp_path / "disk-delta.vmdk") == content
    info = image_info(tmp_path / "disk-delta.vmdk")[0].image
    assert (info.virtual_size, info.cluster_size) == (len(content), grain * 512)
    if grain == 1:
        assert by_dissect(tmp_path / "disk-delta.vmdk") == content


@pytest.mark.peer("qemu-img")
def test_a_se_sparse_disk(tmp_path: Path) -> None:
    content = bytearray(awkward_disk(35 * MIB, 7))
    for number in (5, 6, 9):
        content[number * 4096 : (number + 1) * 4096] = bytes(4096)
    extent = se_sparse(bytes(content), zeroed={5, 6}, unmapped={9})
    (tmp_path / "disk-sesparse.vmdk").write_bytes(extent)
    text = descriptor(f'RW {len(content) // 512} SESPARSE "disk-sesparse.vmdk"', kind="seSparse")
    (tmp_path / "disk.vmdk").write_bytes(text)
    assert read_all(tmp_path / "disk.vmdk") == content == by_qemu(tmp_path / "disk.vmdk")
    assert read_all(tmp_path / "disk-sesparse.vmdk") == content
    assert by_dissect(tmp_path / "disk-sesparse.vmdk") == content
    with open_disk(tmp_path / "disk.vmdk") as disk:
        zero = [(e.start, e.length) for e in disk.map() if e.kind == Kind.ZERO]
    assert zero == [(5 * 4096, 2 * 4096), (9 * 4096, 4096)]
    with pytest.raises(UnsupportedFeature, match="convert it first"):
        open_disk(tmp_path / "disk.vmdk", writable=True)


def test_a_se_sparse_disk_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    extent = se_sparse(awkward_disk(MIB, 7))
    extent[512 + 24] = 1
    (tmp_path / "disk.vmdk").write_bytes(extent)
    with pytest.raises(UnsupportedFeature, match="journal"):
        read_all(tmp_path / "disk.vmdk")


@pytest.mark.parametrize(
    "kind", ["vmfs", "vmfsThin", "vmfsEagerZeroedThick", "vmfsPreallocated", "vmfsThick"]
)
def test_flat_disks_of_vmfs(tmp_path: Path, kind: str) -> None:
    content = data_of(tmp_path / "disk-flat.vmdk")
    line = f'RW {SIZE // 512} VMFS "disk-flat.vmdk"'
    (tmp_path / "disk.vmdk").write_bytes(descriptor(line, kind=kind))
    assert read_all(tmp_path / "disk.vmdk") == content
    if kind == "vmfs":
        assert by_qemu(tmp_path / "disk.vmdk") == content
    with open_disk(tmp_path / "disk.vmdk") as disk:
        flat = str(tmp_path / "disk-flat.vmdk")
        assert {extent.file for extent in disk.map()} == {flat}
        assert all(extent.offset == extent.start for extent in disk.map())
        assert any(extent.kind == Kind.ZERO for extent in disk.map())


# Descriptors


def test_extents_of_all_kinds_in_one_disk(tmp_path: Path) -> None:
    noise = random.Random(8)
    flat, sparse, readonly = (noise.randbytes(65536 * n) for n in (4, 3, 2))
    (tmp_path / "a-flat.vmdk").write_bytes(b"X" * 1024 + flat)
    (tmp_path / "a-s.vmdk").write_bytes(hosted(sparse))
    (tmp_path / "a-r.vmdk").write_bytes(readonly)
    (tmp_path / "a.vmdk").write_bytes(
        descriptor(
            f'RW {len(flat) // 512} FLAT "a-flat.vmdk" 2',
            "RW 256 ZERO",
            f'RW {len(sparse) // 512} SPARSE "a-s.vmdk"',
            f'RDONLY {len(readonly) // 512} FLAT "a-r.vmdk" 0',
            'RW 2 FLAT "a-flat.vmdk" 0',
            'NOACCESS 128 FLAT "/dev/secret" 63',
            kind="custom",
        )
    )
    with open_disk(tmp_path / "a.vmdk") as disk:
        readable = flat + bytes(256 * 512) + sparse + readonly + b"X" * 1024
        assert disk.size == len(readable) + 65536
        assert disk.read(0, len(readable)) == readable
        assert disk.read(len(flat) - 10, 20) == flat[-10:] + bytes(10)
        with pytest.raises(UnsupportedFeature, match="NOACCESS"):
            disk.read(len(readable) - 1, 2)
        kinds = [kind for _, _, kind in disk.spans()]
        assert kinds == [Kind.DATA, Kind.ZERO, Kind.DATA]


@pytest.mark.parametrize("kind", ["fullDevice", "partitionedDevice"])
def test_devices_are_opened_only_where_that_is_allowed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "vm").mkdir()
    device = random.Random(9).randbytes(65536)
    (tmp_path / "dev" / "sda").write_bytes(device)
    path = tmp_path / "dev" / "sda"
    lines = [f'RW 128 FLAT "{path}" 0']
    if kind == "partitionedDevice":
        (tmp_path / "vm" / "disk-pt.vmdk").write_bytes(b"P" * 512)
        lines = ['RW 1 FLAT "disk-pt.vmdk" 0', "RW 31 ZERO", f'RW 96 FLAT "{path}" 32']
    image = tmp_path / "vm" / "disk.vmdk"
    image.write_bytes(descriptor(*lines, kind=kind))
    info = image_info(image)[0]
    assert info.image.virtual_size == 65536
    assert info.image.details["create-type"] == kind
    assert info.image.details["extents"][-1]["filename"] == str(path)
    with pytest.raises(UnsafeImage, match="--allow-dir"):
        open_disk(image)
    found = read_all(image, policy=ParentPolicy(allowed=(tmp_path / "dev",)))
    if kind == "fullDevice":
        assert found == device
    else:
        assert found == b"P" * 512 + bytes(31 * 512) + device[32 * 512 :]


def test_an_extent_outside_the_directory_is_not_opened(tmp_path: Path) -> None:
    for name in ("/etc/passwd", "../../../../etc/passwd", "json:{}", "nbd://host/disk"):
        image = tmp_path / "disk.vmdk"
        image.write_bytes(descriptor(f'RW 2 FLAT "{name}" 0', kind="monolithicFlat"))
        with pytest.raises(UnsafeImage):
            open_disk(image)
        assert image_info(image)[0].image.virtual_size == 1024


def test_an_image_that_is_its_own_extent_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    image.write_bytes(descriptor('RW 1 FLAT "disk.vmdk" 0', kind="monolithicFlat"))
    with pytest.raises(ChainError, match="loops"):
        open_disk(image)


def test_a_flat_extent_that_is_too_short_is_no_zeros(tmp_path: Path) -> None:
    (tmp_path / "disk-flat.vmdk").write_bytes(bytes(1000))
    image = tmp_path / "disk.vmdk"
    image.write_bytes(descriptor('RW 2 FLAT "disk-flat.vmdk" 0', kind="monolithicFlat"))
    with pytest.raises(FormatError, match="truncated"):
        open_disk(image)


@pytest.mark.peer("qemu-img")
def test_a_header_without_capacity_only_carries_the_descriptor(tmp_path: Path) -> None:
    content = data_of(tmp_path / "disk-flat.vmdk")
    text = descriptor(f'RW {SIZE // 512} FLAT "disk-flat.vmdk" 0', kind="monolithicFlat")
    image = hosted(b"", text=text)
    (tmp_path / "disk.vmdk").write_bytes(image)
    assert read_all(tmp_path / "disk.vmdk") == content == by_qemu(tmp_path / "disk.vmdk")


def test_a_disk_of_nothing(tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    image.write_bytes(hosted(b"", text=descriptor('RW 0 SPARSE "disk.vmdk"')))
    assert read_all(image) == b""
    assert image_info(image)[0].image.virtual_size == 0
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"")
        disk.zero(0, 0)
        disk.flush()
    assert check(image).exit_code == 0


@pytest.mark.parametrize(
    "start",
    [
        b"# Disk DescriptorFile\nversion=1\n",
        b"# disk descriptorfile \r\nversion=1\r\n",
        b"\xef\xbb\xbf# Disk DescriptorFile\nversion=1\n",
        b"# made by hand\n\n  \nversion=2\n",
        b"version=3\n",
        b"version = 1\n",
    ],
)
def test_descriptors_are_known_by_what_they_say(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "d-flat.vmdk").write_bytes(b"x" * 1024)
    rest = b'CID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2 FLAT "d-flat.vmdk" 0\n'
    image = tmp_path / "disk"
    image.write_bytes(start + rest)
    assert detect(MemoryStorage(start + rest))[0].format.name == "vmdk"
    assert read_all(image) == b"x" * 1024


@pytest.mark.parametrize(
    "text", [b"#!/bin/sh\nexit 0\n", b"# a comment\n", b"version=4\n", b"  \n"]
)
def test_other_texts_are_no_descriptors(text: bytes) -> None:
    assert [claim.format.name for claim in detect(MemoryStorage(text * 40))] == ["raw"]


@pytest.mark.parametrize(
    ("name", "encoding", "codec"),
    [("Größe.vmdk", "windows-1252", "cp1252"), ("磁盘.vmdk", "GBK", "gbk"),
     ("диск.vmdk", "UTF-8", "utf-8"), ("диск.vmdk", "windows-1252", "utf-8"),
     ("disk.vmdk", "zlib", "utf-8")],
)  # fmt: skip
def test_file_names_in_the_encoding_that_the_descriptor_names(
    tmp_path: Path, name: str, encoding: str, codec: str
) -> None:
    (tmp_path / name).write_bytes(b"y" * 512)
    text = descriptor(f'RW 1 FLAT "{name}" 0', kind="monolithicFlat").decode()
    text = text.replace("version=1", f'version=1\nencoding="{encoding}"')
    (tmp_path / "image.vmdk").write_bytes(text.encode(codec))
    assert read_all(tmp_path / "image.vmdk") == b"y" * 512


def test_info_tells_what_the_disk_data_base_says(tmp_path: Path) -> None:
    text = descriptor("RW 1 ZERO").replace(b"version=1", b'version=3\nchangeTrackPath="d-ctk.vmdk"')
    (tmp_path / "disk.vmdk").write_bytes(text)
    details = image_info(tmp_path / "disk.vmdk")[0].image.details
    assert details["adapter-type"] == "lsilogic"
    assert details["hw-version"] == "8"
    assert details["uuid"].startswith("60 00 C2")
    assert details["change-track-path"] == "d-ctk.vmdk"


def test_what_the_descriptor_says_is_found_whatever_its_layout() -> None:
    text = (
        b'#x\r\nCID = "1"\r\n'.replace(b'"', b"") + b"parentCID=FFFFFFFE\r\n"
        b'createType="vmfs"\r\n\r\nRW  63   VMFS   "a b.vmdk"\r\nddb.uuid = "60 00"\r\n'
    )
    found = parse_descriptor(text + bytes(100) + b"RW 9 ZERO", "x")
    assert (found.cid, found.parent_cid, found.create_type) == (1, 0xFFFF_FFFE, "vmfs")
    assert found.cid_place == (text.index(b"1\r"), 1)
    assert [(e.sectors, e.type, e.filename) for e in found.extents] == [(63, "VMFS", "a b.vmdk")]
    assert found.ddb("UUID") == "60 00"


def test_info_needs_no_numpy(tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(hosted(bytes(MIB), text=descriptor('RW 2048 SPARSE "a"')))
    (tmp_path / "b.vmdk").write_bytes(descriptor('RW 1 FLAT "c" 0'))
    (tmp_path / "c.vmdk").write_bytes(cowd(bytes(MIB)))
    (tmp_path / "d.vmdk").write_bytes(se_sparse(bytes(MIB)))
    script = (
        "import sys; from vmimg.formats.info import image_info\n"
        "for path in sys.argv[1:]: image_info(path)[0].to_json()\n"
        "assert 'numpy' not in sys.modules\n"
    )
    names = [str(tmp_path / f"{name}.vmdk") for name in "abcd"]
    subprocess.run([sys.executable, "-c", script, *names], check=True)
