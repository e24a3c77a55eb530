"""WritableSparseLayer: writing in place into a sparse extent (KDMV or COWD).

New grains go to the end of the file, or to where a grain lay that is no longer used. Tables change
in memory. `commit`:

1. writes grain tables that are new, and COWD's number of the next free sector. Barrier: guest data
   and all that the tables are going to name is durable.
2. writes the changed entries, of the redundant tables first, and the directories' entries of new
   tables. Each entry, old or new, is right by itself, in any order. Barrier: the guest's writes are
   durable.
3. Only now grains that step 2 unlinked may be given out again.

Killed or cut off anywhere, grains that nothing names are left at worst, and tables that differ from
their redundant copies, each right by itself; the mark of an unclean shutdown, set before the first
change and taken back when closed, tells of it.

Spec: VMware "Virtual Disk Format 5.0". Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import Blocks
from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.extent import Kind
from vmimg.disk.runs import runs
from vmimg.errors import FormatError, StorageError, UnsupportedFeature
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.header import SparseHeader
from vmimg.formats.vmdk.image import VmdkImage
from vmimg.formats.vmdk.ranges import Ranges, metadata_ranges
from vmimg.formats.vmdk.sparse import Entries, SparseLayer
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["WritableSparseLayer"]

# What may wait in memory before a commit is made: pages of tables (16 MiB), grains to give back.
_DIRTY_PAGES: Final = 128
_UNLINKED: Final = 1 << 20
# Grains remembered to be used again. More of them are left to the system that has their space.
_FREE: Final = 1 << 20
_FILE_LIMIT: Final = s.MAX_SPARSE_SECTORS * s.SECTOR


class WritableSparseLayer(SparseLayer, WritableBlockLayer):
    """One sparse extent, open for writing; nothing is written before the first change."""

    def __init__(
        self,
        storage: Storage,
        header: SparseHeader,
        image: VmdkImage,
        *,
        size: int | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(storage, header, image, size=size, file=file)
        _refuse_kind(header, storage.name)
        self.writable = storage.writable
        self.zero_state = header.zero_grains
        self._prepared = False
        self._uncommitted = False
        self._marked = False
        self._dirty: dict[int, Entries] = {}
        """Pages that the file does not have as they are."""
        self._rows: dict[int, tuple[int, int]] = {}
        """Of each changed table, by its index: the entries [low, high) that changed."""
        self._fresh: set[int] = set()
        """Indexes of tables that the file does not have yet."""
        self._unnamed: set[int] = set()
        """Indexes of tables that the file has and its directories do not name."""
        self._redundant: NDArray[np.int64] | None = None
        """Places of the redundant tables, as `_directory` of the first ones."""
        self._end = 0
        self._free = np.empty(0, np.int64)
        self._unlinked: list[tuple[NDArray[np.int64], bool]] = []
        """Places that no table in memory names, and whether their space should go back."""
        self._unlinked_count = 0
        self._metadata = Ranges()

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._prepared:
            self._prepare()
        if len(self._dirty) > _DIRTY_PAGES or self._unlinked_count > _UNLINKED:
            self.commit()
        self._uncommitted = True

    def own_places(self, blocks: Blocks) -> NDArray[np.int64]:
        places = super().own_places(blocks)
        held = places[places >= 0]
        wrong = self._metadata.overlap(held, self.block_size) | (held >= self._end)
        if wrong.any():
            raise FormatError(
                f"{self.data.name}: a grain is said to be at {int(held[wrong][0])}, over the "
                "metadata or behind the end of the file: the grain tables are damaged; "
                "run vmimg check"
            )
        return places

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        count = len(blocks)
        reused = min(count, len(self._free))
        start = align_up(self._end, self.block_size)
        end = start + (count - reused) * self.block_size
        if end > _FILE_LIMIT:
            raise StorageError(
                f"{self.data.name}: a sparse extent cannot grow beyond {_FILE_LIMIT} bytes"
            )
        places = np.empty(count, np.int64)
        if reused:
            places[:reused] = self._free[:reused]
            self._free = self._free[reused:]
        places[reused:] = start + np.arange(count - reused, dtype=np.int64) * self.block_size
        if count > reused:
            self._end = end
        return places

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._free = np.union1d(self._free, places)

    def assign(self, update: Update) -> None:
        indexes = update.blocks // self.header.gtes_per_gt
        pages = list(_groups(update.blocks // self._page_entries))
        # Whatever can fail comes first.
        tables = [self._pages.get(page) for page, _, _ in pages]
        self._make_tables(np.unique(indexes))
        held = (update.places >= 0) & (update.kinds[:, 0] == Kind.DATA)
        entries = np.where(held, update.places // s.SECTOR, 0).astype(self._entry)
        entries[update.kinds[:, 0] == Kind.ZERO] = s.GTE_ZERO
        for (page, start, stop), table in zip(pages, tables, strict=True):
            self._dirty[page] = table
            table[update.blocks[start:stop] - page * self._page_entries] = entries[start:stop]
        for index, start, stop in _groups(indexes):
            base = index * self.header.gtes_per_gt
            low, high = self._rows.get(index, (self.header.gtes_per_gt, 0))
            self._rows[index] = (
                min(low, int(update.blocks[start]) - base),
                max(high, int(update.blocks[stop - 1]) - base + 1),
            )
        before = update.before.offsets
        gone = (before >= 0) & (~held | (before != update.places))
        if gone.any():
            self._unlinked.append((before[gone], update.discard))
            self._unlinked_count += int(np.count_nonzero(gone))

    def commit(self) -> None:
        if not self._uncommitted:
            return
        for index in self._fresh:
            self._write_rows(index, 0, self.header.gtes_per_gt)
        if self.header.free_place is not None and self._rows:
            free = align_up(max(self._end, self.data.size), s.SECTOR) // s.SECTOR
            self.data.write(self.header.free_place, min(free, 0xFFFF_FFFF).to_bytes(4, "little"))
        self._barrier()
        # As durable as they are now. From here on the directories may name them, even if this
        # commit fails, and what changes in them later has to wait for its turn.
        for index in self._fresh:
            del self._rows[index]
        self._unnamed |= self._fresh
        self._fresh.clear()
        if self._rows or self._unnamed:
            for index, (low, high) in self._rows.items():
                self._write_rows(index, low, high)
            self._write_directories()
            self._barrier()
        self._unnamed.clear()
        self._rows.clear()
        self._dirty.clear()
        self._release()
        self._uncommitted = False

    def conclude(self) -> None:
        self._mark_clean()

    def close(self) -> None:
        self._leave(super().close)

    # Before the first change

    def _prepare(self) -> None:
        header = self.header
        first = self._read_directory(header.gd_offset)
        if first is None or (first != self._directory).any() or self._misplaced(first).any():
            self._refuse_damaged("the grain directory names places that are not in the file")
        if header.rgd_offset is not None:
            second = self._read_directory(header.rgd_offset)
            if second is None or self._misplaced(second).any():
                self._refuse_damaged("the redundant grain directory is not sound")
            if ((second == 0) != (self._directory == 0)).any():
                self._refuse_damaged("the grain directory and its redundant copy differ")
            self._redundant = second
        self._metadata = metadata_ranges(header, self._directory, self._redundant)
        self._end = self.data.size
        if header.free_place is not None:
            raw = self.data.read(header.free_place, 4)
            free = int.from_bytes(raw, "little") * s.SECTOR
            # A number from the file: believed only where it leaves no hole to speak of.
            if free - self._end <= self.block_size * header.gtes_per_gt:
                self._end = max(self._end, free)
        self.image.touch()
        if not header.unclean:
            place, width = header.unclean_place
            self.data.write(place, (1).to_bytes(width, "little"))
            self._marked = True
        self._barrier()
        self._prepared = True

    def _refuse_damaged(self, what: str) -> None:
        raise FormatError(
            f"{self.data.name}: {what}: it cannot be written; run vmimg check --repair all first"
        )

    def _mark_clean(self) -> None:
        if not self._marked:
            return
        place, width = self.header.unclean_place
        self.data.write(place, bytes(width))
        self.data.flush()

    # Tables

    def _present_tables(self) -> NDArray[np.intp]:
        # What is in memory may not have reached a hole of the file yet.
        return np.flatnonzero(self._directory)

    def _load_page(self, page: int) -> Entries:
        held = self._dirty.get(page)
        return super()._load_page(page) if held is None else held

    def _make_tables(self, indexes: NDArray[np.int64]) -> None:
        """Give each of ``indexes`` a table, and a redundant one. Raises with nothing changed."""
        missing = indexes[self._directory[indexes] == 0]
        if not len(missing):
            return
        size = self.header.table_bytes
        copies = 1 if self._redundant is None else 2
        start = align_up(self._end, s.SECTOR)
        end = start + copies * len(missing) * size
        if end > _FILE_LIMIT:
            raise StorageError(
                f"{self.data.name}: a sparse extent cannot grow beyond {_FILE_LIMIT} bytes"
            )
        places = start + np.arange(copies * len(missing), dtype=np.int64) * size
        self._end = end
        self._directory[missing] = places[: len(missing)]
        if self._redundant is not None:
            self._redundant[missing] = places[len(missing) :]
        self._fresh.update(missing.tolist())
        self._metadata.add(places, size)
        self._present = None

    def _write_rows(self, index: int, low: int, high: int) -> None:
        """Write the entries [low, high) of a table, into its redundant copy first."""
        page, table = divmod(index, self._tables_per_page)
        base = table * self.header.gtes_per_gt
        entries = self._dirty[page][base + low : base + high].tobytes()
        if high - low == self.header.gtes_per_gt:
            entries = entries.ljust(self.header.table_bytes, b"\0")
        shift = low * self.header.entry_size
        if self._redundant is not None:
            self.data.write(int(self._redundant[index]) + shift, entries)
        self.data.write(int(self._directory[index]) + shift, entries)

    def _write_directories(self) -> None:
        width = self.header.entry_size
        for index in sorted(self._unnamed):
            if self._redundant is not None:
                assert self.header.rgd_offset is not None
                self._write_entry(self.header.rgd_offset + index * width, self._redundant[index])
            self._write_entry(self.header.gd_offset + index * width, self._directory[index])

    def _write_entry(self, place: int, table: Any) -> None:
        number = int(table) // s.SECTOR
        self.data.write(place, number.to_bytes(self.header.entry_size, "little"))

    def _release(self) -> None:
        """Grains that no table in the file names any more may be used again."""
        unlinked, self._unlinked, self._unlinked_count = self._unlinked, [], 0
        for places, discard in unlinked:
            if discard:
                places = np.sort(places)
                for low, high in runs(places, self.block_size):
                    start = int(places[low])
                    stop = min(int(places[high - 1]) + self.block_size, self.data.size)
                    if start < stop:
                        self.data.discard(start, stop - start)
            if len(self._free) < _FREE:
                self._free = np.union1d(self._free, places)


def _refuse_kind(header: SparseHeader, name: str) -> None:
    if header.compressed or header.markers:
        raise UnsupportedFeature(
            f"{name}: a streamOptimized VMDK cannot be written in place; convert it first"
        )
    if header.kind == "SESPARSE":
        raise UnsupportedFeature(
            f"{name}: a seSparse VMDK cannot be written in place; convert it first"
        )
    if header.grain_size > s.MAX_HELD_GRAIN:
        raise UnsupportedFeature(
            f"{name}: grains of {header.grain_size} bytes; only up to {s.MAX_HELD_GRAIN} can be "
            "written in place; convert it first"
        )
    if header.version == 3:
        # VMware KB 2064959: version 3 keeps track of changed blocks in a file beside, which would
        # not learn of what is written here.
        raise UnsupportedFeature(
            f"{name}: a VMDK of version 3 has changed block tracking and cannot be written in "
            "place; convert it first"
        )


def _groups(keys: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(key, first, last + 1) of runs of equal keys."""
    edges = [0, *(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
    for low, high in pairwise(edges):
        yield int(keys[low]), low, high
