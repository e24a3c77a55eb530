"""Where an image's bytes are, as addresses: the API's locations. Imports the catalogue, stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmimg.errors import UnsafeImage
from vmimg.service.api.fields import RESERVED_PREFIX
from vmimg.service.catalogue.images import ImageRecord, Location
from vmimg.service.service import Service
from vmimg.service.stores.web import WebStore

__all__ = ["Place", "address_of", "place_of", "told"]


@dataclass(frozen=True, slots=True)
class Place:
    """What an address means: a ``key`` in a store, or, of a store of web addresses, a ``url``."""

    store: str
    key: str | None = None
    url: str | None = None


def told(service: Service, record: ImageRecord) -> list[dict[str, Any]]:
    """The image's locations, as the API tells them."""
    return [_told(service, location) for location in record.locations]


def _told(service: Service, location: Location) -> dict[str, Any]:
    metadata = {
        name: value
        for name, value in location.metadata.items()
        if not name.startswith(RESERVED_PREFIX)
    }
    if location.store:
        metadata["store"] = location.store
    return {"url": address_of(service, location), "metadata": metadata}


def address_of(service: Service, location: Location) -> str:
    """The address of a location."""
    store = service.stores.get(location.store or "")
    if store is not None and location.key is not None:
        return store.location(location.key)
    return location.url or ""


def place_of(service: Service, url: str) -> Place | None:
    """What an address means; None for one that is not of a store, or may not be asked."""
    key = url.rpartition("/")[2]
    for name, store in service.stores.items():
        try:
            if isinstance(store, WebStore):
                if store.has(url):
                    store.check(url)
                    return Place(name, url=url)
            elif store.location(key) == url:
                return Place(name, key)
        except (ValueError, UnsafeImage):
            continue
    return None
