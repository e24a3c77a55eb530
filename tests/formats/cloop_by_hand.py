"""Cloops made by hand, for what create_compressed_fs of Debian does not make: V4.0 with its header
in front or at the end, CLOOP3, and blocks that are stored in different ways.

Written from cloop.h of the kernel module cloop 4 and compressed_loop.h of cloop-utils 4, with
nothing of vmimg's own. All numbers are big-endian.

V2.0, V4.0:  text (128), block size (4), blocks (4); offsets (8 each, one more than blocks); data
V4.0 else:   data; offsets; text, block size, blocks
CLOOP3:      data, padding to 4096; blocks (4), block size (4), size (8), offsets, flags (4 each),
             where these numbers begin (8), version (4), "\\nCLOOP3\\n"
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LZ4", "LZO", "NONE", "XZ", "ZLIB", "Image", "pack"]

ZLIB, NONE, XZ, LZ4, LZO = range(5)
# CLOOP3 has bits instead.
_BITS = {ZLIB: 2, NONE: 0, XZ: 8, LZ4: 16, LZO: 4}


def pack(way: int, data: bytes) -> bytes:
    """``data``, at most 64 KiB, as a block is stored that way; by the programs lz4 and lzop."""
    if way == ZLIB:
        return zlib.compress(data, 9)
    if way == XZ:
        return lzma.compress(data, check=lzma.CHECK_CRC32)
    if way == LZ4:
        framed = subprocess.run(["lz4", "-q", "-c", "-B4"], input=data, capture_output=True).stdout
        assert framed[4] & 0x2C == 0x24, "independent blocks, and no size in front"
        (length,) = struct.unpack_from("<I", framed, 7)
        assert not length >> 31, "it did not shrink"
        return framed[11 : 11 + length]
    if way == LZO:
        file = subprocess.run(["lzop", "-q", "-c"], input=data, capture_output=True).stdout
        flags = int.from_bytes(file[17:21], "big")
        place = 33 + 1 + file[33] + 4
        size, length = struct.unpack_from(">II", file, place)
        assert size == len(data) and length < size, "it did not shrink"
        # Checksums of the data (Adler-32, CRC-32), and of what it became.
        place += 8 + 4 * sum(bool(flags & bit) for bit in (1, 0x100, 2, 0x200))
        return file[place : place + length]
    return data


@dataclass
class Image:
    """What an image shall be. ``stored``: for each block how, and what is stored of it."""

    stored: Sequence[tuple[int, bytes]]
    block: int = 65536
    version: int = 2
    at_end: bool = False
    size: int | None = None
    text: bytes = b""

    def build(self) -> bytes:
        data = b"".join(piece for _, piece in self.stored)
        count = len(self.stored)
        text = self.text or b"#!/bin/sh\n#V%d.0 Format\nmodprobe cloop file=$0\n" % self.version
        head = text.ljust(128, b"\0") + struct.pack(">II", self.block, count)
        index = 8 * (count + 1)
        start = 0 if self.at_end or self.version == 3 else len(head) + index
        offsets = []
        for way, piece in self.stored:
            offsets.append(start | (way << 60 if self.version == 4 else 0))
            start += len(piece)
        table = struct.pack(f">{count + 1}Q", *offsets, start)
        if self.version != 3:
            return data + table + head if self.at_end else head + table + data
        data = data.ljust(-(-len(data) // 4096) * 4096, b"\0")
        size = self.size if self.size is not None else count * self.block
        flags = struct.pack(f">{count}I", *(_BITS.get(way, way) for way, _ in self.stored))
        counts = struct.pack(">IIQ", count, self.block, size)
        tail = struct.pack(">QI", len(data), 3) + b"\nCLOOP3\n"
        return data + counts + table + flags + tail

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path
