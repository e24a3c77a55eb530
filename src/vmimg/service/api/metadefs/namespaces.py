"""Namespaces of metadata definitions: made with their contents, listed, shown, changed, deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from sqlalchemy import Table
from starlette.responses import JSONResponse, Response

from vmimg.service.api.metadefs.finding import (
    missing,
    namespace_for,
    own,
    permit,
    protect,
    target_of,
    unique,
)
from vmimg.service.api.metadefs.reading import (
    NAMESPACE,
    body_of,
    nested_in_namespace,
    object_of,
    properties_of,
)
from vmimg.service.api.metadefs.showing import (
    namespace_path,
    namespace_shown,
    object_shown,
    with_prefix,
)
from vmimg.service.api.metadefs.sorting import Order, visibility_of
from vmimg.service.catalogue.metadefs import associations, contents, namespaces
from vmimg.service.catalogue.metadefs.namespaces import Exists, Wanted
from vmimg.service.http.errors import bad_request, conflict
from vmimg.service.http.operation import JSON, Call, Operation, Parameter

__all__ = ["OPERATIONS"]

_PATH: Final = "/v2/metadefs/namespaces"
_SCALARS: Final = ("display_name", "description", "visibility", "protected", "owner")
_NESTED: Final = {
    "resource_type_associations": "add_metadef_resource_type_association",
    "objects": "add_metadef_object",
    "properties": "add_metadef_property",
    "tags": "add_metadef_tag",
}


def create(call: Call) -> Response:
    """A new namespace, with what is in it: all of it, or nothing."""
    said = body_of(call, NAMESPACE, links=True)
    permit(call, "add_metadef_namespace", own(call))
    for key, rule in _NESTED.items():
        if said.get(key):
            permit(call, rule, own(call))
    name = _addressable(said["namespace"])
    links = nested_in_namespace(
        said.get("resource_type_associations", ()),
        *("resource type", "name", "prefix", "properties_target"),
    )
    properties = properties_of(said.get("properties", {}))
    objects = [object_of(given, nested=True) for given in said.get("objects", ())]
    tags = nested_in_namespace(said.get("tags", ()), "tag", "name")
    values = {"owner": call.caller.project} | {key: said[key] for key in _SCALARS if key in said}
    with call.service.database.begin() as connection:
        try:
            record = namespaces.create(connection, name, **values)
        except Exists:
            raise conflict(f"The metadata definition namespace={name} already exists.") from None
        with unique("resource-type association", name):
            rows = [(a["name"], a.get("prefix"), a.get("properties_target")) for a in links]
            associations.add(connection, record.id, rows)
        with unique("property", name):
            contents.add(connection, contents.PROPERTIES, record.id, properties.items())
        with unique("object", name):
            contents.add(connection, contents.OBJECTS, record.id, objects)
        with unique("tag", name):
            contents.add(connection, contents.TAGS, record.id, [(t["name"], {}) for t in tags])
    shown = namespace_shown(record)
    nested = {
        "resource_type_associations": links,
        "properties": properties,
        "objects": [{"name": name, **definition} for name, definition in objects],
        "tags": tags,
    }
    shown |= {key: nested[key] for key in nested if key in said}
    location = call.base_url() + quote(namespace_path(record.namespace), safe="/:")
    return JSONResponse(shown, 201, headers={"location": location})


def listing(call: Call) -> Response:
    """Namespaces, a page at a time."""
    permit(call, "get_metadef_namespaces", own(call))
    permit(call, "list_metadef_resource_types", own(call))
    limits = call.service.settings.limits
    query = dict(call.query)
    order = Order.of(query, namespaces.SORT_KEYS)
    limit = min(order.limit if order.limit is not None else limits.list_default, limits.list_max)
    types = query.get("resource_types")
    wanted = Wanted(
        project=call.caller.project,
        everything=call.caller.is_admin,
        visibility=visibility_of(query, "public", "private"),
        resource_types=_listed(types) if types is not None else None,
        sort_key=order.key,
        descending=order.descending,
        limit=limit,
    )
    with call.service.database.read() as connection:
        if order.marker is not None:
            after = namespaces.find(connection, order.marker)
            if after is None or not call.allows("get_metadef_namespace", target_of(after)):
                raise missing(order.marker)
            wanted = replace(wanted, after=after)
        found = namespaces.page(connection, wanted)
        linked = associations.of_all(connection, [record.id for record in found])
    seen = [record for record in found if call.allows("get_metadef_namespace", target_of(record))]
    query.pop("marker", None)
    answer: dict[str, Any] = {
        "namespaces": [namespace_shown(record, linked[record.id]) for record in seen],
        "first": f"{_PATH}?{urlencode(query)}" if query else _PATH,
        "schema": "/v2/schemas/metadefs/namespaces",
    }
    if found and len(found) == limit:
        answer["next"] = f"{_PATH}?{urlencode(query | {'marker': found[-1].namespace})}"
    return JSONResponse(answer)


def show(call: Call) -> Response:
    """A namespace with all that is in it."""
    with call.service.database.read() as connection:
        record = namespace_for(
            call,
            connection,
            *("get_metadef_namespace", "list_metadef_resource_types", "get_metadef_objects"),
            *("get_metadef_properties", "get_metadef_tags"),
        )
        linked = associations.every(connection, record.id)
        properties = contents.every(connection, contents.PROPERTIES, record.id)
        objects = contents.every(connection, contents.OBJECTS, record.id)
        tags = contents.page(connection, contents.TAGS, record.id)
    shown = namespace_shown(record, linked)
    if properties:
        shown["properties"] = {content.name: content.definition for content in properties}
    if objects:
        shown["objects"] = [object_shown(record.namespace, content) for content in objects]
    if tags:
        shown["tags"] = [{"name": content.name} for content in tags]
    wanted = dict(call.query).get("resource_type")
    prefix = next((link.prefix for link in linked if link.name == wanted), None)
    return JSONResponse(with_prefix(shown, prefix) if prefix else shown)


def change(call: Call) -> Response:
    """Other values for the namespace; what is not given is as in a new one."""
    said = body_of(call, NAMESPACE, links=True)
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "modify_metadef_namespace", lock=True)
        name = said["namespace"]
        if name != record.namespace:
            _addressable(name)
        try:
            changed = namespaces.change(
                connection,
                record,
                namespace=name,
                display_name=said.get("display_name"),
                description=said.get("description"),
                visibility=said.get("visibility", "private"),
                protected=said.get("protected", False),
                # As Glance does it: who changes it without naming an owner becomes the owner.
                owner=said.get("owner") or call.caller.project or record.owner,
            )
        except Exists:
            raise conflict(
                f"Invalid update. It would result in a duplicate metadata definition namespace "
                f"with the same name of {name}"
            ) from None
    return JSONResponse(namespace_shown(changed))


def remove(call: Call) -> Response:
    """Delete the namespace and all that is in it."""
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "delete_metadef_namespace", lock=True)
        protect(record, "namespace", record.namespace)
        namespaces.remove(connection, record)
    return Response(status_code=204)


def remove_properties(call: Call) -> Response:
    """Delete all properties of the namespace."""
    return _clear(call, contents.PROPERTIES, "delete_metadef_namespace")


def remove_objects(call: Call) -> Response:
    """Delete all objects of the namespace."""
    return _clear(call, contents.OBJECTS, "delete_metadef_namespace")


def remove_tags(call: Call) -> Response:
    """Delete all tags of the namespace."""
    return _clear(call, contents.TAGS, "delete_metadef_namespace", "delete_metadef_tags")


def _clear(call: Call, kind: Table, *rules: str) -> Response:
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, *rules, lock=True)
        protect(record, "namespace", record.namespace)
        contents.clear(connection, kind, record.id)
    return Response(status_code=204)


def _listed(types: str) -> list[str]:
    return list(dict.fromkeys(types.replace("\0", "").split(",")))


def _addressable(name: str) -> str:
    # Glance takes them, and then nobody can show, change or delete what they name.
    if not name or "/" in name:
        raise bad_request("The name of a namespace is part of a path: not empty, and without '/'.")
    return name


_LIST_PARAMETERS = (
    Parameter("limit", "How many, at most", type="integer"),
    Parameter("marker", "The name of the last one of the page before"),
    Parameter("sort_key", "What they are sorted by"),
    Parameter("sort_dir", "asc or desc"),
    Parameter("visibility", "public or private ones only"),
    Parameter("resource_types", "Only those for one of these types, between commas"),
)
_ONE = f"{_PATH}/{{namespace}}"
_GONE = {204: "deleted", 403: "protected, or not allowed", 404: "there is none"}

OPERATIONS = (
    Operation(
        "POST", _PATH, create, "Make a namespace of metadata definitions",
        {201: "made", 400: "no such body", 403: "not allowed", 409: "there is one of this name"},
        body="metadefs/namespace", answer="metadefs/namespace", media=(JSON,),
    ),
    Operation(
        "GET", _PATH, listing, "List namespaces of metadata definitions",
        {200: "a page", 400: "no such query", 404: "there is no such marker"},
        answer="metadefs/namespaces", parameters=_LIST_PARAMETERS, ignores_body=True,
    ),
    Operation(
        "GET", _ONE, show, "Show a namespace of metadata definitions",
        {200: "the namespace, with all that is in it", 404: "there is none"},
        answer="metadefs/namespace",
        parameters=(Parameter("resource_type", "Names of properties as this type has them"),),
    ),
    Operation(
        "PUT", _ONE, change, "Change a namespace of metadata definitions",
        {200: "changed", 400: "no such body", 403: "not allowed", 404: "there is none",
         409: "there is another one of this name"},
        body="metadefs/namespace", answer="metadefs/namespace", media=(JSON,),
    ),
    Operation("DELETE", _ONE, remove, "Delete a namespace of metadata definitions", _GONE),
    Operation("DELETE", f"{_ONE}/properties", remove_properties, "Delete its properties", _GONE),
    Operation("DELETE", f"{_ONE}/objects", remove_objects, "Delete its objects", _GONE),
    Operation("DELETE", f"{_ONE}/tags", remove_tags, "Delete its tags", _GONE),
)  # fmt: skip
