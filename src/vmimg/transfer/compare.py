"""compare: whether two disks hold the same bytes, whatever their formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from vmimg.disk.extent import Span
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import RangeLayer
from vmimg.formats.keys import Keys
from vmimg.transfer.engine import Progress, Window, run
from vmimg.transfer.sources import open_source
from vmimg.transfer.windows import cell_size, data_spans, union, windows

__all__ = ["CompareResult", "compare"]

_DEFAULT_POLICY = ParentPolicy()
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class CompareResult:
    """``identical``; otherwise ``offset`` is the first byte that differs (None where it is the
    sizes).

    ``message`` says it in a line; ``warning`` is set where the sizes differ and the rest is zeros.
    """

    identical: bool
    offset: int | None
    message: str
    warning: str = ""


def compare(
    a: str | os.PathLike[str] | Disk,
    b: str | os.PathLike[str] | Disk,
    *,
    format_a: str | None = None,
    format_b: str | None = None,
    strict: bool = False,
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> CompareResult:
    """Compare what the guests of ``a`` and ``b`` see.

    Disks of different sizes are identical when the larger one ends in zeros. ``strict``: sizes, and
    what is allocated where, must be the same, too. Open disks stay open. Raises what opening and
    reading raise.
    """
    with ExitStack() as stack:

        def opened(source: str | os.PathLike[str] | Disk, format: str | None) -> Disk:
            if isinstance(source, Disk):
                return source
            path = os.fspath(source)
            return stack.enter_context(
                open_source(path, format, share=share, policy=policy, keys=keys)
            )

        first, second = opened(a, format_a), opened(b, format_b)
        if strict and first.size != second.size:
            return CompareResult(False, None, "Strict mode: Image size mismatch!")
        if strict:
            offset = _status_mismatch(first.spans(), second.spans())
            if offset is not None:
                message = f"Strict mode: Offset {offset} block status mismatch!"
                return CompareResult(False, offset, message)
        offset = _mismatch(first, second, threads, progress)
        if offset is not None:
            return CompareResult(False, offset, f"Content mismatch at offset {offset}!")
        warning = "" if first.size == second.size else "Image size mismatch!"
        return CompareResult(True, None, "Images are identical.", warning)


def _mismatch(a: Disk, b: Disk, threads: int, progress: Progress | None) -> int | None:
    size = max(a.size, b.size)
    pair = [d if d.size == size else Disk([RangeLayer(d, 0, size)]) for d in (a, b)]
    spans = union(data_spans(pair[0].spans()), data_spans(pair[1].spans()))
    comparing = _Comparing(*pair)
    try:
        run(
            windows(spans, _SECTOR, size),
            comparing,
            buffer_size=2 * cell_size(_SECTOR),
            total=size,
            threads=threads,
            progress=progress,
        )
    except _Found as found:
        return found.offset
    return None


class _Found(Exception):
    """Ends the comparison."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class _Comparing:
    """The engine's Stages: commit runs in order, so that the first difference is the first."""

    def __init__(self, a: Disk, b: Disk) -> None:
        self._a = a
        self._b = b

    def load(self, window: Window, buffer: memoryview) -> int | None:
        length = window.end - window.start
        left, right = buffer[:length], buffer[length : 2 * length]
        self._a.read_into(window.start, left)
        self._b.read_into(window.start, right)
        if np.array_equal(np.frombuffer(left, np.uint64), np.frombuffer(right, np.uint64)):
            return None
        differs = np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8)
        return window.start + int(np.argmax(differs))

    def commit(self, window: Window, loaded: int | None) -> None:
        if loaded is not None:
            raise _Found(loaded)


def _status_mismatch(a: Iterator[Span], b: Iterator[Span]) -> int | None:
    """The first offset at which the kinds of two maps over the same range differ."""
    left, right = next(a, None), next(b, None)
    while left is not None and right is not None:
        if left[2] != right[2]:
            return max(left[0], right[0])
        end = min(left[1], right[1])
        left = next(a, None) if left[1] == end else left
        right = next(b, None) if right[1] == end else right
    return None
