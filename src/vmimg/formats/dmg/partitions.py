"""Partitions: the block tables of a DMG, from its property list or its resource fork. No numpy.

hdiutil writes both forms where it writes a resource fork at all; the list is read then. How large
either may be is bounded.

Spec: Levin, "Demystifying the DMG File Format"; of the resource fork, Inside Macintosh: More
Macintosh Toolbox, 1-121.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from vmimg.errors import FormatError
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.plist import PropertyListError, read_property_list
from vmimg.formats.dmg.trailer import Trailer, checksum_of
from vmimg.storage.base import Buffer, Storage

__all__ = ["Partition", "read_partitions", "virtual_size"]

# Read at a time.
_PIECE: Final = 1 << 20

Structure = TypeVar("Structure", bound=ctypes.BigEndianStructure)


@dataclass(frozen=True, slots=True)
class Partition:
    """One block table. ``start`` and ``size`` in bytes of the disk; ``entries`` as in the file.

    ``data_offset``: byte of the file that the offsets of its entries count from. ``checksum``: of
    its data, None where it has none that we know.
    """

    name: str
    id: int
    start: int
    size: int
    data_offset: int
    checksum: int | None
    entries: memoryview

    @property
    def chunks(self) -> int:
        """Number of entries that are not comments or ends."""
        kinds = self.kinds()
        return sum(kinds.values()) - kinds.get(s.COMMENT, 0) - kinds.get(s.TERMINATOR, 0)

    def kinds(self) -> dict[int, int]:
        """Number of entries of each type, unknown ones left out."""
        # The last byte of a type tells those apart that there are; three slices are faster than a
        # loop over a million entries.
        first = bytes(self.entries[:: s.ENTRY_SIZE])
        last = bytes(self.entries[3 :: s.ENTRY_SIZE])
        known = (s.ZERO, s.RAW, s.IGNORE, s.COMMENT, *s.CODERS, s.TERMINATOR)
        found = {kind: last.count(kind & 0xFF) for kind in known}
        if first.count(0) + first.count(0x7F) + first.count(0x80) + first.count(0xFF) != len(first):
            return {}
        return {kind: count for kind, count in found.items() if count}


def read_partitions(storage: Storage, trailer: Trailer) -> list[Partition]:
    """The block tables in the order of the file. Raises FormatError."""
    if trailer.list_length:
        resources = list(_from_list(storage, trailer))
    else:
        resources = list(_from_fork(storage, trailer))
    if not resources:
        raise FormatError(f"{storage.name}: has no block table ('blkx')")
    if len(resources) > s.MAX_PARTITIONS:
        raise FormatError(f"{storage.name}: has {len(resources)} block tables")
    return [_partition(storage.name, trailer, *resource) for resource in resources]


def virtual_size(trailer: Trailer, partitions: Sequence[Partition]) -> int:
    """Bytes of the disk: what the trailer says, or else up to where the last partition ends."""
    if trailer.size:
        return trailer.size
    return max(partition.start + partition.size for partition in partitions)


def _partition(image: str, trailer: Trailer, name: str, id: int, data: Buffer) -> Partition:
    what = f"{image}: the block table of '{name}'"
    if len(data) < s.TABLE_SIZE:
        raise FormatError(f"{what} has {len(data)} bytes; its header has {s.TABLE_SIZE}")
    table = s.BlockTable.from_buffer_copy(data)
    if table.Signature != s.MISH:
        raise FormatError(f"{what} does not begin with 'mish'")
    room = (len(data) - s.TABLE_SIZE) // s.ENTRY_SIZE
    if table.NumberOfBlockChunks > room:
        raise FormatError(
            f"{what} says that it has {table.NumberOfBlockChunks} chunks; there is room for {room}"
        )
    if max(table.SectorNumber, table.SectorCount) >= s.MAX_SECTORS:
        raise FormatError(f"{what} is of sectors {table.SectorNumber}+{table.SectorCount}")
    end = s.TABLE_SIZE + table.NumberOfBlockChunks * s.ENTRY_SIZE
    return Partition(
        name=name,
        id=id,
        start=table.SectorNumber * s.SECTOR,
        size=table.SectorCount * s.SECTOR,
        data_offset=trailer.data_offset + table.DataOffset,
        checksum=checksum_of(table.checksum),
        entries=memoryview(data)[s.TABLE_SIZE : end],
    )


def _from_list(storage: Storage, trailer: Trailer) -> Iterator[tuple[str, int, Buffer]]:
    """(name, id, data) of each 'blkx' of the property list."""
    if trailer.list_length > s.MAX_LIST:
        raise FormatError(
            f"{storage.name}: its property list has {trailer.list_length} bytes; "
            f"{s.MAX_LIST} are the most that is read"
        )
    start, end = trailer.list_offset, trailer.list_offset + trailer.list_length
    pieces = (storage.read(at, min(_PIECE, end - at)) for at in range(start, end, _PIECE))
    try:
        found = read_property_list(pieces)
    except PropertyListError as error:
        raise FormatError(f"{storage.name}: its property list is damaged: {error}") from None
    fork = found.get("resource-fork") if isinstance(found, dict) else None
    resources = fork.get("blkx") if isinstance(fork, dict) else None
    if not isinstance(resources, list):
        raise FormatError(f"{storage.name}: its property list has no block tables ('blkx')")
    for number, resource in enumerate(resources):
        if not isinstance(resource, dict) or not isinstance(resource.get("Data"), bytearray):
            raise FormatError(f"{storage.name}: block table {number} of its list has no data")
        name = resource.get("Name") or resource.get("CFName")
        yield _printable(name), _number(resource.get("ID"), number), resource["Data"]


def _from_fork(storage: Storage, trailer: Trailer) -> Iterator[tuple[str, int, Buffer]]:
    """(name, id, data) of each 'blkx' of the resource fork."""
    if trailer.resource_length > s.MAX_LIST:
        raise FormatError(
            f"{storage.name}: its resource fork has {trailer.resource_length} bytes; "
            f"{s.MAX_LIST} are the most that is read"
        )
    fork = storage.read(trailer.resource_offset, trailer.resource_length)
    damaged = FormatError(f"{storage.name}: its resource fork is damaged")

    def at(kind: type[Structure], place: int) -> Structure:
        if place + ctypes.sizeof(kind) > len(fork):
            raise damaged
        return kind.from_buffer_copy(fork, place)

    header = at(s.ResourceHeader, 0)
    head = at(s.ResourceMap, header.mapOffset)
    # The number of types is counted as part of the type list.
    types = header.mapOffset + head.typeListOffset
    names = header.mapOffset + head.nameListOffset
    for index in range((head.types + 1) & 0xFFFF):
        kind = at(s.ResourceType, types + 2 + index * ctypes.sizeof(s.ResourceType))
        if kind.type != s.BLKX:
            continue
        if kind.count >= s.MAX_PARTITIONS:
            raise damaged
        for number in range(kind.count + 1):
            reference = at(
                s.ResourceReference,
                types + kind.referenceOffset + number * ctypes.sizeof(s.ResourceReference),
            )
            place = header.dataOffset + (reference.place & 0xFF_FFFF)
            length = int.from_bytes(fork[place : place + 4], "big")
            if place + 4 + length > len(fork):
                raise damaged
            name = b""
            if reference.nameOffset != s.NO_NAME:
                start = names + reference.nameOffset
                name = fork[start + 1 : start + 1 + int.from_bytes(fork[start : start + 1], "big")]
            yield (
                _printable(name.decode("mac_roman")),
                reference.id,
                fork[place + 4 : place + 4 + length],
            )


def _number(text: object, otherwise: int) -> int:
    try:
        return int(text) if isinstance(text, str) and len(text) < 20 else otherwise
    except ValueError:
        return otherwise


def _printable(text: object) -> str:
    """One line of ``text``: names end up in messages and on terminals."""
    if not isinstance(text, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in text)[:255]
