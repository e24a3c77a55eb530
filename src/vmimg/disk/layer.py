"""Layer: one image file without its parents.

A layer says of every virtual byte one of three things: DATA (stored here), ZERO (reads as zeros and
hides the parent) or ABSENT (ask the parent). It never reads its parent; the stack that does is
`vmimg.disk.stack.Disk`. Imports storage and below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.disk.extent import Extent, Span, joined_spans
from vmimg.errors import UnsupportedFeature
from vmimg.storage.base import Buffer

__all__ = ["UNNAMED", "Layer", "ParentRef"]

UNNAMED: Final = "uuid:"
"""How the path of a ParentRef begins that knows the parent's identifier only."""


@dataclass(frozen=True, slots=True)
class ParentRef:
    """What an image file says of its parent: words from a file, not yet believed.

    ``path`` is as written in the image; ``format`` is None where the image declares none.
    ``alternatives``: other paths that the image names for the same parent, tried in this order
    where ``path`` is not to be had. Where the image names no file, only an identifier, ``path`` is
    UNNAMED and the identifier behind it.
    """

    path: str
    format: str | None
    alternatives: tuple[str, ...] = ()


class Layer(ABC):
    """One image file. Reads may come from many threads; writes are serialised by the layer."""

    name: str
    """What to call it in messages."""
    format: str
    """Registry name of its format."""
    size: int
    """Virtual bytes."""
    writable: bool = False
    parent: ParentRef | None = None
    beneath: Layer | None = None
    """The next layer where it is a part of the same image (an earlier state), open already; then
    there is no ``parent``."""
    granularity: int = 1
    """Bytes that become present together when written: the caller must supply whole units of this
    size wherever a unit is ABSENT and the parent shows through."""

    @property
    def is_child(self) -> bool:
        """Whether something shows through where this layer is ABSENT."""
        return self.parent is not None or self.beneath is not None

    @abstractmethod
    def map(self, start: int, end: int) -> Iterator[Extent]:
        """Extents covering [start, end) in order; neighbours that continue each other are one."""

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """Like map, but merged by kind alone: what is here, whatever its place in the file."""
        extents = self.map(start, end)
        return joined_spans((extent.start, extent.end, extent.kind) for extent in extents)

    @abstractmethod
    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        """Fill ``buffer`` from virtual ``offset`` wherever this layer has DATA or ZERO.

        Returns the (start, end) ranges, in virtual bytes, that are ABSENT here; what the buffer
        holds there is undefined. The range must lie inside the layer.
        """

    def parent_mismatch(self, parent: Layer) -> str | None:
        """Why ``parent`` is not the disk that this image was made above, or has changed since.

        In words for people that go on from "its parent base.vmdk", naming both identifiers; None
        where nothing speaks against it.
        """
        return None

    def write(self, offset: int, data: Buffer) -> None:
        """Store ``data`` at virtual ``offset``; see granularity for what must be whole."""
        raise UnsupportedFeature(f"{self.name}: {self.format} cannot be written in place")

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        """Make a range read as zeros, parents hidden; with ``discard``, give its space back too.

        Units of granularity that are cut by the range must not be ABSENT above a parent.
        """
        raise UnsupportedFeature(f"{self.name}: {self.format} cannot be written in place")

    def flush(self) -> None:
        """Everything written so far is durable when this returns."""

    @abstractmethod
    def close(self) -> None:
        """Write back what is held, mark the image clean, and release its files."""
