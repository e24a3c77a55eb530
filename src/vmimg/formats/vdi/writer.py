"""VdiWriter: lays out a new VDI image. Places blocks, never touches guest data.

::

    header | map, from 1 MiB | blocks, from the next MiB behind the map

as VirtualBox lays them out. The blocks of a growing image follow each other in the order in which
they are placed, so its map is known at the end only. In a fixed image block n is in place n: the
data lies there as in a raw file, and all in front of it is known at once.

Imports the writer contract and numpy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.vdi import structures as s
from vmimg.formats.vdi.header import NO_UUID, VdiHeader, pack_header
from vmimg.formats.vdi.layer import FREE, PAGE_ENTRIES, ZERO, Entries, VdiLayer
from vmimg.units import align_up, format_size

__all__ = ["VdiWriter"]

_FREE_PAGE: Final = b"\xff" * (4 * PAGE_ENTRIES)


class VdiWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed."""

    def __init__(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
        name: str = "disk",
    ) -> None:
        self._header = _new_header(size, options, parent, base)
        self._uuid = _given_uuid(options)
        self.block_size = self._header.block_size
        self._fixed = self._header.image_type == s.FIXED
        if self._fixed:
            self.any_block_size = True
            self.late_metadata = False
            self.data_limit = self._header.offset_data + size
        self._next = 0
        """The next free place."""
        self._pages: dict[int, Entries] = {}
        """The pages of the map in which a block has a place or is zeros, and more may get one."""
        self._closed: set[int] = set()
        """Those that were handed out already."""
        # VirtualBox registers no two disks of one UUID, and empty ones of one size are alike.
        self._seed = hashlib.sha256(os.fsencode(name))
        """Of the name and all that is in the map: what the UUIDs are made from."""
        self._begun = False
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        start = self._header.offset_data
        if self._fixed:
            return start + blocks * self.block_size
        numbers = self._next + np.arange(len(blocks), dtype=np.int64)
        self._next += len(blocks)
        self._assign(blocks, numbers.astype(np.uint32))
        return start + numbers * self.block_size

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        self._assign(blocks, np.full(len(blocks), ZERO, np.uint32))

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        if not self._fixed:
            for index in sorted(self._pages):
                if (index + 1) * PAGE_ENTRIES <= done:
                    yield self._close_page(index)
            self._settled = self._data_end
            return
        if not self._begun:
            yield from self._front()
        end = self._header.offset_data + done * self.block_size
        self._settled = min(end, self.file_size)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for index in sorted(self._pages):
            yield self._close_page(index)
        if not self._begun:
            yield from self._front()
        self._settled = self.file_size

    def full_size(self) -> int:
        return self._header.offset_data + self._header.blocks * self._header.block_size

    @property
    def file_size(self) -> int:
        return self.full_size() if self._fixed else self._data_end

    @property
    def _data_end(self) -> int:
        return self._header.offset_data + self._next * self._header.block_size

    def _front(self) -> Iterator[tuple[int, bytes]]:
        """What is left of the map, and the header."""
        self._begun = True
        header = self._header
        for index in range(-(-header.blocks // PAGE_ENTRIES)):
            if index not in self._closed:
                yield self._page_offset(index), self._untouched_page(index)
        header.blocks_allocated = header.blocks if self._fixed else self._next
        self._seed.update(pack_header(header))
        header.uuid_create = self._uuid or _derived_uuid(self._seed.digest(), b"create")
        header.uuid_modify = _derived_uuid(self._seed.digest(), b"modify")
        yield 0, pack_header(header)

    def _close_page(self, index: int) -> tuple[int, bytes]:
        """The page as it goes to the file. In ascending order, so that the UUIDs come out alike."""
        page = self._pages.pop(index)[: self._page_length(index)].astype("<u4").tobytes()
        self._closed.add(index)
        self._seed.update(index.to_bytes(4, "little") + page)
        return self._page_offset(index), page

    def _untouched_page(self, index: int) -> bytes:
        count = self._page_length(index)
        if self._fixed:
            first = index * PAGE_ENTRIES
            return np.arange(first, first + count, dtype="<u4").tobytes()
        # One object for all of them: an empty disk of 64 TiB has 1024 such pages.
        return _FREE_PAGE if count == PAGE_ENTRIES else _FREE_PAGE[: 4 * count]

    def _page_offset(self, index: int) -> int:
        return self._header.offset_blocks + 4 * PAGE_ENTRIES * index

    def _page_length(self, index: int) -> int:
        return min(PAGE_ENTRIES, self._header.blocks - index * PAGE_ENTRIES)

    def _assign(self, blocks: NDArray[np.int64], entries: Entries) -> None:
        """Put ``entries`` of ``blocks`` (ascending) into their pages."""
        start = 0
        while start < len(blocks):
            index = int(blocks[start]) // PAGE_ENTRIES
            stop = int(np.searchsorted(blocks, (index + 1) * PAGE_ENTRIES))
            page = self._pages.get(index)
            if page is None:
                page = self._pages[index] = np.full(PAGE_ENTRIES, FREE, np.uint32)
            page[blocks[start:stop] - index * PAGE_ENTRIES] = entries[start:stop]
            start = stop


def _new_header(
    size: int,
    options: Mapping[str, OptionValue],
    parent: ParentRef | None,
    base: Layer | None,
) -> VdiHeader:
    """The header of a new image, without its UUIDs. Raises OptionError for options that do not fit
    together, with the words of what to change.
    """
    block = int(options["block_size"])
    if not s.MIN_NEW_BLOCK <= block <= s.MAX_NEW_BLOCK or block & (block - 1):
        raise OptionError(f"block_size is a power of two from 4k to 256M, not {block}")
    fixed = (
        options["subformat"] == "fixed"
        or bool(options["static"])
        or options["preallocation"] != "off"
    )
    blocks = -(-size // block)
    if blocks > s.MAX_BLOCKS:
        raise OptionError(
            f"a disk of {format_size(size)} needs larger blocks: with block_size={block} a VDI "
            f"holds {format_size(s.MAX_BLOCKS * block)}"
        )
    map_start = align_up(s.HEADER_OFFSET + s.HEADER1_PLUS_SIZE, s.DATA_ALIGN)
    header = VdiHeader(
        image_type=s.FIXED if fixed else s.NORMAL,
        size=size,
        block_size=block,
        blocks=blocks,
        blocks_allocated=0,
        offset_blocks=map_start,
        offset_data=align_up(map_start + 4 * blocks, s.DATA_ALIGN),
        uuid_create=NO_UUID,
        uuid_modify=NO_UUID,
    )
    if parent is not None:
        if fixed:
            raise OptionError("a fixed VDI cannot have a backing file: it has all blocks itself")
        if parent.format not in (None, "vdi"):
            raise OptionError(f"the backing file of a VDI is a VDI, not {parent.format}")
        if not isinstance(base, VdiLayer):
            raise OptionError(
                f"a VDI names its backing file by UUID, so {parent.path} has to be there, and be "
                "a VDI"
            )
        header.image_type = s.DIFF
        header.uuid_linkage = base.header.uuid_create
        header.uuid_parent_modify = base.header.uuid_modify
        if header.uuid_linkage == NO_UUID:
            raise OptionError(f"{base.name}: has no UUID by which an image above could name it")
    return header


def _given_uuid(options: Mapping[str, OptionValue]) -> UUID | None:
    text = options.get("uuid")
    if text is None:
        return None
    try:
        given = UUID(str(text))
    except ValueError:
        given = NO_UUID
    if given == NO_UUID:
        raise OptionError(f"'{text}' is not a UUID")
    return given


def _derived_uuid(seed: bytes, role: bytes) -> UUID:
    """Always the same for the same image: VirtualBox makes random ones, of the same version."""
    return UUID(bytes=hashlib.sha256(role + seed).digest()[:16], version=4)
