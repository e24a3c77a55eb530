"""Extent: what an image says about a range of virtual bytes. Imports nothing; numpy-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = ["Extent", "Kind", "Span", "joined", "joined_spans"]


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

    def continues(self, before: Extent) -> bool:
        """Whether this and ``before``, which ends where this begins, are one extent."""
        same = (self.kind, self.depth, self.compressed, self.file)
        if same != (before.kind, before.depth, before.compressed, before.file):
            return False
        if before.offset is None or self.offset is None:
            return before.offset is self.offset
        return before.offset + before.length == self.offset


Span = tuple[int, int, Kind]
"""(start, end, kind) in virtual bytes."""


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same, with neighbours that continue each other as one."""
    held: Extent | None = None
    for extent in extents:
        if held is not None and extent.continues(held):
            held = replace(held, length=held.length + extent.length)
            continue
        if held is not None:
            yield held
        held = extent
    if held is not None:
        yield held


def joined_spans(spans: Iterable[Span]) -> Iterator[Span]:
    """The same, with neighbours of one kind as one."""
    held: Span | None = None
    for span in spans:
        if held is not None and held[2] == span[2]:
            held = (held[0], span[1], held[2])
            continue
        if held is not None:
            yield held
        held = span
    if held is not None:
        yield held
