"""Decoders of deflate streams on their way, and the marks at which one can begin.

    start          the beginning of the stream, or of a member of gzip
    block          where a block begins, with the 32 KiB that came out before: ISA-L begins there
    state          a copy of a decoder of zlib that stood there
    (none)         a place that is known by its number only

ISA-L unpacks half as fast again as zlib, but its state cannot be copied; zlib's can (inflateCopy,
40 KiB). Sources: RFC 1951, RFC 1952. Imports codecs and storage.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

from isal import igzip_lib

from vmimg.bundles.archives.boundaries import decoder_at
from vmimg.codecs.crc32 import crc32, crc32_join
from vmimg.errors import FormatError
from vmimg.storage.base import Buffer, Storage

__all__ = ["Decoder", "Mark", "Source"]

_INPUT: Final = 128 << 10
_LITTLE_INPUT: Final = 1 << 10
# What should come out of what it is fed at once: marks are made behind that.
_OUTPUT: Final = 512 << 10
# zlib keeps what it did not need yet with its state: little, then.
_ZLIB_INPUT: Final = 4 << 10
_MAX_GZIP_HEADER: Final = 1 << 20
# Its type stub calls the exception an instance.
_CORRUPT: Final[Any] = igzip_lib.IsalError


@dataclass(slots=True)
class Mark:
    """Where decoding can begin: at ``at`` in the file, ``made`` in what comes out.

    ``start``: at the beginning of a stream. ``window``, for a block: what came out before, deflated
    once more; ``bit`` of the byte at ``at``; ``stored``: it is a stored block's length that stands
    there. ``state``: a decoder that is to be copied; ``pending``: more can come out of it before
    it is given anything. ``checksum``: of what comes out up to the next mark.
    """

    at: int
    made: int
    start: bool = False
    bit: int = 0
    stored: bool = False
    window: bytes | None = None
    state: Any = None
    pending: bool = False
    checksum: int = 0

    @property
    def begins(self) -> bool:
        """Whether a decoder can begin here."""
        return self.start or self.window is not None or self.state is not None

    def forget(self) -> None:
        """Keep the place only."""
        self.window = self.state = None


class Source:
    """Where the streams lie, and what must come out."""

    def __init__(
        self,
        base: Storage,
        name: str,
        start: int,
        end: int,
        gzip: bool,
        checksum: int | None,
        size: int,
    ) -> None:
        self.base, self.name, self.start, self.end = base, name, start, min(end, base.size)
        self.gzip = gzip
        self.checksum = checksum
        self.size = size

    def read(self, at: int, length: int) -> bytes:
        return self.base.read(at, max(0, min(length, self.end - at)))

    def read_into(self, at: int, buffer: memoryview) -> memoryview:
        """What there is, in ``buffer``."""
        buffer = buffer[: max(0, self.end - at)]
        if buffer:
            self.base.read_into(at, buffer)
        return buffer

    def corrupt(self, what: object) -> FormatError:
        return FormatError(f"{self.name}: the compressed data is corrupt ({what})")

    def cut_off(self) -> FormatError:
        return FormatError(f"{self.name}: the compressed data is cut off at {self.end}")

    def skip_header(self, at: int) -> int:
        """Where the deflate stream begins of the gzip member at ``at``."""
        window = self.read(at, 512)
        if len(window) < 10:
            raise self.cut_off()
        if window[:3] != b"\x1f\x8b\x08" or window[3] & 0xE0:
            raise self.corrupt("the header of gzip")
        flags = window[3]
        if flags & 0x1C:
            window = self.read(at, _MAX_GZIP_HEADER)
        length = 10
        if flags & 0x04:  # FEXTRA
            length += 2 + int.from_bytes(window[length : length + 2], "little")
        for flag in (0x08, 0x10):  # FNAME, FCOMMENT
            if flags & flag:
                length = window.find(b"\0", length) + 1
                if not length:
                    raise self.corrupt("the header of gzip")
        if flags & 0x02:  # FHCRC
            length += 2
        if length > len(window):
            raise self.cut_off()
        return at + length

    def next_member(self, at: int) -> int | None:
        """The gzip member behind the one that ended at ``at``; None where there is none. Tapes pad
        with zeros; what else follows, gzip ignores.
        """
        while piece := self.read(at, _INPUT):
            rest = piece.lstrip(b"\0")
            at += len(piece) - len(rest)
            if rest:
                return at if self.read(at, 3) == b"\x1f\x8b\x08" else None
        return None


class Decoder:
    """One on its way. ``made``: bytes that came out so far, and were skipped by its mark; ``at``:
    where in the file it has not been fed from yet. ``stop``: it is fed up to there, until that is
    None again; ``waiting``: it was, and all of that came out. ``checksum``: of what came out last.
    """

    def __init__(self, source: Source, mark: Mark, *, fast: bool = True) -> None:
        self.made = mark.made
        self.at = mark.at
        self.stop: int | None = None
        self.waiting = False
        self.ended = False
        self.checksum = 0
        self.begin: int | None = None
        """Where the stream began, in what comes out, where that is known: then it is checked."""
        self.member = source.start
        """Where the member of gzip began that it is in."""
        self._source = source
        self.fast = fast
        self._pending = mark.pending
        self._input = memoryview(b"")
        self._buffer = memoryview(bytearray(_INPUT))
        self._fed = (self.made, 0, _LITTLE_INPUT)
        """Where it was fed last, how much, and how much it could have been."""
        self._total = 0
        self._decoder: Any
        if mark.start:
            self._start(mark.at)
        elif mark.state is not None:
            self.fast = False
            self._decoder = mark.state.copy()
        else:
            assert mark.window is not None
            self._begin_block(mark, zlib.decompress(mark.window, -zlib.MAX_WBITS))

    @property
    def at_end(self) -> bool:
        """Whether all of the stream came out, be it right or not."""
        return bool(self._decoder.eof)

    def mark(self) -> Mark:
        """Where it stands: of one that is not fast, and not at its end."""
        return Mark(self.at, self.made, state=self._decoder.copy(), pending=self._pending)

    def take(self, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        parts = []
        while length and (data := self.some(length)):
            parts.append(data)
            length -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, most: int) -> bytes:
        """A few bytes, none at the end and where it is waiting."""
        while not self.ended:
            data = self._step(most)
            if data:
                self.made += len(data)
                self.checksum = crc32(data)
                if self.begin is not None:
                    self._total = crc32_join(self._total, self.checksum, len(data))
            if self._decoder.eof:
                self._finish_stream()
            if data or self.waiting:
                return data
        return b""

    def _start(self, at: int) -> None:
        self.at = self._source.skip_header(at) if self._source.gzip else at
        self._input = memoryview(b"")
        self.begin = self.made
        self._total = 0
        self._pending = False
        if self.fast:
            self._decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        else:
            self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)

    def _begin_block(self, mark: Mark, window: bytes) -> None:
        byte = self._source.read(mark.at, 1)
        if not byte:
            raise self._source.cut_off()
        self._decoder, first = decoder_at(
            byte[0], mark.bit, window, stored=mark.stored, fast=self.fast
        )
        self._input = memoryview(first)
        self.at = mark.at + 1 - len(first)

    def _step(self, most: int) -> bytes:
        self.waiting = False
        try:
            data: Buffer
            if self.fast:
                data = self._portion() if self._decoder.needs_input else b""
                output: bytes = self._decoder.decompress(data, most)
                self.waiting = not output and self._at_stop() and not self._decoder.eof
                return output
            data = self._decoder.unconsumed_tail
            if not data and not self._pending:
                data = self._more(_ZLIB_INPUT)
            output = self._decoder.decompress(data, most)
            self._pending = len(output) == most
            return output
        except (zlib.error, _CORRUPT) as error:
            raise self._source.corrupt(error) from None

    def _portion(self) -> memoryview | bytes:
        """As much more as will come out as `_OUTPUT` bytes, as far as that can be foreseen."""
        made, length, most = self._fed
        if length:
            most = min(2 * most, length * _OUTPUT // max(1, self.made - made))
            most = min(max(most, _LITTLE_INPUT), _INPUT)
        data = self._more(most)
        self._fed = (self.made, len(data), most)
        return data

    def _at_stop(self) -> bool:
        return self.stop is not None and self.at >= self.stop and bool(self._decoder.needs_input)

    def _more(self, length: int) -> memoryview | bytes:
        if self._at_stop():
            return b""
        if not self._input:
            self._input = self._source.read_into(self.at, self._buffer)
            if not self._input:
                raise self._source.cut_off()
        if self.stop is not None:
            length = min(length, self.stop - self.at)
        data = self._input[:length]
        self._input = self._input[length:]
        self.at += len(data)
        return data

    def _finish_stream(self) -> None:
        self.at -= len(self._decoder.unused_data)
        self.stop = None
        source = self._source
        begin = self.begin
        if not source.gzip:
            self.ended = True
            if self.made != source.size or (
                begin is not None and source.checksum not in (None, self._total)
            ):
                raise source.corrupt("its size or checksum")
            return
        trailer = source.read(self.at, 8)
        if len(trailer) < 8:
            raise source.cut_off()
        checksum, size = (int.from_bytes(trailer[i : i + 4], "little") for i in (0, 4))
        if begin is not None and (size, checksum) != (self.made - begin & 0xFFFFFFFF, self._total):
            raise source.corrupt("its size or checksum")
        following = source.next_member(self.at + 8)
        if following is None:
            self.ended = True
        else:
            self.member = following
            self._start(following)
