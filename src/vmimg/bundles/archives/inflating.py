"""InflatedStorage: what deflate streams (gzip, a member of a zip) unpack to, read at any position.

    |  segment  |  segment  |   segment   |   ...            what comes out
    mark        mark        mark          the front          where decoders can begin

The stream is gone through once, from the front, by one decoder. Every few megabytes it leaves a
mark where it comes by the beginning of a block (`boundaries`), with the 32 KiB that came out before
it, and the checksum of the segment behind. From the marks on segments are unpacked again when they
are asked for: by as many threads as ask. A place that turns out to be no beginning gives other
bytes: then its mark is forgotten, and the one before it counts.

Where no beginning is found, a mark is a place only. A decoder that got there waits for who goes on;
who jumps about pays for one pass of zlib, whose state can be copied. Segments are kept while there
is room, the windows of marks as well: memory does not depend on the size.

Measured against indexed_gzip (reads of less than its spacing inflate again from the last point) and
rapidgzip (a gigabyte of memory). Sources: RFC 1951, RFC 1952. Imports storage.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from isal import igzip_lib

from vmimg.bundles.archives.boundaries import FLUSHED, LOOKED_AT, WINDOW, find_block
from vmimg.bundles.archives.decoders import Decoder, Mark, Source
from vmimg.codecs.crc32 import crc32_join
from vmimg.errors import FormatError, UnsafeImage
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["InflatedStorage"]

_PIECE: Final = 256 << 10
# To look for a block costs as much as to unpack a megabyte.
_SPACING: Final = 4 << 20
# How much compressed data is searched for the places where it was flushed, which costs nothing.
_FLUSHES: Final = 1 << 20
# What may be kept: segments that were unpacked, those in the making, windows of marks.
_KEPT: Final = 24 << 20
_IN_THE_MAKING: Final = 32 << 20
_WINDOWS: Final = 32 << 20
_STATES: Final = 256
_STANDING: Final = 4
# How far apart, in segments, a search is tried where there is nothing to be found.
_PATIENCE: Final = 16
_COMPARED: Final = 4 << 10


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
        end = base.size if stored is None else start + stored
        self._source = Source(base, name, start, end, gzip, checksum, size)
        self._shared = threading.Condition()
        self._front = _Front(self._source, self._shared)
        self._marks = self._front.marks
        self._segments: OrderedDict[int, list[bytes]] = OrderedDict()
        """What was unpacked, by where it begins."""
        self._kept = 0
        self._busy: set[int] = set()
        """Where those begin that somebody unpacks."""
        self._standing: OrderedDict[int, Decoder] = OrderedDict()
        """Decoders that stand at places where none can begin."""
        self._states: list[Mark] = []

    def head(self, length: int) -> bytes:
        """The first bytes, fewer where there are no more."""
        return Decoder(self._source, self._marks[0]).take(length)

    def measure(
        self, watch: Callable[[bytes], None] | None = None, *, limit: int | None = None
    ) -> None:
        """Go through all of it once: its size is known then, and its checksums were right.
        ``watch`` is shown what comes out. Raises UnsafeImage beyond ``limit`` bytes.
        """
        front = self._front
        while (segment := front.next(watch, limit)) is not None:
            self._keep(*segment)
        self.size = front.made

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        missing = [(offset, offset + len(buffer))]
        own: tuple[int, list[bytes]] | None = None
        while missing:
            with self._shared:
                missing = self._copied(missing, offset, buffer, own)
                if not missing:
                    return
                number = self._free(missing)
                if number is None:
                    self._shared.wait()
                    continue
                begin = self._root(number)
                self._busy.add(begin)
            try:
                own = self._unpack(number)
            finally:
                with self._shared:
                    self._busy.discard(begin)
                    if own is not None:
                        self._keep(*own)
                    self._shared.notify_all()

    def identity(self) -> tuple[int, ...] | None:
        return None

    def allocated(self) -> int:
        return self.size

    def close(self) -> None:
        with self._shared:
            self._segments.clear()
            self._standing.clear()
            self._kept = 0
        if self._owns:
            self._base.close()

    # What is called with the lock held.

    def _copied(
        self,
        missing: list[tuple[int, int]],
        offset: int,
        buffer: memoryview,
        own: tuple[int, list[bytes]] | None,
    ) -> list[tuple[int, int]]:
        """Copy what is there of ``missing``; what is not, cut into segments."""
        rest = []
        for start, end in missing:
            while start < end:
                number = self._number(start)
                begin = self._marks[number].made
                stop = min(end, self._end(number) or end)
                data = own[1] if own is not None and own[0] == begin else self._segments.get(begin)
                if data is None:
                    rest.append((start, stop))
                    start = stop
                    continue
                copied = _copy(data, start - begin, buffer[start - offset : stop - offset])
                if not copied:
                    raise FormatError(
                        f"{self.name}: unpacks to {start} bytes, and {self.size} were stated"
                    )
                if begin in self._segments:
                    self._segments.move_to_end(begin)
                start += copied
        return rest

    def _free(self, missing: list[tuple[int, int]]) -> int | None:
        """The first segment of ``missing`` that nobody unpacks, where there is room for it."""
        if len(self._busy) >= max(1, _IN_THE_MAKING // (2 * _SPACING)):
            return None
        for start, _ in missing:
            number = self._number(start)
            if self._root(number) not in self._busy:
                return number
        return None

    def _number(self, offset: int) -> int:
        return bisect_right(self._marks, offset, key=lambda mark: mark.made) - 1

    def _end(self, number: int) -> int | None:
        """Where the segment ends; None for that in which the front is."""
        if number + 1 < len(self._marks):
            return self._marks[number + 1].made
        return self._front.made if self._front.ended else None

    def _root(self, number: int) -> int:
        """Where a decoder begins for that segment."""
        if self._end(number) is None:
            return -1
        while not self._marks[number].begins:
            number -= 1
        return self._marks[number].made

    def _keep(self, begin: int, data: list[bytes]) -> None:
        self._kept += _length(data) - _length(self._segments.pop(begin, []))
        self._segments[begin] = data
        while self._kept > _KEPT and len(self._segments) > 1:
            self._kept -= _length(self._segments.popitem(last=False)[1])

    # What is not, but for as long as it says.

    def _unpack(self, number: int) -> tuple[int, list[bytes]] | None:
        """The segment, and where it begins; of what is behind the front, the next one."""
        if self._end(number) is None:
            return self._front.next()
        while True:
            with self._shared:
                run, at = self._decoder(number)
            first = at
            try:
                while True:
                    data = self._segment(run, at)
                    if at == number:
                        break
                    at += 1
                    self._leave_state(run, at)
            except FormatError:
                with self._shared:
                    if self._marks[first].start or self._marks[first].state is not None:
                        raise
                    # It was no beginning.
                    self._marks[first].forget()
                continue
            at += 1
            if at < len(self._marks) and not self._marks[at].begins:
                with self._shared:
                    self._standing[run.made] = run
                    while len(self._standing) > _STANDING:
                        self._standing.popitem(last=False)
            return self._marks[number].made, data

    def _decoder(self, number: int) -> tuple[Decoder, int]:
        """A decoder for that segment, and at which one it stands."""
        run = self._standing.pop(self._marks[number].made, None)
        if run is not None:
            return run, number
        at = number
        while not self._marks[at].begins:
            at -= 1
        return Decoder(self._source, self._marks[at], fast=at == number), at

    def _segment(self, run: Decoder, number: int) -> list[bytes]:
        end = self._end(number)
        assert end is not None
        data = []
        checksum = 0
        while run.made < end and (piece := run.some(min(_PIECE, end - run.made))):
            data.append(piece)
            checksum = crc32_join(checksum, run.checksum, len(piece))
        if run.made < end or checksum != self._marks[number].checksum:
            raise self._source.corrupt("it is not what it was before")
        return data

    def _leave_state(self, run: Decoder, number: int) -> None:
        """Of a decoder that came by a place where none could begin."""
        mark = run.mark() if not run.fast and not run.ended else None
        if mark is None:
            return
        with self._shared:
            here = self._marks[number]
            if here.begins:
                return
            here.at, here.pending, here.state = mark.at, mark.pending, mark.state
            self._states.append(here)
            if len(self._states) > _STATES:
                self._states.pop(0).forget()


def _copy(data: list[bytes], start: int, target: memoryview) -> int:
    """Copy what there is from ``start`` on into ``target``: how many bytes."""
    done = 0
    for piece in data:
        if start < len(piece):
            part = memoryview(piece)[start : start + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)
            if done == len(target):
                break
        start = max(0, start - len(piece))
    return done


def _length(data: list[bytes]) -> int:
    return sum(map(len, data))


class _Front:
    """The decoder that goes through the stream from its beginning, and the marks that it leaves.
    ``made``: how much came out.
    """

    def __init__(self, source: Source, lock: threading.Condition) -> None:
        self.marks = [Mark(source.start, 0, start=True)]
        self.ended = False
        self._source = source
        self._lock = lock
        self._run = Decoder(source, self.marks[0])
        self._parts: list[bytes] = []
        self._checksum = 0
        self._windows = 0
        self._apart = _SPACING
        """How far marks with windows are apart, at the least."""
        self._failed: FormatError | None = None
        self._next_search = self._apart
        self._patience = 1
        self._place = (0, 0, False)
        """Of the block at which the decoder will wait: byte, bit, whether it is a stored one."""
        self._ahead: list[tuple[bytes, int]] = []
        """What came out already of the next segment, with checksums."""
        self._tail = b""

    @property
    def made(self) -> int:
        return self._run.made

    def next(
        self, watch: Callable[[bytes], None] | None = None, limit: int | None = None
    ) -> tuple[int, list[bytes]] | None:
        """The next segment, and where it begins; None at the end. What fails is told again and
        again, behind what came out before it.
        """
        if self.ended:
            return None
        if self._failed is not None:
            raise self._failed
        begin = self.marks[-1].made
        try:
            mark = self._go_on(begin, watch, limit)
        except FormatError as error:
            self._failed = error
            # What goes with a wrong checksum is not handed out.
            if not self._parts or self._run.at_end:
                raise
            mark = Mark(0, begin + _length(self._parts))
        data = self._parts
        self._tail = self._window()
        self.marks[-1].checksum = self._checksum
        self._parts, self._checksum = [], 0
        if mark is None:
            self.ended = True
            return (begin, data) if data else None
        self.marks.append(mark)
        return begin, data

    def _go_on(
        self, begin: int, watch: Callable[[bytes], None] | None, limit: int | None
    ) -> Mark | None:
        """To the next mark; None at the end."""
        run = self._run
        for data, checksum in self._ahead:
            self._take(data, checksum)
        self._ahead = []

        def shown(data: bytes) -> bytes:
            if limit is not None and run.made > limit:
                raise UnsafeImage(
                    f"{self._source.name}: unpacks to more than the {limit} bytes that are allowed"
                )
            if watch is not None and data:
                watch(data)
            return data

        while True:
            data = shown(run.some(_PIECE))
            if data:
                self._take(data, run.checksum)
            elif run.waiting:
                mark = self._mark_here(shown)
                if mark is not None:
                    return mark
            else:
                return None
            length = run.made - begin
            if length < _SPACING or run.ended:
                continue
            if run.begin == run.made:
                return Mark(run.member, run.made, start=True)
            if run.stop is None and run.made >= self._next_search:
                self._look()
            if length >= 2 * _SPACING:
                return Mark(0, run.made)

    def _take(self, data: bytes, checksum: int) -> None:
        self._parts.append(data)
        self._checksum = crc32_join(self._checksum, checksum, len(data))

    def _look(self) -> None:
        """For the next block that begins; the decoder will wait there."""
        run = self._run
        data = self._source.read(run.at, _FLUSHES)
        flushed = data.find(FLUSHED)
        if flushed >= 0:
            found: tuple[int, bool] | None = (8 * flushed, True)
        else:
            found = find_block(data[:LOOKED_AT])
        if found is None:
            self._rest()
        else:
            bit, stored = found
            self._place = (run.at + bit // 8, bit % 8, stored)
            run.stop = run.at + (bit + 7) // 8

    def _rest(self) -> None:
        """Nothing was found: try it again, but not at once, and less and less often."""
        self._next_search = self.made + self._patience * self._apart
        self._patience = min(2 * self._patience, _PATIENCE)

    def _mark_here(self, shown: Callable[[bytes], bytes]) -> Mark | None:
        """Where the decoder waits; None if what comes next is not what one that begins here makes
        of it.
        """
        run = self._run
        run.stop = None
        at, bit, stored = self._place
        window = self._window()
        packed = igzip_lib.compress(window, 1, igzip_lib.COMP_DEFLATE)
        mark = Mark(at, run.made, bit=bit, stored=stored, window=packed)
        ahead: list[tuple[bytes, int]] = []
        length = 0
        same = False
        try:
            while length < _COMPARED and (data := shown(run.some(_COMPARED))):
                ahead.append((data, run.checksum))
                length += len(data)
            try:
                other = Decoder(self._source, mark).take(length)
                same = length > 0 and other == b"".join(data for data, _ in ahead)
            except FormatError:
                pass
        finally:
            if same:
                self._ahead = ahead
            else:
                for data, checksum in ahead:
                    self._take(data, checksum)
        if not same:
            self._rest()
            return None
        self._patience = 1
        self._next_search = mark.made + self._apart
        self._make_room(len(packed))
        return mark

    def _window(self) -> bytes:
        """The last that came out."""
        window = b""
        for part in (*reversed(self._parts), self._tail):
            window = part[-(WINDOW - len(window)) :] + window
            if len(window) >= WINDOW:
                break
        return window

    def _make_room(self, length: int) -> None:
        """For one window more."""
        self._windows += length
        while self._windows > _WINDOWS:
            self._apart *= 2
            with self._lock:
                kept = 0
                for mark in self.marks:
                    if mark.window is None:
                        continue
                    if mark.made - kept >= self._apart:
                        kept = mark.made
                    else:
                        self._windows -= len(mark.window)
                        mark.forget()
            if self._apart > self.made:
                break
