"""ObjectStore: a bucket of S3 (or what speaks like it), of GCS, a container of Azure, or memory.

obstore speaks to all of them. An object is uploaded in parts and appears when the last request
completes it. Parts of an upload that was killed are invisible, but take space until the bucket's
lifecycle rule removes them (S3, GCS: AbortIncompleteMultipartUpload) or a week has passed (Azure).

obstore offers no way to complete an upload only where there is no such object. So that is asked
just before, one at a time for a key in this process; that two processes never complete the same
key is for the catalogue to see to.

What obstore says of an error names URLs, and URLs can hold signatures: no text of it passes.
Imports the base of stores, errors, and obstore when a store is first used.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from vmimg.errors import StorageError
from vmimg.extras import require
from vmimg.service.stores.base import (
    Exists,
    NotFound,
    Putting,
    Store,
    Stored,
    StoreFull,
    StoreUnreachable,
    check_key,
)
from vmimg.storage.base import Buffer
from vmimg.units import format_size

__all__ = ["ObjectStore"]

_MIB: Final = 1 << 20
PART: Final = 8 * _MIB
"""Bytes of a part where the length of the stream is not known."""
# As many parts as an object may have. AWS, "Amazon S3 multipart upload limits"; Google, "XML API
# multipart uploads"; Microsoft, "Put Block List".
_PARTS: Final = {"s3": 10_000, "gs": 10_000, "az": 50_000}
# Two parts on their way keep the line busy while the next one comes; with many uploads they keep it
# busy for each other, and memory counts more.
_IN_FLIGHT: Final = 2
_FEW: Final = 4
_LARGE: Final = 32 * _MIB
# Pieces smaller than this are put together: each costs an object that lives until its part is sent.
_GATHER: Final = 256 << 10

_LOCKS: Final = 64
_STORE: Final = "store it"

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,80})</Code>")
# RadosGW, MinIO and Azure, in this order.
_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull", "AccountLimitExceeded"})
_BUSY: Final = frozenset({408, 425, 429})
_INSUFFICIENT_STORAGE: Final = 507


class ObjectStore(Store):
    """Objects ``prefix/key`` in a bucket.

    ``scheme``: "s3", "gs", "az" or "memory". ``make`` returns obstore's store, and is called when
    the first operation needs it: connections belong to the process that made them. ``part``: bytes
    of a part; larger ones are taken for streams whose length says that there would be too many.

    An upload takes two parts of memory at most, and one when many are going on.
    """

    def __init__(
        self,
        name: str,
        scheme: str,
        bucket: str,
        prefix: str,
        make: Callable[[], Any],
        *,
        part: int = PART,
    ) -> None:
        self.name = name
        self.scheme = scheme
        self.part = part
        self._prefix = prefix.strip("/")
        self.url = f"{scheme}://" + quote("/".join(filter(None, (bucket, self._prefix))))
        self._make = make
        self._store: Any = None
        self._lock = threading.Lock()
        # One of them for each key; keys that share one wait for each other's last request.
        self._completing = tuple(threading.Lock() for _ in range(_LOCKS))
        self._active = 0

    # The five

    def put(self, key: str, size: int | None = None) -> Putting:
        path = self._path(key)
        if self._head(key, path) is not None:
            raise Exists(f"{self.name}: {key} is stored already")
        part, most = self.part, _PARTS.get(self.scheme)
        if most is not None and size is not None:
            # Whole MiB.
            part = max(part, -(-size // (most * _MIB)) * _MIB)
        return _ObjectPutting(self, key, path, part, most)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._range(key, offset, len(buffer))

    def read(self, key: str, offset: int, length: int) -> bytes:
        return bytes(self._range(key, offset, length))

    def size(self, key: str) -> int:
        found = self._head(key, self._path(key))
        if found is None:
            raise self._absent(key)
        return int(found["size"])

    def delete(self, key: str) -> None:
        # Services answer that a thing is gone, whether it was there or not.
        self.size(key)
        with self.told(key, "delete it"):
            _obstore().delete(self.client(), self._path(key))

    def list(self) -> Iterator[Stored]:
        chunks = iter(())
        with self.told(self.url, "list it"):
            chunks = iter(_obstore().list(self.client(), prefix=self._prefix or None))
        start = len(self._prefix) + 1 if self._prefix else 0
        while True:
            with self.told(self.url, "list it"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            for found in chunk:
                try:
                    key = check_key(found["path"][start:])
                except ValueError:
                    continue  # not ours
                yield Stored(key, int(found["size"]), found["last_modified"].timestamp())

    # What is known besides

    def location(self, key: str) -> str:
        return f"{self.url}/{check_key(key)}"

    def prepare(self) -> None:
        with self.told(self.url, "use it"):
            next(
                iter(_obstore().list(self.client(), prefix=self._prefix or None, chunk_size=1)),
                None,
            )

    def close(self) -> None:
        self._store = None

    # For uploads

    def client(self) -> Any:
        """What obstore has for it."""
        with self._lock:
            if self._store is None:
                self._store = self._make()
            return self._store

    def enter(self) -> int:
        """An upload begins: returns how many are going on, with it."""
        with self._lock:
            self._active += 1
            return self._active

    def leave(self) -> None:
        """An upload has ended."""
        with self._lock:
            self._active -= 1

    def complete(self, key: str, path: str, close: Callable[[], object]) -> None:
        """Call ``close``, which completes an upload, unless there is something under the key.

        Raises Exists.
        """
        with self._completing[hash(key) % len(self._completing)]:
            if self._head(key, path) is not None:
                raise Exists(f"{self.name}: {key} is stored already")
            close()

    @contextmanager
    def told(self, key: str, what: str) -> Iterator[None]:
        """What a store raises, for what obstore does: without its text, and without its cause."""
        try:
            yield
        except FileNotFoundError:
            failure: StorageError = self._absent(key)
            if what == _STORE:
                failure = StorageError(f"{self.name}: {key}: cannot {what}: there is no {self.url}")
        except (OSError, ValueError, _obstore().exceptions.BaseError) as error:
            failure = self._failure(key, what, error)
        else:
            return
        raise failure from None

    # Helpers

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._prefix}/{key}" if self._prefix else key

    def _head(self, key: str, path: str) -> Mapping[str, Any] | None:
        try:
            with self.told(key, "find it"):
                found: Mapping[str, Any] = _obstore().head(self.client(), path)
                return found
        except NotFound:
            return None

    def _range(self, key: str, offset: int, length: int) -> memoryview:
        path = self._path(key)
        if offset < 0 or length < 0:
            raise StorageError(f"{self.name}: {key}: cannot read {length} bytes at offset {offset}")
        if not length:
            return memoryview(b"")
        with self.told(key, f"read {length} bytes at offset {offset}"):
            data = memoryview(
                _obstore().get_range(self.client(), path, start=offset, length=length)
            )
        if len(data) != length:
            raise StorageError(
                f"{self.name}: {key}: cannot read {length} bytes at offset {offset}:"
                f" it ends at {offset + len(data)}"
            )
        return data

    def _absent(self, key: str) -> NotFound:
        return NotFound(f"{self.name}: there is no {key}")

    def _failure(self, key: str, what: str, error: Exception) -> StorageError:
        text = str(error)
        found, code = _STATUS.search(text), _CODE.search(text)
        status = int(found[1]) if found else 0
        said = " ".join(filter(None, (found and found[1], code and code[1])))
        about = f"{self.name}: {key}: cannot {what}: "
        if status == _INSUFFICIENT_STORAGE or (code and code[1] in _FULL):
            return StoreFull(f"{about}the store is full ({said})")
        if status >= 500 or status in _BUSY:
            return StoreUnreachable(f"{about}the service is not able to just now ({said})")
        if status in (401, 403):
            return StorageError(f"{about}the service refuses the credentials ({said})")
        if status:
            return StorageError(f"{about}the service answers {said}")
        if "HTTP error" in text or "timed out" in text or "token request" in text:
            return StoreUnreachable(f"{about}the service does not answer")
        return StorageError(f"{about}{type(error).__name__}")


class _ObjectPutting(Putting):
    def __init__(
        self, store: ObjectStore, key: str, path: str, part: int, most: int | None
    ) -> None:
        super().__init__(key)
        self._store = store
        self._path = path
        self._most = None if most is None else most * part
        self._small = bytearray()
        self._completing = False
        active = store.enter()
        in_flight = _IN_FLIGHT if active <= _FEW and part <= _LARGE else 1
        try:
            with store.told(key, _STORE):
                self._writer = _obstore().open_writer(
                    store.client(), path, buffer_size=part, max_concurrency=in_flight
                )
        except BaseException:
            store.leave()
            raise

    def _write(self, data: Buffer) -> None:
        length = memoryview(data).nbytes
        if self._most is not None and self.size + length > self._most:
            raise StorageError(
                f"{self._store.name}: {self.key}: longer than {format_size(self._most)}, and its"
                " length was not told; set part_size of the store higher"
            )
        if not self._small and length >= _GATHER:
            # The writer keeps what it is given until its part is sent: nothing that may change.
            self._send(bytes(data))
            return
        self._small += data
        if len(self._small) >= _GATHER:
            self._send(bytes(self._small))
            self._small.clear()

    def _send(self, data: bytes) -> None:
        with self._store.told(self.key, _STORE):
            self._writer.write(data)

    def _commit(self) -> None:
        if self._small:
            self._send(bytes(self._small))
            self._small.clear()
        self._store.complete(self.key, self._path, self._close)
        self._store.leave()

    def _close(self) -> None:
        self._completing = True
        with self._store.told(self.key, _STORE):
            self._writer.close()

    def _abort(self) -> None:
        self._small.clear()
        try:
            if self._completing:
                # It failed, or its answer was lost: then there is an object that nobody knows of.
                _obstore().delete(self._store.client(), self._path)
            else:
                # What a with block does that raises: the parts are deleted.
                self._writer.__exit__(InterruptedError, InterruptedError(), None)
        except (OSError, ValueError, _obstore().exceptions.BaseError):
            pass  # the lifecycle rule, or the scan of the next start, finds it
        finally:
            self._store.leave()


def _obstore() -> Any:
    return require("obstore", "service", "Stores of objects")
