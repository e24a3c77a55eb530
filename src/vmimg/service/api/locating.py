"""Changes of an image's locations by a patch.

Only where clients see locations may they change them, and only to have fewer: what is added must be
checked first, which POST to an image's locations does and a patch cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from vmimg.service.api.finding import require
from vmimg.service.catalogue import images, journal
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.http.errors import bad_request, conflict, forbidden
from vmimg.service.http.operation import Call
from vmimg.service.policy import Target

if TYPE_CHECKING:
    from vmimg.service.api.patching import Change

__all__ = ["change_locations"]


def change_locations(
    call: Call, connection: Connection, record: ImageRecord, target: Target, change: Change
) -> None:
    """Make the change, in the transaction of ``connection``, which holds the image.

    What is not the image's any more is noted to be deleted. Raises HTTPError.
    """
    if change.op == "replace" and not change.value:
        raise forbidden("Cannot set locations to empty list.")
    rule = "delete_image_location" if change.op == "remove" else "set_image_location"
    require(call, rule, target)
    word = {"add": "add", "remove": "remove", "replace": "replace"}[change.op]
    if not call.service.settings.show_locations:
        word = "update" if word == "replace" else word
        raise forbidden(f"It's not allowed to {word} locations if locations are invisible.")
    states = ("active",) if change.op == "remove" else ("active", "queued")
    if record.status not in states:
        raise conflict(f"It's not allowed to {word} locations if image status is {record.status}.")
    if change.op != "remove":
        raise bad_request("Invalid location")
    _remove(call, connection, record.id, change.path[1])


def _remove(call: Call, connection: Connection, image_id: str, position: str) -> None:
    # As they are now, which another change of the same patch may have made.
    record = images.find(connection, image_id)
    assert record is not None
    if len(record.locations) < 2:
        raise forbidden("Cannot remove last location in the image.")
    at = len(record.locations) - 1 if position == "-" else _number(position)
    if at is None or at >= len(record.locations):
        raise bad_request("Invalid position for removing a location.")
    location = record.locations[at]
    images.remove_location(connection, location.id)
    if location.store and location.key:
        node = call.service.node
        entry = journal.Entry(location.store, location.key, image_id, journal.DELETING, node)
        journal.open(connection, entry)


def _number(position: str) -> int | None:
    # No image has a thousand locations; int() takes more than ASCII's digits.
    return (
        int(position) if position.isascii() and position.isdigit() and len(position) < 4 else None
    )
