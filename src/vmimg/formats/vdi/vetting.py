"""What vetting finds in a VDI image: its header and block map, against each other and the file.

Stands beside `header`, which refuses what cannot be read; here each thing gets the code of what is
wrong with it, and what readers disagree about is told as well: QEMU looks neither at extra data nor
at the types of children, VirtualBox at no null UUIDs. The map is looked at whole up to
512 KiB, by samples above. Spec: VirtualBox VDICore.h. No numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from vmimg.formats.detect import Evidence
from vmimg.formats.regions import Blocks
from vmimg.formats.sampling import hidden_data, read_table, unfinished
from vmimg.formats.telling import some
from vmimg.formats.vdi import structures as s
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["evidence", "vet"]

_NO_UUID: Final = bytes(16)
_KNOWN_VERSIONS: Final = ((0, 1), (0, 2), (1, 1))
_AT: Final = s.HEADER_OFFSET
_MAX_SIZE: Final = 1 << 63


def vet(storage: Storage) -> Iterator[Finding]:
    """Findings on the image in ``storage``. What `read_header` refuses without a code of its own
    is left to it.
    """
    room = _AT + s.HEADER1_PLUS_SIZE
    if storage.size < _AT + s.HEADER0_SIZE:
        yield Finding.of(
            "truncated",
            f"a VDI header has {_AT + s.HEADER0_SIZE} bytes or more, the file {storage.size}",
            offset=storage.size,
        )
        return
    head = storage.read(0, min(storage.size, room)).ljust(room, b"\0")
    pre = s.PreHeader.from_buffer_copy(head)
    if pre.u32Signature != s.SIGNATURE:
        return
    version = (pre.u32Version >> 16, pre.u32Version & 0xFFFF)
    if version not in _KNOWN_VERSIONS:
        yield Finding.of(
            "unknown-version",
            f"it is of version {version[0]}.{version[1]}; known are 0.1, 0.2 and 1.1",
            offset=s.PreHeader.u32Version.offset,
        )
        return
    layout = _Layout(head, old=version[0] == 0)
    yield from _vet_fields(layout)
    yield from _vet_uuids(layout)
    wrong = list(_vet_sizes(layout)) + list(_vet_places(storage, layout))
    yield from wrong
    if not any(finding.severity == Severity.ERROR for finding in wrong):
        yield from _vet_map(storage, layout)


def evidence(storage: Storage) -> tuple[Evidence, ...]:
    """Why it is taken for a VDI image, besides its magic."""
    head = storage.read(0, min(storage.size, _AT + s.HEADER1_SIZE))
    found: list[Evidence] = []
    if len(head) >= _AT:
        pre = s.PreHeader.from_buffer_copy(head)
        text = bytes(pre.szFileInfo).partition(b"\0")[0].decode("ascii", "replace").strip()
        if text.startswith("<<<") and text.isprintable():
            found.append(Evidence(0, f"the text '{text}'"))
        version = f"{pre.u32Version >> 16}.{pre.u32Version & 0xFFFF}"
        found.append(Evidence(s.PreHeader.u32Version.offset, f"version {version}"))
        if pre.u32Version == s.VERSION_1_1 and len(head) == _AT + s.HEADER1_SIZE:
            kind = s.Header1.from_buffer_copy(head, _AT).u32Type
            if kind in s.TYPE_NAMES:
                offset = _AT + s.Header1.u32Type.offset
                found.append(Evidence(offset, f"image type {kind}: {s.TYPE_NAMES[kind]}"))
    return tuple(found)


class _Layout:
    """The header as it stands, both versions alike. Offsets and sizes in bytes."""

    def __init__(self, head: bytes, *, old: bool) -> None:
        self.old = old
        full = s.Header1Plus.from_buffer_copy(head, _AT)
        raw: s.Header0 | s.Header1 = s.Header0.from_buffer_copy(head, _AT) if old else full.v1
        self.raw = raw
        self.kind: int = raw.u32Type
        self.size: int = raw.cbDisk
        self.block: int = raw.cbBlock
        self.blocks: int = raw.cBlocks
        self.allocated: int = raw.cBlocksAllocated
        self.sectors = [raw.LegacyGeometry.cbSector]
        if old:
            self.header_size, self.extra = s.HEADER0_SIZE, 0
            self.map = _AT + s.HEADER0_SIZE
            self.data = self.map + 4 * self.blocks
        else:
            self.header_size, self.extra = full.v1.cbHeader, full.v1.cbBlockExtra
            self.map, self.data = full.v1.offBlocks, full.v1.offData
            if self.header_size >= s.HEADER1_PLUS_SIZE:
                self.sectors.append(full.LCHSGeometry.cbSector)

    @property
    def map_end(self) -> int:
        return self.map + 4 * self.blocks

    @property
    def stride(self) -> int:
        return self.extra + self.block

    def at(self, field: str) -> int:
        """Where in the file a field of the header is; 0 where this version has no such."""
        place = getattr(type(self.raw), field, None)
        return 0 if place is None else _AT + int(place.offset)

    def uuid(self, field: str) -> bytes:
        return bytes(getattr(self.raw, field, _NO_UUID))


def _vet_fields(layout: _Layout) -> Iterator[Finding]:
    if layout.kind not in s.TYPE_NAMES:
        yield Finding.of(
            "unknown-features",
            f"it is of type {layout.kind}; there are 1 to {max(s.TYPE_NAMES)}",
            offset=layout.at("u32Type"),
        )
    unknown = layout.raw.fFlags & ~s.ZERO_EXPAND
    if unknown:
        yield Finding.of(
            "unknown-features",
            f"the image flags {unknown:#x} are not known; VirtualBox refuses them",
            offset=layout.at("fFlags"),
        )
    if not layout.old and layout.header_size not in (s.HEADER1_SIZE, s.HEADER1_PLUS_SIZE):
        yield Finding.of(
            "odd-field",
            f"the header is said to have {layout.header_size} bytes; "
            f"{s.HEADER1_SIZE} and {s.HEADER1_PLUS_SIZE} are known",
            offset=layout.at("cbHeader"),
        )
    if layout.extra:
        yield Finding.of(
            "odd-field",
            f"each block has {layout.extra} bytes of extra data in front of it, which VirtualBox "
            "leaves out and QEMU takes for the disk's",
            offset=layout.at("cbBlockExtra"),
        )
    if any(sector not in (0, s.SECTOR) for sector in layout.sectors):
        yield Finding.of(
            "odd-field",
            f"its geometry counts sectors of {max(layout.sectors)} bytes; VDI images have 512",
            offset=layout.at("LegacyGeometry") + s.Geometry.cbSector.offset,
        )


def _vet_uuids(layout: _Layout) -> Iterator[Finding]:
    create, linkage = layout.uuid("uuidCreate"), layout.uuid("uuidLinkage")
    for field in ("uuidCreate", "uuidModify"):
        if layout.uuid(field) == _NO_UUID:
            yield Finding.of(
                "odd-field",
                f"its {field} is null: VirtualBox refuses the image",
                offset=layout.at(field),
            )
    if linkage == _NO_UUID:
        return
    if linkage == create:
        yield Finding.of(
            "odd-field",
            f"it names itself, {UUID(bytes_le=create)}, as its parent",
            offset=layout.at("uuidLinkage"),
            severity=Severity.ERROR,
        )
    elif layout.kind not in (s.UNDO, s.DIFF):
        yield Finding.of(
            "odd-field",
            f"it names the parent {UUID(bytes_le=linkage)}, but its type has none",
            offset=layout.at("uuidLinkage"),
        )


def _vet_sizes(layout: _Layout) -> Iterator[Finding]:
    block = layout.block
    if block < s.SECTOR or block & (block - 1):
        yield Finding.of(
            "impossible-size",
            f"its blocks have {block} bytes; a power of two from 512 is possible",
            offset=layout.at("cbBlock"),
        )
        return
    needed = -(-layout.size // block)
    if layout.size >= _MAX_SIZE or needed > layout.blocks:
        yield Finding.of(
            "impossible-size",
            f"a disk of {layout.size} bytes has no room in {layout.blocks} blocks of "
            f"{format_size(block)}",
            offset=layout.at("cbDisk"),
        )
    elif needed < layout.blocks:
        yield Finding.of(
            "odd-field",
            f"it has {layout.blocks} blocks, of which the disk takes {needed}",
            offset=layout.at("cBlocks"),
        )
    if layout.allocated > layout.blocks:
        yield Finding.of(
            "odd-field",
            f"{layout.allocated} of {layout.blocks} blocks are said to be allocated",
            offset=layout.at("cBlocksAllocated"),
        )


def _vet_places(storage: Storage, layout: _Layout) -> Iterator[Finding]:
    header_end = _AT + layout.header_size
    if header_end > storage.size:
        yield Finding.of(
            "table-outside",
            f"the header is said to end at {header_end}, the file ends at {storage.size}",
            offset=layout.at("cbHeader"),
        )
    elif layout.map < header_end and not layout.old:
        yield Finding.of(
            "tables-overlap",
            f"the block map at {layout.map} lies over the header, which ends at {header_end}",
            offset=layout.at("offBlocks"),
        )
    if layout.map_end > storage.size:
        yield Finding.of(
            "table-outside",
            f"the block map at {layout.map} ({layout.blocks} entries) reaches behind the end of "
            f"the file, {storage.size}",
            offset=layout.at("offBlocks") or layout.map,
        )
    elif layout.data < layout.map_end:
        yield Finding.of(
            "tables-overlap",
            f"blocks begin at {layout.data}, over the block map, which ends at {layout.map_end}",
            offset=layout.at("offData"),
        )
    if not layout.old and (layout.map % s.SECTOR or layout.data % s.SECTOR):
        yield Finding.of(
            "odd-field",
            f"block map ({layout.map}) and data ({layout.data}) do not begin on sectors",
            offset=layout.at("offBlocks" if layout.map % s.SECTOR else "offData"),
        )


def _vet_map(storage: Storage, layout: _Layout) -> Iterator[Finding]:
    table = read_table(storage, layout.map, layout.blocks, 4, "little")
    entries = [(entry, number) for number, entry in table if entry < s.BLOCK_ZERO]
    yield from _vet_ends(storage, layout, entries)
    start, stride = layout.data, layout.stride
    blocks = Blocks(((start + entry * stride, number) for entry, number in entries), stride)
    shared = blocks.crowded()
    for (place, number), more in some(shared):
        yield Finding.of(
            "tables-overlap",
            f"block {number} lies at {place}, where another one is{more}",
            offset=layout.map + 4 * number,
        )
    if not table.whole:
        yield unfinished(
            f"the block map has {layout.blocks} entries, of which a part was looked at", layout.map
        )
        return
    if len(entries) != layout.allocated <= layout.blocks:
        yield Finding.of(
            "odd-field",
            f"the header counts {layout.allocated} allocated blocks, the map has {len(entries)}: "
            "new blocks would be written over old ones",
            offset=layout.at("cBlocksAllocated"),
        )
    for low, high, where in (
        (layout.map_end, layout.data, "between the block map and the first block"),
        (max(blocks.end, start), storage.size, "behind the last block"),
    ):
        yield from hidden_data(storage, low, high, f"there is data {where}")


def _vet_ends(
    storage: Storage, layout: _Layout, entries: list[tuple[int, int]]
) -> Iterator[Finding]:
    """Blocks whose data is not in the file; behind the end of the disk nothing is needed."""
    most = (storage.size - layout.data - layout.stride) // layout.stride
    lost = []
    for entry, number in entries:
        if entry > most:
            needed = min(layout.block, max(0, layout.size - number * layout.block))
            if layout.data + entry * layout.stride + layout.extra + needed > storage.size:
                lost.append((entry, number))
    for (entry, number), more in some(lost):
        yield Finding.of(
            "truncated",
            f"block {number} is said to be at {layout.data + entry * layout.stride}, behind the "
            f"end of the file, {storage.size}{more}",
            offset=layout.map + 4 * number,
        )
