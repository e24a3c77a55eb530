"""The header of a VDI image: parsed, checked, and made. No numpy.

`read_header` believes nothing: each number is checked against what VirtualBox allows and against
the size of the file before anything is read or allocated by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vdi import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["NO_UUID", "VdiHeader", "pack_header", "read_header"]

NO_UUID: Final = UUID(int=0)

# The versions of the first header. VirtualBox wrote 0.2 and reads no other; 0.1 has its structure.
_OLD_MINORS: Final = (1, 2)


@dataclass(slots=True)
class VdiHeader:
    """What the header says, checked. Offsets and sizes in bytes, ``blocks`` in entries of the map.

    ``size`` is cbDisk rounded up to a sector, as QEMU does; ``header_size`` 0 is version 0.
    """

    image_type: int
    size: int
    block_size: int
    blocks: int
    blocks_allocated: int
    offset_blocks: int
    offset_data: int
    uuid_create: UUID
    uuid_modify: UUID
    uuid_linkage: UUID = NO_UUID
    uuid_parent_modify: UUID = NO_UUID
    block_extra: int = 0
    major: int = 1
    minor: int = 1
    header_size: int = s.HEADER1_PLUS_SIZE
    flags: int = 0
    text: str = ""
    comment: str = ""
    geometry: tuple[int, int, int] = (0, 0, 0)
    """Cylinders, heads, sectors as the BIOS shall see them; zeros where not calculated."""

    @property
    def is_child(self) -> bool:
        """Whether free blocks are read from a parent."""
        return self.image_type in (s.UNDO, s.DIFF)

    @property
    def stride(self) -> int:
        """Bytes from one place to the next: a block and its extra data."""
        return self.block_extra + self.block_size

    @property
    def data_start(self) -> int:
        """Where the data of place 0 begins, behind its extra data."""
        return self.offset_data + self.block_extra

    @property
    def map_end(self) -> int:
        return self.offset_blocks + 4 * self.blocks

    @property
    def count_offset(self) -> int:
        """Where in the file cBlocksAllocated is."""
        return s.HEADER_OFFSET + int(self._structure.cBlocksAllocated.offset)

    @property
    def modify_offset(self) -> int:
        """Where in the file uuidModify is."""
        return s.HEADER_OFFSET + int(self._structure.uuidModify.offset)

    @property
    def _structure(self) -> type[s.Header0] | type[s.Header1]:
        return s.Header1 if self.major else s.Header0

    def places(self, file_size: int) -> int:
        """How many places a file of that size has; the last one may be cut short by its end."""
        return max(0, -(-(file_size - self.data_start) // self.stride))


def read_header(storage: Storage) -> VdiHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for other versions.
    """
    name = storage.name
    if storage.size < s.HEADER_OFFSET + s.HEADER0_SIZE:
        raise FormatError(
            f"{name}: a VDI header has {s.HEADER_OFFSET + s.HEADER0_SIZE} bytes or more, "
            f"the file {storage.size}"
        )
    room = s.HEADER_OFFSET + s.HEADER1_PLUS_SIZE
    head = storage.read(0, min(storage.size, room)).ljust(room, b"\0")
    pre = s.PreHeader.from_buffer_copy(head)
    if pre.u32Signature != s.SIGNATURE:
        raise FormatError(
            f"{name}: not a VDI image: the signature at offset 64 is {pre.u32Signature:#010x}"
        )
    major, minor = pre.u32Version >> 16, pre.u32Version & 0xFFFF
    if major == 1 and minor == 1:
        header = _version_1(storage, head)
    elif major == 0 and minor in _OLD_MINORS:
        header = _version_0(head, minor)
    else:
        raise UnsupportedFeature(f"{name}: VDI version {major}.{minor}; known are 0.1, 0.2 and 1.1")
    header.text = _text(pre.szFileInfo)
    _check_numbers(storage, header)
    _check_layout(storage, header)
    return header


def pack_header(header: VdiHeader) -> bytes:
    """The first bytes of a new image, with the latest header."""
    v1 = s.Header1(
        cbHeader=s.HEADER1_PLUS_SIZE,
        u32Type=header.image_type,
        fFlags=header.flags,
        offBlocks=header.offset_blocks,
        offData=header.offset_data,
        # VirtualBox leaves the legacy geometry out of account; QEMU believes its sector size.
        LegacyGeometry=s.Geometry(cbSector=s.SECTOR),
        cbDisk=header.size,
        cbBlock=header.block_size,
        cbBlockExtra=header.block_extra,
        cBlocks=header.blocks,
        cBlocksAllocated=header.blocks_allocated,
    )
    for field, value in (
        ("uuidCreate", header.uuid_create),
        ("uuidModify", header.uuid_modify),
        ("uuidLinkage", header.uuid_linkage),
        ("uuidParentModify", header.uuid_parent_modify),
    ):
        getattr(v1, field)[:] = value.bytes_le
    # VirtualBox calculates the other geometry when it attaches the disk.
    full = s.Header1Plus(v1=v1, LCHSGeometry=s.Geometry(cbSector=s.SECTOR))
    pre = s.PreHeader(s.FILE_INFO, s.SIGNATURE, s.VERSION_1_1)
    return bytes(pre) + bytes(full)


def _version_0(head: bytes, minor: int) -> VdiHeader:
    raw = s.Header0.from_buffer_copy(head, s.HEADER_OFFSET)
    start = s.HEADER_OFFSET + s.HEADER0_SIZE
    return VdiHeader(
        image_type=raw.u32Type,
        size=raw.cbDisk,
        block_size=raw.cbBlock,
        blocks=raw.cBlocks,
        blocks_allocated=raw.cBlocksAllocated,
        offset_blocks=start,
        offset_data=start + 4 * raw.cBlocks,
        uuid_create=UUID(bytes_le=bytes(raw.uuidCreate)),
        uuid_modify=UUID(bytes_le=bytes(raw.uuidModify)),
        uuid_linkage=UUID(bytes_le=bytes(raw.uuidLinkage)),
        major=0,
        minor=minor,
        header_size=0,
        flags=raw.fFlags,
        comment=_text(bytes(raw.szComment)),
    )


def _version_1(storage: Storage, head: bytes) -> VdiHeader:
    full = s.Header1Plus.from_buffer_copy(head, s.HEADER_OFFSET)
    raw = full.v1
    if raw.cbHeader < s.HEADER1_SIZE or s.HEADER_OFFSET + raw.cbHeader > storage.size:
        raise FormatError(
            f"{storage.name}: the header is said to have {raw.cbHeader} bytes; version 1.1 has "
            f"{s.HEADER1_SIZE} or more, inside the file ({storage.size})"
        )
    geometries = [raw.LegacyGeometry]
    logical = s.Geometry()
    if raw.cbHeader >= s.HEADER1_PLUS_SIZE:
        logical = full.LCHSGeometry
        geometries.append(logical)
    for geometry in geometries:
        if geometry.cbSector not in (0, s.SECTOR):
            raise UnsupportedFeature(
                f"{storage.name}: sectors of {geometry.cbSector} bytes; VDI images have 512"
            )
    return VdiHeader(
        image_type=raw.u32Type,
        size=raw.cbDisk,
        block_size=raw.cbBlock,
        blocks=raw.cBlocks,
        blocks_allocated=raw.cBlocksAllocated,
        offset_blocks=raw.offBlocks,
        offset_data=raw.offData,
        uuid_create=UUID(bytes_le=bytes(raw.uuidCreate)),
        uuid_modify=UUID(bytes_le=bytes(raw.uuidModify)),
        uuid_linkage=UUID(bytes_le=bytes(raw.uuidLinkage)),
        uuid_parent_modify=UUID(bytes_le=bytes(raw.uuidParentModify)),
        block_extra=raw.cbBlockExtra,
        header_size=raw.cbHeader,
        flags=raw.fFlags,
        comment=_text(bytes(raw.szComment)),
        geometry=(logical.cCylinders, logical.cHeads, logical.cSectors),
    )


def _check_numbers(storage: Storage, header: VdiHeader) -> None:
    name, block, extra = storage.name, header.block_size, header.block_extra
    if header.image_type not in s.TYPE_NAMES:
        raise FormatError(f"{name}: there is no VDI image type {header.image_type}")
    if not block or block & (block - 1):
        raise FormatError(f"{name}: a block size of {block} bytes is not a power of two")
    if block < s.SECTOR:
        raise UnsupportedFeature(f"{name}: blocks of {block} bytes, less than a sector")
    if extra & (extra - 1):
        raise FormatError(f"{name}: {extra} bytes of extra data per block is not a power of two")
    if header.size > header.blocks * block:
        raise FormatError(
            f"{name}: a disk of {header.size} bytes has no room in {header.blocks} blocks "
            f"of {block} bytes"
        )
    # "VBoxManage convertfromraw" made such images. VirtualBox cuts the rest off, QEMU reads it.
    header.size = align_up(header.size, s.SECTOR)
    if header.size >= 1 << 63:
        raise FormatError(f"{name}: a virtual size of {header.size} bytes is not possible")
    if header.is_child and header.uuid_linkage == NO_UUID:
        raise FormatError(
            f"{name}: it is a {s.TYPE_NAMES[header.image_type]} image, but names no parent: "
            "its uuidLinkage is null"
        )


def _check_layout(storage: Storage, header: VdiHeader) -> None:
    name = storage.name
    least = s.HEADER_OFFSET + (header.header_size or s.HEADER0_SIZE)
    if header.offset_blocks < least:
        raise FormatError(
            f"{name}: the block map at {header.offset_blocks} lies over the header, "
            f"which ends at {least}"
        )
    if header.map_end > storage.size:
        raise FormatError(
            f"{name}: the block map at {header.offset_blocks} has {header.blocks} entries and "
            f"reaches behind the end of the file ({storage.size}): it is truncated or damaged"
        )
    if header.offset_data < header.map_end:
        raise FormatError(
            f"{name}: data is said to begin at {header.offset_data}, but the block map ends "
            f"at {header.map_end}"
        )


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace").strip()
