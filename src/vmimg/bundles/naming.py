"""What somebody typed: a file, or a disk in one; and whether it may be a bundle at all.

Answered from the first bytes, so that an image of a disk costs nothing more. Imports storage.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from vmimg.errors import StorageError
from vmimg.formats.opening import open_file
from vmimg.storage.base import Storage

__all__ = ["Named", "is_packed", "may_be_bundle", "named"]

# (offset, magic) of what bundles are packed in; the text files of machines begin otherwise.
_PACKINGS: Final = (
    (257, b"ustar"),
    (0, b"\x1f\x8b"),
    (0, b"PK\x03\x04"),
    (0, b"7z\xbc\xaf"),
    (0, b"\xfd7zXZ\0"),
    (0, b"\x28\xb5\x2f\xfd"),
    (0, b"BZh"),
    (0, b"\x04\x22\x4d\x18"),
    (0, b"MSWIM\0"),
    (0, b"WLPWM\0"),
)
_HEAD: Final = 512
# Of descriptions, which are text, or as good as.
_EXTENSIONS: Final = (".ovf", ".vmx", ".vbox", ".vbox-prev", ".pvs", ".xml", ".vmcx")


@dataclass(frozen=True, slots=True)
class Named:
    """What somebody typed: the ``path`` of a file or directory, and the ``disk`` in it, if any."""

    path: str
    disk: str | None = None


def named(text: str | os.PathLike[str]) -> Named:
    """``appliance.ova:disk2`` is disk2 of appliance.ova, unless a file has the whole name."""
    path = os.fspath(text)
    if path == "-" or os.path.lexists(path):
        return Named(path)
    before, colon, after = path.rpartition(":")
    # A name in an archive may have colons itself.
    while colon and not os.path.lexists(before):
        before, colon, more = before.rpartition(":")
        after = f"{more}:{after}"
    return Named(before, after) if colon and before and after else Named(path)


def may_be_bundle(path: str) -> bool:
    """Whether it is worth the time to detect what ``path`` is."""
    if path == "-":
        return False
    if os.path.isdir(path):
        return True
    try:
        with open_file(path, lock=False) as storage:
            return is_packed(storage)
    except StorageError:
        return False  # whoever opens it says why


def is_packed(storage: Storage) -> bool:
    """Whether it begins like what bundles are packed in, or is called like a description."""
    if storage.name.lower().endswith(_EXTENSIONS):
        return True
    head = storage.read(0, min(_HEAD, storage.size))
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _PACKINGS)
