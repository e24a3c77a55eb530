"""One module for each resource of the Image API; each has its OPERATIONS."""

from __future__ import annotations

from vmimg.service.api import (
    actions,
    cache,
    data,
    health,
    images,
    importing,
    locations,
    members,
    metadefs,
    openapi,
    schemas,
    stores,
    tags,
    tasks,
    usage,
    versions,
)
from vmimg.service.http.operation import Operation

__all__ = ["OPERATIONS"]

_RESOURCES: tuple[Operation, ...] = (
    *versions.OPERATIONS,
    *images.OPERATIONS,
    *members.OPERATIONS,
    *tags.OPERATIONS,
    *actions.OPERATIONS,
    *usage.OPERATIONS,
    *schemas.OPERATIONS,
    *data.OPERATIONS,
    *importing.OPERATIONS,
    *stores.OPERATIONS,
    *cache.OPERATIONS,
    *locations.OPERATIONS,
    *tasks.OPERATIONS,
    *health.OPERATIONS,
    *metadefs.OPERATIONS,
)
OPERATIONS: tuple[Operation, ...] = (*_RESOURCES, *openapi.operations(_RESOURCES))
"""The whole API: routes and the OpenAPI document are made from these rows."""
