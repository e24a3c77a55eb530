"""Extent: what an image says about a range of virtual bytes. Imports nothing; numpy-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Extent", "Kind"]


class Kind(IntEnum):
    """What a layer says of a virtual byte. Arrays of kinds are uint8."""

    ABSENT = 0
    """Not here: ask the parent; zeros where there is none."""
    ZERO = 1
    """Reads as zeros and hides the parent."""
    DATA = 2
    """Stored here."""


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` virtual bytes from ``start`` that are of one kind.

    ``offset`` is where the first byte lies in its container, when stored plainly (also the
    preallocated place of a ZERO extent); None otherwise. ``depth`` counts layers from the top, in
    the map of a disk. ``file`` names the container where it is not the image's own file.
    """

    start: int
    length: int
    kind: Kind
    offset: int | None = None
    compressed: bool = False
    depth: int = 0
    file: str | None = None

    @property
    def end(self) -> int:
        """First virtual byte behind the extent."""
        return self.start + self.length
