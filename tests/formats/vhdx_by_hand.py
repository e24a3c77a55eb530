"""VHDX files put together by hand from MS-VHDX, for what no program here makes.

Shares nothing with vmimg: own offsets, own checksums. Sector sizes of 4096, partially present
blocks, all block states, parent locators of Windows, logs of every sort, and damage of all kinds.
Layout: log at 1 MiB, BAT at 2 MiB, metadata at 3 MiB (the order that QEMU has), blocks from 4 MiB.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

MIB = 1 << 20
KIB = 1 << 10

HEADERS = (64 * KIB, 128 * KIB)
REGION_TABLES = (192 * KIB, 256 * KIB)
LOG, BAT, METADATA, BLOCKS = MIB, 2 * MIB, 3 * MIB, 4 * MIB
LOG_LENGTH = MIB

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_095, FULL, PARTIAL = 0, 1, 2, 3, 5, 6, 7

BAT_GUID = "2DC27766-F623-4200-9D64-115E9BFD4A08"
METADATA_GUID = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
LOCATOR_TYPE = "B04AEFB7-D19E-4A81-B789-25B8E9445913"
ITEMS = {
    "parameters": "CAA16737-FA36-4D43-B3B6-33F0AA44E76B",
    "size": "2FA54224-CD1B-4876-B211-5DBED83BF4B8",
    "id": "BECA12AB-B2E6-4523-93EF-C309E000C746",
    "logical": "8141BF1D-A96F-4709-BA47-F233A8FAAB5F",
    "physical": "CDA348C7-445D-4471-9CC9-E9885251C556",
    "locator": "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C",
}
LOG_GUID = uuid.UUID("11111111-2222-3333-4444-555555555555").bytes_le
DATA_GUID = uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")

_TABLE = []
for _value in range(256):
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def crc32c(data: bytes | bytearray) -> int:
    return _crc32c(bytes(data))


@lru_cache(256)
def _crc32c(data: bytes) -> int:
    """Byte by byte, and so slowly that the tables which all images have are not done again."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


class Image(bytearray):
    """A file in memory. What has a checksum needs `seal` after it was changed."""

    ratio: int
    block: int
    item_places: dict[str, int]

    def get(self, offset: int, width: int = 8) -> int:
        return int.from_bytes(self[offset : offset + width], "little")

    def put(self, offset: int, value: int, width: int = 8) -> None:
        self[offset : offset + width] = value.to_bytes(width, "little")

    def grow(self, size: int) -> None:
        self.extend(bytes(max(0, size - len(self))))

    def seal(self, *, headers: bool = True, tables: bool = True) -> None:
        """Set the checksums right."""
        places = [(at, 4096) for at in HEADERS if headers]
        places += [(at, 65536) for at in REGION_TABLES if tables]
        for start, length in places:
            self.put(start + 4, 0, 4)
            self.put(start + 4, crc32c(self[start : start + length]), 4)

    def entry(self, block: int) -> int:
        """Where the BAT entry of a block is."""
        return BAT + 8 * (block + block // self.ratio)

    def bitmap_entry(self, chunk: int) -> int:
        return BAT + 8 * (chunk * (self.ratio + 1) + self.ratio)

    def header(self, number: int, sequence: int, log_guid: bytes = bytes(16)) -> None:
        start = HEADERS[number]
        self[start : start + 4096] = bytes(4096)
        fields = (b"head", 0, sequence, bytes(16), DATA_GUID.bytes_le, log_guid)
        packed = struct.pack("<4sIQ16s16s16sHHIQ", *fields, 0, 1, LOG_LENGTH, LOG)
        self[start : start + len(packed)] = packed

    def dirty(self, *entries: bytes, places: Sequence[int] = ()) -> None:
        """Put log entries one behind the other, or at ``places`` of the log, and say so."""
        at = 0
        for number, entry in enumerate(entries):
            at = places[number] if places else at
            for start in range(0, len(entry), 4096):
                place = LOG + (at + start) % LOG_LENGTH
                self[place : place + 4096] = entry[start : start + 4096]
            at += len(entry)
        self.header(0, 7, LOG_GUID)
        self.header(1, 8, LOG_GUID)
        self.seal(tables=False)

    def save(self, path: Path) -> Path:
        path.write_bytes(self)
        return path


def make(
    size: int,
    blocks: Mapping[int, tuple[int, bytes]],
    *,
    block: int = MIB,
    logical: int = 512,
    physical: int = 512,
    bitmaps: Mapping[int, bytes] | None = None,
    parent: Mapping[str, str] | None = None,
    leave: bool = False,
) -> Image:
    """An image. ``blocks``: state and content by number; a state without content has no place.
    ``bitmaps``: of a chunk, from its first byte. ``parent``: the entries of the locator.
    """
    image = Image(bytes(BLOCKS))
    image.block, image.ratio = block, (1 << 23) * logical // block
    image[:8] = b"vhdxfile"
    image[8:16] = "hand".encode("utf-16-le")
    image.header(0, 1)
    image.header(1, 2)
    regions = struct.pack("<4sIII", b"regi", 0, 2, 0)
    for region, offset in ((BAT_GUID, BAT), (METADATA_GUID, METADATA)):
        regions += struct.pack("<16sQII", guid(region), offset, MIB, 1)
    for start in REGION_TABLES:
        image[start : start + len(regions)] = regions
    _put_metadata(image, size, block, logical, physical, parent, leave)
    for chunk, bits in (bitmaps or {}).items():
        image.put(image.bitmap_entry(chunk), len(image) | 6)
        image += bits.ljust(MIB, b"\0")
    for number, (state, content) in blocks.items():
        if content:
            image.put(image.entry(number), len(image) | state)
            image += content.ljust(block, b"\0")
        else:
            image.put(image.entry(number), state)
    image.seal()
    return image


def locator(entries: Mapping[str, str]) -> bytes:
    head = struct.pack("<16sHH", guid(LOCATOR_TYPE), 0, len(entries))
    place, table, texts = len(head) + 12 * len(entries), b"", b""
    for key, value in entries.items():
        one, two = key.encode("utf-16-le"), value.encode("utf-16-le")
        table += struct.pack("<IIHH", place, place + len(one), len(one), len(two))
        texts += one + two
        place += len(one) + len(two)
    return head + table + texts


def log_entry(
    sequence: int,
    changes: Sequence[tuple[int, bytes | int]],
    *,
    tail: int = 0,
    file_size: int = BLOCKS,
    flushed: int | None = None,
    log_guid: bytes = LOG_GUID,
) -> bytes:
    """A log entry. ``changes``: (offset, 4096 bytes, or how many bytes of zeros)."""
    descriptors, sectors = b"", b""
    for offset, content in changes:
        if isinstance(content, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, content, offset, sequence)
            continue
        descriptors += struct.pack(
            "<4s4s8sQQ", b"desc", content[-4:], content[:8], offset, sequence
        )
        sectors += struct.pack("<4sI", b"data", sequence >> 32) + content[8:-4]
        sectors += struct.pack("<I", sequence & 0xFFFFFFFF)
    used = 64 + len(descriptors)
    body = descriptors.ljust(-(-used // 4096) * 4096 - 64, b"\0") + sectors
    flushed = file_size if flushed is None else flushed
    fields = (len(body) + 64, tail, sequence, len(changes), 0, log_guid, flushed, file_size)
    packed = struct.pack("<IIQII16sQQ", *fields)
    crc = crc32c(b"loge" + bytes(4) + packed + body)
    return b"loge" + crc.to_bytes(4, "little") + packed + body


def _put_metadata(
    image: Image,
    size: int,
    block: int,
    logical: int,
    physical: int,
    parent: Mapping[str, str] | None,
    leave: bool,
) -> None:
    flags = leave | (2 if parent is not None else 0)
    items = {
        "parameters": struct.pack("<II", block, flags),
        "size": struct.pack("<Q", size),
        "id": uuid.uuid5(uuid.NAMESPACE_DNS, "disk").bytes_le,
        "logical": struct.pack("<I", logical),
        "physical": struct.pack("<I", physical),
    }
    if parent is not None:
        items["locator"] = locator(parent)
    table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
    image.item_places = {}
    place = 64 * KIB
    for name, content in items.items():
        required = 4 if name in ("parameters", "locator") else 6
        table += struct.pack("<16sIIII", guid(ITEMS[name]), place, len(content), required, 0)
        image.item_places[name] = METADATA + place
        image[METADATA + place : METADATA + place + len(content)] = content
        place += len(content)
    image[METADATA : METADATA + len(table)] = table
