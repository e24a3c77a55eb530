"""LZO1X blocks, to read: what lzop and squashfs write as well, whatever the level.

A row of instructions; each is a match, with up to three literals behind it, or a run of literals.
What an instruction below 16 means depends on the one before::

    0 to 15    behind a match without literals: a run of literals
               behind a match with some: a match of 2 bytes; behind a run: of 3, from far
    16 to 31   a match from 16 to 48 KiB; with the distance of 16 KiB exactly, the end
    32 to 63   a match from 16 KiB
    64 to 255  a match of 3 to 8 bytes, from 2 KiB

In Python, some 20 MB/s: few images have such blocks, too few for a dependency. Spec: Linux's
Documentation/staging/lzo.rst.
"""

from __future__ import annotations

from typing import Final

from vmimg.codecs import Buffer
from vmimg.errors import FormatError

__all__ = ["decompress"]

_AFTER_RUN: Final = 4
"""In the place of the number of literals: a run of them came last."""


def decompress(data: Buffer, size: int) -> bytearray:
    """What ``data`` holds, ``size`` bytes at most. Raises FormatError where it is no LZO1X."""
    try:
        return _decompress(bytes(data), size)
    except IndexError:
        raise FormatError("the LZO data is corrupt (it ends too early)") from None


def _decompress(source: bytes, size: int) -> bytearray:
    out = bytearray()
    position, state = 0, 0
    if source[0] > 17:
        length = source[0] - 17
        position = _copy(source, 1, length, out, size)
        state = length if length < _AFTER_RUN else _AFTER_RUN
    while True:
        code = source[position]
        position += 1
        if code >= 64:
            distance = (source[position] << 3) + (code >> 2 & 7) + 1
            position += 1
            length = (code >> 5) + 1
            state = code & 3
        elif code >= 16:
            mask = 31 if code >= 32 else 7
            length = code & mask
            if not length:
                more, position = _long(source, position)
                length = mask + more
            length += 2
            pair = source[position] | source[position + 1] << 8
            position += 2
            distance = (pair >> 2) + 1
            if code < 32:
                distance += ((code & 8) << 11) + 16383
                if distance == 16384:
                    return out
            state = pair & 3
        elif state == 0:
            length = code
            if not length:
                more, position = _long(source, position)
                length = 15 + more
            position = _copy(source, position, length + 3, out, size)
            state = _AFTER_RUN
            continue
        else:
            distance = (source[position] << 2) + (code >> 2) + 1
            position += 1
            length = 2
            if state == _AFTER_RUN:
                distance += 2048
                length = 3
            state = code & 3
        start = len(out) - distance
        if start < 0 or len(out) + length > size:
            raise FormatError("the LZO data is corrupt (a match that is out of reach)")
        if distance >= length:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // distance + 1))[:length]
        if state:
            position = _copy(source, position, state, out, size)


def _long(source: bytes, position: int) -> tuple[int, int]:
    """A length that did not fit into its instruction, and where it ends: zeros count 255 each."""
    length = 0
    while not source[position]:
        length += 255
        position += 1
    return length + source[position], position + 1


def _copy(source: bytes, position: int, length: int, out: bytearray, size: int) -> int:
    """Append literals to ``out``; returns where they end."""
    if length > len(source) - position or len(out) + length > size:
        raise FormatError("the LZO data is corrupt (literals that have no room)")
    out += source[position : position + length]
    return position + length
