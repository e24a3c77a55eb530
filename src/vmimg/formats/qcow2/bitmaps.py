"""The directory of persistent bitmaps of qcow2 (dirty bitmaps of backup tools). No numpy.

The bitmaps extension of the header says where the directory lies; each entry names a bitmap and the
table of its clusters. It is recognised and reported; the bits themselves are not read here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["AUTO", "IN_USE", "Bitmap", "BitmapDirectory", "read_bitmaps", "read_extension"]

# Flags of an entry
IN_USE: Final = 1 << 0
"""Was not saved properly: its content cannot be trusted."""
AUTO: Final = 1 << 1
"""To be enabled when the image is opened: it records writes."""
EXTRA_DATA_COMPATIBLE: Final = 1 << 2
"""May be used although its extra data is not understood."""

_FLAG_NAMES: Final = ((IN_USE, "in-use"), (AUTO, "auto"))
_ENTRY_BYTES: Final = ctypes.sizeof(s.BitmapEntry)
_EXTENSION_BYTES: Final = ctypes.sizeof(s.BitmapsExtension)
# QEMU's limits: names of 1023 bytes, a directory of 65535 such entries, granularity 2^9 to 2^31.
_MAX_NAME: Final = 1023
_MAX_DIRECTORY_BYTES: Final = s.MAX_BITMAPS * (_ENTRY_BYTES + _MAX_NAME + 1)
_GRANULARITY_BITS: Final = (9, 31)


@dataclass(frozen=True, slots=True)
class BitmapDirectory:
    """Where the directory lies: ``offset`` and ``size`` in bytes, ``count`` entries."""

    offset: int
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A directory entry. ``granularity`` in bytes per bit, ``table_size`` in entries of 8 bytes;
    ``entry_offset`` is where the entry lies in the file.
    """

    name: str
    granularity: int
    flags: int
    table_offset: int
    table_size: int
    entry_offset: int

    @property
    def flag_names(self) -> list[str]:
        """As qemu-img names them."""
        return [name for flag, name in _FLAG_NAMES if self.flags & flag]


def read_extension(storage: Storage, header: Qcow2Header) -> BitmapDirectory | None:
    """Where the directory is; None where there is none that is valid.

    A writer that does not know bitmaps clears the autoclear bit; the extension is stale then and
    QEMU ignores it. Raises FormatError for an extension that breaks the rules.
    """
    data = header.extension(s.EXT_BITMAPS)
    if data is None or not header.autoclear_features & s.BITMAPS_CONSISTENT:
        return None
    if len(data) != _EXTENSION_BYTES:
        raise FormatError(
            f"{storage.name}: the bitmaps extension has {len(data)} bytes, not {_EXTENSION_BYTES}"
        )
    fields = s.BitmapsExtension.from_buffer_copy(data)
    offset, size = int(fields.bitmap_directory_offset), int(fields.bitmap_directory_size)
    count = int(fields.nb_bitmaps)
    if not 0 < count <= s.MAX_BITMAPS:
        raise FormatError(f"{storage.name}: {count} bitmaps; 1 to {s.MAX_BITMAPS} are allowed")
    if size > _MAX_DIRECTORY_BYTES or size < count * _ENTRY_BYTES:
        raise FormatError(
            f"{storage.name}: a directory of {size} bytes cannot hold {count} bitmaps"
        )
    if not offset or offset % header.cluster_size or offset + size > storage.size:
        raise FormatError(
            f"{storage.name}: the bitmap directory at offset {offset} ({size} bytes) is not on a "
            f"cluster boundary or lies behind the end of the file ({storage.size})"
        )
    return BitmapDirectory(offset, size, count)


def read_bitmaps(storage: Storage, header: Qcow2Header) -> list[Bitmap]:
    """The entries of the directory; none where there is no valid one. Raises FormatError."""
    directory = read_extension(storage, header)
    if directory is None:
        return []
    area = storage.read(directory.offset, directory.size)
    found: list[Bitmap] = []
    position = 0
    while position < len(area):
        what = f"{storage.name}: the bitmap directory entry at offset {directory.offset + position}"
        if position + _ENTRY_BYTES > len(area):
            raise FormatError(f"{what} is cut short")
        entry = s.BitmapEntry.from_buffer_copy(area, position)
        name_start = position + _ENTRY_BYTES + entry.extra_data_size
        name_end = name_start + entry.name_size
        if name_end > len(area):
            raise FormatError(f"{what} reaches past the end of the directory")
        low, high = _GRANULARITY_BITS
        if not low <= entry.granularity_bits <= high or not 0 < entry.name_size <= _MAX_NAME:
            raise FormatError(
                f"{what} has a granularity of 2^{entry.granularity_bits} bytes and a name of "
                f"{entry.name_size}; 2^{low} to 2^{high} and 1 to {_MAX_NAME} are allowed"
            )
        found.append(
            Bitmap(
                name=area[name_start:name_end].decode("utf-8", "surrogateescape"),
                granularity=1 << entry.granularity_bits,
                flags=entry.flags,
                table_offset=entry.bitmap_table_offset,
                table_size=entry.bitmap_table_size,
                entry_offset=directory.offset + position,
            )
        )
        position = align_up(name_end, 8)
    if len(found) != directory.count:
        raise FormatError(
            f"{storage.name}: the bitmap directory has {len(found)} entries, "
            f"the header says {directory.count}"
        )
    return found
