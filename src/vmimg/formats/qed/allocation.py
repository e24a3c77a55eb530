"""WritableQedLayer: writing in place into a QED image.

The tables cannot say of a cluster that it is free and of a block that it is zeros there, so a block
never gives its cluster back: zeroing it punches a hole in the file, and the block reads as zeros
where it is. New clusters go to the end of the file, or where a crash left some behind.

The order of writes. Before the first new cluster, or the first entry that changes, the image is
marked as in need of a check. Barrier. Guest data goes to the file at once: into clusters that the
block has already, or that nothing refers to. `commit` then

1. writes new L2 tables. Barrier: now all that the tables are going to name is durable.
2. writes entries of the other L2 tables, and of the L1 table: each, old or new, is right by itself,
   in any order. Barrier.

Killed or cut off anywhere, there are at worst clusters that nothing refers to; because of the mark,
they are found. Closing takes the mark away, as QEMU does.

An image that carries the mark already is checked before the first write. QEMU then repairs what it
finds; here only leaks are taken back unasked: to clear an entry is to give up what it named.

Spec: QEMU docs/interop/qed_spec. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.check import cut_off
from vmimg.formats.qed.header import QedHeader, write_features
from vmimg.formats.qed.layer import Entries, QedLayer
from vmimg.formats.qed.tally import take_tally
from vmimg.storage.base import Storage

__all__ = ["WritableQedLayer"]

# Changed pages of L2 tables that may wait in memory: 16 MiB.
_DIRTY_BYTES: Final = 16 << 20


class _Page:
    """A page of an L2 table that the file does not have as it is, in the rows [low, high)."""

    __slots__ = ("entries", "high", "low")

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.settle()

    def settle(self) -> None:
        """The file has it now."""
        self.low, self.high = len(self.entries), 0


class WritableQedLayer(QedLayer, WritableBlockLayer):
    """A QED file, open for writing; nothing is written before the first change.

    Refuses images in which something lies over something else, or where nothing can be.
    """

    zero_through = True
    """A block that has a cluster keeps it when it becomes zeros."""

    def __init__(self, storage: Storage, header: QedHeader) -> None:
        super().__init__(storage, header)
        self.writable = storage.writable
        self._l1 = self._l1.copy()
        self._prepared = False
        self._marked = False
        """The mark is in the file, and it is ours to take away."""
        self._next = 0
        """The cluster behind the last one in use."""
        self._free = np.zeros(0, np.int64)
        """Clusters in front of it that are not in use: what a crash left behind."""
        self._dirty: dict[int, _Page] = {}
        self._fresh: set[int] = set()
        """L2 tables, by their L1 entries, that the file does not have yet."""
        self._changed_l1: set[int] = set()
        self._uncommitted = False

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._prepared:
            self._prepare()
        if len(self._dirty) * 8 * self._per_page > _DIRTY_BYTES:
            self.commit()
        self._uncommitted = True

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        self._mark()
        reused = self._free[: len(blocks)]
        self._free = self._free[len(reused) :]
        new = len(blocks) - len(reused)
        numbers = np.concatenate((reused, self._next + np.arange(new, dtype=np.int64)))
        self._next += new
        return numbers * self.block_size

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._free = np.sort(np.concatenate((self._free, places // self.block_size)))
        while len(self._free) and self._free[-1] == self._next - 1:
            self._next -= 1
            self._free = self._free[:-1]

    def assign(self, update: Update) -> None:
        # A block that has a cluster keeps it, whatever else is asked: its data was zeroed there.
        before = update.before
        placed = (update.places >= 0) & (update.places != before.offsets)
        zeroed = (update.places < 0) & (before.offsets < 0) & (update.kinds[:, 0] == Kind.ZERO)
        changed = placed | (zeroed & (before.kinds != Kind.ZERO))
        if not changed.any():
            return
        self._mark()
        entries = np.where(placed, update.places, s.ZERO)[changed].astype(np.uint64)
        blocks = update.blocks[changed]
        keys = blocks // self._per_page
        starts = np.flatnonzero(np.diff(keys, prepend=-1)).tolist()
        pages = [self._own_page(int(keys[start])) for start in starts]
        for page, start, stop in zip(pages, starts, [*starts[1:], len(blocks)], strict=True):
            rows = blocks[start:stop] % self._per_page
            page.entries[rows] = entries[start:stop]
            page.low = min(page.low, int(rows[0]))
            page.high = max(page.high, int(rows[-1]) + 1)

    def commit(self) -> None:
        if not self._uncommitted:
            return
        self._write_fresh()
        self._barrier()
        # From here on the L1 table may name them, even if what comes fails: what changes in them
        # later has to wait for its turn.
        self._fresh.clear()
        if self._dirty or self._changed_l1:
            for key, page in self._dirty.items():
                rows = page.entries[page.low : page.high]
                if len(rows):
                    place = self._place_of(key) + 8 * page.low
                    self.storage.write(place, rows.astype("<u8").tobytes())
            for index in sorted(self._changed_l1):
                entry = int(self._l1[index]).to_bytes(8, "little")
                self.storage.write(self.header.l1_offset + 8 * index, entry)
            self._barrier()
            self._dirty.clear()
            self._changed_l1.clear()
        self._uncommitted = False

    def conclude(self) -> None:
        self._unmark()

    def close(self) -> None:
        self._leave(super().close)

    # Helpers

    def _prepare(self) -> None:
        header = self.header
        tally = take_tally(self.storage, header)
        if tally.corruptions:
            raise FormatError(
                f"{self.name}: {tally.corruptions} tables or clusters are where nothing can be or "
                "where something else is; writing would make it worse: "
                "run vmimg check --repair all first"
            )
        cut_off(self.storage, header, tally)
        self._next, self._free = tally.end, tally.free
        if header.autoclear_features:
            # Nobody has defined one: what they vouch for is no longer true once we write.
            header.autoclear_features = 0
            write_features(self.storage, header)
            self._barrier()
        self._marked = header.need_check
        self._prepared = True

    def _mark(self) -> None:
        """Say in the file that somebody is writing."""
        if self._marked:
            return
        self.header.features |= s.NEED_CHECK
        write_features(self.storage, self.header)
        self._barrier()
        self._marked = True

    def _unmark(self) -> None:
        if self._marked:
            self.header.features &= ~s.NEED_CHECK
            write_features(self.storage, self.header)
            self._barrier()

    def _write_fresh(self) -> None:
        """New L2 tables as a whole, in places that nothing refers to."""
        pages = self.header.entries // self._per_page
        for index in self._fresh:
            if pages > 1:
                self.storage.zero(int(self._l1[index]), self.header.table_bytes)
            for key in range(index * pages, (index + 1) * pages) if pages > 1 else (index,):
                page = self._dirty.get(key)
                if page is not None:
                    data = page.entries.astype("<u8").tobytes()
                    self.storage.write(self._place_of(key), data)
                    page.settle()

    def _place_of(self, key: int) -> int:
        """Where in the file a page is."""
        index, row = divmod(key * self._per_page, self.header.entries)
        return int(self._l1[index]) + 8 * row

    def _load_page(self, key: int) -> Entries:
        page = self._dirty.get(key)
        if page is not None:
            return page.entries
        if key * self._per_page // self.header.entries in self._fresh:
            return np.zeros(self._per_page, np.uint64)
        return super()._load_page(key)

    def _behind_hole(self, first: int, index: int) -> int:
        # A hole of the file may have become something in memory.
        return first if self._dirty else super()._behind_hole(first, index)

    def _own_page(self, key: int) -> _Page:
        page = self._dirty.get(key)
        if page is None:
            entries = self._pages.get(key).copy()
            index = key * self._per_page // self.header.entries
            if not self._l1[index]:
                self._l1[index] = self._next * self.block_size
                self._next += self.header.table_size
                self._fresh.add(index)
                self._changed_l1.add(index)
                self._present = None
            page = self._dirty[key] = _Page(entries)
            self._pages.put(key, entries)
        return page
