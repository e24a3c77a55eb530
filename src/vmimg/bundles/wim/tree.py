"""Tree: the files of an image, as its metadata say; read as somebody goes through it.

Names are those of files and nothing else: what would lead out of a directory is refused, and so are
two of one name. A link is no directory, whatever children it may have. Nothing is kept but the
metadata themselves.
Sources: see structures. Imports errors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.bundles.wim.structures import (
    DIRECTORY,
    ENCRYPTED,
    EPOCH,
    MOUNT_POINT,
    REPARSE_POINT,
    SYMLINK,
    EntryHeader,
    LinkHeader,
    SecurityHeader,
    StreamHeader,
    aligned,
)
from vmimg.errors import FormatError, UnsafeImage
from vmimg.formats.vetting import printable

__all__ = ["Entry", "Link", "Tree", "read_link"]

_HEADER: Final = ctypes.sizeof(EntryHeader)
_STREAM: Final = ctypes.sizeof(StreamHeader)
_MAX_DEPTH: Final = 512
_NOTHING: Final = bytes(20)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a directory or a link. ``sha1``: of what is in it, None where it is empty; of a link,
    of its `LinkHeader`. ``streams``: others, by name. ``link``: equal for names of one file, 0
    where it has one name only. ``tag``: what kind of reparse point it is, 0 for none.
    """

    name: str
    attributes: int
    children: int
    sha1: bytes | None
    streams: tuple[tuple[str, bytes], ...]
    link: int
    tag: int
    accessed: int
    written: int

    @property
    def is_directory(self) -> bool:
        return bool(self.attributes & DIRECTORY) and not self.tag

    @property
    def is_link(self) -> bool:
        return self.tag in (SYMLINK, MOUNT_POINT)

    @property
    def is_file(self) -> bool:
        """Whether its bytes are what is in it."""
        return not self.attributes & (DIRECTORY | ENCRYPTED) and not self.tag

    @property
    def times(self) -> tuple[int, int]:
        """When it was read and written, in nanoseconds since 1970."""
        return (self.accessed - EPOCH) * 100, (self.written - EPOCH) * 100


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads, with slashes; ``absolute``: from the root of a drive."""

    target: str
    absolute: bool


class Tree:
    """``data``: the metadata of an image; ``name``: what to call it in messages."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        size = ctypes.sizeof(SecurityHeader)
        if len(data) < size:
            raise self._bad("are empty")
        security = SecurityHeader.from_buffer_copy(data)
        # Some makers leave the size out where there are no descriptors.
        start = aligned(max(size, int(security.size)))
        root = self._read(start)
        if root is None or not root[0].attributes & DIRECTORY:
            raise self._bad("have no root directory")
        self.root = root[0]
        # Each entry takes its bytes once: more than these can be are a loop.
        self._most = len(data) // _HEADER

    def list(self, directory: Entry) -> Iterator[Entry]:
        """What is in a directory. Raises FormatError, UnsafeImage."""
        at = directory.children
        seen: set[str] = set()
        if not at:
            return
        while found := self._read(at):
            entry, at = found
            self._check(entry, seen)
            yield entry

    def find(self, path: str) -> Entry | None:
        """What is at ``path``, names separated by slashes; the root for an empty one."""
        entry = self.root
        for part in path.split("/") if path else ():
            if not entry.is_directory:
                return None
            found = next((each for each in self.list(entry) if each.name == part), None)
            if found is None:
                return None
            entry = found
        return entry

    def walk(self) -> Iterator[tuple[str, Entry]]:
        """Everything but the root, with its path; a directory before what is in it."""
        count = 0
        seen: set[int] = set()
        levels = [("", self.list(self.root))]
        while levels:
            below, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                continue
            count += 1
            if count > self._most:
                raise self._bad("lead round in circles")
            path = f"{below}{entry.name}"
            yield path, entry
            if entry.is_directory and entry.children:
                if entry.children in seen or len(levels) >= _MAX_DEPTH:
                    raise self._bad("lead round in circles, or too deep")
                seen.add(entry.children)
                levels.append((f"{path}/", self.list(entry)))

    def _read(self, at: int) -> tuple[Entry, int] | None:
        """The entry at an offset, and where the next one lies; None at the end of a directory."""
        data = self._data
        if at % 8 or at + 8 > len(data):
            raise self._bad(f"name an entry at {at}")
        length = int.from_bytes(data[at : at + 8], "little")
        if length <= 8:
            return None
        if length < _HEADER or at + length > len(data):
            raise self._bad(f"have an entry of {length} bytes at {at}")
        header = EntryHeader.from_buffer_copy(data, at)
        name_bytes = int(header.name_bytes)
        if _HEADER + name_bytes > length:
            raise self._bad(f"have a name of {name_bytes} bytes in an entry at {at}")
        name = self._text(at + _HEADER, name_bytes)
        at = aligned(at + length)
        contents = []
        main = bytes(header.hash)
        if main != _NOTHING:
            contents.append(("", main))
        for _ in range(header.streams):
            if at + _STREAM > len(data):
                raise self._bad("end in the middle of a stream")
            stream = StreamHeader.from_buffer_copy(data, at)
            if not _STREAM + stream.name_bytes <= stream.length <= len(data) - at:
                raise self._bad(f"have a stream of {stream.length} bytes at {at}")
            sha1 = bytes(stream.hash)
            if sha1 != _NOTHING:
                contents.append((self._text(at + _STREAM, int(stream.name_bytes)), sha1))
            at = aligned(at + int(stream.length))
        reparse = bool(header.attributes & REPARSE_POINT)
        return (
            Entry(
                name,
                int(header.attributes),
                int(header.children),
                next((sha1 for stream, sha1 in contents if not stream), None),
                tuple(each for each in contents if each[0]),
                0 if reparse else int(header.link),
                int(header.link) & 0xFFFFFFFF if reparse else 0,
                int(header.accessed),
                int(header.written),
            ),
            at,
        )

    def _text(self, at: int, length: int) -> str:
        try:
            return self._data[at : at + length].decode("utf-16-le")
        except UnicodeDecodeError:
            raise self._bad(f"have a name at {at} that is no UTF-16") from None

    def _check(self, entry: Entry, seen: set[str]) -> None:
        name = entry.name
        if name in ("", ".", "..") or any(each in name for each in "/\\\0"):
            raise UnsafeImage(
                f"{self._name}: a file is called '{printable(name)}', which is no name"
            )
        for stream, _ in entry.streams:
            if any(each in stream for each in "/\\\0:"):
                raise UnsafeImage(
                    f"{self._name}: a stream is called '{printable(stream)}', which is no name"
                )
        if name in seen:
            raise UnsafeImage(f"{self._name}: two files are called '{printable(name)}'")
        seen.add(name)

    def _bad(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: its metadata {what}")


def read_link(data: bytes, tag: int) -> Link | None:
    """Where a link leads whose blob is ``data``; None for what cannot be said in a path."""
    size = ctypes.sizeof(LinkHeader)
    fixed = size if tag == SYMLINK else size - 4
    if len(data) < fixed:
        return None
    header = LinkHeader.from_buffer_copy(data[:size].ljust(size, b"\0"))
    start = fixed + int(header.substitute_offset)
    raw = data[start : start + int(header.substitute_bytes)]
    try:
        text = raw.decode("utf-16-le").replace("\\", "/")
    except UnicodeDecodeError:
        return None
    if not text or "\0" in text:
        return None
    if tag == SYMLINK and header.flags & 1:
        return Link(text, text.startswith("/"))
    text = text.removeprefix("/??/")
    if text[1:2] == ":":
        return Link(text[2:], absolute=True)
    return Link(text, absolute=True) if text.startswith("/") else None
