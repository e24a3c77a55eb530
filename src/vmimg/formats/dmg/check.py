"""Checks a DMG: its structure, by reading it, and every checksum that it has.

Each partition has one of its data, the trailer one of the data fork as it is stored and one of the
partitions' checksums. Chunks are decoded in parallel, and the checksums put together in order, so
that memory stays bounded. What a chunk of type 2 stands for is in no checksum.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

from vmimg.codecs.crc32 import crc32, crc32_join, crc32_zeros
from vmimg.disk.chunkmap import COMPRESSED, ChunkTable
from vmimg.errors import FormatError
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.chunks import all_chunks, partition_chunks
from vmimg.formats.dmg.layer import DmgLayer
from vmimg.formats.dmg.partitions import Partition, read_partitions, virtual_size
from vmimg.formats.dmg.trailer import Trailer, read_trailer
from vmimg.formats.driver import CheckReport
from vmimg.storage.base import Storage

__all__ = ["check_image"]

# What one thread reads at a time where nothing has to be decoded.
_PIECE: Final = 4 << 20
_MOST_THREADS: Final = 16
_SHOWN: Final = 20

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_image(storage: Storage) -> CheckReport:
    """Verify all of the image in ``storage``. What is wrong with the structure is raised."""
    trailer = read_trailer(storage)
    partitions = read_partitions(storage, trailer)
    size = virtual_size(trailer, partitions)
    table = all_chunks(storage, size, partitions)
    report = CheckReport(
        format="dmg",
        total_clusters=len(table),
        allocated_clusters=int(np.count_nonzero(table.offsets >= 0)),
        compressed_clusters=int(np.count_nonzero(table.kinds == COMPRESSED)),
        image_end_offset=storage.size,
    )
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        check = _Check(storage, report, pool, threads)
        _check_cover(report, table, size)
        for partition in partitions:
            check.partition(partition, size)
        check.data_fork(trailer)
    _check_master(report, trailer, partitions)
    if len(report.problems) > _SHOWN:
        more = len(report.problems) - _SHOWN
        report.problems[_SHOWN:] = [f"and {more} more problems"]
    return report


class _Check:
    """What checking goes on with."""

    def __init__(
        self, storage: Storage, report: CheckReport, pool: ThreadPoolExecutor, threads: int
    ) -> None:
        self._storage = storage
        self._report = report
        self._pool = pool
        self._threads = threads

    def partition(self, partition: Partition, size: int) -> None:
        """Decode all chunks of a partition, and compare their checksum."""
        chunks = partition_chunks(self._storage, partition)
        name = partition.name or f"partition {partition.id}"
        ends = chunks.starts + chunks.lengths
        limit = partition.start + partition.size
        outside = np.count_nonzero((ends > limit) & (chunks.starts >= partition.start))
        if outside:
            self._fail(f"'{name}': {outside} chunks reach behind its end")
        layer = DmgLayer(self._storage, size, chunks.take(np.argsort(chunks.starts, kind="stable")))
        rows = np.searchsorted(layer.table.starts, chunks.starts)
        crc, damaged = 0, False
        pieces = _pieces(chunks, rows.tolist())
        for one, length, problem in self._spread(lambda piece: _read(layer, *piece), pieces):
            if problem:
                damaged = True
                self._fail(f"'{name}': {problem}")
            else:
                crc = crc32_join(crc, one, length)
        if partition.checksum is None or damaged:
            return
        if crc != partition.checksum:
            self._fail(
                f"'{name}': its data has the checksum {crc:08x}, not {partition.checksum:08x}"
            )

    def data_fork(self, trailer: Trailer) -> None:
        """Compare the checksum of the data fork as it is stored."""
        if trailer.data_checksum is None:
            return
        start, end = trailer.data_offset, trailer.data_offset + trailer.data_length
        pieces = ((at, min(_PIECE, end - at)) for at in range(start, end, _PIECE))
        crc = 0
        for one, length in self._spread(lambda piece: self._read_stored(*piece), pieces):
            crc = crc32_join(crc, one, length)
        if crc != trailer.data_checksum:
            self._fail(f"the data fork has the checksum {crc:08x}, not {trailer.data_checksum:08x}")

    def _read_stored(self, offset: int, length: int) -> tuple[int, int]:
        return crc32(self._storage.read(offset, length)), length

    def _fail(self, problem: str) -> None:
        self._report.corruptions += 1
        self._report.problems.append(problem)

    def _spread(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work(item)`` of all items, in their order, a few of them at a time."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > 2 * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


Piece = tuple[int, int, int, int]
"""Row, kind, and the stretch of a chunk, in bytes from its start, that is looked at."""


def _pieces(chunks: ChunkTable, rows: list[int]) -> Iterator[Piece]:
    """What is in the checksum of a partition, in the order of its table, in bounded pieces."""
    columns = (chunks.kinds, chunks.lengths, chunks.coders)
    listed = zip(rows, *(column.tolist() for column in columns), strict=True)
    for row, kind, length, coder in listed:
        if coder == s.IGNORE:
            continue
        step = _PIECE if coder == s.RAW else length
        for start in range(0, length, step):
            yield row, kind, start, min(length, start + step)


def _read(layer: DmgLayer, row: int, kind: int, start: int, end: int) -> tuple[int, int, str]:
    """(checksum, bytes, what is wrong) of a piece."""
    length = end - start
    if kind == COMPRESSED:
        try:
            return crc32(layer.decoded(row)), length, ""
        except FormatError as error:
            return 0, length, str(error).removeprefix(f"{layer.name}: ")
    if int(layer.table.offsets[row]) < 0:
        return crc32_zeros(length), length, ""
    place = int(layer.table.offsets[row]) + start
    return crc32(layer.data.read(place, length)), length, ""


def _check_cover(report: CheckReport, table: ChunkTable, size: int) -> None:
    """Say what no chunk covers: it reads as zeros here, in QEMU it is an input/output error."""
    missing = size - int(table.lengths.sum())
    if missing:
        report.problems.append(f"{missing} bytes of the disk are in no chunk")


def _check_master(report: CheckReport, trailer: Trailer, partitions: list[Partition]) -> None:
    """Compare the checksum of the partitions' checksums."""
    sums = [partition.checksum for partition in partitions]
    if trailer.master_checksum is None or None in sums:
        return
    crc = crc32(b"".join((each or 0).to_bytes(4, "big") for each in sums))
    if crc != trailer.master_checksum:
        report.corruptions += 1
        report.problems.append(
            f"the checksums of the partitions have the checksum {crc:08x}, not "
            f"{trailer.master_checksum:08x}"
        )
