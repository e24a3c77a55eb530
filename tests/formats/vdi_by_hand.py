"""VDI images made by hand, for what no program at hand makes: old headers, extra data in front of
blocks, undo images, scattered blocks, blocks of other sizes.

Written from the structures in VirtualBox's VDICore.h, by offset, and with nothing of vmimg's own:

    0     text (64), signature, version
    72    version 0.x: type, flags, comment (256), geometry (16), cbDisk (8), cbBlock, cBlocks,
          cBlocksAllocated, uuidCreate, uuidModify, uuidLinkage; map and data follow at once
    72    version 1.1: cbHeader, type, flags, comment (256), offBlocks, offData, geometry (16),
          dummy, cbDisk (8), cbBlock, cbBlockExtra, cBlocks, cBlocksAllocated, four UUIDs, and with
          cbHeader 400 another geometry (16)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

FREE = 0xFFFFFFFF
ZERO = 0xFFFFFFFE

DYNAMIC, FIXED, UNDO, DIFF = 1, 2, 3, 4

# Where fields of version 1.1 are in the file.
CB_HEADER, TYPE, FLAGS, OFF_BLOCKS, OFF_DATA = 72, 76, 80, 340, 344
CB_DISK, CB_BLOCK, CB_EXTRA, C_BLOCKS, C_ALLOCATED = 368, 376, 380, 384, 388
CREATE, MODIFY, LINKAGE, PARENT_MODIFY, LCHS = 392, 408, 424, 440, 456


def _u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


@dataclass
class Image:
    """What an image shall be. ``places``: the map, an entry for each block. ``seed`` makes the
    guest's data, and UUIDs that are not given.
    """

    size: int
    places: Sequence[int]
    kind: int = DYNAMIC
    version: tuple[int, int] = (1, 1)
    header_size: int = 400
    block: int = 1 << 20
    extra: int = 0
    alignment: int = 512
    create: UUID | None = None
    modify: UUID | None = None
    linkage: UUID | None = None
    parent_modify: UUID | None = None
    seed: int = 1

    def uuids(self) -> tuple[UUID, UUID]:
        dice = random.Random(-self.seed)
        made = [UUID(int=dice.getrandbits(128), version=4) for _ in range(2)]
        return self.create or made[0], self.modify or made[1]

    def build(self) -> tuple[bytes, list[bytes | None]]:
        """The file, and what each block reads as: None where the parent shows through."""
        dice = random.Random(self.seed)
        used = [place for place in self.places if place < ZERO]
        blocks = len(self.places)
        create, modify = (uuid.bytes_le for uuid in self.uuids())
        linkage = (self.linkage or UUID(int=0)).bytes_le
        parent_modify = (self.parent_modify or UUID(int=0)).bytes_le
        geometry = _u32(0, 0, 0, 512)
        comment = b"made by hand".ljust(256, b"\0")
        size = self.size.to_bytes(8, "little")
        head = b"<<< innotek VirtualBox Disk Image >>>\n".ljust(64, b"\0")
        head += _u32(0xBEDA107F, self.version[0] << 16 | self.version[1])
        if self.version[0] == 0:
            head += _u32(self.kind, 0) + comment + geometry + size
            head += _u32(self.block, blocks, len(used)) + create + modify + linkage
            map_offset, data_offset = len(head), len(head) + 4 * blocks
        else:
            map_offset = -(-(72 + self.header_size) // self.alignment) * self.alignment
            data_offset = -(-(map_offset + 4 * blocks) // self.alignment) * self.alignment
            head += _u32(self.header_size, self.kind, 0) + comment
            head += _u32(map_offset, data_offset) + geometry + _u32(0) + size
            head += _u32(self.block, self.extra, blocks, len(used))
            head += create + modify + linkage + parent_modify
            head += geometry if self.header_size >= 400 else b""
        head = head.ljust(map_offset, b"\0") + _u32(*self.places)
        file = bytearray(head.ljust(data_offset, b"\0"))
        stride = self.extra + self.block
        file += b"\xee" * (stride * (max(used, default=-1) + 1))
        content: list[bytes | None] = []
        for place in self.places:
            if place < ZERO:
                data = dice.randbytes(self.block)
                start = data_offset + place * stride + self.extra
                file[start : start + self.block] = data
                content.append(data)
            else:
                content.append(None if place == FREE else bytes(self.block))
        return bytes(file), content


def flat(size: int, content: Sequence[bytes | None], block: int, parent: bytes = b"") -> bytes:
    """What a disk of such blocks reads as, above a parent or above nothing."""
    below = parent.ljust(len(content) * block, b"\0")
    pieces = [
        below[n * block : (n + 1) * block] if data is None else data
        for n, data in enumerate(content)
    ]
    return b"".join(pieces)[:size]
