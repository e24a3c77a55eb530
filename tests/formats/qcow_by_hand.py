"""qcow images of version 1 made by hand, for what qemu-img does not make: clusters and tables of
other sizes, in any order, on sector boundaries; a time of the backing file.

Written from the structures in QEMU's block/qcow.c, by offset, and with nothing of vmimg's own:

    0   magic, version, backing_file_offset (8), backing_file_size, mtime, size (8), cluster_bits
        (1), l2_bits (1), padding (2), crypt_method, l1_table_offset (8)
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field

# Where fields are in the file.
VERSION, BACKING_OFFSET, BACKING_SIZE, MTIME, SIZE = 4, 8, 16, 20, 24
CLUSTER_BITS, L2_BITS, CRYPT_METHOD, L1_OFFSET = 32, 33, 36, 40

COMPRESSED = 1 << 63


@dataclass
class Image:
    """What an image shall be. ``clusters``: a letter each, as many as one likes: "." is not there,
    "p" plain, "c" compressed. ``align``: what plain clusters begin at a multiple of. ``shuffle``:
    tables and clusters come in any order.

    After `build`: ``l2``: offset of each L2 table by its number; ``entries``: where in the file the
    entry of each cluster is.
    """

    size: int
    clusters: str
    cluster_bits: int = 12
    l2_bits: int = 9
    backing: bytes = b""
    mtime: int = 0
    align: int = 512
    shuffle: bool = True
    seed: int = 1
    l2: dict[int, int] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)

    def build(self) -> tuple[bytes, list[bytes | None]]:
        """The file, and what each cluster reads as: None where the parent shows through."""
        dice = random.Random(self.seed)
        cluster, per_table = 1 << self.cluster_bits, 1 << self.l2_bits
        l1_offset = -(-(48 + len(self.backing)) // 8) * 8
        l1 = [0] * -(-self.size // (cluster * per_table))
        head = b"QFI\xfb" + struct.pack(
            ">IQIIQBBHIQ",
            1, 48 if self.backing else 0, len(self.backing), self.mtime, self.size,
            self.cluster_bits, self.l2_bits, 0, 0, l1_offset,
        )  # fmt: skip
        file = bytearray((head + self.backing).ljust(l1_offset + 8 * len(l1), b"\0"))

        def append(data: bytes, align: int) -> int:
            file.extend(bytes(-len(file) % align))
            file.extend(data)
            return len(file) - len(data)

        content: list[bytes | None] = [None] * len(self.clusters)
        tables = {
            number // per_table: [0] * per_table
            for number, kind in enumerate(self.clusters)
            if kind != "."
        }
        pieces: list[tuple[str, int]] = [
            (kind, number) for number, kind in enumerate(self.clusters) if kind != "."
        ] + [("table", number) for number in tables]
        if self.shuffle:
            dice.shuffle(pieces)
        for kind, number in pieces:
            if kind == "table":
                l1[number] = self.l2[number] = append(bytes(8 * per_table), 8)
                continue
            if kind == "p":
                data = dice.randbytes(cluster)
                entry = append(data, self.align)
            else:
                data = (dice.randbytes(40) * cluster)[:cluster]
                coder = zlib.compressobj(9, zlib.DEFLATED, -12)
                packed = coder.compress(data) + coder.flush()
                entry = append(packed, 1) | len(packed) << 63 - self.cluster_bits | COMPRESSED
            content[number] = data
            tables[number // per_table][number % per_table] = entry
        for number, table in tables.items():
            struct.pack_into(f">{per_table}Q", file, self.l2[number], *table)
        struct.pack_into(f">{len(l1)}Q", file, l1_offset, *l1)
        self.entries = [
            self.l2.get(number // per_table, 0) + 8 * (number % per_table)
            for number in range(len(self.clusters))
        ]
        return bytes(file), content

    def flat(self, parent: bytes = b"") -> bytes:
        """What the disk reads as, above a parent or above nothing."""
        cluster = 1 << self.cluster_bits
        content = self.build()[1]
        disk = bytearray(parent[: self.size].ljust(self.size, b"\0"))
        for number, data in enumerate(content):
            if data is not None:
                disk[number * cluster : (number + 1) * cluster] = data
        return bytes(disk[: self.size])
