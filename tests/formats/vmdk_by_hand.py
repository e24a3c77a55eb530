"""VMDKs that no program here makes, by hand from the specifications.

VMware "Virtual Disk Format 5.0" for hosted sparse extents, streams and COW disks of ESX; QEMU's
block/vmdk.c for seSparse, which VMware does not document. The numbers are written out here again,
apart from those of the reader.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Sequence

__all__ = ["NOWHERE", "Sparse", "cowd", "descriptor", "hosted", "se_sparse", "stream"]

SECTOR = 512
NOWHERE = 0x7FFF_FFFF
"""A sector that no file here has."""


def pad(data: bytes, unit: int = SECTOR) -> bytes:
    return data.ljust(-(-len(data) // unit) * unit, b"\0")


def descriptor(
    *extents: str,
    kind: str = "monolithicSparse",
    cid: str = "0123abcd",
    parent: str = "ffffffff",
    hint: str = "",
) -> bytes:
    lines = [
        "# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent}",
        f'createType="{kind}"', *([f'parentFileNameHint="{hint}"'] if hint else []),
        "", "# Extent description", *extents, "", "# The Disk Data Base", "#DDB", "",
        'ddb.adapterType = "lsilogic"', 'ddb.virtualHWVersion = "8"',
        'ddb.uuid = "60 00 C2 9d 5e 2d 34 d9-8d 1e 0d 2a 1c 3f 4b 5a"', "",
    ]  # fmt: skip
    return "\n".join(lines).encode()


class Sparse(bytearray):
    """A hosted sparse extent: its bytes, and where its parts are (bytes)."""

    gd: int
    rgd: int
    gts: list[int]
    rgts: list[int]

    def entry(self, grain: int, *, redundant: bool = False, gtes: int = 512) -> int:
        """Where the grain table entry of a grain is."""
        tables = self.rgts if redundant else self.gts
        return tables[grain // gtes] + grain % gtes * 4

    def u32(self, offset: int) -> int:
        return int.from_bytes(self[offset : offset + 4], "little")

    def put(self, offset: int, value: int, width: int = 4) -> None:
        self[offset : offset + width] = value.to_bytes(width, "little")


def header(
    *, version: int, flags: int, capacity: int, grain: int, text: tuple[int, int], gtes: int,
    rgd: int, gd: int, overhead: int, compression: int = 0,
) -> bytes:  # fmt: skip
    """All offsets and sizes in sectors."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, capacity, grain, *text, gtes, rgd, gd,
        overhead, 0, b"\n \r\n", compression,
    ).ljust(SECTOR, b"\0")  # fmt: skip


def hosted(
    disk: bytes,
    *,
    text: bytes | None = None,
    version: int = 1,
    grain: int = 128,
    gtes: int = 512,
    zeroed: Collection[int] = (),
    absent: Collection[int] | None = None,
    backwards: bool = False,
    redundant: bool = True,
) -> Sparse:
    """A sparse extent: grains of zeros are left out unless ``absent`` says which are.

    ``zeroed``: grains whose entry is 1. ``backwards``: grains are stored last first.
    """
    size = grain * SECTOR
    grains = -(-len(disk) // size)
    tables = -(-grains // gtes)
    gt_sectors = -(-gtes * 4 // SECTOR)
    gd_sectors = -(-tables * 4 // SECTOR)
    text_sectors = 20 if text is not None else 0
    rgd = 1 + text_sectors
    rgt = rgd + gd_sectors
    gd = rgt + tables * gt_sectors
    gt = gd + gd_sectors
    overhead = -(-(gt + tables * gt_sectors) // grain) * grain
    image = Sparse(overhead * SECTOR)
    image[:SECTOR] = header(
        version=version, flags=1 | (2 if redundant else 0) | (4 if zeroed else 0),
        capacity=-(-len(disk) // SECTOR), grain=grain,
        text=(1, text_sectors) if text is not None else (0, 0), gtes=gtes, rgd=rgd, gd=gd,
        overhead=overhead,
    )  # fmt: skip
    if text is not None:
        image[SECTOR : SECTOR + len(text)] = text
    image.gd, image.rgd = gd * SECTOR, rgd * SECTOR
    image.gts = [(gt + n * gt_sectors) * SECTOR for n in range(tables)]
    image.rgts = [(rgt + n * gt_sectors) * SECTOR for n in range(tables)]
    for n in range(tables):
        image.put(image.gd + 4 * n, image.gts[n] // SECTOR)
        image.put(image.rgd + 4 * n, image.rgts[n] // SECTOR)
    order = range(grains)
    for number in reversed(order) if backwards else order:
        data = disk[number * size : (number + 1) * size]
        if number in zeroed:
            value = 1
        elif (not any(data)) if absent is None else number in absent:
            value = 0
        else:
            value = len(image) // SECTOR
            image += pad(data, size)
        image.put(image.entry(number, gtes=gtes), value)
        image.put(image.entry(number, redundant=True, gtes=gtes), value)
    return image


def stream(
    disk: bytes, *, text: bytes | None, version: int = 3, footer: bool = True, grain: int = 128
) -> bytes:
    """A streamOptimized file as VMware's tools send it: tables and directory behind the grains."""
    size, gtes = grain * SECTOR, 512
    capacity = -(-len(disk) // SECTOR)
    text_sectors = 20 if text is not None else 0
    fields = {
        "version": version, "flags": 0x30001, "capacity": capacity, "grain": grain,
        "text": (1, text_sectors) if text is not None else (0, 0), "gtes": gtes, "rgd": 0,
        "overhead": 128, "compression": 1,
    }  # fmt: skip
    body = bytearray(128 * SECTOR)
    if text is not None:
        body[SECTOR : SECTOR + len(text)] = text
    directory: list[int] = []
    entries = [0] * gtes
    grains = -(-len(disk) // size)
    for number in range(grains):
        data = pad(disk[number * size : (number + 1) * size], size)
        if any(data):
            entries[number % gtes] = len(body) // SECTOR
            packed = zlib.compress(data)
            body += pad(struct.pack("<QI", number * grain, len(packed)) + packed)
        if number % gtes == gtes - 1 or number == grains - 1:
            if any(entries):
                body += marker(4, 1)
                directory.append(len(body) // SECTOR)
                body += struct.pack(f"<{gtes}I", *entries)
            else:
                directory.append(0)
            entries = [0] * gtes
    table = pad(struct.pack(f"<{len(directory)}I", *directory))
    body += marker(len(table) // SECTOR, 2)
    gd = len(body) // SECTOR
    body += table
    if footer:
        body += marker(1, 3) + header(gd=gd, **fields)  # type: ignore[arg-type]
    body += marker(0, 0)
    place = 0xFFFF_FFFF_FFFF_FFFF if footer else gd
    body[:SECTOR] = header(gd=place, **fields)  # type: ignore[arg-type]
    return bytes(body)


def marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")


def cowd(disk: bytes, *, grain: int = 1, absent: Collection[int] | None = None) -> bytearray:
    """A COW disk of ESX (vmfsSparse), its grain tables in front."""
    size, gtes = grain * SECTOR, 4096
    capacity = -(-len(disk) // SECTOR)
    grains = -(-len(disk) // size)
    tables = -(-grains // gtes)
    gd_sectors = -(-tables * 4 // SECTOR)
    gt = 4 + gd_sectors
    body = bytearray((gt + tables * 32) * SECTOR)
    for n in range(tables):
        struct.pack_into("<I", body, 4 * SECTOR + 4 * n, gt + n * 32)
    for number in range(grains):
        data = disk[number * size : (number + 1) * size]
        if (not any(data)) if absent is None else number in absent:
            continue
        place = (gt + number // gtes * 32) * SECTOR + number % gtes * 4
        struct.pack_into("<I", body, place, len(body) // SECTOR)
        body += pad(data, size)
    free = len(body) // SECTOR
    body[:32] = struct.pack("<4s7I", b"COWD", 1, 3, capacity, grain, 4, tables, free)
    body[32:44] = struct.pack("<3I", capacity // 63 // 16, 16, 63)
    return body


def se_sparse(
    disk: bytes, *, zeroed: Collection[int] = (), unmapped: Collection[int] = ()
) -> bytearray:
    """A seSparse extent with one grain table for each 16 MiB that has data."""
    size, gtes = 4096, 4096
    capacity = -(-len(disk) // SECTOR)
    grains = -(-len(disk) // size)
    directory: list[int] = []
    tables: list[list[int]] = []
    stored = bytearray()
    for first in range(0, grains, gtes):
        entries = [0] * gtes
        for number in range(first, min(first + gtes, grains)):
            data = disk[number * size : (number + 1) * size]
            if number in zeroed:
                entries[number - first] = 0x2000_0000_0000_0000
            elif number in unmapped:
                entries[number - first] = 0x1000_0000_0000_0000
            elif any(data):
                grain = len(stored) // size
                entries[number - first] = (
                    0x3000_0000_0000_0000 | (grain & 0xFFF) << 48 | grain >> 12
                )
                stored += pad(data, size)
        if any(entries):
            directory.append(0x1000_0000_0000_0000 | len(tables))
            tables.append(entries)
        else:
            directory.append(0)
    gd = pad(struct.pack(f"<{len(directory)}Q", *directory))
    area = b"".join(struct.pack(f"<{gtes}Q", *entries) for entries in tables)
    gd_at, gt_at = 16, 16 + len(gd) // SECTOR
    grains_at = -(-(gt_at + len(area) // SECTOR) // 8) * 8
    body = bytearray(grains_at * SECTOR)
    sizes: Sequence[int] = (
        0xCAFEBABE, 0x0000_0002_0000_0001, capacity, 8, 64, 0, 0, 0, 0, 0,
        1, 1, 2, 1, 3, 1, gd_at, len(gd) // SECTOR, gt_at, len(area) // SECTOR,
        4, 1, 5, 1, grains_at, len(stored) // SECTOR,
    )  # fmt: skip
    body[: 26 * 8] = struct.pack("<26Q", *sizes)
    body[SECTOR : SECTOR + 32] = struct.pack("<4Q", 0xCAFECAFE, 0, 0, 0)
    body[gd_at * SECTOR : gd_at * SECTOR + len(gd)] = gd
    body[gt_at * SECTOR : gt_at * SECTOR + len(area)] = area
    return body + stored
