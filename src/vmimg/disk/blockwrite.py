"""WritableBlockLayer: writing in place into a disk of blocks, for every format that is one.

What is the same everywhere is here: which blocks can be overwritten where they are, which need a
new place, what a new block must carry over from the old one (compressed, shared with a snapshot, or
only partly there), how runs of blocks become few large writes, how a range is made to read as
zeros. A format answers small hooks: `allocate`, `cancel`, `assign`, `commit`. Nothing runs once per
block in Python.

The order is: data is written to places that no table names; then `assign` changes the tables in
memory; `commit` brings them to the file in an order that is safe for the format. So a reader in
another thread, and a crash, see the old block or the new one.

Imports the block machine and storage.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED, BlockLayer, Blocks
from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Kind
from vmimg.disk.runs import runs
from vmimg.errors import FormatError, LockedImage, StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.units import align_down, align_up

__all__ = ["Update", "WritableBlockLayer"]

# Units looked at in one step. Bounds the arrays of a long zero() and what one step makes dirty.
_WINDOW_UNITS: Final = 1 << 16
# Data is copied and encrypted in pieces of this size: a multiple of every granularity.
_CRYPT_BYTES: Final = 1 << 20

_ABSENT, _ZERO, _DATA = int(Kind.ABSENT), int(Kind.ZERO), int(Kind.DATA)

# (virtual start, virtual end, bytes); None stands for zeros.
_Piece = tuple[int, int, memoryview | None]


@dataclass(frozen=True, slots=True)
class Update:
    """What the tables are to say of ``m`` blocks from now on.

    ``blocks``: int64[m], their numbers, ascending. ``before``: what `lookup` said of them.
    ``places``: int64[m], offsets in ``data``, -1 for none. ``kinds``: uint8[m, units of a block], a
    Kind each; DATA only where there is a place. A place that is in ``before`` and not in ``places``
    is no longer needed (a compressed block's never is); ``discard`` says that its space should go
    back to the system.
    """

    blocks: NDArray[np.int64]
    before: Blocks
    places: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    discard: bool


class WritableBlockLayer(BlockLayer):
    """A layer of equal blocks that can be written in place.

    Writes are serialised. Readers in other threads never see a table half changed, nor a place that
    was given to another block since they looked.
    """

    zero_state: bool = True
    """The tables can say ZERO of a unit. Otherwise zeros are written, or the block is dropped where
    there is no parent."""
    zero_through: bool = False
    """What becomes ZERO must also be zeros at its place: others read the data without the
    tables.
    """
    whole_blocks: bool = True
    """A new last block is padded behind the end of the disk, so that the file ends with whole
    units.
    """

    def __init__(self) -> None:
        super().__init__()
        self._gate = _Gate()
        self._broken: BaseException | None = None
        self._ended = False

    # What a format answers; all are called with the write lock held

    @abstractmethod
    def begin(self) -> None:
        """Called before each step of a change: the place for what must precede the first write.

        May commit, to keep the memory for dirty tables bounded.
        """

    @abstractmethod
    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places (int64[n], offsets in ``data``) for new data of ``blocks``, not yet referred
        to.
        """

    @abstractmethod
    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Take back what `allocate` gave: writing failed and nothing refers to it. Must not
        raise.
        """

    @abstractmethod
    def assign(self, update: Update) -> None:
        """Make the tables in memory say so: all of it, or raise and change nothing.

        No reader looks at the tables while it runs.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make everything so far durable, in an order that leaves the file consistent at every
        point.
        """

    def conclude(self) -> None:
        """Called once, when the layer is closed and all is committed: mark the image clean."""

    @property
    def files(self) -> tuple[Storage, ...]:
        """What must be durable for what was written to be so."""
        return (self.data,)

    def own_places(self, blocks: Blocks) -> NDArray[np.int64]:
        """Where each block may be overwritten (int64[n], a new array), -1 where it needs a new
        place.
        """
        own = (blocks.offsets >= 0) & (blocks.kinds != COMPRESSED)
        if blocks.shared is not None:
            own &= ~blocks.shared
        return np.where(own, blocks.offsets, np.int64(-1))

    # Layer

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        with self._gate.shared():
            return super().read_present(offset, buffer)

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        with self._changing(offset, len(view)):
            for start, end in self._steps(offset, offset + len(view)):
                self.begin()
                self._store(start, end, view[start - offset : end - offset])

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        end, unit = offset + length, self.unit_size
        with self._changing(offset, length):
            # The last unit counts as whole when it is zeroed up to the end of the disk.
            head = align_up(offset, unit)
            tail = end if end == self.size else align_down(end, unit)
            if head > tail:
                self._zero_part(offset, end)
                return
            self._zero_part(offset, head)
            self._zero_units(head, tail, discard)
            self._zero_part(tail, end)

    def flush(self) -> None:
        if not self.writable:
            return
        with self._changing(0, 0):
            self.commit()

    def _units(self, first: int, count: int) -> Blocks:
        with self._gate.shared():
            return super()._units(first, count)

    # Writing

    def _store(self, start: int, end: int, source: memoryview | None) -> None:
        """Put ``source`` (zeros if None) at [start, end), a step's worth."""
        if self.cipher is not None:
            self.cipher.require_key()  # before anything is allocated
        size, unit = self.block_size, self.unit_size
        first = start // size
        before, kinds = self._look(first, -(-end // size) - first)
        base, count = first * size, len(kinds)
        places = self.own_places(before)
        fresh = places < 0
        if not fresh.any() and (kinds == _DATA).all():
            low, high = align_down(start, self._grain), align_up(end, self._grain)
            self._put_at(places, base, low, high, self._widened(low, start, end, high, source))
            return
        after = kinds.copy()
        after[after == COMPRESSED] = _DATA  # a compressed block is carried over whole
        after.reshape(-1)[(start - base) // unit : -(-(end - base) // unit)] = _DATA

        low = self._reach_down(start, bool(fresh[0]), before.kinds[0], kinds[0])
        high = self._reach_up(end, bool(fresh[-1]), before.kinds[-1], kinds[-1])
        pieces = self._widened(low, start, end, high, source)

        numbers = np.arange(first, first + count, dtype=np.int64)
        new = bool(fresh.any())
        if new:
            places[fresh] = self.allocate(numbers[fresh])
        try:
            self._put_at(places, base, low, high, pieces)
            changed = fresh | (after != kinds).any(axis=1)
            if changed.any():
                self._assign(numbers, before, places, after, changed, discard=False)
        except (StorageError, FormatError):
            if new:
                self.cancel(numbers[fresh], places[fresh])
            raise

    @property
    def _grain(self) -> int:
        """What is written begins and ends on multiples of this."""
        return 1 if self.cipher is None else self.cipher.granularity

    def _widened(
        self, low: int, start: int, end: int, high: int, source: memoryview | None
    ) -> list[_Piece]:
        """``source``, and in front of it and behind it what [low, high) holds already."""
        pieces: list[_Piece] = [(start, end, source)]
        if low < start:
            pieces.insert(0, (low, start, self._carry(low, start)))
        if high > end:
            pieces.append((end, high, self._carry(end, high)))
        return pieces

    def _reach_down(self, start: int, fresh: bool, kind: int, units: NDArray[np.uint8]) -> int:
        """From where the first block must be written, so that all of it is right."""
        block = align_down(start, self.block_size)
        low = align_down(start, self.unit_size)
        unit = units[(start - block) // self.unit_size]
        if low < start:
            self._refuse_cut(low, unit)
        if fresh and kind >= _DATA:
            return block  # there is something to carry over
        return align_down(start, self._grain) if unit == _DATA else low

    def _reach_up(self, end: int, fresh: bool, kind: int, units: NDArray[np.uint8]) -> int:
        """Up to where the last block must be written; what is behind the disk's end is padding."""
        block = align_down(end - 1, self.block_size)
        high = align_up(end, self.unit_size)
        unit = units[(end - 1 - block) // self.unit_size]
        if end < min(high, self.size):
            self._refuse_cut(high - self.unit_size, unit)
        if fresh and kind >= _DATA:
            high = block + self.block_size
        elif unit == _DATA:
            return align_up(end, self._grain)
        if fresh and self.whole_blocks:
            return high
        return align_up(max(end, min(high, self.size)), self._grain)

    def _refuse_cut(self, start: int, kind: int) -> None:
        if kind == _ABSENT and self.is_child:
            raise ValueError(
                f"the unit at {start} is absent above a parent: it must be supplied whole"
            )

    def _carry(self, start: int, end: int) -> memoryview:
        """What [start, end) reads as in this layer, zeros where it is absent or behind the end."""
        buffer = bytearray(end - start)
        view = memoryview(buffer)
        inside = max(0, min(end, self.size) - start)
        if inside:
            for low, high in super().read_present(start, view[:inside]):
                view[low - start : high - start] = bytes(high - low)
        return view

    def _put_at(
        self, places: NDArray[np.int64], base: int, low: int, high: int, pieces: list[_Piece]
    ) -> None:
        """Write [low, high), which ``pieces`` make up, to the places of the blocks at ``base``."""
        size = self.block_size
        for index, stop in runs(places, size):
            run_start = base + index * size
            start, end = max(low, run_start), min(high, base + stop * size)
            self._put(int(places[index]) + start - run_start, start, end, pieces)

    def _put(self, offset: int, start: int, end: int, pieces: list[_Piece]) -> None:
        """Write the parts of ``pieces`` in [start, end) to ``data`` from ``offset``."""
        if self.cipher is not None:
            self._put_encrypted(self.cipher, offset, start, end, pieces)
            return
        written: list[Buffer] = []
        position = offset
        for piece_start, piece_end, content in pieces:
            low, high = max(start, piece_start), min(end, piece_end)
            if low >= high:
                continue
            if content is not None:
                written.append(content[low - piece_start : high - piece_start])
                continue
            self._put_all(position, written)
            position += sum(map(len, written))
            written = []
            self.data.zero(position, high - low)
            position += high - low
        self._put_all(position, written)

    def _put_encrypted(
        self, cipher: DataCipher, offset: int, start: int, end: int, pieces: list[_Piece]
    ) -> None:
        """The same, encrypted on the way: in a copy, for the data is the caller's."""
        for low in range(start, end, _CRYPT_BYTES):
            high = min(end, low + _CRYPT_BYTES)
            buffer = memoryview(bytearray(high - low))
            for piece_start, piece_end, content in pieces:
                first, last = max(low, piece_start), min(high, piece_end)
                if first < last and content is not None:
                    buffer[first - low : last - low] = content[
                        first - piece_start : last - piece_start
                    ]
            cipher.encrypt(offset + low - start, low, buffer)
            self.data.write(offset + low - start, buffer)

    def _put_all(self, offset: int, written: list[Buffer]) -> None:
        if len(written) == 1:
            self.data.write(offset, written[0])
        elif written:
            self.data.write_all(offset, written)

    # Zeroing

    def _zero_part(self, start: int, end: int) -> None:
        """Zero a part of one unit."""
        if start == end:
            return
        first = start // self.block_size
        _, kinds = self._look(first, 1)
        kind = kinds[0, (start - first * self.block_size) // self.unit_size]
        if kind == _ZERO or (kind == _ABSENT and not self.is_child):
            return
        self.begin()
        self._store(start, end, None)

    def _zero_units(self, start: int, end: int, discard: bool) -> None:
        """Zero whole units, as many as one likes."""
        while start < end:
            first = start // self.block_size
            if not self.is_child:
                present = self.skip_absent(first)
                if present > first:
                    start = present * self.block_size
                    continue
            start, stop = next(self._steps(start, end))
            self.begin()
            if self.zero_state:
                self._mark_zero(start, stop, discard)
            else:
                self._write_zero(start, stop, discard)
            start = stop

    def _mark_zero(self, start: int, end: int, discard: bool) -> None:
        """Zero a step's worth of whole units through the tables."""
        size, unit = self.block_size, self.unit_size
        first = start // size
        before, kinds = self._look(first, -(-end // size) - first)
        base = first * size
        covered = slice((start - base) // unit, -(-(end - base) // unit))
        after = kinds.copy()
        flat = after.reshape(-1)[covered]
        if not self.is_child:
            flat[flat != _ABSENT] = _ZERO
        else:
            flat[:] = _ZERO
        # A compressed block has no units: one that is cut by the range is rewritten.
        cut = ((after == COMPRESSED).any(axis=1) & (after == _ZERO).any(axis=1)).nonzero()[0]
        after[cut] = kinds[cut]

        unused = np.all(after < _DATA, axis=1)
        if not discard:
            unused &= self.own_places(before) < 0
        places = before.offsets.copy()
        places[unused] = -1
        if self.zero_through:
            self._zero_places(before, kinds, covered)
        changed = (after != kinds).any(axis=1) | (places != before.offsets)
        if changed.any():
            numbers = np.arange(first, first + len(kinds), dtype=np.int64)
            self._assign(numbers, before, places, after, changed, discard=discard)
        for row in cut.tolist():
            block = base + row * size
            self._store(max(start, block), min(end, block + size), None)

    def _zero_places(self, before: Blocks, kinds: NDArray[np.uint8], covered: slice) -> None:
        """Write zeros over the data in the covered units."""
        unit = self.unit_size
        steps = np.arange(kinds.shape[1], dtype=np.int64) * unit
        places = (before.offsets[:, None] + steps).reshape(-1)[covered]
        places = places[kinds.reshape(-1)[covered] == _DATA]
        for index, stop in runs(places, unit):
            place = int(places[index])
            self.data.zero(place, min((stop - index) * unit, max(0, self.data.size - place)))

    def _write_zero(self, start: int, end: int, discard: bool) -> None:
        """Zero a step's worth of whole units where the tables cannot say ZERO."""
        if self.is_child:
            self._store(start, end, None)
            return
        size, unit = self.block_size, self.unit_size
        first = start // size
        before, kinds = self._look(first, -(-end // size) - first)
        base, count = first * size, len(kinds)
        present = kinds >= _DATA
        # Without a parent an absent block reads as zeros. One that cannot be overwritten where it
        # is would only be replaced by a new block of zeros.
        drop = np.any(present, axis=1)
        if not discard:
            drop &= self.own_places(before) < 0
        drop[0] &= start == base
        drop[-1] &= end == self.size or end == base + count * size
        if drop.any():
            numbers = np.arange(first, first + count, dtype=np.int64)
            nowhere = np.full(count, -1, np.int64)
            self._assign(numbers, before, nowhere, np.zeros_like(kinds), drop, discard=discard)
        rest = (present & ~drop[:, None]).reshape(-1)
        rest[: (start - base) // unit] = False
        rest[-(-(end - base) // unit) :] = False
        for index, stop in _true_runs(rest):
            self._store(base + index * unit, min(end, base + stop * unit), None)

    # Helpers

    def _look(self, first: int, count: int) -> tuple[Blocks, NDArray[np.uint8]]:
        """The state of blocks, and the kinds of their units: uint8[count, units of a block]."""
        blocks = self.lookup(first, count)
        if self.unit_size == self.block_size:
            return blocks, blocks.kinds.reshape(count, 1)
        return blocks, self.refine(first, blocks).kinds.reshape(count, -1)

    def _assign(
        self,
        numbers: NDArray[np.int64],
        before: Blocks,
        places: NDArray[np.int64],
        kinds: NDArray[np.uint8],
        changed: NDArray[np.bool_],
        *,
        discard: bool,
    ) -> None:
        old = before
        if not changed.all():
            numbers, places, kinds = numbers[changed], places[changed], kinds[changed]
            old = Blocks(
                before.kinds[changed],
                before.offsets[changed],
                None if before.lengths is None else before.lengths[changed],
                None if before.shared is None else before.shared[changed],
                None if before.detail is None else before.detail[changed],
            )
        with self._gate.exclusive():
            self.assign(Update(numbers, old, places, kinds, discard))

    def _steps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Pieces of a range that end on block boundaries and are small enough to be one step."""
        size = self.block_size
        window = max(1, _WINDOW_UNITS * self.unit_size // size)
        while start < end:
            stop = min(end, (start // size + window) * size)
            yield start, stop
            start = stop

    def _barrier(self) -> None:
        """All that was written so far is durable before anything that comes."""
        try:
            for file in self.files:
                file.flush()
        except BaseException as error:
            # After a failed fsync the kernel has forgotten which pages were not written: a second
            # one would succeed without them. So nothing may ever point to what they held.
            self._broken = error
            raise

    def _leave(self, release: Callable[[], None]) -> None:
        """What `close` does: bring everything to the file, say that it is clean, ``release`` it."""
        with self._write_lock:
            try:
                if self._broken is None and not self._ended:
                    self.commit()
                    self.conclude()
            finally:
                # Whatever went wrong was told; a second close must not try again on closed files.
                self._ended = True
                release()

    @contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        """One change at a time, inside the disk, and none after one that was cut short."""
        if not self.writable:
            raise StorageError(f"{self.name}: it is open for reading only")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: {length} bytes at {offset} are not inside the disk, "
                f"which has {self.size}"
            )
        with self._write_lock:
            if self._broken is not None:
                raise StorageError(
                    f"{self.name}: nothing more can be written and what was written since the last "
                    f"flush may be lost; open it again. The cause: {self._broken!r}"
                )
            try:
                yield
            except (StorageError, FormatError, LockedImage, ValueError):
                raise  # the hooks promise that their own failures change nothing
            except BaseException as error:
                # An interrupt may hit anywhere, between two halves of a change too: what is in
                # memory is not to reach the file any more.
                self._broken = error
                raise


class _Gate:
    """Many readers, or one writer; a waiting writer lets no new reader in. Neither may nest."""

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._readers = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._turn:
            while self._closed:
                self._turn.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                if not self._readers:
                    self._turn.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._turn:
            while self._closed:
                self._turn.wait()
            self._closed = True
            while self._readers:
                self._turn.wait()
        try:
            yield
        finally:
            with self._turn:
                self._closed = False
                self._turn.notify_all()


def _true_runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of runs of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)
