"""The metadata of a new image, and the XML that describes it. Sources: see structures."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Final

from vmimg.bundles.wim.scanning import Node
from vmimg.bundles.wim.structures import (
    DIRECTORY,
    EPOCH,
    NO_SECURITY,
    NORMAL,
    REPARSE_POINT,
    SYMLINK,
    EntryHeader,
    LinkHeader,
    SecurityHeader,
    StreamHeader,
    aligned,
)
from vmimg.machines.xml import encoded, make

__all__ = ["description", "link_data", "metadata", "windows_time"]

_END: Final = bytes(8)
# In the upper half of a reparse point's number: its target is as it was found.
_NOT_FIXED: Final = 1 << 48


def metadata(nodes: Sequence[Node], latest: int | None) -> bytes:
    """Of the image of ``nodes``, the root first. ``latest``: no time is later, in nanoseconds."""
    directories = [node for node in nodes if node.kind == "directory"]
    security = SecurityHeader(ctypes.sizeof(SecurityHeader), 0)
    at = ctypes.sizeof(SecurityHeader) + len(_entry(nodes[0], 0, latest)) + len(_END)
    places: dict[Node, int] = {}
    for directory in directories:
        places[directory] = at
        at += sum(len(_entry(node, 0, latest)) for node in directory.children) + len(_END)
    made = [bytes(security), _entry(nodes[0], places[nodes[0]], latest), _END]
    for directory in directories:
        made += [_entry(node, places.get(node, 0), latest) for node in directory.children]
        made.append(_END)
    return b"".join(made)


def link_data(node: Node) -> bytes:
    """What a link holds: where it leads, in the words of Windows."""
    target = node.target.replace("/", "\\")
    absolute = target.startswith("\\")
    shown = _text(f"C:{target}" if absolute else target)
    taken = _text(f"\\??\\C:{target}" if absolute else target)
    header = LinkHeader(0, len(taken), len(taken) + 2, len(shown), not absolute)
    return bytes(header) + taken + b"\0\0" + shown + b"\0\0"


def description(nodes: Iterable[Node], *, name: str, text: str, created: int, total: int) -> bytes:
    """The XML. ``created``: nanoseconds since 1970; ``total``: bytes of the archive without it."""
    files = directories = size = linked = 0
    seen: set[int] = set()
    for node in nodes:
        directories += node.kind == "directory"
        files += node.kind != "directory"
        length = len(link_data(node)) if node.kind == "link" else node.size
        size += length
        linked += length if node.link in seen else 0
        if node.link:
            seen.add(node.link)
    root = make("WIM")
    image = make("IMAGE", {"INDEX": "1"}, parent=root)
    make("NAME", content=name, parent=image)
    if text:
        make("DESCRIPTION", content=text, parent=image)
    for tag, value in (
        ("DIRCOUNT", directories),
        ("FILECOUNT", files),
        ("TOTALBYTES", size),
        ("HARDLINKBYTES", linked),
    ):
        make(tag, content=str(value), parent=image)
    moment = windows_time(created)
    for tag in ("CREATIONTIME", "LASTMODIFICATIONTIME"):
        time = make(tag, parent=image)
        make("HIGHPART", content=f"0x{moment >> 32:08X}", parent=time)
        make("LOWPART", content=f"0x{moment & 0xFFFFFFFF:08X}", parent=time)
    make("TOTALBYTES", content=str(total), parent=root)
    return b"\xff\xfe" + encoded(root).encode("utf-16-le")


def windows_time(nanoseconds: int) -> int:
    """The time of Windows of a time since 1970; what it cannot say is as near as can be."""
    return min(max(0, nanoseconds // 100 + EPOCH), (1 << 63) - 1)


def _entry(node: Node, children: int, latest: int | None) -> bytes:
    name = _text(node.name)
    written = windows_time(node.written if latest is None else min(node.written, latest))
    header = EntryHeader(
        security=NO_SECURITY,
        attributes={"directory": DIRECTORY, "link": REPARSE_POINT}.get(node.kind, NORMAL),
        children=children,
        # When it was read, and on most systems when it was made, is not the directory's content.
        created=written,
        accessed=written,
        written=written,
        link=node.link,
        name_bytes=len(name),
    )
    streams = b""
    if node.kind == "link":
        header.link = SYMLINK | _NOT_FIXED
        # Two without a name: where it leads, and what is in it otherwise.
        header.streams = 2
        streams = _stream(node.sha1) + _stream(bytes(20))
    elif node.kind == "file":
        header.hash[:] = node.sha1
    data = name + b"\0\0" if name else b""
    header.length = aligned(ctypes.sizeof(EntryHeader) + len(data))
    return (bytes(header) + data).ljust(int(header.length), b"\0") + streams


def _stream(sha1: bytes) -> bytes:
    header = StreamHeader(length=aligned(ctypes.sizeof(StreamHeader)))
    header.hash[:] = sha1
    return bytes(header).ljust(int(header.length), b"\0")


def _text(text: str) -> bytes:
    return text.encode("utf-16-le")
