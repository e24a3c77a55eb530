"""Metadata definitions as the API shows them. Imports the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from vmimg.service.api.showing import stamp
from vmimg.service.catalogue.metadefs.associations import Association
from vmimg.service.catalogue.metadefs.contents import Content
from vmimg.service.catalogue.metadefs.namespaces import NamespaceRecord

__all__ = [
    *("association_shown", "namespace_path", "namespace_shown", "object_shown", "stamps"),
    *("tag_shown", "with_prefix"),
]


def namespace_path(name: str) -> str:
    """Where the namespace is."""
    return f"/v2/metadefs/namespaces/{name}"


def stamps(created: datetime, updated: datetime) -> dict[str, str]:
    """When it was made and last changed."""
    return {"created_at": stamp(created), "updated_at": stamp(updated)}


def namespace_shown(
    record: NamespaceRecord, associations: Iterable[Association] = ()
) -> dict[str, Any]:
    """A namespace, without what is in it."""
    shown = {
        "namespace": record.namespace,
        "display_name": record.display_name,
        "description": record.description,
        "visibility": record.visibility,
        "protected": record.protected,
        "owner": record.owner,
        **stamps(record.created_at, record.updated_at),
        "resource_type_associations": [association_shown(a) for a in associations] or None,
        "self": namespace_path(record.namespace),
        "schema": "/v2/schemas/metadefs/namespace",
    }
    return {key: value for key, value in shown.items() if value is not None}


def association_shown(association: Association) -> dict[str, Any]:
    """A namespace's association with a resource type."""
    shown = {
        "name": association.name,
        "prefix": association.prefix,
        "properties_target": association.properties_target,
        **stamps(association.created_at, association.updated_at),
    }
    return {key: value for key, value in shown.items() if value is not None}


def object_shown(namespace: str, content: Content, *, complete: bool = True) -> dict[str, Any]:
    """An object; not ``complete``: only what was given, as answers to a POST or a PUT have it."""
    empty: dict[str, Any] = {"required": [], "properties": {}} if complete else {}
    return {
        "name": content.name,
        **empty,
        **content.definition,
        **stamps(content.created_at, content.updated_at),
        "self": f"{namespace_path(namespace)}/objects/{content.name}",
        "schema": "/v2/schemas/metadefs/object",
    }


def tag_shown(content: Content) -> dict[str, Any]:
    """A tag."""
    return {"name": content.name, **stamps(content.created_at, content.updated_at)}


def with_prefix(shown: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A namespace or an object, its properties' names as a type of resource has them."""
    changed = dict(shown)
    properties: Mapping[str, Any] | None = shown.get("properties")
    if properties is not None:
        changed["properties"] = {prefix + name: properties[name] for name in properties}
    if shown.get("required"):
        changed["required"] = [prefix + name for name in shown["required"]]
    if "objects" in shown:
        changed["objects"] = [with_prefix(given, prefix) for given in shown["objects"]]
    return changed
