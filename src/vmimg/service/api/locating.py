"""Changes of an image's locations by a patch, where clients see locations.

    add /locations/N, /locations/-     one more, in front of the Nth or behind all
    replace /locations                 the first ones, or other metadata for those that there are
    remove /locations/N                not the last one

The first makes a queued image active. What a client says that the bytes are (validation_data) is
taken down as it is, as Glance does; what lies there has been looked at (`prospecting`). A draft is
changed, and saved with the rest of the patch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from vmimg.service import quota
from vmimg.service.api.fields import RESERVED_PREFIX
from vmimg.service.api.finding import require
from vmimg.service.api.locations import may_add
from vmimg.service.api.places import address_of, place_of
from vmimg.service.api.prospecting import INVALID, Found
from vmimg.service.catalogue import images, journal
from vmimg.service.catalogue.images import ImageRecord, Location
from vmimg.service.http.errors import HTTPError, bad_request, conflict, forbidden
from vmimg.service.http.operation import Call
from vmimg.service.policy import Target
from vmimg.service.stores.web import VERSION

if TYPE_CHECKING:
    from vmimg.service.api.patching import Change, Draft

__all__ = ["change_locations", "new_ones", "save_locations"]

# Of a location that is in no database yet.
_NEW: Final = 0
_DIGITS: Final = {"md5": 32, "sha256": 64, "sha384": 96, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_CLAIMS: Final = ("checksum", "os_hash_algo", "os_hash_value")
# Files of this system are nobody's to name.
_LOCAL: Final = "file:"


def change_locations(call: Call, draft: Draft, target: Target, change: Change) -> None:
    """Make the change in the draft. Raises HTTPError."""
    record = draft.record
    if change.op == "replace" and not change.value:
        raise forbidden("Cannot set locations to empty list.")
    require(
        call, "delete_image_location" if change.op == "remove" else "set_image_location", target
    )
    if not call.service.settings.show_locations:
        word = "update" if change.op == "replace" else change.op
        raise forbidden(f"It's not allowed to {word} locations if locations are invisible.")
    states = ("active",) if change.op == "remove" else ("active", "queued")
    if record.status not in states:
        raise conflict(
            f"It's not allowed to {change.op} locations if image status is {record.status}."
        )
    if change.op == "remove":
        _remove(draft, change.path[1])
        return
    said = [change.value] if change.op == "add" else change.value
    claims = _claims(call, record, said)
    if change.op == "add":
        _add(call, draft, change.path[1], change.value)
    else:
        _replace(call, draft, said)
    if record.status == "queued":
        _activate(draft, claims)


def new_ones(record: ImageRecord) -> list[Location]:
    """Locations that the image did not have before."""
    return [location for location in record.locations if location.id == _NEW]


def save_locations(
    call: Call, connection: Connection, draft: Draft, before: Sequence[Location]
) -> None:
    """The draft's locations in place of those of ``before``; bytes of ours that are the image's no
    more are noted to be deleted. Raises HTTPError 409, 413.
    """
    record, after = draft.record, draft.record.locations
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    kept = {location.id for location in after}
    new = new_ones(record)
    if new and draft.allowed is not None:
        quota.check_size(draft.allowed, connection, record.owner, (record.size or 0) * len(new))
    for location in before[same:]:
        images.remove_location(connection, location.id)
        if location.id not in kept and location.store and location.key:
            node = call.service.node
            entry = journal.Entry(location.store, location.key, record.id, journal.DELETING, node)
            journal.open(connection, entry)
    # They are in the order of their rows.
    for location in after[same:]:
        store, key = location.store, location.key
        if location.id == _NEW and store and key and images.is_taken(connection, store, key):
            raise conflict("These bytes are another image's.")
        images.add_location(
            connection, record.id, location.store, location.key, location.url, location.metadata
        )


# One change --------------------------------------------------------------------------------------


def _remove(draft: Draft, position: str) -> None:
    locations = list(draft.record.locations)
    if len(locations) < 2:
        raise forbidden("Cannot remove last location in the image.")
    at = _position(position, len(locations) - 1)
    if at is None or at >= len(locations):
        raise bad_request("Invalid position for removing a location.")
    del locations[at]
    draft.record = draft.record._replace(locations=locations)


def _add(call: Call, draft: Draft, position: str, said: Mapping[str, Any]) -> None:
    locations = list(draft.record.locations)
    at = _position(position, len(locations))
    if at is None:
        raise bad_request("Invalid position for adding a location.")
    _check_count(call, len(locations) + 1)
    locations.insert(at, _made(call, draft, said))
    _settle(call, draft, locations)


def _replace(call: Call, draft: Draft, said: Sequence[Mapping[str, Any]]) -> None:
    _check_count(call, len(said))
    before = list(draft.record.locations)
    if not before:
        _settle(call, draft, [_made(call, draft, each) for each in said])
        return
    locations = []
    for each in said:
        there = [old for old in before if address_of(call.service, old) == each["url"]]
        if not there:
            break
        before.remove(there[0])
        kept = {VERSION: there[0].metadata[VERSION]} if VERSION in there[0].metadata else {}
        locations.append(there[0]._replace(metadata=_metadata(each) | kept))
    if before or len(locations) < len(said):
        raise bad_request("Original locations is not empty: only their metadata can be replaced.")
    draft.record = draft.record._replace(locations=locations)


def _position(said: str, last: int) -> int | None:
    """Where in a list: a number of digits, or ``-`` for ``last``."""
    if said == "-":
        return last
    return int(said[:9]) if said.isascii() and said.isdigit() else None


def _made(call: Call, draft: Draft, said: Mapping[str, Any]) -> Location:
    url = said["url"]
    place = place_of(call.service, url)
    if place is None or url.startswith(_LOCAL) or not may_add(call, url):
        raise bad_request(INVALID)
    metadata = _metadata(said)
    if draft.found is not None and place.url is not None:
        metadata |= {VERSION: _found(draft, url).version}
    return Location(_NEW, place.store, place.key, place.url, metadata)


def _found(draft: Draft, url: str) -> Found:
    found = draft.found.get(url) if draft.found is not None else None
    if found is None:
        raise conflict("The image was changed by somebody else meanwhile.")
    return found


def _settle(call: Call, draft: Draft, locations: Sequence[Location]) -> None:
    """The draft has these; and what is known of the bytes, if nothing was."""
    seen = [
        (address_of(call.service, each), {**each.metadata, VERSION: None}) for each in locations
    ]
    for each in seen:
        if seen.count(each) > 1:
            raise bad_request(f"The location {each[0]} already exists")
    draft.record = draft.record._replace(locations=locations)
    if draft.found is None:
        return
    for location in new_ones(draft.record):
        found = _found(draft, address_of(call.service, location))
        if draft.record.size is None:
            size, virtual_size = found.size, found.judgement.virtual_size
            draft.record = draft.record._replace(size=size, virtual_size=virtual_size)
            draft.values |= {"size": size, "virtual_size": virtual_size}
            learned = found.judgement.properties
            draft.properties = {**learned, **draft.properties}
        elif draft.record.size != found.size:
            raise bad_request(INVALID)


def _check_count(call: Call, many: int) -> None:
    most = call.service.settings.limits.locations
    if most and many > most:
        raise HTTPError(
            413,
            "The limit has been exceeded on the number of allowed image locations. "
            f"Attempted: {many}, Maximum: {most}",
        )


def _metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a client says of a location; where it lies is not for him to say."""
    metadata = said["metadata"]
    waiting: list[Any] = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, str):
            raise bad_request(
                "The metadata of a location has values that are neither text, lists nor objects."
            )
    if any(name.startswith(RESERVED_PREFIX) for name in metadata):
        raise forbidden("Names that begin with os_glance are reserved.")
    return {name: value for name, value in metadata.items() if name != "store"}


def _activate(draft: Draft, claims: Mapping[str, str]) -> None:
    """The image has its data now."""
    formats = {
        name: draft.values.get(name, getattr(draft.record, name))
        for name in ("disk_format", "container_format")
    }
    lacking = [name for name, value in formats.items() if not value]
    if lacking:
        what = "Property" if len(lacking) == 1 else "Properties"
        raise bad_request(f"{what} {', '.join(lacking)} must be set prior to saving data.")
    now: dict[str, Any] = {"status": "active", **claims}
    draft.record = draft.record._replace(**now, **formats)
    draft.values |= {**now, "message": None}


# What a client says that the bytes are -----------------------------------------------------------


def _claims(
    call: Call, record: ImageRecord, said: Sequence[Mapping[str, Any]]
) -> Mapping[str, str]:
    """The hashes that are new. Raises HTTPError 409 for what cannot be, or is known otherwise."""
    given: dict[str, str] = {}
    for each in said:
        for name, value in each.get("validation_data", {}).items():
            if given.setdefault(name, value) != value:
                raise conflict(f"Conflicting values for {name}")
    new: dict[str, str] = {}
    for name, value in given.items():
        known = getattr(record, name)
        if known and known != value:
            raise conflict(f"{name} is already set with a different value")
        if not known:
            new[name] = value
    if not new:
        return {}
    if record.status != "queued":
        names = ", ".join(new)
        raise conflict(
            f"New value(s) for {names} may only be provided when image status is 'queued'"
        )
    algorithm = call.service.settings.vetting.hash
    if "checksum" in new:
        _check_digest("checksum", new["checksum"], "md5")
    if new.get("os_hash_algo") != algorithm:
        raise conflict(f"os_hash_algo must be {algorithm}, not {new.get('os_hash_algo')}")
    _check_digest("os_hash_value", new.get("os_hash_value", ""), algorithm)
    return {name: new[name] for name in _CLAIMS if name in new}


def _check_digest(name: str, value: str, algorithm: str) -> None:
    if not _HEX.fullmatch(value) or len(value) % 2:
        raise conflict(f"{name} ({value}) is not a valid hexadecimal value")
    if len(value) != _DIGITS[algorithm]:
        many = _DIGITS[algorithm] // 2
        raise conflict(
            f"{name} ({value}) is not the correct size for {algorithm} (should be {many} bytes)"
        )
