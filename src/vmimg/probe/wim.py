"""WIM: the archives that Windows is installed from; ESD, SWM and wimlib's pipable files too.

A header of 208 bytes names four resources: the table of blobs, the XML that describes the images,
the metadata of the image to boot and a table of checksums; they mostly lie at the end. A resource
is a place in the file, with flags. An ESD stores many blobs in one compressed resource ("solid"),
of an SWM each file is a part of one archive. A pipable file (WLPWM) has a header at both ends, the
last one complete.

Sources: Microsoft's "Windows Imaging File Format (WIM)" white paper; wimlib's headers header.h and
resource.h for what it leaves out. Imports `xml` when it has any to read.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Final

from vmimg.formats.raw.findings import View, as_guid
from vmimg.storage.base import NotHeld

__all__ = [
    "COMPRESSED",
    "FLAG_NAMES",
    "MAX_XML",
    "METADATA",
    "RESOURCE_ONLY",
    "SOLID",
    "BlobEntry",
    "ResourceHeader",
    "Wim",
    "WimHeader",
    "read_wim",
    "read_xml",
]

HEADER_BYTES: Final = 208
MAX_XML: Final = 1 << 20
_MAGIC: Final = b"MSWIM\0\0\0"
_PIPABLE: Final = b"WLPWM\0\0\0"
VERSIONS: Final = {0x10D00: "1.13", 0xE00: "0.14 (solid)"}

# Of the header.
COMPRESSION: Final = 0x2
READ_ONLY: Final = 0x4
SPANNED: Final = 0x8
RESOURCE_ONLY: Final = 0x10
METADATA_ONLY: Final = 0x20
WRITE_IN_PROGRESS: Final = 0x40
RP_FIX: Final = 0x80
FLAG_NAMES: Final = {
    0x1: "reserved",
    COMPRESSION: "compressed",
    READ_ONLY: "read-only",
    SPANNED: "spanned",
    RESOURCE_ONLY: "resources only",
    METADATA_ONLY: "metadata only",
    WRITE_IN_PROGRESS: "write in progress",
    RP_FIX: "reparse points fixed",
    0x10000: "compression reserved",
}
COMPRESSIONS: Final = {0x20000: "XPRESS", 0x40000: "LZX", 0x80000: "LZMS", 0x200000: "XPRESS2"}

# Of a resource.
FREE: Final = 0x1
METADATA: Final = 0x2
COMPRESSED: Final = 0x4
SPANNED_RESOURCE: Final = 0x8
SOLID: Final = 0x10


class ResourceHeader(ctypes.LittleEndianStructure):
    """Where a resource lies; ``size_and_flags``: 56 bits of its size in the file, 8 of flags."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("size_and_flags", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("original_size", ctypes.c_uint64),
    )

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return int(self.size_and_flags) & (1 << 56) - 1

    @property
    def flags(self) -> int:
        """FREE to SOLID."""
        return int(self.size_and_flags) >> 56

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return int(self.offset) + self.size


class WimHeader(ctypes.LittleEndianStructure):
    """At offset 0; of a pipable file the complete one is the last 208 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 8),
        ("header_size", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("chunk_size", ctypes.c_uint32),
        ("guid", ctypes.c_uint8 * 16),
        ("part_number", ctypes.c_uint16),
        ("total_parts", ctypes.c_uint16),
        ("image_count", ctypes.c_uint32),
        ("blob_table", ResourceHeader),
        ("xml_data", ResourceHeader),
        ("boot_metadata", ResourceHeader),
        ("boot_index", ctypes.c_uint32),
        ("integrity", ResourceHeader),
        ("unused", ctypes.c_uint8 * 60),
    )


class BlobEntry(ctypes.LittleEndianStructure):
    """An entry of the table of blobs. The one of a solid resource itself has an original size of
    4 GiB exactly; those of what is in it follow, with places in what it unpacks to.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("resource", ResourceHeader),
        ("part_number", ctypes.c_uint16),
        ("reference_count", ctypes.c_uint32),
        ("sha1", ctypes.c_uint8 * 20),
    )


@dataclass(slots=True)
class Wim:
    """``header``: the one that counts, at ``offset``. ``solid`` None: the table is out of reach."""

    header: WimHeader
    offset: int
    pipable: bool
    guid: str = ""
    compression: str = "none"
    flags: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    solid: bool | None = None
    encrypted: bool = False
    missing: tuple[str, ...] = field(default=())
    """What was out of reach in a stream."""

    @property
    def version(self) -> str:
        """1.13, or 0.14 of those which may be solid."""
        number = int(self.header.version)
        return VERSIONS.get(number, f"{number:#x}")


def read_wim(view: View) -> Wim | None:
    """What the header says, with the names of the images where the XML is within reach."""
    magic = view.read(0, 8)
    if magic not in (_MAGIC, _PIPABLE):
        return None
    first = view.structure(WimHeader, 0)
    if first is None or first.header_size != HEADER_BYTES:
        return None
    wim = Wim(first, 0, magic == _PIPABLE)
    missing = []
    if wim.pipable and not first.xml_data.size_and_flags:
        try:
            last = view.structure(WimHeader, view.size - HEADER_BYTES)
            if last is not None and bytes(last.magic) == _PIPABLE and last.header_size == 208:
                wim.header, wim.offset = last, view.size - HEADER_BYTES
        except NotHeld:
            missing.append("the header at its end")
    header = wim.header
    wim.guid = as_guid(header.guid)
    wim.compression = _compression(int(header.flags))
    wim.flags = tuple(name for bit, name in FLAG_NAMES.items() if header.flags & bit)
    try:
        _read_images(view, wim)
    except NotHeld:
        missing.append("its XML")
    try:
        wim.solid = _is_solid(view, header)
    except NotHeld:
        missing.append("its table of blobs")
    wim.missing = tuple(missing)
    return wim


def read_xml(view: View, header: WimHeader) -> bytes | None:
    """The XML as it stands in the file; None where it is compressed, too large or not there."""
    place = header.xml_data
    if place.flags & COMPRESSED or not 0 < place.size <= MAX_XML or place.end > view.size:
        return None
    return view.read(int(place.offset), place.size)


def _compression(flags: int) -> str:
    if not flags & COMPRESSION:
        return "none"
    known = [name for bit, name in COMPRESSIONS.items() if flags & bit]
    return known[0] if len(known) == 1 else "unknown"


def _read_images(view: View, wim: Wim) -> None:
    from vmimg.probe.xml import scan

    data = read_xml(view, wim.header)
    if data is None:
        return
    found = scan(data, ("NAME", "ENCRYPTED", "KEY"))
    wim.images = tuple(
        element.text for element in found.elements if element.within == ("WIM", "IMAGE")
    )
    wim.encrypted = any("ESD" in element.within for element in found.elements)


def _is_solid(view: View, header: WimHeader) -> bool:
    """Whether one of the first blobs lies in a solid resource."""
    table = header.blob_table
    count = min(table.size // ctypes.sizeof(BlobEntry), 8)
    if table.flags & COMPRESSED or table.end > view.size:
        return False
    for number in range(count):
        entry = view.structure(BlobEntry, int(table.offset) + number * ctypes.sizeof(BlobEntry))
        if entry is not None and entry.resource.flags & SOLID:
            return True
    return False
