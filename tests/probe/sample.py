"""Sample: a small file that a test makes, what it is, and what vetting must say of it.

The modules `samples_*` have them by family. They serve the tests of detect and vet, the comparison
with OpenStack's inspector, and as seeds of the fuzzers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """``make`` builds it in an empty folder and returns its path. ``claim``: the name of the best
    claim on it. ``codes``: what vetting must find at least, each with severity error under the
    policy "strict"; none for a good file, of which no policy of a person's own desktop finds
    anything of severity error. ``peers``: what making it takes (tests/peers.py).
    """

    name: str
    make: Callable[[Path], Path]
    claim: str = ""
    codes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name
