"""WebStore: bytes at addresses of the web, http and https, that users name; read in place.

A key is an address. Nothing is put, deleted or listed here: the bytes are somebody else's, who may
change them at any time. So each answer is held against what the address had when it was opened, or
when the image got it: length and validator (ETag, or else Last-Modified). Other bytes are an error,
never an image's. Only servers that give ranges will do. Where one may ask is decided by
`web.fetching`, which is the only way to the network. Imports the base of stores, fetching.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, NoReturn

from vmimg.errors import StorageError, UnsafeImage
from vmimg.service.settings import Imports
from vmimg.service.stores.base import (
    NotFound,
    Putting,
    Store,
    Stored,
    StoreUnreachable,
    Unusable,
)
from vmimg.service.stores.ranged import RangedStorage
from vmimg.service.web.fetching import (
    Answered,
    Fetched,
    LookUp,
    NoAnswer,
    check_url,
    fetch,
    plain,
)

__all__ = ["VERSION", "Version", "WebStorage", "WebStore", "version_in"]

VERSION: Final = "os_glance_version"
"""Its name in the catalogue, among what users say of a location; they are not told."""

_GONE: Final = (404, 410)
_BUSY: Final = (408, 425, 429)
_NOT_SATISFIABLE: Final = 416
_SECONDS: Final = 60.0
# Who reads on in pieces as large as this gets one long answer instead of many short ones.
_LARGE: Final = 256 << 10
_WHAT: Final = "location"


class Version(NamedTuple):
    """What of an address changes with its bytes: ``size``, and the server's validator if it has
    one.
    """

    size: int
    validator: str

    def __str__(self) -> str:
        return f"{self.size} {self.validator}"

    @classmethod
    def of(cls, text: str) -> Version:
        """The one whose ``str`` this is."""
        size, _, validator = text.partition(" ")
        return cls(int(size), validator)


def version_in(metadata: Mapping[str, Any]) -> Version | None:
    """What an address had when the image got it, as the catalogue keeps it."""
    said = metadata.get(VERSION)
    return Version.of(said) if said is not None else None


class WebStore(Store):
    """Addresses of ``schemes`` that ``rules`` allow. ``look_up``: tests have their own."""

    read_only = True

    def __init__(
        self,
        name: str,
        rules: Imports,
        schemes: tuple[str, ...] = ("http", "https"),
        look_up: LookUp = socket.getaddrinfo,
    ) -> None:
        self.name = name
        self.schemes = schemes
        self.url = f"{schemes[0]}://"
        self._rules = rules
        self._look_up = look_up

    def check(self, url: str) -> None:
        """Raises UnsafeImage for what may not be asked, as far as that is known without asking."""
        check_url(url, self._rules, _WHAT)

    def has(self, url: str) -> bool:
        """Whether it is an address of this kind."""
        return url.partition("://")[0].lower() in self.schemes

    # The five

    def put(self, key: str, size: int | None = None) -> Putting:
        self._refuse()

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        with _Source(self, key) as source:
            source.read_into(key, offset, buffer)

    def size(self, key: str) -> int:
        with _Source(self, key) as source:
            return source.size(key)

    def delete(self, key: str) -> None:
        self._refuse()

    def list(self) -> Iterator[Stored]:
        return iter(())

    # What is known besides

    def open(self, key: str) -> WebStorage:
        return self.opened(key)

    def opened(
        self, url: str, version: Version | None = None, *, within: float | None = None
    ) -> WebStorage:
        """What is at ``url``, which must be of ``version``.

        ``within``: seconds for all that is read of it. Raises NotFound, StoreUnreachable, and
        Unusable where it has changed, may not be asked, or gives no ranges.
        """
        return WebStorage(_Source(self, url, version, within))

    def location(self, key: str) -> str:
        return key

    @contextmanager
    def fetching(self, url: str, start: int, end: int, seconds: float) -> Iterator[Fetched]:
        """The bytes from ``start`` to before ``end``, if they are given. Raises like a store."""
        with _told(), fetch(
            url, self._rules, part=(start, end), what=_WHAT, look_up=self._look_up,
            seconds=seconds,
        ) as fetched:  # fmt: skip
            yield fetched

    def _refuse(self) -> NoReturn:
        raise StorageError(f"{self.name}: nothing is stored or deleted here")


@contextmanager
def _told() -> Iterator[None]:
    """What a store raises, for what fetching does."""
    try:
        yield
    except UnsafeImage as error:
        raise Unusable(str(error)) from error
    except NoAnswer as error:
        raise StoreUnreachable(str(error)) from error
    except Answered as error:
        if error.status in _GONE:
            raise NotFound(str(error)) from error
        if error.status >= 500 or error.status in _BUSY:
            raise StoreUnreachable(str(error)) from error
        raise Unusable(str(error)) from error


class _Source:
    """One address, of one version: what a RangedStorage reads from."""

    def __init__(
        self,
        store: WebStore,
        url: str,
        version: Version | None = None,
        within: float | None = None,
    ) -> None:
        self.name = store.name
        self.url = url
        self.version = version
        self._store = store
        self._until = None if within is None else time.monotonic() + within
        self._lock = threading.Lock()
        """Held by who reads from the long answer."""
        self._answer: _Answer | None = None
        self._end = -1
        """Where the last large piece ended."""

    def size(self, key: str) -> int:
        """Bytes at the address; asks for the first of them."""
        try:
            with self._fetching(0, 1) as fetched:
                assert fetched.part is not None
                return fetched.part.total
        except Unusable as error:
            cause = error.__cause__
            if isinstance(cause, Answered) and cause.status == _NOT_SATISFIABLE:
                raise Unusable(f"{plain(self.url)}: there are no bytes") from error
            raise

    def read(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""
        buffer = bytearray(length)
        self.read_into(key, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; from the long answer if that is just there."""
        if not len(buffer):
            return
        if len(buffer) >= _LARGE and self._lock.acquire(blocking=False):
            try:
                on, self._end = offset == self._end, offset + len(buffer)
                if on and self._read_on(offset, buffer):
                    return
            finally:
                self._lock.release()
        with self._fetching(offset, offset + len(buffer)) as fetched:
            _fill(fetched, buffer, self.url)

    def _read_on(self, offset: int, buffer: memoryview) -> bool:
        """Whether the long answer, which may be a new one, had all of it."""
        try:
            if self._answer is None or self._answer.at != offset:
                self._drop()
                assert self.version is not None
                self._answer = _Answer(self, offset, self.version.size)
            self._answer.fill(buffer)
            if self._answer.at == self._answer.end:
                self._drop()
        except StoreUnreachable:
            # Left alone for too long, as a slow client does: ask anew for what is missing.
            self._drop()
            return False
        except BaseException:
            self._drop()
            raise
        return True

    @contextmanager
    def _fetching(self, start: int, end: int) -> Iterator[Fetched]:
        """The bytes from ``start`` to before ``end``, of this version or none."""
        with self._store.fetching(self.url, start, end, self._seconds()) as fetched:
            part = fetched.part
            if part is None:
                raise Unusable(
                    f"{plain(self.url)}: the server gives no ranges, and an image is read by them"
                )
            now = Version(part.total, fetched.version)
            if self.version is None:
                self.version = now
            if now != self.version:
                raise Unusable(f"{plain(self.url)}: what is there is not what was there before")
            if (part.start, part.end) != (start, min(end, part.total)) or part.end < end:
                raise Unusable(f"{plain(self.url)}: the server gives another part of it")
            yield fetched

    def _seconds(self) -> float:
        if self._until is None:
            return _SECONDS
        left = self._until - time.monotonic()
        if left <= 0:
            raise StoreUnreachable(f"{plain(self.url)}: takes too long")
        return min(_SECONDS, left)

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def close(self) -> None:
        with self._lock:
            self._drop()

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Answer:
    """All from some offset on, read as it is wanted."""

    def __init__(self, source: _Source, start: int, end: int) -> None:
        self.at = start
        self.end = end
        self._name = plain(source.url)
        self._left = memoryview(b"")
        self._stack = ExitStack()
        fetched = self._stack.enter_context(source._fetching(start, end))
        self._pieces = fetched.pieces

    def fill(self, buffer: memoryview) -> None:
        """The next bytes."""
        done = 0
        while done < len(buffer):
            if not len(self._left):
                with _told():
                    self._left = memoryview(next(self._pieces, b""))
                if not len(self._left):
                    raise StoreUnreachable(f"{self._name}: the transfer broke off")
            taken = min(len(self._left), len(buffer) - done)
            buffer[done : done + taken] = self._left[:taken]
            self._left = self._left[taken:]
            done += taken
        self.at += done

    def close(self) -> None:
        self._stack.close()


def _fill(fetched: Fetched, buffer: memoryview, url: str) -> None:
    done = 0
    for piece in fetched.pieces:
        if done + len(piece) > len(buffer):
            raise Unusable(f"{plain(url)}: the server gives more than was asked for")
        buffer[done : done + len(piece)] = piece
        done += len(piece)
    if done < len(buffer):
        raise StoreUnreachable(f"{plain(url)}: the transfer broke off after {done} bytes")


class WebStorage(RangedStorage):
    """What is at an address."""

    def __init__(self, source: _Source) -> None:
        try:
            super().__init__(source, source.url)
        except BaseException:
            source.close()
            raise
        # For messages: who reads an image need not know where it lies.
        self.name = self.member = f"an address of {source.name}"
        self._source = source

    @property
    def version(self) -> Version:
        """What the address had when it was opened."""
        assert self._source.version is not None
        return self._source.version

    def close(self) -> None:
        super().close()
        self._source.close()
