"""Reading VDI: images of qemu-img, images made by hand, chains that are found by UUID."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

import peers
import vdi_by_hand as by_hand
from samples import awkward_disk, write_sparse
from vdi_by_hand import DIFF, FREE, UNDO, ZERO, Image, flat
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import find

MIB = 1 << 20


def content_of(path: Path, **more: object) -> bytes:
    with open_disk(path, **more) as disk:  # type: ignore[arg-type]
        return disk.read(0, disk.size)


def by_dissect(path: Path, *parents: Path) -> bytes:
    """What dissect.hypervisor reads, a block at a time: it takes no more from scattered ones."""
    from dissect.hypervisor.disk.vdi import VDI  # type: ignore[import-untyped]

    below = None
    for parent in reversed(parents):
        below = VDI(parent, below).open()
    image = VDI(path, below)
    stream, left, pieces = image.open(), image.size, []
    while left > 0:
        pieces.append(stream.read(min(left, image.block_size)))
        assert pieces[-1]
        left -= len(pieces[-1])
    return b"".join(pieces)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("static", ["off", "on"])
@pytest.mark.parametrize("size", [512, MIB, MIB + 512, 10_000_384])
def test_what_qemu_img_makes_reads_as_its_source(tmp_path: Path, static: str, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.vdi"
    peers.run("qemu-img", "convert", "-O", "vdi", "-o", f"static={static}", raw, image)
    assert content_of(image) == content
    (info,) = image_info(image)
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    ours = info.to_json()
    for key in ("virtual-size", "format", "cluster-size", "dirty-flag"):
        assert ours[key] == theirs[key]
    assert info.image.details["image-type"] == ("fixed" if static == "on" else "dynamic")


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("block", [512, 65536, 1 << 21])
def test_old_headers_and_other_block_sizes(
    tmp_path: Path, version: tuple[int, int], block: int
) -> None:
    image = Image(5 * block + 512, (2, FREE, 0, ZERO, 3, 1), version=version, block=block)
    file, content = image.build()
    path = tmp_path / "a.vdi"
    path.write_bytes(file)
    wanted = flat(image.size, content, block)
    assert content_of(path) == wanted
    with open_disk(path) as disk:
        for start in random.Random(1).sample(range(disk.size), 20):
            length = min(3000, disk.size - start)
            assert disk.read(start, length) == wanted[start : start + length]
        assert [kind for _, _, kind in disk.spans(0, 4 * block)] == [
            Kind.DATA, Kind.ABSENT, Kind.DATA, Kind.ZERO,
        ]  # fmt: skip
    if version == (1, 1):
        peers.require("dissect.hypervisor")
        assert by_dissect(path) == wanted


@pytest.mark.parametrize("extra", [1, 512, 4096])
@pytest.mark.parametrize("header_size", [384, 400])
def test_extra_data_in_front_of_the_blocks_is_passed_over(
    tmp_path: Path, extra: int, header_size: int
) -> None:
    image = Image(3 * 65536, (1, 0, 2), extra=extra, header_size=header_size, block=65536)
    file, content = image.build()
    (tmp_path / "a.vdi").write_bytes(file)
    assert content_of(tmp_path / "a.vdi") == flat(image.size, content, 65536)
    (info,) = image_info(tmp_path / "a.vdi")
    assert info.image.details["block-extra"] == extra


@pytest.mark.peer("qemu-img")
def test_a_size_that_is_no_multiple_of_512_is_rounded_up_as_qemu_does(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    path.write_bytes(Image(MIB + 100, (0, 1)).build()[0])
    theirs = peers.run_json("qemu-img", "info", "--output", "json", path)
    with open_disk(path) as disk:
        assert disk.size == theirs["virtual-size"] == MIB + 512


def make_chain(folder: Path, kind: int = DIFF) -> tuple[list[Path], bytes]:
    """Three images, the top first, that know each other by UUID only, and what the top reads."""
    base = Image(5 * MIB, (0, FREE, 1, 2, 3), seed=1)
    middle = Image(5 * MIB, (FREE, FREE, ZERO, 0, FREE), kind=kind, seed=2)
    top = Image(5 * MIB, (FREE, 0, FREE, FREE, 1), kind=kind, seed=3)
    paths, below = list[Path](), b""
    for name, image, parent in (("c", base, None), ("b", middle, base), ("a", top, middle)):
        if parent is not None:
            image.linkage, image.parent_modify = parent.uuids()
        file, content = image.build()
        below = flat(image.size, content, MIB, below)
        paths.insert(0, folder / f"{name}.vdi")
        paths[0].write_bytes(file)
    return paths, below


@pytest.mark.parametrize("kind", [DIFF, UNDO], ids=["differencing", "undo"])
@pytest.mark.peer("dissect.hypervisor")
def test_a_chain_is_found_by_uuid_and_zeros_hide_the_parent(tmp_path: Path, kind: int) -> None:
    paths, wanted = make_chain(tmp_path, kind)
    (tmp_path / "unrelated.vdi").write_bytes(Image(MIB, (0,), seed=9).build()[0])
    (tmp_path / "broken.vdi").write_bytes(b"<<< nothing >>>")
    os.mkfifo(tmp_path / "pipe.vdi")
    assert content_of(paths[0]) == wanted == by_dissect(*paths)
    with open_disk(paths[0]) as disk:
        assert [layer.name for layer in disk.layers] == [str(path) for path in paths]
        assert [(e.start // MIB, e.kind, e.depth) for e in disk.map()] == [
            (0, Kind.DATA, 2), (1, Kind.DATA, 0), (2, Kind.ZERO, 1), (3, Kind.DATA, 1),
            (4, Kind.DATA, 0),
        ]  # fmt: skip
    infos = image_info(paths[0], chain=True)
    assert [info.filename for info in infos] == [str(path) for path in paths]


def test_a_parent_that_changed_is_refused_unless_allowed(tmp_path: Path) -> None:
    paths, wanted = make_chain(tmp_path)
    before = content_of(paths[1])
    with open_disk(paths[1], writable=True) as disk:
        disk.write(0, b"new")
    with pytest.raises(ChainError, match=r"was changed since: its modification is [0-9a-f-]{36}"):
        content_of(paths[0])
    assert content_of(paths[1]) == b"new" + before[3:]
    seen = content_of(paths[0], policy=ParentPolicy(allow_changed=True))
    assert seen == b"new" + wanted[3:]


def test_a_parent_that_is_not_there_is_named_by_its_uuid(tmp_path: Path) -> None:
    paths, _ = make_chain(tmp_path)
    uuid = image_info(paths[2])[0].image.details["uuid"]
    away = tmp_path / "away"
    away.mkdir()
    paths[2].rename(away / "c.vdi")  # a folder further down is not looked into
    with pytest.raises(ChainError, match=uuid):
        content_of(paths[0])
    content_of(paths[0], policy=ParentPolicy(allowed=(away,)))


def test_of_copies_the_unchanged_one_is_taken_and_two_are_refused(tmp_path: Path) -> None:
    paths, wanted = make_chain(tmp_path)
    copy = tmp_path / "0copy.vdi"
    copy.write_bytes(paths[2].read_bytes())
    with pytest.raises(ChainError, match=r"0copy\.vdi.*c\.vdi.*same UUID"):
        content_of(paths[0])
    with open_disk(copy, writable=True) as disk:
        disk.write(0, b"x")
    assert content_of(paths[0]) == wanted


def test_a_chain_that_loops_is_refused(tmp_path: Path) -> None:
    one, other = Image(MIB, (FREE,), kind=DIFF, seed=1), Image(MIB, (FREE,), kind=DIFF, seed=2)
    for name, image, parent in (("one", one, other), ("other", other, one)):
        image.linkage, image.parent_modify = parent.uuids()
        (tmp_path / f"{name}.vdi").write_bytes(image.build()[0])
    with pytest.raises(ChainError, match="loops"):
        content_of(tmp_path / "one.vdi")


def test_a_differencing_image_without_the_name_of_its_parent_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    path.write_bytes(Image(MIB, (FREE,), kind=DIFF).build()[0])
    with pytest.raises(FormatError, match="names no parent"):
        open_disk(path)


def test_a_parent_that_a_normal_image_names_is_not_read(tmp_path: Path) -> None:
    # VirtualBox goes by the type; QEMU refuses the image.
    path = tmp_path / "a.vdi"
    path.write_bytes(Image(2 * MIB, (0, FREE), linkage=UUID(int=7)).build()[0])
    assert content_of(path)[MIB:] == bytes(MIB)
    assert any("the parent is not read" in note for note in image_info(path)[0].image.notes)


@pytest.mark.peer("qemu-img")
def test_holes_of_a_fixed_image_are_zeros(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "a.vdi"
    with raw.open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"begin")
        file.seek(700 * MIB)
        file.write(b"middle")
    peers.run("qemu-img", "convert", "-O", "vdi", "-o", "static=on", raw, image)
    with open_disk(image) as disk:
        data = [(start, end) for start, end, kind in disk.spans() if kind == Kind.DATA]
        assert sum(end - start for start, end in data) <= 4 * MIB
        assert [start // MIB for start, _ in data] in ([0, 700], [0, 699])
        assert disk.read(700 * MIB, 6) == b"middle"
    theirs = peers.run_json("qemu-img", "map", "--output", "json", image)
    assert [e["start"] for e in theirs if not e["zero"]] == [start for start, _ in data]


@pytest.mark.peer("qemu-img")
def test_64_tib_open_and_map_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    peers.run("qemu-img", "create", "-q", "-f", "vdi", path, "64T")
    begin = time.process_time()
    with open_disk(path) as disk:
        assert [(e.length, e.kind) for e in disk.map()] == [(1 << 46, Kind.ABSENT)]
        assert disk.read(1 << 45, 10) == bytes(10)
    assert time.process_time() - begin < 1
    path.unlink()


def test_finding_and_describing_an_image_takes_no_numpy(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    path.write_bytes(Image(MIB, (0,)).build()[0])
    program = (
        "import sys; from vmimg.formats.info import image_info\n"
        f"assert image_info({str(path)!r})[0].image.format == 'vdi'\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_is_found_by_its_signature_and_by_its_name() -> None:
    assert find("vdi").extensions == (".vdi",)
    assert by_hand.Image(MIB, (0,)).build()[0][64:68] == find("vdi").magic[0].data
