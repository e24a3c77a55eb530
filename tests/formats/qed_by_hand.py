"""QED images made by hand, for what no program at hand makes: scattered and damaged tables,
unknown features, an image that nobody closed.

Written from QEMU's docs/interop/qed_spec, by offset, and with nothing of vmimg's own:

    0     "QED\\0", cluster_size, table_size, header_size (4 bytes each)
    16    features, compat_features, autoclear_features, l1_table_offset, image_size (8 each)
    56    backing_filename_offset, backing_filename_size (4 each)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

CLUSTER_SIZE, TABLE_SIZE, HEADER_SIZE = 4, 8, 12
FEATURES, COMPAT, AUTOCLEAR, L1_OFFSET, IMAGE_SIZE = 16, 24, 32, 40, 48
NAME_OFFSET, NAME_SIZE = 56, 60

BACKING, NEED_CHECK, NO_PROBE = 1, 2, 4
ZERO = -1
"""In place of a cluster: the block reads as zeros."""


@dataclass
class Image:
    """What an image shall be. All places count clusters. ``tables``: of L2 tables, by their L1
    entry; ``blocks``: of data, by the block. ``seed`` makes the guest's data.
    """

    size: int
    tables: Mapping[int, int] = field(default_factory=dict)
    blocks: Mapping[int, int] = field(default_factory=dict)
    cluster: int = 4096
    table_size: int = 2
    header_size: int = 1
    l1: int = 1
    features: int = 0
    compat: int = 0
    autoclear: int = 0
    backing: bytes = b""
    name_offset: int = 64
    seed: int = 1

    def build(self) -> tuple[bytes, list[bytes | None]]:
        """The file, and what each block reads as: None where the parent shows through."""
        dice = random.Random(self.seed)
        cluster, entries = self.cluster, self.table_size * self.cluster // 8
        used = [self.l1 + self.table_size, *(place + 1 for place in self.blocks.values())]
        used += [place + self.table_size for place in self.tables.values()]
        file = bytearray(max(used) * cluster)

        def put(offset: int, width: int, *numbers: int) -> None:
            for number in numbers:
                file[offset : offset + width] = number.to_bytes(width, "little")
                offset += width

        file[:4] = b"QED\0"
        put(CLUSTER_SIZE, 4, cluster, self.table_size, self.header_size)
        features = self.features | (BACKING if self.backing else 0)
        put(FEATURES, 8, features, self.compat, self.autoclear, self.l1 * cluster, self.size)
        if self.backing:
            put(NAME_OFFSET, 4, self.name_offset, len(self.backing))
            file[self.name_offset : self.name_offset + len(self.backing)] = self.backing
        for index, place in self.tables.items():
            put(self.l1 * cluster + 8 * index, 8, place * cluster)
        content: list[bytes | None] = [None] * -(-self.size // cluster)
        for block, place in sorted(self.blocks.items()):
            table = self.tables[block // entries] * cluster
            put(table + 8 * (block % entries), 8, 1 if place == ZERO else place * cluster)
            content[block] = bytes(cluster) if place == ZERO else dice.randbytes(cluster)
            if place != ZERO:
                file[place * cluster : (place + 1) * cluster] = content[block] or b""
        return bytes(file), content


def flat(image: Image, content: list[bytes | None], parent: bytes = b"") -> bytes:
    """What a disk of such blocks reads as, above a parent or above nothing."""
    cluster = image.cluster
    below = parent.ljust(len(content) * cluster, b"\0")
    pieces = [
        below[n * cluster : (n + 1) * cluster] if data is None else data
        for n, data in enumerate(content)
    ]
    return b"".join(pieces)[: image.size]
