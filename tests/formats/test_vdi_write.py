"""Making VDI images and writing into them: what QEMU, 7-Zip and dissect.hypervisor make of it."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from test_vdi_read import by_dissect, content_of

import peers
import vdi_by_hand as by_hand
from model import Operation, Twins, operation_lists
from powerfail import Recorder, last_flush
from rounds import rounds
from samples import awkward_disk, write_sparse
from vdi_by_hand import DIFF, FREE, ZERO, Image, flat
from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vdi.allocation import WritableVdiLayer
from vmimg.formats.vdi.header import read_header
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20


def number(file: bytes, offset: int, width: int = 4) -> int:
    return int.from_bytes(file[offset : offset + width], "little")


def sound(path: Path) -> None:
    """Nothing wrong by our check; by qemu-img's neither, where it reads the image."""
    report = check(path)
    assert report.exit_code == 0, report.problems
    file = path.read_bytes()[:512]
    for_qemu = (
        number(file, 68) == 0x10001
        and number(file, by_hand.CB_BLOCK) == MIB
        and number(file, by_hand.TYPE) <= by_hand.FIXED
        and not number(file, by_hand.CB_EXTRA)
    )
    if for_qemu:
        peers.run("qemu-img", "check", path)


# Making images


@pytest.mark.peer("qemu-img", "7z", "dissect.hypervisor")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("size", [512, MIB, 3 * MIB + 512, 10_000_384])
def test_other_programs_read_what_we_make(tmp_path: Path, subformat: str, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.vdi"
    convert(raw, image, options={"subformat": subformat})
    assert content_of(image) == content == by_dissect(image)
    peers.run("qemu-img", "compare", "-f", "vdi", "-F", "raw", image, raw)
    info = peers.run_json("qemu-img", "info", "--output", "json", image)
    assert (info["format"], info["virtual-size"]) == ("vdi", size)
    assert peers.run("7z", "e", "-so", "-tVDI", image).stdout == content
    sound(image)


def test_the_layout_is_that_of_virtualbox(tmp_path: Path) -> None:
    size = 300_000 * MIB  # a map of more than a MiB
    image = tmp_path / "a.vdi"
    create(image, size, format="vdi")
    with image.open("rb") as file:
        head = file.read(512)
    assert head[:64] == b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0")
    assert struct.unpack_from("<IIIII", head, 64) == (0xBEDA107F, 0x10001, 400, by_hand.DYNAMIC, 0)
    assert struct.unpack_from("<II", head, by_hand.OFF_BLOCKS) == (MIB, 3 * MIB)
    assert struct.unpack_from("<4I", head, 348) == (0, 0, 0, 512)
    assert struct.unpack_from("<QIIII", head, by_hand.CB_DISK) == (size, MIB, 0, 300_000, 0)
    create_id, modify_id, linkage, parent = (
        UUID(bytes_le=head[at : at + 16])
        for at in (by_hand.CREATE, by_hand.MODIFY, by_hand.LINKAGE, by_hand.PARENT_MODIFY)
    )
    assert create_id.version == modify_id.version == 4 and create_id != modify_id
    assert linkage == parent == UUID(int=0)
    assert struct.unpack_from("<4I", head, by_hand.LCHS) == (0, 0, 0, 512)
    assert image.stat().st_size == 3 * MIB


@pytest.mark.parametrize(
    "options", [{"static": "on"}, {"preallocation": "metadata"}, {"subformat": "fixed"}], ids=str
)
def test_three_ways_to_say_fixed(tmp_path: Path, options: dict[str, str]) -> None:
    create(tmp_path / "a.vdi", 5 * MIB + 512, format="vdi", options=options)
    file = (tmp_path / "a.vdi").read_bytes()
    assert number(file, by_hand.TYPE) == by_hand.FIXED
    assert number(file, by_hand.C_ALLOCATED) == number(file, by_hand.C_BLOCKS) == 6
    assert struct.unpack_from("<6I", file, MIB) == tuple(range(6))
    assert len(file) == 2 * MIB + 6 * MIB


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("block_size", ["4k", "64k", "4M"])
def test_other_block_sizes(tmp_path: Path, subformat: str, block_size: str) -> None:
    content = awkward_disk(5 * MIB + 512)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.vdi"
    convert(raw, image, options={"subformat": subformat, "block_size": block_size})
    assert content_of(image) == content == by_dissect(image)
    sound(image)


@pytest.mark.peer("dissect.hypervisor")
def test_a_map_of_several_pages(tmp_path: Path) -> None:
    # With blocks of 4 KiB a page of 65536 entries maps 256 MiB.
    raw, image = tmp_path / "raw", tmp_path / "a.vdi"
    marks = {0: b"a", 255 * MIB: b"b", 256 * MIB: b"c", 700 * MIB: b"d", 800 * MIB + 4096: b"e"}
    with raw.open("wb") as file:
        file.truncate(800 * MIB + 8192)
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark)
    convert(raw, image, options={"block_size": "4k"})
    assert image.stat().st_size == 2 * MIB + len(marks) * 4096
    with open_disk(image, writable=True) as disk:
        data = [start for start, _, kind in disk.spans() if kind == Kind.DATA]
        assert data == list(marks)
        assert [disk.read(offset, 1) for offset in marks] == list(marks.values())
        disk.write(256 * MIB - 8000, b"x" * 20000)
    from dissect.hypervisor.disk.vdi import VDI  # type: ignore[import-untyped]

    stream = VDI(image).open()
    for offset, wanted in (*marks.items(), (256 * MIB - 4096, b"x" * 4096)):
        if offset != 256 * MIB:
            stream.seek(offset)
            assert stream.read(len(wanted)) == wanted
    sound(image)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_any_number_of_threads_and_a_stream_make_the_same_bytes(
    tmp_path: Path, subformat: str
) -> None:
    content = awkward_disk(20 * MIB + 512)
    raw = write_sparse(tmp_path / "raw", content)
    options = {"subformat": subformat}
    files = []
    for threads in (1, 4):
        image = tmp_path / "disk"  # the name that a stream is given
        convert(raw, image, format="vdi", options=options, threads=threads, replace=True)
        files.append(image.read_bytes())
    command = (sys.executable, "-m", "vmimg", "convert", "-O", "vdi", "-o")
    done = subprocess.run(
        (*command, f"subformat={subformat}", raw, "-"), stdout=subprocess.PIPE, check=True
    )
    assert files[0] == files[1] == done.stdout
    assert measure(raw, format="vdi", options=options).required == len(done.stdout)


def test_disks_that_differ_in_name_layout_or_size_have_uuids_of_their_own(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    seen = set()
    for count, size in ((1, 5), (2, 5), (2, 6)):
        raw.write_bytes(bytes((5 - count) * MIB) + b"x" * count * MIB + bytes((size - 5) * MIB))
        convert(raw, tmp_path / "disk.vdi", replace=True)
        details = image_info(tmp_path / "disk.vdi")[0].image.details
        seen |= {details["uuid"], details["uuid-modification"]}
    for name in ("a.vdi", "b.vdi"):
        create(tmp_path / name, MIB, format="vdi")
        details = image_info(tmp_path / name)[0].image.details
        seen |= {details["uuid"], details["uuid-modification"]}
    assert len(seen) == 10


def test_the_uuid_can_be_chosen(tmp_path: Path) -> None:
    uuid = "12345678-9abc-4def-8123-456789abcdef"
    create(tmp_path / "a.vdi", MIB, format="vdi", options={"uuid": uuid})
    assert image_info(tmp_path / "a.vdi")[0].image.details["uuid"] == uuid
    assert (tmp_path / "a.vdi").read_bytes()[392:408] == UUID(uuid).bytes_le


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"uuid": "nonsense"}, "not a UUID"),
        ({"uuid": str(UUID(int=0))}, "not a UUID"),
        ({"block_size": "1000"}, "power of two"),
        ({"block_size": "512"}, "power of two"),
        ({"block_size": "512M"}, "power of two"),
        ({"block_size": "4k"}, "larger blocks"),
        ({"subformat": "thick"}, "dynamic, fixed"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "a.vdi", 1 << 46, format="vdi", options=options)
    assert list(tmp_path.iterdir()) == []


# Overlays


@pytest.mark.peer("dissect.hypervisor")
def test_an_overlay_holds_what_differs_and_zeros_hide_the_parent(tmp_path: Path) -> None:
    below = bytearray(random.Random(1).randbytes(6 * MIB))
    wanted = below.copy()
    wanted[MIB : 2 * MIB] = bytes(MIB)
    wanted[4 * MIB + 10] ^= 1
    base, raw, image = tmp_path / "base.vdi", tmp_path / "raw", tmp_path / "over.vdi"
    raw.write_bytes(below)
    convert(raw, base)
    raw.write_bytes(wanted)
    convert(raw, image, backing=str(base), backing_format="vdi")
    file = image.read_bytes()
    assert number(file, by_hand.TYPE) == DIFF
    assert struct.unpack_from("<6I", file, MIB) == (FREE, ZERO, FREE, FREE, 0, FREE)
    assert content_of(image) == bytes(wanted) == by_dissect(image, base)
    sound(image)


def test_an_overlay_needs_a_vdi_that_is_there(tmp_path: Path) -> None:
    create(tmp_path / "base.vdi", MIB, format="vdi")
    create(tmp_path / "base.raw", MIB)
    target = tmp_path / "a.vdi"
    with pytest.raises(OptionError):
        create(target, format="vdi", backing=str(tmp_path / "base.raw"), backing_format="raw")
    with pytest.raises(OptionError, match="has to be there"):
        create(
            target, MIB, format="vdi", backing="nothing.vdi", backing_format="vdi",
            check_backing=False,
        )  # fmt: skip
    with pytest.raises(OptionError, match="fixed VDI"):
        create(
            target, format="vdi", options={"static": "on"}, backing=str(tmp_path / "base.vdi"),
            backing_format="vdi",
        )  # fmt: skip
    assert not target.exists()


# Writing in place

SIZE = 6 * MIB + 1536
PLACES = (1, FREE, ZERO, 0, 2, FREE, FREE)


def start_from(origin: str, folder: Path) -> tuple[Path, bytes, list[Path]]:
    """An image to write into, what it reads as, and its parents."""
    path = folder / "image.vdi"
    if origin.startswith("qemu"):
        content = bytearray(SIZE)
        content[MIB : 2 * MIB + 5] = random.Random(1).randbytes(MIB + 5)
        raw = write_sparse(folder / "raw", bytes(content))
        static = "on" if origin == "qemu static" else "off"
        peers.run("qemu-img", "convert", "-O", "vdi", "-o", f"static={static}", raw, path)
        return path, bytes(content), []
    image = {
        "version 0": Image(SIZE, PLACES, version=(0, 2)),
        "version 1": Image(SIZE, PLACES, header_size=384),
        "extra data": Image(SIZE, PLACES, extra=512),
        "small blocks": Image(SIZE, (), block=65536),
        "overlay": Image(SIZE, PLACES, kind=DIFF),
    }[origin]
    if origin == "small blocks":
        image.places = random.Random(2).sample(range(40), 40) + [FREE] * 57
    below, parents = b"", list[Path]()
    if image.kind == DIFF:
        base = Image(SIZE, (0, 1, 2, FREE, 3, FREE, 4), seed=5)
        image.linkage, image.parent_modify = base.uuids()
        file, blocks = base.build()
        parents = [folder / "base.vdi"]
        parents[0].write_bytes(file)
        below = flat(base.size, blocks, MIB)
    file, blocks = image.build()
    path.write_bytes(file)
    return path, flat(SIZE, blocks, image.block, below), parents


OPERATIONS = operation_lists(
    [1, 512, 5000, 65536, 300_000, 1 << 20, 3 << 20], [1, 512, 65536, 1 << 20], most=20
)


@pytest.mark.peer("qemu-img", "dissect.hypervisor")
@pytest.mark.parametrize(
    "origin",
    ["qemu", "qemu static", "version 0", "version 1", "extra data", "small blocks", "overlay"],
)
@given(operations=OPERATIONS)
@settings(max_examples=rounds(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_others_read(origin: str, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, content, parents = start_from(origin, folder)
        twins = Twins(image, content)
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        twins.disk.close()

        model = twins.content
        assert content_of(image) == model
        sound(image)
        if origin in ("qemu", "qemu static", "version 1"):
            raw = folder / "model"
            raw.write_bytes(model)
            peers.run("qemu-img", "compare", "-f", "vdi", "-F", "raw", image, raw)
        if origin in ("small blocks", "overlay"):
            assert by_dissect(image, *parents) == model


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    image, _, _ = start_from("version 1", tmp_path)
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, SIZE)
        disk.flush()
        disk.zero(MIB, MIB)  # was never written
    assert image.read_bytes() == before


def test_the_first_write_of_each_session_gives_a_new_modification_uuid(tmp_path: Path) -> None:
    image, _, _ = start_from("version 0", tmp_path)
    seen = []
    for _ in range(2):
        seen.append(image_info(image)[0].image.details)
        with open_disk(image, writable=True) as disk:
            disk.write(0, b"a")
            disk.flush()
            now = image_info(image, share=True)[0].image.details["uuid-modification"]
            disk.write(MIB, b"b")
        assert image_info(image)[0].image.details["uuid-modification"] == now
    seen.append(image_info(image)[0].image.details)
    assert len({details["uuid-modification"] for details in seen}) == 3
    assert len({details["uuid"] for details in seen}) == 1


@pytest.mark.peer("qemu-img")
def test_discarded_blocks_keep_their_places_and_give_back_their_space(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "a.vdi"
    raw.write_bytes(random.Random(1).randbytes(8 * MIB))
    peers.run("qemu-img", "convert", "-O", "vdi", raw, image)
    before = image.read_bytes()[:1024]
    used = image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.discard(2 * MIB, 4 * MIB)
        assert disk.read(2 * MIB, 4 * MIB) == bytes(4 * MIB)
    after = image.read_bytes()[:1024]
    # The next free place is still behind the last block: VirtualBox goes by the number alone.
    assert after[512:] == before[512:]
    assert number(after, by_hand.C_ALLOCATED) == 8
    assert image.stat().st_blocks <= used - 4 * 2048 + 64
    sound(image)


def test_a_zeroed_block_above_a_parent_takes_no_place(tmp_path: Path) -> None:
    image, content, _ = start_from("overlay", tmp_path)
    size = image.stat().st_size
    with open_disk(image, writable=True) as disk:
        assert content[MIB : 2 * MIB] != bytes(MIB)
        disk.zero(MIB, MIB)
        assert list(disk.spans(MIB, 2 * MIB)) == [(MIB, 2 * MIB, Kind.ZERO)]
    assert image.stat().st_size == size
    assert content_of(image)[MIB : 2 * MIB] == bytes(MIB)


@pytest.mark.parametrize(
    ("places", "says"),
    [((0, 0), "share a place"), ((0, 5), "no place"), ((7, FREE), "no place")],
    ids=str,
)
def test_a_damaged_map_is_not_written_to(
    tmp_path: Path, places: tuple[int, int], says: str
) -> None:
    path = tmp_path / "a.vdi"
    file, _ = Image(2 * MIB, places).build()
    path.write_bytes(file[: 1024 + MIB] if max(places) < 7 else file)
    with open_disk(path, writable=True) as disk, pytest.raises(FormatError, match=says):
        disk.write(0, b"x")


def test_a_place_that_a_crash_left_behind_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    file = bytearray(Image(4 * MIB, (0, 2, FREE, FREE), extra=512).build()[0])
    file[by_hand.C_ALLOCATED] = 3
    path.write_bytes(file)
    with open_disk(path, writable=True) as disk:
        disk.write(2 * MIB + 5, b"new")
    assert path.stat().st_size == len(file)
    assert content_of(path)[2 * MIB : 3 * MIB] == bytes(5) + b"new" + bytes(MIB - 8)
    sound(path)


# Being cut off


@pytest.mark.parametrize("lost", [0.0, 0.3, 0.8])
def test_cut_off_at_any_moment_what_was_flushed_is_there(tmp_path: Path, lost: float) -> None:
    """``lost``: how much of what was written since the last flush did not arrive."""
    block = 4096
    begin = Image(64 * block, (1, 0) + (FREE,) * 62, block=block).build()[0]
    storage = Recorder(begin)
    disk = Disk([WritableVdiLayer(storage, read_header(storage))])
    dice = random.Random(7)
    sure = bytearray(disk.read(0, disk.size))  # what the last flush made durable
    maybe = set[int]()  # blocks that changed since
    states: list[tuple[bytes, frozenset[int]]] = []
    now = bytearray(sure)
    for _ in range(60):
        start = dice.randrange(disk.size)
        length = min(disk.size - start, dice.choice((100, 4096, 20000)))
        what = dice.choice(("write", "write", "zero", "flush"))
        if what == "flush":
            disk.flush()
        else:
            maybe |= set(range(start // block, (start + length - 1) // block + 1))
            data = dice.randbytes(length) if what == "write" else bytes(length)
            if what == "write":
                disk.write(start, data)
            else:
                disk.zero(start, length)
            now[start : start + length] = data
        states += [(bytes(sure), frozenset(maybe))] * (len(storage.log) - len(states))
        if what == "flush":
            sure, maybe = bytearray(now), set()
    disk.close()
    states += [(bytes(sure), frozenset(maybe))] * (len(storage.log) - len(states))

    path = tmp_path / "a.vdi"
    for step in range(1, len(storage.log)):
        flushed = last_flush(storage.log, step)
        file = MemoryStorage(begin)
        for index, entry in enumerate(storage.log[:step]):
            if entry is None:
                continue
            if index < flushed or dice.random() >= lost:
                file.write(*entry)
        path.write_bytes(file.getvalue())
        content, changing = states[step - 1]
        header = read_header(file)
        with open_disk(path) as after:
            for index in set(range(64)) - changing:
                wanted = content[index * block : (index + 1) * block]
                assert after.read(index * block, block) == wanted, step
        bytes_now = file.getvalue()
        places = [number(bytes_now, at) for at in range(header.offset_blocks, header.map_end, 4)]
        used = [place for place in places if place < ZERO]
        assert len(used) == len(set(used)), step
        # What VirtualBox takes for free must be free.
        assert header.blocks_allocated > max(used), step
