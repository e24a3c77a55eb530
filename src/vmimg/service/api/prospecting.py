"""What lies at addresses that a patch wants to give an image: looked at before anything changes.

Size, what it is, and whether it may be an image: all that can be known without reading it whole.
It is done outside of a transaction, and within a minute. Imports stores and data.judging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vmimg.errors import StorageError
from vmimg.service.api.places import address_of
from vmimg.service.catalogue.images import ImageRecord, Location
from vmimg.service.data.judging import Judgement
from vmimg.service.http.errors import HTTPError, bad_request
from vmimg.service.service import Service
from vmimg.service.stores.base import NotFound, StoreUnreachable, Unusable
from vmimg.service.stores.web import WebStore
from vmimg.storage.base import Storage

__all__ = ["INVALID", "Found", "look"]

INVALID: Final = "Invalid location"
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """What lies there: ``size`` in bytes; ``version`` by which it is known again, where it is
    somebody else's.
    """

    size: int
    version: str | None
    judgement: Judgement


def look(
    service: Service, record: ImageRecord, locations: Iterable[Location]
) -> Mapping[str, Found]:
    """What lies at ``locations`` that are to be those of ``record``, by address.

    Raises HTTPError: 400 for what cannot be read, or is not of the image's size; 413 above the
    limit; 415 where it may not become an image.
    """
    found: dict[str, Found] = {}
    limit = service.settings.limits.image_size
    size = record.size
    for location in locations:
        address = address_of(service, location)
        if address in found:
            continue
        try:
            with _opened(service, location) as storage:
                if not storage.size:
                    raise bad_request(INVALID)
                if limit and storage.size > limit:
                    raise HTTPError(413, f"The image is larger than the limit of {limit} bytes.")
                size = size or storage.size
                if storage.size != size:
                    raise bad_request(
                        f"{INVALID}: there are {storage.size} bytes, and the image has {size}"
                    )
                judgement = service.judge(record).judge(storage)
                version = getattr(storage, "version", None)
                said = None if version is None else str(version)
                found[address] = Found(storage.size, said, judgement)
        except (NotFound, Unusable, StoreUnreachable) as error:
            raise bad_request(f"{INVALID}: {error}") from error
        except StorageError as error:
            raise bad_request(INVALID) from error
    return found


def _opened(service: Service, location: Location) -> Storage:
    store = service.stores[location.store or ""]
    if isinstance(store, WebStore):
        return store.opened(location.url or "", within=_SECONDS)
    return store.open(location.key or "")
