"""Parts of a body that a client asks for: Range, If-Range, If-Match, If-None-Match.

RFC 9110, chapters 13 and 14. One range at a time: who asks for several gets all of it, as a server
may answer. ``Content-Range`` in a request, which old clients of Glance send, counts as Range.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vmimg.service.http.errors import HTTPError

__all__ = ["is_unchanged", "wanted"]

_RANGE: Final = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.I)
_CONTENT_RANGE: Final = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", re.I)
# A number of more digits is no offset in anything.
_MOST_DIGITS: Final = 19


def wanted(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """The first byte and the one behind the last; None for all of it.

    Raises HTTPError 416 for a range that is not in ``size`` bytes, or is none.
    """
    asked = headers.get("range")
    if asked is None:
        return _of_content_range(headers.get("content-range"), size)
    condition = headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    match = _RANGE.fullmatch(asked)
    if match is None:
        if re.fullmatch(r"\s*bytes\s*=[\d\s,-]*,[\d\s,-]*", asked, re.I):
            return None
        raise _unsatisfiable(size)
    first, last = match.groups()
    if max(len(first), len(last)) > _MOST_DIGITS or not (first or last):
        raise _unsatisfiable(size)
    if not first:
        length = int(last)
        if not length or not size:
            raise _unsatisfiable(size)
        return max(0, size - length), size
    start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size or start >= end:
        raise _unsatisfiable(size)
    return start, end


def _of_content_range(asked: str | None, size: int) -> tuple[int, int] | None:
    if asked is None:
        return None
    match = _CONTENT_RANGE.fullmatch(asked)
    if match is None or max(map(len, match.groups())) > _MOST_DIGITS:
        raise _unsatisfiable(size)
    start, end = int(match[1]), int(match[2]) + 1
    if start >= end or end > size:
        raise _unsatisfiable(size)
    return start, end


def is_unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has it already. Raises HTTPError 412 where it wants another one only."""
    match = headers.get("if-match")
    if match is not None and not _names(match, etag):
        raise HTTPError(412)
    none_match = headers.get("if-none-match")
    return none_match is not None and _names(none_match, etag)


def _names(condition: str, etag: str) -> bool:
    names = {each.strip().removeprefix("W/") for each in condition.split(",")}
    return "*" in names or etag in names


def _unsatisfiable(size: int) -> HTTPError:
    return HTTPError(
        416, "The requested range cannot be satisfied.", {"content-range": f"bytes */{size}"}
    )
