"""The machine that writes into disks of blocks, over a format that exists only here."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED, Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.disk.layer import ParentRef
from vmimg.disk.stack import Disk
from vmimg.errors import StorageError
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage

BLOCK = 4096


class CountingStorage(MemoryStorage):
    """Says how often it was written, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.fail = False

    def write(self, offset: int, data: Buffer) -> None:
        self.writes += 1
        if self.fail:
            raise StorageError("no space left")
        super().write(offset, data)


class ToyLayer(WritableBlockLayer):
    """A table in memory; freed blocks are filled with junk and reused at once, to be found out."""

    format = "toy"
    writable = True

    def __init__(self, size: int, *, unit: int = BLOCK, zeros: bool = True, parent: bool = False):
        super().__init__()
        self.name = "toy"
        self.size = size
        self.block_size, self.unit_size, self.granularity = BLOCK, unit, unit
        self.zero_state = zeros
        self.parent = ParentRef("below", "toy") if parent else None
        self.data = self.storage = CountingStorage()
        count, units = -(-size // BLOCK), BLOCK // unit
        self.places = np.full(count, -1, np.int64)
        self.kinds = np.zeros((count, units), np.uint8)
        self.shared = np.zeros(count, np.bool_)
        self.compressed: dict[int, bytes] = {}
        self.free: list[int] = []
        self.commits = 0
        self.referenced_twice = False

    def lookup(self, first: int, count: int) -> Blocks:
        part = slice(first, first + count)
        kinds = self.kinds[part].max(axis=1)
        places = self.places[part].copy()
        lengths = None
        if self.compressed:
            lengths = np.zeros(count, np.int64)
            for number in self.compressed.keys() & set(range(first, first + count)):
                kinds[number - first] = COMPRESSED
                places[number - first] = number
                lengths[number - first] = 1
        return Blocks(kinds, places, lengths, self.shared[part].copy())

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        kinds = self.kinds[first : first + len(blocks.kinds)].copy()
        kinds[blocks.kinds == COMPRESSED] = COMPRESSED
        steps = np.arange(kinds.shape[1]) * self.unit_size
        places = np.where(kinds == Kind.DATA, blocks.offsets[:, None] + steps, -1)
        return Blocks(kinds.reshape(-1), places.reshape(-1))

    def compress(self, number: int, content: bytes) -> None:
        """Make a block a compressed one: its number stands for its data."""
        self.compressed[number] = content
        self.kinds[number] = Kind.DATA

    def _fetch(self, low: int, high: int) -> memoryview:
        return memoryview(bytes(range(low, high)))

    def decode(self, data: memoryview) -> Buffer:
        return self.compressed[data[0]]

    def begin(self) -> None:
        pass

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        places = sorted(self.free.pop() for _ in range(min(len(self.free), len(blocks))))
        end = -(-self.storage.size // BLOCK) * BLOCK
        places += [end + i * BLOCK for i in range(len(blocks) - len(places))]
        return np.array(places, np.int64)

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self.free += places[places < self.storage.size].tolist()

    def assign(self, update: Update) -> None:
        for row, block in enumerate(update.blocks.tolist()):
            if self.compressed.pop(block, None) is None:
                assert self.places[block] == update.before.offsets[row]
                old = int(self.places[block])
                if old >= 0 and old != update.places[row] and not self.shared[block]:
                    MemoryStorage.write(self.storage, old, b"\xee" * BLOCK)
                    self.free.append(old)
            self.shared[block] &= self.places[block] == update.places[row]
            self.places[block] = update.places[row]
            self.kinds[block] = update.kinds[row]
        assert not ((update.kinds == Kind.DATA).any(axis=1) & (update.places < 0)).any()
        assert not (update.kinds == COMPRESSED).any()
        assert self.zero_state or not (update.kinds == Kind.ZERO).any()

    def commit(self) -> None:
        self.commits += 1

    def close(self) -> None:
        self.flush()


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "zero", "discard", "share"]),
        st.integers(0, 10 * BLOCK - 1),
        st.sampled_from([1, 100, 512, 1000, BLOCK, BLOCK + 512, 3 * BLOCK, 9 * BLOCK]),
        st.integers(1, 255),
        st.booleans(),
    ),
    max_size=30,
)


@pytest.mark.parametrize("unit", [BLOCK, 512])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("parent", [True, False])
@given(operations=OPERATIONS, tail=st.sampled_from([0, 512, 1536]))
@settings(max_examples=60, deadline=None)
def test_a_disk_reads_what_was_written(
    unit: int,
    zeros: bool,
    parent: bool,
    operations: list[tuple[str, int, int, int, bool]],
    tail: int,
) -> None:
    size = 10 * BLOCK + tail
    top = ToyLayer(size, unit=unit, zeros=zeros, parent=parent)
    below = ToyLayer(size - BLOCK) if parent else None
    model = bytearray(size)
    if below is not None:
        for start in range(0, below.size, 3 * BLOCK):
            length = min(2 * BLOCK + 700, below.size - start)
            below.write(start, b"p" * length)
            model[start : start + length] = b"p" * length
    for number in (1, 2, 7):
        content = bytes([number]) * BLOCK
        top.compress(number, content)
        model[number * BLOCK : (number + 1) * BLOCK] = content
    disk = Disk([top] if below is None else [top, below])
    for operation, start, length, value, aligned in operations:
        if aligned:
            start, length = start // 512 * 512, -(-length // 512) * 512
        length = min(length, size - start)
        if operation == "write":
            data = bytes(value + i & 255 for i in range(length))
            disk.write(start, data)
            model[start : start + length] = data
        elif operation == "share":
            top.shared[:] = top.places >= 0
        else:
            (disk.zero if operation == "zero" else disk.discard)(start, length)
            model[start : start + length] = bytes(length)
        assert disk.read(0, size) == model
    used = top.places[top.places >= 0].tolist()
    assert len(used) == len(set(used))
    assert not set(used) & set(top.free)


def test_a_long_write_into_new_blocks_is_one_write_of_the_file() -> None:
    layer = ToyLayer(1 << 20)
    layer.write(100, bytes(1 << 19))
    assert layer.storage.writes == 1 + 2  # write_all of memory: head, body, tail


def test_an_aligned_write_is_passed_on_as_it_is() -> None:
    layer = ToyLayer(1 << 20)
    layer.write(BLOCK, b"x" * (1 << 19))
    assert layer.storage.writes == 1


def test_a_unit_above_a_parent_must_be_supplied_whole() -> None:
    layer = ToyLayer(1 << 20, parent=True)
    with pytest.raises(ValueError, match="must be supplied whole"):
        layer.write(100, b"x")
    layer.write(BLOCK, b"x" * BLOCK)
    layer.write(BLOCK + 100, b"y")  # there now


def test_blocks_of_a_failed_write_are_given_back() -> None:
    layer = ToyLayer(1 << 20)
    layer.write(0, b"x" * BLOCK)
    layer.storage.fail = True
    with pytest.raises(StorageError):
        layer.write(0, b"y" * (3 * BLOCK))
    assert (layer.places[1:] == -1).all()
    layer.storage.fail = False
    layer.write(BLOCK, b"z" * BLOCK)
    assert layer.storage.size == 2 * BLOCK


def test_after_an_interrupt_in_the_middle_of_a_change_nothing_more_is_committed() -> None:
    layer = ToyLayer(1 << 20)

    def interrupted(update: Update) -> None:
        raise KeyboardInterrupt

    layer.assign = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        layer.write(0, b"x" * BLOCK)
    with pytest.raises(StorageError, match="open it again"):
        layer.flush()
    with pytest.raises(StorageError, match="open it again"):
        layer.write(0, b"x")
    assert layer.commits == 0


def test_what_is_outside_the_disk_is_refused() -> None:
    layer = ToyLayer(BLOCK)
    with pytest.raises(StorageError, match="not inside the disk"):
        layer.write(BLOCK - 1, b"xx")
    with pytest.raises(StorageError, match="not inside the disk"):
        layer.zero(0, BLOCK + 1)
    layer.writable = False
    with pytest.raises(StorageError, match="reading only"):
        layer.write(0, b"x")


@pytest.mark.parametrize("unit", [BLOCK, 512])
def test_readers_never_see_a_block_that_went_to_somebody_else(unit: int) -> None:
    # The toy reuses freed blocks at once: a reader that looked up a place and reads it after it was
    # given away would see another block's bytes.
    blocks = 8
    layer = ToyLayer(blocks * BLOCK, unit=unit)
    for number in range(blocks):
        layer.write(number * BLOCK, bytes([number + 1]) * BLOCK)
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        buffer = bytearray(blocks * BLOCK)
        while not stop.is_set():
            for start, end in layer.read_present(0, memoryview(buffer)):
                buffer[start:end] = bytes(end - start)
            for number in range(blocks):
                seen = set(buffer[number * BLOCK : (number + 1) * BLOCK])
                if not seen <= {0, number + 1}:
                    wrong.append(f"block {number}: {seen}")
                    return
            list(layer.map(0, layer.size))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(400):
        number = turn * 5 % blocks
        layer.zero(number * BLOCK, BLOCK, discard=True)
        layer.write(number * BLOCK, bytes([number + 1]) * BLOCK)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_two_threads_copying_up_one_block_keep_both_changes() -> None:
    size, threads = 64 * BLOCK, 4
    below = ToyLayer(size)
    below.write(0, b"p" * size)
    disk = Disk([ToyLayer(size, parent=True), below])

    def write(part: int) -> None:
        for start in range(part * 100, size, BLOCK):
            disk.write(start, bytes([part]) * 100)

    writers = [threading.Thread(target=write, args=(part,)) for part in range(threads)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    block = b"".join(bytes([part]) * 100 for part in range(threads))
    assert disk.read(0, size) == block.ljust(BLOCK, b"p") * 64
