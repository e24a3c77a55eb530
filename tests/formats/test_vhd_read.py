"""Reading VHD: images of qemu-img's, and by hand what qemu-img does not make."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import peers
import vhd_by_hand as hand
from samples import awkward_disk
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError
from vmimg.formats.detect import detect, identify
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vhd.header import geometry
from vmimg.storage import MemoryStorage

MIB = 1 << 20


def content_of(path: Path) -> bytes:
    with open_disk(path) as disk:
        return disk.read(0, disk.size)


def info(path: Path) -> Any:
    """As JSON, with what stands under format-specific as "details"."""
    facts = image_info(path)[0]
    return facts.to_json() | {"details": facts.image.details, "notes": facts.image.notes}


def qemu_size(path: Path) -> int:
    said = peers.run_json("qemu-img", "info", "-f", "vpc", "--output", "json", path)
    return int(said["virtual-size"])


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("force", ["on", "off"])
def test_images_of_qemu_img(tmp_path: Path, subformat: str, force: str) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image.vhd"
    content = awkward_disk(9 * MIB + 512)
    raw.write_bytes(content)
    options = f"subformat={subformat},force_size={force}"
    peers.run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, image)
    found = content_of(image)
    # Without force_size qemu-img rounds up to whole cylinders; both must be seen as they are.
    assert len(found) == qemu_size(image)
    assert len(found) == len(content) if force == "on" else len(found) > len(content)
    assert found == content.ljust(len(found), b"\0")
    facts = info(image)
    assert (facts["format"], facts["details"]["subformat"]) == ("vhd", subformat)
    assert facts.get("cluster-size") == (2 * MIB if subformat == "dynamic" else None)
    assert facts["notes"] == ()


CREATORS = {
    b"vpc ": True, b"qemu": True, b"qem2": False, b"win ": False, b"d2v ": False,
    b"tap\0": False, b"CTXS": False, b"wa\0\0": False, b"vbox": False,
}  # fmt: skip


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("creator", CREATORS)
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_the_size_is_the_one_that_the_creator_meant(
    tmp_path: Path, creator: bytes, kind: str
) -> None:
    content = random.Random(1).randbytes(100 * 512)
    make = hand.fixed if kind == "fixed" else hand.dynamic
    image = tmp_path / "image.vhd"
    image.write_bytes(make(content, creator=creator, chs=(1, 4, 17)))
    size = 68 * 512 if CREATORS[creator] else 100 * 512
    assert content_of(image) == content[:size]
    if creator not in (b"wa\0\0", b"vbox"):  # QEMU 7.2 does not know these
        assert qemu_size(image) == size
    facts = info(image)
    assert facts["virtual-size"] == size
    assert facts["details"]["current-size"] == 100 * 512
    assert facts["details"]["geometry"]["size"] == 68 * 512
    assert any("current_size says 51200" in note for note in facts["notes"]) == CREATORS[creator]


@pytest.mark.peer("qemu-img")
def test_the_largest_geometry_means_current_size(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    image.write_bytes(hand.dynamic(b"x" * 51200, creator=b"vpc ", chs=(65535, 16, 255)))
    assert info(image)["virtual-size"] == qemu_size(image) == 51200


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("size", ["3M", "500M", "504M", "505M", "1G", "10G", "127G", "128G"])
def test_the_geometry_is_that_of_the_specification(tmp_path: Path, size: str) -> None:
    image = tmp_path / "image.vhd"
    peers.run("qemu-img", "create", "-q", "-f", "vpc", image, size)
    facts = info(image)
    there = facts["details"]["geometry"]
    chs = (there["cylinders"], there["heads"], there["sectors-per-track"])
    assert geometry(facts["virtual-size"]) == chs


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_footers_of_511_bytes(tmp_path: Path, kind: str) -> None:
    content = random.Random(2).randbytes(68 * 512)
    make = hand.fixed if kind == "fixed" else hand.dynamic
    image = tmp_path / "image.vhd"
    image.write_bytes(make(content, old=True))
    assert content_of(image) == content
    if kind == "dynamic":  # the footer behind it, not the copy, is what is cut short
        image.write_bytes(bytes(512) + image.read_bytes()[512:])
        assert content_of(image) == content


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("block", [4096, 65536, 512 << 10, 4 * MIB])
def test_blocks_of_other_sizes_in_any_order(tmp_path: Path, block: int) -> None:
    content = awkward_disk(min(40 * block, 9 * MIB) + 3 * 512, borders=max(4096, block))
    count = -(-len(content) // block)
    order = list(range(count))
    random.Random(3).shuffle(order)
    image, raw = tmp_path / "image.vhd", tmp_path / "raw"
    image.write_bytes(hand.dynamic(content, block=block, order=order))
    raw.write_bytes(content)
    assert content_of(image) == content
    peers.run("qemu-img", "compare", "-f", "vpc", image, raw)
    with open_disk(image) as disk:
        disk.read(len(content) - 100, 100)
        for start in range(511, len(content) - 3000, len(content) // 7):
            assert disk.read(start, 3000) == content[start : start + 3000]


def test_what_is_not_there_is_absent_and_the_rest_is_where_the_map_says(tmp_path: Path) -> None:
    content = bytes(8192) + b"x" * 4096 + bytes(8192) + b"y" * 1024
    image = tmp_path / "image.vhd"
    image.write_bytes(hand.dynamic(content))
    with open_disk(image) as disk:
        extents = list(disk.map())
    assert [(e.start, e.length, e.kind) for e in extents] == [
        (0, 8192, Kind.ABSENT),
        (8192, 4096, Kind.DATA),
        (12288, 8192, Kind.ABSENT),
        (20480, 1024, Kind.DATA),
    ]
    for extent in extents:
        if extent.offset is not None:
            there = image.read_bytes()[extent.offset : extent.offset + extent.length]
            assert there == content[extent.start : extent.end]


@pytest.mark.peer("qemu-img")
def test_without_a_parent_the_sector_bitmap_is_not_looked_at(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(20 * 512)
    image, raw = tmp_path / "image.vhd", tmp_path / "raw"
    image.write_bytes(hand.dynamic(content, bits=False))
    raw.write_bytes(content)
    assert content_of(image) == content
    peers.run("qemu-img", "compare", "-f", "vpc", image, raw)


@pytest.mark.parametrize("where", ["head", "end"])
@pytest.mark.parametrize("damage", ["zeros", "a bit"])
def test_one_of_both_footers_is_enough(tmp_path: Path, where: str, damage: str) -> None:
    content = random.Random(5).randbytes(68 * 512)
    whole = bytearray(hand.dynamic(content))
    start = 0 if where == "head" else len(whole) - 512
    if damage == "zeros":
        whole[start : start + 512] = bytes(512)
    else:
        whole[start + 50] ^= 1
    image = tmp_path / "image.vhd"
    image.write_bytes(whole)
    assert content_of(image) == content
    assert info(image)["format"] == "vhd"
    assert len(info(image)["notes"]) == 1


def test_with_both_footers_damaged_it_is_a_vhd_that_cannot_be_read(tmp_path: Path) -> None:
    whole = bytearray(hand.dynamic(b"x" * 512 * 68))
    whole[50] ^= 1
    whole[-512 + 50] ^= 1
    image = tmp_path / "image.vhd"
    image.write_bytes(whole)
    with pytest.raises(FormatError, match="checksum of its VHD footer is wrong"):
        content_of(image)


def test_the_guest_of_a_fixed_disk_cannot_make_it_a_chain(tmp_path: Path) -> None:
    secret = tmp_path / "base.vhd"
    secret.write_bytes(hand.fixed(b"secret..".ljust(51200, b"!")))
    parent = hand.Parent(locators=[(b"W2ru", ".\\base.vhd".encode("utf-16-le"))])
    # What the guest writes to its first sectors.
    guest = hand.dynamic(bytes(51200), parent=parent, present=set())
    image = tmp_path / "image.vhd"
    content = guest.ljust(102400, b"\0")
    image.write_bytes(hand.fixed(content, creator=b"win "))
    with open_disk(image) as disk:
        assert len(disk.layers) == 1
        assert disk.read(0, disk.size) == content
    # Nor where the file has more than the disk, so that only who names the format gets one.
    slack = content + bytes(4096) + image.read_bytes()[-512:]
    for whole in (image.read_bytes(), slack):
        image.write_bytes(whole)
        with open_disk(image, format="vhd") as disk:
            assert len(disk.layers) == 1
            assert disk.read(0, disk.size) == content


def test_a_raw_disk_that_ends_with_something_like_a_footer_is_raw() -> None:
    content = bytes(51200)
    good = hand.fixed(content)
    for wrong in (
        content + b"conectix".ljust(512, b"\0"),
        good[:-1] + b"x",  # the checksum
        content + hand.footer(51200, 3),  # dynamic, without a header
    ):
        assert identify(MemoryStorage(wrong)).name == "raw"
    # Another size than that of the file: a VHD that was cut, or something put in front.
    for wrong in (bytes(512) + good, good[512:]):
        assert identify(MemoryStorage(wrong)).name == "vhd"
    claims = detect(MemoryStorage(good))
    assert [(c.format.name, c.confidence) for c in claims] == [("vhd", 60), ("raw", 1)]
    assert detect(MemoryStorage(hand.dynamic(content)))[0].confidence == 100


def test_a_machine_in_saved_state_is_noted(tmp_path: Path) -> None:
    image = tmp_path / "image.vhd"
    image.write_bytes(hand.dynamic(b"x" * 512, saved=1))
    assert any("saved state" in note for note in info(image)["notes"])
    assert info(image)["details"]["saved-state"] is True


def test_info_needs_no_numpy(tmp_path: Path) -> None:
    image = tmp_path / "image.avhd"
    parent = hand.Parent(locators=[(b"W2ru", "base.vhd".encode("utf-16-le"))])
    image.write_bytes(hand.dynamic(b"x" * 512, parent=parent))
    script = (
        "import sys, json; from vmimg.formats.info import image_info;"
        "print(json.dumps(image_info(sys.argv[1])[0].to_json()));"
        "assert 'numpy' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(image)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert said["backing-filename"] == "base.vhd"
    assert said["format-specific"]["data"]["subformat"] == "differencing"
