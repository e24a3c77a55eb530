"""What the headers (and the index, for xz) of compressed streams state, without unpacking any.

Numbers are what the file says: nobody has checked them. Sources: RFC 1952 (gzip), the .xz file
format 1.2.1, RFC 8878 (zstd), lz4's frame format, the LZMA SDK's lzma-specification. Imports
`streams`; no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vmimg.formats.raw.findings import View, as_plain
from vmimg.probe.frames import read_lz4_frame
from vmimg.storage.base import NotHeld

__all__ = ["StreamHeader", "XzIndex", "read_stream_header", "read_xz_index", "zstd_block_start"]

_MAX_INDEX: Final = 1 << 20
_MAX_RECORDS: Final = 20_000
_XZ_CHECKS: Final = {0: "none", 1: "CRC-32", 4: "CRC-64", 10: "SHA-256"}


@dataclass(slots=True)
class StreamHeader:
    """``size``: the bytes it unpacks to, or None where it does not say. ``memory``: the window or
    dictionary, in bytes, if known. ``name``: of the file that was compressed.
    """

    size: int | None = None
    memory: int | None = None
    name: str = ""
    modified: str = ""
    details: str = ""
    problem: str = ""


@dataclass(slots=True)
class XzIndex:
    """Of the last stream of a file: the bytes that its blocks unpack to, and how many there are.

    ``problem``: what does not fit, as a sentence.
    """

    size: int = 0
    blocks: int = 0
    problem: str = ""


def read_stream_header(view: View, kind: str) -> StreamHeader:
    """Of a stream of that kind at offset 0."""
    reader = _READERS.get(kind)
    return reader(view) if reader is not None else StreamHeader()


def _gzip(view: View) -> StreamHeader:
    head = view.read(0, min(1024, view.size))
    header = StreamHeader()
    flags, seconds = head[3], int.from_bytes(head[4:8], "little")
    if seconds:
        header.modified = datetime.fromtimestamp(seconds, UTC).isoformat()
    at = 10
    if flags & 0x04:
        at += 2 + int.from_bytes(head[10:12], "little")
    if flags & 0x08 and (end := head.find(b"\0", at)) > at:
        header.name = as_plain(head[at:end])[:255]
    return header


def _zstd(view: View) -> StreamHeader:
    try:
        at = zstd_block_start(view)
    except NotHeld:
        at = None
    if at is None:
        return StreamHeader()
    head = view.read(at, 18)
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return StreamHeader()
    flags = head[4]
    single = bool(flags & 0x20)
    header = StreamHeader()
    if flags & 0x08:
        header.problem = "a reserved bit of its frame header is set"
    at = 5
    if not single:
        exponent, mantissa = head[5] >> 3, head[5] & 7
        base = 1 << (10 + exponent)
        header.memory = base + (base >> 3) * mantissa
        at += 1
    dictionary = (0, 1, 2, 4)[flags & 3]
    if dictionary and any(head[at : at + dictionary]):
        number = int.from_bytes(head[at : at + dictionary], "little")
        header.details = f"needs the dictionary {number}"
    at += dictionary
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    field = head[at : at + width]
    if width and len(field) == width:
        header.size = int.from_bytes(field, "little") + (256 if width == 2 else 0)
        if single:
            header.memory = header.size
    return header


def zstd_block_start(view: View) -> int | None:
    """Where the first frame begins, behind those that every reader skips."""
    at = 0
    for _ in range(64):
        head = view.read(at, 8)
        if head[1:4] != b"\x2a\x4d\x18" or head[0] & 0xF0 != 0x50:
            return at
        at += 8 + int.from_bytes(head[4:8], "little")
    return None


def _xz(view: View) -> StreamHeader:
    head = view.read(0, 12)
    if len(head) < 12:
        return StreamHeader()
    header = StreamHeader(details=f"check: {_XZ_CHECKS.get(head[7] & 0x0F, 'unknown')}")
    if head[6] or head[7] & 0xF0:
        header.problem = "reserved flags of its header are set"
    block = view.read(12, 1024)
    # The first filter of a plain block header: flags 0, LZMA2, one byte of properties.
    if len(block) > 5 and block[1] == 0 and block[2] == 0x21 and block[3] == 1 and block[4] <= 40:
        bits = block[4]
        header.memory = 0xFFFFFFFF if bits == 40 else (2 | bits & 1) << (bits // 2 + 11)
    try:
        index = read_xz_index(view)
    except NotHeld:
        index = None
    if index is not None and not index.problem:
        header.size = index.size
    return header


def read_xz_index(view: View) -> XzIndex | None:
    """None where the file ends in no stream footer, or the index is too large for a look. Of
    several streams it is the last one's; then the start of the file does not fit it.
    """
    tail = view.read(-64, 64) if view.size >= 64 else view.read(0, view.size)
    end = view.size - (len(tail) - len(tail.rstrip(b"\0"))) // 4 * 4
    footer = view.read(end - 12, 12)
    if len(footer) < 12 or footer[10:] != b"YZ":
        return None
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if length > _MAX_INDEX or length + 24 > end:
        return None
    data = view.read(end - 12 - length, length)
    if not data or data[0]:
        return XzIndex(problem="its footer points to no index")
    records, at = _varint(data, 1)
    if records is None or records > _MAX_RECORDS:
        return None
    index = XzIndex(blocks=records)
    packed = 0
    for _ in range(records):
        unpadded, at = _varint(data, at)
        size, at = _varint(data, at)
        if unpadded is None or size is None:
            return XzIndex(problem="its index ends too early")
        packed += -(-unpadded // 4) * 4
        index.size += size
    start = end - 24 - length - packed
    if start < 0:
        index.problem = f"its index names {packed} bytes of blocks, more than the file has"
    elif start:
        # Of several streams this is only the last.
        return None
    return index


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    number = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            return None, at
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
    return None, at


def _lzma(view: View) -> StreamHeader:
    head = view.read(0, 13)
    size = int.from_bytes(head[5:13], "little")
    return StreamHeader(
        size=None if size == (1 << 64) - 1 else size, memory=int.from_bytes(head[1:5], "little")
    )


def _lzip(view: View) -> StreamHeader:
    coded = view.read(5, 1)[0]  # stream_kind has looked at it
    base = 1 << (coded & 0x1F)
    return StreamHeader(memory=base - (base >> 4) * (coded >> 5))


def _lz4(view: View) -> StreamHeader:
    frame = read_lz4_frame(view.read(0, min(19, view.size)))
    if frame is None:
        return StreamHeader()
    return StreamHeader(size=frame.content_size, memory=frame.block_size)


_READERS: Final = {
    "gzip": _gzip,
    "zstd": _zstd,
    "xz": _xz,
    "lzma": _lzma,
    "lzip": _lzip,
    "lz4": _lz4,
}
