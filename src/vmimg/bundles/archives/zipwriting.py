"""ZipWriter: a zip, deflated on all cores, or stored. Imports storage.

    local header, data | ... | central directory | [zip64 end, locator] | end

Sizes and checksums are filled into the local headers when a member is complete. Members of 4 GiB
and more, and those whose size is not known before, have zip64 fields. Source: PKWARE APPNOTE.TXT
6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmimg.bundles.archives.deflating import DeflateStream
from vmimg.bundles.archives.writing import (
    ArchiveWriter,
    GrowingMember,
    PlaceSink,
    Reserved,
    WrittenMember,
)
from vmimg.codecs import Level
from vmimg.codecs.crc32 import crc32, crc32_join
from vmimg.probe.zip import (
    CENTRAL,
    END,
    END64,
    LOCAL,
    LOCATOR64,
    CentralHeader,
    EndRecord,
    EndRecord64,
    LocalHeader,
    Locator64,
)
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.streaming import ByteSink
from vmimg.units import MIB

__all__ = ["ZipWriter"]

_STORED, _DEFLATED = 0, 8
_WIDE: Final = 0xFFFFFFFF
_WIDE_FROM: Final = 0xFFFFFFFF
_MANY: Final = 0xFFFF
_UTF8: Final = 1 << 11
_UNIX: Final = 3
_VERSION: Final = 20
_VERSION_ZIP64: Final = 45
# The first day that a zip knows: 1 January 1980.
_DATE: Final = 1 << 5 | 1
_FILE_MODE: Final = 0o100644
_DIRECTORY_MODE: Final = 0o040755
_ZIP64_EXTRA: Final = b"\x01\x00\x10\x00"
_ZIP64_BYTES: Final = 20
_PIECE: Final = 4 * MIB
# Below this, what is deflated surely has no 4 GiB either.
_SURELY_NARROW: Final = 0xFFFF0000 - (64 << 20)


@dataclass(frozen=True, slots=True)
class _Member:
    name: bytes
    offset: int
    method: int
    wide: bool
    size: int = 0
    stored: int = 0
    checksum: int = 0
    mode: int = _FILE_MODE


class ZipWriter(ArchiveWriter):
    """``compress``: deflate members; images (`add_image`) and what is reserved are stored in any
    case. ``threads`` and ``level`` as of GzipTarWriter.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        compress: bool = True,
        level: Level = "default",
        threads: int = 0,
        unique: bool = True,
    ) -> None:
        super().__init__(storage, unique=unique)
        self._compress = compress
        self._level: Level = level
        self._threads = threads
        self._at = 0
        self._directory: list[bytes] = []
        self._reserved: dict[str, tuple[_Member, int]] = {}

    def add(self, name: str, data: Buffer) -> None:
        size = memoryview(data).nbytes

        def send(target: ByteSink) -> int:
            target.write(data)
            return size

        self.add_stream(name, size, send)

    def add_directory(self, name: str) -> None:
        raw = self._take(name).encode("utf-8", "surrogateescape") + b"/"
        member = _Member(raw, self._at, _STORED, False, mode=_DIRECTORY_MODE)
        self._seal(member, self._begin(member))

    def add_image(self, name: str, write: Callable[[Storage], int]) -> int:
        member = self._member(name, None, _STORED)
        start = self._begin(member)
        place = GrowingMember(self.storage, start, name)
        size = write(place)
        if place.size != size:
            place.resize(size)
        self._stored(member, start, size)
        return size

    def add_stream(self, name: str, size: int | None, send: Callable[[ByteSink], int]) -> int:
        member = self._member(name, size, _DEFLATED if self._compress else _STORED)
        start = self._begin(member)
        if not self._compress:
            place = GrowingMember(self.storage, start, name)
            sink = PlaceSink(place, 0)
            sent = send(sink)
            self._check_size(name, sent, sink.position)
            self._check_size(name, size, sent)
            place.resize(sent)
            self._stored(member, start, sent)
            return sent
        with DeflateStream(self.storage, start, level=self._level, threads=self._threads) as stream:
            sent = send(stream)
            self._check_size(name, sent, stream.plain)
            self._check_size(name, size, sent)
            checksum = stream.finish()
        member = _Member(
            member.name,
            member.offset,
            member.method,
            member.wide,
            sent,
            stream.at - start,
            checksum,
        )
        self._seal(member, stream.at)
        self.last = WrittenMember(name, -1, sent)
        return sent

    def reserve(self, name: str, size: int) -> Reserved:
        member = self._member(name, size, _STORED)
        start = self._begin(member)
        self.storage.write(start, bytes(size))
        self._at = start + size
        member_name = member.name.decode("utf-8", "surrogateescape")
        reserved = Reserved(member_name, size, start)
        self._open[member_name] = reserved
        self._reserved[member_name] = (member, len(self._directory))
        self._directory.append(b"")
        return reserved

    def fill(self, reserved: Reserved, data: bytes, *, pad: bytes = b"\n") -> None:
        data = self._padded(reserved, data, pad)
        self.storage.write(reserved.offset, data)
        member, number = self._reserved[reserved.name]
        at = self._at
        self._stored(member, reserved.offset, reserved.size)
        self._directory[number] = self._directory.pop()
        self._at = at

    def finish(self) -> None:
        self._check_filled()
        directory = b"".join(self._directory)
        count = len(self._directory)
        start, size = self._at, len(directory)
        self.storage.write(start, directory)
        at = start + size
        wide = start >= _WIDE_FROM or size >= _WIDE_FROM or count >= _MANY
        if wide:
            end64 = EndRecord64(
                signature=END64,
                record_size=ctypes.sizeof(EndRecord64) - 12,
                version_made_by=_UNIX << 8 | _VERSION_ZIP64,
                version_needed=_VERSION_ZIP64,
                disk_entries=count,
                entries=count,
                directory_size=size,
                directory_offset=start,
            )
            locator = Locator64(signature=LOCATOR64, end64_offset=at, disks=1)
            self.storage.write(at, bytes(end64) + bytes(locator))
            at += ctypes.sizeof(end64) + ctypes.sizeof(locator)
        end = EndRecord(
            signature=END,
            disk_entries=min(count, _MANY),
            entries=min(count, _MANY),
            directory_size=_narrow(size),
            directory_offset=_narrow(start),
        )
        self.storage.write(at, bytes(end))
        self.storage.resize(at + ctypes.sizeof(end))

    def _member(self, name: str, size: int | None, method: int) -> _Member:
        raw = self._take(name).encode("utf-8", "surrogateescape")
        return _Member(raw, self._at, method, size is None or size >= _SURELY_NARROW)

    def _begin(self, member: _Member) -> int:
        """Where the data of the member goes that begins here."""
        return self._at + len(_local(member))

    def _stored(self, member: _Member, start: int, size: int) -> None:
        checksum = _checksum(self.storage, start, size)
        self._seal(
            _Member(member.name, member.offset, _STORED, member.wide, size, size, checksum),
            start + size,
        )
        name = member.name.decode("utf-8", "surrogateescape")
        self.last = WrittenMember(name, start, size)

    def _seal(self, member: _Member, end: int) -> None:
        self.storage.write(member.offset, _local(member))
        self._directory.append(_central(member))
        self._at = end


def _local(member: _Member) -> bytes:
    """What stands in front of a member. As long before its sizes are known as after."""
    header = LocalHeader(
        signature=LOCAL,
        version_needed=_VERSION_ZIP64 if member.wide else _VERSION,
        flags=0 if member.name.isascii() else _UTF8,
        method=member.method,
        date=_DATE,
        crc32=member.checksum,
        compressed_size=_WIDE if member.wide else member.stored,
        uncompressed_size=_WIDE if member.wide else member.size,
        name_length=len(member.name),
        extra_length=_ZIP64_BYTES if member.wide else 0,
    )
    extra = b""
    if member.wide:
        extra = (
            _ZIP64_EXTRA + member.size.to_bytes(8, "little") + member.stored.to_bytes(8, "little")
        )
    return bytes(header) + member.name + extra


def _central(member: _Member) -> bytes:
    numbers = [n for n in (member.size, member.stored, member.offset) if n >= _WIDE_FROM]
    extra = b"".join(number.to_bytes(8, "little") for number in numbers)
    if extra:
        extra = b"\x01\x00" + len(extra).to_bytes(2, "little") + extra
    header = CentralHeader(
        signature=CENTRAL,
        version_made_by=_VERSION_ZIP64,
        host=_UNIX,
        version_needed=_VERSION_ZIP64 if extra or member.wide else _VERSION,
        flags=0 if member.name.isascii() else _UTF8,
        method=member.method,
        date=_DATE,
        crc32=member.checksum,
        compressed_size=_narrow(member.stored),
        uncompressed_size=_narrow(member.size),
        name_length=len(member.name),
        extra_length=len(extra),
        external_attributes=member.mode << 16 | (0x10 if member.mode == _DIRECTORY_MODE else 0),
        local_offset=_narrow(member.offset),
    )
    return bytes(header) + member.name + extra


def _narrow(number: int) -> int:
    return number if number < _WIDE_FROM else _WIDE


def _checksum(storage: Storage, start: int, size: int) -> int:
    """The CRC-32 of what was written, read back from the page cache."""
    total = 0
    buffer = memoryview(bytearray(min(_PIECE, size)))
    end = start + size
    while start < end:
        piece = buffer[: min(_PIECE, end - start)]
        storage.read_into(start, piece)
        total = crc32_join(total, crc32(piece), len(piece))
        start += len(piece)
    return total
