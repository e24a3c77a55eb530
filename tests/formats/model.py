"""A disk that is written into at random, beside the bytearray that it must equal."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from vmimg.formats.opening import open_disk

__all__ = ["Operation", "Twins", "operation_lists"]


class Operation(NamedTuple):
    """``where``: as a share of the disk, rounded down to the next multiple of ``unit``."""

    what: str
    where: float
    length: int
    unit: int
    seed: int

    def span(self, size: int) -> tuple[int, int]:
        """Start and length on a disk of ``size``."""
        start = int(self.where * size) // self.unit * self.unit
        return start, min(self.length, size - start)


def operation_lists(
    lengths: Sequence[int],
    units: Sequence[int],
    *,
    most: int,
    writes: int = 5,
    others: Sequence[str] = ("zero", "discard", "flush", "reopen"),
) -> st.SearchStrategy[list[Operation]]:
    """Up to ``most`` operations; a write is ``writes`` times as likely as any one of the others."""
    operation = st.builds(
        Operation,
        what=st.sampled_from(["write"] * writes + [*others]),
        where=st.floats(0, 1, exclude_max=True),
        length=st.sampled_from(lengths),
        unit=st.sampled_from(units),
        seed=st.integers(0, 1 << 16),
    )
    return st.lists(operation, min_size=1, max_size=most)


class Twins:
    """``disk``, the image opened for writing, and ``content``, what it must read as: at first what
    it is said to be, or what it is.
    """

    def __init__(
        self,
        image: Path,
        content: bytes | bytearray | None = None,
        *,
        key: bytes | None = None,
    ) -> None:
        self.image = image
        self.key = key
        self.disk = open_disk(image, writable=True, keys=key)
        self.content = bytearray(self.disk.read(0, self.disk.size) if content is None else content)

    def perform(self, operation: Operation, *, some_zeros: bool = True) -> tuple[int, int]:
        """Do it to both: where it was. ``some_zeros``: a fifth of what is written is zeros."""
        start, length = operation.span(len(self.content))
        if operation.what == "write":
            zeros = some_zeros and operation.seed % 5 == 0
            data = bytes(length) if zeros else random.Random(operation.seed).randbytes(length)
            self.disk.write(start, data)
            self.content[start : start + length] = data
        elif operation.what in ("zero", "discard"):
            (self.disk.zero if operation.what == "zero" else self.disk.discard)(start, length)
            self.content[start : start + length] = bytes(length)
        elif operation.what == "flush":
            self.disk.flush()
        else:
            assert operation.what == "reopen", operation
            with self.closed():
                pass
        return start, length

    @contextmanager
    def closed(self) -> Iterator[None]:
        """The image is closed meanwhile."""
        self.disk.close()
        yield
        self.disk = open_disk(self.image, writable=True, keys=self.key)
