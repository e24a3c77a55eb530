"""qcow2 images made by hand, for what no program makes: tables in the wrong place, bits that nobody
has defined, snapshots and bitmaps that lie.

Written from QEMU's docs/interop/qcow2, by offset, and with nothing of vmimg's own. All tables are
of one cluster, and lie in this order::

    header | refcount table | refcount block | L1 | L2 | data | snapshot table, its L1 | more
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field

__all__ = ["Image", "put"]

# Where fields are in the file.
VERSION, BACKING_OFFSET, BACKING_SIZE, CLUSTER_BITS, SIZE = 4, 8, 16, 20, 24
CRYPT_METHOD, L1_SIZE, L1_OFFSET, REFTABLE_OFFSET, REFTABLE_CLUSTERS = 32, 36, 40, 48, 56
SNAPSHOTS, SNAPSHOTS_OFFSET = 60, 64
INCOMPATIBLE, COMPATIBLE, AUTOCLEAR, REFCOUNT_ORDER, HEADER_LENGTH = 72, 80, 88, 96, 100
COMPRESSION_TYPE, PADDING, EXTENSIONS = 104, 105, 112

BACKING_FORMAT, FEATURE_NAMES, BITMAPS, ENCRYPTION, DATA_FILE = (
    0xE2792ACA, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441,
)  # fmt: skip

COPIED, COMPRESSED = 1 << 63, 1 << 62


@dataclass
class Image:
    """What an image shall be. ``clusters``: a letter each: "." is not there, "p" plain, "c"
    compressed, "z" zeros. ``snapshot``: it has one, of the same state. ``more``: clusters that
    extensions lead to, as they shall stand behind all others.

    After `build`: ``at``: where "reftable", "refblock", "l1", "l2", "data", "snapshots",
    "snapshot-l1", "more" and "end" are.
    """

    clusters: str = "p.pcpz"
    size: int = 0
    bits: int = 12
    version: int = 3
    features: tuple[int, int, int] = (0, 0, 0)
    crypt_method: int = 0
    extensions: tuple[tuple[int, bytes], ...] = ()
    backing: bytes = b""
    snapshot: bool = False
    vm_state: int = 0
    more: bytes = b""
    extended: bool = False
    at: dict[str, int] = field(default_factory=dict)

    @property
    def cluster(self) -> int:
        return 1 << self.bits

    def build(self) -> bytearray:
        cluster, at = self.cluster, self.at
        for number, name in enumerate(("reftable", "refblock", "l1", "l2", "data")):
            at[name] = (number + 1) * cluster
        file = bytearray(at["data"])
        self._put_data(file)
        size = self.size or len(self.clusters) * cluster
        if self.snapshot:
            at["snapshots"], at["snapshot-l1"] = len(file), len(file) + cluster
            entry = struct.pack(
                ">QIHHIIQIIQQ",
                at["snapshot-l1"], 1, 1, 4, 1, 2, 3, 0, 16, self.vm_state, size,
            )  # fmt: skip
            file += (entry + b"1" + b"then").ljust(cluster, b"\0")
            file += struct.pack(">Q", at["l2"]).ljust(cluster, b"\0")
            # Shared now, so that nobody may write there.
            self._share(file)
        at["more"] = len(file)
        file += self.more.ljust(-(-len(self.more) // cluster) * cluster, b"\0")
        at["end"] = len(file)
        self._put_header(file, size)
        struct.pack_into(">Q", file, at["reftable"], at["refblock"])
        l1 = at["l2"] | (0 if self.snapshot else COPIED)
        struct.pack_into(">Q", file, at["l1"], l1)
        for number in range(len(file) // cluster):
            shared = self.snapshot and at["l2"] <= number * cluster < at["snapshots"]
            self.count(file, number, 2 if shared else 1)
        return file

    def count(self, file: bytearray, number: int, count: int) -> None:
        """Set a reference count, which has 16 bits."""
        struct.pack_into(">H", file, self.at["refblock"] + 2 * number, count)

    def entry(self, number: int) -> int:
        """Where the L2 entry of a cluster of the disk is."""
        return self.at["l2"] + number * (16 if self.extended else 8)

    def extension(self, number: int) -> int:
        """Where a header extension is."""
        lengths = [8 + -(-len(data) // 8) * 8 for _, data in self.extensions[:number]]
        return (EXTENSIONS if self.version == 3 else 72) + sum(lengths)

    def _put_header(self, file: bytearray, size: int) -> None:
        at = self.at
        extensions = b"".join(
            struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
            for kind, data in self.extensions
        ) + bytes(8)
        start = 72 if self.version == 2 else EXTENSIONS
        name = start + len(extensions)
        head = b"QFI\xfb" + struct.pack(
            ">IQIIQIIQQIIQ",
            self.version, name if self.backing else 0, len(self.backing), self.bits, size,
            self.crypt_method, 1, at["l1"], at["reftable"], 1, int(self.snapshot),
            at.get("snapshots", 0) if self.snapshot else 0,
        )  # fmt: skip
        if self.version == 3:
            incompatible, compatible, autoclear = self.features
            incompatible |= 16 if self.extended else 0
            head += struct.pack(">QQQIIQ", incompatible, compatible, autoclear, 4, 112, 0)
        file[:name] = head + extensions
        file[name : name + len(self.backing)] = self.backing

    def _put_data(self, file: bytearray) -> None:
        dice = random.Random(self.bits)
        cluster = self.cluster
        for number, kind in enumerate(self.clusters):
            entry, bits = 0, 0
            if kind == "p":
                entry, bits = len(file) | COPIED, 0xFFFF_FFFF
                file += dice.randbytes(cluster)
            elif kind == "c":
                coder = zlib.compressobj(9, zlib.DEFLATED, -12)
                packed = coder.compress(dice.randbytes(40) * (cluster // 40)) + coder.flush()
                entry = len(file) | (len(packed) - 1) // 512 << 70 - self.bits | COMPRESSED
                file += packed.ljust(cluster, b"\0")
            elif kind == "z":
                entry, bits = (0, 0xFFFF_FFFF << 32) if self.extended else (1, 0)
            struct.pack_into(">Q", file, self.entry(number), entry)
            if self.extended:
                struct.pack_into(">Q", file, self.entry(number) + 8, bits)

    def _share(self, file: bytearray) -> None:
        for number in range(len(self.clusters)):
            (entry,) = struct.unpack_from(">Q", file, self.entry(number))
            struct.pack_into(">Q", file, self.entry(number), entry & ~COPIED)


def put(file: bytearray, offset: int, value: int, width: int = 8) -> None:
    file[offset : offset + width] = value.to_bytes(width, "big")
