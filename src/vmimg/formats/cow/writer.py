"""CowWriter: lays out a new COW image. Places sectors, never touches guest data.

::

    header | bitmap | the disk, as in a raw file, holes where nothing was placed

Imports the writer contract and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.bitmap import PAGE_BYTES, PAGE_SECTORS, Bitmap, set_bits
from vmimg.formats.cow.header import CowHeader, pack_header
from vmimg.formats.driver import Writer
from vmimg.storage.base import Storage

__all__ = ["CowWriter"]

_EMPTY_PAGE = bytes(PAGE_BYTES)


class CowWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes."""

    any_block_size = True
    hides_parent = False

    def __init__(
        self, size: int, *, parent: ParentRef | None = None, base: Layer | None = None
    ) -> None:
        if not size:
            raise OptionError("a COW image cannot be empty")
        self.block_size = 4096
        self._header = CowHeader(size)
        if parent is not None:
            self._header.backing_file = parent.path
            self._header.mtime = _modified(base)
        self._head = pack_header(self._header)
        self.data_limit = self._header.data_offset + size
        self._end = self._header.bitmap_end
        """Where the file ends so far."""
        self._pages: dict[int, Bitmap] = {}
        """The pages of the bitmap in which a bit is set, and more may be."""
        self._closed: set[int] = set()
        """Those that were handed out already."""
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        size, start = self.block_size, self._header.data_offset
        assert self.data_limit is not None
        steps = np.arange(size // s.SECTOR, dtype=np.int64)
        sectors = (blocks[:, None] * (size // s.SECTOR) + steps).reshape(-1)
        self._mark(sectors[: int(np.searchsorted(sectors, self._header.sectors))])
        self._end = min(self.data_limit, start + (int(blocks[-1]) + 1) * size)
        return start + blocks * size

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        behind = done * self.block_size
        for index in sorted(self._pages):
            if (index + 1) * PAGE_SECTORS * s.SECTOR <= behind:
                yield self._close_page(index)
        assert self.data_limit is not None
        self._settled = min(self.data_limit, self._header.data_offset + behind)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._pages):
            yield self._close_page(index)
        for index in range(-(-self._header.bitmap_bytes // PAGE_BYTES)):
            if index not in self._closed:
                yield self._page_place(index), _EMPTY_PAGE[: self._page_length(index)]
        yield 0, self._head
        self._settled = self._end

    def full_size(self) -> int:
        return self._header.data_offset + self._header.size

    @property
    def file_size(self) -> int:
        return self._end

    def _mark(self, sectors: NDArray[np.int64]) -> None:
        """Set the bits of ``sectors`` (ascending)."""
        start = 0
        while start < len(sectors):
            index = int(sectors[start]) // PAGE_SECTORS
            stop = int(np.searchsorted(sectors, (index + 1) * PAGE_SECTORS))
            page = self._pages.get(index)
            if page is None:
                page = self._pages[index] = np.zeros(PAGE_BYTES, np.uint8)
            bits = sectors[start:stop] - index * PAGE_SECTORS
            set_bits(page, bits, np.ones(len(bits), np.bool_))
            start = stop

    def _close_page(self, index: int) -> tuple[int, bytes]:
        page = self._pages.pop(index)[: self._page_length(index)]
        self._closed.add(index)
        return self._page_place(index), page.tobytes()

    def _page_place(self, index: int) -> int:
        return self._header.bitmap_offset + index * PAGE_BYTES

    def _page_length(self, index: int) -> int:
        return min(PAGE_BYTES, self._header.bitmap_bytes - index * PAGE_BYTES)


def _modified(base: Layer | None) -> int:
    """When the parent was last written, as 32 bits keep it; 0 where it cannot be known."""
    storage = getattr(base, "storage", None)
    modified = storage.modified() if isinstance(storage, Storage) else None
    return 0 if modified is None else int(modified) & 0xFFFF_FFFF
