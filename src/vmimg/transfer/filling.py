"""Filling: the stages that write a disk into an image, or onto a device, that is there already.

Nothing is known of what it holds, so zeros are written as well, unless the caller knows better.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError
from vmimg.transfer.engine import Progress, Window, run
from vmimg.transfer.windows import cell_size, data_spans, windows
from vmimg.transfer.zeros import nonzero_blocks
from vmimg.units import align_down, align_up

__all__ = ["Filling"]


class Filling:
    """One disk being written into another: the engine's Stages, and `write` that drives them.

    ``sparse``: zeros shorter than this many bytes are written as data; 0 writes all zeros so.
    ``target_is_zero``: zeros need not be written. ``data_bytes`` counts what was written.
    """

    def __init__(
        self, source: Disk, target: Disk, *, sparse: int = 4096, target_is_zero: bool = False
    ) -> None:
        if source.size > target.size:
            raise OptionError(
                f"{target.name} has {target.size} bytes, the source {source.size}: it does not fit"
            )
        self._source = source
        self._target = target
        self._block = sparse or 4096
        self._sparse = sparse > 0
        self._target_is_zero = target_is_zero
        self.data_bytes = 0

    def write(self, *, threads: int = 0, progress: Progress | None = None) -> None:
        """Copy everything, then make it durable."""
        size = self._source.size
        if not self._target_is_zero:
            for start, end, kind in self._source.spans():
                if kind != Kind.DATA:
                    self._target.zero(start, end - start)
        run(
            windows(data_spans(self._source.spans()), self._block, size),
            self,
            buffer_size=cell_size(self._block),
            total=size,
            threads=threads,
            progress=progress,
        )
        self._target.flush()

    # The engine's stages

    def load(self, window: Window, buffer: memoryview) -> memoryview:
        view = buffer[: window.end - window.start]
        self._source.read_into(window.start, view)
        return view

    def commit(self, window: Window, loaded: memoryview) -> None:
        for low, high, full in self._stretches(loaded):
            if full:
                self._target.write(window.start + low, loaded[low:high])
                self.data_bytes += high - low
            elif not self._target_is_zero:
                self._target.zero(window.start + low, high - low)

    def _stretches(self, view: memoryview) -> list[tuple[int, int, bool]]:
        """(start, end, holds data) in bytes, covering ``view``."""
        block = self._block
        whole = align_down(len(view), block)
        full = np.ones(align_up(len(view), block) // block, np.bool_)
        if self._sparse and whole:
            full[: whole // block] = nonzero_blocks(view[:whole], block)
        edges = [0, *(np.flatnonzero(full[1:] != full[:-1]) + 1).tolist(), len(full)]
        return [
            (low * block, min(high * block, len(view)), bool(full[low]))
            for low, high in pairwise(edges)
        ]
