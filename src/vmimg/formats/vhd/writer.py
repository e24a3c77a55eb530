"""VhdWriter and FixedVhdWriter: lay out a new VHD. They place blocks and never touch guest data.

::

    dynamic:  footer | dynamic header | BAT | parent locators | [gap | sector bitmap | data] ... |
              footer
    fixed:    the disk | footer

The data of each block begins at a multiple of 4096, with its sector bitmap right before it; the
gap in front takes less than that. Windows lays its blocks out so on storage with sectors of 4096
bytes, and pages of the guest are pages of the file.

The unique id is made from what is asked for, not of chance, so that the same disk gives the same
file.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0.
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
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import LARGEST_BLOCK, bitmap_bytes, geometry, pack
from vmimg.formats.vhd.layer import FixedVhdLayer, VhdLayer
from vmimg.formats.vhd.locators import locator_data, locator_space
from vmimg.units import KIB, align_up, format_size

__all__ = ["FixedVhdWriter", "VhdWriter", "block_step", "new_writer"]

# Readers disagree on the size of a disk: Virtual PC, and QEMU for creators that it does not know,
# take cylinders x heads x sectors, which is nearly always less. For "win ", Hyper-V's, all of them
# believe current_size, so that what is asked for is what everyone reads.
_CREATOR: Final = b"win "
_CREATOR_VERSION: Final = 0x0006_0001
_HOST_OS: Final = b"Wi2k"

_BLOCK_SIZES: Final = (512 * KIB, LARGEST_BLOCK)
_ALIGNMENT: Final = 4096
# What a footer and the dynamic header are followed by.
_TABLE_OFFSET: Final = s.FOOTER_SIZE + s.DYNAMIC_HEADER_SIZE
_NAMESPACE: Final = b"vmimg vhd 1"


def new_writer(
    size: int, options: Mapping[str, OptionValue], parent: ParentRef | None, base: Layer | None
) -> Writer:
    """The writer for what ``options`` ask for. Raises OptionError where they do not fit."""
    if size > s.MAX_SIZE:
        raise OptionError(
            f"vhd holds {format_size(s.MAX_SIZE)} at most, not {format_size(size)}; "
            "vhdx holds 64 TiB"
        )
    if options.get("subformat") == "fixed":
        if parent is not None:
            raise OptionError("subformat=fixed cannot have a backing file: it has no blocks")
        return FixedVhdWriter(size)
    return VhdWriter(size, int(options["block_size"]), parent, base)


class FixedVhdWriter(Writer):
    """The disk as it is, and a footer. ``size`` in bytes, rounded up to sectors."""

    any_block_size = True
    late_metadata = False
    block_size = _ALIGNMENT

    def __init__(self, size: int) -> None:
        self._size = self.data_limit = align_up(size, s.SECTOR)
        self._footer = _footer(self._size, s.FIXED, _identity("fixed", self._size))
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return blocks * self.block_size

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        self._settled = min(done * self.block_size, self._size)
        return iter(())

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield self._size, self._footer

    def full_size(self) -> int:
        return self.file_size

    @property
    def file_size(self) -> int:
        return self._size + s.FOOTER_SIZE


class VhdWriter(Writer):
    """Dynamic, or differencing where there is a ``parent``; ``base`` is that, open, if it may be
    looked at.
    """

    def __init__(
        self, size: int, block_size: int, parent: ParentRef | None, base: Layer | None
    ) -> None:
        smallest, largest = _BLOCK_SIZES
        if not smallest <= block_size <= largest or block_size & (block_size - 1):
            raise OptionError(
                f"block_size is a power of two from {format_size(smallest)} to "
                f"{format_size(largest)}, not {block_size}"
            )
        self.block_size = block_size
        self._size = align_up(size, s.SECTOR)
        self._locators = [] if parent is None else locator_data(parent.path)
        self._header = _dynamic_header(self._size, block_size)
        if parent is not None:
            _name_parent(self._header, parent, base)
        self._bat = np.full(self._header.max_table_entries, s.UNUSED, np.uint32)
        table_end = _TABLE_OFFSET + align_up(len(self._bat) * 4, s.SECTOR)
        self._table_end = table_end
        self._front = table_end + sum(locator_space(data) for _, data in self._locators)
        self._bitmap = b"\xff" * bitmap_bytes(block_size)
        self._alignment = _ALIGNMENT
        if self._end(len(self._bat)) > s.UNUSED * s.SECTOR:
            # Small blocks of the largest disks: with gaps the last ones could not be named.
            self._alignment = s.SECTOR
        self._count = 0
        self._written = 0
        """Blocks whose sector bitmaps were handed out."""

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets = self._place_of(self._count + np.arange(len(blocks), dtype=np.int64))
        self._bat[blocks] = (offsets - len(self._bitmap)) // s.SECTOR
        self._count += len(blocks)
        return offsets

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        # All sectors are here, and a hole of the file is what they are.
        self.place(blocks)

    @property
    def settled(self) -> int:
        return int(self._place_of(self._count)) - len(self._bitmap)

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        # All sectors of a block are here: what nobody wrote of it reads as zeros, as it should.
        while self._written < self._count:
            offset = int(self._place_of(self._written)) - len(self._bitmap)
            self._written += 1
            yield offset, self._bitmap

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield from self.drain(len(self._bat))
        header, offset, front = self._header, self._table_end, b""
        for number, (code, data) in enumerate(self._locators):
            space = locator_space(data)
            entry = header.parent_locators[number]
            entry.platform_code[:] = code
            # In bytes, as Microsoft's programs write it; the specification says sectors.
            entry.platform_data_space = space
            entry.platform_data_length = len(data)
            entry.platform_data_offset = offset
            offset += space
            front += data.ljust(space, b"\0")
        kind = s.DIFFERENCING if self._locators else s.DYNAMIC
        parent = bytes(header.parent_unique_id)
        unique = _identity(s.TYPE_NAMES[kind], self._size, self.block_size, parent)
        footer = _footer(self._size, kind, unique)
        table = self._bat.astype(">u4").tobytes()
        table = table.ljust(self._table_end - _TABLE_OFFSET, b"\xff")
        yield 0, footer + pack(header) + table + front
        yield self._end(self._count), footer

    def full_size(self) -> int:
        return self._end(len(self._bat)) + s.FOOTER_SIZE

    @property
    def file_size(self) -> int:
        return self._end(self._count) + s.FOOTER_SIZE

    def _place_of(self, number: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Where the data of the blocks is that are the ``number``-th in the file."""
        first = align_up(self._front + len(self._bitmap), self._alignment)
        step = block_step(self.block_size, self._alignment)
        return np.asarray(first + np.asarray(number, np.int64) * step)

    def _end(self, count: int) -> int:
        """Where the footer is behind ``count`` blocks."""
        return int(self._place_of(count - 1)) + self.block_size if count else self._front


def block_step(block_size: int, alignment: int = _ALIGNMENT) -> int:
    """Bytes from the data of one block to that of the next, the bitmap in between."""
    return align_up(bitmap_bytes(block_size) + block_size, alignment)


def _dynamic_header(size: int, block_size: int) -> s.DynamicHeader:
    return s.DynamicHeader(
        cookie=s.DYNAMIC_COOKIE,
        data_offset=s.NO_OFFSET,
        table_offset=_TABLE_OFFSET,
        header_version=s.VERSION,
        max_table_entries=max(1, -(-size // block_size)),
        block_size=block_size,
    )


def _name_parent(header: s.DynamicHeader, parent: ParentRef, base: Layer | None) -> None:
    """Say in ``header`` who the parent is; its locators come when their places are known."""
    if parent.format != "vhd":
        raise OptionError(f"the backing file of a vhd image is a vhd, not {parent.format}")
    name = os.path.basename(parent.path).encode("utf-16-be")
    if not name or len(name) >= len(header.parent_unicode_name):
        raise OptionError(f"VHD cannot name a parent called '{parent.path}': it is too long")
    header.parent_unicode_name[: len(name)] = name
    if base is None:
        return
    if not isinstance(base, VhdLayer | FixedVhdLayer):
        raise OptionError(f"{base.name}: the backing file of a vhd image is a vhd")
    header.parent_unique_id[:] = base.image.unique_id.bytes
    modified = base.storage.modified()
    if modified is not None:
        header.parent_time_stamp = min(max(0, int(modified) - s.EPOCH), 0xFFFF_FFFF)


def _footer(size: int, kind: int, unique_id: UUID) -> bytes:
    cylinders, heads, sectors = geometry(size)
    return pack(
        s.Footer(
            cookie=s.COOKIE,
            features=s.RESERVED_FEATURE,
            file_format_version=s.VERSION,
            data_offset=s.NO_OFFSET if kind == s.FIXED else s.FOOTER_SIZE,
            time_stamp=0,
            creator_application=tuple(_CREATOR),
            creator_version=_CREATOR_VERSION,
            creator_host_os=tuple(_HOST_OS),
            original_size=size,
            current_size=size,
            cylinders=cylinders,
            heads=heads,
            sectors_per_track=sectors,
            disk_type=kind,
            unique_id=tuple(unique_id.bytes),
        )
    )


def _identity(*facts: object) -> UUID:
    """A UUID of its own for each thing that was asked for."""
    digest = hashlib.sha256(_NAMESPACE + repr(facts).encode()).digest()
    return UUID(bytes=digest[:16], version=4)
