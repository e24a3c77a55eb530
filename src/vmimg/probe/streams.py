"""Compressed streams of strangers, unpacked as far as is wanted and never further.

`stream_kind` says what a stream is by its first bytes, `Unpacking` hands out what it holds piece by
piece, with counts and a state in the place of exceptions. The whole of a stream is unpacked by
`vmimg.storage.stream`; this is for a look at its head, and at how much it would become.

The libraries' kinds (gzip, xz, zstd, bzip2, lzma, lzip) are here, those with blocks of their own
(lz4, lzop) in `frames`. Sources: RFC 1952 (gzip), the .xz file format 1.2.1, RFC 8878 (zstd), the
lzip manual. Imports storage and codecs; no numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from vmimg.codecs.zstd import WINDOW_LOG_MAX
from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.storage.base import NotHeld
from vmimg.storage.stream import HEAD_SIZE, outer_compression

__all__ = [
    "CONFIRMED",
    "TITLES",
    "XZ_MEMORY",
    "CutOff",
    "Source",
    "State",
    "Stopped",
    "Unpacking",
    "WrongSize",
    "WrongSum",
    "stream_kind",
]

TITLES: Final = {
    "gzip": "gzip stream",
    "xz": "xz stream",
    "zstd": "Zstandard stream",
    "bzip2": "bzip2 stream",
    "lzma": "LZMA stream (.lzma)",
    "lzip": "lzip stream",
    "lz4": "LZ4 frames",
    "lz4-legacy": "LZ4 blocks, as Linux has them (legacy frame)",
    "lzop": "lzop stream",
    "compress": "stream of compress (.Z)",
}
CONFIRMED: Final = 4096
"""Bytes of a kind without a magic (lzma) that must unpack before it is one."""
XZ_MEMORY: Final = 192 << 20
"""What unpacking may take, as in vmimg.storage.stream: `xz -9` needs 65 MiB."""

State = Literal["going", "whole", "cut-off", "corrupt", "memory", "unseen"]
""""whole": to its end; "unseen": stopped by the limit, or by what a stream has not shown yet."""

_PIECE: Final = 64 << 10
_SMALLEST: Final = 512
_MAX_SKIPPED: Final = 64


def stream_kind(head: bytes) -> str:
    """One of TITLES for ``head``, the first 16 bytes of a file or all it has; "" for none of them.

    All by their magics but LZMA, which has none: of it, what is plausible.
    """
    known = outer_compression(head[:HEAD_SIZE])
    if known is not None:
        # Method 8 is all there is; the upper flags are reserved (RFC 1952, section 2.3.1).
        return "" if known == "gzip" and (len(head) < 10 or head[3] & 0xE0) else known
    if head.startswith(b"\x04\x22\x4d\x18"):
        return "lz4"
    if head.startswith(b"\x02\x21\x4c\x18"):
        return "lz4-legacy"
    if head.startswith(b"\x89LZO\0\r\n\x1a\n"):
        return "lzop"
    if head.startswith(b"LZIP\x01") and len(head) > 5 and 12 <= head[5] & 0x1F <= 29:
        return "lzip"
    if (
        head.startswith(b"\x1f\x9d")
        and len(head) > 2
        and 9 <= head[2] & 0x1F <= 16
        and not head[2] & 0x60
    ):
        return "compress"
    return "lzma" if _looks_like_lzma(head) else ""


def _looks_like_lzma(head: bytes) -> bool:
    """The properties that all makers write, a dictionary of 2^n or 2^n + 2^(n-1), a size below
    256 GiB or none, and the zero that every range coder begins with.
    """
    if len(head) < 14 or head[0] != 0x5D or head[13]:
        return False
    dictionary = int.from_bytes(head[1:5], "little")
    size = int.from_bytes(head[5:13], "little")
    top = 1 << max(0, dictionary.bit_length() - 1)
    return (
        dictionary >= 4096
        and dictionary in (top, top + top // 2, 0xFFFFFFFF)
        and (size == (1 << 64) - 1 or 0 < size < 256 << 30)
    )


class WrongSize(FormatError):
    """A size that a member states of itself is not its own."""


class WrongSum(FormatError):
    """A checksum over what was unpacked does not match."""


class Stopped(Exception):
    """The limit was reached, or the stream has not shown more yet."""


class CutOff(Exception):
    """The file ends inside of the stream."""


class Source:
    """The bytes of ``view`` from ``at``, up to ``limit``, in ascending order."""

    def __init__(self, view: View, at: int, limit: int) -> None:
        self.view = view
        self.at = at
        self.limit = min(limit, view.size)

    def some(self, most: int) -> bytes:
        """At least one byte, at most ``most``. Raises CutOff at the end, Stopped at the limit."""
        if self.at >= self.view.size:
            raise CutOff
        most = min(most, self.limit - self.at)
        if most <= 0:
            raise Stopped
        while most:
            try:
                data = self.view.read(self.at, most)
            except NotHeld:
                # Of a stream that still runs less may be there.
                most = most // 2 if most > _SMALLEST else 0
            else:
                self.at += len(data)
                return data
        raise Stopped

    def exactly(self, count: int) -> bytes:
        """``count`` bytes. Raises CutOff or Stopped where there are fewer."""
        if self.at + count > self.view.size:
            raise CutOff
        if self.at + count > self.limit:
            raise Stopped
        try:
            data = self.view.read(self.at, count)
        except NotHeld:
            raise Stopped from None
        self.at += count
        return data

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end; they stay."""
        try:
            return self.view.read(self.at, count)
        except NotHeld:
            raise Stopped from None


Member = Callable[["Source", "Unpacking"], Iterator[bytes]]
"""Unpacks one member (frame, stream) from a source; FormatError where it is corrupt."""


class Unpacking:
    """What the stream at offset 0 of ``view`` unpacks to, as an iterator of pieces of 64 KiB at the
    most (lz4: of a block). At most ``limit`` bytes are read. Members that hold nothing give an
    empty piece, so that who counts or looks at a clock gets to do so.
    """

    def __init__(self, view: View, kind: str, *, limit: int) -> None:
        self.kind = kind
        self.made = 0
        """Bytes that came out."""
        self.members = 0
        """Members that came to their end."""
        self.state: State = "going"
        self.problem = ""
        """What is wrong, as the end of a sentence."""
        self.lies = ""
        """Of corrupt data: "size" or "checksum" where it is known to be that."""
        self.trailing: int | None = None
        """Where something begins that does not belong to the stream."""
        self.skipped = 0
        """Bytes of frames that every reader skips."""
        self.enough = 1 << 62
        """Bytes after which no more are wanted: for decoders that work a block at a time."""
        self._source = Source(view, 0, limit)

    @property
    def taken(self) -> int:
        """Bytes of the file that were given to the library, and not given back."""
        return self._source.at

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._members()
        except CutOff:
            self.state = "cut-off"
            self.problem = f"cut off after {self.taken} bytes"
        except Stopped:
            self.state = "unseen"
        except MemoryError:
            self.state = "memory"
            self.problem = "too large a dictionary to be unpacked here"
        except FormatError as error:
            self.state = "corrupt"
            if isinstance(error, WrongSize):
                self.lies = "size"
            elif isinstance(error, WrongSum):
                self.lies = "checksum"
            self.problem = f"corrupt within the first {self.taken} bytes ({printable(str(error))})"

    def _members(self) -> Iterator[bytes]:
        source = self._source
        unpack = _member_of(self.kind)
        if unpack is None:
            self.state = "unseen"
            return
        while True:
            if self.kind in ("zstd", "lz4"):
                self._skip_frames()
                if source.at >= source.view.size:
                    break
            for piece in unpack(source, self):
                self.made += len(piece)
                yield piece
            self.members += 1
            yield b""
            if not self._another():
                break
        self.state = "whole"

    def _another(self) -> bool:
        """Whether a member follows; notes what else does."""
        source = self._source
        start = source.at
        if self.kind in ("gzip", "xz"):
            # Tapes pad with zeros, and so may xz.
            while (data := source.peek(_PIECE)) and not data.strip(b"\0"):
                source.some(len(data))
            source.at += len(data) - len(data.lstrip(b"\0"))
        head = source.peek(16)
        if not head:
            return False
        if self.kind == "lz4-legacy" or stream_kind(head) == self.kind or _is_skippable(head):
            return True
        self.trailing = start
        return False

    def _skip_frames(self) -> None:
        source = self._source
        for _ in range(_MAX_SKIPPED):
            head = source.peek(8)
            if not _is_skippable(head):
                return
            if len(head) < 8:
                raise CutOff
            length = 8 + int.from_bytes(head[4:], "little")
            if source.at + length > source.view.size:
                raise CutOff
            if source.at + length > source.limit:
                raise Stopped
            source.at += length
            self.skipped += length
        raise Stopped


def _is_skippable(head: bytes) -> bool:
    return head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def _member_of(kind: str) -> Member | None:
    if kind in ("lz4", "lz4-legacy", "lzop"):
        from vmimg.probe import frames

        return frames.MEMBERS[kind]
    if kind == "lzip":
        return _lzip_member
    if kind == "compress":
        return None

    def member(source: Source, unpacking: Unpacking) -> Iterator[bytes]:
        make, errors = _library(kind)
        yield from _by_library(source, make(), errors)

    return member


def _by_library(
    source: Source, decompressor: Any, errors: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    # The library copies what it did not need: small pieces first, for members may be short.
    step = 1024
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            data = source.some(step)
            step = min(step * 2, _PIECE)
        try:
            output = decompressor.decompress(data, _PIECE)
        except errors as error:
            text = str(error)
            if "memory" in text.lower():
                raise MemoryError(text) from None
            # The words of zlib and of libzstd.
            if "length check" in text:
                raise WrongSize(text) from None
            if "data check" in text or "checksum" in text:
                raise WrongSum(text) from None
            raise FormatError(text) from None
        if output:
            yield output
        elif not (data or decompressor.eof or decompressor.needs_input):
            raise FormatError("nothing comes out of it")
    source.at -= len(decompressor.unused_data)


def _lzip_member(source: Source, unpacking: Unpacking) -> Iterator[bytes]:
    """A header, LZMA with an end mark and default properties, and a trailer."""
    import lzma
    from zlib import crc32

    start = source.at
    coded = source.exactly(6)[5]
    dictionary = 1 << (coded & 0x1F)
    dictionary -= (dictionary >> 4) * (coded >> 5)
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=XZ_MEMORY)
    # The same as a .lzma file, once it has its header.
    decompressor.decompress(b"\x5d" + dictionary.to_bytes(4, "little") + b"\xff" * 8)
    made = checksum = 0
    for piece in _by_library(source, decompressor, (lzma.LZMAError,)):
        made += len(piece)
        checksum = crc32(piece, checksum)
        yield piece
    trailer = source.exactly(20)
    stated = tuple(int.from_bytes(trailer[a:b], "little") for a, b in ((0, 4), (4, 12), (12, 20)))
    if stated[1:] != (made, source.at - start):
        raise WrongSize("incorrect sizes in the trailer")
    if stated[0] != checksum:
        raise WrongSum("incorrect checksum in the trailer")


class _Gzip:
    """zlib in the manner of the other libraries."""

    def __init__(self) -> None:
        import zlib

        self._object = zlib.decompressobj(31)
        self._pending = False

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not (self._pending or self._object.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        output = self._object.decompress(data or self._object.unconsumed_tail, most)
        self._pending = len(output) == most
        return output


def _library(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """How to make a decompressor for one member, and what it raises for corrupt data."""
    if kind == "gzip":
        import zlib

        return _Gzip, (zlib.error,)
    if kind in ("xz", "lzma"):
        import lzma

        form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return lambda: lzma.LZMADecompressor(format=form, memlimit=XZ_MEMORY), (lzma.LZMAError,)
    if kind == "zstd":
        from vmimg.codecs.zstd import library

        zstd = library()
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
        return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError)
