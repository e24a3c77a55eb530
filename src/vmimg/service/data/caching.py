"""Images kept near: whole copies in a directory of this process, of what lies far away.

An image gets there when an administrator asks for it; those that were not used for the longest time
go when there are more bytes than the settings allow. A file is there before its row says so, and
goes after it, so that what a kill leaves is found at the start. Imports the catalogue and stores.
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
from vmimg.service.stores.base import NotFound, StoreUnreachable
from vmimg.service.stores.file import FileStore
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.service.data.presenting import Presenter

__all__ = ["Cache", "Filling"]

_log: Final = logging.getLogger("vmimg.service")
_EVERY_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 5.0


class Cache:
    """At most ``most`` bytes in ``store``, which is nobody else's; ``node``: whose it is."""

    def __init__(self, database: Database, store: FileStore, node: str, most: int) -> None:
        self.node = node
        self.most = most
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
                cached.hit(connection, self.node, record.id)
        except DatabaseGone:
            pass  # a hit that is not counted
        return storage

    def put(self, record: ImageRecord, source: Storage, stopped: threading.Event) -> bool:
        """Copy the image here, unless it is too large or not what it was, or the service stops."""
        if source.size > self.most:
            _log.warning("an image is larger than the cache", extra={"image": record.id})
            return False
        digest = hashlib.new(record.os_hash_algo) if record.os_hash_algo else None
        self._delete(record.id)
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
            kept = cached.keep(connection, self.node, record.id, source.size, record.checksum)
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

    def prune(self) -> tuple[int, int]:
        """Remove what was not used for the longest time, where there is too much; how many, and
        how many bytes.
        """
        with self._database.begin() as connection:
            there = cached.cached(connection, self.node)
            too_much = sum(each.size for each in there) - self.most
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
        for image_id in waiting:
            if self._stopped.is_set():
                return
            self._fetch(image_id)
        if waiting:
            self._cache.prune()

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
            except StorageError as error:
                _log.warning("not cached: %s", error, extra={"image": image_id})
        if not done and not self._stopped.is_set():
            with self._database.begin() as connection:
                cached.forget(connection, self._cache.node, image_id, "queued")
