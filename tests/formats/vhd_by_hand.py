"""VHD files put together byte by byte, for what no other program here makes: differencing disks,
footers of 511 bytes, blocks of other sizes, sector bitmaps with holes, other creators.

Written from Microsoft's Virtual Hard Disk Image Format Specification 1.0 alone: nothing of vmimg is
used, so that a mistake there is not made twice. Offsets are those of the specification's tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

__all__ = ["Parent", "checked", "dynamic", "fixed", "footer"]

SECTOR = 512
BASE_ID = UUID("0b5e0000-1111-4222-8333-444455556666")
CHILD_ID = UUID("c41d0000-1111-4222-8333-444455556666")


def checked(raw: bytes, at: int) -> bytes:
    """``raw`` with the one's complement of the sum of all other bytes at ``at``."""
    empty = raw[:at] + bytes(4) + raw[at + 4 :]
    return raw[:at] + struct.pack(">I", ~sum(empty) & 0xFFFFFFFF) + raw[at + 4 :]


def footer(
    size: int,
    kind: int,
    *,
    creator: bytes = b"win ",
    chs: tuple[int, int, int] = (1, 4, 17),
    id: UUID = BASE_ID,
    saved: int = 0,
    data_offset: int | None = None,
) -> bytes:
    """512 bytes; ``kind``: 2 fixed, 3 dynamic, 4 differencing."""
    if data_offset is None:
        data_offset = 0xFFFFFFFFFFFFFFFF if kind == 2 else 512
    raw = b"conectix" + struct.pack(">IIQI", 2, 0x10000, data_offset, 77)
    raw += creator + struct.pack(">I", 0x50003) + b"Wi2k" + struct.pack(">QQ", size, size)
    raw += struct.pack(">HBB", *chs) + struct.pack(">II", kind, 0) + id.bytes + bytes([saved])
    return checked(raw.ljust(512, b"\0"), 64)


@dataclass
class Parent:
    """What a differencing disk says of its parent. ``locators``: code and data."""

    id: UUID = BASE_ID
    stamp: int = 0
    name: str = "base.vhd"
    locators: list[tuple[bytes, bytes]] = field(default_factory=list)


def fixed(content: bytes, *, old: bool = False, **more: object) -> bytes:
    """A fixed disk; ``old``: with the 511 bytes of Virtual PC before 2004."""
    end = footer(len(content), 2, **more)  # type: ignore[arg-type]
    return content + (end[:511] if old else end)


def dynamic(
    content: bytes,
    *,
    block: int = 4096,
    parent: Parent | None = None,
    present: set[int] | None = None,
    order: list[int] | None = None,
    old: bool = False,
    bits: bool = True,
    **more: object,
) -> bytes:
    """A dynamic disk, differencing if there is a ``parent``.

    ``present``: the sectors that are here; those that are not zeros where None. Blocks lie one
    behind the other, without gaps, in the ``order`` of their numbers given. ``bits`` False leaves
    the bitmaps empty.
    """
    size = len(content)
    sectors = -(-size // SECTOR)
    if present is None:
        zero = bytes(SECTOR)
        present = {n for n in range(sectors) if content[n * SECTOR : (n + 1) * SECTOR] != zero}
    per_block = block // SECTOR
    entries = -(-size // block)
    bat = [0xFFFFFFFF] * entries
    bitmap_size = -(-(per_block // 8) // SECTOR) * SECTOR
    used = sorted({n // per_block for n in present})
    at = 1536 + -(-max(1, entries * 4) // SECTOR) * SECTOR
    front = b""
    table = b""
    if parent is not None:
        for code, data in parent.locators:
            space = -(-len(data) // SECTOR) * SECTOR
            table += code + struct.pack(">IIIQ", space // SECTOR, len(data), 0, at)
            front += data.ljust(space, b"\0")
            at += space
    blocks = b""
    for number in order or used:
        bat[number] = at // SECTOR
        bitmap, stored = bytearray(bitmap_size), bytearray(block)
        for sector in range(per_block):
            whole = number * per_block + sector
            if whole in present and whole < sectors:
                if bits:
                    bitmap[sector // 8] |= 0x80 >> sector % 8
                piece = content[whole * SECTOR : (whole + 1) * SECTOR]
                stored[sector * SECTOR : sector * SECTOR + len(piece)] = piece
        blocks += bytes(bitmap + stored)
        at += len(bitmap) + len(stored)
    name = parent.name.encode("utf-16-be") if parent else b""
    header = b"cxsparse" + struct.pack(
        ">QQIIII", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000, entries, block, 0
    )
    header += parent.id.bytes + struct.pack(">I", parent.stamp) if parent else bytes(20)
    header = checked((header + bytes(4) + name.ljust(512, b"\0") + table).ljust(1024, b"\0"), 36)
    if parent is not None:
        more.setdefault("id", CHILD_ID)
    end = footer(size, 4 if parent else 3, **more)  # type: ignore[arg-type]
    raw_bat = struct.pack(f">{entries}I", *bat)
    raw_bat = raw_bat.ljust(-(-max(1, len(raw_bat)) // SECTOR) * SECTOR, b"\xff")
    return end + header + raw_bat + front + blocks + (end[:511] if old else end)
