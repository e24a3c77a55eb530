"""What was found on a raw disk, and what it is looked at through. No numpy.

Words from a stranger's disk end up on a terminal: the functions that read them keep them printable.
Imports storage and units.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from vmimg.formats.raw.floppy import Floppy
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["Contents", "Partition", "View", "as_guid", "as_plain", "as_text", "as_utf16", "as_uuid"]

# Read once for each disk or partition: all but a few of the structures lie in it.
_HEAD_BYTES: Final = 72 << 10

_TITLES: Final = {
    "mbr": "MBR",
    "gpt": "GPT",
    "apm": "Apple partition map",
    "blank": "blank: nothing but zeros",
    "unknown": "no partition table or file system that is known",
}

_Structure = TypeVar("_Structure", bound=ctypes.Structure)


@dataclass(frozen=True, slots=True)
class Partition:
    """``start`` and ``size`` in bytes; ``type`` is the MBR's as ``0x83`` or the GPT's GUID."""

    number: int
    start: int
    size: int
    type: str
    type_name: str = ""
    label: str = ""
    uuid: str = ""
    bootable: bool = False
    contents: Contents | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What was recognised.

    ``kind``: "mbr", "gpt", "apm", "filesystem", "volume" (LVM, LUKS, swap, RAID), "iso9660" (UDF
    too), "wrapper" (a file that is no disk itself), "blank", "unknown". ``name``: which file system
    or volume. ``size``: the bytes that it says it takes. ``traits``: further facts in a word or
    two. ``floppy``: which kind of floppy it is on, if it is one. ``problems``: what does not fit,
    in sentences.
    """

    kind: str
    name: str = ""
    label: str = ""
    uuid: str = ""
    size: int | None = None
    sector_size: int | None = None
    traits: tuple[str, ...] = ()
    floppy: Floppy | None = None
    partitions: tuple[Partition, ...] = ()
    problems: tuple[str, ...] = ()

    def title(self) -> str:
        """In a few words: ``ext4 "root"``, ``GPT, 3 partitions``."""
        text = _TITLES.get(self.kind, self.name)
        if self.kind in ("mbr", "gpt", "apm"):
            count = len(self.partitions)
            text += f", {count} partition{'' if count == 1 else 's'}"
        if self.label:
            text += f' "{self.label}"'
        if self.floppy is None:
            return ", ".join((text, *self.traits))
        return f"{self.floppy.title()}: " + ", ".join((text, *self.traits, *self.floppy.facts()))

    def lines(self) -> list[str]:
        """For people: the title, a line for each partition, the problems."""
        inner = [
            f"partition {partition.number}: {problem}"
            for partition in self.partitions
            if partition.contents is not None
            for problem in partition.contents.problems
        ]
        return [self.title(), *_partition_lines(self.partitions), *self.problems, *inner]

    def to_json(self) -> dict[str, Any]:
        """Everything that is set, with hyphens in the names."""
        return _to_json(self)


class View:
    """A disk or a partition: reads are cut at its end, and come back empty behind it."""

    def __init__(self, storage: Storage, start: int, size: int) -> None:
        self.storage = storage
        self.start = start
        self.size = max(0, min(size, storage.size - start))
        self._head = storage.read(start, min(self.size, _HEAD_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes; ``offset`` counts from the end where it is negative."""
        if offset < 0:
            offset += self.size
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        return self.storage.read(self.start + offset, length)

    def structure(self, kind: type[_Structure], offset: int) -> _Structure | None:
        """The structure at ``offset``; None where the disk ends in it."""
        data = self.read(offset, ctypes.sizeof(kind))
        return kind.from_buffer_copy(data) if len(data) == ctypes.sizeof(kind) else None


def as_plain(data: bytes) -> str:
    """Text up to the first zero byte."""
    text = data.split(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)


def as_text(field: ctypes.Array[ctypes.c_uint8]) -> str:
    """The same, of a field."""
    return as_plain(bytes(field))


def as_utf16(field: ctypes.Array[ctypes.c_uint8]) -> str:
    """The text of a field in UTF-16."""
    text = bytes(field).decode("utf-16-le", "replace").partition("\0")[0]
    return "".join(c if c.isprintable() else "?" for c in text)


def as_guid(field: ctypes.Array[ctypes.c_uint8]) -> str:
    """A GUID as Microsoft's and UEFI's structures store it."""
    return str(uuid.UUID(bytes_le=bytes(field)))


def as_uuid(field: ctypes.Array[ctypes.c_uint8]) -> str:
    """A UUID whose bytes are in the order in which it is written."""
    return str(uuid.UUID(bytes=bytes(field)))


def _partition_lines(partitions: tuple[Partition, ...]) -> Iterator[str]:
    rows = [
        (
            str(partition.number),
            format_size(partition.start),
            format_size(partition.size),
            partition.type_name or partition.type,
            partition.contents.title() if partition.contents is not None else "",
            f'"{partition.label}"' if partition.label else "",
        )
        for partition in partitions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)] if rows else []
    for number, start, size, kind, contents, label in rows:
        yield (
            f"  {number:>{widths[0]}}  at {start:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{kind:<{widths[3]}}  {contents:<{widths[4]}}  {label}"
        ).rstrip()


def _to_json(item: Contents | Partition | Floppy) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in item.__slots__:
        value = getattr(item, name)
        if isinstance(value, Contents | Floppy):
            value = _to_json(value)
        elif isinstance(value, tuple):
            value = [_to_json(v) if isinstance(v, Partition) else v for v in value]
        if value or (value == 0 and value is not False):
            facts[name.replace("_", "-")] = value
    return facts
