"""What a DMG begins with, which is its first chunk: it may look like a file of another kind.

Chunks that are not compressed show the partition table of the disk; others are whole streams of
bzip2 or xz. So that nobody takes that for a second format, the block tables are asked what is at
the first byte. Imports partitions; no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.partitions import Partition, read_partitions
from vmimg.formats.dmg.trailer import find_trailer, read_trailer
from vmimg.storage.base import NotHeld, Storage

__all__ = ["CLAIMS", "first_chunk"]

CLAIMS: Final[Mapping[int | None, tuple[str, ...]]] = {
    s.BZIP2: ("bzip2",),
    s.LZMA: ("xz", "lzma"),
    s.ZLIB: ("zlib",),
}
"""Names of claims on such chunks, by their type."""

# Looking at what a file is must not take long: larger tables are not asked.
_MAX_LIST: Final = 2 << 20
_MAX_ENTRIES: Final = 64


def first_chunk(storage: Storage) -> int | None:
    """The type of the chunk at the first byte of the file; None where there is none, or it is not
    known.
    """
    if storage.size < s.KOLY_SIZE or not find_trailer(storage):
        return None  # no trailer, or it is in front itself
    try:
        trailer = read_trailer(storage)
        if max(trailer.list_length, trailer.resource_length) > _MAX_LIST:
            return None
        partitions = read_partitions(storage, trailer)
    except (FormatError, UnsupportedFeature, NotHeld):
        return None
    found = (kind for each in partitions for kind in _at_zero(each))
    return next(found, None)


def _at_zero(partition: Partition) -> list[int]:
    """Types of the first chunks of a table that lie at the first byte of the file."""
    kinds = []
    for place in range(0, min(len(partition.entries), _MAX_ENTRIES * s.ENTRY_SIZE), s.ENTRY_SIZE):
        entry = s.ChunkEntry.from_buffer_copy(partition.entries, place)
        stored = entry.type == s.RAW or entry.type in s.CODERS
        if stored and entry.length and partition.data_offset + entry.offset == 0:
            kinds.append(int(entry.type))
    return kinds
