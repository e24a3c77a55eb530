"""Differencing VHD: chains of vmimg's own, and by hand those of Windows and Virtual PC."""

from __future__ import annotations

import os
import random
import tempfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
import vhd_by_hand as hand
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.layer import ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, OptionError, UnsafeImage
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vhd.allocation import WritableVhdLayer
from vmimg.formats.vhd.header import read_image
from vmimg.formats.vhd.layer import VhdLayer
from vmimg.formats.vhd.locators import parent_ref
from vmimg.formats.vhd.writer import VhdWriter
from vmimg.storage import MemoryStorage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

MIB = 1 << 20
SIZE = 40 * 4096 + 1024


def libvhdi() -> Any:
    """The module of libvhdi, which ships no types."""
    peers.require("pyvhdi")
    return import_module("pyvhdi")


def wide(text: str) -> bytes:
    return text.encode("utf-16-le")


def base_in(folder: Path, content: bytes, name: str = "base.vhd") -> Path:
    path = folder / name
    path.write_bytes(hand.dynamic(content))
    return path


def by_libvhdi(file: Any, size: int) -> bytes:
    """The content, in small pieces: in large ones libvhdi 20260901 takes blocks of the child that
    follow one of the parent's for the parent's, too.
    """
    pieces = range(0, size, 4096)
    return b"".join(file.read_buffer_at_offset(min(4096, size - at), at) for at in pieces)


def test_each_sector_comes_from_the_child_or_from_the_parent(tmp_path: Path) -> None:
    below, above = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)
    base_in(tmp_path, below)
    present = {n for n in range(SIZE // 512) if n % 3 == 0 or 50 < n < 90} - set(range(160, 200))
    parent = hand.Parent(locators=[(b"W2ru", wide(".\\base.vhd"))])
    child = tmp_path / "child.avhd"
    child.write_bytes(hand.dynamic(above, parent=parent, present=present))
    expected = bytearray(below)
    for n in present:
        expected[n * 512 : n * 512 + 512] = above[n * 512 : n * 512 + 512]
    with open_disk(child) as disk:
        assert [layer.format for layer in disk.layers] == ["vhd", "vhd"]
        assert disk.read(0, SIZE) == expected
        for start in range(0, SIZE - 3000, 7777):
            assert disk.read(start, 3000) == expected[start : start + 3000]
        here = [e for e in disk.layers[0].map(0, SIZE) if e.kind == Kind.DATA]
    sectors = {n for e in here for n in range(e.start // 512, e.end // 512)}
    assert sectors == present
    whole = child.read_bytes()
    for extent in here:
        assert extent.offset is not None
        there = whole[extent.offset : extent.offset + extent.length]
        assert there == above[extent.start : extent.end]


@pytest.mark.parametrize("order", [1, -1])
def test_libvhdi_reads_our_chain_as_we_do(tmp_path: Path, order: int) -> None:
    pyvhdi = libvhdi()
    size = 9 * MIB + 512
    content = bytearray(awkward_disk(size))
    write_sparse(tmp_path / "raw", bytes(content))
    paths = [tmp_path / "0.vhd"]
    convert(tmp_path / "raw", paths[0], format="vhd")
    source = random.Random(3)
    for number in (1, 2):
        paths.append(tmp_path / f"{number}.vhd")
        create(paths[-1], format="vhd", backing=paths[-2].name, backing_format="vpc")
        with open_disk(paths[-1], writable=True) as disk:
            for start in sorted((source.randrange(size) for _ in range(20)), reverse=order < 0):
                length = min(size - start, source.choice([1, 512, 4096, 5000, 100_000, 3 * MIB]))
                if number == 2 and source.random() < 0.3:
                    disk.zero(start, length)
                    content[start : start + length] = bytes(length)
                else:
                    data = source.randbytes(length)
                    disk.write(start, data)
                    content[start : start + length] = data
    with open_disk(paths[-1]) as disk:
        assert disk.read(0, size) == content
    files = []
    for path in paths:
        files.append(pyvhdi.file())
        files[-1].open(str(path))
    for parent, file in pairwise(files):
        assert file.disk_type == 4
        assert file.parent_identifier == parent.identifier
        assert file.parent_filename == paths[files.index(parent)].name
        file.set_parent(parent)
    assert by_libvhdi(files[-1], size) == content
    for path in paths:
        assert check(path).exit_code == 0


def test_a_chain_is_converted_and_an_overlay_holds_only_what_differs(tmp_path: Path) -> None:
    size = 12 * MIB
    below = awkward_disk(size)
    above = bytearray(below)
    above[5 * MIB : 5 * MIB + 100] = b"!" * 100
    above[8 * MIB : 10 * MIB] = bytes(2 * MIB)  # zeros that hide what is below
    write_sparse(tmp_path / "below", below)
    write_sparse(tmp_path / "above", bytes(above))
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    convert(tmp_path / "below", base, format="vhd", options={"subformat": "fixed"})
    convert(tmp_path / "above", child, format="vhd", backing="base.vhd", backing_format="vhd")
    assert child.stat().st_size < 3 * 2 * MIB + 65536
    with open_disk(child) as disk:
        assert disk.read(0, size) == above
        blocks = sum(e.length for e in disk.layers[0].map(0, size) if e.kind != Kind.ABSENT)
    assert blocks == 2 * 2 * MIB
    # The zeros are a hole.
    assert child.stat().st_blocks * 512 < 3 * MIB
    convert(child, tmp_path / "flat", format="raw")
    assert (tmp_path / "flat").read_bytes() == above
    assert check(child).exit_code == 0


OPERATIONS = operation_lists([1, 100, 512, 4096, 5000, 40_000], [1, 512], most=25, writes=4)


@given(
    operations=OPERATIONS,
    block=st.sampled_from([4096, 16384, 2 * MIB]),
    length=st.sampled_from([SIZE, SIZE // 2 // 512 * 512]),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=rounds(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_above_a_parent(
    operations: list[Operation], block: int, length: int, seed: int
) -> None:
    pyvhdi = libvhdi()
    source = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        below = source.randbytes(length)
        (folder / "base.vhd").write_bytes(hand.dynamic(below, block=block))
        above = source.randbytes(SIZE)
        # In whole bytes of the bitmap: libvhdi takes an unset bit behind a set one for zeros.
        groups = [n for n in range(SIZE // 4096) if source.random() < 0.2]
        present = {8 * n + k for n in groups for k in range(8)}
        parent = hand.Parent(locators=[(b"W2ru", wide(".\\base.vhd"))])
        image = folder / "child.vhd"
        image.write_bytes(hand.dynamic(above, block=block, parent=parent, present=present))
        model = bytearray(below.ljust(SIZE, b"\0"))
        for n in present:
            model[n * 512 : n * 512 + 512] = above[n * 512 : n * 512 + 512]
        twins = Twins(image, model)
        for operation in operations:
            start, size = twins.perform(operation, some_zeros=False)
            assert twins.disk.read(start, size) == twins.content[start : start + size]
        model = twins.content
        assert twins.disk.read(0, SIZE) == model
        twins.disk.close()
        with open_disk(image) as disk:
            assert disk.read(0, SIZE) == model
        assert check(image).problems == []
        if length == SIZE:
            base, child = pyvhdi.file(), pyvhdi.file()
            base.open(str(folder / "base.vhd"))
            child.open(str(image))
            child.set_parent(base)
            assert by_libvhdi(child, SIZE) == model


# Who the parent is


@pytest.mark.parametrize(
    ("locators", "name", "paths"),
    [
        ([(b"W2ru", wide(".\\base.vhd"))], "base.vhd", ["base.vhd"]),
        ([(b"W2ru", wide("base.vhd\0"))], "", ["base.vhd"]),
        ([(b"W2ru", wide("..\\up\\b.vhd"))], "b.vhd", ["../up/b.vhd", "b.vhd"]),
        ([(b"W2ku", wide("C:\\VMs\\base.vhd"))], "", ["base.vhd"]),
        ([(b"W2ku", wide("\\\\host\\share\\b.vhd"))], "", ["//host/share/b.vhd", "b.vhd"]),
        (
            [(b"W2ku", wide("C:\\VMs\\b.vhd")), (b"W2ru", wide(".\\sub\\ä.vhd"))],
            "n.vhd",
            ["sub/ä.vhd", "b.vhd", "n.vhd", "ä.vhd"],
        ),
        ([(b"MacX", b"file://localhost/Users/x/b%20c.vhd")], "", ["/Users/x/b c.vhd", "b c.vhd"]),
        ([(b"MacX", b"file:///x/b.vhd")], "", ["/x/b.vhd", "b.vhd"]),
        ([(b"MacX", b"http://host/b.vhd")], "n.vhd", ["n.vhd"]),
        ([(b"Wi2r", b".\\old.vhd")], "", ["old.vhd"]),
        ([(b"Wi2k", wide("D:\\old.vhd"))], "", ["old.vhd"]),
        ([(b"Mac ", b"\0\1\2")], "n.vhd", ["n.vhd"]),
        ([], "C:\\VMs\\n.vhd", ["n.vhd"]),
        ([], "", [""]),
        ([(b"W2ru", b"\xff\xd8\x00")], "n.vhd", None),
    ],
)
def test_what_windows_and_macs_call_a_parent(
    locators: list[tuple[bytes, bytes]], name: str, paths: list[str] | None
) -> None:
    parent = hand.Parent(name=name, locators=locators)
    storage = MemoryStorage(hand.dynamic(bytes(4096), parent=parent, present={0}))
    header = read_image(storage).dynamic
    assert header is not None
    ref = parent_ref(storage, header)
    assert ref.format == "vhd"
    if paths is not None:
        assert [ref.path, *ref.alternatives] == paths


def test_a_chain_that_was_moved_is_found_beside_its_child(tmp_path: Path) -> None:
    base_in(tmp_path, b"b" * SIZE)
    parent = hand.Parent(
        locators=[(b"W2ru", wide("..\\elsewhere\\base.vhd")), (b"W2ku", wide("C:\\VMs\\base.vhd"))]
    )
    child = tmp_path / "child.vhd"
    child.write_bytes(hand.dynamic(bytes(SIZE), parent=parent, present={3}))
    with open_disk(child) as disk:
        assert disk.read(0, 2048) == b"b" * 1536 + bytes(512)


def test_what_we_write_is_what_others_look_at(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    base = base_in(folder, b"b" * SIZE)
    child = tmp_path / "child.vhd"
    create(child, format="vhd", backing="sub/base.vhd", backing_format="vhd")
    facts = image_info(child)[0].image.details
    assert facts["parent-locators"] == {"W2ru": ".\\sub\\base.vhd"}
    assert facts["parent-name"] == "base.vhd"
    assert facts["parent-unique-id"] == str(hand.BASE_ID)
    absolute = tmp_path / "absolute.vhd"
    create(absolute, format="vhd", backing=str(base), backing_format="vhd")
    facts = image_info(absolute)[0].image.details
    assert facts["parent-locators"]["W2ku"] == str(base).replace("/", "\\")
    assert facts["parent-locators"]["MacX"] == "file://" + str(base)
    for path in (child, absolute):
        with open_disk(path) as disk:
            assert disk.size == SIZE
            assert disk.read(0, SIZE) == b"b" * SIZE


def test_parents_that_the_format_cannot_have(tmp_path: Path) -> None:
    create(tmp_path / "base.qcow2", MIB, format="qcow2")
    base_in(tmp_path, b"b" * SIZE)
    base_in(tmp_path, b"b" * SIZE, "back\\slash.vhd")
    base_in(tmp_path, b"b" * SIZE, "two\nlines.vhd")
    for backing, format, options, words in (
        ("base.qcow2", "qcow2", {}, "vhd"),
        ("base.vhd", "vhd", {"subformat": "fixed"}, "fixed"),
        ("back\\slash.vhd", "vhd", {}, "backslash"),
        ("two\nlines.vhd", "vhd", {}, "no text"),
    ):
        with pytest.raises(OptionError, match=words):
            create(
                tmp_path / "child.vhd", format="vhd", backing=backing, backing_format=format,
                options=options,
            )  # fmt: skip


def test_another_disk_under_the_name_of_the_parent_is_refused(tmp_path: Path) -> None:
    base = base_in(tmp_path, b"b" * SIZE)
    child = tmp_path / "child.vhd"
    create(child, format="vhd", backing="base.vhd", backing_format="vhd")
    other = UUID(int=5)
    base.write_bytes(hand.dynamic(b"c" * SIZE, id=other))
    with pytest.raises(ChainError) as raised, open_disk(child):
        pass
    assert str(other) in str(raised.value)
    assert str(hand.BASE_ID) in str(raised.value)
    with open_disk(child, policy=ParentPolicy(allow_changed=True)) as disk:
        assert disk.read(0, 512) == b"c" * 512


class Dated(MemoryStorage):
    """Says when it was modified."""

    when: float | None = None

    def modified(self) -> float | None:
        return self.when


def test_a_parent_that_was_written_to_since_is_noticed() -> None:
    below = Dated(hand.dynamic(b"b" * SIZE))
    below.when = 1_600_000_000.7
    base = VhdLayer(below, read_image(below))
    writer = VhdWriter(SIZE, 2 * MIB, ParentRef("base.vhd", "vhd"), base)
    above = MemoryStorage()
    for offset, data in writer.finish():
        above.write(offset, data)
    child = VhdLayer(above, read_image(above))
    assert child.header.parent_time_stamp == 1_600_000_000 - 946_684_800
    assert child.parent_mismatch(base) is None
    below.when += 2
    assert child.parent_mismatch(base) is None
    below.when += 2
    assert "written to since" in (child.parent_mismatch(base) or "")
    below.when = None
    assert child.parent_mismatch(base) is None


def test_a_parent_outside_of_what_is_allowed_is_refused(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    base_in(outside, b"b" * SIZE)
    for locator in (
        (b"W2ru", wide("..\\outside\\base.vhd")),
        (b"W2ku", wide(str(outside / "base.vhd").replace("/", "\\"))),
        (b"MacX", b"file://" + os.fsencode(outside / "base.vhd")),
    ):
        child = inside / "child.vhd"
        parent = hand.Parent(locators=[locator])
        child.write_bytes(hand.dynamic(bytes(SIZE), parent=parent, present={1}))
        with pytest.raises(UnsafeImage, match="--allow-dir"), open_disk(child):
            pass
        policy = ParentPolicy(allowed=(outside,))
        with open_disk(child, policy=policy) as disk:
            assert disk.read(0, 1024) == b"b" * 512 + bytes(512)


def test_bits_of_new_blocks_are_set_for_what_was_written_only() -> None:
    storage = MemoryStorage(hand.dynamic(bytes(SIZE), parent=hand.Parent(), present=set()))
    layer = WritableVhdLayer(storage, read_image(storage))
    layer.write(512 * 3, b"x" * 1024)
    layer.zero(512 * 7, 512)
    layer.flush()
    place = int(layer.lookup(0, 1).offsets[0])
    assert storage.read(place - 512, 2) == bytes([0b00011001, 0])
    layer.close()


def test_a_parent_file_that_was_written_to_since_is_refused(tmp_path: Path) -> None:
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    create(base, 4 << 20, format="vhd")
    made = os.stat(base).st_mtime
    create(child, format="vhd", backing="base.vhd")
    for later in (-3600, 0, 1):  # restored from a backup; untouched; as coarse as FAT's clock
        os.utime(base, (made + later, made + later))
        open_disk(child).close()
    os.utime(base, (made + 3600, made + 3600))
    with pytest.raises(ChainError, match=r"written to since.*--allow-changed-parent"):
        open_disk(child)
    open_disk(child, policy=ParentPolicy(allow_changed=True)).close()
