"""The header of a Bochs redolog: parsed and checked. No numpy.

`read_header` believes nothing: each number is checked against what QEMU allows and against the size
of the file before anything is read or allocated by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.bochs import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_down, align_up

__all__ = ["BochsHeader", "read_header"]


@dataclass(frozen=True, slots=True)
class BochsHeader:
    """What the header says, checked. Offsets and sizes in bytes, ``entries`` of the catalog."""

    version: int
    size: int
    entries: int
    catalog_offset: int
    bitmap_size: int
    """Of an extent's bitmap, in whole sectors."""
    extent_size: int

    @property
    def extents(self) -> int:
        """Extents of the disk: entries of the catalog that mean something."""
        return -(-self.size // self.extent_size)

    @property
    def data_start(self) -> int:
        """Where place 0 begins, with its bitmap."""
        return self.catalog_offset + 4 * self.entries

    @property
    def stride(self) -> int:
        """Bytes from one place to the next."""
        return self.bitmap_size + self.extent_size


def read_header(storage: Storage) -> BochsHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for redologs that are no disks by themselves, by name, and for other versions.
    """
    name = storage.name
    if storage.size < s.HEADER_SIZE:
        raise FormatError(
            f"{name}: a Bochs header has {s.HEADER_SIZE} bytes, the file {storage.size}"
        )
    head = storage.read(0, s.HEADER_SIZE)
    standard = s.StandardHeader.from_buffer_copy(head)
    if not head.startswith(s.MAGIC):
        raise FormatError(f"{name}: not a Bochs image: it begins with {head[:8].hex(' ')}")
    _check_kind(name, _text(standard.type), _text(standard.subtype))
    version = standard.version
    if version not in (s.VERSION_1, s.VERSION_2):
        raise UnsupportedFeature(
            f"{name}: a Bochs image of version {version >> 16}.{version & 0xFFFF}; known are "
            "1.0 and 2.0"
        )
    kind = s.SpecificHeader if version == s.VERSION_2 else s.SpecificHeader1
    raw = kind.from_buffer_copy(head, s.STANDARD_SIZE)
    _check_numbers(name, standard.header, raw)
    header = BochsHeader(
        version=version,
        size=align_down(raw.disk, s.SECTOR),
        entries=raw.catalog,
        catalog_offset=standard.header,
        bitmap_size=align_up(raw.bitmap, s.SECTOR),
        extent_size=raw.extent,
    )
    if header.extents > header.entries:
        raise FormatError(
            f"{name}: a disk of {raw.disk} bytes has no room in {header.entries} extents of "
            f"{header.extent_size} bytes"
        )
    if header.data_start > storage.size:
        raise FormatError(
            f"{name}: the catalog at {header.catalog_offset} has {header.entries} entries and "
            f"reaches behind the end of the file ({storage.size}): it is truncated or damaged"
        )
    return header


def _check_kind(name: str, kind: str, subtype: str) -> None:
    if kind != s.REDOLOG:
        raise UnsupportedFeature(f"{name}: a Bochs image of type '{kind}'; known is {s.REDOLOG}")
    if subtype in s.SUBTYPES:
        raise UnsupportedFeature(
            f"{name}: is {s.SUBTYPES[subtype]} of Bochs ('{subtype}'): it holds changes of a disk "
            "that it does not name; commit it with Bochs's bximage, and take that disk"
        )
    if subtype != s.GROWING:
        raise UnsupportedFeature(
            f"{name}: a Bochs redolog of subtype '{subtype}'; known is {s.GROWING}"
        )


def _check_numbers(name: str, start: int, raw: s.SpecificHeader | s.SpecificHeader1) -> None:
    if start < s.HEADER_SIZE:
        raise FormatError(f"{name}: the header is said to have {start} bytes")
    if raw.catalog > s.MAX_CATALOG:
        raise FormatError(
            f"{name}: a catalog of {raw.catalog} entries; there may be {s.MAX_CATALOG}"
        )
    extent = raw.extent
    if not s.SECTOR <= extent <= s.MAX_EXTENT or extent & (extent - 1):
        raise FormatError(
            f"{name}: an extent size of {extent} bytes is not a power of two from {s.SECTOR} to "
            f"{s.MAX_EXTENT}"
        )
    needed = -(-extent // s.SECTOR // 8)
    if not needed <= raw.bitmap <= s.MAX_EXTENT:
        raise FormatError(
            f"{name}: a bitmap of {raw.bitmap} bytes for an extent; it takes {needed} to say "
            "which sectors are there"
        )


def _text(data: bytes) -> str:
    """For messages too: what a stranger wrote there stays printable."""
    return data.decode("ascii", "backslashreplace").encode("unicode_escape").decode()
