"""Resource types, and which namespaces are for which of them."""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.metadefs.finding import namespace_for, own, permit, protect, unique
from vmimg.service.api.metadefs.reading import RESOURCE_TYPE, body_of
from vmimg.service.api.metadefs.showing import association_shown, stamps
from vmimg.service.catalogue.metadefs import associations
from vmimg.service.catalogue.metadefs.associations import Association
from vmimg.service.http.errors import not_found
from vmimg.service.http.operation import JSON, Call, Operation

__all__ = ["OPERATIONS"]


def listing(call: Call) -> Response:
    """All resource types that a namespace was ever for."""
    permit(call, "list_metadef_resource_types", own(call))
    with call.service.database.read() as connection:
        found = associations.types(connection)
    shown = [{"name": kind.name, **stamps(kind.created_at, kind.updated_at)} for kind in found]
    return JSONResponse({"resource_types": shown})


def of_namespace(call: Call) -> Response:
    """The resource types that the namespace is for."""
    with call.service.database.read() as connection:
        rules = ("list_metadef_resource_types", "get_metadef_resource_type")
        record = namespace_for(call, connection, *rules)
        found = associations.every(connection, record.id)
    return JSONResponse({"resource_type_associations": [association_shown(a) for a in found]})


def associate(call: Call) -> Response:
    """The namespace is for this resource type too, which comes to be if there was none."""
    said = body_of(call, RESOURCE_TYPE)
    name, prefix, target = said["name"], said.get("prefix"), said.get("properties_target")
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "add_metadef_resource_type_association", lock=True)
        with unique("resource-type association", record.namespace):
            time = associations.add(connection, record.id, [(name, prefix, target)])
    return JSONResponse(association_shown(Association(name, prefix, target, time, time)), 201)


def dissociate(call: Call) -> Response:
    """The namespace is not for this resource type any more."""
    name = call.path["resource_type"]
    with call.service.database.begin() as connection:
        record = namespace_for(
            call, connection, "remove_metadef_resource_type_association", lock=True
        )
        if name not in {found.name for found in associations.every(connection, record.id)}:
            raise not_found(f"Failed to find resource type {name} to delete")
        protect(record, "resource-type-association", name)
        associations.remove(connection, record.id, name)
    return Response(status_code=204)


_ALL: Final = "/v2/metadefs/namespaces/{namespace}/resource_types"

OPERATIONS = (
    Operation(
        "GET", "/v2/metadefs/resource_types", listing, "List resource types",
        {200: "all of them"},
    ),
    Operation(
        "GET", _ALL, of_namespace, "List the resource types that a namespace is for",
        {200: "all of them", 404: "there is no such namespace"}, answer="metadefs/resource_types",
    ),
    Operation(
        "POST", _ALL, associate, "Associate a namespace with a resource type",
        {201: "associated", 400: "no such body", 403: "not allowed",
         404: "there is no such namespace", 409: "it was associated"},
        body="metadefs/resource_type", answer="metadefs/resource_type", media=(JSON,),
    ),
    Operation(
        "DELETE", f"{_ALL}/{{resource_type}}", dissociate,
        "Take a namespace's association with a resource type away",
        {204: "gone", 403: "protected, or not allowed", 404: "there is none"},
    ),
)  # fmt: skip
