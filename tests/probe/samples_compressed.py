"""Compressed streams to recognise and to vet: good ones of every program there is, and one bad one
for each rule.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import peers
from probe.making import of_bytes
from probe.sample import Sample
from probe.streams_by_hand import (
    gzip_of,
    lz4_of,
    lzip_of,
    lzop_of,
    xz_with_dictionary,
    xz_with_index,
    zstd_of,
    zstd_skippable,
)

__all__ = ["BAD", "GOOD", "TEXT"]

TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(3000))
_MIB = 1 << 20


def _by(program: str, claim: str, *arguments: str, size: int = len(TEXT)) -> Sample:
    """What ``program`` writes to its standard output."""

    def make(folder: Path) -> Path:
        path = folder / f"text.{claim}"
        path.write_bytes(peers.run(program, *arguments, input=TEXT[:size]).stdout)
        return path

    words = "-".join(argument.strip("-").replace("=", "-") for argument in arguments)
    return Sample(f"{claim}-of-{program}-{words}", make, claim, peers=(program,))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _layers() -> bytes:
    return lzma.compress(_gzip(bz2.compress(TEXT)))


def _changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def _noise() -> bytes:
    import random

    return random.Random(5).randbytes(300_000)


def _gzip_corrupt() -> bytes:
    data = bytearray(gzip_of(TEXT))
    data[10] |= 6  # a kind of block that there is not
    return bytes(data)


def _bzip2_corrupt() -> bytes:
    return _changed(bz2.compress(_noise()), 200)


def _sparse_of(piece: Callable[[], bytes], name: str, claim: str, *codes: str) -> Sample:
    """A mark that is followed by a hole of 8 MiB."""

    def make(folder: Path) -> Path:
        path = folder / f"{name}.bin"
        path.write_bytes(piece())
        os.truncate(path, 8 * _MIB)
        return path

    return Sample(name, make, claim, codes)


def _bgzip() -> bytes:
    """Many members, as bgzip and tapes have them, with padding at the end."""
    return b"".join(_gzip(TEXT[i : i + 9000]) for i in range(0, len(TEXT), 9000)) + bytes(512)


def _gzip_file(name: str) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=buffer, mtime=1_700_000_000) as file:
        file.write(TEXT)
    return buffer.getvalue()


GOOD: tuple[Sample, ...] = (
    _by("gzip", "gzip", "-9c"),
    _by("xz", "xz", "-6c"),
    _by("xz", "lzma", "--format=lzma", "-c"),
    _by("zstd", "zstd", "-3c"),
    _by("zstd", "zstd", "-c", "--no-check", "--long=27"),
    _by("bzip2", "bzip2", "-9c"),
    _by("lz4", "lz4", "-c"),
    _by("lz4", "lz4", "-BD", "-B4", "--content-size", "-c"),
    _by("lz4", "lz4-legacy", "-l", "-c"),
    _by("lzop", "lzop", "-c"),
    _by("lzip", "lzip", "-c"),
    of_bytes("gzip-members", "a.gz", _bgzip, "gzip"),
    of_bytes("gzip-with-name", "a.gz", lambda: _gzip_file("disk.raw"), "gzip"),
    of_bytes("gzip-of-nothing", "a.gz", lambda: _gzip(b""), "gzip"),
    of_bytes("gzip-by-hand", "a.gz", lambda: gzip_of(TEXT), "gzip"),
    of_bytes("xz-streams", "a.xz", lambda: lzma.compress(TEXT) + lzma.compress(TEXT), "xz"),
    of_bytes("zstd-by-hand", "a.zst", lambda: zstd_of(TEXT, stated=len(TEXT)), "zstd"),
    of_bytes(
        "zstd-behind-skippable", "a.zst", lambda: zstd_skippable(bytes(4)) + zstd_of(TEXT), "zstd"
    ),
    of_bytes("lz4-by-hand", "a.lz4", lambda: lz4_of(TEXT[:60_000], stated=60_000), "lz4"),
    of_bytes("lzop-by-hand", "a.lzo", lambda: lzop_of(TEXT), "lzop"),
    of_bytes("lzip-by-hand", "a.lz", lambda: lzip_of(TEXT), "lzip"),
)

BAD: tuple[Sample, ...] = (
    of_bytes("gzip-corrupt", "a", _gzip_corrupt, "gzip", "malformed"),
    of_bytes("gzip-cut-off", "a", lambda: _gzip(TEXT)[:-100], "gzip", "truncated"),
    of_bytes("gzip-wrong-size", "a", lambda: gzip_of(TEXT, size=5), "gzip", "member-size"),
    of_bytes(
        "gzip-wrong-checksum", "a", lambda: gzip_of(TEXT, checksum=5), "gzip", "checksum-wrong"
    ),
    of_bytes("gzip-trailing", "a", lambda: _gzip(TEXT) + b"hidden", "gzip", "hidden-data"),
    of_bytes(
        "gzip-name-is-a-path",
        "a",
        lambda: gzip_of(TEXT, name=b"../../etc/cron.d/job"),
        "gzip",
        "odd-field",
    ),
    of_bytes("gzip-expands", "a", lambda: _gzip(bytes(20 * _MIB)), "gzip", "expands"),
    of_bytes("gzip-deep", "a", lambda: _gzip(_gzip(_gzip(TEXT))), "gzip", "nested-archive"),
    of_bytes("three-layers", "a", _layers, "xz", "nested-archive"),
    of_bytes("xz-corrupt", "a", lambda: _changed(lzma.compress(_noise()), 5000), "xz", "malformed"),
    of_bytes("xz-cut-off", "a", lambda: lzma.compress(TEXT)[:-30], "xz", "truncated"),
    of_bytes("xz-index-lies", "a", lambda: xz_with_index(TEXT, 1), "xz", "malformed"),
    of_bytes("xz-huge-dictionary", "a", lambda: xz_with_dictionary(TEXT, 40), "xz", "unsupported"),
    of_bytes("xz-expands", "a", lambda: lzma.compress(bytes(20 * _MIB), preset=0), "xz", "expands"),
    of_bytes("xz-trailing", "a", lambda: lzma.compress(TEXT) + b"hidden!!", "xz", "hidden-data"),
    _sparse_of(
        lambda: zstd_skippable(bytes(_MIB)) + zstd_of(TEXT),
        "zstd-skips-much",
        "zstd",
        "hidden-data",
    ),
    of_bytes("zstd-huge-window", "a", lambda: zstd_of(TEXT, window_log=30), "zstd", "unsupported"),
    of_bytes(
        "zstd-needs-dictionary", "a", lambda: zstd_of(TEXT, dictionary=77), "zstd", "unsupported"
    ),
    of_bytes("zstd-size-lies", "a", lambda: zstd_of(TEXT, stated=1 << 60), "zstd", "member-size"),
    of_bytes("zstd-expands", "a", lambda: zstd_of(b"", repeat=512), "zstd", "expands"),
    of_bytes("zstd-cut-off", "a", lambda: zstd_of(TEXT)[:-10], "zstd", "truncated"),
    of_bytes("zstd-trailing", "a", lambda: zstd_of(TEXT) + b"hidden", "zstd", "hidden-data"),
    of_bytes("bzip2-corrupt", "a", _bzip2_corrupt, "bzip2", "malformed"),
    of_bytes("bzip2-cut-off", "a", lambda: bz2.compress(TEXT)[:-9], "bzip2", "truncated"),
    of_bytes("bzip2-trailing", "a", lambda: bz2.compress(TEXT) + b"hid", "bzip2", "hidden-data"),
    of_bytes("lz4-size-lies", "a", lambda: lz4_of(TEXT[:60_000], stated=9), "lz4", "member-size"),
    of_bytes("lz4-cut-off", "a", lambda: lz4_of(TEXT[:60_000])[:-20], "lz4", "truncated"),
    of_bytes("lzop-cut-off", "a", lambda: lzop_of(TEXT)[:-20], "lzop", "truncated"),
    of_bytes("lzip-size-lies", "a", lambda: lzip_of(TEXT, size=9), "lzip", "member-size"),
    of_bytes(
        "lzip-wrong-checksum", "a", lambda: lzip_of(TEXT, checksum=9), "lzip", "checksum-wrong"
    ),
    of_bytes("compress-z", "a", lambda: b"\x1f\x9d\x90" + TEXT[:500], "compress", "unsupported"),
)
