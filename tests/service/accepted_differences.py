"""Where ours answers otherwise than Glance, and why that is meant: docs/service.md lists them.

A row names scenarios, requests and fields by shell patterns. A row that no answer needs any more
fails the test of its scenario: then it has to go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from compare import Difference

__all__ = ["ACCEPTED", "Accepted", "unaccepted"]

ANYTHING: Any = object()


@dataclass(frozen=True)
class Accepted:
    """One difference that is meant."""

    scenario: str
    field: str
    reason: str
    asked: str = "*"
    """Matches what `Difference.asked` says: who, method, path, body, headers."""
    glance: Any = ANYTHING
    ours: Any = ANYTHING

    def covers(self, scenario: str, difference: Difference) -> bool:
        """Whether this is the difference."""
        return (
            fnmatchcase(scenario, self.scenario)
            and fnmatchcase(difference.field, self.field)
            and fnmatchcase(difference.asked, self.asked)
            and _is(self.glance, difference.glance)
            and _is(self.ours, difference.ours)
        )


def _is(pattern: Any, value: Any) -> bool:
    if pattern is ANYTHING:
        return True
    if isinstance(pattern, str) and isinstance(value, str):
        return fnmatchcase(value, pattern)
    return bool(pattern == value)


# Metadata definitions: what Glance answers with 500, or would put where nobody reaches it, and what
# is wrong in the definitions that it brings along.
_METADEFS: tuple[Accepted, ...] = (
    Accepted(
        "wrong_namespaces", "status", "a name that is empty is no part of a path: nobody could "
        "show, change or delete what has it", "* {'namespace': ''}", 201, "400 *",
    ),
    Accepted(
        "wrong_namespaces", "status", "a wrong body is told, not a fault of the service",
        glance=500, ours="400 *",
    ),
    Accepted(
        "lists_of_namespaces", "status", "a wrong limit is told, not a fault of the service",
        "*limit=x", 500, "400 *",
    ),
    Accepted("the_standard_definitions", "body*.description", "the words are ours"),
    Accepted(
        "the_standard_definitions", "body*.updated_at", "what was never changed was last changed "
        "when it was made, whoever made it", glance="<absent>",
    ),
    Accepted(
        "the_standard_definitions", "body.visibility", "two of Glance's files leave it out: only "
        "administrators find what all images can have", glance="private", ours="public",
    ),
    Accepted(
        "the_standard_definitions", "body.objects*.properties.sw_database_*.default",
        "MySQL listens on 3306, DB2 on 50000",
    ),
    Accepted(
        "the_standard_definitions", "body.objects*.sw_database_sqlserver_edition.enum*",
        "Glance has a choice twice",
    ),
    Accepted(
        "the_standard_definitions", "body.properties.*.title",
        "a blank before a title, and one of something else",
    ),
    Accepted(
        "the_standard_definitions", "body.resource_types*.name",
        "Glance loads its files in the order in which the directory has them",
    ),
)  # fmt: skip

_HEAD = "HEAD is GET without the body, everywhere"
_NO_FAULT = "a mistake of the client is told as one, not as a fault of the service"
_GENERAL: tuple[Accepted, ...] = (
    Accepted(
        "*", "header openstack-image-store-ids", "the stores are those that images may lie in",
        glance="*,os_glance_staging_store,*",
    ),
    Accepted("*", "status", _NO_FAULT, glance=500, ours="4?? *"),
    Accepted("*", "header allow", _HEAD, ours="*HEAD*"),
    Accepted("*", "status", _HEAD, asked="* HEAD *", glance=405, ours="200 *"),
    Accepted(
        "*", "header x-openstack-request-id", "every answer can be found in the log, a refusal too",
        glance="<absent>", ours="<request>",
    ),
    Accepted(
        "what_is_offered", "body.stores*.properties.*", "settings of Glance's drivers",
        ours=Difference.MISSING,
    ),
    Accepted(
        "usage", "body.usage*", "limits are set here: Glance has numbers only where Keystone does"
    ),
)  # fmt: skip

_DOWNLOADS: tuple[Accepted, ...] = (
    Accepted("*", "header etag", "what has a validator can be resumed"),
    Accepted("*", "header accept-ranges", "ranges are served, and it is said", ours="bytes"),
    Accepted(
        "*", "header content-range", "RFC 9110: a 416 says how long the image is",
        glance="<absent>", ours="bytes [*]/*",
    ),
    Accepted(
        "downloading_parts", "status", "RFC 9110: nothing satisfies a suffix of no length",
        "*bytes=-0*", 206, "416 *",
    ),
    Accepted(
        "downloading_parts", "status", "RFC 9110: who asks for several ranges may get all of it",
        "*bytes=0-1,3-4*", 400, "200 *",
    ),
    Accepted(
        "downloading_parts", "status", "conditions are kept", "*If-Match*", 200, "412 *"
    ),
)  # fmt: skip

_VETTED = "what is stored is known: it is refused unless it is what was said, and harmless"
_UPLOADS: tuple[Accepted, ...] = (
    Accepted("*", "body*.message", "why an image was refused is told", glance=Difference.MISSING),
    Accepted("schemas", "body*.properties.message.*", "why an image was refused is told"),
    Accepted(
        "schemas", "body*.properties.owner.type*", "where nobody is asked who he is, a task is "
        "nobody's",
    ),
    Accepted("what_is_said_of_formats", "status", _VETTED, "* PUT *", 204, "415 *"),
    Accepted("what_is_said_of_formats", "body.status", _VETTED, glance="active", ours="queued"),
    Accepted(
        "what_is_said_of_formats", "body.*", "what was refused is as if it had never come",
        "* GET *", ours=None,
    ),
    Accepted(
        "what_is_said_of_formats", "body.stores", "what was refused lies nowhere",
        glance="fast", ours=Difference.MISSING,
    ),
    Accepted(
        "what_is_said_of_formats", "body.virtual_size", "a guest's disk has whole sectors, as "
        "qemu-img says", glance=5000, ours=5120,
    ),
    Accepted(
        "uploading", "body.virtual_size", "the size of nothing is known", glance=None, ours=0
    ),
    Accepted(
        "*", "body.tasks*.progress*", "a task tells how far it is", glance=Difference.MISSING
    ),
    Accepted("*", "body.message", "what a task tells is for people", "* /v2/tasks/*"),
    Accepted("*", "body.tasks*.message", "what a task tells is for people"),
    Accepted(
        "from_another_service", "body.os_glance_importing_to_stores", "none is under way",
        glance="fast", ours="",
    ),
    Accepted(
        "*", "body.os_glance_failed_import", "the stores that an import did not reach are told",
        glance="", ours="fast",
    ),
)  # fmt: skip

_CACHE: tuple[Accepted, ...] = (
    Accepted("the_cache", "body.cached_images*.checksum", "it is known", glance=None),
    Accepted("the_cache", "body[[]0]", "a node is called as its settings say"),
)

_IMAGES: tuple[Accepted, ...] = (
    Accepted(
        "request_identifiers", "header x-openstack-request-id", "a log has identifiers in it, not "
        "what anybody likes to write there", glance="req-*", ours="<request>",
    ),
    Accepted("creating", "status", "a name may have any character", "*🖥*", glance=400),
    Accepted(
        "sorting_and_pages", "body.first", "links keep all of the query, what is repeated too",
        "*sort_key=*sort_key=*",
    ),
    Accepted(
        "newest_first", "status", "an image that one may not see is told apart from none in no way",
        "bob GET *marker=*", 403, "400 *",
    ),
    Accepted(
        "fields_that_are_not_for_users", "status", "nobody can make a property that hides a field",
        "*/stores*", ours="403 *",
    ),
    Accepted("tags", "body.tags*", "Glance takes the bytes of a tag for Latin-1"),
    Accepted(
        "filters", "body.first", "the link asks for the same: Glance loses all but one of a name",
    ),
    Accepted(
        "filters_by_time", "body.images*", "a time is asked for in whole seconds, as it is shown",
        "*name=e&created_at=*",
    ),
    Accepted(
        "members_of_what_is_not_shared", "status", "a member is told as text", "*'member': 5*",
        200, "400 *",
    ),
)  # fmt: skip

_AT_ONCE = "an import for which there is no room is refused, before what was staged is lost"
_LIMITS: tuple[Accepted, ...] = (
    Accepted("limits_of_keystone", "status", _AT_ONCE, "* POST */import *", 202, "413 *"),
    Accepted("limits_of_keystone", "body.status", _AT_ONCE, "*", "queued", "uploading"),
    Accepted("limits_of_keystone", "body.size", _AT_ONCE, "*", None, 2 << 20),
    Accepted("limits_of_keystone", "body.os_glance_*", _AT_ONCE, "*", "", Difference.MISSING),
    Accepted(
        "limits_of_a_keystone_that_is_away", "status", "it passes: the client may try again",
        glance=500, ours="503 *",
    ),
)  # fmt: skip

_KNOWN = "what lies there was looked at before the image became active"
_LOCATIONS: tuple[Accepted, ...] = (
    Accepted(
        "locations_are_shown", "body.stores*.properties.*", "settings of Glance's drivers",
        ours=Difference.MISSING,
    ),
    *(
        Accepted(name, "body.virtual_size", _KNOWN, glance=None, ours=5120)
        for name in (
            "a_location_makes_an_image_active", "locations_are_replaced", "what_is_said_of_bytes",
            "images_on_the_web",
        )
    ),
    Accepted(
        "a_location_makes_an_image_active", "body.locations*.metadata.*", "a location stays where "
        "it was put: Glance has those of earlier requests in the order in which they came",
    ),
    Accepted(
        "what_is_said_of_bytes", "body.locations*.validation_data.*", "it is for writing only, as "
        "the schema says", "* PATCH *", ours=Difference.MISSING,
    ),
    Accepted(
        "images_on_the_web", "status", "ranges of what lies on the web are served",
        "*bytes=256-511*", 400, "206 *",
    ),
)  # fmt: skip

ACCEPTED: tuple[Accepted, ...] = (
    *_GENERAL,
    *_DOWNLOADS,
    *_UPLOADS,
    *_CACHE,
    *_IMAGES,
    *_LIMITS,
    *_LOCATIONS,
    *_METADEFS,
)


def unaccepted(
    scenario: str, found: Iterable[Difference]
) -> tuple[list[Difference], list[Accepted]]:
    """The differences that nobody argued for, and the rows for this scenario that none needs."""
    unused = [row for row in ACCEPTED if row.scenario == scenario]
    left = []
    for difference in found:
        rows = [row for row in ACCEPTED if row.covers(scenario, difference)]
        if not rows:
            left.append(difference)
        unused = [row for row in unused if row not in rows]
    return left, unused
