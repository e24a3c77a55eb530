"""WIM archives with metadata put together by hand: images whose entries say what nobody's would.

Stored without compression, one image, from Microsoft's white paper and without vmimg's code. See
tests/probe/wim_by_hand.py for archives whose header lies.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from probe.wim_by_hand import HEADER, resource

__all__ = ["File", "link_to", "wim_with"]

DIRECTORY = 0x10
REPARSE = 0x400
SYMLINK = 0xA000000C
_XML = '<WIM><IMAGE INDEX="1"><NAME>made by hand</NAME><FILECOUNT>1</FILECOUNT></IMAGE></WIM>'


@dataclass
class File:
    """``streams``: contents by their names. ``goes_to``: where its children lie, if elsewhere."""

    name: str
    content: bytes = b""
    attributes: int = 0x80
    tag: int = 0
    link: int = 0
    children: list[File] | None = None
    streams: dict[str, bytes] = field(default_factory=dict)
    goes_to: int | None = None
    length: int | None = None


def link_to(target: str, *, relative: bool = True) -> bytes:
    """What a symbolic link holds."""
    text = target.encode("utf-16-le")
    return struct.pack("<HHHHI", 0, len(text), len(text), len(text), relative) + text + text


def wim_with(*files: File, checksums: bool = True) -> bytes:
    """An archive of an image with ``files`` in its root, and everything that is in them."""
    blobs: list[bytes] = []
    metadata = _metadata(File("", attributes=DIRECTORY, children=list(files)), blobs)
    out = bytearray(HEADER)
    entries = b""
    for flags, data in [(2, metadata), *((0, blob) for blob in dict.fromkeys(blobs))]:
        entries += resource(len(data), flags, len(out), len(data))
        entries += struct.pack("<HI", 1, 1) + hashlib.sha1(data).digest()
        out += data
    xml = b"\xff\xfe" + _XML.encode("utf-16-le")
    table_at, xml_at = len(out), len(out) + len(entries)
    out += entries
    digest = hashlib.sha1(bytes(out[HEADER:])).digest()
    table = struct.pack("<III", 32, 1, 10 << 20) + digest if checksums else b""
    out += xml + table
    head = b"MSWIM\0\0\0" + struct.pack("<IIII", HEADER, 0x10D00, 0, 0) + bytes(range(16))
    head += struct.pack("<HHI", 1, 1, 1) + resource(len(entries), 2, table_at, len(entries))
    head += resource(len(xml), 2, xml_at, len(xml)) + bytes(28)
    head += resource(len(table), 0, xml_at + len(xml) if table else 0, len(table))
    out[:HEADER] = head.ljust(HEADER, b"\0")
    return bytes(out)


def _metadata(root: File, blobs: list[bytes]) -> bytes:
    lists: list[File] = [root]
    at = 8 + len(_entry(root, 0, [])) + 8
    places: dict[int, int] = {}
    for directory in lists:
        places[id(directory)] = at
        for each in directory.children or ():
            at += len(_entry(each, 0, []))
            if each.children is not None:
                lists.append(each)
        at += 8
    out = struct.pack("<II", 8, 0) + _entry(root, places[id(root)], blobs) + bytes(8)
    for directory in lists:
        for each in directory.children or ():
            out += _entry(each, places.get(id(each), 0), blobs)
        out += bytes(8)
    return out


def _entry(file: File, children: int, blobs: list[bytes]) -> bytes:
    name = file.name.encode("utf-16-le")
    padded = name + b"\0\0" if name else b""
    length = 102 + len(padded) + 7 & ~7
    data = struct.pack(
        "<QIIQ16xQQQ",
        length if file.length is None else file.length,
        file.attributes | (DIRECTORY if file.children is not None else 0),
        0xFFFFFFFF,
        children if file.goes_to is None else file.goes_to,
        *(132_000_000_000_000_000,) * 3,
    )
    data += _sha1(file.content, blobs) + struct.pack("<IQ", 0, file.tag or file.link)
    data += struct.pack("<HHH", len(file.streams), 0, len(name)) + padded
    data = data.ljust(length, b"\0")
    for stream, content in file.streams.items():
        text = stream.encode("utf-16-le")
        size = 38 + len(text) + 7 & ~7
        one = struct.pack("<QQ", size, 0) + _sha1(content, blobs) + struct.pack("<H", len(text))
        data += (one + text).ljust(size, b"\0")
    return data


def _sha1(content: bytes, blobs: list[bytes]) -> bytes:
    if not content:
        return bytes(20)
    blobs.append(content)
    return hashlib.sha1(content).digest()
