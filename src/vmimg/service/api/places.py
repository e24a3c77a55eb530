"""Where an image's bytes are, as addresses: the API's locations. Imports the catalogue."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from vmimg.service.catalogue.images import ImageRecord, Location
from vmimg.service.service import Service

__all__ = ["place_of", "told"]


def told(service: Service, record: ImageRecord) -> list[dict[str, Any]]:
    """The image's locations, as the API tells them."""
    return [_told(service, location) for location in record.locations]


def _told(service: Service, location: Location) -> dict[str, Any]:
    store = service.stores.get(location.store or "")
    if store is not None and location.key is not None:
        url = store.location(location.key)
    else:
        url = location.url or ""
    metadata = dict(location.metadata)
    if location.store:
        metadata["store"] = location.store
    return {"url": url, "metadata": metadata}


def place_of(service: Service, url: str) -> tuple[str, str] | None:
    """The store and the key that an address means; None for one that is not of a store."""
    key = urlsplit(url).path.rpartition("/")[2]
    for name, store in service.stores.items():
        try:
            if store.location(key) == url:
                return name, key
        except ValueError:
            continue
    return None
