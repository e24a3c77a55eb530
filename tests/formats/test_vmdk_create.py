"""Making VMDKs: the descriptor line by line, the files and their tables, chains, refusals.

The numbers are those of VMware's "Virtual Disk Format 5.0", written out here again. streamOptimized
has a file of its own: test_vmdk_stream.py.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmimg.errors import OptionError
from vmimg.formats.opening import open_disk
from vmimg.formats.vmdk import VMDK
from vmimg.formats.vmdk.geometry import Geometry, disk_geometry
from vmimg.formats.vmdk.writer import make_writer
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
SIZE = 5 * MIB + 512 * 3
KINDS = VMDK.subformats
ONE_FILE = ("monolithicSparse", "streamOptimized")
CHILDREN: list[dict[str, Any]] = [
    {"subformat": "monolithicSparse"},
    {"subformat": "monolithicSparse", "zeroed_grain": True},
    {"subformat": "twoGbMaxExtentSparse"},
    {"subformat": "twoGbMaxExtentSparse", "zeroed_grain": True},
    {"subformat": "streamOptimized"},
    {"subformat": "vmfsSparse"},
]


@pytest.fixture(scope="module")
def content() -> bytes:
    return awkward_disk(SIZE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", content)


def text_of(image: Path) -> str:
    """The descriptor, wherever it is."""
    data = image.read_bytes()
    if data[:4] != b"KDMV":
        return data.decode()
    offset, sectors = struct.unpack_from("<QQ", data, 28)
    assert (offset, sectors) == (1, 20)
    text = data[offset * 512 : (offset + sectors) * 512]
    assert text.rstrip(b"\0").count(b"\0") == 0
    return text.rstrip(b"\0").decode()


def settings(image: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.]+) ?= ?(.*)$", text_of(image), re.MULTILINE)
    return {key: value.strip('"') for key, value in found}


def label(options: dict[str, Any]) -> str:
    return ",".join(str(value) for value in options.values())


# The descriptor


DESCRIPTOR = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=<8>
parentCID=ffffffff
isNativeSnapshot="no"
createType="{kind}"

# Extent description
{extent}

# The Disk Data Base
#DDB

ddb.adapterType = "{adapter}"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{track}"
ddb.longContentID = "<32>"
{more}ddb.virtualHWVersion = "4"
"""
UUID = 'ddb.uuid = "60 00 C2 9<more>"\n'
TOOLS = 'ddb.toolsVersion = "2147483647"\n'


@pytest.mark.parametrize(
    ("subformat", "extent", "more"),
    [
        ("monolithicSparse", 'RW 10243 SPARSE "my disk.vmdk"', TOOLS + UUID),
        ("monolithicFlat", 'RW 10243 FLAT "my disk-flat.vmdk" 0', TOOLS + UUID),
        ("twoGbMaxExtentSparse", 'RW 10243 SPARSE "my disk-s001.vmdk"', TOOLS + UUID),
        ("twoGbMaxExtentFlat", 'RW 10243 FLAT "my disk-f001.vmdk" 0', TOOLS + UUID),
        (
            "streamOptimized",
            'RW 10243 SPARSE "generated-stream.vmdk"',
            'ddb.toolsInstallType = "4"\n' + TOOLS + UUID,
        ),
        ("vmfs", 'RW 10243 VMFS "my disk-flat.vmdk"', TOOLS + UUID),
        (
            "vmfsThin",
            'RW 10243 VMFS "my disk-flat.vmdk"',
            'ddb.thinProvisioned = "1"\n' + TOOLS + UUID,
        ),
        ("vmfsEagerZeroedThick", 'RW 10243 VMFS "my disk-flat.vmdk"', TOOLS + UUID),
        ("vmfsSparse", 'RW 10243 VMFSSPARSE "my disk-delta.vmdk"', TOOLS + UUID),
    ],
)
def test_the_descriptor_is_vmwares_line_by_line(
    tmp_path: Path, subformat: str, extent: str, more: str
) -> None:
    image = tmp_path / "my disk.vmdk"
    create(image, SIZE, format="vmdk", options={"subformat": subformat})
    hosted = subformat.startswith(("mono", "two"))
    expected = DESCRIPTOR.format(
        kind="vmfs" if subformat in ("vmfsThin", "vmfsEagerZeroedThick") else subformat,
        extent=extent,
        adapter="ide" if hosted else "lsilogic",
        cylinders=10 if hosted else 5,
        heads=16 if hosted else 64,
        track=63 if hosted else 32,
        more=more,
    )
    pattern = re.escape(expected).replace("<8>", "[0-9a-f]{8}").replace("<32>", "[0-9a-f]{32}")
    pattern = pattern.replace(
        "<more>", "[0-9a-f](?: [0-9a-f]{2}){4}-[0-9a-f]{2}(?: [0-9a-f]{2}){7}"
    )
    assert re.fullmatch(pattern, text_of(image)), text_of(image)
    assert {file.name for file in tmp_path.iterdir()} == {
        "my disk.vmdk",
        *re.findall('"(my disk-.*)"', extent),
    }


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"adapter_type": "buslogic"}, "ddb.adapterType", "buslogic"),
        ({"adapter_type": "legacyESX"}, "ddb.geometry.heads", "64"),
        ({"adapter_type": "ide", "subformat": "streamOptimized"}, "ddb.geometry.heads", "16"),
        ({"hwversion": "13"}, "ddb.virtualHWVersion", "13"),
        ({"compat6": True}, "ddb.virtualHWVersion", "6"),
        ({"tools_version": "12352"}, "ddb.toolsVersion", "12352"),
        ({"toolsversion": "12352"}, "ddb.toolsVersion", "12352"),
    ],
    ids=str,
)
def test_options_show_in_the_descriptor(
    tmp_path: Path, options: dict[str, Any], key: str, value: str
) -> None:
    create(tmp_path / "disk.vmdk", SIZE, format="vmdk", options=options)
    assert settings(tmp_path / "disk.vmdk")[key] == value


@pytest.mark.parametrize(
    ("gib", "adapter", "geometry"),
    [
        (0.5, "lsilogic", Geometry(512, 64, 32)),
        (1, "buslogic", Geometry(512, 128, 32)),
        (2, "lsilogic", Geometry(261, 255, 63)),
        (11, "lsilogic", Geometry(1435, 255, 63)),
        (1 << 20, "lsilogic", Geometry(65535, 255, 63)),
        (1, "ide", Geometry(2080, 16, 63)),
        (40, "ide", Geometry(16383, 16, 63)),
        (0, "ide", Geometry(1, 16, 63)),
    ],
)
def test_the_geometry_follows_vmwares_rules(gib: float, adapter: str, geometry: Geometry) -> None:
    assert disk_geometry(int(gib * (1 << 21)), adapter) == geometry


def test_the_identity_is_the_contents_and_not_the_clocks(tmp_path: Path, content: bytes) -> None:
    def identity(folder: str, disk: bytes, **options: Any) -> tuple[str, str, str]:
        (tmp_path / folder).mkdir()
        source = write_sparse(tmp_path / folder / "source.raw", disk)
        name = options.pop("name", "disk")
        convert(source, tmp_path / folder / f"{name}.vmdk", options=options)
        found = settings(tmp_path / folder / f"{name}.vmdk")
        assert found["ddb.longContentID"].endswith(found["CID"])
        return found["CID"], found["ddb.longContentID"], found["ddb.uuid"]

    first = identity("1", content)
    assert identity("2", content) == first
    moved = content[:MIB] + bytes(65536) + content[MIB + 65536 :]
    others = [
        identity("blocks", moved),
        identity("size", content + bytes(512)),
        identity("name", content, name="other"),
        identity("option", content, hwversion="8"),
        identity("kind", content, subformat="vmfs"),
    ]
    for index in range(3):
        assert len({each[index] for each in [first, *others]}) == len(others) + 1


# Files


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", KINDS)
def test_qemu_reads_every_kind(tmp_path: Path, raw: Path, subformat: str) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", raw, image)
    peers.run("qemu-img", "check", image)
    info = peers.run_json("qemu-img", "info", "--output=json", image)
    kind = "vmfs" if subformat in ("vmfsThin", "vmfsEagerZeroedThick") else subformat
    assert info["format-specific"]["data"]["create-type"] == kind
    assert info["format-specific"]["data"]["cid"] == int(settings(image)["CID"], 16)
    with open_disk(image) as disk, open_disk(raw) as source:
        assert disk.read(0, SIZE) == source.read(0, SIZE)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("sparse", [0, 512, 4096, 2 * MIB])
@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_pieces_of_2047_mib_hold_what_crosses_their_borders(
    tmp_path: Path, subformat: str, sparse: int
) -> None:
    piece = 2047 * MIB
    size = 2 * piece + 3 * MIB + 512
    source = tmp_path / "source.raw"
    with open(source, "wb") as file:
        file.truncate(size)
        for border in (piece, 2 * piece):
            file.seek(border - MIB - 1000)
            file.write(b"across the border" * 130_000)
        file.seek(size - 512)
        file.write(b"the last sector")
    if sparse == 0:
        # Everything is stored: as much of it as one would like to write here.
        size = 3 * MIB + 512
        with open(source, "r+b") as file:
            file.truncate(size)
    image = tmp_path / "disk.vmdk"
    convert(source, image, options={"subformat": subformat}, sparse=sparse)
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", source, image)
    letter = "s" if subformat.endswith("Sparse") else "f"
    sectors = [4192256, 4192256, 3 * 2048 + 1] if sparse else [3 * 2048 + 1]
    found = re.findall(r'^RW (\d+) [A-Z]+ "(.*)"', text_of(image), re.MULTILINE)
    assert found == [
        (str(n), f"disk-{letter}{number:03}.vmdk") for number, n in enumerate(sectors, 1)
    ]
    for (count, name), expected in zip(found, sectors, strict=True):
        data = (tmp_path / name).open("rb").read(512)
        if letter == "s":
            # A piece has its own tables and no descriptor.
            assert struct.unpack_from("<4sIIQQQQ", data) == (b"KDMV", 1, 3, expected, 128, 0, 0)
            assert (tmp_path / name).stat().st_size < 1 << 31
        else:
            assert (tmp_path / name).stat().st_size == int(count) * 512


@pytest.mark.parametrize("zeroed", [False, True])
def test_the_tables_of_a_sparse_file_lie_where_vmware_puts_them(
    tmp_path: Path, zeroed: bool
) -> None:
    source, image = tmp_path / "source.raw", tmp_path / "disk.vmdk"
    grains = {3: b"three", 511: b"the first table's last", 512: b"the second's first", 1500: b"x"}
    with open(source, "wb") as file:
        file.truncate(100 * MIB + 512)
        for grain, data in grains.items():
            file.seek(grain * 65536 + 700)
            file.write(data)
    convert(source, image, options={"zeroed_grain": zeroed})
    data = image.read_bytes()
    magic, version, flags, capacity, grain_sectors, _, _, gtes, rgd, gd, overhead = (
        struct.unpack_from("<4sIIQQQQIQQQ", data)
    )
    assert (magic, version, flags) == (b"KDMV", 1 + zeroed, 7 if zeroed else 3)
    assert (capacity, grain_sectors, gtes) == (100 * 2048 + 1, 128, 512)
    assert data[72:79] == b"\0\n \r\n\0\0"  # clean, the test of line ends, no compression
    # 1601 grains take four tables of four sectors each, behind a directory of one.
    assert (rgd, gd, overhead) == (21, 21 + 1 + 16, 128)
    for directory in (rgd, gd):
        tables = struct.unpack_from("<128I", data, directory * 512)
        assert tables == tuple(directory + 1 + 4 * n if n < 4 else 0 for n in range(128))
        entries = struct.unpack_from("<2048I", data, (directory + 1) * 512)
        places = {grain: entry for grain, entry in enumerate(entries) if entry}
        assert places == {g: 128 + 128 * n for n, g in enumerate(grains)}
    assert len(data) == (128 + 128 * len(grains)) * 512
    for number, expected in enumerate(grains.values(), 1):
        assert data[number * 65536 + 700 :].startswith(expected)


def test_a_delta_of_esx_stores_single_sectors(tmp_path: Path) -> None:
    source, image = tmp_path / "source.raw", tmp_path / "disk.vmdk"
    sectors = {0: b"first", 4095: b"last of a table", 4096: b"next", 12287: b"end"}
    with open(source, "wb") as file:
        file.truncate(6 * MIB)
        for sector, data in sectors.items():
            file.seek(sector * 512)
            file.write(data)
    convert(source, image, options={"subformat": "vmfsSparse"}, sparse=512)
    data = (tmp_path / "disk-delta.vmdk").read_bytes()
    # magic, version, flags, sectors, grain, directory and its entries, next free sector, C/H/S
    assert struct.unpack_from("<4s10I", data) == (
        b"COWD", 1, 3, 12288, 1, 4, 3, 5 + 3 * 32 + 4, 6, 64, 32,
    )  # fmt: skip
    directory = struct.unpack_from("<3I", data, 4 * 512)
    for sector, expected in sectors.items():
        table = directory[sector // 4096]
        (place,) = struct.unpack_from("<I", data, table * 512 + sector % 4096 * 4)
        assert data[place * 512 : place * 512 + 512] == expected.ljust(512, b"\0")
    assert len(data) == (5 + 3 * 32 + 4) * 512


def test_thick_is_thick_and_thin_is_thin(tmp_path: Path, raw: Path) -> None:
    taken = {}
    for kind in ("vmfs", "vmfsThin", "vmfsEagerZeroedThick", "monolithicFlat"):
        image = tmp_path / f"{kind}.vmdk"
        convert(raw, image, options={"subformat": kind})
        flat = tmp_path / f"{kind}-flat.vmdk"
        assert flat.read_bytes() == raw.read_bytes()
        taken[kind] = flat.stat().st_blocks * 512
    assert taken["vmfsEagerZeroedThick"] >= SIZE
    assert taken["vmfs"] >= SIZE
    assert taken["vmfsThin"] == taken["monolithicFlat"] < SIZE


@pytest.mark.parametrize("subformat", [kind for kind in KINDS if kind not in ONE_FILE])
def test_a_neighbour_is_never_overwritten(tmp_path: Path, raw: Path, subformat: str) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    (other,) = {path.name for path in tmp_path.iterdir()} - {"disk.vmdk"}
    image.unlink()
    (tmp_path / other).write_bytes(b"somebody else's")
    with pytest.raises(OptionError, match=f"{other} exists"):
        convert(raw, image, options={"subformat": subformat})
    assert [path.name for path in tmp_path.iterdir()] == [other]
    assert (tmp_path / other).read_bytes() == b"somebody else's"


@pytest.mark.peer("qemu-img")
def test_a_name_that_is_no_utf_8_is_written_as_it_is(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9.vmdk")
    convert(raw, image, options={"subformat": "monolithicFlat"})
    assert b'FLAT "caf\xe9-flat.vmdk" 0' in image.read_bytes()
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", raw, image)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("name", ["disk", "disk.img", "DISK.VMDK", ".vmdk", "smörgås – 盘.vmdk"])
@pytest.mark.parametrize("subformat", ["monolithicSparse", "vmfs", "twoGbMaxExtentSparse"])
def test_files_are_named_after_the_disk(
    tmp_path: Path, raw: Path, subformat: str, name: str
) -> None:
    image = tmp_path / name
    convert(raw, image, format="vmdk", options={"subformat": subformat})
    stem = name[:-5] if name.lower().endswith(".vmdk") and name != ".vmdk" else name
    names = {
        "monolithicSparse": set[str](),
        "vmfs": {f"{stem}-flat.vmdk"},
        "twoGbMaxExtentSparse": {f"{stem}-s001.vmdk"},
    }[subformat]
    assert {path.name for path in tmp_path.iterdir()} == {name, *names}
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", raw, image)


@pytest.mark.parametrize("subformat", KINDS)
def test_measure_knows_the_size_of_all_files(tmp_path: Path, raw: Path, subformat: str) -> None:
    image = tmp_path / "disk"
    done = convert(raw, image, format="vmdk", options={"subformat": subformat})
    measured = measure(raw, format="vmdk", options={"subformat": subformat})
    assert measured.required == done.file_size
    assert done.file_size == sum(path.stat().st_size for path in tmp_path.iterdir())
    estimate = measure(raw, format="vmdk", options={"subformat": subformat}, estimate=True)
    assert measured.required <= estimate.required <= estimate.fully_allocated
    (tmp_path / "full").mkdir()
    full = convert(
        raw, tmp_path / "full/disk", format="vmdk", options={"subformat": subformat}, sparse=0
    )
    if subformat == "streamOptimized":
        assert full.file_size is not None and full.file_size <= measured.fully_allocated
    else:
        assert full.file_size == measured.fully_allocated


@pytest.mark.parametrize("subformat", KINDS)
def test_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, raw: Path, subformat: str
) -> None:
    made = []
    for threads in (1, 2, 7):
        folder = tmp_path / str(threads)
        folder.mkdir()
        convert(raw, folder / "disk.vmdk", options={"subformat": subformat}, threads=threads)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("zeroed", [False, True])
def test_a_sparse_disk_can_be_streamed_and_equals_the_file(
    tmp_path: Path, raw: Path, zeroed: bool
) -> None:
    convert(raw, tmp_path / "disk", format="vmdk", options={"zeroed_grain": zeroed})
    code = "import sys; from vmimg.transfer.convert import convert; "
    code += f"convert(sys.argv[1], '-', format='vmdk', options={{'zeroed_grain': {zeroed}}})"
    streamed = subprocess.run(
        [sys.executable, "-c", code, str(raw)], stdout=subprocess.PIPE, check=True
    ).stdout
    assert streamed == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("subformat", [kind for kind in KINDS if kind not in ONE_FILE])
def test_several_files_are_not_streamed(raw: Path, subformat: str) -> None:
    with pytest.raises(OptionError, match="several files"):
        convert(raw, "-", format="vmdk", options={"subformat": subformat})


@pytest.mark.peer("pyvmdk")
@pytest.mark.parametrize("subformat", KINDS)
def test_libyal_reads_every_kind(tmp_path: Path, raw: Path, content: bytes, subformat: str) -> None:
    import pyvmdk

    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    handle = pyvmdk.handle()
    handle.open(str(image))
    handle.open_extent_data_files()
    assert handle.get_media_size() == SIZE
    assert handle.read_buffer(SIZE) == content
    handle.close()


@pytest.mark.peer("7z")
@pytest.mark.parametrize("subformat", [kind for kind in KINDS if kind != "vmfsSparse"])
def test_7zip_reads_every_kind_that_it_knows(
    tmp_path: Path, raw: Path, content: bytes, subformat: str
) -> None:
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    assert peers.run("7z", "e", "-so", image).stdout == content


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("subformat", KINDS)
def test_dissect_reads_every_kind(
    tmp_path: Path, raw: Path, content: bytes, subformat: str
) -> None:
    from dissect.hypervisor.disk import vmdk

    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    # It reads 8 KiB at a time, and fails where that goes past the end of the disk.
    length = SIZE // 8192 * 8192
    assert vmdk.VMDK(image).read(length) == content[:length]


# Chains


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    """The disk with a grain zeroed, parts of others zeroed and written, and a grain written."""
    disk = bytearray(content)
    disk[65536 * 4 : 65536 * 5] = b"a grain." * 8192
    disk[65536 * 8 : 65536 * 9] = bytes(65536)
    disk[MIB : MIB + 5000] = b"child" * 1000
    disk[SIZE - 512 :] = b"the child's last sector".ljust(512)
    disk[200_000:201_000] = bytes(1000)
    return write_sparse(tmp_path_factory.mktemp("changed") / "changed.raw", bytes(disk))


@pytest.fixture(scope="module")
def parent_raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    disk = bytearray(content)
    disk[65536 * 8 : 65536 * 9] = b"zeros in a child" * 4096
    return write_sparse(tmp_path_factory.mktemp("parent") / "parent.raw", bytes(disk))


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("parent", KINDS)
@pytest.mark.parametrize("child", CHILDREN, ids=label)
def test_qemu_reads_a_child_through_its_parent(
    tmp_path: Path, parent_raw: Path, changed: Path, parent: str, child: dict[str, Any]
) -> None:
    below, above = tmp_path / "parent.vmdk", tmp_path / "child.vmdk"
    convert(parent_raw, below, options={"subformat": parent})
    done = convert(changed, above, options=child, backing="parent.vmdk")
    assert done.data_bytes < MIB, "only what differs is stored"
    peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", changed, above)
    info = peers.run_json("qemu-img", "info", "--output=json", above)
    assert info["backing-filename"] == "parent.vmdk"
    found = settings(above)
    assert found["parentCID"] == settings(below)["CID"] != found["CID"]
    assert found["parentFileNameHint"] == "parent.vmdk"
    assert found["createType"] == child["subformat"]
    with open_disk(above) as disk, open_disk(changed) as expected:
        assert disk.read(0, SIZE) == expected.read(0, SIZE)


@pytest.mark.peer("qemu-img")
def test_zeroed_grains_hide_the_parent_without_storing_zeros(
    tmp_path: Path, parent_raw: Path, changed: Path
) -> None:
    below = tmp_path / "parent.vmdk"
    convert(parent_raw, below)
    sizes = {}
    for zeroed in (False, True):
        above = tmp_path / f"child-{zeroed}.vmdk"
        options = {"zeroed_grain": zeroed}
        sizes[zeroed] = convert(changed, above, options=options, backing="parent.vmdk").data_bytes
        peers.run("qemu-img", "compare", "-fraw", "-Fvmdk", changed, above)
    assert sizes[True] == sizes[False] - 65536
    entries = struct.unpack_from("<512I", (tmp_path / "child-True.vmdk").read_bytes(), 22 * 512)
    assert [grain for grain, entry in enumerate(entries) if entry == 1] == [8]


@pytest.mark.peer("qemu-img")
def test_qemu_writes_into_a_child_that_was_made_here(
    tmp_path: Path, raw: Path, content: bytes
) -> None:
    peers.require("qemu-io")
    convert(raw, tmp_path / "parent.vmdk")
    child = tmp_path / "child.vmdk"
    create(child, format="vmdk", backing="parent.vmdk")
    peers.run("qemu-io", "-fvmdk", "-c", "write -P 7 100000 70000", child)
    with open_disk(child) as disk:
        expected = content[:100_000] + b"\7" * 70_000 + content[170_000:]
        assert disk.read(0, SIZE) == expected


# Refusals


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({"zeroed_grain": True, "subformat": "monolithicFlat"}, MIB, "zeroed_grain=on needs"),
        ({"zeroed_grain": True, "subformat": "streamOptimized"}, MIB, "zeroed_grain=on needs"),
        ({"compat6": True, "hwversion": "9"}, MIB, "compat6=on is hwversion=6"),
        ({"tools_version": "1", "toolsversion": "2"}, MIB, "the same option"),
        ({"hwversion": '4"\nRW 1 FLAT "/etc/passwd" 0'}, MIB, "cannot stand in"),
        ({"subformat": "monolithicSparse"}, 2 << 40, "twoGbMaxExtentSparse and monolithicFlat"),
        ({"subformat": "vmfsSparse"}, 2 << 40, "subformat=vmfs holds more"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_with_what_does(
    tmp_path: Path, options: dict[str, Any], size: int, words: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        create(tmp_path / "disk.vmdk", size, format="vmdk", options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs", "vmfsThin"])
def test_flat_disks_have_no_parents(tmp_path: Path, raw: Path, subformat: str) -> None:
    convert(raw, tmp_path / "parent.vmdk")
    with pytest.raises(OptionError, match="cannot have a parent"):
        create(
            tmp_path / "child.vmdk",
            format="vmdk",
            options={"subformat": subformat},
            backing="parent.vmdk",
        )


def test_a_child_needs_the_cid_of_its_parent(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="CID"):
        create(
            tmp_path / "child.vmdk",
            SIZE,
            format="vmdk",
            backing="missing.vmdk",
            check_backing=False,
        )


@pytest.mark.parametrize("name", ['a"b.vmdk', "a\nb.vmdk", "a\x7f.vmdk"])
def test_names_that_would_break_the_descriptor_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="cannot stand in a VMDK descriptor"):
        create(tmp_path / name, SIZE, format="vmdk")


def test_a_descriptor_that_does_not_fit_is_refused_beforehand() -> None:
    options = VMDK.parse_options({"hwversion": "4" * 20_000})
    with pytest.raises(OptionError, match="has room for 10240"):
        make_writer(SIZE, options)


def test_the_largest_sparse_disk_is_one_whose_last_grain_can_be_addressed() -> None:
    options = VMDK.parse_options({})
    fits, fails = 1, 2 << 40 >> 16  # grains
    while fails - fits > 1:
        middle = (fits + fails) // 2
        try:
            make_writer(middle << 16, options)
            fits = middle
        except OptionError:
            fails = middle
    assert 0 <= (1 << 41) - make_writer(fits << 16, options).full_size() < 65536
    make_writer(fails << 16, VMDK.parse_options({"subformat": "twoGbMaxExtentSparse"}))
