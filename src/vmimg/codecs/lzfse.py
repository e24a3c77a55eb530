"""LZFSE, Apple's own: what ULFO images of DMG are made of. By PyPI's lzfse (MIT), which is Apple's
reference implementation and its binding; it comes with ``vmimg[dmg]``.

The binding's decompress is not what we want: it begins with a buffer as large as the first of a
stream's parts says, decodes, doubles and decodes again until the result no longer fills the buffer.
So a chunk of 1 MiB is decoded five times, and a bomb of a few KiB takes all memory. The library
itself has one call that fills a buffer and no more than that; it is in the binding's shared object
and mostly can be found there by name. Where it cannot (Windows exports nothing), the parts are
checked before the binding gets them, so that what comes out has a bound.

A stream is a row of parts, each with a magic: ``bvx-`` (as it is), ``bvxn`` (LZVN), ``bvx2``
(LZFSE), and at the end ``bvx$``.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any, Final

from vmimg.codecs import LEVELS, Buffer, Codec, Level
from vmimg.errors import FormatError, OptionError
from vmimg.extras import require

__all__ = ["Lzfse"]

_PURPOSE: Final = "LZFSE compression"


class Lzfse(Codec):
    """One LZFSE stream per block. There is one level of effort only."""

    name = "lzfse"

    def compress(self, data: Buffer, level: Level = "default") -> bytes:
        if level not in LEVELS:
            raise OptionError(f"there is no compression level '{level}'; use fast, default or best")
        return self._module.compress(bytes(data))  # type: ignore[no-any-return]

    def decompress(self, data: Buffer, size: int) -> bytes | bytearray:
        """See Codec. A stream that holds more than ``size`` is an error as well."""
        decode = self._decode
        block: bytes | bytearray
        if decode is None:
            block = self._decompress_checked(bytes(data), size)
        else:
            # One byte of room too much tells a stream that ends from one that goes on.
            block = bytearray(size + 1)
            room = (ctypes.c_char * (size + 1)).from_buffer(block)
            count = decode(room, size + 1, bytes(data), len(data), None)
            del room  # it keeps the bytearray from changing its size
            if count > size:
                raise FormatError(f"the compressed data does not end after {size} bytes")
            if not count and size:
                raise FormatError("the compressed data is corrupt")
            del block[count:]
        if len(block) != size:
            raise FormatError(f"the compressed data ends after {len(block)} of {size} bytes")
        return block

    @cached_property
    def _module(self) -> Any:
        return require("lzfse", "dmg", _PURPOSE)

    @cached_property
    def _decode(self) -> Any:
        """lzfse_decode_buffer(to, room, from, length, scratch): bytes written; None without it."""
        try:
            function = ctypes.CDLL(self._module.__file__).lzfse_decode_buffer
        except (OSError, AttributeError, TypeError):
            return None
        function.restype = ctypes.c_size_t
        function.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p),
        )
        return function

    def _decompress_checked(self, data: bytes, size: int) -> bytes:
        raw, matches = _declared(data)
        # Each match makes a byte or more. So the most that false counts lead to is in proportion
        # to what the caller checked.
        if raw != size or matches > size:
            raise FormatError(f"the compressed data is said to hold {raw} bytes, not {size}")
        if not size:
            return b""
        try:
            return self._module.decompress(data)  # type: ignore[no-any-return]
        except (self._module.error, MemoryError):
            raise FormatError("the compressed data is corrupt") from None


def _declared(data: bytes) -> tuple[int, int]:
    """(bytes, matches) that the parts of a stream say they hold."""
    at = raw = matches = 0
    while (magic := data[at : at + 4]) != b"bvx$":
        count = int.from_bytes(data[at + 4 : at + 8], "little")
        if magic == b"bvx-":
            length = 8 + count
        elif magic == b"bvxn":
            length = 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        elif magic == b"bvx2":
            # Bit fields: literals (20), their bytes (20), matches (20), ...; states of the literals
            # (40), bytes of the matches (20), ...; bytes of the header (32), ...
            first, second, third = (
                int.from_bytes(data[place : place + 8], "little")
                for place in range(at + 8, at + 32, 8)
            )
            length = (third & 0xFFFF_FFFF) + (first >> 20 & 0xF_FFFF) + (second >> 40 & 0xF_FFFF)
            matches += first >> 40 & 0xF_FFFF
            if length < 32:
                raise FormatError("the compressed data is corrupt")
        else:
            raise FormatError("the compressed data is corrupt")
        raw += count
        at += length
        if at > len(data) - 4:
            raise FormatError("the compressed data ends within a part")
    return raw, matches
