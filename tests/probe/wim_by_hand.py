"""A small WIM archive put together from Microsoft's white paper, so that any field can be made to
lie. It holds one image and one blob, which is stored; the image's metadata is no more than a place.

Source: "Windows Imaging File Format (WIM)"; the order of fields is that of wimlib's header.h.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

__all__ = ["ENTRY", "HEADER", "wim_of"]

HEADER = 208
ENTRY = 50
_BLOB = b"content of a file in an image" * 20
_XML = "<WIM><TOTALBYTES>1000</TOTALBYTES>{images}</WIM>"
_IMAGE = '<IMAGE INDEX="{number}"><NAME>{name}</NAME></IMAGE>'


def resource(size: int, flags: int, offset: int, original: int) -> bytes:
    return struct.pack("<QQQ", size | flags << 56, offset, original)


def wim_of(
    *,
    magic: bytes = b"MSWIM\0\0\0",
    version: int = 0x10D00,
    flags: int = 0x80,
    chunk: int = 0,
    part: int = 1,
    parts: int = 1,
    images: int = 1,
    boot: int = 0,
    unused: bytes = b"",
    xml: bytes | None = None,
    blobs: list[dict[str, Any]] | None = None,
    table_offset: int | None = None,
    table_size: int | None = None,
    xml_offset: int | None = None,
    checksums: bytes = b"",
    metadata: bool = True,
) -> bytes:
    """``images``: how many the header states. ``blobs``: what the entries of the table say where it
    is not the truth. ``checksums``: the table of them, at the end of the file.
    """
    if xml is None:
        text = _XML.format(images=_IMAGE.format(number=1, name="first &amp; only"))
        xml = b"\xff\xfe" + text.encode("utf-16-le")
    table = b""
    first: dict[str, Any] = {"flags": 2, "digest": hashlib.sha1(b"").digest()}
    for blob in [*([first] if metadata else []), *(blobs if blobs is not None else [{}])]:
        entry = {
            "size": len(_BLOB), "flags": 0, "offset": HEADER, "original": len(_BLOB), "part": part,
            "count": 1, "digest": hashlib.sha1(_BLOB).digest(),
        } | blob  # fmt: skip
        table += resource(entry["size"], entry["flags"], entry["offset"], entry["original"])
        table += struct.pack("<HI", entry["part"], entry["count"]) + entry["digest"]
    at = HEADER + len(_BLOB)
    xml_at = at + len(table)
    end = xml_at + len(xml)
    size = len(table) if table_size is None else table_size
    head = magic + struct.pack("<IIII", HEADER, version, flags, chunk) + bytes(range(16))
    head += struct.pack("<HHI", part, parts, images)
    head += resource(size, 2, at if table_offset is None else table_offset, size)
    head += resource(len(xml), 2, xml_at if xml_offset is None else xml_offset, len(xml))
    head += bytes(24) + struct.pack("<I", boot)
    head += resource(len(checksums), 0, end if checksums else 0, len(checksums))
    head = (head + unused).ljust(HEADER, b"\0")
    return head + _BLOB + table + xml + checksums
