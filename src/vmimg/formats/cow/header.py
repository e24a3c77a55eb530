"""The header of a COW image: parsed, checked, and made. No numpy.

`read_header` believes nothing: each number is checked against the size of the file before anything
is read or allocated by it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from vmimg.disk.layer import ParentRef
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.cow import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_down, align_up

__all__ = ["CowHeader", "find_layout", "pack_header", "read_header"]

_Raw = s.Header64 | s.Header32


@dataclass(slots=True)
class CowHeader:
    """What the header says, checked. Offsets and sizes in bytes.

    ``size`` is a multiple of 512. ``mtime``: seconds since the epoch, 32 bits of them; 0: unknown.
    """

    size: int
    bitmap_offset: int = ctypes.sizeof(s.Header64)
    mtime: int = 0
    backing_file: str | None = None

    @property
    def sectors(self) -> int:
        """Sectors of the disk: bits of the bitmap."""
        return self.size // s.SECTOR

    @property
    def bitmap_bytes(self) -> int:
        return -(-self.sectors // 8)

    @property
    def bitmap_end(self) -> int:
        return self.bitmap_offset + self.bitmap_bytes

    @property
    def data_offset(self) -> int:
        """Where sector 0 of the disk is."""
        return align_up(self.bitmap_end, s.SECTOR)

    @property
    def parent(self) -> ParentRef | None:
        """The backing file; its format is nowhere said."""
        return None if self.backing_file is None else ParentRef(self.backing_file, None)


def read_header(storage: Storage) -> CowHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for the images of User Mode Linux.
    """
    name = storage.name
    if storage.size < 8:
        raise FormatError(f"{name}: the file ends at {storage.size}, inside the COW header")
    start = storage.read(0, 8)
    version = int.from_bytes(start[4:], "big")
    if start == s.MAGIC_SWAPPED + b"\1\0\0\0" or (start[:4] == s.MAGIC and version == 1):
        raise UnsupportedFeature(f"{name}: a COW image of User Mode Linux, version 1")
    if start[:4] != s.MAGIC:
        raise FormatError(f"{name}: not a COW image: the magic at offset 0 is {start[:4].hex(' ')}")
    if version == 3:
        raise UnsupportedFeature(
            f"{name}: a COW image of User Mode Linux, version 3; merge it into its backing file "
            "with uml_moo"
        )
    if version != s.VERSION:
        raise UnsupportedFeature(f"{name}: COW version {version}; QEMU's is version 2")
    raw = find_layout(storage)
    header = CowHeader(
        size=align_down(raw.size, s.SECTOR),
        bitmap_offset=ctypes.sizeof(raw),
        mtime=raw.mtime & 0xFFFF_FFFF,
    )
    if raw.size < s.SECTOR or raw.size >= 1 << 63:
        raise FormatError(f"{name}: a virtual size of {raw.size} bytes is not possible")
    if header.bitmap_end > storage.size:
        raise FormatError(
            f"{name}: the bitmap of {header.sectors} sectors at offset {header.bitmap_offset} "
            f"reaches behind the end of the file ({storage.size}): it is truncated or damaged"
        )
    backing = bytes(raw)[8 : 8 + s.NAME_BYTES].partition(b"\0")[0]
    header.backing_file = backing.decode("utf-8", "surrogateescape") or None
    return header


def pack_header(header: CowHeader) -> bytes:
    """The header of a new image. Raises FormatError when the name of the backing file does not
    fit.
    """
    backing = (header.backing_file or "").encode("utf-8", "surrogateescape")
    if len(backing) >= s.NAME_BYTES:
        raise FormatError(f"the backing file name has {len(backing)} bytes; COW allows 1023")
    raw = s.Header64(
        magic=s.MAGIC,
        version=s.VERSION,
        backing_file=backing,
        mtime=header.mtime,
        size=header.size,
        sectorsize=s.SECTOR,
    )
    return bytes(raw)


def find_layout(storage: Storage) -> _Raw:
    """The header, by the layout in which its sector size is one."""
    most = max(s.UML_SECTORSIZE) + 4
    head = storage.read(0, min(storage.size, most)).ljust(most, b"\0")
    layouts: list[_Raw] = [s.Header64.from_buffer_copy(head), s.Header32.from_buffer_copy(head)]
    fitting = [raw for raw in layouts if raw.sectorsize == s.SECTOR]
    if fitting:
        # Both fit where one's bitmap, or size, looks like the other's sector size: a size that the
        # file has no bitmap for decides then.
        return min(fitting, key=lambda raw: raw.size // s.SECTOR // 8 > storage.size)
    if any(head[place : place + 4] == s.SECTOR.to_bytes(4, "big") for place in s.UML_SECTORSIZE):
        raise UnsupportedFeature(
            f"{storage.name}: a COW image of User Mode Linux, version 2; merge it into its backing "
            "file with uml_moo"
        )
    if storage.size < ctypes.sizeof(s.Header32):
        raise FormatError(
            f"{storage.name}: a COW header has {ctypes.sizeof(s.Header32)} bytes or more, the file "
            f"{storage.size}"
        )
    raise FormatError(
        f"{storage.name}: the header gives no sector size of 512, where QEMU and User Mode Linux "
        "have it: it is damaged"
    )
