"""Making QED images and writing into them: what QEMU makes of it."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_qed_read import by_qemu, content_of

import peers
import qed_by_hand as by_hand
from model import Operation, Twins, operation_lists
from qed_by_hand import NEED_CHECK, NO_PROBE, ZERO, Image, flat
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import FormatError, OptionError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

KIB, MIB = 1 << 10, 1 << 20


def number(file: bytes, offset: int, width: int = 8) -> int:
    return int.from_bytes(file[offset : offset + width], "little")


def features(path: Path) -> int:
    return number(path.read_bytes()[:64], by_hand.FEATURES)


def sound(path: Path) -> None:
    """Nothing wrong by our check, and by qemu-img's."""
    report = check(path)
    assert report.exit_code == 0, report.problems
    peers.run("qemu-img", "check", path)


# Making images


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "options",
    ["", "cluster_size=4k", "cluster_size=4k,table_size=16", "cluster_size=1M,table_size=2"],
)
@pytest.mark.parametrize("size", [512, 10_000_384, 8 << 30])
def test_empty_images_are_those_of_qemu_img_byte_for_byte(
    tmp_path: Path, options: str, size: int
) -> None:
    given = dict(option.split("=") for option in options.split(",") if option)
    create(tmp_path / "ours", size, format="qed", options=given)
    peers.run(
        *("qemu-img", "create", "-q", "-f", "qed", *(("-o", options) if options else ())),
        *(tmp_path / "theirs", str(size)),
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_empty_children_are_those_of_qemu_img_byte_for_byte(tmp_path: Path, format: str) -> None:
    base = tmp_path / "base"
    create(base, 3 * MIB, format=format)
    create(tmp_path / "ours", format="qed", backing="base", backing_format=format)
    peers.run(
        *("qemu-img", "create", "-q", "-f", "qed", "-b", "base", "-F", format, "theirs"),
        cwd=tmp_path,
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "options",
    [{}, {"cluster_size": "4k", "table_size": "2"}, {"cluster_size": "1M", "table_size": "16"}],
    ids=str,
)
@pytest.mark.parametrize("size", [512, MIB, 9 * MIB + 1536])
def test_qemu_reads_what_we_make(tmp_path: Path, options: dict[str, str], size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.qed"
    convert(raw, image, options=options)
    assert content_of(image) == content
    peers.run("qemu-img", "compare", "-f", "qed", "-F", "raw", image, raw)
    sound(image)


def test_tables_of_many_pages(tmp_path: Path) -> None:
    # Tables of 16 MiB; a page of one maps 32 GiB here.
    raw, image = tmp_path / "raw", tmp_path / "a.qed"
    marks = {0: b"a", 31 << 30: b"b", 32 << 30: b"c", 1 << 40: b"d", (2 << 40) + MIB: b"e"}
    create(raw, 3 << 40)
    with raw.open("r+b") as file:
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark)
    convert(raw, image, options={"cluster_size": "1M", "table_size": "16"})
    header, tables, data = 1, 3 * 16, len(marks)
    assert image.stat().st_size == (header + tables + data) * MIB
    assert image.stat().st_blocks * 512 < 8 * MIB
    with open_disk(image, writable=True) as disk:
        spans = [start for start, _, kind in disk.spans() if kind == Kind.DATA]
        assert spans == [offset // MIB * MIB for offset in marks]
        assert [disk.read(offset, 1) for offset in marks] == list(marks.values())
        disk.write((32 << 30) - 8000, b"x" * 20_000)
        disk.write((2 << 40) - 5, b"y" * 10)
        spans = [end for _, end, kind in disk.spans() if kind == Kind.DATA]
        assert (2 << 40) + 2 * MIB in spans
    with open_disk(image) as disk:
        assert disk.read((32 << 30) - 8000, 20_000) == b"x" * 20_000
        assert disk.read((2 << 40) - 5, 11) == b"y" * 10 + b"\0"
        assert disk.read(1 << 40, 2) == b"d\0"
    sound(image)


@pytest.mark.peer("qemu-img")
def test_any_number_of_threads_and_a_stream_make_the_same_bytes(tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(20 * MIB + 512))
    options = {"cluster_size": "4k", "table_size": "2"}
    files = []
    for threads in (1, 4):
        image = tmp_path / "disk"
        convert(raw, image, format="qed", options=options, threads=threads, replace=True)
        files.append(image.read_bytes())
    done = subprocess.run(
        (sys.executable, "-m", "vmimg", "convert", "-O", "qed",
         "-o", "cluster_size=4k,table_size=2", raw, "-"),
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert files[0] == files[1] == done.stdout
    assert measure(raw, format="qed", options=options).required == len(done.stdout)


@pytest.mark.peer("qemu-img")
def test_the_largest_disk_is_made_mapped_and_converted(tmp_path: Path) -> None:
    image = tmp_path / "a.qed"
    create(image, 64 << 40, format="qed")
    with open_disk(image) as disk:
        assert list(disk.spans()) == [(0, 64 << 40, Kind.ABSENT)]
    convert(image, tmp_path / "b.qed")
    assert (tmp_path / "b.qed").read_bytes() == image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.write((64 << 40) - 1000, b"z" * 1000)
        disk.discard(0, disk.size - MIB)
    peers.run("qemu-img", "convert", "-O", "qed", image, tmp_path / "c.qed")
    peers.run("qemu-img", "compare", image, tmp_path / "c.qed")
    sound(image)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cluster_size": "2k"}, "4k to 64M"),
        ({"cluster_size": "128M"}, "4k to 64M"),
        ({"cluster_size": "5000"}, "4k to 64M"),
        ({"table_size": "3"}, "1, 2, 4, 8 or 16"),
        ({"table_size": "32"}, "1, 2, 4, 8 or 16"),
        ({"table_size": "0"}, "1, 2, 4, 8 or 16"),
        ({"cluster_size": "64M"}, "QEMU takes no QED image"),
        ({"cluster_size": "4M"}, "QEMU takes no QED image"),
        ({}, "QED holds 64 TiB"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "a.qed", (64 << 40) + 512, format="qed", options=options)
    assert list(tmp_path.iterdir()) == []
    if peers.has("qemu-img"):
        words = [f"-o{name}={value}" for name, value in options.items()]
        size = str((64 << 40) + 512)
        peers.run("qemu-img", "create", "-f", "qed", *words, tmp_path / "a", size, ok=(1,))


def test_a_name_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="1 to 1023"):
        create(
            tmp_path / "a.qed", MIB, format="qed", backing="x" * 1024, backing_format="raw",
            check_backing=False,
        )  # fmt: skip


# Overlays


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("format", ["raw", "qcow2", "qed"])
def test_an_overlay_holds_what_differs_and_zeros_hide_the_parent(
    tmp_path: Path, format: str
) -> None:
    below = bytearray(random.Random(1).randbytes(4 * MIB))
    wanted = below.copy()
    wanted[MIB : 2 * MIB] = bytes(MIB)
    wanted[3 * MIB + 10] ^= 1
    base, raw, image = tmp_path / "base", tmp_path / "raw", tmp_path / "over.qed"
    raw.write_bytes(below)
    convert(raw, base, format=format)
    raw.write_bytes(wanted)
    convert(raw, image, backing="base", backing_format=format)
    with open_disk(image, policy=ParentPolicy(parent_format=format)) as disk:
        assert [span for span in disk.top.spans(0, disk.size) if span[2] != Kind.ABSENT] == [
            (MIB, 2 * MIB, Kind.ZERO),
            (3 * MIB, 3 * MIB + 64 * KIB, Kind.DATA),
        ]
        assert disk.read(0, disk.size) == wanted
    assert image_info(image)[0].image.parent is not None
    assert by_qemu(image, tmp_path) == wanted
    sound(image)


# Writing in place

SIZE = 6 * MIB + 1536
OPERATIONS = operation_lists(
    [1, 512, 4096, 5000, 65536, 300_000, 1 << 20], [1, 512, 4096, 65536], most=20
)


def start_from(origin: str, folder: Path) -> tuple[Path, bytes]:
    """An image to write into, and what it reads as."""
    path = folder / "image.qed"
    blocks = {0: 7, 1: ZERO, 3: 5, 1023: 6, 1024: 10, 1030: ZERO, 1536: 11}
    tables = {0: 3, 1: 8}
    if origin == "qemu":
        content = bytearray(SIZE)
        content[MIB : 2 * MIB + 5] = random.Random(1).randbytes(MIB + 5)
        raw = write_sparse(folder / "raw", bytes(content))
        peers.run("qemu-img", "convert", "-O", "qed", raw, path)
        return path, bytes(content)
    if origin == "empty":
        create(path, SIZE, format="qed", options={"cluster_size": "4k", "table_size": "2"})
        return path, bytes(SIZE)
    image = Image(SIZE, tables, blocks)
    below = b""
    if origin == "overlay":
        below = random.Random(3).randbytes(SIZE - 100_000)
        (folder / "base.raw").write_bytes(below)
        image.backing, image.features = b"base.raw", NO_PROBE
    if origin == "unclosed":
        # A crash left three clusters in front of others, and some behind.
        image = Image(SIZE, {0: 6, 1: 9}, {0: 13, 5: ZERO}, features=NEED_CHECK, autoclear=4)
    file, content_blocks = image.build()
    path.write_bytes(file + (b"\xee" * 20_480 if origin == "unclosed" else b""))
    return path, flat(image, content_blocks, below)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("origin", ["qemu", "empty", "by hand", "overlay", "unclosed"])
@given(operations=OPERATIONS)
@settings(max_examples=rounds(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_qemu_reads(origin: str, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, content = start_from(origin, folder)
        before = image.read_bytes()
        twins = Twins(image, content)
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        twins.disk.close()

        assert content_of(image) == twins.content
        raw = folder / "model"
        raw.write_bytes(twins.content)
        peers.run("qemu-img", "compare", "-f", "qed", "-F", "raw", image, raw)
        if image.read_bytes() == before:
            return  # then an image that nobody closed is still one
        report = check(image)
        assert report.corruptions == 0
        assert report.leaks == 0 or origin == "unclosed"
        peers.run("qemu-img", "check", image, ok=(0, 3 if origin == "unclosed" else 0))
        assert not features(image) & NEED_CHECK


def test_opening_for_writing_changes_nothing_before_the_first_change(tmp_path: Path) -> None:
    for origin in ("by hand", "unclosed"):
        image, _ = start_from(origin, tmp_path)
        before = image.read_bytes()
        with open_disk(image, writable=True) as disk:
            disk.read(0, SIZE)
            disk.flush()
        assert image.read_bytes() == before


def test_the_mark_is_there_while_tables_change_and_no_longer(tmp_path: Path) -> None:
    image, _ = start_from("by hand", tmp_path)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"in a cluster that is there")
        disk.flush()
        assert not features(image) & NEED_CHECK
        disk.write(MIB, b"in a new one")
        assert features(image) & NEED_CHECK
        disk.flush()
        assert features(image) & NEED_CHECK
    assert not features(image) & NEED_CHECK


def test_the_mark_is_set_for_zeros_above_a_parent_too(tmp_path: Path) -> None:
    image, _ = start_from("overlay", tmp_path)
    size = image.stat().st_size
    with open_disk(image, writable=True) as disk:
        disk.zero(2 * MIB, MIB)
        assert features(image) & NEED_CHECK
        assert list(disk.top.spans(2 * MIB, 3 * MIB)) == [(2 * MIB, 3 * MIB, Kind.ZERO)]
    assert not features(image) & NEED_CHECK
    assert image.stat().st_size == size
    assert content_of(image)[2 * MIB : 3 * MIB] == bytes(MIB)


def test_what_a_crash_left_behind_is_used_again_and_cut_off(tmp_path: Path) -> None:
    image, content = start_from("unclosed", tmp_path)
    assert image.stat().st_size == (14 + 5) * 4096
    assert check(image).leaks == 6 + 5
    with open_disk(image, writable=True) as disk:
        disk.write(MIB, b"new" * 4096)
    assert image.stat().st_size == 14 * 4096, "three clusters, in three free ones"
    wanted = bytearray(content)
    wanted[MIB : MIB + 3 * 4096] = b"new" * 4096
    assert content_of(image) == wanted
    assert check(image).leaks == 3


def test_autoclear_features_are_cleared_by_writing_and_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.qed"
    path.write_bytes(Image(MIB, {0: 3}, {0: 5}, compat=1 << 9, autoclear=1 << 63 | 5).build()[0])
    with open_disk(path, writable=True) as disk:
        disk.write(0, b"x")
    file = path.read_bytes()
    assert number(file, by_hand.AUTOCLEAR) == 0
    assert number(file, by_hand.COMPAT) == 1 << 9


@pytest.mark.parametrize(
    ("tables", "blocks"),
    [
        ({0: 3, 1: 3}, {}),
        ({0: 3, 1: 4}, {}),
        ({0: 2}, {}),
        ({0: 3, 1: 60}, {}),
        ({0: 3}, {0: 5, 1: 5}),
        ({0: 3}, {0: 4}),
        ({0: 3}, {0: 1}),
    ],
    ids=str,
)
def test_damaged_tables_are_not_written_to(
    tmp_path: Path, tables: dict[int, int], blocks: dict[int, int]
) -> None:
    path = tmp_path / "a.qed"
    file, _ = Image(6 * MIB, tables, blocks, features=NEED_CHECK).build()
    path.write_bytes(file[: 8 * 4096])
    before = path.read_bytes()
    with open_disk(path, writable=True) as disk, pytest.raises(FormatError, match="--repair all"):
        disk.write(0, b"x")
    assert path.read_bytes() == before


@pytest.mark.peer("qemu-img", "qemu-io")
def test_zeroed_clusters_keep_their_places_and_give_back_their_space(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "a.qed"
    raw.write_bytes(random.Random(1).randbytes(8 * MIB))
    peers.run("qemu-img", "convert", "-O", "qed", raw, image)
    size, used = image.stat().st_size, image.stat().st_blocks
    with open_disk(image, writable=True) as disk:
        disk.discard(2 * MIB, 4 * MIB)
        assert disk.read(2 * MIB, 4 * MIB) == bytes(4 * MIB)
        disk.write(3 * MIB, b"again")
    assert image.stat().st_size == size
    assert image.stat().st_blocks <= used - 4 * 2048 + 256
    sound(image)
    # And QEMU goes on from there.
    peers.run("qemu-io", "-c", "write -P 5 2M 64k", "-c", "read -P 0 2112k 900k", image)
    assert content_of(image)[2 * MIB : 2 * MIB + 4] == b"\5" * 4
    sound(image)
