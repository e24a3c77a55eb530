"""Walks the directories of a disc as far as a budget goes, believing nothing of them.

What comes out is what stands there: directories that are in the tree twice, extents behind the end
and names that lead elsewhere are for the caller to judge. Sources: ECMA-119 9.1 (directory
records), IEEE P1281 and P1282 (the system use area). Imports storage; no numpy.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vmimg.formats.iso import structures as s
from vmimg.formats.iso.volume import Bytes

__all__ = ["Record", "Walk", "walk"]

_MAX_DIRECTORIES: Final = 300
_MAX_RECORDS: Final = 6000
# Of one directory, and of all of them.
_MAX_DIRECTORY: Final = 256 << 10
_MAX_BYTES: Final = 2 << 20
_MAX_DEPTH: Final = 64

_DIRECTORY: Final = 0x02
_HEAD: Final = ctypes.sizeof(s.DirectoryRecord)
_SELF, _PARENT = b"\0", b"\1"

# Flags of NM and of the components of SL
_CURRENT: Final = 0x02
_UP: Final = 0x04
_ROOT: Final = 0x08


@dataclass(slots=True)
class Record:
    """A directory record. ``place``: where it stands; ``start``: of its extent, in bytes.

    ``name``: as the reader of that tree would call it; ``target``: of a symbolic link, None for
    what is none. ``agrees``: numbers are the same in both byte orders. ``mode``: by Rock Ridge, 0
    without.
    """

    place: int
    name: str
    start: int
    size: int
    directory: bool
    depth: int
    agrees: bool = True
    target: str | None = None
    mode: int = 0


@dataclass(slots=True)
class Walk:
    """What was met. ``twice``: directories that were there before; ``unread``: that lie outside of
    the disc; ``misnamed``: whose first record is not their own. ``finished``: all of it was seen.
    """

    records: list[Record] = field(default_factory=list)
    twice: list[Record] = field(default_factory=list)
    unread: list[Record] = field(default_factory=list)
    misnamed: list[Record] = field(default_factory=list)
    finished: bool = True

    def root(self) -> list[Record]:
        """What is in the first directory."""
        return [record for record in self.records if record.depth == 1]


def walk(disk: Bytes, root: s.DirectoryRecord, block: int, *, joliet: bool = False) -> Walk:
    """The tree below ``root``, breadth first. ``block``: bytes of a logical block."""
    found = Walk()
    start = int(root.location_of_extent.little) * block
    first = Record(0, "", start, int(root.data_length.little), True, 0)
    pending, seen = deque([first]), {start}
    budget = _MAX_BYTES
    for _ in range(_MAX_DIRECTORIES):
        if not pending:
            return found
        directory = pending.popleft()
        length = min(directory.size, _MAX_DIRECTORY, budget)
        data = disk.read(directory.start, length)
        budget -= len(data)
        if directory.start + directory.size > disk.size or not data:
            found.unread.append(directory)
        found.finished = found.finished and (length == directory.size or not data)
        for number, record in enumerate(_records(disk, data, directory, block, joliet=joliet)):
            if record.name in (".", "..") and number < 2:
                if number == 0 and record.start != directory.start:
                    found.misnamed.append(record)
                continue
            if len(found.records) >= _MAX_RECORDS:
                found.finished = False
                return found
            found.records.append(record)
            if not record.directory or not record.size:
                continue
            if record.start in seen:
                found.twice.append(record)
            elif record.depth >= _MAX_DEPTH:
                found.finished = False
            else:
                seen.add(record.start)
                pending.append(record)
    found.finished = found.finished and not pending
    return found


def _records(
    disk: Bytes, data: bytes, directory: Record, block: int, *, joliet: bool
) -> Iterator[Record]:
    place = 0
    while place + _HEAD <= len(data):
        length = data[place]
        if length < _HEAD:
            # No record goes over the end of a sector: the rest of it is empty.
            place = (place // s.SECTOR + 1) * s.SECTOR
            continue
        raw = s.DirectoryRecord.from_buffer_copy(data, place)
        names = place + _HEAD
        identifier = data[names : names + raw.length_of_file_identifier]
        end = place + length
        system = b""
        if not joliet:
            after = names + raw.length_of_file_identifier
            system = data[after + (after - place) % 2 : end]
        record = Record(
            place=directory.start + place,
            name=_name(identifier, joliet=joliet),
            start=int(raw.location_of_extent.little) * block,
            size=int(raw.data_length.little),
            directory=bool(raw.file_flags & _DIRECTORY),
            depth=directory.depth + 1,
            agrees=_agrees(raw),
        )
        if system:
            _rock_ridge(disk, system, block, record)
        yield record
        place = end


def _agrees(raw: s.DirectoryRecord) -> bool:
    return all(
        int(both.little) == int.from_bytes(bytes(both.big), "big")
        for both in (raw.location_of_extent, raw.data_length)
    )


def _name(identifier: bytes, *, joliet: bool) -> str:
    if identifier == _SELF:
        return "."
    if identifier == _PARENT:
        return ".."
    if joliet:
        return identifier.decode("utf-16-be", "replace")
    return identifier.decode("latin-1").partition(";")[0]


def _rock_ridge(disk: Bytes, area: bytes, block: int, record: Record) -> None:
    """Put into ``record`` what its system use area says: name, target of a link, mode."""
    name, linked = "", False
    target: list[str] = []
    for continued in (False, True):
        following = None
        while len(area) >= 4 and area[2] >= 4:
            entry, area = area[: area[2]], area[area[2] :]
            kind = entry[:2]
            if kind == b"NM" and len(entry) >= 5:
                special = {_CURRENT: ".", _UP: ".."}.get(entry[4] & (_CURRENT | _UP), "")
                name += special or entry[5:].decode("utf-8", "replace")
            elif kind == b"SL" and len(entry) >= 5:
                linked = True
                target += _components(entry[5:])
            elif kind == b"PX" and len(entry) >= 8:
                record.mode = int.from_bytes(entry[4:8], "little")
            elif kind == b"CE" and len(entry) >= 28:
                following = entry
            elif kind == b"ST":
                break
        if following is None or continued:
            break
        sector, offset, length = (
            int.from_bytes(following[at : at + 4], "little") for at in (4, 12, 20)
        )
        area = disk.read(sector * block + offset, min(length, s.SECTOR))
    if name and record.name not in (".", ".."):
        record.name = name
    if linked:
        record.target = "/".join(target)


def _components(data: bytes) -> Iterator[str]:
    while len(data) >= 2:
        flags, length = data[0], data[1]
        text = data[2 : 2 + length].decode("utf-8", "replace")
        # The root is an empty component in front, as in "/etc".
        special = {_CURRENT: ".", _UP: "..", _ROOT: ""}
        yield special.get(flags & (_CURRENT | _UP | _ROOT), text)
        data = data[2 + length :]
