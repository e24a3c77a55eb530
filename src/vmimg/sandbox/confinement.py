"""Confinement: what holds a sandboxed process, and the numbers it is held to. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MISSING", "Confinement", "Limits"]

MISSING: Final = "missing: "
"""How the text of a part begins that this system does not have."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a parser may use: ``memory`` in bytes, on top of what the interpreter takes; processor
    time and time by the clock in seconds, both without the start of the interpreter's.
    """

    # vet promises to do with 256 MiB and 2 s of processor time, on a processor of today.
    memory: int = 256 << 20
    processor_seconds: int = 10
    seconds: float = 30


@dataclass(frozen=True, slots=True)
class Confinement:
    """What held the parser. Each part says what it is, or "missing: " and why."""

    limits: str
    landlock: str
    seccomp: str

    @property
    def missing(self) -> tuple[str, ...]:
        """What this system lacks, a phrase for each part; empty where the confinement is whole."""
        return tuple(
            f"{title} is missing: {text.removeprefix(MISSING)}"
            for title, text in self._parts()
            if text.startswith(MISSING)
        )

    def to_json(self) -> dict[str, Any]:
        """The parts, and whether all of them are there."""
        return {
            "limits": self.limits,
            "landlock": self.landlock,
            "seccomp": self.seccomp,
            "complete": not self.missing,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Confinement:
        """Raises ValueError for what `to_json` cannot have made."""
        texts = [facts.get(name) for name in ("limits", "landlock", "seccomp")]
        if not all(isinstance(text, str) and len(text) < 300 for text in texts):
            raise ValueError("no confinement")
        return cls(*map(str, texts))

    def __str__(self) -> str:
        there = [f"{title} ({t})" for title, t in self._parts() if not t.startswith(MISSING)]
        return "; ".join((", ".join(there) or "nothing", *self.missing))

    def _parts(self) -> tuple[tuple[str, str], ...]:
        return (
            ("resource limits", self.limits),
            ("Landlock", self.landlock),
            ("seccomp", self.seccomp),
        )
