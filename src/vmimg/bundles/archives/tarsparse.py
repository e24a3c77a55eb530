"""Members of a tar with holes, as the files that they were made of.

    old GNU    header with four pieces | blocks of 21 pieces each | data, piece behind piece
    PAX 0.0    GNU.sparse.offset and .numbytes, again and again, in the PAX header in front
    PAX 0.1    GNU.sparse.map=offset,bytes,offset,bytes... in the PAX header in front
    PAX 1.0    decimal numbers in lines in front of the data, padded to 512

Source: GNU tar's manual, "Storing Sparse Files". Imports probe's structures and storage.
"""

from __future__ import annotations

import ctypes
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from vmimg.bundles.archives.tarwriting import octal, put, summed, tar_header
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.probe.tar import BLOCK, header_of
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["open_sparse", "sparse_header"]

_MAX_PIECES: Final = 1 << 20
_MAX_EXTENDED: Final = 4 << 20
_LINES: Final = 64 << 10
_MAX_DIGITS: Final = 19


class _Piece(ctypes.BigEndianStructure):
    """Where a piece of data lies in the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("offset", ctypes.c_uint8 * 12), ("numbytes", ctypes.c_uint8 * 12))


class _OldGnu(ctypes.BigEndianStructure):
    """The end of an old GNU header."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("unused", ctypes.c_uint8 * 386),
        ("sp", _Piece * 4),
        ("isextended", ctypes.c_uint8),
        ("realsize", ctypes.c_uint8 * 12),
        ("unused_2", ctypes.c_uint8 * 17),
    )


class _MorePieces(ctypes.BigEndianStructure):
    """A block behind it."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("sp", _Piece * 21),
        ("isextended", ctypes.c_uint8),
        ("unused", ctypes.c_uint8 * 7),
    )


def open_sparse(
    storage: Storage, header: int, extended: int | None, stored: int, size: int, name: str
) -> Storage:
    """The member whose header stands at ``header`` in ``storage``, which stays open. ``extended``:
    where the PAX header in front of it is; ``stored`` and ``size``: bytes of it in the archive, and
    with holes.
    """
    block = storage.read(header, BLOCK)
    found = header_of(block)
    if found is None:
        raise _broken(name)
    if found.typeflag == ord("S"):
        data, pieces = _old_gnu(storage, header, block, name)
    else:
        data = header + BLOCK
        records = _records(storage, extended, name)
        pairs = records.get("GNU.sparse.map")
        if pairs is not None:
            pieces = _pairs((_decimal(text, name) for text in pairs.split(b",")), name)
        elif "GNU.sparse.offset" in records:
            pieces = _pairs(
                (_decimal(text, name) for text in records["GNU.sparse.offset"].split(b",")), name
            )
        elif records.get("GNU.sparse.major") == b"1":
            data, pieces = _in_front(storage, data, stored, name)
            stored -= data - header - BLOCK
        else:
            raise UnsupportedFeature(f"{name}: has holes in a way that is not known")
    return _Sparse(storage, data, stored, size, pieces, name)


def sparse_header(name: str, size: int, pieces: Sequence[tuple[int, int]]) -> bytes:
    """The old GNU header of a member of ``size`` bytes of which only ``pieces`` (start, end) are
    there, with the blocks of its map. Their bytes follow, piece behind piece.
    """
    stored = sum(end - start for start, end in pieces)
    plain = tar_header(name, stored, "gnu")
    front, block = plain[:-BLOCK], _OldGnu.from_buffer_copy(plain[-BLOCK:])
    listed = list(pieces)
    if not listed or listed[-1][1] < size:
        listed.append((size, size))  # as GNU tar marks a hole at the end
    _list(block.sp, listed[:4])
    put(block.realsize, octal(size))
    rest = listed[4:]
    block.isextended = bool(rest)
    parts = []
    while rest:
        more = _MorePieces()
        _list(more.sp, rest[:21])
        rest = rest[21:]
        more.isextended = bool(rest)
        parts.append(bytes(more))
    return front + summed(bytes(block), b"S") + b"".join(parts)


def _list(places: ctypes.Array[_Piece], pieces: Sequence[tuple[int, int]]) -> None:
    for place, (start, end) in zip(places, pieces, strict=False):
        put(place.offset, octal(start))
        put(place.numbytes, octal(end - start))


class _Sparse(ReadOnlyView):
    """``pieces``: offset and length in the file, of data that lies in ``base`` from ``data`` on,
    piece behind piece.
    """

    def __init__(
        self,
        base: Storage,
        data: int,
        stored: int,
        size: int,
        pieces: tuple[array[int], array[int]],
        name: str,
    ) -> None:
        super().__init__(base, size)
        self.name = name
        self._starts = array("q")
        self._lengths = array("q")
        self._places = array("q")
        end, place = 0, data
        for offset, length in zip(*pieces, strict=True):
            if offset < end or offset + length > size:
                raise _broken(name)
            end = offset + length
            if length:
                self._starts.append(offset)
                self._lengths.append(length)
                self._places.append(place)
            place += length
        if place - data != stored:
            raise _broken(name)
        if place > base.size:
            raise FormatError(f"{name}: is cut off: the archive ends in it")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        for start, end, place in self._parts(offset, offset + len(buffer)):
            piece = buffer[start - offset : end - offset]
            if place < 0:
                piece[:] = bytes(len(piece))
            else:
                self._base.read_into(place, piece)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        for low, high, place in self._parts(start, end):
            yield low, high, place < 0

    def allocated(self) -> int:
        return sum(self._lengths)

    def identity(self) -> tuple[int, ...] | None:
        return None

    def close(self) -> None:
        pass  # the archive's

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, where it lies, -1 for a hole), in order, of [start, end)."""
        number = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            if number >= len(self._starts):
                yield start, end, -1
                return
            first = self._starts[number]
            last = first + self._lengths[number]
            if start < first:
                stop = min(end, first)
                yield start, stop, -1
                start = stop
            elif start < last:
                stop = min(end, last)
                yield start, stop, self._places[number] + start - first
                start = stop
            else:
                number += 1


def _old_gnu(
    storage: Storage, header: int, block: bytes, name: str
) -> tuple[int, tuple[array[int], array[int]]]:
    first = _OldGnu.from_buffer_copy(block)
    starts, lengths = array("q"), array("q")
    at = header + BLOCK
    here: Iterable[_Piece] = first.sp
    more = first.isextended
    while True:
        for piece in here:
            if not piece.offset[0]:
                break
            starts.append(_field(bytes(piece.offset), name))
            lengths.append(_field(bytes(piece.numbytes), name))
        if not more:
            return at, (starts, lengths)
        if len(starts) > _MAX_PIECES or at + BLOCK > storage.size:
            raise _broken(name)
        following = _MorePieces.from_buffer_copy(storage.read(at, BLOCK))
        at += BLOCK
        here, more = following.sp, following.isextended


def _records(storage: Storage, at: int | None, name: str) -> dict[str, bytes]:
    """The records on holes in the PAX header at ``at``; what comes again and again, joined."""
    if at is None:
        raise _broken(name)
    header = header_of(storage.read(at, BLOCK))
    if header is None:
        raise _broken(name)
    length = _field(bytes(header.size), name)
    if length > _MAX_EXTENDED or at + BLOCK + length > storage.size:
        raise _broken(name)
    body = storage.read(at + BLOCK, length)
    found: dict[str, bytes] = {}
    pairs: list[bytes] = []
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 8)
        digits = body[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        equals = body.find(b"=", position, end)
        if not position < space < equals < end <= len(body):
            raise _broken(name)
        key = body[space + 1 : equals].decode("ascii", "replace")
        value = body[equals + 1 : end - 1]
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            pairs.append(value)
        elif key.startswith("GNU.sparse."):
            found[key] = value
        position = end
    if pairs:
        found["GNU.sparse.offset"] = b",".join(pairs)
    return found


def _in_front(
    storage: Storage, at: int, stored: int, name: str
) -> tuple[int, tuple[array[int], array[int]]]:
    """The map in front of the data, and where that begins."""
    position = at
    end = min(at + stored, storage.size)
    rest = b""
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        if position >= end:
            raise _broken(name)
        window = storage.read(position, min(_LINES, end - position))
        position += len(window)
        lines = (rest + window).split(b"\n")
        rest = lines.pop()
        for number, line in enumerate(lines):
            numbers.append(_decimal(line, name))
            if len(numbers) == 1:
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > _MAX_PIECES:
                    raise _broken(name)
            if len(numbers) == wanted:
                behind = sum(len(line) + 1 for line in lines[number + 1 :]) + len(rest)
                length = position - behind - at
                data = at + -(-length // BLOCK) * BLOCK
                return data, _pairs(iter(numbers[1:]), name)
        if len(rest) > _MAX_DIGITS + 1:
            raise _broken(name)
    raise _broken(name)


def _pairs(numbers: Iterator[int], name: str) -> tuple[array[int], array[int]]:
    starts, lengths = array("q"), array("q")
    for start in numbers:
        length = next(numbers, None)
        if length is None or len(starts) >= _MAX_PIECES:
            raise _broken(name)
        starts.append(start)
        lengths.append(length)
    return starts, lengths


def _decimal(text: bytes, name: str) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS or int(text) >= 1 << 62:
        raise _broken(name)
    return int(text)


def _field(field: bytes, name: str) -> int:
    """A number of a header, in octal digits or base 256."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    else:
        digits = field.split(b"\0")[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise _broken(name)
        number = int(digits or b"0", 8)
    if number >= 1 << 62:
        raise _broken(name)
    return number


def _broken(name: str) -> FormatError:
    return FormatError(f"{name}: the map of its holes is damaged")
