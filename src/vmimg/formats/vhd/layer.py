"""VhdLayer and FixedVhdLayer: one VHD file, for reading.

A BAT of 2040 GiB in blocks of 2 MiB has 4 MiB, so it is held whole. Without a parent a block is
there or it is not, and its sector bitmap is not looked at: QEMU writes all of it and reads none,
and unset sectors hold zeros. Above a parent the bitmap says sector by sector what is here; bitmaps
are read when needed and kept in a bounded cache. Writing is in `allocation`, a subclass.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.blockmap import BlockLayer, Blocks
from vmimg.disk.extent import Kind
from vmimg.disk.layer import Layer
from vmimg.disk.pages import PageCache
from vmimg.errors import FormatError
from vmimg.formats.raw.driver import RawLayer
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import DynamicFields, VhdImage
from vmimg.formats.vhd.locators import parent_ref
from vmimg.storage.base import Storage

__all__ = ["FixedVhdLayer", "VhdLayer", "read_bat"]

Entries = NDArray[np.uint32]
Bitmap = NDArray[np.uint8]

# Memory for sector bitmaps: those of 64 GiB in blocks of 2 MiB.
_BITMAP_CACHE_BYTES: Final = 16 << 20
# Entries looked at in one go: bounds the arrays.
_CHUNK: Final = 1 << 18
# Time stamps have whole seconds, those of some file systems come in steps of two.
_CLOCK_SLACK: Final = 2

_UNUSED = np.uint32(s.UNUSED)


class FixedVhdLayer(RawLayer):
    """The disk byte for byte, and the footer behind it that is left alone."""

    format = "vhd"

    def __init__(self, storage: Storage, image: VhdImage, *, writable: bool = False) -> None:
        super().__init__(storage, writable=writable)
        self.size = image.size
        self.image = image


class VhdLayer(BlockLayer):
    """A dynamic or differencing VHD."""

    format = "vhd"

    def __init__(self, storage: Storage, image: VhdImage) -> None:
        super().__init__()
        assert image.dynamic is not None
        self.storage = self.data = storage
        self.image = image
        self.header: DynamicFields = image.dynamic
        self.name = storage.name
        self.size = image.size
        self.block_size = self.unit_size = self.header.block_size
        if image.differencing:
            self.parent = parent_ref(storage, self.header)
            self.unit_size = s.SECTOR
        self.granularity = self.unit_size
        self._bitmap_size = self.header.bitmap_size
        self._bat = read_bat(storage, self.header, -(-self.size // self.block_size))
        self._all_sound = all(
            not self._unsound(first, self._bat[first : first + _CHUNK]).any()
            for first in range(0, len(self._bat), _CHUNK)
        )
        self._present: NDArray[np.intp] | None = None
        self._bitmaps = PageCache(self._load_bitmap, _BITMAP_CACHE_BYTES // self._bitmap_size)

    def lookup(self, first: int, count: int) -> Blocks:
        entries = self._bat[first : first + count]
        if not self._all_sound:
            self._refuse_unsound(first, entries)
        present = entries != _UNUSED
        kinds = np.where(present, np.uint8(Kind.DATA), np.uint8(Kind.ABSENT))
        places = entries.astype(np.int64) * s.SECTOR + self._bitmap_size
        return Blocks(kinds, np.where(present, places, np.int64(-1)))

    def refine(self, first: int, blocks: Blocks) -> Blocks:
        units = self.block_size // s.SECTOR
        kinds = np.zeros((len(blocks.kinds), units), np.uint8)
        rows = np.flatnonzero(blocks.offsets >= 0)
        if len(rows):
            bitmaps = np.stack([self._bitmaps.get(int(p)) for p in blocks.offsets[rows]])
            kinds[rows] = np.unpackbits(bitmaps, axis=1)[:, :units] * np.uint8(Kind.DATA)
        steps = np.arange(units, dtype=np.int64) * s.SECTOR
        places = np.where(kinds == Kind.DATA, blocks.offsets[:, None] + steps, np.int64(-1))
        return Blocks(kinds.reshape(-1), places.reshape(-1))

    def skip_absent(self, first: int) -> int:
        if first < len(self._bat) and self._bat[first] != _UNUSED:
            return first
        present = self._present
        if present is None:
            present = self._present = np.flatnonzero(self._bat != _UNUSED)
        following = int(np.searchsorted(present, first))
        return int(present[following]) if following < len(present) else len(self._bat)

    def parent_mismatch(self, parent: Layer) -> str | None:
        if not isinstance(parent, VhdLayer | FixedVhdLayer):
            return f"is {parent.format}, and a VHD stands above a VHD only"
        wanted, found = self.header.parent_unique_id, parent.image.unique_id
        if wanted.int and wanted != found:
            return f"is the VHD {found}, but the image was made above {wanted}"
        stamp, modified = self.header.parent_time_stamp, parent.storage.modified()
        if stamp and modified is not None and int(modified) > s.EPOCH + stamp + _CLOCK_SLACK:
            return (
                f"({found}) has been written to since: it was last modified at "
                f"{_moment(modified)}, and the image remembers {_moment(s.EPOCH + stamp)}"
            )
        return None

    def close(self) -> None:
        self.storage.close()

    def _load_bitmap(self, place: int) -> Bitmap:
        """The sector bitmap of the block whose data is at ``place``: a bit per sector, the first
        sector's the highest of the first byte.
        """
        return np.frombuffer(
            self.storage.read(place - self._bitmap_size, self._bitmap_size), np.uint8
        )

    def _unsound(self, first: int, entries: Entries) -> NDArray[np.bool_]:
        """Which entries, those of blocks from ``first``, name a place that cannot be."""
        block = self.block_size
        starts = entries.astype(np.int64) * s.SECTOR
        wanted = np.full(len(entries), self._bitmap_size + block, np.int64)
        last = self.size // block - first
        if 0 <= last < len(wanted):
            # What is behind the end of the disk need not be there.
            wanted[last] += self.size % block - block
        ends = starts + wanted
        wrong = ends > self.storage.size
        header = self.header
        for low, high in (
            (0, s.FOOTER_SIZE),
            (header.offset, header.offset + s.DYNAMIC_HEADER_SIZE),
            (header.table_offset, header.table_end),
        ):
            wrong |= (starts < high) & (ends > low)
        found: NDArray[np.bool_] = wrong & (entries != _UNUSED)
        return found

    def _refuse_all_unsound(self) -> None:
        if not self._all_sound:
            for first in range(0, len(self._bat), _CHUNK):
                self._refuse_unsound(first, self._bat[first : first + _CHUNK])

    def _refuse_unsound(self, first: int, entries: Entries) -> None:
        wrong = self._unsound(first, entries)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            place = int(entries[index]) * s.SECTOR
            where = "over a header or the BAT"
            if place + self._bitmap_size + self.block_size > self.storage.size:
                where = f"but the file ends at {self.storage.size}"
            raise FormatError(
                f"{self.name}: the block of virtual offset {(first + index) * self.block_size} is "
                f"said to be at {place}, {where}: it is truncated or damaged"
            )


def read_bat(storage: Storage, header: DynamicFields, entries: int) -> Entries:
    """The first ``entries`` of the BAT: uint32, sectors, UNUSED where there is no block."""
    table = np.frombuffer(storage.read(header.table_offset, entries * 4), ">u4")
    return table.astype(np.uint32)


def _moment(seconds: float) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(seconds))
    return moment.isoformat(sep=" ").removesuffix("+00:00")
