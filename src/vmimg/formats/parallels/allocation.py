"""WritableParallelsLayer: writing in place into one expanding image file.

The order of writes. The first write marks the image as in use, and takes the format extension off
it: the dirty bitmaps there would no longer be true. (QEMU leaves them, and a zero in in_use to say
that they are stale.) Barrier. Guest data then goes to the file at once: into places that the
cluster has already, or that nothing refers to. `commit` then

1. waits until all data that the BAT is going to name is durable,
2. writes the BAT entries: each, old or new, is right by itself. Barrier.

Only then are the places of discarded clusters used again. Closing cuts off what lies behind the
last cluster and clears the mark. Killed or cut off anywhere, the image reads as it did at the last
flush or later, and is marked: check says so, and --repair clears it.

A cluster is there or not; there is no mark for zeros. Above a parent zeros are written as data.

Spec: QEMU docs/interop/parallels. Imports the block machine of disk, and storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockwrite import Update, WritableBlockLayer
from vmimg.disk.runs import runs
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.extension import read_extension
from vmimg.formats.parallels.header import ParallelsHeader
from vmimg.formats.parallels.layer import PAGE_ENTRIES, Entries, ParallelsLayer
from vmimg.formats.parallels.tally import take_tally
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["WritableParallelsLayer", "write_state"]

# Changed pages of the BAT that may wait in memory: 16 MiB.
_DIRTY_PAGES: Final = 64


class _Page:
    """A page of the BAT that the file does not have as it is, in the rows [low, high)."""

    __slots__ = ("entries", "high", "low")

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.low, self.high = len(entries), 0


class WritableParallelsLayer(ParallelsLayer, WritableBlockLayer):
    """A .hds file, open for writing; nothing is written before the first change.

    Refuses images that are marked as in use, and those whose BAT is damaged.
    """

    zero_state = False

    def __init__(
        self,
        storage: Storage,
        header: ParallelsHeader,
        *,
        size: int | None = None,
        file: str | None = None,
        others: Sequence[Storage] = (),
    ) -> None:
        super().__init__(storage, header, size=size, file=file, others=others)
        if header.dirty:
            raise FormatError(
                f"{self.name}: is marked as in use: another program has it open, or did not close "
                "it; if nothing uses it, run vmimg check --repair all first"
            )
        if header.block_size > s.MAX_NEW_CLUSTER:
            raise UnsupportedFeature(
                f"{self.name}: clusters of {format_size(header.block_size)} are too large to be "
                "written in place; convert it first"
            )
        self.writable = storage.writable
        self._prepared = False
        self._next = 0
        """The place behind the last one in use."""
        self._free = np.zeros(0, np.int64)
        """Places in front of it that are not in use, ascending."""
        self._released = np.zeros(0, np.int64)
        """Places that the BAT in the file may still name."""
        self._dirty: dict[int, _Page] = {}
        self._uncommitted = False

    # Hooks of WritableBlockLayer

    def begin(self) -> None:
        if not self._prepared:
            self._prepare()
        if len(self._dirty) > _DIRTY_PAGES:
            self.commit()
        self._uncommitted = True

    def allocate(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        reused = self._free[: len(blocks)]
        new = len(blocks) - len(reused)
        end = self.header.data_start + (self._next + new) * self.block_size
        if (end - 1) // self.header.unit > 0xFFFF_FFFF:
            raise FormatError(
                f"{self.name}: the file would grow beyond what the BAT can name; convert it into "
                "an image of a kind that holds more"
            )
        self._free = self._free[len(reused) :]
        added = np.arange(self._next, self._next + new, dtype=np.int64)
        self._next += new
        return np.concatenate((reused, added)) * self.block_size + self.header.data_start

    def cancel(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._give_back(self._numbers(places))

    def assign(self, update: Update) -> None:
        changed = update.places != update.before.offsets
        if not changed.any():
            return
        blocks, places = update.blocks[changed], update.places[changed]
        entries = np.where(places >= 0, places // self.header.unit, 0).astype(np.uint32)
        indexes = blocks // PAGE_ENTRIES
        starts = np.flatnonzero(np.diff(indexes, prepend=-1)).tolist()
        pages = [self._own_page(int(indexes[start])) for start in starts]
        for page, start, stop in zip(pages, starts, [*starts[1:], len(blocks)], strict=True):
            rows = blocks[start:stop] % PAGE_ENTRIES
            page.entries[rows] = entries[start:stop]
            page.low = min(page.low, int(rows[0]))
            page.high = max(page.high, int(rows[-1]) + 1)
        old = update.before.offsets[changed]
        self._released = np.concatenate((self._released, self._numbers(old[old >= 0])))

    def commit(self) -> None:
        if not self._uncommitted:
            return
        self._barrier()
        if self._dirty:
            for index, page in self._dirty.items():
                rows = page.entries[page.low : page.high]
                if len(rows):
                    first = index * PAGE_ENTRIES + page.low
                    place = s.BAT_OFFSET + s.BAT_ENTRY * first
                    self.storage.write(place, rows.astype("<u4").tobytes())
            self._barrier()
            self._dirty.clear()
        if len(self._released):
            released, self._released = np.sort(self._released), np.zeros(0, np.int64)
            for low, high in runs(released):
                start = self.header.data_start + int(released[low]) * self.block_size
                length = min((high - low) * self.block_size, self.storage.size - start)
                self.storage.discard(start, max(0, length))
            self._give_back(released)
        self._uncommitted = False

    def conclude(self) -> None:
        """Leave the file as long as its clusters need, and say that it is closed."""
        if not self._prepared:
            return
        end = self.header.data_start + self._next * self.block_size
        if self.storage.size != end:
            self.storage.resize(end)
        write_state(self.storage, self.header, in_use=s.CLOSED)
        self._barrier()

    def close(self) -> None:
        self._leave(super().close)

    # Helpers

    def _prepare(self) -> None:
        header = self.header
        extension = read_extension(self.storage, header)
        if extension is not None and extension.keeper:
            raise UnsupportedFeature(
                f"{self.name}: {extension.keeper}: it cannot be written in place; convert it"
            )
        if header.data_off_wrong is not None:
            raise FormatError(
                f"{self.name}: {header.data_off_wrong}; run vmimg check --repair all first"
            )
        # Without the extension: from now on its clusters are free.
        tally = take_tally(self.storage, header)
        end = self.storage.size
        for count, what in (
            (tally.outside + tally.cut, f"clusters are said to go on where the file ends at {end}"),
            (tally.misplaced, "clusters do not lie where clusters begin"),
            (tally.shared, "clusters share a place with another"),
        ):
            if count:
                raise FormatError(
                    f"{self.name}: {count} {what}; writing would make it worse: "
                    "see what vmimg check says"
                )
        self._next, self._free = tally.highest + 1, tally.free
        write_state(self.storage, header, in_use=s.IN_USE)
        self._barrier()
        self._prepared = True

    def _give_back(self, numbers: NDArray[np.int64]) -> None:
        free = np.sort(np.concatenate((self._free, numbers)))
        # From the end, as long as place follows place.
        last = self._next - np.arange(len(free), 0, -1, dtype=np.int64)
        apart = np.flatnonzero(free != last)
        stays = int(apart[-1]) + 1 if len(apart) else 0
        self._next -= len(free) - stays
        self._free = free[:stays]

    def _numbers(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of data at ``offsets``."""
        return (offsets - self.header.data_start) // self.block_size

    def _after_hole(self, first: int) -> int:
        # What is not yet in the file may lie in what is a hole there.
        if self._dirty:
            return first
        return super()._after_hole(first)

    def _load_page(self, index: int) -> Entries:
        page = self._dirty.get(index)
        return super()._load_page(index) if page is None else page.entries

    def _own_page(self, index: int) -> _Page:
        page = self._dirty.get(index)
        if page is None:
            page = self._dirty[index] = _Page(self._pages.get(index).copy())
            self._pages.put(index, page.entries)
        return page


def write_state(storage: Storage, header: ParallelsHeader, *, in_use: int) -> None:
    """Write the last fields of the header with ``in_use``, as an image that has data and no format
    extension. All of it is in one sector.
    """
    header.in_use, header.ext_off = in_use, 0
    header.flags &= ~s.FLAG_EMPTY
    raw = s.Header(
        in_use=header.in_use,
        data_off=header.data_off,
        flags=header.flags,
        ext_off=header.ext_off,
    )
    storage.write(s.STATE_OFFSET, bytes(raw)[s.STATE_OFFSET :])
