"""What queries of listings of metadata definitions say: order, page, visibility."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vmimg.service.http.errors import bad_request

__all__ = ["Order", "visibility_of"]


@dataclass(frozen=True, slots=True)
class Order:
    """An order, and a page of it."""

    key: str
    descending: bool
    limit: int | None
    marker: str | None

    @classmethod
    def of(cls, query: Mapping[str, str], keys: Collection[str], *, lowest: int = 0) -> Order:
        """What the query says.

        Raises HTTPError 400.
        """
        direction = query.get("sort_dir", "desc")
        if direction not in ("asc", "desc"):
            raise bad_request(f"Invalid sort direction: {direction}")
        key = query.get("sort_key", "created_at")
        if key not in keys:
            raise bad_request(f"Invalid sort key: {key}")
        return cls(
            key, direction == "desc", _limit(query.get("limit"), lowest), query.get("marker")
        )


def visibility_of(query: Mapping[str, str], *allowed: str) -> str | None:
    """The visibility that the query asks for.

    Raises HTTPError 400.
    """
    visibility = query.get("visibility")
    if visibility and visibility not in allowed:
        raise bad_request(f"Invalid visibility value: {visibility}")
    return visibility


def _limit(said: str | None, lowest: int) -> int | None:
    if said is None:
        return None
    try:
        limit = int(said) if len(said) < 20 else -1
    except ValueError:
        raise bad_request("limit param must be an integer") from None
    if limit < lowest:
        raise bad_request("limit param must be positive")
    return min(limit, 1 << 31)
