"""Parallels images made by hand, for what no program at hand makes: old signatures, odd clusters,
dirty bitmaps, bundles with snapshots and in pieces.

Written from QEMU's docs/interop/parallels and prl-xml, by offset, with nothing of vmimg's own:

    0     magic (16), version, heads, cylinders, sectors of a cluster, entries of the BAT,
          sectors of the disk (8), in use, sector where data begins, flags, sector of the
          extension (8)
    64    BAT: in sectors, or (WithouFreSpacExt) in clusters; 0 for none
    ...   clusters
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

MIB = 1 << 20
NONE = -1
"""In a row of places: a cluster that has none."""
IN_USE, CLOSED = 0x746F6E59, 0x312E3276
EXTENSION, BITMAP = 0xAB234CEF23DCEA87, 0x20385FAE252CB34A

# Where fields are.
VERSION, TRACKS, ENTRIES, SECTORS, USED, DATA_OFF, FLAGS, EXT_OFF = 16, 28, 32, 36, 44, 48, 52, 56
BAT = 64

TOP = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
NULL = "{00000000-0000-0000-0000-000000000000}"


@dataclass
class Image:
    """An expanding image. ``places``: of each cluster, counted in clusters from where data begins.
    ``data_off``: in sectors; None leaves it to what is usual, 0 to the reader. ``extension``: the
    place of the extension. ``seed`` makes the guest's data.
    """

    size: int
    places: Sequence[int]
    cluster: int = MIB
    old: bool = False
    data_off: int | None = None
    in_use: int = 0
    flags: int = 0
    extension: int | None = None
    features: bytes = b""
    seed: int = 1

    @property
    def data_start(self) -> int:
        if self.data_off:
            return self.data_off * 512
        grain = 512 if self.old else self.cluster
        return -(-(BAT + 4 * len(self.places)) // grain) * grain

    def build(self) -> tuple[bytes, list[bytes | None]]:
        """The file, and what each cluster reads as: None where there is nothing."""
        dice = random.Random(self.seed)
        start, cluster = self.data_start, self.cluster
        data_off = start // 512 if self.data_off is None else self.data_off
        magic = b"WithoutFreeSpace" if self.old else b"WithouFreSpacExt"
        ext_off = 0 if self.extension is None else (start + self.extension * cluster) // 512
        sectors = self.size // 512
        head = magic + struct.pack(
            "<5IQ3IQ",
            *(2, 16, sectors // 512, cluster // 512, len(self.places), sectors),
            *(self.in_use, data_off, self.flags, ext_off),
        )
        unit = 512 if self.old else cluster
        entries = [0 if p == NONE else (start + p * cluster) // unit for p in self.places]
        file = bytearray(head + struct.pack(f"<{len(entries)}I", *entries))
        last = max([*self.places, NONE if self.extension is None else self.extension])
        file = file.ljust(start + (last + 1) * cluster, b"\0")
        content: list[bytes | None] = []
        for place in self.places:
            if place == NONE:
                content.append(None)
                continue
            data = dice.randbytes(cluster)
            file[start + place * cluster : start + (place + 1) * cluster] = data
            content.append(data)
        if self.extension is not None:
            at = start + self.extension * cluster
            file[at : at + cluster] = extension(self.features, cluster)
        return bytes(file), content


def extension(features: bytes, cluster: int) -> bytes:
    """The cluster of a format extension, with a right checksum."""
    rest = features.ljust(cluster - 24, b"\0")
    return struct.pack("<Q", EXTENSION) + hashlib.md5(rest).digest() + rest


def feature(magic: int, flags: int, data: bytes) -> bytes:
    """A feature with its header."""
    return struct.pack("<QQII", magic, flags, len(data), 0) + data.ljust(
        -(-len(data) // 8) * 8, b"\0"
    )


def bitmap(id: UUID, sectors: int, granularity: int, table: Sequence[int]) -> bytes:
    """A dirty bitmap feature; ``granularity`` in sectors."""
    data = struct.pack("<Q16sII", sectors, id.bytes, granularity, len(table))
    return feature(BITMAP, 0, data + struct.pack(f"<{len(table)}Q", *table))


def flat(size: int, content: Sequence[bytes | None], cluster: int, below: bytes = b"") -> bytes:
    """What a disk of such clusters reads as, above another or above nothing."""
    below = below.ljust(len(content) * cluster, b"\0")
    pieces = [
        below[n * cluster : (n + 1) * cluster] if data is None else data
        for n, data in enumerate(content)
    ]
    return b"".join(pieces)[:size]


@dataclass
class Bundle:
    """A directory with a DiskDescriptor.xml. ``files``: (first byte, last byte + 1 of the disk,
    GUID, type, file name); ``shots``: (GUID, GUID of the parent).
    """

    size: int
    files: Sequence[tuple[int, int, str, str, str]]
    shots: Sequence[tuple[str, str]] = ((TOP, NULL),)
    top: str = ""
    cluster: int = MIB
    parameters: str = ""
    names: dict[str, bytes] = field(default_factory=dict)

    def xml(self) -> str:
        storages = ""
        for start, end in sorted({(start, end) for start, end, *_ in self.files}):
            images = "".join(
                f"<Image><GUID>{guid}</GUID><Type>{kind}</Type><File>{name}</File></Image>\n"
                for low, _, guid, kind, name in self.files
                if low == start
            )
            storages += (
                f"<Storage><Start>{start // 512}</Start><End>{end // 512}</End>"
                f"<Blocksize>{self.cluster // 512}</Blocksize>\n{images}</Storage>\n"
            )
        shots = "".join(
            f"<Shot><GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>\n"
            for guid, parent in self.shots
        )
        top = f"<TopGUID>{self.top}</TopGUID>\n" if self.top else ""
        return (
            "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n"
            f"<Disk_Parameters>\n<Disk_size>{self.size // 512}</Disk_size>\n"
            f"<Cylinders>{self.size // 512}</Cylinders><Heads>1</Heads><Sectors>1</Sectors>\n"
            f"<Padding>0</Padding>\n{self.parameters}</Disk_Parameters>\n"
            f"<StorageData>\n{storages}</StorageData>\n"
            f"<Snapshots>\n{top}{shots}</Snapshots>\n</Parallels_disk_image>\n"
        )

    def write(self, folder: Path) -> Path:
        """Make the directory, with the files in ``names``."""
        folder.mkdir()
        (folder / "DiskDescriptor.xml").write_text(self.xml())
        for name, data in self.names.items():
            (folder / name).write_bytes(data)
        return folder


FIRST = "{11111111-1111-4111-8111-111111111111}"
SECOND = "{22222222-2222-4222-8222-222222222222}"
BRANCH = "{33333333-3333-4333-8333-333333333333}"


def tree(
    *, cluster: int = 65536, root: str = "Compressed", pieces: int = 1, old: bool = False
) -> tuple[Bundle, dict[str, bytes]]:
    """A bundle with four states, and what each reads as:

    FIRST - SECOND - TOP
          \\ BRANCH

    ``pieces``: how many storages it is split into, of six clusters each.
    """
    size = 6 * cluster
    parents = {FIRST: NULL, SECOND: FIRST, TOP: SECOND, BRANCH: FIRST}
    places = {
        FIRST: (1, 0, 2, NONE, 3, NONE),
        SECOND: (NONE, 0, NONE, 1, NONE, NONE),
        TOP: (0, NONE, NONE, NONE, NONE, 1),
        BRANCH: (NONE, NONE, 1, NONE, 0, NONE),
    }
    contents = dict.fromkeys(parents, b"")
    files: list[tuple[int, int, str, str, str]] = []
    names: dict[str, bytes] = {}
    for piece in range(pieces):
        reads: dict[str, bytes] = {NULL: b""}
        for number, (guid, parent) in enumerate(parents.items()):
            # Data far away: dissect takes a cluster for a part of the gap in front of it where it
            # lies as far into the file as the gap is long.
            image = Image(size, places[guid], cluster, old=old, seed=10 * piece + number)
            image.data_off = 16 * cluster // 512
            file, blocks = image.build()
            reads[guid] = flat(size, blocks, cluster, reads[parent])
            contents[guid] += reads[guid]
            kind = "Compressed"
            if guid == FIRST and root == "Plain":
                file, kind = reads[guid], "Plain"
            name = f"disk.hdd.{piece}.{guid}.hds"
            names[name] = file
            files.append((piece * size, (piece + 1) * size, guid, kind, name))
    shots = list(parents.items())
    return Bundle(pieces * size, files, shots, cluster=cluster, names=names), contents
