"""The parent locator: which file a differencing VHDX stands above, and which identity it had.

A metadata item of keys and values, both UTF-16: ``parent_linkage`` (the parent's DataWriteGuid in
braces), ``parent_linkage2`` (another one that is right as well), and up to three paths.
Spec: MS-VHDX 2.6.2.6. No numpy.
"""

from __future__ import annotations

import ctypes
import ntpath
from dataclasses import dataclass, field

from vmimg.disk.layer import ParentRef
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhdx import structures as s

__all__ = ["ParentLocator", "pack_locator", "parse_locator"]

# The order in which the specification has them tried.
_PATHS = ("relative_path", "volume_path", "absolute_win32_path")
_MAX_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class ParentLocator:
    """The entries by key, as they stand in the file."""

    entries: dict[str, str] = field(default_factory=dict)

    @property
    def linkages(self) -> tuple[str, ...]:
        """Identities that the parent may have, lower case without braces; () where none is told."""
        found = (self.entries.get(key, "") for key in ("parent_linkage", "parent_linkage2"))
        texts = (text.strip("{}").lower() for text in found)
        return tuple(text for text in texts if text.strip("0-"))

    def reference(self, image: str) -> ParentRef:
        """The parent's paths, as this system writes them. Raises FormatError where there are none.

        Windows' absolute paths are good for little elsewhere, so a file of that name beside the
        image comes last.
        """
        paths: list[str] = []
        for key in _PATHS:
            named = self.entries.get(key)
            if named:
                paths.append(_native(named))
        for key in _PATHS:
            base = ntpath.basename(self.entries.get(key, ""))
            if base and base not in paths:
                paths.append(base)
        if not paths:
            raise FormatError(f"{image}: the parent locator names no file")
        return ParentRef(paths[0], "vhdx", tuple(paths[1:]))


def parse_locator(data: bytes, image: str) -> ParentLocator:
    """The parent locator in the metadata item ``data``; ``image`` is for messages."""
    size = ctypes.sizeof(s.ParentLocatorHeader)
    if len(data) < size:
        raise FormatError(f"{image}: the parent locator has {len(data)} bytes, {size} at least")
    header = s.ParentLocatorHeader.from_buffer_copy(data)
    if bytes(header.locator_type) != s.VHDX_LOCATOR:
        kind = s.guid_text(bytes(header.locator_type))
        raise UnsupportedFeature(f"{image}: a parent locator of type {kind}, which is not known")
    width = ctypes.sizeof(s.ParentLocatorEntry)
    count = int(header.key_value_count)
    if count > _MAX_ENTRIES or size + count * width > len(data):
        raise FormatError(
            f"{image}: a parent locator of {count} entries does not fit into its {len(data)} bytes"
        )
    entries: dict[str, str] = {}
    for number in range(count):
        entry = s.ParentLocatorEntry.from_buffer_copy(data, size + number * width)
        key = _text(data, int(entry.key_offset), int(entry.key_length), image)
        value = _text(data, int(entry.value_offset), int(entry.value_length), image)
        if key in entries:
            raise FormatError(f"{image}: the parent locator has the key '{key}' twice")
        entries[key] = value
    return ParentLocator(entries)


def pack_locator(path: str, linkage: bytes) -> bytes:
    """The metadata item that names ``path`` and the parent's DataWriteGuid ``linkage``."""
    absolute = path.startswith(("/", "\\")) or bool(ntpath.splitdrive(path)[0])
    windows = path.replace("/", "\\")
    if not absolute and not windows.startswith("."):
        windows = ".\\" + windows  # as Hyper-V writes it
    entries = {
        "parent_linkage": "{" + s.guid_text(linkage) + "}",
        "absolute_win32_path" if absolute else "relative_path": windows,
    }
    header = s.ParentLocatorHeader(
        locator_type=s.Guid(*s.VHDX_LOCATOR), key_value_count=len(entries)
    )
    place = ctypes.sizeof(header) + len(entries) * ctypes.sizeof(s.ParentLocatorEntry)
    table, texts = [bytes(header)], list[bytes]()
    for key, value in entries.items():
        name, content = key.encode("utf-16-le"), value.encode("utf-16-le", "surrogatepass")
        entry = s.ParentLocatorEntry(place, place + len(name), len(name), len(content))
        table.append(bytes(entry))
        texts += [name, content]
        place += len(name) + len(content)
    return b"".join(table + texts)


def _text(data: bytes, offset: int, length: int, image: str) -> str:
    if not length or length % 2 or offset + length > len(data):
        raise FormatError(
            f"{image}: a text of the parent locator ({length} bytes at {offset}) does not lie in "
            f"its {len(data)} bytes"
        )
    text = data[offset : offset + length].decode("utf-16-le", "replace")
    return text.rstrip("\0")


def _native(path: str) -> str:
    """A Windows path as this system writes it, without the prefix that turns parsing off."""
    plain = path.removeprefix("\\\\?\\").replace("\\", "/")
    while plain.startswith("./"):
        plain = plain[2:].lstrip("/")
    return plain
