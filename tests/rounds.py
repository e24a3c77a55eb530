"""How often a test that lives on chance tries: the one place that says so.

A run that leaves the slow tests out (`make test`) tries a part of the times, any other run, of one
file or of all (`make test-all`), tries all of them. conftest.py says which run it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

__all__ = ["brief", "one_of", "rounds", "some"]

_T = TypeVar("_T")
# Of so many rounds one is made.
_ONE_OF: Final = 3
_is_brief = False


def brief() -> None:
    """This run leaves the slow tests out."""
    global _is_brief
    _is_brief = True


def one_of() -> int:
    """Of how many rounds one is made."""
    return _ONE_OF if _is_brief else 1


def rounds(all: int, *, least: int = 3) -> int:
    """How often to try what is tried ``all`` times where time does not matter; ``least`` times
    always.
    """
    return max(min(all, least), all // one_of())


def some(cases: Sequence[_T]) -> Sequence[_T]:
    """As many of ``cases`` as there are rounds, from the first to the last of them."""
    many = rounds(len(cases))
    return [cases[number * (len(cases) - 1) // max(1, many - 1)] for number in range(many)]
