"""Differencing VHDX: parents found and believed, partially present blocks, writing above a parent.

QEMU reads no differencing VHDX. libvhdi and dissect.hypervisor do, with limits that the tests keep
to: a parent of the same size and block size; for libvhdi a sector bitmap for each chunk, and no
blocks that are zeros above a parent.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_vhdx_read import by_pyvhdi, content_of

import peers
import vhdx_by_hand as by_hand
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk, write_sparse
from vhdx_by_hand import (
    DATA_GUID,
    FULL,
    MIB,
    NOT_PRESENT,
    PARTIAL,
    UNDEFINED,
    UNMAPPED,
    UNMAPPED_095,
    ZERO,
)
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, OptionError, UnsafeImage
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.layer import VhdxLayer
from vmimg.formats.vhdx.locators import pack_locator, parse_locator
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

LINK = {"parent_linkage": "{" + str(DATA_GUID) + "}"}
UP = random.Random(1).randbytes(8 * MIB)
DOWN = random.Random(2).randbytes(8 * MIB)


def dissected(path: Path) -> bytes:
    peers.require("dissect.hypervisor")
    from dissect.hypervisor.disk.vhdx import VHDX

    disk = VHDX(path)
    return bytes(disk.read(disk.size))


def parent(folder: Path, size: int = 8 * MIB, **kind: int) -> Path:
    blocks = {n: (FULL, DOWN[n * MIB : (n + 1) * MIB]) for n in range(size // MIB)}
    return by_hand.make(size, blocks, **kind).save(folder / "parent.vhdx")


# Reading


@pytest.mark.peer("pyvhdi", "dissect.hypervisor")
@pytest.mark.parametrize("logical", [512, 4096])
def test_partially_present_blocks_are_read_sector_by_sector(tmp_path: Path, logical: int) -> None:
    """Put together by hand, for lack of a peer that makes them."""
    below = parent(tmp_path, logical=logical)
    source = random.Random(logical)
    per_block = MIB // logical
    bits = [[source.random() < 0.5 for _ in range(per_block)] for _ in range(8)]
    bits[3] = [n % 2 == 0 for n in range(per_block)]
    bits[4] = [False] * (per_block - 1) + [True]
    # Those of other blocks mean nothing, but libvhdi looks at them.
    bits[1] = bits[2] = bits[6] = [False] * per_block
    bits[5] = [True] * per_block
    bitmap = bytearray()
    for row in bits:
        for start in range(0, per_block, 8):
            # The first sector of eight is the lowest bit.
            bitmap.append(sum(bit << n for n, bit in enumerate(row[start : start + 8])))
    blocks = {n: (PARTIAL, UP[n * MIB : (n + 1) * MIB]) for n in (0, 3, 4, 7)}
    blocks[5] = (FULL, UP[5 * MIB : 6 * MIB])
    image = by_hand.make(
        8 * MIB,
        blocks,
        logical=logical,
        bitmaps={0: bytes(bitmap)},
        parent=LINK | {"relative_path": ".\\parent.vhdx"},
    )
    path = image.save(tmp_path / "child.avhdx")
    wanted = bytearray(DOWN)
    for number in (0, 3, 4, 7):
        for sector, bit in enumerate(bits[number]):
            start = number * MIB + sector * logical
            if bit:
                wanted[start : start + logical] = UP[start : start + logical]
    wanted[5 * MIB : 6 * MIB] = UP[5 * MIB : 6 * MIB]
    assert content_of(path) == wanted
    assert by_pyvhdi(path, below) == wanted
    assert dissected(path) == wanted
    assert check(path).exit_code == 0
    with open_disk(path) as disk:  # at odd places, too
        for _ in range(50):
            start = source.randrange(8 * MIB)
            length = source.randrange(min(3 * logical, 8 * MIB - start))
            assert disk.read(start, length) == wanted[start : start + length]


def test_of_the_states_only_not_present_shows_the_parent(tmp_path: Path) -> None:
    parent(tmp_path)
    states = (NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_095)
    path = by_hand.make(
        8 * MIB,
        {number: (state, b"") for number, state in enumerate(states)},
        parent=LINK | {"relative_path": "parent.vhdx"},
    ).save(tmp_path / "child.vhdx")
    assert content_of(path) == DOWN[:MIB] + bytes(4 * MIB) + DOWN[5 * MIB :]
    with open_disk(path) as disk:
        kinds = [(e.kind, e.depth) for e in disk.map()]
    assert kinds == [(Kind.DATA, 1), (Kind.ZERO, 0), (Kind.DATA, 1)]


def test_the_bits_of_a_second_chunk_are_its_own(tmp_path: Path) -> None:
    # 16 blocks of 256 MiB make a chunk; block 17 is the second of the second one.
    size, block = 18 << 28, 1 << 28
    image = by_hand.make(size, {}, block=block, parent=LINK | {"relative_path": "parent.vhdx"})
    place = len(image) + 2 * MIB
    per_block = block // 512 // 8
    for chunk in (0, 1):
        bits = bytearray(MIB)
        bits[per_block] = 1 << 3 if chunk else 0xFF
        image.put(image.bitmap_entry(chunk), len(image) | 6)
        image += bits
    image.put(image.entry(17), place | PARTIAL)
    path = image.save(tmp_path / "child.vhdx")
    with open(path, "r+b") as file:
        file.truncate(place + block)
        file.seek(place)
        file.write(b"\1" * 4096)
    create(tmp_path / "parent.vhdx", size, format="vhdx")
    with open_disk(path, policy=ParentPolicy(allow_changed=True)) as disk:
        assert disk.read(17 * block, 4096) == bytes(1536) + b"\1" * 512 + bytes(2048)


def test_a_partial_block_without_bitmap_is_an_error(tmp_path: Path) -> None:
    parent(tmp_path)
    image = by_hand.make(
        8 * MIB, {2: (PARTIAL, UP[:MIB])}, parent=LINK | {"relative_path": "parent.vhdx"}
    )
    path = image.save(tmp_path / "child.vhdx")
    with open_disk(path) as disk:
        assert disk.read(0, MIB) == DOWN[:MIB]
        with pytest.raises(FormatError, match="no sector bitmap"):
            disk.read(2 * MIB, 1)
    report = check(path)
    assert report.corruptions == 1
    assert "chunk 0 has partially present blocks" in report.problems[0]


# Names and identities


@pytest.mark.parametrize(
    "paths",
    [
        {"relative_path": ".\\parent.vhdx"},
        {"relative_path": "..\\{folder}\\parent.vhdx"},
        {"absolute_win32_path": "C:\\Hyper-V\\disks\\parent.vhdx"},
        {"absolute_win32_path": "\\\\?\\d:\\path2\\sub3\\parent.vhdx"},
        {"volume_path": "\\\\?\\Volume{{26A21BDA-A627-11D7-9931-806E6F6E6963}}\\a\\parent.vhdx"},
        {"relative_path": ".\\gone.vhdx", "absolute_win32_path": "\\\\server\\share\\parent.vhdx"},
        {"relative_path": "..\\elsewhere\\parent.vhdx"},
        {"absolute_win32_path": "{absolute}"},
    ],
    ids=lambda paths: "+".join(paths.values()),
)
def test_a_parent_is_found_by_any_of_its_names(tmp_path: Path, paths: dict[str, str]) -> None:
    below = parent(tmp_path)
    names = {"folder": tmp_path.name, "absolute": str(below).replace("/", "\\")}
    given_paths = {key: text.format(**names) for key, text in paths.items()}
    path = by_hand.make(8 * MIB, {}, parent=LINK | given_paths).save(tmp_path / "child.vhdx")
    assert content_of(path) == DOWN


def test_what_we_write_into_a_locator_is_what_hyper_v_writes() -> None:
    linkage = DATA_GUID.bytes_le
    for named, key, value in (
        ("base.vhdx", "relative_path", ".\\base.vhdx"),
        ("../up/base.vhdx", "relative_path", "..\\up\\base.vhdx"),
        ("/images/base.vhdx", "absolute_win32_path", "\\images\\base.vhdx"),
        ("C:\\images\\base.vhdx", "absolute_win32_path", "C:\\images\\base.vhdx"),
    ):
        item = pack_locator(named, linkage)
        locator = parse_locator(item, "test")
        assert locator.entries == {**LINK, key: value}
        assert item == by_hand.locator({**LINK, key: value})
    assert parse_locator(pack_locator("/a/b", linkage), "test").reference("test").path == "/a/b"


def test_a_child_knows_its_parents_identity(tmp_path: Path) -> None:
    parent(tmp_path)
    path = tmp_path / "child.vhdx"
    create(path, format="vhdx", backing="parent.vhdx", backing_format="vhdx")
    info = image_info(path)[0].image
    assert info.details["parent-locator"] == {**LINK, "relative_path": ".\\parent.vhdx"}
    assert info.details["subformat"] == "differencing"
    assert info.parent is not None
    assert (info.parent.path, info.parent.format) == ("parent.vhdx", "vhdx")
    assert content_of(path) == DOWN
    with open_disk(tmp_path / "parent.vhdx", writable=True) as disk:
        disk.write(0, b"changed")
    with pytest.raises(ChainError, match=f"made above {DATA_GUID}"):
        open_disk(path)
    with open_disk(path, policy=ParentPolicy(allow_changed=True)) as disk:
        assert disk.read(0, 7) == b"changed"


def test_the_second_linkage_is_as_good_as_the_first(tmp_path: Path) -> None:
    parent(tmp_path)
    other = "{00000000-1111-2222-3333-444444444444}"
    entries = {
        "parent_linkage": other,
        "parent_linkage2": "{" + str(DATA_GUID).upper() + "}",
        "relative_path": "parent.vhdx",
    }
    path = by_hand.make(8 * MIB, {}, parent=entries).save(tmp_path / "child.vhdx")
    assert content_of(path) == DOWN
    entries["parent_linkage2"] = other
    by_hand.make(8 * MIB, {}, parent=entries).save(path)
    with pytest.raises(ChainError, match=f"has the DataWriteGuid {DATA_GUID}"):
        open_disk(path)


def test_a_parent_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    entries = LINK | {"relative_path": "..\\..\\..\\..\\..\\etc\\passwd"}
    path = by_hand.make(8 * MIB, {}, parent=entries).save(tmp_path / "sub" / "child.vhdx")
    with pytest.raises((UnsafeImage, ChainError)):
        open_disk(path)


def test_a_chain_that_loops_is_refused(tmp_path: Path) -> None:
    entries = LINK | {"relative_path": "b.vhdx"}
    by_hand.make(8 * MIB, {}, parent=entries).save(tmp_path / "a.vhdx")
    entries = LINK | {"relative_path": "a.vhdx"}
    by_hand.make(8 * MIB, {}, parent=entries).save(tmp_path / "b.vhdx")
    with pytest.raises(ChainError, match="loops"):
        open_disk(tmp_path / "a.vhdx")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subformat": "fixed"}, "a fixed disk has no parent"),
        ({"logical_sector_size": "4096"}, "pass logical_sector_size=512"),
    ],
)
def test_what_cannot_stand_above_a_parent_is_told(
    tmp_path: Path, options: dict[str, str | int | bool], says: str
) -> None:
    parent(tmp_path)
    with pytest.raises(OptionError, match=says):
        create(
            tmp_path / "child.vhdx",
            format="vhdx",
            options=options,
            backing="parent.vhdx",
            backing_format="vhdx",
        )
    (tmp_path / "raw").write_bytes(bytes(MIB))
    with pytest.raises(OptionError, match="vhdx"):
        create(tmp_path / "c.vhdx", format="vhdx", backing="raw", backing_format="raw")


# Writing


@pytest.mark.peer("dissect.hypervisor")
def test_converted_above_a_parent_only_the_difference_is_stored(tmp_path: Path) -> None:
    parent(tmp_path)
    content = bytearray(DOWN)
    content[3 * MIB : 3 * MIB + 5] = b"other"
    content[5 * MIB : 6 * MIB] = bytes(MIB)
    raw = write_sparse(tmp_path / "raw", bytes(content))
    path = tmp_path / "child.vhdx"
    convert(
        raw,
        path,
        format="vhdx",
        options={"block_size": "1M"},
        backing="parent.vhdx",
        backing_format="vhdx",
    )
    assert content_of(path) == dissected(path) == content
    with open_disk(path, policy=ParentPolicy(follow=False)) as disk:
        found = {e.start // MIB: e.kind for e in disk.map() if e.kind != Kind.ABSENT}
    assert found == {3: Kind.DATA, 5: Kind.ZERO}
    assert check(path).exit_code == 0


def test_few_bytes_above_a_parent_are_few_bytes_in_the_child(tmp_path: Path) -> None:
    parent(tmp_path)
    path = tmp_path / "child.vhdx"
    options: dict[str, str | int | bool] = {"block_size": "256M"}
    create(path, format="vhdx", options=options, backing="parent.vhdx", backing_format="vhdx")
    before = path.stat().st_blocks
    with open_disk(path, writable=True) as disk:
        disk.write(MIB + 100, b"few bytes")
    assert (path.stat().st_blocks - before) * 512 < MIB
    wanted = DOWN[: MIB + 100] + b"few bytes" + DOWN[MIB + 109 :]
    assert content_of(path) == wanted
    with open_disk(path) as disk:
        assert disk.top.spans(0, 8 * MIB)
        present = [(start, end) for start, end, kind in disk.top.spans(0, 8 * MIB) if kind]
    assert present == [(MIB, MIB + 512)]


def test_a_block_that_becomes_whole_is_said_to_be_whole(tmp_path: Path) -> None:
    parent(tmp_path, 5 * MIB)
    path = tmp_path / "child.vhdx"
    options: dict[str, str | int | bool] = {"block_size": "2M"}
    create(path, format="vhdx", options=options, backing="parent.vhdx", backing_format="vhdx")

    def states() -> list[int]:
        with open_disk(path) as disk:
            layer = disk.top
            assert isinstance(layer, VhdxLayer)
            return [int(e) & s.STATE_MASK for e in layer.entries(0, 3)]

    with open_disk(path, writable=True) as disk:
        disk.write(0, UP[: MIB + 512])
    assert states() == [PARTIAL, NOT_PRESENT, NOT_PRESENT]
    with open_disk(path, writable=True) as disk:
        disk.write(MIB, UP[MIB : 2 * MIB])
        disk.write(4 * MIB, UP[:MIB])  # the disk ends inside of this one
    assert states() == [FULL, NOT_PRESENT, FULL]
    with open_disk(path, writable=True) as disk:
        disk.discard(0, 2 * MIB)
        disk.zero(2 * MIB, MIB)
        disk.write(0, UP[:512])
    # A block of zeros into which something is written is there as a whole.
    assert states() == [FULL, PARTIAL, FULL]
    assert content_of(path) == UP[:512] + bytes(3 * MIB - 512) + DOWN[3 * MIB : 4 * MIB] + UP[:MIB]


OPERATIONS = operation_lists([1, 512, 4096, 5000, 200_000, MIB, 3 * MIB], [1, 4096, MIB], most=12)


@pytest.mark.peer("pyvhdi", "dissect.hypervisor")
@pytest.mark.parametrize("logical", [512, 4096])
@given(
    operations=OPERATIONS,
    block=st.sampled_from([1, 2, 16]),
    size=st.sampled_from([8 * MIB, 5 * MIB + 4096]),
    shorter=st.sampled_from([0, MIB + 4096]),
)
@settings(max_examples=rounds(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_above_a_parent(
    logical: int,
    operations: list[Operation],
    block: int,
    size: int,
    shorter: int,
) -> None:
    options: dict[str, str | int | bool] = {
        "block_size": f"{block}M",
        "logical_sector_size": str(logical),
    }
    with tempfile.TemporaryDirectory() as folder:
        below, image = Path(folder, "parent.vhdx"), Path(folder, "child.vhdx")
        content = awkward_disk(size - shorter)
        raw = write_sparse(Path(folder, "raw"), content)
        convert(raw, below, format="vhdx", options=options)
        create(
            image,
            size,
            format="vhdx",
            options=options,
            backing="parent.vhdx",
            backing_format="vhdx",
        )
        twins = Twins(image, content + bytes(shorter))
        for operation in operations:
            twins.perform(operation)
            assert equal(twins.disk.read(0, size), twins.content)
        twins.disk.close()
        model = twins.content
        zeroed = any(operation.what in ("zero", "discard") for operation in operations)
        assert equal(content_of(image), model)
        assert check(image).exit_code == 0
        if not shorter:
            assert equal(dissected(image), model)
            if has_bitmap(image) and not zeroed:
                assert equal(by_pyvhdi(image, below), model)


def equal(one: bytes, other: bytes | bytearray) -> bool:
    """In a call of its own: pytest takes a minute to show how two disks differ."""
    return one == other


def has_bitmap(image: Path) -> bool:
    """Whether the only chunk has a sector bitmap block."""
    with open_disk(image) as disk:
        layer = disk.top
        assert isinstance(layer, VhdxLayer)
        return bool(layer.entries(layer.bitmap_index(0), layer.bitmap_index(0) + 1)[0])


def test_a_child_of_a_child(tmp_path: Path) -> None:
    parent(tmp_path)
    for name, below in (("b.vhdx", "parent.vhdx"), ("c.avhdx", "b.vhdx")):
        create(tmp_path / name, format="vhdx", backing=below, backing_format="vhdx")
        with open_disk(tmp_path / name, writable=True) as disk:
            disk.write({"b": 0, "c": 1}[name[0]] * MIB + 512, name.encode())
    wanted = bytearray(DOWN)
    wanted[512:518] = b"b.vhdx"
    wanted[MIB + 512 : MIB + 519] = b"c.avhdx"
    assert content_of(tmp_path / "c.avhdx") == wanted
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("parent.vhdx", "b.vhdx", "c.avhdx"):
        shutil.move(tmp_path / name, moved / name)
    assert content_of(moved / "c.avhdx") == wanted
