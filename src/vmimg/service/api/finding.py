"""The image that a request is about, if the caller may know of it.

Who is neither its owner nor one it was shared with gets the same 404 for an image that is not
public as for one that is not there.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from vmimg.service.api.showing import target_of
from vmimg.service.catalogue import images, members
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.http.errors import HTTPError, forbidden, not_found
from vmimg.service.http.operation import Call
from vmimg.service.identity.caller import Caller
from vmimg.service.policy import Target

__all__ = ["ABSENT", "image_for", "missing", "require"]

ABSENT: Final = "No image found with ID {}"


def missing(image_id: str) -> HTTPError:
    """404; the same for what is not there and for what is not the caller's."""
    return not_found(ABSENT.format(image_id))


def image_for(
    call: Call,
    connection: Connection,
    rule: str = "get_image",
    *,
    image_id: str | None = None,
    lock: bool = False,
    absent: str = ABSENT,
) -> tuple[ImageRecord, Target]:
    """The image in the path, or of ``image_id``, and what rules look at.

    ``lock``: nobody else changes it in this transaction. ``absent``: what a 404 says of the
    identifier. Raises HTTPError: 404 if the caller may not even see it, 403 if ``rule`` says no.
    """
    if image_id is None:
        image_id = call.path["image_id"]
    record = images.find(connection, image_id, lock=lock)
    if record is None or not _visible(connection, record, call.caller):
        raise not_found(absent.format(image_id))
    target = target_of(record, call.caller)
    require(call, rule, target)
    return record, target


def require(call: Call, rule: str, target: Target) -> None:
    """Raises HTTPError unless the rule allows it: 403, or 404 to who may not even see the image."""
    if call.allows(rule, target):
        return
    if rule == "get_image" or not call.allows("get_image", target):
        raise not_found("The resource could not be found.")
    raise forbidden(f"You are not authorized to complete {rule} action.")


def _visible(connection: Connection, record: ImageRecord, caller: Caller) -> bool:
    if caller.is_admin or record.owner is None or record.visibility in ("public", "community"):
        return True
    if caller.project is None:
        return False
    if caller.project == record.owner:
        return True
    return record.visibility == "shared" and members.has(connection, record.id, caller.project)
