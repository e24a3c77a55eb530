"""Compressed files and pipes, against the programs that make them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import peers
from vmimg import storage
from vmimg.codecs.zstd import library
from vmimg.errors import (
    FormatError,
    OptionError,
    StorageError,
    UnsafeImage,
    UnsupportedFeature,
    VmimgError,
)
from vmimg.storage.stream import StreamSink, outer_compression, spool

MIB = 1 << 20
PROGRAMS = {"gzip": "gzip", "xz": "xz", "zstd": "zstd", "bzip2": "bzip2"}
zstd: Any = library()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": lambda data: bytes(
        zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})
    ),
    "bzip2": bz2.compress,
}


def content() -> bytes:
    """3 MiB and a bit: text, noise, and a hole of 2 MiB that does not lie on blocks."""
    noise = random.Random(1)
    return (
        b"some text that compresses " * 3000
        + noise.randbytes(200_000)
        + bytes(2 * MIB)
        + noise.randbytes(500_000)
        + b"end"
    )


@contextmanager
def pipe(data: bytes, piece: int = 1 << 16) -> Iterator[int]:
    """The reading end of a pipe that gets ``data`` in pieces."""
    reader, writer = os.pipe()

    def feed() -> None:
        try:
            for start in range(0, len(data), piece):
                os.write(writer, data[start : start + piece])
        except BrokenPipeError:
            pass
        finally:
            os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


def everything(source: int | storage.Storage, **options: Any) -> bytes:
    with spool(source, **options) as spooled:
        assert not spooled.writable
        return spooled.read(0, spooled.size)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_the_program_compressed_is_read_as_what_it_was(kind: str, tmp_path: Path) -> None:
    peers.require(PROGRAMS[kind])
    data = content()
    path = tmp_path / "disk.raw.whatever"
    path.write_bytes(peers.run(PROGRAMS[kind], "-c", input=data).stdout)
    with storage.open(path) as opened, spool(opened) as spooled:
        assert spooled.read(0, spooled.size) == data
        assert spooled.name == str(path)
        # Held as a hole, not as two mebibytes of zeros.
        assert spooled.allocated() < len(data) - 1.5 * MIB
        assert any(hole for _, _, hole in spooled.extents(0, spooled.size))
    with pipe(path.read_bytes()) as reader:
        assert everything(reader) == data


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_size_of_the_pieces_does_not_matter(kind: str, piece: int) -> None:
    data = content()[76_000:80_000]
    packed = COMPRESS[kind](data) + COMPRESS[kind](b"more")
    with pipe(packed, piece) as reader:
        assert everything(reader) == data + b"more"


@pytest.mark.parametrize("kind", PROGRAMS)
def test_members_one_behind_the_other_are_one_image(kind: str) -> None:
    compress = COMPRESS[kind]
    with pipe(compress(b"one") + compress(b"") + compress(b"two")) as reader:
        assert everything(reader) == b"onetwo"


def test_gzip_headers_with_everything_in_them_are_read(tmp_path: Path) -> None:
    peers.require("gzip")
    path = tmp_path / ("long name " * 20)
    path.write_bytes(b"content")
    packed = peers.run("gzip", "-c", "-N", path).stdout
    flags = 0x02 | 0x04 | 0x08 | 0x10  # header CRC, extra, name, comment
    body = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + b"\x04\x00abcd" + b"name\0comment\0"
    import zlib

    body += (zlib.crc32(body) & 0xFFFF).to_bytes(2, "little")
    for piece in (1, 3, 1 << 16):
        with pipe(packed + body + gzip.compress(b" more", mtime=0)[10:], piece) as reader:
            assert everything(reader) == b"content more"


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 100_000, b"garbage", b"\0" * 512 + b"garbage"])
def test_what_follows_is_ignored_where_the_program_ignores_it(kind: str, garbage: bytes) -> None:
    packed = COMPRESS[kind](b"content") + garbage
    peers.require(PROGRAMS[kind])
    # 2: gzip's "warning"; bzip2 warns and returns 0.
    assert peers.run(PROGRAMS[kind], "-dc", input=packed, ok=(0, 2)).stdout == b"content"
    with pipe(packed) as reader:
        assert everything(reader) == b"content"


def test_padding_of_xz_is_multiples_of_four() -> None:
    packed = lzma.compress(b"content")
    with pipe(packed + bytes(8) + packed + bytes(100_000)) as reader:
        assert everything(reader) == b"contentcontent"
    with pipe(packed + bytes(7)) as reader, pytest.raises(FormatError, match="7 bytes of padding"):
        spool(reader)


@pytest.mark.parametrize("kind", ["xz", "zstd"])
def test_what_follows_is_an_error_where_the_program_says_so(kind: str) -> None:
    packed = COMPRESS[kind](b"content") + b"garbage"
    peers.require(PROGRAMS[kind])
    peers.run(PROGRAMS[kind], "-dc", input=packed, ok=(1,))
    with pipe(packed) as reader, pytest.raises(FormatError, match="follows the"):
        spool(reader)


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.timeout(60)
def test_many_short_members_take_time_in_proportion(kind: str) -> None:
    # Handing the rest of a mebibyte to each of 30000 libraries in turn would take minutes.
    member = COMPRESS[kind](b"x")
    count = 30_000 if kind in ("gzip", "zstd") else 3000
    assert everything(storage.MemoryStorage(member * count)) == b"x" * count


def test_skippable_frames_of_zstd_are_skipped() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (70_000).to_bytes(4, "little") + bytes(70_000)
    frame = COMPRESS["zstd"](b"content")
    with pipe(skippable + frame + skippable + frame + skippable) as reader:
        assert everything(reader) == b"contentcontent"


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_file_that_is_cut_off_is_an_error_wherever_it_is_cut(kind: str) -> None:
    packed = COMPRESS[kind](content()[70_000:90_000])
    cuts = {11, 12, 17, 18, 30, len(packed) // 2, len(packed) - 9, len(packed) - 1}
    for cut in cuts:
        with (
            pipe(packed[:cut]) as reader,
            pytest.raises(FormatError, match=f"standard|the {kind} data is cut off after {cut} b"),
        ):
            spool(reader)


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.timeout(60)
def test_a_damaged_file_is_an_error_and_never_another_image(kind: str) -> None:
    data = content()[70_000:90_000]
    packed = COMPRESS[kind](data)
    damage = random.Random(2)
    for _ in range(150):
        broken = bytearray(packed)
        broken[damage.randrange(len(broken))] ^= 1 << damage.randrange(8)
        memory = storage.MemoryStorage(bytes(broken), "disk.raw.packed")
        if outer_compression(bytes(broken[:10])) != kind:
            continue
        try:
            assert everything(memory) == data  # a bit that means nothing (a time, a name)
        except VmimgError as error:
            assert "disk.raw.packed" in str(error)
            assert "\n" not in str(error)


def test_what_is_not_compressed_is_handed_back_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw.gz"  # names prove nothing
    path.write_bytes(b"raw content")
    with storage.open(path) as opened:
        assert spool(opened) is opened
    assert outer_compression(b"") is None
    assert outer_compression(b"BZh91AY&SX") is None
    with pipe(b"") as reader:
        assert everything(reader) == b""
    with pipe(b"raw content", piece=2) as reader:
        assert everything(reader) == b"raw content"


def test_a_pipe_of_zeros_takes_no_room() -> None:
    with pipe(bytes(5 * MIB + 7), piece=MIB) as reader, spool(reader) as spooled:
        assert (spooled.size, spooled.allocated()) == (5 * MIB + 7, 0)


def test_standard_input_that_is_a_file_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDONLY)
    try:
        with spool(fd, "standard input") as opened:
            assert opened.identity() == (path.stat().st_dev, path.stat().st_ino)
            assert opened.name == "standard input"
        # Others have read a part of it before: the rest is the image.
        os.lseek(fd, 4, os.SEEK_SET)
        assert everything(fd) == b"456789"
        os.lseek(fd, 0, os.SEEK_SET)
        path.write_bytes(gzip.compress(b"content"))
        assert everything(fd) == b"content"
    finally:
        os.close(fd)


def test_a_terminal_and_a_directory_are_no_images(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StorageError, match="a terminal"):
            spool(terminal)
        with pytest.raises(StorageError, match="a directory"):
            spool(directory)
        with pytest.raises(OptionError, match="is a terminal; redirect it"):
            StreamSink(terminal)
    finally:
        for fd in (controller, terminal, directory):
            os.close(fd)


def test_progress_counts_what_was_taken_from_the_source() -> None:
    packed = gzip.compress(random.Random(3).randbytes(2 * MIB + 5))
    calls: list[tuple[int, int | None]] = []
    everything(
        storage.MemoryStorage(packed), progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (len(packed), len(packed))
    assert len(calls) == 3
    calls.clear()
    with pipe(packed) as reader:
        everything(reader, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(packed), None)


def test_the_limit_stops_what_unpacks_without_end(tmp_path: Path) -> None:
    bomb = storage.MemoryStorage(gzip.compress(bytes(64 * MIB)), "bomb.gz")
    with pytest.raises(UnsafeImage, match=r"bomb\.gz: unpacks to more than the 1048576 bytes"):
        spool(bomb, limit=MIB)
    exact = storage.MemoryStorage(gzip.compress(bytes(MIB)))
    assert everything(exact, limit=MIB) == bytes(MIB)


def test_memory_stays_bounded_whatever_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(256 * MIB), 1) * 8)
    program = (
        "import sys; from vmimg import storage; from vmimg.storage.stream import spool\n"
        "spooled = spool(storage.open(sys.argv[1]))\n"
        "assert spooled.size == 2 << 30 and spooled.allocated() == 0\n"
        # Not ru_maxrss: it begins with what the parent had.
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < 64 << 10  # KiB


def test_what_needs_gigabytes_to_unpack_is_refused() -> None:
    # zstd --long=31: a window of 2 GiB, in a frame of 21 bytes.
    frame = b"\x28\xb5\x2f\xfd\x00\xa8\x19\x00\x00abc"
    with pytest.raises(UnsupportedFeature, match="needs more memory"):
        spool(storage.MemoryStorage(frame))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    packed = lzma.compress(b"content", filters=filters)
    with pytest.raises(UnsupportedFeature, match="needs more memory"):
        spool(storage.MemoryStorage(packed))


def test_the_temporary_file_has_no_name_and_lies_where_it_is_told(tmp_path: Path) -> None:
    packed = storage.MemoryStorage(gzip.compress(b"content"))
    with spool(packed, directory=tmp_path) as spooled:
        assert os.listdir(tmp_path) == []
        assert spooled.identity() is not None
        assert (spooled.identity() or (0,))[0] == tmp_path.stat().st_dev
    with pytest.raises(StorageError, match="temporary copy of"):
        spool(storage.MemoryStorage(gzip.compress(b"content")), directory=tmp_path / "missing")


def test_the_sink_writes_all_and_counts() -> None:
    data = random.Random(4).randbytes(3 * MIB)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as a shell's next program may have set it
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reader, 1 << 16):
            received.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    sink = StreamSink(writer)
    sink.write(data)
    sink.write_zeros(100_001)
    sink.write(b"")
    assert sink.position == len(data) + 100_001
    os.close(writer)
    thread.join()
    os.close(reader)
    assert received == data + bytes(100_001)


def test_a_reader_that_goes_away_is_one_error() -> None:
    reader, writer = os.pipe()
    sink = StreamSink(writer)
    sink.write(b"x")
    os.close(reader)
    with pytest.raises(StorageError, match="standard output: its reader went away after 1 bytes"):
        sink.write(b"x")
    os.close(writer)
    with Path("/dev/full").open("wb") as full:
        sink = StreamSink(full.fileno())
        with pytest.raises(StorageError, match="no space left"):
            sink.write(b"x")
