"""The footer and the dynamic header of a VHD: found, parsed, checked, and packed. No numpy.

::

    fixed:    the disk, byte for byte | footer
    dynamic:  copy of the footer | dynamic header (1024) | BAT | sector bitmap and data of a block |
              ... | footer

`read_image` believes nothing: each number is checked against the limits of the specification and
the size of the file before anything is read or allocated by it.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0; which size counts: QEMU block/vpc.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhd import structures as s
from vmimg.storage.base import NotHeld, Storage
from vmimg.units import MIB, align_up, format_size

__all__ = [
    "LARGEST_BLOCK",
    "DynamicFields",
    "FoundFooter",
    "VhdImage",
    "bitmap_bytes",
    "checksum",
    "find_footers",
    "geometry",
    "pack",
    "read_image",
]

# A BAT of this size maps 2040 GiB in blocks of 512 KiB, the smallest that are made.
MAX_BAT_BYTES: Final = 16 << 20

# Of a block with fewer than 8 sectors QEMU takes the bitmap to have no bytes, the specification a
# sector. Nobody makes such.
_SMALLEST_BLOCK: Final = 8 * s.SECTOR
# What is known of a block is looked at at once, sector by sector. Everyone makes 2 MiB or less.
LARGEST_BLOCK: Final = 256 * MIB

# Virtual PC takes cylinders x heads x sectors for the size of a disk, and rounds current_size
# up or not at all. Everyone else means current_size. QEMU before version 10 took the geometry for
# creators it had not heard of, too ("wa", which is Azure, "vbox"), and lost the end of their disks.
_SIZED_BY_GEOMETRY: Final = (b"vpc ", b"qemu")
_MAX_GEOMETRY: Final = s.MAX_CYLINDERS * s.MAX_HEADS * s.MAX_SECTORS * s.SECTOR


@dataclass(frozen=True, slots=True)
class FoundFooter:
    """512 bytes that begin like a footer, at ``offset``; ``length`` is 511 for old ones."""

    offset: int
    length: int
    raw: bytes

    @property
    def fields(self) -> s.Footer:
        return s.Footer.from_buffer_copy(self.raw)

    @property
    def good(self) -> bool:
        """Whether its checksum is right."""
        return bool(self.fields.checksum == checksum(self.raw, s.Footer.checksum.offset))

    @property
    def sparse(self) -> bool:
        """Whether it speaks of a dynamic or differencing disk."""
        return self.fields.disk_type in (s.DYNAMIC, s.DIFFERENCING)

    @property
    def spans_file(self) -> bool:
        """Whether it is that of a fixed disk which begins with the file and ends before it."""
        fields = self.fields
        return bool(
            self.good and fields.disk_type == s.FIXED and fields.current_size == self.offset
        )


@dataclass(frozen=True, slots=True)
class DynamicFields:
    """The dynamic header, checked. Offsets and sizes in bytes. ``raw``: its 1024 bytes."""

    offset: int
    table_offset: int
    max_table_entries: int
    block_size: int
    parent_unique_id: UUID
    parent_time_stamp: int
    raw: bytes
    good: bool
    """Whether the checksum is right."""

    @property
    def bitmap_size(self) -> int:
        return bitmap_bytes(self.block_size)

    @property
    def table_end(self) -> int:
        return self.table_offset + self.max_table_entries * 4


@dataclass(slots=True)
class VhdImage:
    """What the footer, its copy and the dynamic header say, checked.

    ``size``: virtual bytes. ``footer``: the one that was believed; ``head`` and ``end``: what is
    at both places. ``damage``: what has to be repaired before the image can be written.
    """

    size: int
    footer: FoundFooter
    head: FoundFooter | None
    end: FoundFooter | None
    dynamic: DynamicFields | None
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fields(self) -> s.Footer:
        return self.footer.fields

    @property
    def unique_id(self) -> UUID:
        return UUID(bytes=bytes(self.fields.unique_id))

    @property
    def differencing(self) -> bool:
        return bool(self.dynamic is not None and self.fields.disk_type == s.DIFFERENCING)

    @property
    def contradicting(self) -> bool:
        """Whether both footers are good and say different things."""
        head, end = self.head, self.end
        return bool(
            self.dynamic is not None
            and head is not None
            and end is not None
            and head.good
            and end.good
            and not _same(head, end)
        )

    @property
    def geometry_size(self) -> int:
        return _geometry_size(self.fields)


def read_image(storage: Storage, *, lenient: bool = False) -> VhdImage:
    """What ``storage`` says it is. Raises FormatError and UnsupportedFeature.

    ``lenient`` is for check: a footer with a wrong checksum is believed where there is no other.
    """
    name = storage.name
    head, end = find_footers(storage)
    footer = _choose(head, end, lenient)
    if footer is None:
        if head is None and end is None:
            raise FormatError(f"{name}: there is no VHD footer at its end, and no copy in front")
        raise FormatError(
            f"{name}: the checksum of its VHD footer is wrong, and there is no copy that is right"
        )
    fields = footer.fields
    kind = fields.disk_type
    if kind not in s.TYPE_NAMES:
        raise UnsupportedFeature(
            f"{name}: the footer says disk type {kind}; fixed (2), dynamic (3) and "
            "differencing (4) are known"
        )
    if fields.file_format_version >> 16 != s.VERSION >> 16:
        raise UnsupportedFeature(
            f"{name}: VHD version {fields.file_format_version >> 16}."
            f"{fields.file_format_version & 0xFFFF} is not known"
        )
    image = VhdImage(virtual_size(fields), footer, head, end, None)
    if image.size > s.MAX_SIZE:
        raise FormatError(
            f"{name}: says that it is a disk of {format_size(image.size)}; VHD ends at 2040 GiB"
        )
    _compare(image)
    if kind == s.FIXED:
        if image.size > footer.offset:
            raise FormatError(
                f"{name}: is a fixed disk of {image.size} bytes, but only {footer.offset} of it "
                "are there: it is truncated"
            )
        return image
    image.dynamic = _read_dynamic(storage, fields.data_offset, image.size)
    if not image.dynamic.good:
        image.damage.append("the checksum of the dynamic header is wrong")
    return image


def find_footers(storage: Storage) -> tuple[FoundFooter | None, FoundFooter | None]:
    """What begins like a footer at the start and at the end of ``storage``."""
    head = end = None
    size = storage.size
    if size >= s.FOOTER_SIZE:
        raw = storage.read(0, s.FOOTER_SIZE)
        if raw.startswith(s.COOKIE):
            head = FoundFooter(0, s.FOOTER_SIZE, raw)
    # A file that is nothing but a footer has it at its end: an empty fixed disk.
    for length in (s.FOOTER_SIZE, s.OLD_FOOTER_SIZE):
        if size >= length and end is None:
            try:
                raw = storage.read(size - length, length)
            except NotHeld:  # the end of a stream that has not come to it
                break
            if raw.startswith(s.COOKIE):
                end = FoundFooter(size - length, length, raw.ljust(s.FOOTER_SIZE, b"\0"))
    return head, end


def virtual_size(fields: s.Footer) -> int:
    """Bytes of the disk that a footer speaks of, by the rules of QEMU."""
    exact = int(fields.current_size) // s.SECTOR * s.SECTOR
    by_geometry = _geometry_size(fields)
    # A geometry that promises more than there is, or nothing, nobody makes: not believed.
    if (
        bytes(fields.creator_application) in _SIZED_BY_GEOMETRY
        and by_geometry != _MAX_GEOMETRY
        and 0 < by_geometry <= exact
    ):
        return by_geometry
    return exact


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track for a disk of ``size`` bytes: the specification's
    algorithm ("CHS calculation"). Their product is at most the size, rarely equal to it.
    """
    total = min(size // s.SECTOR, s.MAX_CYLINDERS * s.MAX_HEADS * s.MAX_SECTORS)
    if total >= s.MAX_CYLINDERS * s.MAX_HEADS * 63:
        heads, sectors = s.MAX_HEADS, s.MAX_SECTORS
        return total // sectors // heads, heads, sectors
    sectors = 17
    tracks = total // sectors
    heads = max(4, -(-tracks // 1024))
    for more in (31, 63):
        if tracks >= heads * 1024 or heads > s.MAX_HEADS:
            heads, sectors = s.MAX_HEADS, more
            tracks = total // sectors
    return tracks // heads, heads, sectors


def checksum(raw: bytes, field_offset: int) -> int:
    """One's complement of the sum of all bytes but those of the checksum itself."""
    total = sum(raw) - sum(raw[field_offset : field_offset + 4])
    return ~total & 0xFFFF_FFFF


def pack(structure: s.Footer | s.DynamicHeader) -> bytes:
    """The bytes of a structure, its checksum set."""
    structure.checksum = checksum(bytes(structure), type(structure).checksum.offset)
    return bytes(structure)


def bitmap_bytes(block_size: int) -> int:
    """Bytes of the sector bitmap in front of a block, padded to whole sectors."""
    return align_up(-(-block_size // (s.SECTOR * 8)), s.SECTOR)


def _choose(head: FoundFooter | None, end: FoundFooter | None, lenient: bool) -> FoundFooter | None:
    """Which footer to believe, where the two differ.

    A fixed disk begins with what the guest wrote. A guest that writes a dynamic header there must
    not be able to turn its disk into one that reads other files: the footer of a fixed disk comes
    first. A dynamic disk whose footer was lost ends with guest data: there the copy in front, which
    the guest cannot reach, comes first, as in QEMU.
    """
    if end is not None and end.good and end.fields.disk_type == s.FIXED:
        return end
    if head is not None and head.good and head.sparse:
        return head
    if end is not None and end.good:
        return end
    if lenient:
        return head if head is not None and head.sparse else end
    return None


def _compare(image: VhdImage) -> None:
    """Say what is wrong with the two footers, and which of the two sizes was not taken."""
    head, end, fields = image.head, image.end, image.fields
    if not image.footer.good:
        image.damage.append("the checksum of the footer is wrong")
    elif fields.disk_type != s.FIXED:
        if head is None or not head.good:
            image.damage.append("the copy of the footer in front is damaged")
        if end is None or not end.good:
            # Not damage that forbids writing: the footer is made anew when the file grows.
            image.notes.append("the footer at its end is missing or damaged; the copy was read")
        elif head is not None and head.good and not _same(head, end):
            image.damage.append("the footer and its copy in front say different things")
    if fields.saved_state:
        image.notes.append("belongs to a machine in saved state: do not write to it")
    exact, by_geometry = int(fields.current_size), image.geometry_size
    if image.size != exact:
        creator = bytes(fields.creator_application).decode("latin-1").strip()
        image.notes.append(
            f"has {image.size} bytes by its geometry, which counts for its creator '{creator}'; "
            f"current_size says {exact}"
        )
    elif bytes(fields.creator_application) in _SIZED_BY_GEOMETRY and (
        by_geometry not in (exact, _MAX_GEOMETRY)
    ):
        image.notes.append(
            f"its geometry says {by_geometry} bytes, which cannot be; current_size counts"
        )


def _same(one: FoundFooter, other: FoundFooter) -> bool:
    """Whether both say the same; an old footer lacks its last byte."""
    return one.raw[: s.OLD_FOOTER_SIZE] == other.raw[: s.OLD_FOOTER_SIZE]


def _read_dynamic(storage: Storage, offset: int, size: int) -> DynamicFields:
    name = storage.name
    if offset + s.DYNAMIC_HEADER_SIZE > storage.size:
        raise FormatError(
            f"{name}: the dynamic header is said to be at {offset}, but the file ends at "
            f"{storage.size}"
        )
    raw = storage.read(offset, s.DYNAMIC_HEADER_SIZE)
    if not raw.startswith(s.DYNAMIC_COOKIE):
        raise FormatError(f"{name}: there is no dynamic header at offset {offset}")
    fields = s.DynamicHeader.from_buffer_copy(raw)
    if fields.header_version >> 16 != s.VERSION >> 16:
        raise UnsupportedFeature(
            f"{name}: version {fields.header_version >> 16}.{fields.header_version & 0xFFFF} of "
            "the dynamic header is not known"
        )
    block = fields.block_size
    if not _SMALLEST_BLOCK <= block <= LARGEST_BLOCK or block & (block - 1):
        raise FormatError(f"{name}: a block size of {block} bytes is not possible")
    entries, table = fields.max_table_entries, fields.table_offset
    needed = -(-size // block)
    if entries < needed:
        raise FormatError(f"{name}: the BAT has {entries} entries, {needed} are needed")
    if entries * 4 > MAX_BAT_BYTES:
        raise FormatError(f"{name}: a BAT of {entries} entries is larger than any disk needs")
    if table + entries * 4 > storage.size:
        raise FormatError(
            f"{name}: the BAT at offset {table} reaches behind the end of the file: "
            "it is truncated or damaged"
        )
    head = (0, s.FOOTER_SIZE)
    for start, end in (head, (offset, offset + s.DYNAMIC_HEADER_SIZE)):
        if table < end and start < table + entries * 4:
            raise FormatError(f"{name}: the BAT is said to be at {table}, over a header")
    return DynamicFields(
        offset=offset,
        table_offset=table,
        max_table_entries=entries,
        block_size=block,
        parent_unique_id=UUID(bytes=bytes(fields.parent_unique_id)),
        parent_time_stamp=fields.parent_time_stamp,
        raw=raw,
        good=fields.checksum == checksum(raw, s.DynamicHeader.checksum.offset),
    )


def _geometry_size(fields: s.Footer) -> int:
    return int(fields.cylinders) * int(fields.heads) * int(fields.sectors_per_track) * s.SECTOR


assert ctypes.sizeof(s.Footer) == s.FOOTER_SIZE
assert ctypes.sizeof(s.DynamicHeader) == s.DYNAMIC_HEADER_SIZE
