"""Zip: its central directory, read from the end. Nothing is unpacked but a few small members.

    [anything] | local header, data | ... | central directory | [zip64 end] | end | comment

The directory at the end says what there is and where; a local header in front of each member says
it again. Anything may stand in front (self-extracting archives), and readers differ in what they
believe where the two disagree.

Sources: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; Info-ZIP's extra fields (Unicode path).
Imports entries; no numpy.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, printable
from vmimg.probe.entries import Entry, Kind, special_kind
from vmimg.storage.base import NotHeld

__all__ = [
    "CENTRAL",
    "END",
    "LOCAL",
    "MAX_DIRECTORY",
    "CentralHeader",
    "EndRecord",
    "LocalHeader",
    "Record",
    "ZipDirectory",
    "find_end",
    "read_zip",
]

LOCAL: Final = b"PK\x03\x04"
CENTRAL: Final = b"PK\x01\x02"
END: Final = b"PK\x05\x06"
END64: Final = b"PK\x06\x06"
LOCATOR64: Final = b"PK\x06\x07"
MAX_DIRECTORY: Final = 2 << 20
"""Bytes of a central directory that are looked at."""
_MAX_COMMENT: Final = 0xFFFF
_MAX_ENDS: Final = 64
_MAX_EXTRAS: Final = 32
_ZIP64: Final = 0x0001
_UNICODE_PATH: Final = 0x7075
_UNIX: Final = (3, 19)  # "version made by": Unix, OS X


class LocalHeader(ctypes.LittleEndianStructure):
    """In front of a member; behind it its name, extra fields, data."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("version_needed", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("method", ctypes.c_uint16),
        ("time", ctypes.c_uint16),
        ("date", ctypes.c_uint16),
        ("crc32", ctypes.c_uint32),
        ("compressed_size", ctypes.c_uint32),
        ("uncompressed_size", ctypes.c_uint32),
        ("name_length", ctypes.c_uint16),
        ("extra_length", ctypes.c_uint16),
    )


class CentralHeader(ctypes.LittleEndianStructure):
    """Of a member in the directory; behind it its name, extra fields, comment."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("version_made_by", ctypes.c_uint8),
        ("host", ctypes.c_uint8),
        ("version_needed", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("method", ctypes.c_uint16),
        ("time", ctypes.c_uint16),
        ("date", ctypes.c_uint16),
        ("crc32", ctypes.c_uint32),
        ("compressed_size", ctypes.c_uint32),
        ("uncompressed_size", ctypes.c_uint32),
        ("name_length", ctypes.c_uint16),
        ("extra_length", ctypes.c_uint16),
        ("comment_length", ctypes.c_uint16),
        ("disk_start", ctypes.c_uint16),
        ("internal_attributes", ctypes.c_uint16),
        ("external_attributes", ctypes.c_uint32),
        ("local_offset", ctypes.c_uint32),
    )


class EndRecord(ctypes.LittleEndianStructure):
    """The end of the central directory; behind it the comment."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("disk", ctypes.c_uint16),
        ("directory_disk", ctypes.c_uint16),
        ("disk_entries", ctypes.c_uint16),
        ("entries", ctypes.c_uint16),
        ("directory_size", ctypes.c_uint32),
        ("directory_offset", ctypes.c_uint32),
        ("comment_length", ctypes.c_uint16),
    )


class EndRecord64(ctypes.LittleEndianStructure):
    """The same with wider fields, where the locator says."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("record_size", ctypes.c_uint64),
        ("version_made_by", ctypes.c_uint16),
        ("version_needed", ctypes.c_uint16),
        ("disk", ctypes.c_uint32),
        ("directory_disk", ctypes.c_uint32),
        ("disk_entries", ctypes.c_uint64),
        ("entries", ctypes.c_uint64),
        ("directory_size", ctypes.c_uint64),
        ("directory_offset", ctypes.c_uint64),
    )


class Locator64(ctypes.LittleEndianStructure):
    """In front of the end record where there is a zip64 one."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 4),
        ("disk", ctypes.c_uint32),
        ("end64_offset", ctypes.c_uint64),
        ("disks", ctypes.c_uint32),
    )


@dataclass(slots=True)
class End:
    """What the end says. ``offset``: of the end record; ``stop``: behind its comment. ``start``:
    where the directory really lies, ``stated``: where it is said to: apart by what was put in
    front. ``problems``: what does not fit.
    """

    offset: int
    stop: int
    start: int
    stated: int
    size: int
    count: int
    first: int
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Record:
    """A member's entry, and what only a zip has. ``name``: the bytes in the directory."""

    entry: Entry
    name: bytes
    flags: int
    crc32: int
    offset: int


class ZipDirectory:
    """The members as the central directory has them. ``complete``: all of them were seen.

    ``end``: None where there is no directory (it was cut off, or has not come yet). ``ends``: how
    many ends there are that readers could take. ``broken``: where the directory breaks off.
    """

    def __init__(self, view: View) -> None:
        self.entries: list[Entry] = []
        self.records: list[Record] = []
        self.complete = False
        self.crowded = False
        self.end: End | None = None
        self.ends = 0
        self.broken: int | None = None
        self.problems: list[Finding] = []
        self._view = view

    def content(self, entry: Entry, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a member; None where they are not to be had."""
        try:
            local = self._view.structure(LocalHeader, entry.offset)
            if local is None or local.signature != LOCAL or entry.encrypted:
                return None
            data = entry.offset + ctypes.sizeof(local) + local.name_length + local.extra_length
            packed = self._view.read(data, min(entry.stored, limit + 1024))
        except NotHeld:
            return None
        if entry.method == 0:
            return packed[:limit]
        if entry.method != zlib.DEFLATED:
            return None
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
        except zlib.error:
            return None


def read_zip(view: View, limit: int, most: int = MAX_DIRECTORY) -> ZipDirectory:
    """The members of the zip that ``view`` is on, at most ``limit``, from ``most`` bytes of its
    directory. Raises nothing: a stream's directory may not be held.
    """
    found = ZipDirectory(view)
    try:
        ends = list(find_end(view))
        found.ends = len(ends)
        if not ends:
            return found
        found.end = ends[0]
        _read_directory(view, found, ends[0], limit, most)
    except NotHeld:
        pass
    return found


def find_end(view: View) -> Iterator[End]:
    """The ends of central directories, the last first, each with its directory in front of it."""
    length = min(view.size, ctypes.sizeof(EndRecord) + _MAX_COMMENT)
    tail = view.read(-length, length) if length else b""
    position = len(tail)
    for _ in range(_MAX_ENDS):
        position = tail.rfind(END, 0, position + 3)
        if position < 0:
            return
        if len(tail) - position >= ctypes.sizeof(EndRecord):
            end = _end_at(view, view.size - length + position)
            if end is not None:
                yield end


def _end_at(view: View, offset: int) -> End | None:
    record = view.structure(EndRecord, offset)
    if record is None:
        return None
    stop = offset + ctypes.sizeof(record) + record.comment_length
    size, stated, count = record.directory_size, record.directory_offset, record.entries
    disks = record.disk or record.directory_disk or record.disk_entries != record.entries
    behind = offset
    problems = []
    found = _end64(view, offset)
    if found is not None:
        wide, behind = found
        for narrow, value, limit in (
            (size, wide.directory_size, 0xFFFFFFFF),
            (stated, wide.directory_offset, 0xFFFFFFFF),
            (count, wide.entries, 0xFFFF),
        ):
            if narrow not in (value, limit):
                problems.append("its two ends (zip and zip64) do not say the same")
                break
        size, stated, count = wide.directory_size, wide.directory_offset, wide.entries
    if disks and count != 0xFFFF:
        problems.append("it says that it is one of several parts")
    start = behind - size
    if start < 0 or size < count * ctypes.sizeof(CentralHeader):
        return None
    if count and view.read(start, 4) != CENTRAL:
        return None
    if stated > start:
        problems.append("its directory is not where the end says")
    first = 0
    if count:
        header = view.structure(CentralHeader, start)
        first = header.local_offset if header is not None else 0
    return End(offset, stop, start, stated, size, count, first, tuple(problems))


def _end64(view: View, offset: int) -> tuple[EndRecord64, int] | None:
    """The zip64 end in front of the end record at ``offset``, and where it stands."""
    at = offset - ctypes.sizeof(Locator64)
    locator = view.structure(Locator64, at) if at >= 0 else None
    if locator is None or locator.signature != LOCATOR64:
        return None
    # Where it should be if nothing stands in front of the archive; else right in front of this.
    for where in (at - ctypes.sizeof(EndRecord64), locator.end64_offset):
        wide = view.structure(EndRecord64, where) if 0 <= where < at else None
        if wide is not None and wide.signature == END64:
            return wide, where
    return None


def _read_directory(view: View, found: ZipDirectory, end: End, limit: int, most: int) -> None:
    data = view.read(end.start, min(end.size, most))
    prefix = end.start - end.stated
    position = 0
    fixed = ctypes.sizeof(CentralHeader)
    while position + 4 <= len(data):
        if len(found.records) >= limit:
            found.crowded = True
            return
        if position + fixed > len(data) or data[position : position + 4] != CENTRAL:
            break
        header = CentralHeader.from_buffer_copy(data, position)
        names = position + fixed
        extras = names + header.name_length
        after = extras + header.extra_length + header.comment_length
        if after > len(data):
            break
        record = _record(header, data[names:extras], data[extras : after - header.comment_length])
        record.entry.offset += prefix
        record.offset = end.start + position
        _other_name(found, record, data[extras : after - header.comment_length])
        found.records.append(record)
        found.entries.append(record.entry)
        position = after
    if position == end.size:
        found.complete = True
    elif len(data) < end.size:
        found.crowded = True
    else:
        found.broken = end.start + position


def _record(header: CentralHeader, name: bytes, extra: bytes) -> Record:
    size, stored, offset = (
        header.uncompressed_size,
        header.compressed_size,
        header.local_offset,
    )
    wide = _extra(extra, _ZIP64)
    at = 0
    if size == 0xFFFFFFFF and len(wide) >= at + 8:
        size = int.from_bytes(wide[at : at + 8], "little")
        at += 8
    if stored == 0xFFFFFFFF and len(wide) >= at + 8:
        stored = int.from_bytes(wide[at : at + 8], "little")
        at += 8
    if offset == 0xFFFFFFFF and len(wide) >= at + 8:
        offset = int.from_bytes(wide[at : at + 8], "little")
    mode = header.external_attributes >> 16 if header.host in _UNIX else 0
    text = name.decode("utf-8", "surrogateescape")
    entry = Entry(
        name=text,
        kind=_kind(mode, text),
        size=size,
        stored=stored,
        offset=offset,
        method=header.method,
        encrypted=bool(header.flags & 1),
    )
    return Record(entry, name, header.flags, header.crc32, 0)


def _other_name(found: ZipDirectory, record: Record, extra: bytes) -> None:
    """A second name for readers of Unicode, believed where it has the first one's checksum."""
    field = _extra(extra, _UNICODE_PATH)
    if len(field) < 6 or int.from_bytes(field[1:5], "little") != zlib.crc32(record.name):
        return
    name = field[5:]
    if name != record.name:
        record.entry.plain_name = record.entry.name
        record.entry.name = name.decode("utf-8", "surrogateescape")
        if record.name.isascii() and b"?" not in record.name and b"_" not in record.name:
            found.problems.append(
                Finding.of(
                    "copies-disagree",
                    f"a member has two names, '{printable(record.entry.plain_name)}' and "
                    f"'{printable(record.entry.name)}'",
                    offset=record.offset,
                )
            )


def _extra(extra: bytes, wanted: int) -> bytes:
    """The extra field ``wanted``; empty where there is none."""
    position = 0
    for _ in range(_MAX_EXTRAS):
        if position + 4 > len(extra):
            break
        kind = int.from_bytes(extra[position : position + 2], "little")
        length = int.from_bytes(extra[position + 2 : position + 4], "little")
        if kind == wanted:
            return extra[position + 4 : position + 4 + length]
        position += 4 + length
    return b""


def _kind(mode: int, name: str) -> Kind:
    return special_kind(mode) or ("directory" if name.endswith("/") else "file")
