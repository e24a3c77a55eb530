"""Streams whose blocks are decoded here, for no library that vmimg depends on knows them: the
frames of LZ4 (both kinds) and lzop. `streams` drives them.

Checksums of blocks and contents are not computed: a block that decodes is evidence enough for what
a stream is, and the program that unpacks it in earnest checks them. Sources: lz4's
doc/lz4_Frame_format.md; for lzop the header as Linux's lib/decompress_unlzo.c reads it. Imports
codecs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vmimg.codecs import lz4, lzo
from vmimg.errors import FormatError

if TYPE_CHECKING:
    from vmimg.probe.streams import Member, Source, Unpacking

__all__ = ["MEMBERS", "Lz4Frame", "read_lz4_frame"]

_LEGACY_BLOCK: Final = 8 << 20
_HISTORY: Final = 64 << 10
# Nobody can look at a clock inside a block, and decoding so much in Python takes half a second.
_MOST_IN: Final = 2 << 20
# lzop writes blocks of 256 KiB and reads such of 64 MiB; those are not for a look.
_LZOP_BLOCK: Final = 1 << 20
_STORED: Final = 1 << 31

# Flags of lzop's header: what stands behind a block's lengths, and what the header has besides.
_F_ADLER32_D: Final = 0x1
_F_ADLER32_C: Final = 0x2
_F_EXTRA_FIELD: Final = 0x40
_F_CRC32_D: Final = 0x100
_F_CRC32_C: Final = 0x200
_F_FILTER: Final = 0x800


class Lz4Frame:
    """The descriptor of a frame. ``length``: its bytes, with the magic; sizes in bytes."""

    def __init__(self, flags: int, block: int, content: int | None, length: int) -> None:
        self.independent = bool(flags & 0x20)
        self.block_checksums = bool(flags & 0x10)
        self.content_checksum = bool(flags & 0x04)
        self.block_size = 1 << (8 + 2 * (block >> 4 & 7))
        self.content_size = content
        self.length = length


def read_lz4_frame(head: bytes) -> Lz4Frame | None:
    """The frame that ``head`` (at least 19 bytes, if there are) begins with; None for none."""
    if len(head) < 7 or head[:4] != b"\x04\x22\x4d\x18":
        return None
    flags, block = head[4], head[5]
    # Version 01, reserved bits, the sizes of blocks that there are.
    if flags >> 6 != 1 or flags & 0x02 or block & 0x8F or not 4 <= block >> 4 <= 7:
        return None
    length = 7 + 8 * bool(flags & 0x08) + 4 * bool(flags & 0x01)
    if len(head) < length:
        return None
    content = int.from_bytes(head[6:14], "little") if flags & 0x08 else None
    return Lz4Frame(flags, block, content, length)


def _lz4_member(source: Source, unpacking: Unpacking) -> Iterator[bytes]:
    from vmimg.probe.streams import WrongSize

    frame = read_lz4_frame(source.peek(19))
    if frame is None:
        raise FormatError("the header of a frame")
    source.exactly(frame.length)
    history = b""
    made = 0
    while True:
        length = int.from_bytes(source.exactly(4), "little")
        if not length:
            break
        stored = bool(length & _STORED)
        length &= _STORED - 1
        if length > frame.block_size or not length:
            raise FormatError(f"a block of {length} bytes")
        for piece in _lz4_block(source, unpacking, length, stored, frame.block_size, history):
            made += len(piece)
            history = b"" if frame.independent else (history + piece)[-_HISTORY:]
            yield piece
        if frame.block_checksums:
            source.exactly(4)
    if frame.content_checksum:
        source.exactly(4)
    if frame.content_size not in (None, made):
        raise WrongSize(f"{made} bytes, and its header states {frame.content_size}")


def _lz4_legacy_member(source: Source, unpacking: Unpacking) -> Iterator[bytes]:
    """Blocks up to the end of the file, or to another magic; Linux pads its initrds with zeros."""
    source.exactly(4)
    while source.at < source.view.size:
        length = int.from_bytes(source.peek(4), "little")
        if not length or length == 0x184C2102:
            break
        if length > _LEGACY_BLOCK + _LEGACY_BLOCK // 255 + 16:
            if unpacking.made:
                unpacking.trailing = source.at
                source.at = source.view.size
                break
            raise FormatError(f"a block of {length} bytes")
        source.exactly(4)
        yield from _lz4_block(source, unpacking, length, False, _LEGACY_BLOCK, b"")
    padding = source.peek(64 << 10)
    if padding and not padding.strip(b"\0"):
        source.at += len(padding)


def _lz4_block(
    source: Source, unpacking: Unpacking, length: int, stored: bool, most: int, history: bytes
) -> Iterator[bytes]:
    from vmimg.probe.streams import CutOff, Stopped

    wanted = max(0, min(most, unpacking.enough - unpacking.made))
    data = b""
    ending: type[Exception] | None = None
    try:
        if length > _MOST_IN and not stored:
            raise Stopped
        data = source.exactly(length)
    except (CutOff, Stopped) as error:
        ending = type(error)
        data = source.some(min(length, _MOST_IN))
    # Decoding goes no further than what is wanted, or there.
    partial = ending is not None or wanted < most
    piece = data[:wanted] if stored else b""
    if not stored:
        piece = bytes(lz4.decompress(data, wanted, history=history, partial=partial))
    yield piece
    if ending is not None:
        raise ending
    if partial and len(piece) == wanted:
        raise Stopped


def _lzop_member(source: Source, unpacking: Unpacking) -> Iterator[bytes]:
    from vmimg.probe.streams import Stopped

    source.exactly(9)
    version = int.from_bytes(source.exactly(2), "big")
    source.exactly(2)  # of the library
    newer = version >= 0x940
    if newer:
        source.exactly(2)  # needed to extract
    method = source.exactly(1)[0]
    if method not in (1, 2, 3):
        raise FormatError(f"method {method}")
    if newer:
        source.exactly(1)  # level
    flags = int.from_bytes(source.exactly(4), "big")
    if flags & _F_FILTER:
        source.exactly(4)
    source.exactly(12 if newer else 8)  # mode and time
    source.exactly(source.exactly(1)[0] + 4)  # name and checksum
    if flags & _F_EXTRA_FIELD:
        source.exactly(int.from_bytes(source.exactly(4), "big") + 4)
    plain_sums = 4 * (bool(flags & _F_ADLER32_D) + bool(flags & _F_CRC32_D))
    packed_sums = 4 * (bool(flags & _F_ADLER32_C) + bool(flags & _F_CRC32_C))
    while True:
        size = int.from_bytes(source.exactly(4), "big")
        if not size:
            return
        length = int.from_bytes(source.exactly(4), "big")
        if length > size or size > 64 << 20 or not length:
            raise FormatError(f"a block of {length} bytes for {size}")
        if size > _LZOP_BLOCK:
            raise Stopped
        source.exactly(plain_sums + (packed_sums if length < size else 0))
        data = source.exactly(length)
        piece = data if length == size else bytes(lzo.decompress(data, size))
        if len(piece) != size:
            raise FormatError(f"a block that holds {len(piece)} bytes and not {size}")
        yield piece
        if unpacking.made >= unpacking.enough:
            raise Stopped


MEMBERS: Final[dict[str, Member]] = {
    "lz4": _lz4_member,
    "lz4-legacy": _lz4_legacy_member,
    "lzop": _lzop_member,
}
