"""VhdxWriter: lays out a new VHDX. Places blocks, never touches guest data.

::

    headers, region tables | log | metadata (1 MiB) | BAT | blocks, in the order they come

A fixed disk has its blocks in the order of the disk, all of them. The BAT is handed back in strips
of whole chunks; those without a block are all the same bytes, so that memory does not grow with the
disk. GUIDs are digests of size, options, parent and layout: the same input makes the same file.
Spec: MS-VHDX. Imports the writer contract and numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import (
    Headers,
    Region,
    VhdxHeader,
    VhdxImage,
    pack_header,
    pack_identifier,
    pack_metadata,
    pack_region_table,
)
from vmimg.formats.vhdx.layer import VhdxLayer
from vmimg.formats.vhdx.locators import pack_locator
from vmimg.units import GIB, KIB, MIB, TIB, align_up, format_size

__all__ = ["VhdxWriter"]

_CREATOR: Final = "vmimg"
# BAT entries of a strip, about.
_STRIP: Final = 64 * KIB
# The same block sizes as QEMU's for the same disks: (up to this many bytes, block size).
_AUTO_BLOCK: Final = ((GIB, 8 * MIB), (100 * GIB, 16 * MIB), (32 * TIB, 32 * MIB))
_LARGEST_AUTO: Final = 64 * MIB


class VhdxWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed; ``base`` is the
    parent, whose identity the image remembers.
    """

    def __init__(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
    ) -> None:
        self._digest = hashlib.sha256(repr((size, sorted(options.items()), parent)).encode())
        linkage = s.NO_GUID
        if isinstance(base, VhdxLayer):
            linkage = base.image.header.data_write_guid
            self._digest.update(linkage)
        self._image = image = _new_image(size, options, parent, base)
        self._locator = pack_locator(parent.path, linkage) if parent is not None else None
        self._fixed = image.leave_blocks_allocated
        self._data_start = image.bat.offset + image.bat.length
        self._next = self._data_start
        self._front_told = False
        chunks = max(1, _STRIP // (image.chunk_ratio + 1))
        self._strip_blocks = chunks * image.chunk_ratio
        self._strip_entries = chunks * (image.chunk_ratio + 1)
        zero = s.NOT_PRESENT
        if options["block_state_zero"] and parent is None:
            # Of a block that is not present the specification says, without a parent, that it may
            # read as anything.
            zero = s.ZERO
        self._empty = np.full((chunks, image.chunk_ratio + 1), zero, np.uint64)
        self._empty[:, -1] = s.BITMAP_NOT_PRESENT
        self._empty_bytes = self._empty.astype("<u8").tobytes() if zero else None
        self._strips: dict[int, NDArray[np.uint64]] = {}
        self._strips_told = 0
        self.block_size = image.block_size
        if self._fixed:
            self.any_block_size = True
            self.late_metadata = False
            self.data_limit = self._data_start + size

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._fixed:
            return self._data_start + blocks * self.block_size
        offsets = self._next + np.arange(len(blocks), dtype=np.int64) * self.block_size
        self._next += len(blocks) * self.block_size
        self._assign(blocks, offsets.view(np.uint64) | np.uint64(s.FULLY_PRESENT))
        return offsets

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        self._assign(blocks, np.full(len(blocks), s.ZERO, np.uint64))

    @property
    def settled(self) -> int:
        return self._next

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        if self._fixed:
            yield from self._front()
            self._next = max(self._next, self._data_start + done * self.block_size)
            return
        yield from self._tell_strips(done // self._strip_blocks)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield from self._tell_strips(-(-self._image.blocks // self._strip_blocks))
        yield from self._front()
        if self._fixed:
            self._next = self.full_size()

    def full_size(self) -> int:
        return self._data_start + self._image.blocks * self._image.block_size

    @property
    def file_size(self) -> int:
        return self._next

    def _assign(self, blocks: NDArray[np.int64], entries: NDArray[np.uint64]) -> None:
        """Put ``entries`` of ``blocks`` (ascending) into their strips."""
        self._digest.update(blocks.tobytes())
        start, ratio = 0, self._image.chunk_ratio
        while start < len(blocks):
            index = int(blocks[start]) // self._strip_blocks
            stop = int(np.searchsorted(blocks, (index + 1) * self._strip_blocks))
            strip = self._strips.get(index)
            if strip is None:
                strip = self._strips[index] = self._empty.copy()
            rows = blocks[start:stop] - index * self._strip_blocks
            strip[rows // ratio, rows % ratio] = entries[start:stop]
            start = stop

    def _tell_strips(self, until: int) -> Iterator[tuple[int, bytes]]:
        """The strips of the BAT in front of number ``until``."""
        while self._strips_told < until:
            index = self._strips_told
            self._strips_told += 1
            first = index * self._strip_entries
            length = min(self._strip_entries, self._image.bat_entries - first) * s.BAT_ENTRY
            strip = self._fixed_strip(index) if self._fixed else self._strips.pop(index, None)
            data = self._empty_bytes if strip is None else strip.astype("<u8").tobytes()
            if data is not None and length > 0:
                offset = self._image.bat.offset + first * s.BAT_ENTRY
                yield offset, data if length == len(data) else data[:length]

    def _fixed_strip(self, index: int) -> NDArray[np.uint64]:
        strip = self._empty.copy()
        first = index * self._strip_blocks
        blocks = np.arange(first, first + self._strip_blocks, dtype=np.uint64)
        size = np.uint64(self._image.block_size)
        places = np.uint64(self._data_start) + blocks * size
        places |= np.uint64(s.FULLY_PRESENT)
        strip[:, :-1] = places.reshape(len(strip), -1)
        return strip

    def _front(self) -> Iterator[tuple[int, bytes]]:
        """What stands in front of the BAT; of a fixed disk the BAT as well."""
        if self._front_told:
            return
        self._front_told = True
        image = self._image
        if self._fixed:
            yield from self._tell_strips(-(-image.blocks // self._strip_blocks))
        image.disk_id = self._guid("virtual disk")
        yield 0, pack_identifier(_CREATOR)
        for number, offset in enumerate(s.HEADER_OFFSETS):
            yield offset, pack_header(self._header(number))
        for offset in s.REGION_TABLE_OFFSETS:
            yield offset, pack_region_table(image.regions)
        yield image.metadata.offset, pack_metadata(image, self._locator)

    def _header(self, number: int) -> VhdxHeader:
        header = self._image.header
        return VhdxHeader(
            sequence_number=number + 1,
            file_write_guid=self._guid("file write"),
            data_write_guid=self._guid("data write"),
            log_guid=s.NO_GUID,
            log_version=0,
            version=1,
            log_length=header.log_length,
            log_offset=header.log_offset,
        )

    def _guid(self, role: str) -> bytes:
        digest = self._digest.copy()
        digest.update(role.encode())
        guid = bytearray(digest.digest()[:16])
        # Version 8 (custom) of RFC 9562, in the order of bytes that files have.
        guid[7] = guid[7] & 0x0F | 0x80
        guid[8] = guid[8] & 0x3F | 0x80
        return bytes(guid)


def _new_image(
    size: int, options: Mapping[str, OptionValue], parent: ParentRef | None, base: Layer | None
) -> VhdxImage:
    """The layout of a new image. Raises OptionError for what does not fit together."""
    logical = int(options["logical_sector_size"])
    block_size = int(options["block_size"]) or _auto_block(size)
    log_size = int(options["log_size"])
    fixed = options["subformat"] == "fixed"
    if not s.MIN_BLOCK <= block_size <= s.MAX_BLOCK or block_size & (block_size - 1):
        raise OptionError(f"block_size is a power of two from 1M to 256M, not {block_size}")
    if not MIB <= log_size <= s.MAX_LOG_LENGTH or log_size % MIB:
        raise OptionError(f"log_size is whole MiB, from 1M to 4095M, not {log_size}")
    if size > s.MAX_SIZE:
        raise OptionError(f"a VHDX holds 64 TiB at most, not {format_size(size)}")
    if size % logical:
        raise OptionError(
            f"a disk of {size} bytes is not whole sectors of {logical}: "
            f"make it {align_up(size, logical)}, or pass logical_sector_size=512"
        )
    if parent is not None and fixed:
        raise OptionError("a fixed disk has no parent; leave out subformat=fixed")
    if parent is not None and parent.format not in (None, "vhdx"):
        raise OptionError(f"the parent of a VHDX is a VHDX, not {parent.format}")
    if isinstance(base, VhdxLayer) and base.image.logical_sector_size != logical:
        sector = base.image.logical_sector_size
        raise OptionError(
            f"the parent has logical sectors of {sector} bytes: pass logical_sector_size={sector}"
        )
    none = s.NO_GUID
    header = VhdxHeader(1, none, none, none, 0, 1, log_size, s.HEADER_SECTION)
    metadata = Region(s.METADATA_REGION, s.HEADER_SECTION + log_size, MIB)
    bat = Region(s.BAT_REGION, metadata.offset + metadata.length, MIB)
    image = VhdxImage(
        creator=_CREATOR,
        headers=Headers((header, None), 0),
        regions=(bat, metadata),
        bat=bat,
        metadata=metadata,
        block_size=block_size,
        leave_blocks_allocated=fixed,
        has_parent=parent is not None,
        size=size,
        logical_sector_size=logical,
        physical_sector_size=int(options["physical_sector_size"]),
        disk_id=none,
    )
    # QEMU wants a BAT of 2^32 / chunk ratio entries for a disk of no size: so it counts.
    entries = image.bat_entries or (1 << 32) // image.chunk_ratio
    length = align_up(entries * s.BAT_ENTRY, MIB)
    image.bat = Region(s.BAT_REGION, bat.offset, length)
    image.regions = (image.bat, metadata)
    return image


def _auto_block(size: int) -> int:
    return next((block for limit, block in _AUTO_BLOCK if size <= limit), _LARGEST_AUTO)
