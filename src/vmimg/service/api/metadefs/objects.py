"""Objects of a namespace: properties that belong together."""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.metadefs.finding import content_for, namespace_for, protect, unique
from vmimg.service.api.metadefs.reading import OBJECT, body_of, object_of
from vmimg.service.api.metadefs.showing import object_shown
from vmimg.service.api.metadefs.sorting import Order, visibility_of
from vmimg.service.catalogue.metadefs import contents
from vmimg.service.catalogue.metadefs.contents import OBJECTS, Content
from vmimg.service.http.operation import JSON, Call, Operation

__all__ = ["OPERATIONS"]


def create(call: Call) -> Response:
    """A new object."""
    name, definition = object_of(body_of(call, OBJECT, links=True))
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "add_metadef_object", lock=True)
        with unique("object", record.namespace):
            time = contents.add(connection, OBJECTS, record.id, [(name, definition)])
    made = Content(0, name, time, time, definition)
    return JSONResponse(object_shown(record.namespace, made, complete=False), 201)


def listing(call: Call) -> Response:
    """All objects of the namespace.

    There are no pages of them, nor another order: Glance looks at such a query, and does not
    follow it.
    """
    query = dict(call.query)
    Order.of(query, (query.get("sort_key", "created_at"),), lowest=1)
    visibility_of(query, "public", "private", "shared")
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, "get_metadef_objects", "get_metadef_object")
        found = contents.every(connection, OBJECTS, record.id)
    return JSONResponse(
        {
            "objects": [object_shown(record.namespace, content) for content in found],
            # Without the slash that other links begin with, as Glance has it.
            "schema": "v2/schemas/metadefs/objects",
        }
    )


def show(call: Call) -> Response:
    """An object."""
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, "get_metadef_object")
        found = content_for(connection, OBJECTS, record, call.path["object_name"])
    return JSONResponse(object_shown(record.namespace, found))


def change(call: Call) -> Response:
    """Another definition in place of the object's, with the same name or another."""
    name, definition = object_of(body_of(call, OBJECT, links=True))
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "modify_metadef_object", lock=True)
        found = content_for(connection, OBJECTS, record, call.path["object_name"])
        with unique("object", record.namespace):
            changed = contents.change(connection, OBJECTS, found, name, definition)
    return JSONResponse(object_shown(record.namespace, changed, complete=False))


def remove(call: Call) -> Response:
    """Delete the object."""
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "delete_metadef_object", lock=True)
        found = content_for(connection, OBJECTS, record, call.path["object_name"])
        protect(record, "object", found.name)
        contents.remove(connection, OBJECTS, found)
    return Response(status_code=204)


_ALL: Final = "/v2/metadefs/namespaces/{namespace}/objects"
_ONE: Final = f"{_ALL}/{{object_name}}"

OPERATIONS = (
    Operation(
        "POST", _ALL, create, "Make an object in a namespace",
        {201: "made", 400: "no such body", 403: "not allowed", 404: "there is no such namespace",
         409: "there is one of this name"},
        body="metadefs/object", answer="metadefs/object", media=(JSON,),
    ),
    Operation(
        "GET", _ALL, listing, "List the objects of a namespace",
        {200: "all of them", 400: "no such query", 404: "there is no such namespace"},
        answer="metadefs/objects", ignores_body=True,
    ),
    Operation(
        "GET", _ONE, show, "Show an object of a namespace",
        {200: "the object", 404: "there is none"}, answer="metadefs/object",
    ),
    Operation(
        "PUT", _ONE, change, "Change an object of a namespace",
        {200: "changed", 400: "no such body", 403: "not allowed", 404: "there is none",
         409: "there is another one of this name"},
        body="metadefs/object", answer="metadefs/object", media=(JSON,),
    ),
    Operation(
        "DELETE", _ONE, remove, "Delete an object of a namespace",
        {204: "deleted", 403: "protected, or not allowed", 404: "there is none"},
    ),
)  # fmt: skip
