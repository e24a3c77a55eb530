"""Images kept near: whole copies in a directory of this process, of what lies far away.

An image gets there when it was downloaded, or an administrator asks for it; those that were not
used for the longest time go before there are more bytes than the settings allow. A file is there
before its row says so, and goes after it, so that what a kill leaves is found at the start.

What was downloaded is noted, and fetched anew by one thread. Written while it is sent it would cost
the store one reading less; but it would come as slowly as its client takes it, or not at all where
that goes away, and not of what is sent in another format. Imports the catalogue and stores.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Final

from vmimg.errors import StorageError
from vmimg.service.catalogue import cached, images
from vmimg.service.catalogue.database import Database, DatabaseGone
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.data.copying import pieces_of
from vmimg.service.http.errors import HTTPError
from vmimg.service.stores.base import NotFound, Store, StoreUnreachable
from vmimg.service.stores.file import FileStore
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.service.data.presenting import Presenter

__all__ = ["Cache", "Filling"]

_log: Final = logging.getLogger("vmimg.service")
_EVERY_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 5.0


class Cache:
    """At most ``most`` bytes in ``store``, which is nobody else's; ``node``: whose it is.

    ``fill``: what comes there once it was downloaded; see `vmimg.service.settings`.
    """

    def __init__(
        self, database: Database, store: FileStore, node: str, most: int, fill: str = "asked"
    ) -> None:
        self.node = node
        self.most = most
        self._fill = fill
        self.bell = threading.Event()
        """Set when there is an image to fetch."""
        self._database = database
        self._store = store

    def open(self, record: ImageRecord) -> Storage | None:
        """The image, if it is here: a hit."""
        if not self.most:
            return None
        try:
            storage = self._store.open(record.id)
        except (StorageError, ValueError):
            return None
        if storage.size != record.size:
            storage.close()
            return None
        try:
            with self._database.begin() as connection:
                there = cached.hit(connection, self.node, record.id, record.checksum)
            if not there:
                self.drop(record.id, "cached")  # the image was given other bytes since
        except DatabaseGone:
            there = False  # nobody knows whether these are its bytes
        if there:
            return storage
        storage.close()
        return None

    def wants(self, record: ImageRecord, store: Store | None) -> bool:
        """Whether the image, which lies in ``store``, is to come here when it was downloaded.

        Without a hash nobody could tell that the copy is the image.
        """
        far = store is not None and not store.is_near
        fills = self._fill == "all" or (self._fill == "remote" and far)
        return fills and record.os_hash_value is not None and 0 < (record.size or 0) <= self.most

    def ask(self, image_id: str) -> None:
        """Have the image fetched, unless it is here, or coming; or the database does not answer."""
        try:
            with self._database.read() as connection:
                if cached.has(connection, self.node, image_id):
                    return
            with self._database.begin() as connection:
                cached.queue(connection, self.node, image_id)
        except DatabaseGone as error:
            _log.warning("not cached: %s", error, extra={"image": image_id})
            return
        self.bell.set()

    def put(self, record: ImageRecord, source: Storage, stopped: threading.Event) -> bool:
        """Copy the image here, unless it is too large or not what it was, or the service stops."""
        if source.size > self.most:
            _log.warning("an image is larger than the cache", extra={"image": record.id})
            return False
        digest = hashlib.new(record.os_hash_algo) if record.os_hash_algo else None
        self._delete(record.id)
        self.prune(source.size)
        with self._store.put(record.id, source.size) as putting:
            for piece in pieces_of(source):
                if stopped.is_set():
                    putting.abort()
                    return False
                putting.write(piece)
                if digest is not None:
                    digest.update(piece)
            if digest is not None and digest.hexdigest() != record.os_hash_value:
                putting.abort()
                _log.error("an image is not what its hash says", extra={"image": record.id})
                return False
        with self._database.begin() as connection:
            # It may have been deleted meanwhile, or been given other bytes.
            now = images.find(connection, record.id)
            kept = (
                now is not None
                and now.status == "active"
                and now.os_hash_value == record.os_hash_value
                and cached.keep(connection, self.node, record.id, source.size, record.checksum)
            )
        if not kept:
            self._delete(record.id)
        return kept

    def drop(self, image_id: str | None = None, state: str | None = None) -> None:
        """Nothing of the image, or of any, stays; ``state``: only what is cached, or queued."""
        with self._database.begin() as connection:
            gone = [each.image_id for each in cached.cached(connection, self.node)]
            cached.forget(connection, self.node, image_id, state)
        if state == "queued":
            return
        for each in gone:
            if image_id in (None, each):
                self._delete(each)

    def leave(self, image_id: str) -> None:
        """The image is deleted, and so is its copy; what is still to come does not come."""
        try:
            self._store.size(image_id)
            self.drop(image_id)
        except NotFound:
            pass
        except StorageError as error:
            _log.warning("it leaves the cache later: %s", error, extra={"image": image_id})

    def prune(self, room: int = 0) -> tuple[int, int]:
        """Remove what was not used for the longest time, where there is too much for ``room`` more
        bytes; how many, and how many bytes.
        """
        with self._database.begin() as connection:
            there = cached.cached(connection, self.node)
            too_much = sum(each.size for each in there) + room - self.most
            gone = []
            for each in there:
                if too_much <= 0:
                    break
                too_much -= each.size
                gone.append(each)
                cached.forget(connection, self.node, each.image_id)
        for each in gone:
            self._delete(each.image_id)
        return len(gone), sum(each.size for each in gone)

    def clean(self) -> None:
        """Remove rows without files, files without rows, and images that are deleted."""
        self._store.sweep()
        with self._database.begin() as connection:
            for image_id in cached.of_deleted(connection, self.node):
                cached.forget(connection, self.node, image_id)
            known = {each.image_id for each in cached.cached(connection, self.node)}
            coming = set(cached.queued(connection, self.node))
            there = {each.key for each in self._store.list()}
            for image_id in known - there:
                cached.forget(connection, self.node, image_id)
        for key in there - known - coming:
            self._delete(key)

    def _delete(self, key: str) -> None:
        try:
            self._store.delete(key)
        except NotFound:
            pass
        except StorageError as error:
            _log.warning("cannot be taken out of the cache: %s", error)


class Filling:
    """A thread that fetches what the cache is to have; from `start` to `stop`."""

    def __init__(self, cache: Cache, database: Database, presenter: Presenter) -> None:
        self._cache = cache
        self._database = database
        self._presenter = presenter
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cache", daemon=True)

    def start(self) -> None:
        """Begin, with what was left behind."""
        self._cache.clean()
        self._cache.prune()
        self._thread.start()

    def stop(self) -> None:
        """End: what is being fetched is fetched by the next process of this name."""
        self._stopped.set()
        self._cache.bell.set()
        self._thread.join(_PAUSE_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._cache.bell.clear()
            try:
                self._all()
            except StorageError as error:
                _log.warning("the cache must wait: %s", error)
                self._stopped.wait(_PAUSE_SECONDS)
            except Exception:
                _log.exception("the cache failed")
                self._stopped.wait(_PAUSE_SECONDS)
            self._cache.bell.wait(_EVERY_SECONDS)

    def _all(self) -> None:
        with self._database.read() as connection:
            waiting = cached.queued(connection, self._cache.node)
        silent: StoreUnreachable | None = None
        for image_id in waiting:
            if self._stopped.is_set():
                return
            try:
                self._fetch(image_id)
            except StoreUnreachable as error:
                silent = error  # other stores may answer
        if silent is not None:
            raise silent

    def _fetch(self, image_id: str) -> None:
        with self._database.read() as connection:
            record = images.find(connection, image_id)
        done = False
        if record is not None and record.status == "active":
            try:
                with self._presenter.far(record) as source:
                    done = self._cache.put(record, source, self._stopped)
            except (DatabaseGone, StoreUnreachable):
                raise
            except HTTPError as error:
                if isinstance(error.__cause__, StoreUnreachable):
                    raise error.__cause__ from None
                _log.warning("not cached: %s", error, extra={"image": image_id})
            except StorageError as error:
                _log.warning("not cached: %s", error, extra={"image": image_id})
        if done:
            # What is kept of it reads from its store.
            self._presenter.forget(image_id)
        if not done and not self._stopped.is_set():
            with self._database.begin() as connection:
                cached.forget(connection, self._cache.node, image_id, "queued")
