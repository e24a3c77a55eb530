"""Images, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from sqlalchemy import Connection, Row, select
from starlette.responses import Response

from vmimg.service.api import filters
from vmimg.service.api.finding import image_for
from vmimg.service.api.showing import shown, shown_in_list, target_of
from vmimg.service.catalogue import images, listing, tables
from vmimg.service.catalogue.listing import Listed, Viewer, Wanted
from vmimg.service.http.errors import HTTPError, bad_request
from vmimg.service.http.operation import Call, Parameter
from vmimg.service.policy import Target

__all__ = ["PARAMETERS", "show_page"]

_PAGING: Final = frozenset(
    {"limit", "marker", "sort", "sort_key", "sort_dir", "tag", "member_status"}
)


def show_page(call: Call) -> Response:
    """The images that the caller sees, filtered and in order."""
    limits = call.service.settings.limits
    pairs = call.query
    said = dict(pairs)
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise bad_request("The query has a NUL.")
    visibility = filters.visibility(said.get("visibility"))
    status = filters.member_status(_first(call, "member_status") or "accepted")
    limit = filters.page_size(_first(call, "limit"), limits.list_default, limits.list_max)
    tags = [value.strip() for name, value in pairs if name == "tag"]
    order = filters.order(
        _first(call, "sort"),
        [value for name, value in pairs if name == "sort_key"],
        [value for name, value in pairs if name == "sort_dir"],
    )
    hidden = filters.yes_or_no("os_hidden", said.get("os_hidden", "false").lower())
    conditions = filters.conditions(
        [pair for pair in pairs if pair[0] not in _PAGING], tags, call.service.database.dialect
    )
    call.require("get_images", Target(owner=call.caller.project))
    viewer = Viewer(call.caller.project, call.caller.is_admin)
    marker = _first(call, "marker")
    with call.service.database.read() as connection:
        wanted = Wanted(
            viewer, limit, visibility, status, hidden, conditions, order,
            None if marker is None else _marker(call, connection, marker),
        )  # fmt: skip
        rows = listing.page(connection, wanted)
        found = _allowed(call, rows)
        whole = call.service.settings.show_locations
        records = images.find_all(connection, [row.id for row in found]) if whole else []
    query = [pair for pair in pairs if pair[0] != "marker"]
    answer: dict[str, Any] = {
        "images": [shown(call, record) for record in records]
        if whole
        else [shown_in_list(row, call.caller) for row in found],
        "first": _link(query),
        "schema": "/v2/schemas/images",
    }
    if found and len(rows) == limit:
        answer["next"] = _link([*query, ("marker", found[-1].id)])
    # A thousand images are a megabyte: Python's own encoder takes longer than all the rest.
    return Response(orjson.dumps(answer), media_type="application/json")


def _allowed(call: Call, rows: Sequence[Listed]) -> list[Listed]:
    # Of a thousand images, most are alike to the rules.
    known: dict[tuple[str | None, str], bool] = {}
    found = []
    for row in rows:
        kind = row.owner, row.visibility
        if kind not in known:
            known[kind] = call.allows("get_image", target_of(row, call.caller))
        if known[kind]:
            found.append(row)
    return found


def _first(call: Call, name: str) -> str | None:
    return next((value for key, value in call.query if key == name), None)


def _marker(call: Call, connection: Connection, image_id: str) -> Row[Any]:
    """The row of the image that the page comes after.

    Raises HTTPError 400: an image that the caller may not see is none to him.
    """
    try:
        record, _ = image_for(call, connection, image_id=image_id)
    except HTTPError as error:
        raise bad_request(error.message) from None
    return connection.execute(select(tables.images).where(tables.images.c.id == record.id)).one()


def _link(query: list[tuple[str, str]]) -> str:
    return "/v2/images" + (f"?{urlencode(query)}" if query else "")


PARAMETERS: Final = (
    Parameter("limit", "How many images at most.", type="integer"),
    Parameter("marker", "The identifier of the image that the page comes after."),
    Parameter("sort", "Keys and directions: name:asc,size:desc."),
    Parameter("sort_key", "A key to sort by; may be repeated."),
    Parameter("sort_dir", "asc or desc: for all keys, or once for each."),
    Parameter("visibility", "public, community, shared, private or all."),
    Parameter("member_status", "Of images shared with the project: accepted, pending, ..., all."),
    Parameter("tag", "A tag that the images have; may be repeated."),
    Parameter("name", "A name, or in:NAME,NAME; likewise id, status and formats."),
    Parameter("id", "An identifier, or in:ID,ID."),
    Parameter("status", "A state, or in:STATE,STATE."),
    Parameter("disk_format", "A format, or in:FORMAT,FORMAT."),
    Parameter("container_format", "A format, or in:FORMAT,FORMAT."),
    Parameter("owner", "The project that owns the images."),
    Parameter("protected", "true or false."),
    Parameter("os_hidden", "true: hidden images only."),
    Parameter("checksum", "MD5 of the data."),
    Parameter("os_hash_value", "The hash of the data."),
    Parameter("size_min", "Bytes that the data has at least.", type="integer"),
    Parameter("size_max", "Bytes that the data has at most.", type="integer"),
    Parameter("created_at", "A time, or gt:, gte:, lt:, lte:, eq:, neq: and a time."),
    Parameter("updated_at", "A time, or gt:, gte:, lt:, lte:, eq:, neq: and a time."),
)
"""Anything else in the query is a custom property and its value."""
