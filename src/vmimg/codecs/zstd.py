"""Zstandard (RFC 8878): the standard library's from Python 3.14 on, backports.zstd before."""

from __future__ import annotations

import sys
import threading
from functools import cached_property
from typing import Any, Final

from vmimg.codecs import Buffer, Codec, Level
from vmimg.errors import FormatError, OptionError

__all__ = ["Zstd", "library"]

# Measured on 64 KiB clusters of a Linux root disk: beyond 9 the time doubles for 0.3 % of size.
_LEVELS: Final[dict[Level, int]] = {"fast": 1, "default": 2, "best": 9}
# 128 MiB, the limit of zstd and of QEMU: a frame may declare 2 TiB, and a reader allocates it.
WINDOW_LOG_MAX: Final = 27


def library() -> Any:
    """The zstd module of this Python."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class Zstd(Codec):
    """Zstandard frames, one or more per block."""

    name = "zstd"

    def __init__(self) -> None:
        # A compressor and its tables are for one thread at a time; made anew for each block they
        # would cost as much as the work at level 1. Reuse does not change the output.
        self._mine = threading.local()

    def compress(self, data: Buffer, level: Level = "default") -> bytes:
        compressors = self._mine.__dict__
        compressor = compressors.get(level)
        if compressor is None:
            try:
                number = _LEVELS[level]
            except KeyError:
                raise OptionError(
                    f"there is no compression level '{level}'; use fast, default or best"
                ) from None
            compressor = compressors[level] = self._zstd.ZstdCompressor(level=number)
        return compressor.compress(data, compressor.FLUSH_FRAME)  # type: ignore[no-any-return]

    def decompress(self, data: Buffer, size: int) -> bytes:
        """See Codec. A block may be several frames; the last one must end where the block is full,
        as QEMU demands (block/qcow2-threads.c).
        """
        zstd = self._zstd
        pieces: list[bytes] = []
        done = 0
        while done < size:
            decompressor = zstd.ZstdDecompressor(options=self._options)
            try:
                piece = decompressor.decompress(data, size - done)
                done += len(piece)
                if not decompressor.eof and done == size:
                    # The frame's end is still to be read. More bytes would be too many.
                    piece_too_many = decompressor.decompress(b"", 1)
                    if piece_too_many or not decompressor.eof:
                        raise FormatError(f"the compressed data does not end after {size} bytes")
            except zstd.ZstdError as error:
                raise FormatError(f"the compressed data is corrupt ({error})") from None
            if not decompressor.eof:
                raise FormatError(f"the compressed data ends after {done} of {size} bytes")
            pieces.append(piece)
            data = decompressor.unused_data
            if not data and done < size:
                raise FormatError(f"the compressed data ends after {done} of {size} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @cached_property
    def _zstd(self) -> Any:
        return library()

    @cached_property
    def _options(self) -> dict[Any, int]:
        return {self._zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
