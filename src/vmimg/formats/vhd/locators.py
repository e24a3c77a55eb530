"""Parent locators: what a differencing VHD calls its parent, for each platform in its own way.

Read: names of Windows become names that can be looked for here, relative ones first, each followed
by the bare name beside the image: that is where a chain lies that was moved. None is believed;
which of them may be opened is decided by vmimg.disk.policy. No numpy.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0, "Parent Locator Entry".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from vmimg.disk.layer import ParentRef
from vmimg.errors import OptionError
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import DynamicFields
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["Locator", "locator_data", "parent_name", "parent_ref", "read_locators"]

# Windows knows paths of 32767 characters.
_MAX_BYTES: Final = 65536
# Who is asked first. The last two are deprecated and of no declared encoding.
_ORDER: Final = ("W2ru", "W2ku", "MacX", "Wi2r", "Wi2k")
_URL: Final = "file://"


@dataclass(frozen=True, slots=True)
class Locator:
    """An entry that is in use. ``text`` is None where it cannot be read; ``offset`` and ``space``
    are those of its data, in bytes.
    """

    code: str
    text: str | None
    offset: int
    space: int
    inside: bool
    """Whether its data lies inside the file."""


def read_locators(storage: Storage, header: DynamicFields) -> list[Locator]:
    """The entries of ``header`` that are in use, in their order."""
    found = []
    for entry in s.DynamicHeader.from_buffer_copy(header.raw).parent_locators:
        code = bytes(entry.platform_code)
        if not any(code):
            continue
        offset, length = entry.platform_data_offset, entry.platform_data_length
        inside = length <= _MAX_BYTES and offset + length <= storage.size
        name = code.decode("latin-1")
        text = _decode(name, storage.read(offset, length)) if inside and length else None
        # The specification counts the space in sectors, Microsoft's own programs in bytes.
        space = max(length, entry.platform_data_space if entry.platform_data_space >= 512 else 512)
        found.append(Locator(name, text, offset, space, inside))
    return found


def parent_name(header: DynamicFields) -> str:
    """The parent's name in the dynamic header itself, which for some writers is a path."""
    raw = bytes(s.DynamicHeader.from_buffer_copy(header.raw).parent_unicode_name)
    return _text(raw, "utf-16-be")


def parent_ref(storage: Storage, header: DynamicFields) -> ParentRef:
    """What the image calls its parent; the path is empty where it has no name that can be read."""
    by_code = {locator.code: locator.text for locator in read_locators(storage, header)}
    names = [by_code.get(code) or "" for code in _ORDER]
    paths: list[str] = []
    for code, name in zip((*_ORDER, ""), (*names, parent_name(header)), strict=True):
        path = _path(code, name)
        if path and _readable(path):
            paths.append(path)
    # All that the image says first, then what stands beside it.
    paths += [os.path.basename(path) for path in paths]
    unique = tuple(dict.fromkeys(path for path in paths if path))
    return ParentRef(unique[0] if unique else "", "vhd", unique[1:])


def locator_data(path: str) -> list[tuple[bytes, bytes]]:
    """(platform code, data) of the locators of a parent at ``path``, as the user gave it.

    A relative path is one to Windows and to everyone; an absolute one is also a URL, which is what
    programs outside of Windows look at.
    """
    if "\\" in path:
        raise OptionError(f"VHD cannot name a parent called '{path}': it has a backslash")
    if not _readable(path):
        raise OptionError(f"VHD cannot name a parent called {path!r}: that is no text")
    windows = path.replace("/", "\\")
    if not os.path.isabs(path):
        if not windows.startswith((".\\", "..\\")):
            windows = ".\\" + windows
        return [(b"W2ru", windows.encode("utf-16-le"))]
    url = _URL + quote(path)
    return [(b"W2ku", windows.encode("utf-16-le")), (b"MacX", url.encode())]


def locator_space(data: bytes) -> int:
    """Bytes that the data of a locator takes in the file: whole sectors."""
    return align_up(max(1, len(data)), s.SECTOR)


def _decode(code: str, raw: bytes) -> str | None:
    if code in ("W2ru", "W2ku"):
        return _text(raw, "utf-16-le") or None
    if code == "MacX":
        return _text(raw, "utf-8") or None
    if code in ("Wi2r", "Wi2k"):
        wide = len(raw) >= 4 and raw[1] == 0 and raw[3] == 0
        return _text(raw, "utf-16-le" if wide else "cp1252") or None
    return None  # "Mac " is an alias record of the classic Mac OS


def _text(raw: bytes, encoding: str) -> str:
    return raw.decode(encoding, "replace").partition("\0")[0]


def _readable(name: str) -> bool:
    """Whether it is text of one line. Names of files can be more, but those of parents are shown to
    people, and made up by whoever made the image.
    """
    return not any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in name)


def _path(code: str, name: str) -> str:
    """A path that can be looked for on this system, "" where there is none in ``name``."""
    if code == "MacX":
        if not name.startswith(_URL):
            return ""
        host, slash, rest = name.removeprefix(_URL).partition("/")
        if host not in ("", "localhost"):
            return ""
        return unquote(slash + rest).partition("\0")[0]
    path = name.replace("\\", "/")
    if os.name != "nt" and len(path) > 2 and path[1:3] == ":/":
        # There is no drive here; the name without the path is what can be found.
        return path.rpartition("/")[2]
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path
