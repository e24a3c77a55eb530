"""Whatever call to the system fails, convert and its kin make a right image, or none and an error.

Each operation runs once for every call that it makes, and this one call fails.
"""

from __future__ import annotations

import errno
import gzip
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vmimg
from faults import Faults, ordeal, snapshot
from samples import awkward_disk, write_sparse
from vmimg.errors import StorageError, VmimgError
from vmimg.storage import output, stream

SIZE = 640 << 10
CONTENT = awkward_disk(SIZE, borders=8192)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same disk in the formats that are read here."""
    folder = tmp_path_factory.mktemp("sources")
    raw = write_sparse(folder / "disk.raw", CONTENT)
    for name in ("disk.qcow2", "disk.vmdk", "disk.vhdx"):
        vmimg.convert(raw, folder / name)
    vmimg.convert(raw, folder / "small.qcow2", compress=True)
    (folder / "disk.raw.gz").write_bytes(gzip.compress(CONTENT))
    return folder


def copied(sources: Path, name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        shutil.copy(sources / name, folder / name)

    return prepare


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("disk.raw", "new.qcow2", {}),
    ("disk.raw", "new.qcow2", {"compress": True}),
    ("disk.raw", "new.qcow2", {"options": {"data_file": "new.data"}}),
    ("small.qcow2", "new.raw", {}),
    ("disk.qcow2", "new.vmdk", {}),
    ("disk.qcow2", "new.vmdk", {"options": {"subformat": "twoGbMaxExtentSparse"}}),
    ("disk.qcow2", "new.vmdk", {"options": {"subformat": "streamOptimized"}}),
    ("disk.vmdk", "new.vhdx", {}),
    ("disk.vhdx", "new.vhd", {}),
    ("disk.raw", "new.vdi", {"threads": 2}),
    ("disk.raw", "new.dmg", {}),
    ("disk.raw", "new.hdd", {"format": "parallels", "options": {"subformat": "plain-bundle"}}),
    ("disk.raw", "new.hdd", {"format": "parallels", "options": {"subformat": "expanding-bundle"}}),
    ("disk.raw.gz", "new.qcow2", {}),
]


@pytest.mark.parametrize(
    ("source", "target", "how"), CASES, ids=[f"{s}-{t}-{i}" for i, (s, t, _) in enumerate(CASES)]
)
def test_a_call_that_fails_leaves_no_target_and_the_source(
    source: str, target: str, how: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    def operation(folder: Path) -> None:
        vmimg.convert(folder / source, folder / target, **{"threads": 1, **how})

    assert ordeal(tmp_path, copied(sources, source), operation) > 10


@pytest.mark.parametrize("target", ["new.qcow2", "new.hdd"])
def test_a_target_that_is_replaced_is_the_old_one_or_the_new_one(
    target: str, sources: Path, tmp_path: Path
) -> None:
    convert = partial(
        vmimg.convert,
        format="parallels" if target.endswith("hdd") else None,
        options={"subformat": "plain-bundle"} if target.endswith("hdd") else None,
        threads=1,
    )
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, name in ((old, "other.raw"), (new, "disk.raw")):
        folder.mkdir()
        write_sparse(folder / name, CONTENT if folder == new else CONTENT[::-1])
        convert(folder / name, folder / target)
        (folder / name).unlink()
    before, after = snapshot(old), snapshot(new)

    def prepare(folder: Path) -> None:
        shutil.copytree(old, folder, dirs_exist_ok=True)
        shutil.copy(sources / "disk.raw", folder / "disk.raw")

    def judge(folder: Path, failure: VmimgError | None) -> None:
        there = snapshot(folder)
        assert there.pop("disk.raw") == CONTENT
        assert there == after if failure is None else there in (before, after)

    def operation(folder: Path) -> None:
        convert(folder / "disk.raw", folder / target, replace=True)

    ordeal(tmp_path / "ordeal", prepare, operation, judge=judge)


@pytest.mark.parametrize("way", ["without a name", "with a name beside it"])
def test_a_full_file_system_leaves_nothing(
    way: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "with a name beside it":
        monkeypatch.setattr(output, "_CAN_LINK", False)
    shutil.copy(sources / "disk.qcow2", tmp_path / "disk.qcow2")
    whole = 0
    for room in (0, 1, 511, 4096, 65536, 200_000, 300_000):
        with Faults(room=room) as faults:
            try:
                vmimg.convert(tmp_path / "disk.qcow2", tmp_path / "new.vmdk", threads=1)
            except StorageError as error:
                assert "no space left on device; free some space" in str(error)
            else:
                whole += 1
        assert bool(faults.failed) == (not (tmp_path / "new.vmdk").exists())
        (tmp_path / "new.vmdk").unlink(missing_ok=True)
        assert [path.name for path in tmp_path.iterdir()] == ["disk.qcow2"]
    assert whole < 5


@pytest.mark.parametrize(
    ("source", "target"),
    [("disk.qcow2", "new.vmdk"), ("disk.raw.gz", "new.vhdx"), ("small.qcow2", "new.raw")],
)
@pytest.mark.parametrize("trouble", ["short", "slow"])
def test_short_and_slow_calls_change_nothing(
    source: str, target: str, trouble: str, sources: Path, tmp_path: Path
) -> None:
    vmimg.convert(sources / source, tmp_path / target)
    expected = (tmp_path / target).read_bytes()
    with Faults(short=trouble == "short", slow=trouble == "slow") as faults:
        vmimg.convert(sources / source, tmp_path / target, replace=True, threads=3)
    assert faults.calls > 10
    assert (tmp_path / target).read_bytes() == expected


# Everything from some call on: a medium that went away for good


@pytest.mark.parametrize("target", ["new.qcow2", "new.vmdk"])
def test_a_medium_that_goes_away_is_an_error_and_no_hang(
    target: str, sources: Path, tmp_path: Path
) -> None:
    kinds = {"preadv", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"}
    for at in range(1, 40, 3):
        with Faults(at=at, kinds=kinds, every=True) as faults:
            try:
                vmimg.convert(sources / "disk.qcow2", tmp_path / target, threads=2)
            except VmimgError:
                assert list(tmp_path.iterdir()) == []
            else:
                assert not faults.failed
        (tmp_path / target).unlink(missing_ok=True)


# Streams


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "raw"])
def test_a_stream_that_cannot_be_written_is_an_error(
    format: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stream.StreamSink

    def convert(folder: Path) -> None:
        with open(folder / "stream", "wb") as file:
            monkeypatch.setattr(stream, "StreamSink", lambda: real(file.fileno(), "the stream"))
            vmimg.convert(
                folder / "disk.qcow2",
                "-",
                format=format,
                options={"subformat": "streamOptimized"} if format == "vmdk" else None,
                threads=1,
            )

    convert(copied_to(sources, tmp_path / "whole"))
    expected = (tmp_path / "whole" / "stream").read_bytes()

    def judge(folder: Path, failure: VmimgError | None) -> None:
        assert snapshot(folder)["disk.qcow2"] == (sources / "disk.qcow2").read_bytes()
        got = (folder / "stream").read_bytes()
        # What has gone out is out; but it is never something else.
        assert got == expected if failure is None else expected.startswith(got)

    ordeal(tmp_path, copied(sources, "disk.qcow2"), convert, judge=judge)
    with Faults(short=True):
        convert(tmp_path / "whole")
    assert (tmp_path / "whole" / "stream").read_bytes() == expected


def copied_to(sources: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(sources / "disk.qcow2", folder)
    return folder


# Images that are there, written in place

NOT_CLOSED = "it was not closed properly"
IN_PLACE = ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "parallels", "qed", "qcow"]


def consistent(image: Path, old: bytes, new: bytes) -> None:
    """``image`` has no corruption, and each of its sectors is the old one or the new one."""
    report = vmimg.check(image)
    # That is true, and counts: QEMU's check counts it as well.
    problems = [problem for problem in report.problems if NOT_CLOSED not in problem]
    assert report.errors == 0
    assert report.corruptions == len(report.problems) - len(problems), problems
    with vmimg.open(image) as disk:
        there = disk.read(0, disk.size)
    for offset in range(0, len(old), 512):
        sector = there[offset : offset + 512]
        assert sector in (old[offset : offset + 512], new[offset : offset + 512]), offset


@pytest.mark.parametrize("format", IN_PLACE)
def test_an_image_that_is_written_in_place_stays_consistent(format: str, tmp_path: Path) -> None:
    name = f"disk.{format}"
    source = tmp_path / "source"
    source.mkdir()
    write_sparse(source / "old.raw", CONTENT)
    vmimg.convert(source / "old.raw", source / name, format=format, threads=1)
    pieces = [(0, b"N" * 5000), (200 << 10, b"N" * 70_000), (SIZE - 512, b"N" * 512)]
    new = bytearray(CONTENT)
    for offset, data in pieces:
        new[offset : offset + len(data)] = data

    def operation(folder: Path) -> None:
        with vmimg.open(folder / name, format=format, writable=True) as disk:
            for offset, data in pieces:
                disk.write(offset, data)
            disk.flush()

    def judge(folder: Path, failure: VmimgError | None) -> None:
        expected = bytes(new)
        consistent(folder / name, expected if failure is None else CONTENT, expected)

    ordeal(tmp_path, copied(source, name), operation, judge=judge)


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_converting_into_an_image_that_is_there(format: str, sources: Path, tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        shutil.copy(sources / "small.qcow2", folder)
        vmimg.create(folder / "there", SIZE, format=format)

    def operation(folder: Path) -> None:
        vmimg.convert(
            folder / "small.qcow2", folder / "there", format=format, existing=True, threads=1
        )

    def judge(folder: Path, failure: VmimgError | None) -> None:
        assert (folder / "small.qcow2").read_bytes() == (sources / "small.qcow2").read_bytes()
        with vmimg.open(folder / "there", format=format) as disk:
            there = disk.read(0, disk.size)
        if failure is None:
            assert there == CONTENT
        elif format != "raw":
            assert vmimg.check(folder / "there").corruptions == 0

    ordeal(tmp_path, prepare, operation, judge=judge)


@pytest.mark.parametrize("format", ["qcow2", "qed", "vmdk", "vhdx"])
def test_checking_says_what_could_not_be_read(format: str, sources: Path, tmp_path: Path) -> None:
    image = tmp_path / f"disk.{format}"
    vmimg.convert(sources / "disk.raw", image, format=format, threads=1)

    def prepare(folder: Path) -> None:
        shutil.copy(image, folder)

    def operation(folder: Path) -> None:
        report = vmimg.check(folder / image.name)
        if report.errors or report.corruptions or report.leaks:
            raise StorageError("said in the report")

    ordeal(tmp_path / "ordeal", prepare, operation)


def test_a_repair_that_is_interrupted_makes_nothing_worse(sources: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    image = broken / "disk.qcow2"
    shutil.copy(sources / "disk.qcow2", image)
    with open(image, "r+b") as file:  # a cluster that nobody counts on
        file.seek(0, 2)
        end = -(-file.tell() // 65536) * 65536
        file.truncate(end + 65536)
        file.seek(0x30)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        block = int.from_bytes(file.read(8), "big")
        file.seek(block + 2 * (end // 65536))
        file.write((1).to_bytes(2, "big"))
    assert vmimg.check(image).leaks

    def operation(folder: Path) -> None:
        assert vmimg.check(folder / "disk.qcow2", repair="all").corruptions == 0

    def judge(folder: Path, failure: VmimgError | None) -> None:
        consistent(folder / "disk.qcow2", CONTENT, CONTENT)
        if failure is None:
            assert vmimg.check(folder / "disk.qcow2").leaks == 0

    ordeal(tmp_path, copied(broken, "disk.qcow2"), operation, judge=judge)


# What else makes files


@pytest.mark.parametrize("format", ["qcow2", "vhdx", "raw"])
def test_creating(format: str, tmp_path: Path) -> None:
    def operation(folder: Path) -> None:
        vmimg.create(folder / "new", 1 << 20, format=format)

    ordeal(tmp_path, lambda folder: None, operation)


def test_dd(sources: Path, tmp_path: Path) -> None:
    def operation(folder: Path) -> None:
        vmimg.dd(folder / "disk.vhdx", folder / "part.raw", bs=4096, skip=3, count=50, threads=1)

    ordeal(tmp_path, copied(sources, "disk.vhdx"), operation)


def test_making_an_iso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycdlib")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def prepare(folder: Path) -> None:
        (folder / "tree").mkdir()
        (folder / "tree" / "one.txt").write_bytes(b"one" * 1000)
        (folder / "tree" / "two.bin").write_bytes(CONTENT[:70_000])

    def operation(folder: Path) -> None:
        vmimg.create_iso(folder / "tree", folder / "new.iso")

    ordeal(tmp_path, prepare, operation)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_the_remedy_is_named(error: int, sources: Path, tmp_path: Path) -> None:
    with Faults(at=1, kinds={"pwritev"}, error=error), pytest.raises(StorageError, match="; "):
        vmimg.convert(sources / "disk.raw", tmp_path / "new.qcow2")
