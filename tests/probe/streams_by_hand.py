"""Compressed streams put together from their specifications, so that any field can be made to lie.

What they hold is stored, or repeated, where a format can do that: nothing of vmimg's is used.
Sources: RFC 1952 (gzip), RFC 8878 (zstd), lz4's frame format, Linux's lib/decompress_unlzo.c, the
lzip manual, the .xz file format.
"""

from __future__ import annotations

import lzma
import struct
import zlib

__all__ = [
    "gzip_of",
    "lz4_of",
    "lzip_of",
    "lzop_of",
    "xz_with_dictionary",
    "xz_with_index",
    "zstd_of",
    "zstd_skippable",
]


def gzip_of(
    data: bytes, *, name: bytes = b"", checksum: int | None = None, size: int | None = None
) -> bytes:
    """One member. ``checksum`` and ``size``: what its trailer states, if not the truth."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = b"\x1f\x8b\x08" + bytes([8 * bool(name)]) + struct.pack("<IBB", 0, 2, 255)
    crc = zlib.crc32(data) if checksum is None else checksum
    stated = len(data) if size is None else size
    body = coder.compress(data) + coder.flush()
    return head + (name + b"\0" if name else b"") + body + struct.pack("<II", crc, stated)


def zstd_of(
    data: bytes,
    *,
    stated: int | None = None,
    window_log: int = 17,
    dictionary: int = 0,
    repeat: int = 0,
) -> bytes:
    """A frame of one stored block, then ``repeat`` blocks of 128 KiB of zeros. ``stated``: the size
    in the header, none if None. ``dictionary``: the number of one that it needs.
    """
    flags = 0 if stated is None else 0xC0
    head = bytes([flags | (3 if dictionary else 0), (window_log - 10) << 3])
    head += struct.pack("<I", dictionary) if dictionary else b""
    head += b"" if stated is None else struct.pack("<Q", stated)
    blocks = struct.pack("<I", len(data) << 3 | (not repeat))[:3] + data
    for number in range(repeat):
        last = number == repeat - 1
        blocks += struct.pack("<I", (128 << 10) << 3 | 1 << 1 | last)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd" + head + blocks


def zstd_skippable(data: bytes) -> bytes:
    """A frame that every reader skips; of lz4 as well."""
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


def lz4_of(data: bytes, *, stated: int | None = None) -> bytes:
    """A frame with one stored block of at most 64 KiB."""
    flags = 0x60 | (0x08 if stated is not None else 0)
    descriptor = bytes([flags, 0x40])
    descriptor += struct.pack("<Q", stated) if stated is not None else b""
    # Nothing here checks the header's checksum (xxHash, which Python has not); lz4 would.
    block = struct.pack("<I", len(data) | 1 << 31) + data
    return b"\x04\x22\x4d\x18" + descriptor + b"\0" + block + bytes(4)


def lzop_of(data: bytes) -> bytes:
    """A file with one stored block, without checksums of it."""
    head = struct.pack(">HHHBBIIIIB", 0x1040, 0x20A0, 0x0940, 1, 5, 0, 0o100644, 0, 0, 0)
    block = struct.pack(">II", len(data), len(data)) + data
    return b"\x89LZO\0\r\n\x1a\n" + head + struct.pack(">I", zlib.adler32(head)) + block + bytes(4)


def lzip_of(data: bytes, *, size: int | None = None, checksum: int | None = None) -> bytes:
    """One member, with a dictionary of 64 KiB."""
    chain = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}]
    alone = lzma.LZMACompressor(lzma.FORMAT_ALONE, filters=chain)
    # A .lzma file of unknown size ends in the mark that lzip demands.
    body = (alone.compress(data) + alone.flush())[13:]
    crc = zlib.crc32(data) if checksum is None else checksum
    stated = len(data) if size is None else size
    return b"LZIP\x01\x10" + body + struct.pack("<IQQ", crc, stated, 6 + len(body) + 20)


def xz_with_dictionary(data: bytes, bits: int) -> bytes:
    """An xz stream whose block header states a dictionary of that code (40 is 4 GiB - 1)."""
    whole = bytearray(lzma.compress(data, check=lzma.CHECK_CRC32))
    length = (whole[12] + 1) * 4
    assert whole[13:16] == b"\0\x21\x01"  # one filter, LZMA2, a byte of properties
    whole[16] = bits
    whole[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(whole[12 : 8 + length]))
    return bytes(whole)


def xz_with_index(data: bytes, flip: int = 0) -> bytes:
    """An xz stream with its index's size changed by ``flip``, its checksum made right again."""
    whole = bytearray(lzma.compress(data, check=lzma.CHECK_CRC32))
    length = (struct.unpack_from("<I", whole, len(whole) - 8)[0] + 1) * 4
    start = len(whole) - 12 - length
    # Behind the indicator, the count and the unpadded size, of two bytes here.
    assert whole[start : start + 2] == b"\0\x01" and whole[start + 2] & 0x80
    whole[start + 4] ^= flip
    crc = zlib.crc32(whole[start : start + length - 4])
    whole[start + length - 4 : start + length] = struct.pack("<I", crc)
    return bytes(whole)
