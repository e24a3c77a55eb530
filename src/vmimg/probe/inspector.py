"""Inspector: what a stream is, said while it goes by.

For uploads: the bytes are shown as they come, and what they are is known as soon as their
structure says so, mostly after the first of them. At most 2 MiB are held: the head, the tail, and
what watchers ask for on the way. Imports detecting.
"""

from __future__ import annotations

from typing import Final

from vmimg.probe.claims import Claim
from vmimg.probe.detecting import Detection, claims_on, contradictions
from vmimg.probe.held import HEAD_BYTES, Held
from vmimg.probe.recognisers import Watch, watchers

__all__ = ["Inspector"]

# How much of the head must be there before it is worth another look: a boot sector, the headers of
# most formats, a disc's descriptors, the tables behind them, all of it.
_LOOKS: Final = (512, 4096, 36 << 10, 72 << 10, 264 << 10, HEAD_BYTES)
# From here on it is an answer while the stream still runs.
_ANSWER: Final = 80
# A range that a watcher wants is put together in memory.
_MAX_WANTED: Final = 64 << 10


class Inspector:
    """Feed it a stream chunk by chunk, of any size, then `finish` it.

    >>> inspector = Inspector("upload")
    >>> for chunk in stream:
    ...     inspector.feed(chunk)
    ...     if inspector.answer is not None and inspector.answer.name not in allowed:
    ...         break
    >>> inspector.finish().best

    Some formats have their marks at the end (a fixed VHD, a DMG): what a stream is beyond doubt,
    and whether it is anything else besides, is known when it has ended.
    """

    def __init__(self, name: str = "stream") -> None:
        self._held = Held(name)
        self._looks = list(_LOOKS)
        self._claims: tuple[Claim, ...] = ()
        self._watches = [_Watched(watch()) for watch in watchers()]
        self._finished: Detection | None = None

    @property
    def size(self) -> int:
        """Bytes fed so far."""
        return self._held.come

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What it may be by what has come so far, best first; empty before the first look."""
        return self._claims

    @property
    def answer(self) -> Claim | None:
        """The best claim as soon as there is one that more bytes will hardly change; else None."""
        if self._claims and (self._finished or self._claims[0].confidence >= _ANSWER):
            return self._claims[0]
        return None

    @property
    def polyglot(self) -> bool:
        """Whether what has come so far contradicts itself."""
        return bool(contradictions(self._claims))

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """The next bytes. Raises ValueError after `finish`."""
        if self._finished is not None:
            raise ValueError("the stream was said to be finished")
        with memoryview(chunk).cast("B") as view:
            start = self._held.come
            self._held.feed(view)
            # Before looking: what is kept of this chunk counts.
            told = [watched.see(self._held, start, view) for watched in self._watches]
        due = False
        while self._looks and self._held.come >= self._looks[0]:
            del self._looks[0]
            due = True
        if due or any(told):
            self._claims = tuple(claims_on(self._held))

    def finish(self) -> Detection:
        """What the stream was; now with its end."""
        if self._finished is None:
            self._held.end()
            self._claims = tuple(claims_on(self._held))
            self._finished = Detection(
                self._held.name, self._held.size, self._claims, contradictions(self._claims)
            )
        return self._finished


class _Watched:
    """One watcher, and the range that it waits for."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._collected = bytearray()
        self._wanted = next(watch, None)

    def see(self, held: Held, start: int, chunk: memoryview) -> bool:
        """Hand it what it wants of ``chunk``, which began at ``start``; whether it has ended."""
        if self._wanted is None:
            return False
        while self._wanted is not None:
            offset, length = self._wanted
            at = offset + len(self._collected)
            if at < start or length > _MAX_WANTED:  # gone by
                self._watch.close()
                self._wanted = None
                break
            piece = chunk[at - start : at - start + length - len(self._collected)]
            self._collected += piece
            if len(self._collected) < length:
                return False
            data = bytes(self._collected)
            self._collected.clear()
            if not held.keep(offset, data):
                self._watch.close()
                self._wanted = None
                break
            try:
                self._wanted = self._watch.send(data)
            except StopIteration:
                self._wanted = None
        return True
