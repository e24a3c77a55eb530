"""How much of the service a project and an image may take: settings' ``limits``, or Keystone's.

Of images, by the settings, where 0 is no limit: `check_properties`, `check_tags`, `check_members`,
when there would be more of them.
Of projects, each over the transaction that takes what it checks:

    check_count    before an image is made
    check_uploads  before data begins to come
    check_size     before data begins to come to a store; the bytes that may come still
    check_staging  the same, to the staging area

They hold for what `of_project` or `of_owner` said before that transaction: it would not wait for
Keystone while it keeps others from the database. Projects' quotas are exact: in one transaction
after another, also on PostgreSQL. Raises HTTPError 413. Imports the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Connection, func, select

from vmimg.service.catalogue import usage
from vmimg.service.http.errors import HTTPError
from vmimg.service.settings import Limits

if TYPE_CHECKING:
    from vmimg.service.service import Service

__all__ = [
    "RESOURCES",
    "SIZES",
    "Allowed",
    "QuotasUnknown",
    "by_name",
    "check_count",
    "check_members",
    "check_properties",
    "check_size",
    "check_staging",
    "check_tags",
    "check_uploads",
    "of_owner",
    "of_project",
]


class Allowed(NamedTuple):
    """What a project may take: sizes in bytes, None is no limit."""

    size: int | None
    staging: int | None
    images: int | None
    uploads: int | None


class QuotasUnknown(HTTPError):
    """503: what a project may take cannot be found out just now."""

    def __init__(self) -> None:
        super().__init__(
            503, "The quotas of the project cannot be looked up.", {"retry-after": "10"}
        )


RESOURCES: Final = (
    "image_size_total", "image_stage_total", "image_count_total", "image_count_uploading"
)  # fmt: skip
"""What Glance and Keystone call the fields of `Allowed`, in their order."""

SIZES: Final = frozenset({"image_size_total", "image_stage_total"})
"""Those that are told in MiB."""


def of_project(service: Service, project: str | None, *, kept: bool = False) -> Allowed:
    """What the project may take; ``kept``: what was found out before will do, however old.

    Raises QuotasUnknown.
    """
    if service.unified is not None:
        return service.unified.of(project, kept=kept)
    limits = service.settings.limits
    return Allowed(
        limits.project_size or None,
        limits.project_staging or None,
        limits.project_count or None,
        limits.project_uploads or None,
    )


def of_owner(service: Service, image_id: str, *, kept: bool = False) -> Allowed:
    """`of_project`, of the one that the image belongs to; of no image: of none."""
    owner = None
    if service.unified is not None:
        with service.database.read() as connection:
            owner = usage.owner(connection, image_id)
    return of_project(service, owner, kept=kept)


def by_name(allowed: Allowed) -> Mapping[str, int]:
    """``allowed`` as Glance and Keystone tell it: sizes in MiB; -1 is no limit."""
    return {
        name: -1 if limit is None else (limit >> 20 if name in SIZES else limit)
        for name, limit in zip(RESOURCES, allowed, strict=True)
    }


# What the service itself notes at an image counts for nobody.
_OWN: Final = "os_glance"


def check_properties(limits: Limits, names: Iterable[str]) -> None:
    """So many custom properties."""
    many = sum(not name.startswith(_OWN) for name in names)
    _check("image properties", many, limits.properties)


def check_tags(limits: Limits, tags: Iterable[str]) -> None:
    """So many tags."""
    _check("image tags", len(set(tags)), limits.tags)


def check_members(limits: Limits, many: int) -> None:
    """So many members."""
    _check("image members for this image", many, limits.members)


def _check(what: str, attempted: int, maximum: int) -> None:
    if maximum and attempted > maximum:
        raise HTTPError(
            413,
            f"The limit has been exceeded on the number of allowed {what}. "
            f"Attempted: {attempted}, Maximum: {maximum}",
        )


def check_count(allowed: Allowed, connection: Connection, project: str | None) -> None:
    """One more image."""
    if allowed.images is not None:
        _hold(connection, project)
        used = usage.of(connection, project).count
        _over(project, "image_count_total", allowed.images, used, 1)


def check_uploads(allowed: Allowed, connection: Connection, project: str | None) -> None:
    """One more image whose data comes."""
    if allowed.uploads is not None:
        _hold(connection, project)
        used = usage.of(connection, project).uploading
        _over(project, "image_count_uploading", allowed.uploads, used, 1)


def check_size(
    allowed: Allowed, connection: Connection, project: str | None, size: int = 1
) -> int | None:
    """``size`` more bytes in a store: how many there may be more; None: no limit."""
    if allowed.size is None:
        return None
    _hold(connection, project)
    used = usage.of(connection, project).size
    _over(project, "image_size_total", allowed.size, used, size)
    return allowed.size - used


def check_staging(
    allowed: Allowed, connection: Connection, project: str | None, size: int = 1
) -> int | None:
    """``size`` more bytes in the staging area: how many there may be more; None: no limit."""
    if allowed.staging is None:
        return None
    _hold(connection, project)
    used = usage.of(connection, project).staging
    _over(project, "image_stage_total", allowed.staging, used, size)
    return allowed.staging - used


def _over(project: str | None, resource: str, limit: int, used: int, more: int) -> None:
    if used + more > limit:
        unit = " bytes" if resource in SIZES else ""
        raise HTTPError(
            413,
            f"Project {project} is over a limit for {resource}: of {limit}{unit}, {used} are used, "
            f"and {more} more asked for.",
        )


def _hold(connection: Connection, project: str | None) -> None:
    """Nobody else takes anything of the project's before this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(project or ""))))
