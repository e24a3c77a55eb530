"""Ranges of a file that hold metadata, and what touches them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.header import SparseHeader

__all__ = ["Ranges", "metadata_ranges"]


class Ranges:
    """Ranges of bytes, which may overlap."""

    def __init__(
        self, starts: NDArray[np.int64] | None = None, lengths: NDArray[np.int64] | None = None
    ) -> None:
        self._starts = np.empty(0, np.int64) if starts is None else starts
        self._ends = self._starts if lengths is None else self._starts + lengths
        self._order()

    def add(self, starts: NDArray[np.int64], length: int) -> None:
        self._starts = np.concatenate((self._starts, starts))
        self._ends = np.concatenate((self._ends, starts + length))
        self._order()

    def overlap(self, places: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Which of ``places``, each ``length`` bytes long, touch one of the ranges: bool[n]."""
        if not len(self._starts):
            return np.zeros(len(places), np.bool_)
        last = np.searchsorted(self._starts, places + length) - 1
        touched: NDArray[np.bool_] = (last >= 0) & (self._ends[last] > places)
        return touched

    def _order(self) -> None:
        order = np.argsort(self._starts, kind="stable")
        self._starts = self._starts[order]
        self._ends = np.maximum.accumulate(self._ends[order])


def metadata_ranges(header: SparseHeader, *directories: NDArray[np.int64] | None) -> Ranges:
    """Where a sparse extent has its metadata. ``directories``: byte offsets of its grain tables."""
    length = header.gd_entries * header.entry_size
    ranges = [(0, s.SECTOR if header.kind != "COWD" else header.overhead)]
    ranges.append((header.descriptor_offset, header.descriptor_size))
    ranges.append((header.gd_offset, length))
    if header.rgd_offset is not None:
        ranges.append((header.rgd_offset, length))
    starts = [np.array([start for start, _ in ranges], np.int64)]
    lengths = [np.array([length for _, length in ranges], np.int64)]
    for tables in directories:
        if tables is not None:
            named = tables[tables != 0]
            starts.append(named)
            lengths.append(np.full(len(named), header.table_bytes, np.int64))
    return Ranges(np.concatenate(starts), np.concatenate(lengths))
