"""WritableQcowLayer: writing in place into a qcow image.

Version 1 has no reference counts: what is in use is known only by reading every table. So new
clusters and L2 tables go behind the end of the file, as QEMU puts them, or into places that this
session gave up; what was given up earlier (and by others) stays unused until check finds it.

The order of writes. Guest data goes to the file at once: into places that the cluster has already,
or that nothing refers to. `commit` then

1. writes new L2 tables, which nothing refers to either. Barrier: all that is going to be named is
   durable.
2. writes the changed entries of the other L2 tables, and of the L1 table: each, old or new, is
   right by itself. Barrier.
3. gives back the space of clusters that nothing refers to any more.

Killed or cut off anywhere, the tables are right; what was appended and not yet named is lost space.

Spec: QEMU block/qcow.c. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import COMPRESSED, Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.crypt import DataCipher
from vmimg.disk.runs import runs
from vmimg.errors import FormatError
from vmimg.formats.qcow.header import QcowHeader
from vmimg.formats.qcow.layer import L1_PAGE, Entries, QcowLayer
from vmimg.formats.qcow.tally import l1_pieces
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["WritableQcowLayer"]

# Changed L2 tables that may wait in memory: 16 MiB.
_DIRTY_BYTES: Final = 16 << 20


class _Table:
    """An L2 table that the file does not have as it is, in the rows [low, high)."""

    __slots__ = ("entries", "high", "low")

    def __init__(self, entries: Entries, *, new: bool) -> None:
        self.entries = entries
        self.low, self.high = (0, len(entries)) if new else (len(entries), 0)


class WritableQcowLayer(QcowLayer, WritableBlockLayer):
    """A qcow file, open for writing; nothing is written before the first change.

    Refuses images whose L2 tables lie over each other, over the header, or outside of the file.
    """

    zero_state = False

    def __init__(
        self, storage: Storage, header: QcowHeader, cipher: DataCipher | None = None
    ) -> None:
        super().__init__(storage, header, cipher)
        self.writable = storage.writable
        self._prepared = False
        self._end = 0
        """Where the next new cluster goes: behind everything."""
        self._free = np.zeros(0, np.int64)
        """Places of clusters that this session gave up, ascending."""
        self._dropped: list[tuple[NDArray[np.int64], bool]] = []
        """Places that the tables in memory do not name any more, and whether to give their space
        back."""
        self._metadata = np.zeros(0, np.int64)
        """Offsets of the L2 tables that were there, ascending, and one that no cluster reaches."""
        self._dirty: dict[int, _Table] = {}
        """By offset."""
        self._new: set[int] = set()
        """Those of them that the L1 table of the file does not name."""
        self._names: dict[int, int] = {}
        """Entries of the L1 table that the file does not have."""
        self._uncommitted = False

    def skip_absent(self, first: int) -> int:
        # A page that is read while a table is added must not be kept as it was.
        with self._gate.shared():
            return super().skip_absent(first)

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._prepared:
            self._prepare()
        if len(self._dirty) * self.header.l2_bytes > _DIRTY_BYTES:
            self.commit()
        self._uncommitted = True

    def own_places(self, blocks: Blocks) -> NDArray[np.int64]:
        places = super().own_places(blocks)
        self._refuse_metadata(places[places >= 0])
        return places

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        reused, self._free = self._free[: len(blocks)], self._free[len(blocks) :]
        start = align_up(self._end, self.block_size)
        added = np.arange(len(blocks) - len(reused), dtype=np.int64) * self.block_size + start
        if len(added):
            self._end = start + len(added) * self.block_size
        return np.concatenate((reused, added))

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._free = np.sort(np.concatenate((self._free, places)))

    def assign(self, update: Update) -> None:
        per_table = self.header.l2_entries
        indexes = update.blocks // per_table
        starts = np.flatnonzero(np.diff(indexes, prepend=-1)).tolist()
        # All that can fail comes first.
        tables = [self._own_table(int(indexes[start])) for start in starts]
        entries = np.where(update.places >= 0, update.places, np.int64(0)).view(np.uint64)
        for table, start, stop in zip(tables, starts, [*starts[1:], len(indexes)], strict=True):
            rows = update.blocks[start:stop] % per_table
            table.entries[rows] = entries[start:stop]
            table.low = min(table.low, int(rows[0]))
            table.high = max(table.high, int(rows[-1]) + 1)
        before = update.before
        gone = (before.offsets >= 0) & (update.places != before.offsets)
        gone &= before.kinds != COMPRESSED  # these share their clusters with others
        # One that does not lie on a cluster boundary is not of our making: it is left alone.
        gone &= before.offsets % self.block_size == 0
        if gone.any():
            self._dropped.append((before.offsets[gone], update.discard))
        self._forget_decoded()

    def commit(self) -> None:
        if not self._uncommitted:
            return
        for offset in sorted(self._new):
            self.storage.write(offset, self._dirty[offset].entries.astype(">u8").tobytes())
        self._barrier()
        changed = False
        for offset, table in sorted(self._dirty.items()):
            if offset not in self._new and table.low < table.high:
                rows = table.entries[table.low : table.high]
                self.storage.write(offset + 8 * table.low, rows.astype(">u8").tobytes())
                changed = True
        for index, offset in sorted(self._names.items()):
            place = self.header.l1_table_offset + 8 * index
            self.storage.write(place, offset.to_bytes(8, "big"))
            changed = True
        if changed:
            self._barrier()
        self._dirty.clear()
        self._new.clear()
        self._names.clear()
        self._give_back()
        self._uncommitted = False

    def close(self) -> None:
        self._leave(super().close)

    # Helpers

    def _prepare(self) -> None:
        header = self.header
        offsets = np.zeros(0, np.uint64)
        for _, entries in l1_pieces(self.storage, header):
            offsets = np.sort(np.concatenate((offsets, entries[entries != 0])))
            wrong = offsets < np.uint64(header.l1_end)
            wrong |= offsets > np.uint64(max(0, self.storage.size - header.l2_bytes))
            if wrong.any() or (offsets[1:] - offsets[:-1] < np.uint64(header.l2_bytes)).any():
                raise FormatError(
                    f"{self.name}: L2 tables lie over each other, over the header or outside of "
                    "the file; writing would make it worse: see what vmimg check says"
                )
        nowhere = np.array([np.iinfo(np.int64).max], np.int64)
        self._metadata = np.concatenate((offsets.view(np.int64), nowhere))
        self._end = self.storage.size
        self._prepared = True

    def _refuse_metadata(self, places: NDArray[np.int64]) -> None:
        """Raise FormatError if a cluster at one of ``places`` lies over an L2 table: writing guest
        data there would destroy a damaged image for good.
        """
        first = np.searchsorted(self._metadata, places - self.header.l2_bytes, side="right")
        wrong = self._metadata[first] < places + self.block_size
        if wrong.any():
            raise FormatError(
                f"{self.name}: the cluster at {int(places[wrong][0])} lies over an L2 table: the "
                "image is damaged; run vmimg check --repair all"
            )

    def _following_entry(self, index: int) -> int:
        waiting = [entry for entry in self._names if entry >= index]
        return min([super()._following_entry(index), *waiting])

    def _load_l1(self, page: int) -> Entries:
        entries = super()._load_l1(page)
        for index, offset in self._names.items():
            if index // L1_PAGE == page:
                entries[index % L1_PAGE] = offset
        return entries

    def _load_l2(self, offset: int) -> Entries:
        table = self._dirty.get(offset)
        return super()._load_l2(offset) if table is None else table.entries

    def _own_table(self, index: int) -> _Table:
        """L2 table ``index``, to be changed; made where there is none."""
        page, row = divmod(index, L1_PAGE)
        names = self._l1.get(page)
        offset = int(names[row])
        if not offset:
            offset = align_up(self._end, self.block_size)
            self._end = offset + self.header.l2_bytes
            table = _Table(np.zeros(self.header.l2_entries, np.uint64), new=True)
            self._new.add(offset)
            self._names[index] = offset
            names = names.copy()
            names[row] = offset
            self._l1.put(page, names)
        else:
            known = self._dirty.get(offset)
            if known is not None:
                return known
            table = _Table(self._l2.get(offset).copy(), new=False)
        self._dirty[offset] = table
        self._l2.put(offset, table.entries)
        return table

    def _give_back(self) -> None:
        """Clusters that no table of the file names any more may be given to others."""
        dropped, self._dropped = self._dropped, []
        for places, discard in dropped:
            if discard:
                places = np.sort(places)
                for low, high in runs(places, self.block_size):
                    self.storage.discard(int(places[low]), (high - low) * self.block_size)
            self._free = np.sort(np.concatenate((self._free, places)))
