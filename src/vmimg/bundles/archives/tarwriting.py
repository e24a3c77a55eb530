"""TarWriter: a tar, uncompressed, written to a file; and the headers of any tar that is made.

    header | content, up to 512 | header | content | ... | two blocks of zeros

ustar, which every reader knows: names up to 255 bytes. What does not fit (longer names) goes into
an extended header in front, of GNU's kind or PAX's. Sizes from 8 GiB on are in GNU's base 256, as
all have them. Sources: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar
Format". Imports storage.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final, Literal

from vmimg.bundles.archives.writing import (
    ArchiveWriter,
    GrowingMember,
    PlaceSink,
    Reserved,
    WrittenMember,
    pieces_of,
)
from vmimg.errors import OptionError
from vmimg.probe.tar import BLOCK, TarHeader
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.streaming import ByteSink

__all__ = [
    "END",
    "Flavour",
    "TarWriter",
    "octal",
    "put",
    "summed",
    "tar_header",
    "tar_padding",
]

Flavour = Literal["ustar", "gnu"]
"""What to say of the header: "gnu" is the old GNU format, which Google Compute Engine asks for."""

END: Final = bytes(2 * BLOCK)
# What the size field holds in eleven octal digits.
_MAX_OCTAL: Final = 8**11
_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
_MAX_NAME: Final = 4096


class TarWriter(ArchiveWriter):
    """Members lie in the file as they are: an image can be written into its place, and what was
    written can be read back (`written`), for checksums.
    """

    def __init__(
        self, storage: Storage, *, flavour: Flavour = "ustar", unique: bool = True
    ) -> None:
        super().__init__(storage, unique=unique)
        self._flavour: Flavour = flavour
        self._at = 0

    def add(self, name: str, data: Buffer) -> None:
        size = memoryview(data).nbytes
        name = self._take(name)
        header = tar_header(name, size, self._flavour)
        self.storage.write_all(self._at, [header, data, tar_padding(size)])
        self._complete(name, self._at + len(header), size)

    def add_directory(self, name: str) -> None:
        header = tar_header(self._take(name), 0, self._flavour, directory=True)
        self.storage.write(self._at, header)
        self._at += len(header)

    def add_image(self, name: str, write: Callable[[Storage], int]) -> int:
        name = self._take(name)
        start = self._at + len(tar_header(name, 0, self._flavour))
        member = GrowingMember(self.storage, start, name)
        size = write(member)
        if member.size != size:
            member.resize(size)
        self._seal(name, start, size)
        return size

    def add_stream(self, name: str, size: int | None, send: Callable[[ByteSink], int]) -> int:
        name = self._take(name)
        start = self._at + len(tar_header(name, 0, self._flavour))
        sink = PlaceSink(self.storage, start)
        sent = send(sink)
        self._check_size(name, sent, sink.position - start)
        self._check_size(name, size, sent)
        sink.settle()
        self._seal(name, start, sent)
        return sent

    def add_storage(self, name: str, storage: Storage) -> None:
        name = self._take(name)
        start = self._at + len(tar_header(name, 0, self._flavour))
        member = GrowingMember(self.storage, start, name)
        for offset, length, hole in pieces_of(storage):
            if hole:
                member.zero(offset, length)
            elif not storage.copy_range(offset, self.storage, start + offset, length):
                member.write(offset, storage.read(offset, length))
        self._seal(name, start, storage.size)

    def reserve(self, name: str, size: int) -> Reserved:
        name = self._take(name)
        header = tar_header(name, size, self._flavour)
        reserved = Reserved(name, size, self._at + len(header))
        self.storage.write_all(self._at, [header, bytes(size), tar_padding(size)])
        self._at = reserved.offset + size + len(tar_padding(size))
        self._open[name] = reserved
        return reserved

    def fill(self, reserved: Reserved, data: bytes, *, pad: bytes = b"\n") -> None:
        self.storage.write(reserved.offset, self._padded(reserved, data, pad))

    def finish(self) -> None:
        self._check_filled()
        self.storage.write(self._at, END)
        self._at += len(END)
        self.storage.resize(self._at)

    def _seal(self, name: str, start: int, size: int) -> None:
        """The header of a member that is there, and the padding behind it."""
        self.storage.write(self._at, tar_header(name, size, self._flavour))
        padding = tar_padding(size)
        if padding:
            self.storage.write(start + size, padding)
        self._complete(name, start, size)

    def _complete(self, name: str, start: int, size: int) -> None:
        self.last = WrittenMember(name, start, size)
        self._at = start + size + len(tar_padding(size))


def tar_header(name: str, size: int, flavour: Flavour, *, directory: bool = False) -> bytes:
    """All that stands in front of a member: its header, and for a long name another one.

    Its length depends on the name alone. Raises OptionError for names that no reader takes.
    """
    raw = name.encode("utf-8", "surrogateescape") + (b"/" if directory else b"")
    if len(raw) > _MAX_NAME:
        raise OptionError(f"a name of {len(raw)} bytes is too long for an archive: {name[:64]}...")
    front = b""
    prefix, base = b"", raw
    if len(raw) > 100:
        prefix, base = _split(raw) if flavour == "ustar" else (b"", b"")
        if not base:
            front = _long_name(raw, flavour)
            prefix, base = b"", raw[:100]
    return front + _header(prefix, base, size, flavour, b"5" if directory else b"0")


def tar_padding(size: int) -> bytes:
    """The zeros behind a member of ``size`` bytes."""
    return bytes(-size % BLOCK)


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """``raw`` at a slash into what fits the two fields; empty where there is none such."""
    at = raw.rfind(b"/", 0, 156)
    # The last part of a directory's name ends in a slash.
    if at <= 0 or not 0 < len(raw) - at - 1 <= 100:
        return b"", b""
    return raw[:at], raw[at + 1 :]


def _long_name(raw: bytes, flavour: Flavour) -> bytes:
    if flavour == "gnu":
        body = raw + b"\0"
        return (
            _header(b"", b"././@LongLink", len(body), flavour, b"L") + body + tar_padding(len(body))
        )
    body = b" path=" + raw + b"\n"
    # The length counts its own digits.
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    body = str(length).encode() + body
    return (
        _header(b"", b"PaxHeaders/name", len(body), flavour, b"x") + body + tar_padding(len(body))
    )


def _header(prefix: bytes, base: bytes, size: int, flavour: Flavour, kind: bytes) -> bytes:
    mode = _DIRECTORY_MODE if kind == b"5" else _FILE_MODE
    header = TarHeader(name=base, typeflag=kind[0], prefix=prefix)
    put(header.mode, b"%07o\0" % mode)
    put(header.uid, b"%07o\0" % 0)
    put(header.gid, b"%07o\0" % 0)
    put(header.size, octal(size))
    put(header.mtime, b"%011o\0" % 0)
    put(header.magic, b"ustar " if flavour == "gnu" else b"ustar\0")
    put(header.version, b" \0" if flavour == "gnu" else b"00")
    if flavour == "ustar":
        put(header.devmajor, b"%07o\0" % 0)
        put(header.devminor, b"%07o\0" % 0)
    return summed(bytes(header), kind)


def summed(block: bytes, kind: bytes) -> bytes:
    """A header as a member of another ``kind``, with its checksum."""
    header = TarHeader.from_buffer_copy(block)
    header.typeflag = kind[0]
    put(header.chksum, b" " * 8)
    put(header.chksum, b"%06o\0 " % sum(bytes(header)))
    return bytes(header)


def octal(size: int) -> bytes:
    """A number of a header: in octal digits, or in base 256."""
    if size < _MAX_OCTAL:
        return b"%011o\0" % size
    return b"\x80" + size.to_bytes(11, "big")


def put(field: ctypes.Array[ctypes.c_uint8], value: bytes) -> None:
    """Set the beginning of a field."""
    ctypes.memmove(field, value[: ctypes.sizeof(field)], min(len(value), ctypes.sizeof(field)))
