"""WritableQcow2Layer: writing in place into a qcow2 image.

The order of writes. Guest data goes to the file at once, to clusters that no table names or that
belong to the same guest blocks already. Refcounts, L2 tables and the L1 table change in memory.
`commit`:

1. writes new L2 tables, raised refcounts and new refcount blocks: nothing in the file points to
   them. Barrier (data file and image are flushed): now all that the tables are going to name is
   durable.
2. writes the refcount table (rarely; then a barrier): now all that is going to be named is counted.
3. writes L2 tables in place and L1 entries: each entry, old or new, is right by itself, in any
   order. Barrier: now the guest's writes are durable.
4. lowers the refcounts of clusters that step 3 unlinked. Only from here on may they be given out
   again, so no cluster is overwritten that a durable table names for something else.

Killed or cut off anywhere, the file has counts that are right or too high: leaks at worst. When
memory for dirty tables runs out, the same commit is made before the next change.

Spec: QEMU docs/interop/qcow2. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED, Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.crypt import DataCipher
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, StorageError
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.bitmaps import IN_USE, read_bitmaps
from vmimg.formats.qcow2.clusters import Clusters
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.formats.qcow2.layer import Entries, Qcow2Layer
from vmimg.storage.base import Storage

__all__ = ["WritableQcow2Layer"]

# What may wait in memory before a commit is made: bytes of L2 tables, references to drop.
_DIRTY_BYTES: Final = 16 << 20
_DROPPED: Final = 1 << 20

_OFFSET = np.uint64(s.OFFSET_MASK)
_COPIED = np.uint64(s.COPIED)
_ZERO_FLAG = np.uint64(s.ZERO_FLAG)
_SUBCLUSTER_BITS = np.uint64(1) << np.arange(s.SUBCLUSTERS, dtype=np.uint64)


@dataclass(slots=True)
class _Table:
    """An L2 table that the file does not have as it is. ``fresh``: no L1 entry in the file names it
    yet, so it is written whole; otherwise the rows [low, high).
    """

    offset: int
    entries: Entries
    fresh: bool
    low: int
    high: int


class WritableQcow2Layer(Qcow2Layer, WritableBlockLayer):
    """The active state of one qcow2 file, open for writing; nothing is written before the first
    change.

    Refuses images that are marked as corrupt or dirty: their refcounts cannot be relied on.
    """

    def __init__(
        self,
        storage: Storage,
        header: Qcow2Header,
        data: Storage | None = None,
        *,
        cipher: DataCipher | None = None,
    ) -> None:
        super().__init__(storage, header, data, cipher=cipher)
        for flag, what in ((s.CORRUPT, "marked as corrupt"), (s.DIRTY, "not closed properly")):
            if header.incompatible_features & flag:
                raise FormatError(
                    f"{storage.name}: it is {what} and cannot be written; "
                    "run vmimg check --repair all first"
                )
        self.writable = storage.writable and self.data.writable
        self.zero_state = header.version >= 3  # the zero flag came with version 3
        # Of an encrypted data file nobody reads anything without the tables.
        self.zero_through = header.data_file_raw and not header.crypt_method
        self.whole_blocks = not header.external_data
        self._clusters: Clusters | None = None
        self._tables: dict[int, _Table] = {}
        self._changed_l1: set[int] = set()
        self._uncommitted = False
        # The autoclear features that stay true when this class writes.
        self._kept_autoclear = s.BITMAPS_CONSISTENT | s.DATA_FILE_RAW
        # Places in the external data file whose space goes back when the tables no longer name
        # them.
        self._unused_data = np.empty(0, np.int64)

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if self._clusters is None:
            self._prepare()
        table_bytes = len(self._tables) * self.block_size
        dropped = self._allocator.dropped + len(self._unused_data)
        if table_bytes > _DIRTY_BYTES or dropped > _DROPPED:
            self.commit()
        self._uncommitted = True

    def own_places(self, blocks: Blocks) -> NDArray[np.int64]:
        places = super().own_places(blocks)
        if not self.header.external_data:
            self._allocator.refuse_metadata(places[places >= 0])
        return places

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self.header.external_data:
            return self._allocator.allocate(len(blocks))
        places = blocks * self.block_size
        if len(self._unused_data):
            self._unused_data = np.setdiff1d(self._unused_data, places)
        return places

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        if not self.header.external_data:
            self._allocator.cancel(places)

    def assign(self, update: Update) -> None:
        per_table = self.header.l2_entries
        indexes = update.blocks // per_table
        edges = [0, *(np.flatnonzero(np.diff(indexes)) + 1).tolist(), len(indexes)]
        tables = self._own_tables(indexes[edges[:-1]].tolist())
        entries, bitmaps = _encode(update, extended=self.header.extended_l2)
        rows = update.blocks - indexes * per_table
        for table, start, stop in zip(tables, edges[:-1], edges[1:], strict=True):
            part = rows[start:stop]
            if bitmaps is None:
                table.entries[part] = entries[start:stop]
            else:
                table.entries[part, 0] = entries[start:stop]
                table.entries[part, 1] = bitmaps[start:stop]
            table.low = min(table.low, int(part[0]))
            table.high = max(table.high, int(part[-1]) + 1)
        self._drop_replaced(update)

    def commit(self) -> None:
        if not self._uncommitted:
            return
        clusters, tables = self._allocator, self._tables.values()
        for table in tables:
            if table.fresh:
                self.storage.write(table.offset, table.entries.astype(">u8").tobytes())
        clusters.write_back()
        self._barrier()
        if clusters.unpublished:
            clusters.publish()
            self._barrier()
        if self._tables or self._changed_l1:
            for table in tables:
                self._write_rows(table)
            self._write_l1()
            self._barrier()
        self._tables.clear()
        self._changed_l1.clear()
        clusters.settle()
        unused, self._unused_data = self._unused_data, np.empty(0, np.int64)
        for run in np.split(unused, np.flatnonzero(np.diff(unused) != self.block_size) + 1):
            if len(run):
                self.data.discard(int(run[0]), len(run) * self.block_size)
        self._uncommitted = False

    def close(self) -> None:
        self._leave(super().close)

    # Before the first change

    @property
    def _allocator(self) -> Clusters:
        assert self._clusters is not None, "begin() comes first"
        return self._clusters

    def _prepare(self) -> None:
        tables = self._l1 & _OFFSET
        clusters = Clusters(self.storage, self.header, tables[tables != 0])
        if self._disown_bitmaps() | self._clear_features():
            self._barrier()
        self._clusters = clusters

    def _disown_bitmaps(self) -> bool:
        """Say of persistent bitmaps that they are out of date from now on.

        In place, each flag for itself, as QEMU does while it has an image open: so the bitmaps stay
        part of the image, and backup tools see that they must not be relied on.
        """
        field = s.BitmapEntry.flags
        try:
            bitmaps = read_bitmaps(self.storage, self.header)
        except FormatError:
            self._kept_autoclear &= ~s.BITMAPS_CONSISTENT
            return False
        in_use = [bitmap for bitmap in bitmaps if not bitmap.flags & IN_USE]
        for bitmap in in_use:
            place = bitmap.entry_offset + field.offset
            self.storage.write(place, (bitmap.flags | IN_USE).to_bytes(field.size, "big"))
        return bool(in_use)

    def _clear_features(self) -> bool:
        """Clear the autoclear features that this writer does not keep up: the spec asks for
        that.
        """
        header = self.header
        kept = header.autoclear_features & self._kept_autoclear
        if header.version < 3 or kept == header.autoclear_features:
            return False
        field = s.Header.autoclear_features
        self.storage.write(field.offset, kept.to_bytes(field.size, "big"))
        header.autoclear_features = kept
        return True

    # L2 tables

    def _load_l2(self, offset: int) -> Entries:
        table = self._tables.get(offset)
        return super()._load_l2(offset) if table is None else table.entries

    def _own_tables(self, indexes: list[int]) -> list[_Table]:
        """The L2 tables of L1 entries, dirty from now on: made or copied where they are not our
        own.

        Raises with nothing changed.
        """
        tables: list[_Table] = []
        made: list[int] = []
        try:
            for index in indexes:
                entry = int(self._l1[index])
                offset = entry & s.OFFSET_MASK
                table = self._tables.get(offset)
                if table is None and offset and entry & s.COPIED:
                    table = _Table(offset, self._l2.get(offset), False, self.header.l2_entries, 0)
                elif table is None:
                    shape = (self.header.l2_entries, 2)[: 1 + self.header.extended_l2]
                    entries = self._l2.get(offset).copy() if offset else np.zeros(shape, np.uint64)
                    place = int(self._allocator.allocate(1)[0])
                    made.append(place)
                    table = _Table(place, entries, True, 0, 0)
                tables.append(table)
        except (StorageError, FormatError):
            self._allocator.cancel(np.array(made, np.int64))
            raise
        for index, table in zip(indexes, tables, strict=True):
            old = int(self._l1[index]) & s.OFFSET_MASK
            if old != table.offset:
                if old:
                    self._l2.drop(old)
                    self._allocator.drop(np.array([old // self.block_size], np.int64))
                self._l1[index] = np.uint64(table.offset) | _COPIED
                self._changed_l1.add(index)
                self._present = None
            self._tables[table.offset] = table
            self._l2.put(table.offset, table.entries)
        return tables

    def _drop_replaced(self, update: Update) -> None:
        """One reference less to the clusters that the blocks had before and have no longer."""
        before = update.before
        compressed = before.kinds == COMPRESSED
        gone = ~compressed & (before.offsets >= 0) & (before.offsets != update.places)
        if gone.any():
            offsets = before.offsets[gone]
            if not self.header.external_data:
                self._allocator.drop(offsets // self.block_size, discard=update.discard)
            elif update.discard and not self.zero_through:
                self._unused_data = np.union1d(self._unused_data, offsets)
        if compressed.any():
            assert before.lengths is not None
            # Every cluster that the compressed data touches was counted once for it.
            start = before.offsets[compressed]
            first = start // self.block_size
            last = (start + before.lengths[compressed] - 1) // self.block_size
            numbers = np.repeat(first, last - first + 1)
            steps = np.arange(len(numbers)) - np.repeat(
                np.cumsum(last - first + 1) - (last - first + 1), last - first + 1
            )
            self._allocator.drop(numbers + steps, discard=update.discard)

    # Writing it out

    def _write_rows(self, table: _Table) -> None:
        if table.fresh:
            # As durable as it is now; but from here on the L1 table may name it, even if this
            # commit fails, and what changes in it later has to wait for its turn.
            table.fresh, table.low, table.high = False, self.header.l2_entries, 0
        if table.low >= table.high:
            return
        rows = table.entries[table.low : table.high]
        place = table.offset + table.low * self.header.l2_entry_size
        self.storage.write(place, rows.astype(">u8").tobytes())

    def _write_l1(self) -> None:
        indexes = np.array(sorted(self._changed_l1), np.int64)
        for run in np.split(indexes, np.flatnonzero(np.diff(indexes) != 1) + 1):
            if len(run):
                entries = self._l1[run[0] : run[-1] + 1].astype(">u8").tobytes()
                self.storage.write(self.header.l1_table_offset + int(run[0]) * 8, entries)

    @property
    def files(self) -> tuple[Storage, ...]:
        return (self.storage,) if self.data is self.storage else (self.data, self.storage)


def _encode(update: Update, *, extended: bool) -> tuple[Entries, Entries | None]:
    """L2 entries, and subcluster bitmaps if the image has them, that say what ``update`` says."""
    held = update.places >= 0
    entries = np.where(held, update.places, 0).astype(np.uint64)
    copied = held
    if update.before.shared is not None:
        # A shared cluster that stays (only its bitmap changes) stays shared.
        copied = held & ~(update.before.shared & (update.before.offsets == update.places))
    entries[copied] |= _COPIED
    if not extended:
        entries[update.kinds[:, 0] == Kind.ZERO] |= _ZERO_FLAG
        return entries, None
    allocated = (update.kinds == Kind.DATA) @ _SUBCLUSTER_BITS
    zero = (update.kinds == Kind.ZERO) @ _SUBCLUSTER_BITS
    return entries, allocated | (zero << np.uint64(32))
