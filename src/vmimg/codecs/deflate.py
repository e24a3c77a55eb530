"""Raw DEFLATE (RFC 1951): what qcow2 calls zlib. ISA-L to write fast, libdeflate to write small and
to read.

QEMU writes with a window of 4 KiB (deflateInit2 with -12) and reads in one call into a buffer that
holds the whole cluster, where a longer reach does no harm. Other readers hand the same -12 to zlib
and take the output piece by piece (dissect.hypervisor, in Python); for them it is the limit that it
says. So the fast and the default level stay within 4 KiB, for 0.8 % of size. libdeflate knows one
window only, 32 KiB: what ``best`` writes is for QEMU and all others who read whole clusters.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from vmimg.codecs import Buffer, Codec, Level
from vmimg.errors import FormatError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deflate"]

# The base-2 logarithm of the window.
_WINDOW_BITS: Final = 12
# ISA-L's levels 1 and 2 (igzip_icf_body_h1_gr_bt.asm, .write_first_byte) hash a register that holds
# an address on the stack into the table of matches, so that the same block now and then comes out
# different in another thread. The path is taken once, by the first call that has more than 16 bytes
# to compress: a few bytes flushed ahead go round it, at 0.01 % of size. Levels 0 and 3 do not have
# it, but 0 is 5 % larger and hardly faster, and 3 takes twice the time to be 0.6 % smaller.
_AHEAD: Final = 8
_ISAL_LEVEL: Final = 2
_LIBDEFLATE_LEVEL: Final = 6


class Deflate(Codec):
    """Raw DEFLATE streams, one per block."""

    name = "deflate"

    def compress(self, data: Buffer, level: Level = "default") -> bytes | bytearray:
        if level == "fast":
            lib = self._igzip_lib
            return lib.compress(  # type: ignore[no-any-return]
                data, 0, lib.COMP_DEFLATE, lib.MEM_LEVEL_DEFAULT, _WINDOW_BITS
            )
        if level == "best":
            return self._libdeflate_compress(data, _LIBDEFLATE_LEVEL)
        if level == "default":
            lib = self._isal_zlib
            view = memoryview(data)
            stream = lib.compressobj(_ISAL_LEVEL, lib.DEFLATED, -_WINDOW_BITS)
            return b"".join(
                (
                    stream.compress(view[:_AHEAD]),
                    stream.flush(lib.Z_SYNC_FLUSH),
                    stream.compress(view[_AHEAD:]),
                    stream.flush(),
                )
            )
        raise OptionError(f"there is no compression level '{level}'; use fast, default or best")

    def decompress(self, data: Buffer, size: int) -> bytes | bytearray:
        block: bytes | bytearray
        try:
            block = self._libdeflate_decompress(data, size)
        except self._libdeflate_error:
            block = _decompress_until_full(data, size)
        if len(block) != size:
            raise FormatError(f"the compressed data ends after {len(block)} of {size} bytes")
        return block

    @cached_property
    def _igzip_lib(self) -> Any:
        from isal import igzip_lib

        return igzip_lib

    @cached_property
    def _isal_zlib(self) -> Any:
        from isal import isal_zlib

        return isal_zlib

    @cached_property
    def _libdeflate_compress(self) -> Callable[[Buffer, int], bytearray]:
        from deflate import deflate_compress

        return deflate_compress

    @cached_property
    def _libdeflate_decompress(self) -> Callable[[Buffer, int], bytearray]:
        from deflate import deflate_decompress

        return deflate_decompress

    @cached_property
    def _libdeflate_error(self) -> type[Exception]:
        from deflate import DeflateError

        return DeflateError


def _decompress_until_full(data: Buffer, size: int) -> bytes:
    """What zlib makes of a stream that libdeflate refuses.

    libdeflate wants the whole stream to be sound and to fit. QEMU (block/qcow2-threads.c) is
    content once the cluster is full, wherever in the stream that is; so is this.
    """
    import zlib

    try:
        # The window is the largest: a small one would refuse what `best` writes.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size) if size else b""
    except zlib.error as error:
        raise FormatError(f"the compressed data is corrupt ({error})") from None
