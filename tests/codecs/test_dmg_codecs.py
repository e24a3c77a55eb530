"""The coders of DMG chunks: bounded, exact, and the same in every thread."""

from __future__ import annotations

import bz2
import ctypes
import lzma
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_by_hand import adc as pack_adc
from vmimg.codecs import LEVELS, codec
from vmimg.codecs.crc32 import crc32, crc32_join, crc32_zeros
from vmimg.codecs.lzfse import Lzfse
from vmimg.errors import FormatError, OptionError, UnsupportedFeature

KIB = 1 << 10
WRITTEN = ("bzip2", "lzfse", "lzma")
READ = (*WRITTEN, "adc")


def sample(size: int, seed: int = 1) -> bytes:
    dice = random.Random(seed)
    line = dice.randbytes(300) + bytes(200) + b"abc" * 99
    return (line * (size // len(line)) + dice.randbytes(size))[:size]


def packed(name: str, data: bytes) -> bytes:
    return pack_adc(data) if name == "adc" else bytes(codec(name).compress(data))


@pytest.fixture(params=["by the library", "by the binding"])
def lzfse(request: pytest.FixtureRequest) -> Iterator[Lzfse]:
    """LZFSE with and without the library's own call, which Windows does not have."""
    coder = Lzfse()
    if request.param == "by the binding":
        coder.__dict__["_decode"] = None
    elif sys.platform != "win32":
        assert coder._decode is not None
    yield coder


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_packed_is_what_comes_out(name: str, level: str) -> None:
    for data in (sample(100_000), bytes(1 << 20), random.Random(2).randbytes(5000), b"x" * 512):
        small = codec(name).compress(memoryview(bytearray(data)), level)  # type: ignore[arg-type]
        for form in (bytes(small), memoryview(bytearray(small))):
            assert codec(name).decompress(form, len(data)) == data


def test_the_usual_programs_read_the_streams() -> None:
    data = sample(300_000)
    assert bz2.decompress(codec("bzip2").compress(data)) == data
    assert lzma.decompress(codec("lzma").compress(data), lzma.FORMAT_XZ) == data


@pytest.mark.parametrize("name", WRITTEN)
def test_every_thread_makes_the_same(name: str) -> None:
    blocks = [sample(128 * KIB, seed) for seed in range(8)] * 3
    once = [codec(name).compress(block) for block in blocks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(codec(name).compress, blocks)) == once


@pytest.mark.parametrize("name", WRITTEN)
def test_an_unknown_level_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="fast, default or best"):
        codec(name).compress(b"x", "9")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", READ)
def test_a_stream_that_holds_more_or_less_is_an_error(name: str) -> None:
    data = sample(50_000)
    small = packed(name, data)
    with pytest.raises(FormatError, match="ends after 50000 of 50001"):
        codec(name).decompress(small, 50_001)
    for size in (49_999, 512, 1):
        with pytest.raises(FormatError, match="does not end after"):
            codec(name).decompress(small, size)
    for cut in (len(small) - 1, len(small) // 2, 5, 0):
        if name == "adc" and cut == 0:
            continue
        with pytest.raises(FormatError):
            codec(name).decompress(small[:cut], 50_000)


@pytest.mark.parametrize("name", READ)
@settings(max_examples=60, deadline=None)
@given(damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_ends_in_an_error_or_in_as_many_bytes(
    name: str, damage: list[tuple[float, int]]
) -> None:
    data = sample(20_000)
    small = bytearray(packed(name, data))
    for place, value in damage:
        small[int(place * len(small))] = value
    try:
        assert len(codec(name).decompress(bytes(small), len(data))) == len(data)
    except FormatError:
        pass


@pytest.mark.parametrize("name", READ)
def test_a_bomb_takes_no_more_than_was_asked_for(name: str) -> None:
    zeros = bytes(8 << 20)
    if name == "adc":
        bomb = b"\x80\0" + b"\x7f\0\0" * 100_000
    else:
        bomb = bytes(codec(name).compress(zeros))
    assert len(bomb) < 1 << 20
    with pytest.raises(FormatError, match="does not end"):
        codec(name).decompress(bomb, 4096)


# ADC


def test_adc_has_runs_of_three_kinds_that_may_read_themselves() -> None:
    adc = codec("adc")
    assert adc.decompress(b"\x82abc", 3) == b"abc"
    assert adc.decompress(b"\x80a\x00\x00", 4) == b"aaaa"
    assert adc.decompress(b"\x81ab\x3c\x01", 20) == b"ab" * 10
    assert adc.decompress(b"\x81ab\x43\x00\x01", 9) == b"ababababa"
    assert adc.decompress(b"\x83abcd\x04\x03", 8) == b"abcdabcd"
    assert adc.decompress(b"", 0) == b""


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"\x00\x00", "in front of the block"),
        (b"\x80a\x00\x01", "in front of the block"),
        (b"\x85abc", "within a run"),
        (b"\x80a\x00", "within a run"),
        (b"\x80a\x40\x00", "within a run"),
    ],
)
def test_adc_runs_that_cannot_be_are_refused(stream: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        codec("adc").decompress(stream, 100)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"ab" * 9, bytes(40), b"xyz", bytes(range(256)) * 5])))
def test_adc_of_anything_is_read_back(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert codec("adc").decompress(pack_adc(data), len(data)) == data


def test_adc_is_not_written() -> None:
    with pytest.raises(UnsupportedFeature, match="ADC"):
        codec("adc").compress(b"x")


# LZFSE


def test_lzfse_is_read_either_way(lzfse: Lzfse) -> None:
    for data in (sample(900_000), bytes(1 << 20), b"x" * 600, random.Random(3).randbytes(70_000)):
        small = lzfse.compress(data)
        assert lzfse.decompress(small, len(data)) == data
        for size in (len(data) - 1, len(data) + 1):
            with pytest.raises(FormatError):
                lzfse.decompress(small, size)
        with pytest.raises(FormatError):
            lzfse.decompress(small[:-4], len(data))


def test_what_is_no_lzfse_is_refused_either_way(lzfse: Lzfse) -> None:
    for stream in (b"", b"bvx", b"bvx$", b"bvx-", b"bvx2" + bytes(100), b"nonsense" * 9,
                   b"bvx-" + struct.pack("<I", 1 << 31) + bytes(100) + b"bvx$"):  # fmt: skip
        with pytest.raises(FormatError):
            lzfse.decompress(stream, 512)


def test_a_part_that_says_too_little_does_not_get_to_the_binding() -> None:
    coder = Lzfse()
    coder.__dict__["_decode"] = None
    # 2^20 - 1 matches in a part that is said to hold 512 bytes.
    head = struct.pack("<4sIQQQ", b"bvx2", 512, 0xF_FFFF << 40, 0, 32)
    with pytest.raises(FormatError, match="said to hold"):
        coder.decompress(head + b"bvx$", 512)
    assert ctypes.sizeof(ctypes.c_size_t) == 8


# CRC-32


@settings(max_examples=50, deadline=None)
@given(st.binary(), st.binary())
def test_checksums_are_joined_like_the_bytes(a: bytes, b: bytes) -> None:
    assert crc32_join(crc32(a), crc32(b), len(b)) == zlib.crc32(a + b)


def test_checksums_of_zeros_need_no_zeros() -> None:
    for size in (0, 1, 511, 4096, 100_003):
        assert crc32_zeros(size) == zlib.crc32(bytes(size))
    # In two parts, beyond any 32 bits.
    whole = crc32_zeros((1 << 41) + 12_345)
    assert crc32_join(crc32_zeros(1 << 41), crc32_zeros(12_345), 12_345) == whole
    assert crc32_join(crc32_zeros(12_345), crc32_zeros(1 << 41), 1 << 41) == whole
    assert crc32_join(1, crc32_zeros(1 << 33), 1 << 33) == crc32_join(
        crc32_join(1, crc32_zeros(1 << 32), 1 << 32), crc32_zeros(1 << 32), 1 << 32
    )
