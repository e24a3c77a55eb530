"""How much of the service a project and an image may take: settings' ``limits``. 0 is no limit.

Of images: `check_properties`, `check_tags`, `check_members`, when there would be more of them.
Of projects, each over the transaction that takes what it checks:

    check_count    before an image is made
    check_uploads  before data begins to come
    check_size     before data begins to come to a store; the bytes that may come still
    check_staging  the same, to the staging area

Projects' quotas are exact: in one transaction after another, also on PostgreSQL. Raises HTTPError
413. Imports the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import Connection, func, select

from vmimg.service.catalogue import usage
from vmimg.service.http.errors import HTTPError
from vmimg.service.settings import Limits

__all__ = [
    "check_count",
    "check_members",
    "check_properties",
    "check_size",
    "check_staging",
    "check_tags",
    "check_uploads",
]

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


def check_count(limits: Limits, connection: Connection, project: str | None) -> None:
    """One more image."""
    if limits.project_count:
        _hold(connection, project)
        used = usage.of(connection, project).count
        _over(project, "image_count_total", limits.project_count, used, 1)


def check_uploads(limits: Limits, connection: Connection, project: str | None) -> None:
    """One more image whose data comes."""
    if limits.project_uploads:
        _hold(connection, project)
        used = usage.of(connection, project).uploading
        _over(project, "image_count_uploading", limits.project_uploads, used, 1)


def check_size(
    limits: Limits, connection: Connection, project: str | None, size: int = 1
) -> int | None:
    """``size`` more bytes in a store: how many there may be more; None: no limit."""
    if not limits.project_size:
        return None
    _hold(connection, project)
    used = usage.of(connection, project).size
    _over(project, "image_size_total", limits.project_size, used, size)
    return limits.project_size - used


def check_staging(
    limits: Limits, connection: Connection, project: str | None, size: int = 1
) -> int | None:
    """``size`` more bytes in the staging area: how many there may be more; None: no limit."""
    if not limits.project_staging:
        return None
    _hold(connection, project)
    used = usage.of(connection, project).staging
    _over(project, "image_stage_total", limits.project_staging, used, size)
    return limits.project_staging - used


def _over(project: str | None, resource: str, limit: int, used: int, more: int) -> None:
    if used + more > limit:
        raise HTTPError(
            413,
            f"Project {project} is over a limit: {resource} is limited to {limit}, "
            f"{used} is used and {more} more is asked for.",
        )


def _hold(connection: Connection, project: str | None) -> None:
    """Nobody else takes anything of the project's before this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(project or ""))))


def limits_by_name(limits: Limits) -> Mapping[str, int]:
    """What a project may take, by the names that Glance and Keystone have for it.

    Sizes are in MiB; -1 is no limit.
    """
    said = {
        "image_size_total": limits.project_size,
        "image_stage_total": limits.project_staging,
        "image_count_total": limits.project_count,
        "image_count_uploading": limits.project_uploads,
    }
    return {
        name: -1 if not limit else (limit >> 20 if name in _SIZES else limit)
        for name, limit in said.items()
    }


_SIZES: Final = ("image_size_total", "image_stage_total")
