"""zlib streams (RFC 1950): DEFLATE with a header and a checksum, what VMDK and DMG call deflate.

Written by ISA-L where it is to be fast, else by libdeflate, which reads them as well and checks
Adler-32 on the way. The window is 32 KiB, as that of the programs which made and read such blocks
from the start.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from vmimg.codecs import Buffer, Codec, Level
from vmimg.errors import FormatError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Zlib"]

# Measured on 64 KiB grains of Linux systems, against zlib's level 6: ISA-L 2 is 2 to 11 % larger
# and twelve times as fast; of libdeflate 1 is 2 to 8 % larger and seven times as fast, 3 is 0.4 to
# 2 % larger and five times as fast, 6 is 1 % smaller and three times as fast; 9 takes almost three
# times as long for another half per cent.
_LEVELS: Final[dict[Level, int]] = {"default": 1, "best": 6}
_ISAL_LEVEL: Final = 2
# ISA-L's level 2 is the same in every thread only when a few bytes were flushed ahead of the rest:
# see `vmimg.codecs.deflate`.
_AHEAD: Final = 8


class Zlib(Codec):
    """zlib streams, one per block."""

    name = "zlib"

    def compress(self, data: Buffer, level: Level = "default") -> bytes | bytearray:
        if level == "fast":
            lib, view = self._isal_zlib, memoryview(data)
            stream = lib.compressobj(_ISAL_LEVEL)
            return b"".join(
                (
                    stream.compress(view[:_AHEAD]),
                    stream.flush(lib.Z_SYNC_FLUSH),
                    stream.compress(view[_AHEAD:]),
                    stream.flush(),
                )
            )
        try:
            number = _LEVELS[level]
        except KeyError:
            raise OptionError(
                f"there is no compression level '{level}'; use fast, default or best"
            ) from None
        return self._compress(data, number)

    def decompress(self, data: Buffer, size: int) -> bytes | bytearray:
        block: bytes | bytearray
        try:
            block = self._decompress(data, size)
        except self._error:
            block = _decompress_slowly(data, size)
        if len(block) != size:
            raise FormatError(f"the compressed data ends after {len(block)} of {size} bytes")
        return block

    @cached_property
    def _isal_zlib(self) -> Any:
        from isal import isal_zlib

        return isal_zlib

    @cached_property
    def _compress(self) -> Callable[[Buffer, int], bytearray]:
        from deflate import zlib_compress

        return zlib_compress

    @cached_property
    def _decompress(self) -> Callable[[Buffer, int], bytearray]:
        from deflate import zlib_decompress

        return zlib_decompress

    @cached_property
    def _error(self) -> Any:
        from deflate import DeflateError

        return DeflateError


def _decompress_slowly(data: Buffer, size: int) -> bytes:
    """What zlib makes of a stream that libdeflate refuses: one with more behind its end, or that
    holds more than fits. What is there is given out, as other readers do; not so where the checksum
    is wrong, which zlib sees only when it is asked for what follows.
    """
    import zlib

    try:
        decoder = zlib.decompressobj()
        block = decoder.decompress(data, size) if size else b""
        if not decoder.eof:
            decoder.decompress(decoder.unconsumed_tail, 1)
        return block
    except zlib.error as error:
        raise FormatError(f"the compressed data is corrupt ({error})") from None
