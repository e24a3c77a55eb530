"""The header of a cloop, whichever of its layouts it is, as one object. No numpy.

::

    V2.0    header | n + 1 offsets | blocks
    V4.0    header | n + 1 offsets | blocks      or      blocks | n + 1 offsets | header
    CLOOP3  blocks | padding | counts | n + 1 offsets | n flags | tail

A header is the beginning of a shell script that mounts the file, padded to 128 bytes, with the
block size and the number of blocks behind it. Offsets count from the start of the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.cloop import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["CloopHeader", "claim", "read_header"]


@dataclass(slots=True)
class CloopHeader:
    """What is said once for the whole image. Offsets and sizes in bytes.

    ``index``: where the offsets of the blocks are. ``flags``: where CLOOP3 has the flags, else
    None. ``at_end``: the index is behind the data.
    """

    version: int
    block_size: int
    blocks: int
    size: int
    index: int
    flags: int | None = None
    at_end: bool = False

    @property
    def index_end(self) -> int:
        """The first byte behind the offsets."""
        return self.index + s.OFFSET_SIZE * (self.blocks + 1)


def claim(storage: Storage) -> int:
    """How sure it is that this is a cloop; see Driver.probe."""
    found = _find(storage)
    if found is None:
        return 0
    version, at_end = found
    if version == 3:
        return 100
    start = storage.size - s.HEAD_SIZE if at_end else 0
    if storage.read(start, len(s.SCRIPT)) == s.SCRIPT:
        return 100
    # The kernel module looks at four letters only. Here what stands behind them has to fit as well.
    try:
        read_header(storage)
    except (FormatError, UnsupportedFeature):
        return 0
    return 60


def read_header(storage: Storage) -> CloopHeader:
    """The header of ``storage``, its numbers checked against the file's size.

    Raises FormatError, UnsupportedFeature.
    """
    found = _find(storage)
    if found is None:
        raise FormatError(
            f"{storage.name}: is no cloop: neither its beginning nor its end has a signature"
        )
    version, at_end = found
    header = _version_3(storage) if version == 3 else _scripted(storage, version, at_end)
    _check(storage, header)
    return header


def _find(storage: Storage) -> tuple[int, bool] | None:
    """(version, header at the end) by the signatures; the front first, as in the kernel module."""
    if storage.size >= s.HEAD_SIZE:
        for start, at_end in ((0, False), (storage.size - s.HEAD_SIZE, True)):
            version = s.SIGNATURES.get(storage.read(start + s.SIGNATURE_OFFSET, 4))
            if version is not None:
                return version, at_end
    if storage.size >= s.TAIL3_SIZE:
        place = storage.size - len(s.SIGNATURE3)
        if storage.read(place, len(s.SIGNATURE3)) == s.SIGNATURE3:
            return 3, True
    return None


def _scripted(storage: Storage, version: int, at_end: bool) -> CloopHeader:
    start = storage.size - s.HEAD_SIZE if at_end else 0
    head = s.Head.from_buffer_copy(storage.read(start, s.HEAD_SIZE))
    length = s.OFFSET_SIZE * (head.num_blocks + 1)
    index = start - length if at_end else s.HEAD_SIZE
    if index < 0 or index + length > storage.size:
        raise FormatError(
            f"{storage.name}: the index of {head.num_blocks} blocks has {length} bytes, the file "
            f"{storage.size}: it is truncated or damaged"
        )
    return CloopHeader(
        version=version,
        block_size=head.block_size,
        blocks=head.num_blocks,
        size=head.block_size * head.num_blocks,
        index=index,
        at_end=at_end,
    )


def _version_3(storage: Storage) -> CloopHeader:
    tail = s.Tail3.from_buffer_copy(storage.read(storage.size - s.TAIL3_SIZE, s.TAIL3_SIZE))
    if tail.version != 3:
        raise UnsupportedFeature(
            f"{storage.name}: a cloop of version {tail.version}; known are 2, 3 and 4"
        )
    start, end = int(tail.index_offset), storage.size - s.TAIL3_SIZE
    if start + s.INDEX3_SIZE > end:
        raise FormatError(
            f"{storage.name}: its index is said to be at {start}, but the file ends at "
            f"{storage.size}: it is damaged"
        )
    counts = s.Index3.from_buffer_copy(storage.read(start, s.INDEX3_SIZE))
    blocks, block_size = int(counts.num_blocks), int(counts.block_size)
    index = start + s.INDEX3_SIZE
    flags = index + s.OFFSET_SIZE * (blocks + 1)
    if flags + s.FLAG_SIZE * blocks > end:
        raise FormatError(
            f"{storage.name}: the index of {blocks} blocks at {start} reaches behind the end of "
            f"the file ({storage.size}): it is damaged"
        )
    size = int(counts.original_size)
    if size > blocks * block_size or (blocks and size <= (blocks - 1) * block_size):
        raise FormatError(
            f"{storage.name}: a disk of {size} bytes does not have {blocks} blocks "
            f"of {block_size} bytes"
        )
    return CloopHeader(3, block_size, blocks, align_up(size, 512), index, flags, at_end=True)


def _check(storage: Storage, header: CloopHeader) -> None:
    if not header.block_size or header.block_size % 512:
        raise FormatError(
            f"{storage.name}: a block size of {header.block_size} bytes is not a multiple of 512"
        )
    if header.block_size > s.MAX_BLOCK_SIZE:
        raise UnsupportedFeature(
            f"{storage.name}: blocks of {header.block_size} bytes; {s.MAX_BLOCK_SIZE} is the most "
            "that is read, here and by QEMU"
        )
