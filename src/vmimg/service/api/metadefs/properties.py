"""Properties of a namespace: what may stand under a name."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.metadefs.finding import content_for, namespace_for, protect, unique
from vmimg.service.api.metadefs.reading import PROPERTY, body_of, property_of
from vmimg.service.catalogue.metadefs import associations, contents
from vmimg.service.catalogue.metadefs.contents import PROPERTIES, Content
from vmimg.service.http.errors import not_found
from vmimg.service.http.operation import JSON, Call, Operation, Parameter

__all__ = ["OPERATIONS"]


def create(call: Call) -> Response:
    """A new property."""
    said = body_of(call, PROPERTY)
    name, definition = said["name"], property_of(said, said["name"])
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "add_metadef_property", lock=True)
        with unique("property", record.namespace):
            contents.add(connection, PROPERTIES, record.id, [(name, definition)])
    return JSONResponse(definition, 201)


def listing(call: Call) -> Response:
    """All properties of the namespace, by name."""
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, "get_metadef_properties")
        found = contents.every(connection, PROPERTIES, record.id)
    return JSONResponse({"properties": {content.name: content.definition for content in found}})


def show(call: Call) -> Response:
    """A property; with ``?resource_type=``, under the name that it has on resources of the type."""
    name = call.path["property_name"]
    wanted = dict(call.query).get("resource_type")
    rules = ["get_metadef_property", *(["get_metadef_resource_type"] if wanted else [])]
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, *rules)
        if wanted:
            linked = associations.every(connection, record.id)
            association = next((link for link in linked if link.name == wanted), None)
            if association is None:
                raise not_found(f"The namespace is not for the resource type {wanted}.")
            prefix = association.prefix
            if not prefix or not name.startswith(prefix):
                raise not_found(
                    f"Property {name} does not start with the expected resource type association "
                    f"prefix of '{prefix}'."
                )
            name = name.removeprefix(prefix)
        found = content_for(connection, PROPERTIES, record, name)
    return JSONResponse(_shown(found))


def change(call: Call) -> Response:
    """Another definition in place of the property's, with the same name or another."""
    said = body_of(call, PROPERTY)
    definition = property_of(said, said["name"])
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "modify_metadef_property", lock=True)
        found = content_for(connection, PROPERTIES, record, call.path["property_name"])
        with unique("property", record.namespace):
            changed = contents.change(connection, PROPERTIES, found, said["name"], definition)
    return JSONResponse(_shown(changed))


def remove(call: Call) -> Response:
    """Delete the property."""
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "remove_metadef_property", lock=True)
        found = content_for(connection, PROPERTIES, record, call.path["property_name"])
        protect(record, "property", found.name)
        contents.remove(connection, PROPERTIES, found)
    return Response(status_code=204)


def _shown(content: Content) -> dict[str, Any]:
    return {**content.definition, "name": content.name}


_ALL: Final = "/v2/metadefs/namespaces/{namespace}/properties"
_ONE: Final = f"{_ALL}/{{property_name}}"

OPERATIONS = (
    Operation(
        "POST", _ALL, create, "Make a property in a namespace",
        {201: "made", 400: "no such body", 403: "not allowed", 404: "there is no such namespace",
         409: "there is one of this name"},
        body="metadefs/property", answer="metadefs/property", media=(JSON,),
    ),
    Operation(
        "GET", _ALL, listing, "List the properties of a namespace",
        {200: "all of them, by name", 404: "there is no such namespace"},
        answer="metadefs/properties",
    ),
    Operation(
        "GET", _ONE, show, "Show a property of a namespace",
        {200: "the property", 404: "there is none"},
        answer="metadefs/property", ignores_body=True,
        parameters=(Parameter("resource_type", "The name in the path has this type's prefix"),),
    ),
    Operation(
        "PUT", _ONE, change, "Change a property of a namespace",
        {200: "changed", 400: "no such body", 403: "not allowed", 404: "there is none",
         409: "there is another one of this name"},
        body="metadefs/property", answer="metadefs/property", media=(JSON,),
    ),
    Operation(
        "DELETE", _ONE, remove, "Delete a property of a namespace",
        {204: "deleted", 403: "protected, or not allowed", 404: "there is none"},
    ),
)  # fmt: skip
