"""Windows: which parts of a disk have to be looked at, cut for the engine.

A window lies inside one cell of a fixed grid and covers what the cell holds from its first to its
last piece of data, rounded to blocks of the target. The cut depends on the source and the block
size only, so that every run over an image makes the same windows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from vmimg.disk.extent import Kind, Span
from vmimg.transfer.engine import Window
from vmimg.units import MIB, align_down, align_up

__all__ = ["cell_size", "data_spans", "union", "windows"]

# What Python does per window (some 100 us) does not show at this size. Measured on 1.8 GiB of data,
# raw to qcow2: 1.4 s with 512 KiB, 1.1 s with 1 MiB, 1.0 s with 2 MiB, 0.95 s with 4 MiB and more.
_CELL = 4 * MIB


def cell_size(block_size: int) -> int:
    """Bytes of a cell of the grid: a multiple of ``block_size``."""
    return max(1, _CELL // block_size) * block_size


def data_spans(spans: Iterable[Span]) -> Iterator[tuple[int, int]]:
    """The (start, end) of DATA among ``spans``."""
    return ((start, end) for start, end, kind in spans if kind == Kind.DATA)


def union(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges that ``a`` or ``b`` covers; both are ascending."""
    held: tuple[int, int] | None = None
    for start, end in heapq.merge(a, b):
        if held is not None and start <= held[1]:
            held = (held[0], max(held[1], end))
            continue
        if held is not None:
            yield held
        held = (start, end)
    if held is not None:
        yield held


def windows(spans: Iterable[tuple[int, int]], block_size: int, size: int) -> Iterator[Window]:
    """Cut ``spans`` (ascending, bytes) into windows. Starts are multiples of ``block_size``; ends
    are, too, or are the end of the disk, ``size``.
    """
    cell = cell_size(block_size)
    held: Window | None = None
    for start, end in spans:
        position = align_down(start, block_size)
        stop = min(align_up(end, block_size), size)
        if held is not None:
            position = max(position, held.end)
        while position < stop:
            border = align_down(position, cell) + cell
            piece = min(stop, border)
            if held is not None and align_down(held.start, cell) + cell == border:
                held = Window(held.start, piece)
            else:
                if held is not None:
                    yield held
                held = Window(position, piece)
            position = piece
    if held is not None:
        yield held
