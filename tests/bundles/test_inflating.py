"""Long streams of gzip, whoever made them, unpacked again from their middle by many threads."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

import peers
from vmimg.bundles.archives import GzipTarWriter
from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.errors import FormatError
from vmimg.storage.memory import MemoryStorage

MIB = 1 << 20


def a_disk(length: int) -> bytes:
    """Programs and texts, what does not compress, and zeros, as on a disk."""
    dice = random.Random(length)
    text = Path(zlib.__file__ or random.__file__).read_bytes() + Path(random.__file__).read_bytes()
    words = [text[at : at + 40] for at in range(0, len(text) - 40, 7)]
    parts, made = [], 0
    while made < length:
        kind = dice.randrange(4)
        if kind == 0:
            part = dice.randbytes(dice.randrange(300_000))
        elif kind == 1:
            part = bytes(dice.randrange(500_000))
        else:
            part = b"".join(dice.choices(words, k=dice.randrange(20_000)))
        parts.append(part)
        made += len(part)
    return b"".join(parts)[:length]


DISK = a_disk(20 * MIB)


@cache
def deflated(level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY, memory: int = 8) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, memory, strategy)
    return packer.compress(DISK) + packer.flush()


def by(*command: str) -> bytes:
    return peers.run(*command, "-c", input=DISK).stdout


@cache
def by_us() -> bytes:
    output = MemoryStorage()
    writer = GzipTarWriter(output)
    writer.add("disk", DISK)
    writer.finish()
    return output.read(0, output.size)


@cache
def in_members() -> bytes:
    pieces = (DISK[at : at + 3_000_000] for at in range(0, len(DISK), 3_000_000))
    return b"".join(gzip.compress(piece, 1) for piece in pieces)


MAKERS: dict[str, Callable[[], bytes]] = {
    "zlib-6": lambda: deflated(6),
    "zlib-1": lambda: deflated(1),
    "zlib-huffman": lambda: deflated(6, zlib.Z_HUFFMAN_ONLY),
    "zlib-small-blocks": lambda: deflated(6, memory=3),
    "zlib-stored": lambda: deflated(0),
    "zlib-fixed": lambda: deflated(6, zlib.Z_FIXED),
    "members": in_members,
    "vmimg": by_us,
}


class Counting(MemoryStorage):
    """Knows how much of it was read."""

    taken = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.taken += len(buffer)
        super().read_into(offset, buffer)


def opened(packed: bytes) -> tuple[InflatedStorage, Counting]:
    base = Counting(packed)
    storage = InflatedStorage(base, "a.gz", gzip=True)
    storage.measure()
    return storage, base


def what_it_holds(storage: InflatedStorage, threads: int) -> bytes:
    def read(offset: int) -> bytes:
        return storage.read(offset, min(MIB, storage.size - offset))

    with ThreadPoolExecutor(threads) as pool:
        return b"".join(pool.map(read, range(0, storage.size, MIB)))


@pytest.mark.parametrize("maker", MAKERS)
def test_every_number_of_threads_reads_the_same(maker: str) -> None:
    packed = MAKERS[maker]()
    storage, _ = opened(packed)
    model = gzip.decompress(packed)
    for threads in (1, 2, 3, 8):
        assert what_it_holds(storage, threads) == model


@pytest.mark.peer("pigz", "gzip")
@pytest.mark.parametrize("command", [("gzip", "-9"), ("pigz", "-p2"), ("pigz", "-i")], ids=" ".join)
def test_what_other_programs_pack_is_read(command: tuple[str, ...]) -> None:
    storage, _ = opened(by(*command))
    assert what_it_holds(storage, 4) == DISK


@pytest.mark.parametrize("maker", sorted(MAKERS.keys() - {"zlib-fixed"}))
def test_a_read_unpacks_what_is_near_only(maker: str) -> None:
    packed = MAKERS[maker]()
    storage, base = opened(packed)
    model = gzip.decompress(packed)
    dice = random.Random(1)
    for _ in range(12):
        offset = dice.randrange(len(model) - 100)
        base.taken = 0
        assert storage.read(offset, 100) == model[offset : offset + 100]
        # A segment has 4 MiB to 8 MiB of the 20.
        assert base.taken < 10 * MIB
        assert base.taken < 0.6 * len(packed)


def test_a_stream_of_one_block_is_read_from_anywhere() -> None:
    """Nothing in it can be begun at."""
    storage, _ = opened(deflated(6, zlib.Z_FIXED))
    dice = random.Random(2)
    for _ in range(20):
        offset = dice.randrange(len(DISK) - 5000)
        assert storage.read(offset, 5000) == DISK[offset : offset + 5000]


def test_what_looks_like_a_beginning_and_is_none_is_not_taken_for_one() -> None:
    """A stream that is stored in another one: all that there is to be found is the inner one's."""
    inner = by_us() + deflated(6) + deflated(0)[: 8 * MIB]
    storage, _ = opened(gzip.compress(inner, 0))
    assert what_it_holds(storage, 3) == inner
    dice = random.Random(3)
    for _ in range(20):
        offset = dice.randrange(len(inner) - 5000)
        assert storage.read(offset, 5000) == inner[offset : offset + 5000]


@pytest.mark.parametrize("at", [0.3, 0.6, 0.95])
def test_a_file_that_changed_while_it_was_read_is_an_error(at: float) -> None:
    """What was checked once is not believed the second time."""
    packed = deflated(6)
    storage, base = opened(packed)
    place = int(len(packed) * at)
    for offset in range(place, place + 2000):
        base.write(offset, bytes((packed[offset] ^ 0x55,)))
    with pytest.raises(FormatError, match="corrupt"):
        what_it_holds(storage, 2)
        storage._segments.clear()
        what_it_holds(storage, 2)


@pytest.mark.parametrize("at", [0.4, 0.9])
def test_a_long_stream_that_is_damaged_is_an_error(at: float) -> None:
    packed = bytearray(deflated(6))
    for offset in range(int(len(packed) * at), int(len(packed) * at) + 500):
        packed[offset] ^= 0x55
    with pytest.raises(FormatError, match="corrupt"):
        opened(bytes(packed))


def test_what_stands_before_the_damage_in_a_member_of_a_zip_is_read() -> None:
    raw = zlib.compressobj(6, wbits=-15)
    packed = bytearray(raw.compress(DISK) + raw.flush())
    for offset in range(len(packed) // 2, len(packed) // 2 + 500):
        packed[offset] ^= 0x55
    storage = InflatedStorage(
        MemoryStorage(bytes(packed)), "disk", size=len(DISK), checksum=zlib.crc32(DISK)
    )
    assert storage.read(0, 4 * MIB) == DISK[: 4 * MIB]
    for _ in range(2):
        with pytest.raises(FormatError, match="corrupt"):
            storage.read(len(DISK) - 100, 100)
    assert storage.read(MIB, MIB) == DISK[MIB : 2 * MIB]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_member_of_a_zip_is_read_without_being_measured(threads: int) -> None:
    raw = zlib.compressobj(6, wbits=-15)
    packed = raw.compress(DISK) + raw.flush()
    base = Counting(packed)
    storage = InflatedStorage(base, "disk", size=len(DISK), checksum=zlib.crc32(DISK))
    assert what_it_holds(storage, threads) == DISK
    # Once, and what was looked at for beginnings.
    assert base.taken < 3 * len(packed)


def test_the_end_of_a_stream_is_at_hand_when_it_was_measured() -> None:
    """Where images have their tables."""
    storage, base = opened(deflated(6))
    base.taken = 0
    assert storage.read(len(DISK) - MIB, MIB) == DISK[-MIB:]
    assert base.taken == 0


def test_a_tar_of_ours_has_a_mark_at_every_few_chunks() -> None:
    storage, _ = opened(by_us())
    assert sum(mark.window is not None for mark in storage._marks) >= 3


def test_reading_from_many_threads_at_random_agrees() -> None:
    storage, _ = opened(deflated(6))
    dice = random.Random(4)
    places = [dice.randrange(len(DISK) - 70_000) for _ in range(150)]

    def same(offset: int) -> bool:
        buffer = bytearray(70_000)
        storage.read_into(offset, memoryview(buffer))
        return buffer == DISK[offset : offset + 70_000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, places))


def test_tools_of_the_standard_library_agree() -> None:
    packed = in_members()
    storage, _ = opened(packed)
    with gzip.open(io.BytesIO(packed)) as file:
        file.seek(11 * MIB)
        assert storage.read(11 * MIB, MIB) == file.read(MIB)
