"""The matrix: every kind of image to every other, made from the registry.

What an image is made from must not show in it: the files are the same, byte for byte, from
whatever kind they were converted. So each target is read by others once, and by vmimg from every
source. Readers that nobody here wrote: qemu-img, 7-Zip, libyal, dissect.hypervisor.

Each run converts every format to every format, in such kinds that each is a source and a target;
all kinds to all kinds are slow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

import peers
from kinds import KINDS, Kind, qemu_view
from samples import border_disk, write_sparse
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import OptionError, UnsupportedFeature, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import FORMATS
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

SIZE = 20 * (1 << 20) + 512 * 3


@pytest.fixture(scope="module")
def content() -> bytes:
    return border_disk(SIZE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", content)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Callable[[Kind], Path]:
    """An image of each kind, made from the raw one when it is first asked for."""
    made: dict[Kind, Path] = {}

    def image(kind: Kind) -> Path:
        if kind not in made:
            path = kind.path(tmp_path_factory.mktemp(str(kind)))
            convert(raw, path, format=kind.format, options=kind.options)
            made[kind] = path
        return made[kind]

    return image


def files_of(image: Path) -> dict[str, bytes]:
    """Of the image, of its companions, of the directory that it may be."""
    folder = image.parent
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def one_pair_of_each_two_formats() -> Iterator[tuple[Kind, Kind]]:
    """The kinds of a format take turns: with the next format at the other end, the next of them."""
    kinds: dict[str, list[Kind]] = {}
    for kind in KINDS:
        kinds.setdefault(kind.format, []).append(kind)
    for row, sources in enumerate(kinds.values()):
        for column, targets in enumerate(kinds.values()):
            yield sources[column % len(sources)], targets[row % len(targets)]


CHOSEN = set(one_pair_of_each_two_formats())


def test_the_chosen_pairs_have_all_pairs_of_formats_and_all_kinds() -> None:
    formats = {kind.format for kind in KINDS}
    assert {(a.format, b.format) for a, b in CHOSEN} == set(product(formats, formats))
    assert {source for source, _ in CHOSEN} == set(KINDS) == {target for _, target in CHOSEN}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(*pair, id="-".join(map(str, pair)),
                     marks=() if pair in CHOSEN else pytest.mark.slow)
        for pair in product(KINDS, KINDS)
    ],
)  # fmt: skip
def test_every_kind_becomes_every_other(
    tmp_path: Path, images: Callable[[Kind], Path], source: Kind, target: Kind
) -> None:
    path = target.path(tmp_path)
    done = convert(images(source), path, format=target.format, options=target.options)
    assert (done.source_format, done.format) == (source.format, target.format)
    assert done.virtual_size == done.source_size == SIZE
    assert done.file_size == sum(len(data) for data in files_of(path).values())
    assert files_of(path) == files_of(images(target))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_was_converted_reads_as_before(
    images: Callable[[Kind], Path], content: bytes, kind: Kind
) -> None:
    info = image_info(images(kind))[0].image
    assert (info.format, info.virtual_size) == (kind.format, SIZE)
    with open_disk(images(kind)) as disk:
        assert disk.read(0, SIZE) == content
        assert disk.read(SIZE - 1000, 1000) == content[-1000:]
        spans = list(disk.spans())
        assert spans[0][0] == 0 and spans[-1][1] == SIZE
        assert all(before[1] == after[0] for before, after in pairwise(spans))


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_qemu_reads_every_kind(images: Callable[[Kind], Path], raw: Path, kind: Kind) -> None:
    view = qemu_view(kind, images(kind))
    if view is None:
        pytest.skip(f"qemu-img does not know {kind.format}")
    name, image = view
    peers.run("qemu-img", "compare", "-fraw", "-F", name, raw, image)
    assert (
        peers.run_json("qemu-img", "info", "-f", name, "--output=json", image)["virtual-size"]
        == SIZE
    )
    if FORMATS[kind.format].capabilities.check:
        peers.run("qemu-img", "check", "-f", name, image, ok=(0, 63))


# 7-Zip does not know COWD.
SEVEN_ZIP = [
    kind
    for kind in KINDS
    if kind.format in {"qcow2", "qcow", "vmdk", "vhd", "vhdx", "vdi", "dmg"}
    and kind.subformat != "vmfsSparse"
]


@pytest.mark.peer("7z")
@pytest.mark.parametrize("kind", SEVEN_ZIP, ids=str)
def test_7zip_reads_every_kind_that_it_knows(
    tmp_path: Path, images: Callable[[Kind], Path], content: bytes, kind: Kind
) -> None:
    if kind.format == "vhdx":
        # 7-Zip takes no VHDX, qemu-img's neither, whose size is not a multiple of 4 KiB.
        image = kind.path(tmp_path)
        convert(images(kind), image, format="vhdx", options=kind.options, align=4096)
        assert peers.run("7z", "e", "-so", image).stdout == content + bytes(-SIZE % 4096)
        return
    assert peers.run("7z", "e", "-so", images(kind)).stdout == content


def read_pyvmdk(image: Path) -> bytes:
    import pyvmdk

    handle = pyvmdk.handle()
    handle.open(str(image))
    handle.open_extent_data_files()
    data: bytes = handle.read_buffer(handle.get_media_size())
    handle.close()
    return data


def read_pyvhdi(image: Path) -> bytes:
    import pyvhdi

    file = pyvhdi.file()
    file.open(str(image))
    data: bytes = file.read_buffer(file.get_media_size())
    file.close()
    return data


def read_pyqcow(image: Path) -> bytes:
    import pyqcow

    file = pyqcow.file()
    file.open(str(image))
    data: bytes = file.read_buffer(file.get_media_size())
    file.close()
    return data


def read_pymodi(image: Path) -> bytes:
    import pymodi

    handle = pymodi.handle()
    handle.open(str(image))
    data: bytes = handle.read_buffer(handle.get_media_size())
    handle.close()
    return data


LIBYAL: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "qcow": ("pyqcow", read_pyqcow),
    "qcow2": ("pyqcow", read_pyqcow),
    "dmg": ("pymodi", read_pymodi),
    "vmdk": ("pyvmdk", read_pyvmdk),
    "vhd": ("pyvhdi", read_pyvhdi),
    "vhdx": ("pyvhdi", read_pyvhdi),
}


# libmodi does not know LZMA.
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.format in LIBYAL and k.subformat != "ULMO"], ids=str
)
def test_libyal_reads_every_kind_that_it_knows(
    images: Callable[[Kind], Path], content: bytes, kind: Kind
) -> None:
    module, reader = LIBYAL[kind.format]
    peers.require(module)
    assert reader(images(kind)) == content


DISSECT = {
    "vmdk": ("vmdk", "VMDK"),
    "vhd": ("vhd", "VHD"),
    "vhdx": ("vhdx", "VHDX"),
    "vdi": ("vdi", "VDI"),
    "qcow2": ("qcow2", "QCow2"),
}


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("kind", [k for k in KINDS if k.format in DISSECT], ids=str)
def test_dissect_reads_every_kind_that_it_knows(
    images: Callable[[Kind], Path], content: bytes, kind: Kind
) -> None:
    module, name = DISSECT[kind.format]
    reader: Any = getattr(importlib.import_module(f"dissect.hypervisor.disk.{module}"), name)
    image = images(kind)
    with open(image, "rb") as file:
        disk: Any = reader(image if kind.format == "vmdk" else file)
        stream = disk.open() if hasattr(disk, "open") else disk
        # dissect reads 8 KiB at a time, and of a VMDK whole ones only; of a VDI it takes what a
        # read spans for contiguous (qemu-img's as well as ours), so it is asked block by block.
        whole = SIZE // 8192 * 8192 if kind.format == "vmdk" else SIZE
        read = b"".join(stream.read(min(1 << 20, whole - at)) for at in range(0, whole, 1 << 20))
        assert read == content[:whole]


# What has no tables has no way to say that something is the parent's.
FLAT = ("monolithicFlat", "twoGbMaxExtentFlat", "vmfs", "vmfsThin", "vmfsEagerZeroedThick")
# These take as much space as the disk has.
THICK = {Kind("vmdk", "vmfs"), Kind("vmdk", "vmfsEagerZeroedThick")}


@pytest.mark.parametrize("kind", sorted(THICK, key=str), ids=str)
def test_a_thick_disk_has_all_its_space_from_the_start(tmp_path: Path, kind: Kind) -> None:
    path = kind.path(tmp_path)
    create(path, 9 << 20, format=kind.format, options=kind.options)
    assert sum(file.stat().st_blocks * 512 for file in tmp_path.rglob("*")) >= 9 << 20
    with open_disk(path) as disk:
        assert disk.size == 9 << 20 and not any(disk.read(0, disk.size))


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("size", [512, (1 << 20) + 512, (127 << 20) + 512 * 7, 5 << 30], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in THICK], ids=str)
def test_an_empty_disk_has_the_size_that_was_asked_for(
    tmp_path: Path, kind: Kind, size: int
) -> None:
    path = kind.path(tmp_path)
    assert create(path, size, format=kind.format, options=kind.options) == size
    with open_disk(path) as disk:
        assert disk.size == size
        assert not any(disk.read(max(0, size - 100_000), min(size, 100_000)))
    view = qemu_view(kind, path)
    if view is not None:
        info = peers.run_json("qemu-img", "info", "-f", view[0], "--output=json", view[1])
        assert info["virtual-size"] == size


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if FORMATS[k.format].capabilities.write], ids=str
)
def test_every_kind_that_can_be_written_in_place_is(
    tmp_path: Path, raw: Path, content: bytes, kind: Kind
) -> None:
    path = kind.path(tmp_path)
    convert(raw, path, format=kind.format, options=kind.options)
    model = bytearray(content)
    changes = [(0, b"new"), (SIZE // 2 + 70_000, b"in the zeros" * 9000), (SIZE - 5, b"tail!")]
    try:
        disk = open_disk(path, writable=True)
    except UnsupportedFeature:
        assert kind.subformat == "streamOptimized", "only a stream is written once and for all"
        return
    with disk:
        for offset, data in changes:
            disk.write(offset, data)
            model[offset : offset + len(data)] = data
        disk.zero(3 << 20, 2 << 20)
        model[3 << 20 : 5 << 20] = bytes(2 << 20)
        assert disk.read(0, SIZE) == model
    with open_disk(path) as disk:
        assert disk.read(0, SIZE) == model
    if FORMATS[kind.format].capabilities.check:
        assert check(path).exit_code == 0
    view = qemu_view(kind, path)
    if view is not None:
        expected = write_sparse(tmp_path / "expected.raw", bytes(model))
        peers.run("qemu-img", "compare", "-fraw", "-F", view[0], expected, view[1])


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if FORMATS[k.format].capabilities.parent], ids=str
)
def test_a_child_holds_what_differs_from_its_parent(
    tmp_path: Path, images: Callable[[Kind], Path], content: bytes, kind: Kind
) -> None:
    changed = bytearray(content)
    changed[:1000] = b"x" * 1000
    changed[6 << 20 : 7 << 20] = bytes(1 << 20)  # zeros over data
    changed[-512:] = b"y" * 512
    source = write_sparse(tmp_path / "changed.raw", bytes(changed))
    base = images(kind)
    format, options = kind.format, kind.options
    child = kind.path(tmp_path / "child")
    child.parent.mkdir()

    def make() -> None:
        convert(
            *(source, child),
            format=format,
            options=options,
            backing=str(base),
            backing_format=format,
        )

    if kind.subformat in ("fixed", *FLAT):
        with pytest.raises(OptionError, match=r"parent|backing|subformat"):
            make()
        assert not any(child.parent.iterdir())
        return
    make()
    policy = ParentPolicy(allowed=(base.parent,), parent_format=format)
    assert image_info(child)[0].image.parent is not None
    with open_disk(child, policy=policy) as disk:
        assert len(disk.layers) == 2
        assert disk.read(0, SIZE) == changed
        own = sum(end - start for start, end, kind in disk.top.spans(0, SIZE) if kind)
    assert own < SIZE
    with pytest.raises(VmimgError, match="--allow-dir"):
        open_disk(child)
