"""One image's bytes on their way to a store, and what the catalogue says meanwhile.

    reserve   a key in a store, noted in the journal, before a byte is written
    settle    the bytes are the image's, in one transaction with its new state
    abandon   they are nobody's: the image is as it was before, the bytes go

Uploads and imports are made of these. Imports the catalogue and data.removal.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection

from vmimg.errors import StorageError
from vmimg.service import quota
from vmimg.service.catalogue import images, journal
from vmimg.service.data.arriving import Arrived
from vmimg.service.data.judging import Judgement
from vmimg.service.data.removal import discard
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service

__all__ = ["abandon", "reserve", "settle", "writing"]

_log: Final = logging.getLogger("vmimg.service")
_TAKEN: Final = "The transfer was given up: the service had no connection to its database."


def reserve(
    connection: Connection, service: Service, image_id: str, store: str, key: str | None = None
) -> str:
    """A key for bytes of the image in ``store``; whoever gets it settles or abandons it.

    Raises HTTPError 410 for a store that takes none.
    """
    where = service.store(store)
    if where is not None and where.read_only:
        raise HTTPError(410, f"Store {store} is read-only.")
    key = key or str(uuid.uuid4())
    service.writing.add(key)
    journal.open(connection, journal.Entry(store, key, image_id, journal.WRITING, service.node))
    return key


def settle(
    service: Service,
    image_id: str,
    store: str,
    key: str,
    came: Arrived,
    judgement: Judgement,
    before: Sequence[str] = ("saving",),
) -> None:
    """The image is active, with these bytes.

    Properties that its owner set stay. Raises HTTPError 410 where it was deleted meanwhile.
    """
    allowed = quota.of_owner(service, image_id, kept=True)
    with service.database.begin() as connection:
        record = images.find(connection, image_id, lock=True)
        done = record is not None and images.transition(
            connection, image_id, before, "active",
            size=came.size, virtual_size=judgement.virtual_size, checksum=came.checksum,
            os_hash_algo=came.hash_algorithm, os_hash_value=came.hash_value, message=None,
        )  # fmt: skip
        if not done or record is None:
            raise HTTPError(410, f"Image {image_id} was deleted while its data came.")
        images.add_properties(connection, image_id, judgement.properties)
        quota.check_size(allowed, connection, record.owner, came.size)
        images.add_location(connection, image_id, store, key)
        if not journal.settle(connection, store, key):
            raise HTTPError(503, _TAKEN)
    service.writing.discard(key)


def abandon(
    service: Service,
    image_id: str,
    store: str,
    key: str,
    message: str | None = None,
    before: Sequence[str] = ("saving",),
    after: str = "queued",
) -> None:
    """The bytes are to go; the image is ``after`` again, with a ``message`` why.

    What the database does not take now is done by `removal.recover` when it answers again.
    """
    try:
        with service.database.begin() as connection:
            images.find(connection, image_id, lock=True)
            if journal.give_up(connection, store, key):
                images.transition(connection, image_id, before, after, size=None, message=message)
        discard(service, image_id)
    except StorageError as error:
        _log.warning("what came for an image goes later: %s", error, extra={"image": image_id})
    finally:
        service.writing.discard(key)


@contextmanager
def writing(service: Service, image_id: str, store: str) -> Iterator[str]:
    """A key for what a task writes in the block; where that raises, the bytes are to go."""
    key = str(uuid.uuid4())
    try:
        with service.database.begin() as connection:
            reserve(connection, service, image_id, store, key)
        yield key
    except BaseException:
        abandon(service, image_id, store, key, before=())
        raise
    finally:
        service.writing.discard(key)
