"""Deleting bytes: what the journal says is to go, goes; now, or when its store answers again."""

from __future__ import annotations

import logging

from vmimg.errors import StorageError
from vmimg.service.catalogue import deletion, images, journal
from vmimg.service.catalogue.database import DatabaseGone
from vmimg.service.service import Service
from vmimg.service.stores.base import NotFound, StoreUnreachable

__all__ = ["discard", "purge", "recover"]

_log = logging.getLogger(__name__)


def discard(service: Service, image_id: str) -> None:
    """Delete the image's bytes that wait for it; what cannot be deleted now goes on waiting."""
    service.presenter.forget(image_id)
    try:
        with service.database.read() as connection:
            waiting = journal.deleting(connection, image_id)
        for entry in waiting:
            _delete(service, entry)
    except DatabaseGone as error:
        _log.warning("bytes are deleted later: %s", error, extra={"image": image_id})


def purge(service: Service) -> None:
    """Delete what was kept of deleted images, of those whose time is over."""
    with service.database.read() as connection:
        over = deletion.overdue(connection, service.settings.catalogue.keep_deleted_seconds)
    for image_id in over:
        with service.database.begin() as connection:
            deletion.purge(connection, image_id)


def recover(service: Service, *, starting: bool = False) -> None:
    """Bring to an end what a process that fell silent left behind; one that is ``starting`` knows
    that nobody else is at work under its name.

    Uploads that were cut off leave their images ``queued``, as if nothing had come. Of its own, a
    process that runs gives up what it noted and does not write any more: it had no database to say
    so when that ended.
    """
    busy = frozenset() if starting else frozenset(service.writing)
    with service.database.read() as connection:
        left = journal.abandoned(connection, service.node)
    silent: set[str] = set()
    for entry in left:
        if entry.purpose == journal.WRITING:
            if entry.node == service.node and (entry.key in busy or entry.key in service.writing):
                continue
            with service.database.begin() as connection:
                images.find(connection, entry.image_id, lock=True)
                if not journal.give_up(connection, entry.store, entry.key):
                    continue
                images.transition(
                    connection, entry.image_id, ("saving", "uploading"), "queued", size=None
                )
        if entry.store not in silent and not _delete(service, entry):
            silent.add(entry.store)


def _delete(service: Service, entry: journal.Entry) -> bool:
    """Whether the store could be asked."""
    store = service.store(entry.store)
    if store is None:
        _log.warning("no store is called %s any more: %s stays there", entry.store, entry.key)
        return False
    try:
        store.delete(entry.key)
    except NotFound:
        pass
    except StorageError as error:
        _log.warning("%s of store %s cannot be deleted yet: %s", entry.key, entry.store, error)
        return not isinstance(error, StoreUnreachable)
    with service.database.begin() as connection:
        journal.close(connection, entry.store, entry.key)
    return True
