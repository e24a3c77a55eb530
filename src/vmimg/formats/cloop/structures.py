"""On-disk structures of cloop, field by field, and its constants.

Everything is big-endian. Sources: cloop.h of the kernel module cloop 4 (V2.0 and V4.0),
compressed_loop.h of cloop-utils 4 (the index at the end that is called CLOOP3). No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final


class Head(ctypes.BigEndianStructure):
    """V2.0 and V4.0: in front of the index, or behind it at the end of the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("preamble", ctypes.c_char * 128),
        ("block_size", ctypes.c_uint32),
        ("num_blocks", ctypes.c_uint32),
    )


class Index3(ctypes.BigEndianStructure):
    """CLOOP3: in front of the offsets, at a multiple of 4096 behind the data."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("num_blocks", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("original_size", ctypes.c_uint64),
    )


class Tail3(ctypes.BigEndianStructure):
    """CLOOP3: the end of the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("index_offset", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("signature", ctypes.c_char * 8),
    )


HEAD_SIZE: Final = ctypes.sizeof(Head)
INDEX3_SIZE: Final = ctypes.sizeof(Index3)
TAIL3_SIZE: Final = ctypes.sizeof(Tail3)

SIGNATURE_OFFSET: Final = 11
SIGNATURES: Final = {b"V2.0": 2, b"V4.0": 4}
SCRIPT: Final = b"#!/bin/sh\n#"
SIGNATURE3: Final = b"\nCLOOP3\n"

# What create_compressed_fs writes, to the byte: QEMU looks for the first three lines.
PREAMBLE: Final = (
    b"#!/bin/sh\n"
    b"#V2.0 Format\n"
    b"modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    b"exit $?\n"
)

# Each block has an offset of 64 bits, and one more says where the last block ends. In V4.0 the
# upper four bits of an offset say how the block is stored.
OFFSET_SIZE: Final = 8
FLAGS_SHIFT: Final = 60
ZLIB, NONE, XZ, LZ4, LZO1X = 0, 1, 2, 3, 4

# In CLOOP3 there are flags of 32 bits behind the offsets: none of these bits, or one of them, in
# the order in which the kernel module looks for them.
FLAG_SIZE: Final = 4
FLAGS3: Final = ((1 << 1, ZLIB), (1 << 2, LZO1X), (1 << 4, LZ4), (1 << 3, XZ))

# QEMU opens no larger blocks, and no more than 512 MiB of offsets.
MAX_BLOCK_SIZE: Final = 64 << 20
MAX_NEW_BLOCKS: Final = (1 << 26) - 1
