"""Metadata definitions: which properties resources can have, and what may stand in them.

    namespaces      groups of definitions, each for some types of resources
    properties      what a namespace defines
    objects         properties of a namespace that belong together
    tags            words that a namespace offers
    resource_types  what namespaces are for
    schemas         JSON schemas of all of these
    reading         bodies of requests, checked
    sorting         what queries of listings say
    finding         namespaces, if the caller may know of them
    showing         records as JSON

https://docs.openstack.org/api-ref/image/v2/metadefs-index.html. Answers are Glance 33's, but for
requests that it answers with 500, which get 400 or 409 here.
"""

from __future__ import annotations

from vmimg.service.api.metadefs import (
    namespaces,
    objects,
    properties,
    resource_types,
    schemas,
    tags,
)
from vmimg.service.http.operation import Operation

__all__ = ["OPERATIONS"]

OPERATIONS: tuple[Operation, ...] = (
    *namespaces.OPERATIONS,
    *properties.OPERATIONS,
    *objects.OPERATIONS,
    *tags.OPERATIONS,
    *resource_types.OPERATIONS,
    *schemas.OPERATIONS,
)
