"""InflatedStorage: what deflate streams (gzip, a member of a zip) unpack to, read at any position.

    decoders on their way, by ISA-L:  whoever reads in order meets one of them
    marks, of zlib:                   decoders that stand still, to begin anywhere
    blocks:                           the last few that came out

ISA-L unpacks four times as fast as zlib, but its state cannot be copied; zlib's can (inflateCopy,
40 KiB), and a copy is where reading can begin again. So reading in order is ISA-L's; who jumps
about pays for one pass of zlib, which leaves marks, and then begins near what is wanted. There are
never more than so many marks: when there would be, every other one goes. Memory does not depend on
the size.

Measured against indexed_gzip (reads of less than its spacing inflate again from the last point) and
rapidgzip (a gigabyte of memory). Sources: RFC 1951, RFC 1952. Imports codecs and storage.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from vmimg.codecs.crc32 import crc32, crc32_join
from vmimg.errors import FormatError, UnsafeImage
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["InflatedStorage"]

_BLOCK: Final = 256 << 10
_BLOCKS: Final = 64
_INPUT: Final = 256 << 10
# zlib keeps what it did not need yet with its state: little, then.
_ZLIB_INPUT: Final = 4 << 10
_STEP: Final = 64 << 10
_MARKS: Final = 1024
_SPACING: Final = 1 << 20
_RUNS: Final = 4
# How far a decoder goes on rather than another one begins, in bytes that come out.
_NEAR: Final = 32 << 20
# How often ISA-L may go further than that before marks are made.
_LONG_WAYS: Final = 3
_MAX_GZIP_HEADER: Final = 1 << 20


class InflatedStorage(ReadOnlyView):
    """What the stream in ``base`` from ``start`` on unpacks to; closing it closes ``base`` if it
    ``owns`` it. ``gzip``: members of gzip, one or many; else one raw deflate stream in ``stored``
    bytes, which unpacks to ``size`` bytes with the checksum ``checksum``.

    What gzip unpacks to is known after `measure`; until then only `head` can be asked. Threads may
    share it. Raises FormatError where the data is corrupt or cut off.
    """

    def __init__(
        self,
        base: Storage,
        name: str,
        *,
        start: int = 0,
        stored: int | None = None,
        size: int = 0,
        checksum: int | None = None,
        gzip: bool = False,
        owns: bool = False,
    ) -> None:
        super().__init__(base, size)
        self.name = name
        self._owns = owns
        self._source = _Source(
            base, name, start, base.size if stored is None else start + stored, gzip, checksum, size
        )
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._runs: list[_Run] = []
        self._marks: list[_Mark] = [_Mark(start, 0, None, 0)]
        self._spacing = _SPACING
        self._long_ways = 0

    def head(self, length: int) -> bytes:
        """The first bytes, fewer where there are no more."""
        return _Run(self._source, self._marks[0], fast=True).take(length)

    def measure(
        self, watch: Callable[[bytes], None] | None = None, *, limit: int | None = None
    ) -> None:
        """Go through all of it once: its size is known then, and its checksums were right.
        ``watch`` is shown what comes out. Raises UnsafeImage beyond ``limit`` bytes.
        """
        run = _Run(self._source, self._marks[0], fast=True)
        while data := run.take(_BLOCK):
            if limit is not None and run.made > limit:
                raise UnsafeImage(
                    f"{self.name}: unpacks to more than the {limit} bytes that are allowed"
                )
            if watch is not None:
                watch(data)
        self.size = run.made

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        done = 0
        while done < len(buffer):
            number, skip = divmod(offset + done, _BLOCK)
            with self._lock:
                block = self._block(number)
            piece = memoryview(block)[skip : skip + len(buffer) - done]
            if not piece:
                raise FormatError(
                    f"{self.name}: unpacks to {number * _BLOCK + len(block)} bytes, and "
                    f"{self.size} were stated"
                )
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def identity(self) -> tuple[int, ...] | None:
        return None

    def allocated(self) -> int:
        return self.size

    def close(self) -> None:
        with self._lock:
            self._blocks.clear()
            self._runs.clear()
            del self._marks[1:]
        if self._owns:
            self._base.close()

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        run = self._run_to(number * _BLOCK)
        while True:
            at = run.made // _BLOCK
            block = run.take(_BLOCK)
            self._blocks[at] = block
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
            if at >= number or len(block) < _BLOCK:
                if len(block) < _BLOCK:
                    self._runs.remove(run)
                return block if at == number else b""

    def _run_to(self, offset: int) -> _Run:
        """A decoder that stands at the beginning of a block, not behind ``offset``."""
        near = [run for run in self._runs if run.made <= offset]
        best = max(near, key=lambda run: run.made, default=None)
        mark = self._marks[bisect_right(self._marks, offset, key=lambda mark: mark.made) - 1]
        if best is not None and (
            offset - best.made <= _NEAR or (best.made >= mark.made and self._goes_far())
        ):
            self._runs.remove(best)
            self._runs.append(best)
            return best
        if offset - mark.made > 2 * self._spacing and mark is self._marks[-1]:
            if best is None and self._goes_far():
                return self._keep(_Run(self._source, self._marks[0], fast=True), 0)
            mark = self._lay_marks(offset)
        return self._keep(_Run(self._source, mark, fast=mark.state is None), offset)

    def _goes_far(self) -> bool:
        self._long_ways += 1
        return self._long_ways <= _LONG_WAYS

    def _keep(self, run: _Run, offset: int) -> _Run:
        """A new decoder, gone on to the block at ``offset``."""
        while run.made < offset and run.take(min(_BLOCK, offset - run.made)):
            pass
        self._runs.append(run)
        del self._runs[:-_RUNS]
        return run

    def _lay_marks(self, offset: int) -> _Mark:
        """Marks from the last one up to ``offset``; the last of them."""
        run = _Run(self._source, self._marks[-1], fast=False)
        while run.made < offset and run.take(min(_STEP, offset - run.made)):
            if run.made - self._marks[-1].made >= self._spacing:
                self._marks.append(run.mark())
                if len(self._marks) > _MARKS:
                    del self._marks[1::2]
                    self._spacing *= 2
        return self._marks[-1]


class _Mark:
    """Where decoding can begin: at ``at`` in the file, ``made`` in what comes out. ``state``: a
    decoder that is to be copied, None at the beginning of a stream; ``pending``: more can come out
    of it before it is given anything. ``begin``: where that stream began, in what comes out.
    """

    __slots__ = ("at", "begin", "made", "pending", "state")

    def __init__(
        self, at: int, made: int, state: Any, begin: int, *, pending: bool = False
    ) -> None:
        self.at = at
        self.made = made
        self.state = state
        self.begin = begin
        self.pending = pending


class _Source:
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


class _Run:
    """A decoder on its way. ``made``: bytes that came out so far, and were skipped by its mark."""

    def __init__(self, source: _Source, mark: _Mark, *, fast: bool) -> None:
        self.made = mark.made
        self._source = source
        self._at = mark.at
        self._begin = mark.begin
        self._fast = fast
        self._ended = False
        self._pending = mark.pending
        self._input = memoryview(b"")
        self._checksum: int | None = 0 if mark.state is None else None
        self._decoder: Any = None
        if mark.state is not None:
            self._decoder = mark.state.copy()
        else:
            self._start(mark.at)

    def take(self, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        first = self._some(length)
        if len(first) == length or not first:
            return first
        parts, missing = [first], length - len(first)
        while missing and (data := self._some(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def mark(self) -> _Mark:
        """Where it stands: of one that is not fast, and not at its end."""
        return _Mark(self._at, self.made, self._decoder.copy(), self._begin, pending=self._pending)

    def _start(self, at: int) -> None:
        self._at = self._source.skip_header(at) if self._source.gzip else at
        self._input = memoryview(b"")
        self._begin = self.made
        self._checksum = 0
        self._pending = False
        if self._fast:
            from isal import igzip_lib

            self._decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        else:
            self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)

    def _some(self, most: int) -> bytes:
        while not self._ended:
            data = self._step(most)
            if data:
                self.made += len(data)
                if self._checksum is not None:
                    self._checksum = crc32_join(self._checksum, crc32(data), len(data))
            if self._decoder.eof:
                self._finish_stream()
            if data:
                return data
        return b""

    def _step(self, most: int) -> bytes:
        from isal import igzip_lib

        corrupt: Any = igzip_lib.IsalError
        try:
            data: Buffer
            if self._fast:
                data = self._more(_INPUT) if self._decoder.needs_input else b""
                return self._decoder.decompress(data, most)  # type: ignore[no-any-return]
            data = self._decoder.unconsumed_tail
            if not data and not self._pending:
                data = self._more(_ZLIB_INPUT)
            output: bytes = self._decoder.decompress(data, most)
            self._pending = len(output) == most
            return output
        except (zlib.error, corrupt) as error:
            raise self._source.corrupt(error) from None

    def _more(self, length: int) -> Buffer:
        if not self._input:
            self._input = memoryview(self._source.read(self._at, _INPUT))
            if not self._input:
                raise self._source.cut_off()
        data = self._input[:length]
        self._input = self._input[length:]
        self._at += len(data)
        return data

    def _finish_stream(self) -> None:
        self._at -= len(self._decoder.unused_data)
        source = self._source
        length = self.made - self._begin
        if not source.gzip:
            self._ended = True
            if length != source.size or (
                source.checksum is not None and self._checksum not in (None, source.checksum)
            ):
                raise source.corrupt("its size or checksum")
            return
        trailer = source.read(self._at, 8)
        if len(trailer) < 8:
            raise source.cut_off()
        checksum, size = (int.from_bytes(trailer[i : i + 4], "little") for i in (0, 4))
        if size != length & 0xFFFFFFFF or self._checksum not in (None, checksum):
            raise source.corrupt("its size or checksum")
        following = source.next_member(self._at + 8)
        if following is None:
            self._ended = True
        else:
            self._start(following)
