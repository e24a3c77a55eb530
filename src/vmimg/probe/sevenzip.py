"""7z: the header at its end, with the names of its members.

    signature, where the header is | packed data | header, itself packed as a rule

Only the header is unpacked, at most 256 KiB of it. Source: 7zFormat.txt of the LZMA SDK.
Imports entries; no numpy.
"""

from __future__ import annotations

import ctypes
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.probe.entries import Entry, Kind, special_kind
from vmimg.storage.base import NotHeld

__all__ = ["SIGNATURE", "PackedFolder", "SevenZip", "SignatureHeader", "Streams", "read_7z"]

SIGNATURE: Final = b"7z\xbc\xaf\x27\x1c"
_MAX_HEADER: Final = 256 << 10
_MAX_FOLDERS: Final = 4096
_MAX_CODERS: Final = 32
_MAX_PARTS: Final = 32

_COPY, _LZMA, _LZMA2, _AES = b"\x00", b"\x03\x01\x01", b"\x21", b"\x06\xf1\x07\x01"

# Identifiers of properties
(
    _END,
    _HEADER,
    _ARCHIVE_PROPERTIES,
    _ADDITIONAL,
    _MAIN,
    _FILES,
    _PACK,
    _UNPACK,
    _SUBSTREAMS,
    _SIZES,
    _CRC,
    _FOLDER,
    _UNPACK_SIZES,
    _STREAM_COUNTS,
    _EMPTY_STREAM,
    _EMPTY_FILE,
) = range(16)
_NAMES, _ATTRIBUTES, _ENCODED = 0x11, 0x15, 0x17
_UNIX_EXTENSION: Final = 0x8000
_DIRECTORY: Final = 0x10
_REPARSE_POINT: Final = 0x400


class SignatureHeader(ctypes.LittleEndianStructure):
    """At the beginning of the file; offsets count from its end."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 6),
        ("major", ctypes.c_uint8),
        ("minor", ctypes.c_uint8),
        ("start_header_crc", ctypes.c_uint32),
        ("next_header_offset", ctypes.c_uint64),
        ("next_header_size", ctypes.c_uint64),
        ("next_header_crc", ctypes.c_uint32),
    )


@dataclass(slots=True)
class PackedFolder:
    """Coders, first to last, and what the last one makes: ``count`` files, one behind the other.

    ``simple``: there is one coder, with one input. ``inputs``: packed streams that it takes.
    """

    coders: list[tuple[bytes, bytes]]
    simple: bool
    outputs: int
    main: int
    inputs: int = 1
    sizes: list[int] = field(default_factory=list)
    checksum: int | None = None
    count: int = 1

    @property
    def size(self) -> int:
        return self.sizes[self.main] if self.main < len(self.sizes) else 0


@dataclass(slots=True)
class Streams:
    """What is packed. ``start``: where the first packed stream begins, behind the signature's
    header; ``packed``: their sizes; ``folders``; of the files in them, in order, ``sizes`` and
    ``checksums`` (as many as there are files, where any is known).
    """

    start: int = 0
    packed: list[int] = field(default_factory=list)
    folders: list[PackedFolder] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    checksums: list[int | None] = field(default_factory=list)


class SevenZip:
    """What the headers say. ``stop``: where the archive ends, None where that is not known.

    ``start_is_right``, ``header_is_right``: by their checksums; ``encrypted``: the names are.
    ``complete``: all members were seen. ``streams``: where they are packed;
    ``numbers``: of each entry, which of the files in those it is, -1 for one that is empty.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.streams: Streams | None = None
        self.numbers: list[int] = []
        self.complete = False
        self.crowded = False
        self.version = ""
        self.start_is_right = False
        self.header_is_right: bool | None = None
        self.encrypted = False
        self.stop: int | None = None
        self.problem = ""

    def content(self, entry: Entry, limit: int) -> bytes | None:
        """Nothing: members are packed together."""
        return None


class _Broken(Exception):
    """The header breaks its own rules."""


def read_7z(view: View, limit: int) -> SevenZip:
    """The members of the 7z that ``view`` is on, at most ``limit``. Raises nothing."""
    found = SevenZip()
    start = view.structure(SignatureHeader, 0)
    if start is None:
        return found
    found.version = f"{start.major}.{start.minor}"
    found.start_is_right = zlib.crc32(view.read(12, 20)) == start.start_header_crc
    if not found.start_is_right:
        return found
    at = ctypes.sizeof(start) + start.next_header_offset
    found.stop = at + start.next_header_size
    if found.stop > view.size or start.next_header_size > _MAX_HEADER:
        return found
    try:
        data = view.read(at, start.next_header_size)
    except NotHeld:
        return found
    found.header_is_right = zlib.crc32(data) == start.next_header_crc
    if not data:
        found.complete = True
        return found
    if not found.header_is_right:
        return found
    try:
        # A packed header may be packed again; nobody does.
        for _ in range(4):
            if data[:1] != bytes((_ENCODED,)):
                break
            unpacked = _unpacked(view, _Reader(data[1:]), found)
            if unpacked is None:
                return found
            data = unpacked
        _read_header(_Reader(data), found, limit)
    except _Broken as error:
        found.problem = str(error)
    except NotHeld:
        pass
    return found


class _Reader:
    """A header, read from its front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _Broken("its header ends too early")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """As many bytes follow the first as it has leading ones; its other bits are the top."""
        first = self.byte()
        length = 0
        while length < 8 and first & 0x80 >> length:
            length += 1
        low = int.from_bytes(self.take(length), "little")
        return low | (first & (0x7F >> length)) << 8 * length

    def count(self, most: int) -> int:
        number = self.number()
        if number > most:
            raise _Broken("its header counts more than it has room for")
        return number

    def bits(self, count: int) -> list[bool]:
        data = self.take((count + 7) // 8)
        return [bool(data[index // 8] & 0x80 >> index % 8) for index in range(count)]

    def defined(self, count: int) -> list[bool]:
        return [True] * count if self.byte() else self.bits(count)

    def checksums(self, count: int) -> list[int | None]:
        """CRC-32s, None for those that are not there."""
        defined = self.defined(count)
        return [int.from_bytes(self.take(4), "little") if one else None for one in defined]

    def parts(self) -> Iterator[int]:
        """Identifiers up to the one that ends them."""
        for _ in range(_MAX_PARTS):
            part = self.byte()
            if part == _END:
                return
            yield part
        raise _Broken("its header has too many parts")

    def expect(self, wanted: int) -> None:
        if self.byte() != wanted:
            raise _Broken("its header is not in the order that it should have")


def _streams(reader: _Reader) -> Streams:
    start, packed, folders = 0, list[int](), list[PackedFolder]()
    files: list[int] | None = None
    checksums: list[int | None] | None = None
    kind = reader.byte()
    if kind == _PACK:
        start = reader.number()
        count = reader.count(_MAX_FOLDERS)
        for part in reader.parts():
            if part == _SIZES:
                packed = [reader.number() for _ in range(count)]
            elif part == _CRC:
                reader.take(4 * sum(reader.defined(count)))
            else:
                raise _Broken("its header has a part that is not known")
        kind = reader.byte()
    if kind == _UNPACK:
        reader.expect(_FOLDER)
        count = reader.count(_MAX_FOLDERS)
        if reader.byte():
            raise _Broken("its header has parts elsewhere")
        folders = [_folder(reader) for _ in range(count)]
        reader.expect(_UNPACK_SIZES)
        for folder in folders:
            folder.sizes = [reader.number() for _ in range(folder.outputs)]
        for part in reader.parts():
            if part != _CRC:
                raise _Broken("its header has a part that is not known")
            for folder, one in zip(folders, reader.checksums(count), strict=True):
                folder.checksum = one
        kind = reader.byte()
    if kind == _SUBSTREAMS:
        files, checksums = _substreams(reader, folders)
        kind = reader.byte()
    if kind != _END:
        raise _Broken("its header has a part that is not known")
    if files is None or checksums is None:
        files = [folder.size for folder in folders]
        checksums = [folder.checksum for folder in folders]
    return Streams(start, packed, folders, files, checksums)


def _folder(reader: _Reader) -> PackedFolder:
    coders = []
    inputs = outputs = 0
    simple = True
    for _ in range(reader.count(_MAX_CODERS)):
        flags = reader.byte()
        method = reader.take(flags & 0x0F)
        ins = outs = 1
        if flags & 0x10:
            ins, outs = reader.count(_MAX_CODERS), reader.count(_MAX_CODERS)
            simple = False
        properties = reader.take(reader.count(_MAX_HEADER)) if flags & 0x20 else b""
        coders.append((method, properties))
        inputs += ins
        outputs += outs
    bound = {}
    for _ in range(max(0, outputs - 1)):
        ins = reader.number()
        bound[reader.number()] = ins
    packed = inputs - max(0, outputs - 1)
    if packed > 1:
        for _ in range(packed):
            reader.number()
    main = next((index for index in range(outputs) if index not in bound), 0)
    return PackedFolder(coders, simple and len(coders) == 1, outputs, main, packed)


def _substreams(reader: _Reader, folders: list[PackedFolder]) -> tuple[list[int], list[int | None]]:
    """Sizes and checksums of the files in ``folders``."""
    counts = [1] * len(folders)
    kind = reader.byte()
    if kind == _STREAM_COUNTS:
        counts = [reader.count(_MAX_HEADER) for _ in folders]
        kind = reader.byte()
    if sum(counts) > _MAX_HEADER:
        raise _Broken("its header counts more than it has room for")
    for folder, count in zip(folders, counts, strict=True):
        folder.count = count
    sizes: list[int] = []
    if kind == _SIZES:
        for folder, count in zip(folders, counts, strict=True):
            if count:
                own = [reader.number() for _ in range(count - 1)]
                sizes += [*own, max(0, folder.size - sum(own))]
        kind = reader.byte()
    else:
        sizes = [folder.size for folder, count in zip(folders, counts, strict=True) if count == 1]
    known = [folder.count == 1 and folder.checksum is not None for folder in folders]
    unknown = sum(0 if one else folder.count for folder, one in zip(folders, known, strict=True))
    rest: Iterator[int | None] = iter(())
    if kind == _CRC:
        rest = iter(reader.checksums(unknown))
        kind = reader.byte()
    if kind != _END:
        raise _Broken("its header has a part that is not known")
    checksums: list[int | None] = []
    for folder, one in zip(folders, known, strict=True):
        checksums += [folder.checksum] if one else [next(rest, None) for _ in range(folder.count)]
    return sizes, checksums


def _unpacked(view: View, reader: _Reader, found: SevenZip) -> bytes | None:
    streams = _streams(reader)
    start, packed, folders = streams.start, streams.packed, streams.folders
    if len(folders) != 1 or not packed:
        raise _Broken("its header is packed in a way that is not known")
    if any(method == _AES for method, _ in folders[0].coders):
        found.encrypted = True
        return None
    size = folders[0].size
    if not folders[0].simple or size > _MAX_HEADER or packed[0] > _MAX_HEADER:
        return None
    method, properties = folders[0].coders[0]
    data = view.read(ctypes.sizeof(SignatureHeader) + start, packed[0])
    if method == _COPY:
        return data
    if method != _LZMA or len(properties) != 5 or properties[0] >= 9 * 5 * 5:
        return None
    rest, literal = divmod(properties[0], 9)
    position, state = divmod(rest, 5)
    filters = [
        {
            "id": lzma.FILTER_LZMA1,
            # As large as the result at most: the library takes memory by it.
            "dict_size": max(4096, min(int.from_bytes(properties[1:], "little"), size)),
            "lc": literal,
            "lp": state,
            "pb": position,
        }
    ]
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(data, size)
    except (lzma.LZMAError, ValueError):
        raise _Broken("its header cannot be unpacked") from None


def _read_header(reader: _Reader, found: SevenZip, limit: int) -> None:
    reader.expect(_HEADER)
    sizes: list[int] = []
    kind = reader.byte()
    if kind == _ARCHIVE_PROPERTIES:
        for _ in reader.parts():
            reader.take(reader.count(_MAX_HEADER))
        kind = reader.byte()
    if kind == _ADDITIONAL:
        _streams(reader)
        kind = reader.byte()
    if kind == _MAIN:
        found.streams = _streams(reader)
        folders, sizes = found.streams.folders, found.streams.sizes
        # Shown all the same: the names are no secret here.
        packed_by = {method for folder in folders for method, _ in folder.coders}
        found.encrypted = _AES in packed_by
        kind = reader.byte()
    if kind == _FILES:
        _read_files(reader, found, sizes, limit)


def _read_files(reader: _Reader, found: SevenZip, sizes: list[int], limit: int) -> None:
    count = reader.count(len(reader.data))
    empty, files = [False] * count, [False] * count
    names: list[str] = []
    attributes: list[int] = []
    for kind in reader.parts():
        inner = _Reader(reader.take(reader.number()))
        if kind == _EMPTY_STREAM:
            empty = inner.bits(count)
        elif kind == _EMPTY_FILE:
            bits = iter(inner.bits(sum(empty)))
            files = [one and next(bits) for one in empty]
        elif kind == _NAMES and not inner.byte():
            names = inner.data[1:].decode("utf-16-le", "replace").split("\0")
        elif kind == _ATTRIBUTES:
            defined = inner.defined(count)
            if not inner.byte():
                attributes = [
                    int.from_bytes(inner.take(4), "little") if one else 0 for one in defined
                ]
    if len(names) < count:
        raise _Broken("its header has fewer names than files")
    taken = iter(enumerate(sizes))
    for index in range(min(count, limit)):
        number, size = (-1, 0) if empty[index] else next(taken, (-1, 0))
        attribute = attributes[index] if index < len(attributes) else 0
        directory = empty[index] and not files[index]
        found.entries.append(Entry(names[index], _kind(attribute, directory), size, size, offset=0))
        found.numbers.append(number)
    found.crowded = count > limit
    found.complete = not found.crowded


def _kind(attribute: int, directory: bool) -> Kind:
    if attribute & _REPARSE_POINT:
        return "symlink"
    if attribute & _UNIX_EXTENSION:
        special = special_kind(attribute >> 16)
        if special is not None:
            return special
    return "directory" if directory or attribute & _DIRECTORY else "file"
