"""Writing in place into qcow2: what qemu-img makes of it, and what it costs the file."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
from model import Operation, Twins, operation_lists
from rounds import rounds, some
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, StorageError
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.allocation import WritableQcow2Layer
from vmimg.formats.qcow2.bitmaps import IN_USE, read_bitmaps
from vmimg.formats.qcow2.header import read_header
from vmimg.storage.base import Buffer
from vmimg.storage.file import FileStorage

pytestmark = pytest.mark.peer("qemu-img")

OPTIONS = (
    "compat=1.1",
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=1k,refcount_bits=2",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=4k,compression_type=zstd",
    "cluster_size=2M",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "lazy_refcounts=on",
    "preallocation=metadata",
    "data_file=DATA",
    "data_file=DATA,data_file_raw=on",
    "data_file=DATA,extended_l2=on,cluster_size=16k",
    "data_file=DATA,data_file_raw=on,extended_l2=on",
)

SIZES = (1 << 20, 1000960, 5 * 65536 + 1536)

OPERATIONS = operation_lists(
    [1, 100, 512, 4096, 5000, 65536, 200_000, 1 << 20],
    [1, 4096],
    most=25,
    others=("zero", "discard", "flush", "reopen", "snapshot"),
)


def create(image: Path, size: int, options: str = "compat=1.1", *more: str) -> None:
    options = options.replace("DATA", str(image.with_suffix(".data")))
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *more, image, str(size))


def check(image: Path) -> None:
    """Neither leaks nor corruptions."""
    peers.run("qemu-img", "check", "-f", "qcow2", image)


def content_by_qemu(image: Path, *more: str) -> bytes:
    raw = image.with_suffix(".out")
    peers.run("qemu-img", "convert", "-O", "raw", *more, image, raw)
    return raw.read_bytes()


def some_content(size: int, seed: int) -> bytearray:
    source = random.Random(seed)
    content = bytearray(size)
    for _ in range(5):
        start = source.randrange(size)
        length = min(size - start, source.choice([1, 512, 4096, 65536, 300_000]))
        content[start : start + length] = source.randbytes(length)
    return content


@pytest.mark.parametrize("options", OPTIONS)
@given(
    operations=OPERATIONS,
    origin=st.sampled_from(["empty", "compressed", "backing", "compressed backing"]),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=rounds(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_qemu_reads(
    options: str,
    operations: list[Operation],
    origin: str,
    size: int,
    seed: int,
) -> None:
    if "data_file_raw" in options or "preallocation" in options:
        origin = "empty"  # qemu-img allows nothing else
    if "data_file" in options and origin == "compressed":
        origin = "backing"
    # A refcount of one bit has no room for a snapshot, nor external data for QEMU's idea of them.
    snapshots_left = 0 if "data_file" in options or "refcount_bits=1" in options else 2
    if "refcount_bits=2" in options and origin == "compressed":
        snapshots_left = 0
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.qcow2")
        model = bytearray(size)
        if origin == "empty":
            create(image, size, options)
        else:
            model = some_content(size, seed)
            raw = Path(folder, "raw")
            # A backing file may be shorter than its overlay.
            length = size if origin == "compressed" else size * 3 // 4 // 512 * 512
            raw.write_bytes(model[:length])
            model[length:] = bytes(size - length)
            if origin == "compressed":
                convert = ("convert", "-O", "qcow2", "-c", "-o", options)
                peers.run("qemu-img", *convert, raw, image)
            else:
                base = Path(folder, "base.qcow2")
                compress = ("-c",) if origin == "compressed backing" else ()
                peers.run("qemu-img", "convert", "-O", "qcow2", *compress, raw, base)
                create(image, size, options, "-b", str(base), "-F", "qcow2")
        snapshots: dict[str, bytes] = {}
        twins = Twins(image, model)
        for operation in operations:
            if operation.what != "snapshot":
                twins.perform(operation)
            elif snapshots_left:
                with twins.closed():
                    name = f"snapshot{snapshots_left}"
                    peers.run("qemu-img", "snapshot", "-c", name, image)
                snapshots[name] = bytes(twins.content)
                snapshots_left -= 1
            start, length = operation.span(size)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        model = twins.content
        assert twins.disk.read(0, size) == model
        twins.disk.close()

        with open_disk(image) as disk:
            assert disk.read(0, size) == model
        check(image)
        assert content_by_qemu(image) == model
        for name, content in snapshots.items():
            assert content_by_qemu(image, "-l", name) == content
        if "data_file_raw" in options:
            data_file = image.with_suffix(".data").read_bytes()
            assert data_file[:size] == model
            assert not any(data_file[size:])


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    peers.run("qemu-img", "bitmap", "--add", image, "b0")
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.read(0, 1 << 20)
        disk.flush()
        disk.zero(0, 1 << 20)  # reads as zeros already
    assert image.read_bytes() == before


def test_zeroing_the_largest_empty_disk_takes_neither_time_nor_space(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 54, "cluster_size=2M")
    before = image.stat().st_blocks
    with open_disk(image, writable=True, policy=ParentPolicy(max_size=1 << 63)) as disk:
        disk.zero(0, disk.size)
        disk.write(1 << 53, b"x")
        disk.discard(0, disk.size)
        assert disk.read(1 << 53, 1) == b"\0"
    assert image.stat().st_blocks < before + 10_000


def test_a_compressed_cluster_that_is_written_becomes_plain(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image.qcow2"
    content = bytearray(b"compressible " * 65536)[: 4 * 65536]
    raw.write_bytes(content)
    peers.run("qemu-img", "convert", "-c", "-O", "qcow2", raw, image)
    with open_disk(image, writable=True) as disk:
        disk.write(65536 + 100, b"new")
        content[65536 + 100 : 65536 + 103] = b"new"
        extents = list(disk.map())
    assert [e.compressed for e in extents] == [True, False, True]
    assert (extents[1].start, extents[1].length) == (65536, 65536)
    check(image)
    assert content_by_qemu(image) == content


def test_what_a_snapshot_holds_is_not_overwritten(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"old" * 100_000)
    peers.run("qemu-img", "snapshot", "-c", "before", image)
    with open_disk(image, writable=True) as disk:
        disk.write(1000, b"new")
        disk.discard(65536, 65536)
        assert disk.read(998, 7) == b"donewld"
    with open_disk(image, snapshot="before") as disk:
        assert disk.read(0, 300_000) == b"old" * 100_000
    check(image)
    # With the snapshot gone, all that only it held is free again.
    peers.run("qemu-img", "snapshot", "-d", "before", image)
    check(image)


def test_zero_keeps_the_cluster_and_discard_gives_it_back(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x" * (1 << 19))
        place = next(iter(disk.map())).offset
        disk.flush()
        used = image.stat().st_blocks
        disk.zero(0, 1 << 18)
        first = next(iter(disk.map()))
        assert (first.kind, first.offset, first.length) == (Kind.ZERO, place, 1 << 18)
        disk.discard(0, 1 << 18)
        first = next(iter(disk.map()))
        assert (first.kind, first.offset, first.length) == (Kind.ZERO, None, 1 << 18)
        disk.flush()
        assert image.stat().st_blocks <= used - (1 << 18) // 512
    check(image)


def test_freed_clusters_are_used_again_but_not_before_a_flush(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 8 << 20)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x" * (1 << 20))
        disk.flush()
        old = next(iter(disk.map())).offset
        disk.discard(0, 1 << 20)
        disk.write(4 << 20, b"y" * (1 << 20))
        places = [e.offset for e in disk.map() if e.kind == Kind.DATA]
        assert old not in places  # a table on the medium still names it
        disk.flush()
        size = image.stat().st_size
        disk.write(2 << 20, b"z" * (1 << 20))
        assert old in [e.offset for e in disk.map() if e.kind == Kind.DATA]
        disk.flush()
        assert image.stat().st_size == size
    check(image)


@pytest.mark.parametrize("bits", [1, 16, 64])
def test_a_full_refcount_table_moves(tmp_path: Path, bits: int) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 64 << 20, f"cluster_size=512,refcount_bits={bits}")
    before = read_header(FileStorage(image)).refcount_table_offset
    content = random.Random(bits).randbytes(40 << 20)
    with open_disk(image, writable=True) as disk:
        for start in range(0, len(content), 3 << 20):
            disk.write(start, content[start : start + (3 << 20)])
            if start % 2:
                disk.flush()
        assert disk.read(0, len(content)) == content
    moved = read_header(FileStorage(image)).refcount_table_offset != before
    assert moved == (bits > 1)
    check(image)
    assert content_by_qemu(image)[: len(content)] == content


def test_a_file_that_no_refcount_table_can_count_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20, "cluster_size=512,refcount_bits=64")
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
        layer = disk.top
        assert isinstance(layer, WritableQcow2Layer)
        # As if everything below 32 GiB were in use.
        layer._allocator._table = np.zeros((8 << 20) // 8, np.uint64)
        layer._allocator._hint = (32 << 30) // 512
        with pytest.raises(StorageError, match="convert it to an image with a larger cluster_size"):
            disk.write(100_000, b"x")
        layer._broken = StorageError("the test is over")


def test_persistent_bitmaps_are_marked_out_of_date(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    for name in ("b0", "b1"):
        peers.run("qemu-img", "bitmap", "--add", image, name)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
    with FileStorage(image) as storage:
        assert [b.flags & IN_USE for b in read_bitmaps(storage, read_header(storage))] == [1, 1]
    check(image)
    details = peers.run_json("qemu-img", "info", "--output", "json", image)
    bitmaps = details["format-specific"]["data"]["bitmaps"]
    assert ["in-use" in bitmap["flags"] for bitmap in bitmaps] == [True, True]


def test_autoclear_features_that_are_not_kept_up_are_cleared(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    patch(image, s.Header.autoclear_features.offset, (1 << 40 | 1 << 7).to_bytes(8, "big"))
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
        with FileStorage(image, lock=False) as storage:
            assert read_header(storage).autoclear_features == 0  # before the flush, too


def test_images_that_are_not_whole_are_not_written(tmp_path: Path) -> None:
    for flag in (s.DIRTY, s.CORRUPT):
        image = tmp_path / "image.qcow2"
        create(image, 1 << 20)
        patch(image, s.Header.incompatible_features.offset, flag.to_bytes(8, "big"))
        with pytest.raises(FormatError, match="--repair all"):
            open_disk(image, writable=True)
        open_disk(image).close()


@pytest.mark.parametrize("victim", ["header", "refcount table", "refcount block", "l1 table"])
def test_a_damaged_table_does_not_lead_writes_into_the_metadata(
    tmp_path: Path, victim: str
) -> None:
    image = tmp_path / "image.qcow2"
    create(image, 1 << 20)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
    with FileStorage(image) as storage:
        header = read_header(storage)
        l2 = int.from_bytes(storage.read(header.l1_table_offset, 8), "big") & s.OFFSET_MASK
        target = {
            "header": 0,
            "refcount table": header.refcount_table_offset,
            "refcount block": int.from_bytes(storage.read(header.refcount_table_offset, 8), "big"),
            "l1 table": header.l1_table_offset,
        }[victim]
    patch(image, l2, (target | s.COPIED).to_bytes(8, "big"))
    before = image.read_bytes()
    if target:
        with open_disk(image, writable=True) as disk, pytest.raises(FormatError, match="damaged"):
            disk.write(0, b"overwritten")
    # And the other way: counts that call the metadata free.
    with FileStorage(image) as storage:
        block = int.from_bytes(storage.read(header.refcount_table_offset, 8), "big")
    patch(image, block + target // header.cluster_size * 2, b"\0\0")
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk, pytest.raises(FormatError, match="damaged"):
        disk.write(500_000, b"y")
    assert image.read_bytes() == before


class FailingStorage(FileStorage):
    """Fails from the n-th changing operation on, as often as told."""

    left = 1 << 60
    failures = 0

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0 and self.failures:
            self.failures -= 1
            raise StorageError("no space left on device")

    def write(self, offset: int, data: Buffer) -> None:
        self._count()
        super().write(offset, data)

    def write_all(self, offset: int, pieces: list[Buffer]) -> None:
        self._count()
        super().write_all(offset, pieces)

    def zero(self, offset: int, length: int) -> None:
        self._count()
        super().zero(offset, length)

    def discard(self, offset: int, length: int) -> None:
        self._count()
        super().discard(offset, length)

    def flush(self) -> None:
        # Not durable here: there is no power to fail, and it would take its time.
        self._count()


@contextmanager
def failing(image: Path, after: int, failures: int) -> Iterator[tuple[Disk, FailingStorage]]:
    storage = FailingStorage(image, "rw")
    disk = Disk([WritableQcow2Layer(storage, read_header(storage))])
    storage.left, storage.failures = after, failures
    try:
        yield disk, storage
    finally:
        try:
            disk.close()
        except StorageError:
            pass


@pytest.mark.parametrize("options", ["cluster_size=512,refcount_bits=64", "cluster_size=4k"])
@pytest.mark.parametrize("failures", [1, 1 << 60])
def test_a_failing_write_at_any_point_leaves_a_consistent_image(
    tmp_path: Path, options: str, failures: int
) -> None:
    size = 3 << 20
    origin, image = tmp_path / "origin.qcow2", tmp_path / "image.qcow2"
    start = random.Random(1).randbytes(size // 2) + bytes(size - size // 2)
    (tmp_path / "raw").write_bytes(start)
    peers.run("qemu-img", "convert", "-O", "qcow2", "-c", "-o", options, tmp_path / "raw", origin)
    peers.run("qemu-img", "snapshot", "-c", "s", origin)
    failed = 0
    for after in some([*range(12), *range(12, 80, 5), 10_000]):
        image.write_bytes(origin.read_bytes())
        source = random.Random(after)
        model = np.frombuffer(start, np.uint8).copy()
        unsure = np.zeros(size, np.bool_)  # an operation that failed may have been done in part
        since_flush: list[tuple[int, int]] = []
        broken = False
        with failing(image, after, failures) as (disk, storage):
            for _ in range(40):
                first = source.randrange(size)
                length = min(size - first, source.choice([10, 4096, 100_000, 400_000]))
                data = source.randbytes(length)
                operation = source.choice(["write", "write", "discard", "flush"])
                try:
                    if operation == "flush":
                        disk.flush()
                        since_flush.clear()
                        continue
                    since_flush.append((first, length))
                    if operation == "write":
                        disk.write(first, data)
                    else:
                        data = bytes(length)
                        disk.discard(first, length)
                    unsure[first : first + length] = False
                except StorageError as error:
                    failed += 1
                    broken |= "open it again" in str(error)
                    if operation != "flush":
                        unsure[first : first + length] = True
                if operation != "flush" and not unsure[first]:
                    model[first : first + length] = np.frombuffer(data, np.uint8)
            broken |= failures > 1 and bool(failed)
            storage.left = 1 << 60 if failures == 1 else 0
        peers.run("qemu-img", "check", image, ok=(0, 3))
        with open_disk(image) as disk:
            content = np.frombuffer(disk.read(0, size), np.uint8)
        if broken:
            for first, length in since_flush:
                unsure[first : first + length] = True
        assert (content == model)[~unsure].all()
        with open_disk(image, snapshot="s") as disk:
            assert disk.read(0, size) == start
    assert failed


def patch(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)
