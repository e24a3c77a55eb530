"""Compressed tars and streams, read at any position, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peers
from vmimg import storage as storages
from vmimg.bundles.archives import inflating, open_folder
from vmimg.bundles.archives.framed import open_framed
from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.errors import FormatError, UnsafeImage, VmimgError
from vmimg.storage.memory import MemoryStorage


def words(length: int, seed: int = 1) -> bytes:
    """Bytes that compress as those of a disk do: some well, some not at all, some zeros."""
    dice = random.Random(seed)
    parts = []
    while length > 0:
        kind = dice.randrange(3)
        size = min(length, dice.randrange(1, 200_000))
        if kind == 0:
            parts.append(bytes(size))
        elif kind == 1:
            parts.append(dice.randbytes(size))
        else:
            parts.append((b"%d words and " % dice.randrange(1000) * size)[:size])
        length -= size
    return b"".join(parts)


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def inflated(packed: bytes) -> InflatedStorage:
    storage = InflatedStorage(MemoryStorage(packed), "a.gz", gzip=True)
    storage.measure()
    return storage


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks as near to each other, and as few, as a disk of terabytes would have them."""
    monkeypatch.setattr(inflating, "_SPACING", 32 << 10)
    monkeypatch.setattr(inflating, "_PIECE", 8 << 10)
    monkeypatch.setattr(inflating, "_WINDOWS", 60 << 10)
    monkeypatch.setattr(inflating, "_STATES", 3)
    monkeypatch.setattr(inflating, "_STANDING", 1)
    monkeypatch.setattr(inflating, "_KEPT", 100 << 10)
    monkeypatch.setattr(inflating, "_IN_THE_MAKING", 200 << 10)


@pytest.mark.parametrize(
    "pack", [gzip.compress, lzma.compress, bz2.compress], ids=["gz", "xz", "bz2"]
)
def test_members_of_a_compressed_tar_are_read(pack: type) -> None:
    disk = words(1 << 20)
    tar = pack(tar_of(a=b"first", disk=disk, z=b"last"))
    with open_folder(MemoryStorage(tar)) as folder:
        assert folder.names() == ("a", "disk", "z")
        assert folder.read("z", 100) == b"last"
        storage = folder.open("disk")
        assert storage.read(700_000, 5000) == disk[700_000:705_000]
        assert storage.read(0, len(disk)) == disk


@pytest.mark.peer("tar", "zstd")
def test_a_tar_of_zstd_is_read(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(words(300_000))
    peers.run("tar", "--zstd", "-cf", tmp_path / "a.tar.zst", "-C", tmp_path, "disk")
    with open_folder(storages.open(tmp_path / "a.tar.zst"), near=str(tmp_path)) as folder:
        assert folder.read("disk", 1 << 20) == words(300_000)


@pytest.mark.peer("lz4")
def test_a_single_stream_is_a_folder_of_one_file(tmp_path: Path) -> None:
    disk = words(200_000)
    (tmp_path / "disk.img").write_bytes(disk)
    (tmp_path / "disk.img.gz").write_bytes(gzip.compress(disk))
    peers.run("lz4", "-q", tmp_path / "disk.img", tmp_path / "disk.img.lz4")
    for suffix in (".gz", ".lz4"):
        with open_folder(storages.open(f"{tmp_path}/disk.img{suffix}")) as folder:
            assert folder.names() == ("disk.img",)
            assert folder.read("disk.img", 1 << 20) == disk


@pytest.mark.usefixtures("small_steps")
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_reads_agree_with_a_model(data: st.DataObject) -> None:
    model = words(data.draw(st.integers(1, 1_500_000)), data.draw(st.integers(0, 5)))
    level = data.draw(st.sampled_from([0, 1, 6]))
    cut = data.draw(st.integers(0, len(model)))
    # Two members, zeros of padding, and what gzip ignores behind them.
    packed = gzip.compress(model[:cut], level) + gzip.compress(model[cut:], level)
    packed += data.draw(st.sampled_from([b"", bytes(700), bytes(30) + b"garbage"]))
    with inflated(packed) as storage:
        assert storage.size == len(model)
        for _ in range(data.draw(st.integers(1, 25))):
            start = data.draw(st.integers(0, len(model)))
            length = data.draw(st.integers(0, min(50_000, len(model) - start)))
            assert storage.read(start, length) == model[start : start + length]


@pytest.mark.usefixtures("small_steps")
def test_what_marks_keep_is_bounded() -> None:
    model = words(4 << 20)
    with inflated(gzip.compress(model)) as storage:
        dice = random.Random(5)
        for _ in range(60):
            start = dice.randrange(len(model) - 100)
            assert storage.read(start, 100) == model[start : start + 100]
        windows = [len(mark.window) for mark in storage._marks if mark.window is not None]
        assert windows
        assert sum(windows) <= 60 << 10
        assert sum(mark.state is not None for mark in storage._marks) <= 3


@pytest.mark.usefixtures("small_steps")
def test_many_small_members_are_one_stream() -> None:
    """As bgzip makes them."""
    model = words(2 << 20)
    packed = b"".join(
        gzip.compress(model[start : start + 65_280]) for start in range(0, len(model), 65_280)
    )
    with inflated(packed) as storage:
        assert storage.size == len(model)
        for start in (1_999_000, 5, 1_000_000, 65_270, 1_500_000, 300_000, 900_000):
            assert storage.read(start, 1000) == model[start : start + 1000]


@pytest.mark.parametrize("flags", range(32))
def test_headers_of_gzip_with_every_field_are_skipped(flags: int) -> None:
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(b"content") + deflate.flush()
    header = b"\x1f\x8b\x08" + bytes((flags,)) + bytes(6)
    header += b"\x04\0abcd" if flags & 4 else b""
    header += b"name\0" if flags & 8 else b""
    header += b"comment\0" if flags & 16 else b""
    header += b"\0\0" if flags & 2 else b""
    trailer = zlib.crc32(b"content").to_bytes(4, "little") + (7).to_bytes(4, "little")
    assert inflated(header + body + trailer).read(0, 7) == b"content"


@pytest.mark.parametrize("at", [3, 40, 5000, -3, -7])
def test_corrupt_gzip_is_an_error(at: int) -> None:
    packed = bytearray(gzip.compress(words(300_000, 5)))
    packed[at] ^= 0xE5
    with pytest.raises(FormatError):
        inflated(bytes(packed))


@pytest.mark.parametrize("keep", [5, 100, 20_000, -1, -8])
def test_gzip_that_is_cut_off_is_an_error(keep: int) -> None:
    packed = gzip.compress(words(300_000, 5))
    with pytest.raises(FormatError, match="cut off"):
        inflated(packed[:keep])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_any_bytes_raise_our_errors_only(data: bytes, at: int) -> None:
    packed = bytearray(gzip.compress(tar_of(disk=words(20_000))))
    packed[at : at + len(data)] = data
    try:
        with open_folder(MemoryStorage(bytes(packed))) as folder:
            for name in folder.names():
                folder.open(name).read(0, min(folder.size(name), 100))
    except VmimgError:
        pass


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_what_unpacks_to_more_than_is_allowed_is_refused(pack: type, tmp_path: Path) -> None:
    bomb = pack(bytes(64 << 20))
    with pytest.raises(UnsafeImage, match="more than the 1000000 bytes"):
        open_folder(MemoryStorage(bomb), limit=1_000_000, near=str(tmp_path))


@pytest.mark.peer("xz")
def test_blocks_of_xz_are_unpacked_one_by_one(tmp_path: Path) -> None:
    model = words(3 << 20)
    (tmp_path / "disk").write_bytes(model)
    peers.run("xz", "-1", "--block-size=256KiB", "-k", tmp_path / "disk")
    with open_folder(storages.open(tmp_path / "disk.xz"), near="/nowhere/at/all") as folder:
        disk = folder.open("disk")
        dice = random.Random(7)
        for _ in range(30):
            start = dice.randrange(len(model) - 300_000)
            assert disk.read(start, 300_000) == model[start : start + 300_000]


@pytest.mark.peer("zstd")
def test_frames_of_zstd_are_unpacked_one_by_one(tmp_path: Path) -> None:
    model = words(2 << 20)
    packed = b"\x5e\x2a\x4d\x18\x05\0\0\0skip!"
    for start in range(0, len(model), 300_000):
        (tmp_path / "part").write_bytes(model[start : start + 300_000])
        packed += peers.run("zstd", "-q", "-c", tmp_path / "part").stdout
    framed = open_framed(MemoryStorage(packed), "zstd", limit=1 << 40)
    assert framed is not None
    assert framed.size == len(model)
    assert framed.read(599_000, 310_000) == model[599_000:909_000]
    damaged = bytearray(packed)
    damaged[-30] ^= 0xFF
    broken = open_framed(MemoryStorage(bytes(damaged)), "zstd", limit=1 << 40)
    assert broken is not None
    with pytest.raises(FormatError):
        broken.read(len(model) - 1000, 1000)


@pytest.mark.parametrize("mib", [256, pytest.param(2048, marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_large_member_of_a_tar_gz_is_read_at_random_in_little_memory(
    tmp_path: Path, mib: int
) -> None:
    path = tmp_path / "a.tar.gz"
    script = f"""
import random, re
from vmimg import storage
from vmimg.bundles.archives import GzipTarWriter, open_folder
SIZE = {mib} << 20
with storage.Output({str(path)!r}) as output:
    writer = GzipTarWriter(output)
    def send(sink):
        zeros = bytes(1 << 20)
        for number in range(SIZE >> 20):
            sink.write(number.to_bytes(8, "big") + zeros[8:])
        return SIZE
    writer.add_stream("disk.raw", SIZE, send)
    writer.finish()
folder = open_folder(storage.open({str(path)!r}))
disk = folder.open("disk.raw")
dice = random.Random(1)
for _ in range(40):
    number = dice.randrange(SIZE >> 20)
    assert disk.read(number << 20, 65536) == number.to_bytes(8, "big") + bytes(65528)
# Not getrusage: that begins with the peak of who started the process.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 150 << 10
