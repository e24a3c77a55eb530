"""How much of what vetting found is told: of one kind of trouble a few findings say enough.

Who wants all of them asks check. Imports findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from vmimg.formats.vetting import Finding

__all__ = ["bounded", "few", "some"]

_MOST_FINDINGS: Final = 8
# A description that names a thousand files is said to do so by the first of them.
_MOST_OF_ALL: Final = 64

_T = TypeVar("_T")


def few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """``findings``, but no more than eight of one code."""
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.code] = counts.get(finding.code, 0) + 1
        if counts[finding.code] <= _MOST_FINDINGS:
            yield finding


def bounded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The first 64 of ``findings``, whatever they are, and whether there were more."""
    yield from islice(findings, _MOST_OF_ALL)
    if next(findings, None) is not None:
        yield Finding.of("unfinished", f"there are more than {_MOST_OF_ALL} findings on it")


def some(found: Sequence[_T], most: int = 4) -> Iterator[tuple[_T, str]]:
    """The first of ``found``, each with what to say behind it: with the last, how many are left."""
    for number, each in enumerate(found[:most], 1):
        left = len(found) - most
        yield each, f", and so are {left} more" if number == most and left > 0 else ""
