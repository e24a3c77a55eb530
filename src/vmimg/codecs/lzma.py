"""xz streams (LZMA2 in the container of the xz program), one per block: what ULMO images of DMG are
made of. The standard library's.
"""

from __future__ import annotations

import lzma
from typing import Any, Final

from vmimg.codecs import Buffer, Codec, Level
from vmimg.errors import FormatError, OptionError

__all__ = ["Lzma"]

# Presets of xz. Measured on 1 MiB chunks of a Linux system, hard to compress: 3 takes the time of 0
# and is 0.4 % smaller, 6 takes 1.8 times as long for another 0.9 %; 9 is 6, for a dictionary larger
# than the chunk is of no use.
_LEVELS: Final[dict[Level, int]] = {"fast": 0, "default": 3, "best": 6}
_MIN_DICTIONARY: Final = 4096
# What a dictionary may take: `xz -9` needs 65 MiB; larger ones must be asked for explicitly there.
_MEMORY: Final = 100 << 20


class Lzma(Codec):
    """One xz stream per block, with a CRC-32 of what it holds."""

    name = "lzma"

    def compress(self, data: Buffer, level: Level = "default") -> bytes:
        try:
            preset = _LEVELS[level]
        except KeyError:
            raise OptionError(
                f"there is no compression level '{level}'; use fast, default or best"
            ) from None
        # A dictionary larger than the block would be set up by every reader and never used.
        dictionary = max(_MIN_DICTIONARY, 1 << max(0, len(data) - 1).bit_length())
        chain: list[dict[str, Any]] = [
            {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
        ]
        return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=chain)

    def decompress(self, data: Buffer, size: int) -> bytes:
        """See Codec. A stream that holds more than ``size`` is an error as well."""
        try:
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
            block = decompressor.decompress(data, size)
            # The check and the index behind the last byte are still to be read.
            more = b"" if decompressor.eof else decompressor.decompress(b"", 1)
        except (lzma.LZMAError, EOFError) as error:
            raise FormatError(f"the compressed data is corrupt ({error})") from None
        if len(block) != size:
            raise FormatError(f"the compressed data ends after {len(block)} of {size} bytes")
        if more or not decompressor.eof:
            raise FormatError(f"the compressed data does not end after {size} bytes")
        return block
