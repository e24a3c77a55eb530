"""Stores keep what they promise, whatever they are: a directory, S3, GCS, Azure, memory."""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import peers
from object_servers import KINDS, make
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import StorageError, VmimgError
from vmimg.formats.opening import open_storage_disk
from vmimg.service.stores.base import Exists, NotFound, Store, StoreFull
from vmimg.service.stores.file import FileStore
from vmimg.service.stores.objects import ObjectStore
from vmimg.service.stores.ranged import RangedStorage
from vmimg.storage import output

KEY = "3fa1c2d8-0b7e-4a52-9a51-0d2f6f1e0001"
OTHER = "8c0e9f44-52d1-4f0a-8f4b-5f4c6a2b0002"
MIB = 1 << 20


@pytest.fixture(params=KINDS)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """One of each kind, with nothing in it."""
    if request.param == "file with names":
        monkeypatch.setattr(output, "_CAN_LINK", False)
    made = make(request.param, tmp_path)
    yield made
    made.close()


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def put(store: Store, key: str, data: bytes) -> None:
    with store.put(key) as putting:
        putting.write(data)


def kept(store: Store) -> dict[str, int]:
    return {stored.key: stored.size for stored in store.list()}


# What is put is there


@pytest.mark.parametrize("size", [0, 1, 300_000, 8 * MIB, 21 * MIB + 17])
def test_what_was_put_is_read_back(store: Store, size: int) -> None:
    data = content(size)
    with store.put(KEY) as putting:
        for start in range(0, size, MIB):
            putting.write(data[start : start + MIB])
        assert putting.size == size
    assert store.size(KEY) == size
    assert store.read(KEY, 0, size) == data


def test_pieces_of_any_length_and_kind_are_taken_in_order(store: Store) -> None:
    data, chance, start = content(11 * MIB), random.Random(2), 0
    again = bytearray(2 * MIB)
    with store.put(KEY) as putting:
        while start < len(data):
            length = min(chance.choice((0, 1, 100, 5_000, 70_000, 2 * MIB)), len(data) - start)
            # One buffer, written over each time: a store keeps no reference to it.
            again[:length] = data[start : start + length]
            kind = chance.choice((bytes, bytearray, memoryview))
            putting.write(kind(memoryview(again)[:length]))
            again[:length] = b"?" * length
            start += length
    assert hashlib.sha256(store.read(KEY, 0, len(data))).digest() == hashlib.sha256(data).digest()


def test_a_buffer_may_be_used_again_as_soon_as_it_was_written(store: Store) -> None:
    buffer = bytearray(MIB)
    with store.put(KEY) as putting:
        for number in range(12):
            buffer[:] = bytes([number]) * MIB
            putting.write(memoryview(buffer))
        buffer[:] = b"?" * MIB
    for number in range(12):
        assert store.read(KEY, number * MIB, MIB) == bytes([number]) * MIB


def test_any_thread_may_write(store: Store) -> None:
    data = content(10 * MIB)
    putting = store.put(KEY)
    for start in range(0, len(data), MIB):
        thread = threading.Thread(target=putting.write, args=(data[start : start + MIB],))
        thread.start()
        thread.join()
    thread = threading.Thread(target=putting.commit)
    thread.start()
    thread.join()
    assert store.read(KEY, 0, len(data)) == data


def test_any_range_can_be_read(store: Store) -> None:
    data, chance = content(9 * MIB), random.Random(3)
    put(store, KEY, data)
    for _ in range(20):
        start = chance.randrange(len(data))
        length = min(chance.choice((0, 1, 511, 70_000, 3 * MIB)), len(data) - start)
        assert store.read(KEY, start, length) == data[start : start + length]
        buffer = bytearray(length + 2)
        store.read_into(KEY, start, memoryview(buffer)[1 : 1 + length])
        assert buffer == b"\0" + data[start : start + length] + b"\0"


@pytest.mark.parametrize(("offset", "length"), [(999, 2), (1000, 1), (5000, 10), (-1, 1)])
def test_a_range_that_is_not_there_is_an_error(store: Store, offset: int, length: int) -> None:
    put(store, KEY, bytes(1000))
    with pytest.raises(StorageError) as raised:
        store.read(KEY, offset, length)
    assert not isinstance(raised.value, NotFound)


def test_the_list_has_all_with_size_and_time(store: Store) -> None:
    before = time.time()
    sizes = {
        f"{number:08x}-aaaa-4000-8000-00000000000{number % 10}": number for number in range(25)
    }
    for key, size in sizes.items():
        put(store, key, bytes(size))
    assert kept(store) == sizes
    # Services tell whole seconds.
    assert all(before - 2 <= stored.modified <= time.time() + 2 for stored in store.list())


def test_what_was_deleted_is_gone(store: Store) -> None:
    put(store, KEY, b"one")
    put(store, OTHER, b"other")
    store.delete(KEY)
    assert kept(store) == {OTHER: 5}
    put(store, KEY, b"anew")
    assert store.read(KEY, 0, 4) == b"anew"


def test_what_is_not_there_is_not_found(store: Store) -> None:
    for operation in (
        lambda: store.size(KEY),
        lambda: store.read(KEY, 0, 1),
        lambda: store.open(KEY),
        lambda: store.delete(KEY),
    ):
        with pytest.raises(NotFound, match=KEY):
            operation()


# What is not complete is not there


def test_nothing_is_seen_of_what_is_on_its_way(store: Store) -> None:
    with store.put(KEY) as putting:
        for _ in range(20):
            putting.write(bytes(MIB))
        assert kept(store) == {}
        with pytest.raises(NotFound):
            store.size(KEY)
        with pytest.raises(NotFound):
            store.read(KEY, 0, 1)
    assert kept(store) == {KEY: 20 * MIB}


@pytest.mark.parametrize("size", [0, 1000, 20 * MIB])
def test_an_aborted_put_leaves_nothing(store: Store, size: int) -> None:
    putting = store.put(KEY)
    putting.write(bytes(size))
    putting.abort()
    putting.abort()
    assert kept(store) == {}
    for late in (putting.commit, lambda: putting.write(b"more")):
        with pytest.raises(StorageError, match="has ended"):
            late()
    put(store, KEY, b"then this")
    assert store.read(KEY, 0, 9) == b"then this"


def test_a_block_that_raises_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.put(KEY) as putting:
        putting.write(bytes(20 * MIB))
        raise ZeroDivisionError
    assert kept(store) == {}


def test_a_block_that_aborts_ends_without_an_error(store: Store) -> None:
    with store.put(KEY) as putting:
        putting.write(b"not wanted after all")
        putting.abort()
    assert kept(store) == {}


# Written once


def test_of_two_puts_of_one_key_the_first_that_is_complete_stays(store: Store) -> None:
    first, second = store.put(KEY), store.put(KEY)
    for _ in range(10):
        first.write(b"1" * MIB)
        second.write(b"2" * MIB)
    second.commit()
    with pytest.raises(Exists, match=KEY):
        first.commit()
    assert store.read(KEY, 0, 10 * MIB) == b"2" * 10 * MIB
    assert kept(store) == {KEY: 10 * MIB}


def test_of_many_puts_at_once_one_wins_whole(store: Store) -> None:
    def attempt(number: int) -> int | None:
        try:
            with store.put(KEY) as putting:
                putting.write(bytes([number]) * 100_000)
        except Exists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = (number for number in pool.map(attempt, range(8)) if number is not None)
    assert store.read(KEY, 0, 100_000) == bytes([winner]) * 100_000


def test_what_is_stored_is_not_put_again(store: Store) -> None:
    put(store, KEY, b"first")
    with pytest.raises(Exists, match=KEY):
        store.put(KEY)
    assert store.read(KEY, 0, 5) == b"first"


# Names


@pytest.mark.parametrize(
    "key",
    ["", "a", "../../etc/passwd", "/etc/passwd", "aaaa/bbbb", "..", "aaaa\0", "aaaa bbbb", "aaaa\n",
     ".aaaa", "aaaa.vmimg-part", "ääää", "aaaa%2fbbbb", "a" * 129],
)  # fmt: skip
def test_a_key_is_a_name_and_no_path(store: Store, key: str) -> None:
    for operation in (
        lambda: store.put(key),
        lambda: store.read(key, 0, 1),
        lambda: store.size(key),
        lambda: store.delete(key),
        lambda: store.open(key),
        lambda: store.location(key),
    ):
        with pytest.raises(ValueError, match="no key"):
            operation()


def test_a_location_names_the_store_and_the_key_and_no_secret(store: Store) -> None:
    put(store, KEY, b"bytes")
    location = store.location(KEY)
    parts = urlsplit(location)
    assert location.startswith(store.url)
    assert location.endswith(KEY)
    assert not parts.query and "@" not in location
    if parts.scheme == "file":
        assert Path(unquote(parts.path)).read_bytes() == b"bytes"
    else:
        assert re.fullmatch(rf"(s3|gs|az)://images/images/\d+/{KEY}|memory:///{KEY}", location)


# Read in place


@pytest.mark.peer("qemu-img")
def test_an_image_is_read_where_it_is_stored(store: Store, tmp_path: Path) -> None:
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(content(3 * MIB) + bytes(5 * MIB) + content(MIB, 7))
    peers.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
    put(store, KEY, image.read_bytes())
    with store.open(KEY) as storage:
        assert storage.size == image.stat().st_size
        assert not storage.writable
    with open_storage_disk(store.open(KEY)) as disk:
        assert disk.size == 9 * MIB
        assert disk.read(0, disk.size) == raw.read_bytes()


def test_a_stored_image_is_never_written(store: Store) -> None:
    put(store, KEY, b"unchanged")
    with store.open(KEY) as storage:
        for change in (
            lambda: storage.write(0, b"x"),
            lambda: storage.zero(0, 1),
            lambda: storage.resize(0),
        ):
            with pytest.raises(StorageError):
                change()
    assert store.read(KEY, 0, 9) == b"unchanged"


@pytest.mark.peer("qemu-img")
def test_an_image_does_not_reach_its_neighbours(store: Store, tmp_path: Path) -> None:
    """Its backing file is the image of somebody else, by the very name that it has there."""
    neighbour = KEY[:-1] + "2"
    put(store, neighbour, content(MIB))
    image, base = tmp_path / "overlay.qcow2", tmp_path / neighbour
    base.write_bytes(bytes(MIB))
    peers.run("qemu-img", "create", "-f", "qcow2", "-b", neighbour, "-F", "raw", image)
    peers.run("qemu-img", "rebase", "-u", "-b", neighbour, "-F", "raw", image)
    put(store, KEY, image.read_bytes())
    everywhere = ParentPolicy(allowed=(tmp_path, Path("/")))
    with pytest.raises(VmimgError, match="is not in the store mine"):
        open_storage_disk(store.open(KEY), policy=everywhere)


def test_small_reads_far_apart_come_out_right_in_many_threads(store: Store) -> None:
    data = content(6 * MIB + 123)
    put(store, KEY, data)

    def check(seed: int) -> int:
        chance = random.Random(seed)
        for _ in range(60):
            start = chance.randrange(len(data))
            length = min(chance.choice((1, 512, 4096, 300_000, MIB)), len(data) - start)
            assert storage.read(start, length) == data[start : start + length]
        return seed

    with store.open(KEY) as storage, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(check, range(8))) == list(range(8))
        with pytest.raises(StorageError, match="it ends at"):
            storage.read_into(len(data) - 1, memoryview(bytearray(2)))


class Counted(ObjectStore):
    """A store in memory that counts what is asked of it."""

    asked = 0
    longest = 0

    def _range(self, key: str, offset: int, length: int) -> memoryview:
        self.asked += 1
        self.longest = max(self.longest, length)
        return super()._range(key, offset, length)


@pytest.fixture
def counted() -> Counted:
    stores = pytest.importorskip("obstore.store")
    return Counted("mine", "memory", "", "", stores.MemoryStore)


def test_reading_a_header_bit_by_bit_is_one_request(counted: Counted) -> None:
    put(counted, KEY, content(MIB))
    with counted.open(KEY) as storage:
        for offset in range(0, 65536, 512):
            storage.read(offset, 512)
    assert counted.asked == 1


def test_reading_on_asks_for_more_at_a_time_and_keeps_little(counted: Counted) -> None:
    data = content(32 * MIB)
    put(counted, KEY, data)
    storage = RangedStorage(counted, KEY)
    digest = hashlib.sha256()
    for offset in range(0, len(data), 4096):
        digest.update(storage.read(offset, 4096))
    assert digest.digest() == hashlib.sha256(data).digest()
    assert counted.asked < 40
    assert counted.longest <= MIB
    assert sum(len(block) for block in storage._blocks.values()) <= 4 * MIB


def test_a_download_asks_for_several_of_its_pieces_at_a_time(counted: Counted) -> None:
    data = content(32 * MIB + 5)
    put(counted, KEY, data)
    with counted.open(KEY) as storage:
        pieces = [storage.read(at, min(MIB, len(data) - at)) for at in range(0, len(data), MIB)]
    assert b"".join(pieces) == data
    assert counted.asked <= 11
    assert counted.longest <= 4 * MIB


def test_large_pieces_here_and_there_are_fetched_as_they_are(counted: Counted) -> None:
    data = content(16 * MIB)
    put(counted, KEY, data)
    with counted.open(KEY) as storage:
        for at in (12, 3, 9, 0, 6):
            assert storage.read(at * MIB, MIB) == data[at * MIB : (at + 1) * MIB]
    assert (counted.asked, counted.longest) == (5, MIB)


def test_threads_that_share_a_download_do_not_fetch_it_again_each(counted: Counted) -> None:
    data = content(32 * MIB)
    put(counted, KEY, data)
    with counted.open(KEY) as storage, ThreadPoolExecutor(4) as pool:
        pieces = pool.map(lambda at: storage.read(at, MIB), range(0, len(data), MIB))
        assert b"".join(pieces) == data
    assert counted.asked <= 32


# Streams longer than parts allow


def test_a_stream_that_needs_too_many_parts_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.setattr("vmimg.service.stores.objects._PARTS", {"memory": 2})
    with pytest.raises(StorageError, match="part_size"), counted.put(KEY) as putting:
        for _ in range(17):
            putting.write(bytes(MIB))
    assert kept(counted) == {}


def test_a_stream_whose_length_is_told_gets_parts_that_are_large_enough(
    monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.setattr("vmimg.service.stores.objects._PARTS", {"memory": 2})
    with counted.put(KEY, 40 * MIB) as putting:
        for _ in range(40):
            putting.write(bytes(MIB))
    assert counted.size(KEY) == 40 * MIB


# Directories


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    made = FileStore("mine", tmp_path / "new" / "store")
    made.prepare()
    return made


def root(store: FileStore) -> Path:
    return Path(unquote(urlsplit(store.url).path))


def test_files_lie_two_levels_deep_for_nobody_else_to_read(files: FileStore) -> None:
    put(files, KEY, b"bytes")
    assert (root(files) / KEY[:2] / KEY[2:4] / KEY).read_bytes() == b"bytes"
    assert stat.S_IMODE(root(files).stat().st_mode) == 0o700


def test_a_reader_reads_on_what_is_deleted(files: FileStore) -> None:
    data = content(2 * MIB)
    put(files, KEY, data)
    with files.open(KEY) as storage:
        files.delete(KEY)
        assert storage.read(0, len(data)) == data
    with pytest.raises(NotFound):
        files.open(KEY)


def test_what_else_lies_in_the_directory_is_no_image(files: FileStore) -> None:
    put(files, KEY, b"bytes")
    folder = root(files) / KEY[:2] / KEY[2:4]
    (folder / "zzzz-in-the-wrong-place").write_bytes(b"x")
    (folder / f"{KEY[:4]}-with.dot").write_bytes(b"x")
    (folder / f"{KEY[:4]}-a-link").symlink_to("/etc/passwd")
    (folder / f"{KEY[:4]}-a-folder").mkdir()
    (root(files) / "lost+found").mkdir()
    assert kept(files) == {KEY: 5}
    with pytest.raises(StorageError):
        files.open(f"{KEY[:4]}-a-link")
    with pytest.raises(StorageError):
        files.open(f"{KEY[:4]}-a-folder")


def test_a_directory_whose_disk_is_not_mounted_takes_nothing(files: FileStore) -> None:
    os.rename(root(files), root(files).with_name("elsewhere"))
    with pytest.raises(StorageError) as raised:
        files.put(KEY)
    assert not isinstance(raised.value, NotFound)
    assert not root(files).exists()


def test_a_store_is_full_at_its_capacity(tmp_path: Path) -> None:
    store = FileStore("mine", tmp_path / "store", capacity=10 * MIB)
    store.prepare()
    put(store, KEY, bytes(6 * MIB))
    assert store.free() == 4 * MIB
    with pytest.raises(StoreFull, match="the store of 10 MiB is full"), store.put(OTHER) as putting:
        for _ in range(5):
            putting.write(bytes(MIB))
    assert kept(store) == {KEY: 6 * MIB}
    assert store.free() == 4 * MIB
    put(store, OTHER, bytes(4 * MIB))
    assert store.free() == 0
    store.delete(KEY)
    assert store.free() == 6 * MIB


def test_uploads_that_go_on_share_the_capacity(tmp_path: Path) -> None:
    store = FileStore("mine", tmp_path / "store", capacity=3 * MIB)
    store.prepare()
    with store.put(KEY) as first:
        first.write(bytes(2 * MIB))
        with pytest.raises(StoreFull), store.put(OTHER) as second:
            second.write(bytes(2 * MIB))
    assert kept(store) == {KEY: 2 * MIB}


def test_what_cannot_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    store = FileStore("mine", tmp_path / "store", capacity=10 * MIB)
    store.prepare()
    with pytest.raises(StoreFull):
        store.put(KEY, 11 * MIB)
    store.put(KEY, 10 * MIB).abort()
    with pytest.raises(StoreFull):
        FileStore("mine", tmp_path / "store").put(KEY, 1 << 60)


def test_what_another_process_deleted_is_room_again(tmp_path: Path) -> None:
    store = FileStore("mine", tmp_path / "store", capacity=3 * MIB)
    store.prepare()
    put(store, KEY, bytes(3 * MIB))
    FileStore("theirs", tmp_path / "store").delete(KEY)
    put(store, OTHER, bytes(3 * MIB))
    assert kept(store) == {OTHER: 3 * MIB}
