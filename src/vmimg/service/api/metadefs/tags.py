"""Tags of a namespace: words that it offers."""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response

from vmimg.service.api.metadefs.finding import (
    content_for,
    namespace_for,
    permit,
    protect,
    target_of,
    unique,
)
from vmimg.service.api.metadefs.reading import TAG, TAGS_AT_ONCE, body_of, checked_name
from vmimg.service.api.metadefs.showing import tag_shown
from vmimg.service.api.metadefs.sorting import Order, visibility_of
from vmimg.service.catalogue.metadefs import contents
from vmimg.service.catalogue.metadefs.contents import SORT_KEYS, TAGS, Content
from vmimg.service.http.errors import bad_request
from vmimg.service.http.operation import JSON, Call, Operation, Parameter

__all__ = ["OPERATIONS"]

_YES: Final = frozenset({"1", "t", "true", "on", "y", "yes"})


def create(call: Call) -> Response:
    """A new tag, named in the path."""
    name = call.path["tag_name"]
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, lock=True)
        checked_name(name, "tag")
        permit(call, "add_metadef_tag", target_of(record))
        with unique("tag", record.namespace):
            time = contents.add(connection, TAGS, record.id, [(name, {})])
    return JSONResponse(tag_shown(Content(0, name, time, time)), 201)


def create_many(call: Call) -> Response:
    """New tags in place of all that there are, or beside them: ``X-Openstack-Append: true``."""
    said = body_of(call, TAGS_AT_ONCE)
    if "tags" not in said:
        raise bad_request("Provided object does not match schema 'tags': 'tags' is missing.")
    names = [checked_name(given["name"], "tag") for given in said["tags"]]
    beside = call.headers.get("x-openstack-append", "").strip().lower() in _YES
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "add_metadef_tags", lock=True)
        # An empty list changes nothing, as with Glance; DELETE is there for it.
        if names and not beside:
            contents.clear(connection, TAGS, record.id)
        with unique("tag", record.namespace):
            contents.add(connection, TAGS, record.id, [(name, {}) for name in names])
    return JSONResponse({"tags": [{"name": name} for name in names]}, 201)


def listing(call: Call) -> Response:
    """Tags of the namespace: all, or a page of them."""
    query = {key: value for key, value in call.query if value or key not in ("limit", "marker")}
    order = Order.of(query, SORT_KEYS)
    visibility_of(query, "public", "private", "shared")
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, "get_metadef_tags")
        after = None
        if order.marker is not None:
            after = content_for(connection, TAGS, record, order.marker)
        found = contents.page(
            connection, TAGS, record.id,
            sort_key=order.key, descending=order.descending, limit=order.limit, after=after,
        )  # fmt: skip
    return JSONResponse({"tags": [{"name": content.name} for content in found]})


def show(call: Call) -> Response:
    """A tag."""
    with call.service.database.read() as connection:
        record = namespace_for(call, connection, "get_metadef_tag")
        found = content_for(connection, TAGS, record, call.path["tag_name"])
    return JSONResponse(tag_shown(found))


def change(call: Call) -> Response:
    """Another name for the tag."""
    said = body_of(call, TAG)
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "modify_metadef_tag", lock=True)
        found = content_for(connection, TAGS, record, call.path["tag_name"])
        with unique("tag", record.namespace):
            changed = contents.change(connection, TAGS, found, said["name"])
    return JSONResponse(tag_shown(changed))


def remove(call: Call) -> Response:
    """Delete the tag."""
    with call.service.database.begin() as connection:
        record = namespace_for(call, connection, "delete_metadef_tag", lock=True)
        found = content_for(connection, TAGS, record, call.path["tag_name"])
        protect(record, "tag", found.name)
        contents.remove(connection, TAGS, found)
    return Response(status_code=204)


_ALL: Final = "/v2/metadefs/namespaces/{namespace}/tags"
_ONE: Final = f"{_ALL}/{{tag_name}}"

OPERATIONS = (
    Operation(
        "POST", _ALL, create_many, "Make tags in a namespace",
        {201: "made", 400: "no such body", 403: "not allowed", 404: "there is no such namespace",
         409: "there is one of a name"},
        body="metadefs/tags", answer="metadefs/tags", media=(JSON,),
        parameters=(
            Parameter("X-Openstack-Append", "true: keep the tags that there are", place="header"),
        ),
    ),
    Operation(
        "GET", _ALL, listing, "List the tags of a namespace",
        {200: "tags", 400: "no such query", 404: "there is no such namespace, or marker"},
        answer="metadefs/tags", ignores_body=True,
        parameters=(
            Parameter("limit", "How many, at most", type="integer"),
            Parameter("marker", "The name of the last one of the page before"),
            Parameter("sort_key", "What they are sorted by"),
            Parameter("sort_dir", "asc or desc"),
        ),
    ),
    Operation(
        "POST", _ONE, create, "Make a tag in a namespace",
        {201: "made", 400: "no such name", 403: "not allowed", 404: "there is no such namespace",
         409: "there is one of this name"},
        answer="metadefs/tag",
    ),
    Operation(
        "GET", _ONE, show, "Show a tag of a namespace",
        {200: "the tag", 404: "there is none"}, answer="metadefs/tag",
    ),
    Operation(
        "PUT", _ONE, change, "Change a tag of a namespace",
        {200: "changed", 400: "no such body", 403: "not allowed", 404: "there is none",
         409: "there is another one of this name"},
        body="metadefs/tag", answer="metadefs/tag", media=(JSON,),
    ),
    Operation(
        "DELETE", _ONE, remove, "Delete a tag of a namespace",
        {204: "deleted", 403: "protected, or not allowed", 404: "there is none"},
    ),
)  # fmt: skip
