"""Members of shared images.

The owner adds and removes them; each says for itself whether it accepts. A member sees its own
membership only.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from starlette.responses import JSONResponse, Response

from vmimg.service.api.finding import image_for, require
from vmimg.service.api.showing import stamp
from vmimg.service.catalogue import members
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.catalogue.members import MemberRecord
from vmimg.service.http.errors import HTTPError, bad_request, conflict, forbidden, not_found
from vmimg.service.http.operation import JSON, Call, Operation
from vmimg.service.policy import Target
from vmimg.service.quota import check_members

__all__ = ["OPERATIONS"]

_ABSENT: Final = "Image {} not found."
_ONLY_SHARED: Final = "Only shared images have members."
_LONGEST: Final = 255


def create(call: Call) -> Response:
    """Share the image with a project."""
    said = call.json()
    if not isinstance(said, dict):
        raise bad_request('Expected a member in the form: {"member": "image_id"}')
    if "member" not in said:
        raise bad_request("Member to be added not specified")
    name = said["member"]
    if not name:
        raise bad_request("Member can't be empty")
    if not isinstance(name, str) or len(name) > _LONGEST:
        raise bad_request(f"A member is a project's identifier, of {_LONGEST} characters at most.")
    try:
        with call.service.database.begin() as connection:
            record, target = _image(call, connection, lock=True)
            if record.visibility != "shared":
                raise forbidden(f"Not allowed to create members for image {record.id}.")
            require(call, "add_member", target)
            if members.has(connection, record.id, name):
                raise conflict(f"Member {name} is duplicated for image {record.id}")
            check_members(call.service.settings.limits, members.count(connection, record.id) + 1)
            members.add(connection, record.id, name)
            member = _member(call, connection, record, name)
    except IntegrityError:
        raise conflict(f"Member {name} is duplicated for image {call.path['image_id']}") from None
    return JSONResponse(_shown(member))


def listing(call: Call) -> Response:
    """The members that the caller may know of."""
    with call.service.database.read() as connection:
        record, target = _image(call, connection)
        if record.visibility != "shared":
            raise forbidden(f"Not allowed to list members for image {record.id}: {_ONLY_SHARED}")
        require(call, "get_members", target)
        found = members.listing(connection, record.id) if call.allows("get_member", target) else []
    mine = [member for member in found if _may_know(call, record, member.member)]
    return JSONResponse(
        {"members": [_shown(member) for member in mine], "schema": "/v2/schemas/members"}
    )


def show(call: Call) -> Response:
    """One member."""
    with call.service.database.read() as connection:
        record, target = _image(call, connection)
        if record.visibility != "shared":
            raise not_found(_ONLY_SHARED)
        if not call.allows("get_member", target):
            raise not_found(
                f"You are not authorized to lookup the members of the image {record.id}."
            )
        member = _member(call, connection, record, call.path["member_id"])
    return JSONResponse(_shown(member))


def update(call: Call) -> Response:
    """What the project says to it."""
    said = call.json()
    if not isinstance(said, dict):
        raise bad_request('Expected a status in the form: {"status": "status"}')
    if "status" not in said:
        raise bad_request("Status not specified")
    with call.service.database.begin() as connection:
        record, target = _image(call, connection, lock=True)
        if record.visibility != "shared":
            raise forbidden(f"Not allowed to update members for image {record.id}.")
        require(call, "get_member", target)
        member = _member(call, connection, record, call.path["member_id"])
        require(call, "modify_member", target)
        if said["status"] not in members.STATUSES:
            raise bad_request(
                'Incorrect request: Status must be "pending", "accepted" or "rejected".'
            )
        members.answer(connection, record.id, member.member, said["status"])
        member = _member(call, connection, record, member.member)
    return JSONResponse(_shown(member))


def remove(call: Call) -> Response:
    """Share the image with the project no more."""
    with call.service.database.begin() as connection:
        record, target = _image(call, connection, lock=True)
        if record.visibility != "shared":
            raise forbidden(f"Not allowed to delete members for image {record.id}.")
        require(call, "get_member", target)
        member = _member(call, connection, record, call.path["member_id"])
        require(call, "delete_member", target)
        members.remove(connection, record.id, member.member)
    return Response(status_code=204)


def _image(call: Call, connection: Connection, *, lock: bool = False) -> tuple[ImageRecord, Target]:
    return image_for(call, connection, lock=lock, absent=_ABSENT)


def _member(call: Call, connection: Connection, record: ImageRecord, name: str) -> MemberRecord:
    found = members.find(connection, record.id, name)
    if found is None or not _may_know(call, record, name):
        raise _no_member(record, name)
    return found


def _no_member(record: ImageRecord, name: str) -> HTTPError:
    return not_found(f"{name} not found in the member list of the image {record.id}.")


def _may_know(call: Call, record: ImageRecord, name: str) -> bool:
    caller = call.caller
    return caller.is_admin or caller.project in (record.owner, name)


def _shown(member: MemberRecord) -> dict[str, Any]:
    return {
        "member_id": member.member,
        "image_id": member.image_id,
        "status": member.status,
        "created_at": stamp(member.created_at),
        "updated_at": stamp(member.updated_at),
        "schema": "/v2/schemas/member",
    }


_PATH: Final = "/v2/images/{image_id}/members"
OPERATIONS = (
    Operation(
        "POST", _PATH, create, "Share an image with a project",
        {200: "shared", 400: "no project", 403: "not allowed, or not a shared image",
         404: "there is none", 409: "it is shared already", 413: "too many members"},
        answer="member", media=(JSON,),
    ),
    Operation(
        "GET", _PATH, listing, "List whom an image is shared with",
        {200: "the members", 403: "not a shared image", 404: "there is none"}, answer="members",
    ),
    Operation(
        "GET", f"{_PATH}/{{member_id}}", show, "Show a member of an image",
        {200: "the member", 404: "there is none"}, answer="member",
    ),
    Operation(
        "PUT", f"{_PATH}/{{member_id}}", update, "Accept or reject a shared image",
        {200: "changed", 400: "no such answer", 403: "not allowed", 404: "there is none"},
        answer="member", media=(JSON,),
    ),
    Operation(
        "DELETE", f"{_PATH}/{{member_id}}", remove, "Share an image no more",
        {204: "removed", 403: "not allowed", 404: "there is none"},
    ),
)  # fmt: skip
