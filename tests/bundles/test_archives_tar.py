"""Tars of every kind, as others make them, read in place."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peers
from vmimg import storage as storages
from vmimg.bundles.archives import TarWriter, open_folder
from vmimg.bundles.archives.memberindex import MemberIndex
from vmimg.bundles.archives.tarwriting import tar_header
from vmimg.errors import FormatError, StorageError, UnsafeImage, VmimgError
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.streaming import ByteSink

LONG = "a-directory-with-a-name/" * 9 + "disk-with-a-name-of-some-length-" * 3 + ".vmdk"


def content(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def holes(path: Path, size: int = 8 << 20) -> bytes:
    """A file with data here and there, and a hole at its end."""
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(60):
            file.seek(number * 100_000 // 4096 * 4096)
            file.write(content(5000, number))
    return path.read_bytes()


def sending(data: bytes) -> Callable[[ByteSink], int]:
    def send(sink: ByteSink) -> int:
        sink.write(data)
        return len(data)

    return send


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / LONG).parent.mkdir(parents=True)
    (folder / LONG).write_bytes(content(3000))
    (folder / "zwölf.ovf").write_bytes(b"<Envelope/>")
    (folder / "empty").write_bytes(b"")
    (folder / "disk.img").write_bytes(content(70_000))
    (folder / "link").symlink_to("disk.img")
    return folder


@pytest.mark.peer("tar")
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "pax"])
def test_every_format_of_gnu_tar_is_read(tree: Path, tmp_path: Path, form: str) -> None:
    names = ["zwölf.ovf", "empty", "disk.img", "link"]
    if form not in ("v7", "ustar"):
        names.append(LONG)
    peers.run("tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", tree, *names)
    with open_folder(storages.open(tmp_path / "a.tar"), "tar") as folder:
        assert folder.names() == tuple(name for name in names if name != "link")
        for name in folder.names():
            assert folder.read(name, 1 << 20) == (tree / name).read_bytes()
            assert folder.size(name) == (tree / name).stat().st_size
        with folder.open("disk.img") as disk:
            assert disk.folder is folder
            assert disk.member == "disk.img"
        with pytest.raises(StorageError, match="there is no file 'link'"):
            folder.open("link")


@pytest.mark.peer("bsdtar")
@pytest.mark.parametrize("form", ["ustar", "pax", "gnutar"])
def test_what_bsdtar_makes_is_read(tree: Path, tmp_path: Path, form: str) -> None:
    peers.run("bsdtar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", tree, ".")
    with open_folder(storages.open(tmp_path / "a.tar")) as folder:
        # "./disk.img" in the archive: the "./" means nothing.
        assert folder.read("disk.img", 1 << 20) == content(70_000)
        assert folder.read("zwölf.ovf", 100) == b"<Envelope/>"


@pytest.mark.peer("tar")
@pytest.mark.parametrize(
    "flags",
    [
        ["--format=oldgnu"],
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
    ids=["oldgnu", "gnu", "0.0", "0.1", "1.0"],
)
def test_a_sparse_member_reads_as_the_file_it_was_made_of(tmp_path: Path, flags: list[str]) -> None:
    want = holes(tmp_path / "disk.raw")
    (tmp_path / "after").write_bytes(b"behind it")
    peers.run("tar", "-S", *flags, "-cf", tmp_path / "a.tar", "-C", tmp_path, "disk.raw", "after")
    assert (tmp_path / "a.tar").stat().st_size < len(want) // 4
    with open_folder(storages.open(tmp_path / "a.tar")) as folder:
        disk = folder.open("disk.raw")
        assert disk.size == len(want)
        assert disk.read(0, disk.size) == want
        dice = random.Random(3)
        for _ in range(200):
            offset = dice.randrange(len(want) - 20_000)
            assert disk.read(offset, 20_000) == want[offset : offset + 20_000]
        extents = list(disk.extents(0, disk.size))
        assert extents[0][0] == 0
        assert [e[1] for e in extents[:-1]] == [e[0] for e in extents[1:]]
        assert extents[-1][1:] == (len(want), True)
        assert sum(end - start for start, end, hole in extents if not hole) == disk.allocated()
        assert folder.read("after", 100) == b"behind it"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_reads_of_a_sparse_member_agree_with_a_model(data: st.DataObject) -> None:
    from vmimg.bundles.archives.tarsparse import sparse_header

    cuts = sorted(data.draw(st.sets(st.integers(0, 20_000), max_size=24)))
    pieces = list(zip(cuts[::2], cuts[1::2], strict=False))
    size = data.draw(st.integers(pieces[-1][1] if pieces else 0, 30_000)) or 1
    model = bytearray(size)
    stored = b""
    for number, (start, end) in enumerate(pieces):
        model[start:end] = content(end - start, number)
        stored += model[start:end]
    tar = sparse_header("disk.raw", size, pieces) + stored
    tar += bytes(-len(tar) % 512 + 1024)
    with tarfile.open(fileobj=io.BytesIO(tar)) as theirs:
        found = theirs.extractfile("disk.raw")
        assert found is not None
        assert found.read() == model
    with open_folder(MemoryStorage(tar)) as folder:
        disk = folder.open("disk.raw")
        for _ in range(10):
            start = data.draw(st.integers(0, size))
            end = data.draw(st.integers(start, size))
            assert disk.read(start, end - start) == model[start:end]


def test_the_first_of_two_members_of_one_name_is_meant() -> None:
    tar = MemoryStorage()
    writer = TarWriter(tar, unique=False)
    writer.add("disk.raw", b"the first")
    writer.add("./disk.raw", b"the second")
    writer.finish()
    with open_folder(tar) as folder:
        assert folder.names() == ("disk.raw",)
        assert folder.read("disk.raw", 100) == b"the first"


def test_names_that_lead_out_are_no_names_here() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("../../etc/passwd", "a/../../b", "good"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        device = tarfile.TarInfo("disk.raw")
        device.type = tarfile.BLKTYPE
        tar.addfile(device)
    with open_folder(MemoryStorage(buffer.getvalue())) as folder:
        assert folder.names() == ("good",)
        for name in ("../../etc/passwd", "/etc/passwd", "disk.raw"):
            assert not folder.exists(name)
            with pytest.raises(StorageError, match="there is no file"):
                folder.open(name)


def test_a_member_that_is_cut_off_is_an_error_when_it_is_opened() -> None:
    tar = tar_header("disk.raw", 1 << 40, "ustar") + bytes(5000)
    with open_folder(MemoryStorage(tar)) as folder:
        assert folder.size("disk.raw") == 1 << 40
        with pytest.raises(FormatError, match="is cut off"):
            folder.open("disk.raw")


def test_sizes_beyond_all_reason_are_survived() -> None:
    header = bytearray(tar_header("disk.raw", 0, "ustar"))
    header[124:136] = b"\x80" + b"\xff" * 11
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with (
        open_folder(MemoryStorage(bytes(header) + bytes(2048))) as folder,
        pytest.raises(FormatError, match="is cut off"),
    ):
        folder.open("disk.raw")


def test_garbage_between_members_is_damage() -> None:
    tar = tar_header("a", 3, "ustar") + b"abc".ljust(512, b"\0") + b"\xff" * 512
    with pytest.raises(FormatError, match="no header of a member at offset 1024"):
        open_folder(MemoryStorage(tar))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_map_of_holes_raises_our_errors_only(data: st.DataObject) -> None:
    from vmimg.bundles.archives.tarsparse import sparse_header

    pieces = [(n * 8192, n * 8192 + 512) for n in range(30)]
    tar = bytearray(sparse_header("disk.raw", 1 << 20, pieces) + bytes(512 * 30 + 1024))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(386, 1500))
        tar[at] = data.draw(st.integers(0, 255))
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    try:
        with open_folder(MemoryStorage(bytes(tar))) as folder:
            for name in folder.names():
                disk = folder.open(name)
                disk.read(0, min(disk.size, 4096))
    except VmimgError:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_fifty_thousand_members_take_little_memory(tmp_path: Path) -> None:
    # In a process of its own, whose peak is its own.
    script = f"""
import re
from vmimg import storage
from vmimg.bundles.archives import TarWriter, open_folder
with storage.Output({str(tmp_path / "a.xva")!r}) as output:
    writer = TarWriter(output, unique=False)
    for number in range(25_000):
        writer.add(f"Ref:12/{{number:08d}}", b"")
        writer.add(f"Ref:12/{{number:08d}}.checksum", b"c" * 40)
    writer.finish()
def peak():
    # Not getrusage: that begins with the peak of who started the process.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

before = peak()
folder = open_folder(storage.open({str(tmp_path / "a.xva")!r}))
members = sum(1 for _ in folder.members())
assert folder.read("Ref:12/00024999.checksum", 40) == b"c" * 40
assert not folder.exists("Ref:12/00025000")
print(members, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    members, kib = map(int, done.stdout.split())
    assert members == 50_000
    assert kib < 12 << 10


def test_an_index_finds_the_first_of_each_name() -> None:
    index = MemberIndex("a.tar")
    for number in range(3000):
        index.add(f"name-{number % 1000}", number, 0, 0)
    assert index.find("name-7") == 7
    assert index.find("name-1000") is None
    assert len(list(index.firsts())) == 1000
    assert index.name(2999) == "name-999"


def test_more_members_than_are_taken_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmimg.bundles.archives.memberindex._MAX_MEMBERS", 10)
    tar = MemoryStorage()
    writer = TarWriter(tar)
    for number in range(11):
        writer.add(str(number), b"")
    writer.finish()
    with pytest.raises(UnsafeImage, match="more members than are taken"):
        open_folder(tar)


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 100_000])
def test_what_we_write_python_reads(count: int, tmp_path: Path) -> None:
    with storages.Output(tmp_path / "a.tar") as output:
        writer = TarWriter(output)
        writer.add("a/b", content(count))
        writer.add_directory("somewhere")
        writer.add_stream("c", None, sending(content(count)))
        writer.finish()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["a/b", "somewhere", "c"]
        for name in ("a/b", "c"):
            found = tar.extractfile(name)
            assert found is not None
            assert found.read() == content(count)
            member = tar.getmember(name)
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert tar.getmember("somewhere").isdir()
    assert os.path.getsize(tmp_path / "a.tar") % 512 == 0
