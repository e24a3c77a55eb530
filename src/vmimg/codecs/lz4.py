"""LZ4 blocks, to read: a block as it is, without the frame that the lz4 program puts around it.

A block is a row of sequences: a token (lengths of literals and match, four bits each; 15 means that
more bytes follow, each up to 255), literals, distance of the match (16 bits, little-endian). The
last sequence ends behind its literals. In Python, some 20 MB/s: few images have such blocks, too
few for a dependency. Spec: lz4's doc/lz4_Block_format.md.
"""

from __future__ import annotations

from typing import Final

from vmimg.codecs import Buffer
from vmimg.errors import FormatError

__all__ = ["decompress"]

_MORE: Final = 15
_LEAST_MATCH: Final = 4


def decompress(
    data: Buffer, size: int, *, history: Buffer = b"", partial: bool = False
) -> bytearray:
    """What ``data`` holds, ``size`` bytes at most. Raises FormatError where it is no LZ4 block.

    ``history``: what matches may reach back to, where blocks depend on those before them.
    ``partial``: answer what comes first where ``data`` is cut off, or holds more than ``size``.
    """
    source = bytes(data)
    end = len(source)
    out = bytearray(history)
    before = len(out)
    size += before
    position = 0
    try:
        while True:
            token = source[position]
            position += 1
            length = token >> 4
            if length == _MORE:
                byte = 255
                while byte == 255:
                    byte = source[position]
                    position += 1
                    length += byte
            if length > end - position or len(out) + length > size:
                if partial:
                    out += source[position : position + min(length, size - len(out))]
                    return out[before:]
                raise FormatError("the LZ4 data is corrupt (literals that have no room)")
            out += source[position : position + length]
            position += length
            if position == end:
                return out[before:] if before else out
            distance = source[position] | source[position + 1] << 8
            position += 2
            length = token & 15
            if length == _MORE:
                byte = 255
                while byte == 255:
                    byte = source[position]
                    position += 1
                    length += byte
            length += _LEAST_MATCH
            start = len(out) - distance
            full = len(out) + length > size
            if full and partial:
                length = size - len(out)
            if not distance or start < 0 or (full and not partial):
                raise FormatError("the LZ4 data is corrupt (a match that is out of reach)")
            if distance >= length:
                out += out[start : start + length]
            else:
                pattern = out[start:]
                out += (pattern * (length // distance + 1))[:length]
            if full:
                return out[before:]
    except IndexError:
        if partial:
            return out[before:]
        raise FormatError("the LZ4 data is corrupt (it ends too early)") from None
