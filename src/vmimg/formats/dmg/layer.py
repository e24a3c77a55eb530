"""DmgLayer: reads a DMG, and the disk that lies bare in an encrypted one."""

from __future__ import annotations

from typing import Final

import numpy as np

from vmimg.codecs import codec
from vmimg.disk.chunkmap import ChunkLayer, ChunkTable
from vmimg.disk.extent import Kind
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.chunks import all_chunks
from vmimg.formats.dmg.partitions import read_partitions, virtual_size
from vmimg.formats.dmg.trailer import find_trailer, read_trailer
from vmimg.storage.base import Buffer, Storage
from vmimg.units import align_up

__all__ = ["DmgLayer", "open_bytes"]


_CODECS: Final = {kind & 0xFF: name for kind, name in s.CODERS.items()}
"""Name of the coder by the lowest byte of a chunk's type."""


class DmgLayer(ChunkLayer):
    """A DMG's disk; ``table`` as `all_chunks` gives it."""

    format = "dmg"

    def __init__(self, storage: Storage, size: int, table: ChunkTable) -> None:
        super().__init__(size, table, storage)
        self.name = storage.name

    def decode(self, coder: int, data: memoryview, length: int) -> Buffer:
        return codec(_CODECS[coder]).decompress(data, length)


def open_bytes(storage: Storage) -> DmgLayer:
    """The layer of ``storage``, which is not encrypted, or not any more: then it may be the bare
    disk, without a trailer.
    """
    if find_trailer(storage) is None:
        return DmgLayer(storage, align_up(storage.size, s.SECTOR), _bare(storage.size))
    trailer = read_trailer(storage)
    partitions = read_partitions(storage, trailer)
    size = virtual_size(trailer, partitions)
    return DmgLayer(storage, size, all_chunks(storage, size, partitions))


def _bare(size: int) -> ChunkTable:
    """One plain chunk."""
    count = min(1, size)
    return ChunkTable(
        np.zeros(count, np.int64),
        np.full(count, size, np.int64),
        np.full(count, int(Kind.DATA), np.uint8),
        np.zeros(count, np.int64),
        np.full(count, size, np.int64),
        np.full(count, s.RAW, np.uint8),
    )
