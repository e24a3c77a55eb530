"""The JSON is qemu-img's: the same keys, the same values, for images that qemu-img made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import peers
from run_vmimg import NAMES, vmimg, vmimg_json

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")


@pytest.mark.parametrize("name", NAMES)
def test_info_says_what_qemu_img_says(images: Path, name: str) -> None:
    theirs = _qemu_img("info", "--output", "json", name, cwd=images)
    ours = vmimg_json("info", name, cwd=images)
    assert _common(ours, theirs) == theirs


@pytest.mark.parametrize("name", ["overlay.qcow2", "top.qcow2", "over-raw.qcow2", "base.qcow2"])
def test_a_backing_chain_is_a_list_with_the_top_first(images: Path, name: str) -> None:
    arguments = ("info", "--backing-chain", "--output", "json", str(images / name))
    theirs = _qemu_img(*arguments)
    ours = json.loads(vmimg(*arguments).raw)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert _common(our, their) == their


def _common(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Ours, as far as theirs has it; newer qemu-img also describes the files below an image."""
    theirs.pop("children", None)
    for facts in (ours, theirs):
        facts["filename"] = Path(facts["filename"]).resolve()
    return {key: ours.get(key) for key in theirs}


@pytest.mark.peer("oslo_utils")
def test_openstack_parses_what_info_prints(images: Path) -> None:
    from oslo_utils.imageutils import QemuImgInfo

    base = QemuImgInfo(vmimg("info", "--output", "json", images / "base.qcow2").out, format="json")
    assert base.file_format == "qcow2"
    assert base.virtual_size == 10 << 20
    assert base.cluster_size == 65536
    assert [snapshot["name"] for snapshot in base.snapshots] == ["before", "1"]
    assert base.format_specific["data"]["compat"] == "1.1"
    overlay = QemuImgInfo(
        vmimg("info", "--output", "json", images / "overlay.qcow2").out, format="json"
    )
    assert overlay.backing_file == "base.qcow2"


WINDOW = ("--start-offset", "1M", "--max-length", "4M")


@pytest.mark.parametrize(
    ("name", "window"),
    [*((name, ()) for name in NAMES), ("top.qcow2", WINDOW), ("sparse.raw", WINDOW)],
)
def test_map_says_what_qemu_img_says(images: Path, name: str, window: tuple[str, ...]) -> None:
    arguments = ("map", "--output", "json", *window, name)
    theirs = _qemu_img(*arguments, cwd=images)
    ours = json.loads(vmimg(*arguments, cwd=images).raw)
    assert _plain(ours) == _plain(theirs)


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what only some versions of qemu-img say; rows that it had cut are joined again."""
    plain: list[dict[str, Any]] = []
    for row in rows:
        row.pop("compressed", None)  # from 8.2 on
        if not row["present"]:
            row.pop("offset", None)  # of the cluster whose other parts are present
        previous = plain[-1] if plain else {}
        same = {**row, "start": previous.get("start"), "length": previous.get("length")}
        if not row["present"] and same == previous:
            previous["length"] += row["length"]
        else:
            plain.append(row)
    return plain


def test_map_tells_compressed_data_apart(images: Path) -> None:
    rows = vmimg_json("map", images / "compressed.qcow2")
    assert {row["compressed"] for row in rows if row["data"]} == {True}
    assert not any(row["compressed"] for row in vmimg_json("map", images / "base.qcow2"))


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".qcow2")])
def test_check_says_what_qemu_img_says(images: Path, name: str) -> None:
    theirs = _qemu_img("check", "--output", "json", name, cwd=images)
    assert vmimg_json("check", name, cwd=images) == theirs


def test_check_counts_leaks_like_qemu_img_and_exits_with_3(copies: Path) -> None:
    _leak(copies / "base.qcow2")
    arguments = ("check", "--output", "json", copies / "base.qcow2")
    theirs = peers.run_json("qemu-img", *arguments, ok=(3,))
    assert json.loads(vmimg(*arguments, ok=(3,)).raw) == theirs
    assert theirs["leaks"] > 0


def test_check_counts_corruptions_like_qemu_img_and_exits_with_2(copies: Path) -> None:
    _corrupt(copies / "base.qcow2")
    arguments = ("check", "--output", "json", copies / "base.qcow2")
    theirs = peers.run_json("qemu-img", *arguments, ok=(2,))
    assert json.loads(vmimg(*arguments, ok=(2,)).raw) == theirs
    assert theirs["corruptions"] > 0


@pytest.mark.parametrize("how", ["leaks", "all"])
def test_repair_mends_what_qemu_img_mends(copies: Path, how: str) -> None:
    image, twin = copies / "base.qcow2", copies / "twin.qcow2"
    _leak(image)
    if how == "all":
        _corrupt(image)
    shutil.copy(image, twin)
    theirs = peers.run_json("qemu-img", "check", "-r", how, "--output", "json", twin)
    ours = vmimg_json("check", "-r", how, image)
    for key in ("leaks-fixed", "corruptions-fixed", "leaks", "corruptions", "check-errors"):
        assert ours.get(key) == theirs.get(key), key
    peers.run("qemu-img", "check", image)
    peers.run("qemu-img", "compare", image, twin)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_full_disk_measures_as_qemu_img_says(images: Path, name: str, format: str) -> None:
    arguments = ("measure", "-O", format, "--output", "json", name)
    theirs = _qemu_img(*arguments, cwd=images)
    ours = vmimg_json("measure", "--estimate", "-O", format, name, cwd=images)
    assert ours.keys() == theirs.keys() - {"bitmaps"}
    assert ours["fully-allocated"] == theirs["fully-allocated"]


@pytest.mark.parametrize("options", ["", "cluster_size=1M", "compat=0.10", "refcount_bits=64"])
def test_an_empty_disk_measures_as_what_create_makes(tmp_path: Path, options: str) -> None:
    chosen = ("-o", options) if options else ()
    arguments = ("measure", "-O", "qcow2", "--size", "1G", *chosen, "--output", "json")
    theirs = _qemu_img(*arguments)
    ours = json.loads(vmimg(*arguments).raw)
    assert ours["fully-allocated"] == theirs["fully-allocated"]
    vmimg("create", "-q", *chosen, tmp_path / "new.qcow2", "1G")
    assert ours["required"] == (tmp_path / "new.qcow2").stat().st_size


@pytest.mark.parametrize("options", [(), ("-c",), ("-c", "--level", "best")])
def test_measure_tells_the_size_that_convert_makes(
    images: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    source, target = images / "top.qcow2", tmp_path / "out.qcow2"
    vmimg("convert", *options, source, target)
    measured = vmimg_json("measure", "-O", "qcow2", *options, source)
    assert measured["required"] == target.stat().st_size
    if not options:
        estimated = vmimg_json("measure", "--estimate", "-O", "qcow2", source)
        assert estimated["required"] >= measured["required"]


def _qemu_img(*arguments: str, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> Any:
    return json.loads(peers.run("qemu-img", *arguments, cwd=cwd, ok=ok).stdout)


def _leak(image: Path) -> None:
    """Forget the second cluster of the disk in the active L1: nobody refers to it, it counts 2."""
    with image.open("r+b") as file:
        _, l2 = _l2(file)
        file.seek(l2 + 8)
        file.write(bytes(8))


def _corrupt(image: Path) -> None:
    """Set the refcount of the cluster that the disk's fourth one lies in to 0."""
    with image.open("r+b") as file:
        header, l2 = _l2(file)
        cluster = _number(file, l2 + 3 * 8) & 0x00FFFFFFFFFFFE00
        table = int.from_bytes(header[48:56], "big")
        file.seek(_number(file, table) + cluster // 65536 * 2)
        file.write(bytes(2))


def _l2(file: Any) -> tuple[bytes, int]:
    file.seek(0)
    header = file.read(104)
    l1 = int.from_bytes(header[40:48], "big")
    return header, _number(file, l1) & 0x00FFFFFFFFFFFE00


def _number(file: Any, offset: int) -> int:
    file.seek(offset)
    return int.from_bytes(file.read(8), "big")
