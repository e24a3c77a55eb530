"""Vets a directory by what is in it: links, devices and pipes where there should be files.

Nothing in it is opened. Imports storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.vetting import Finding
from vmimg.storage.listing import listed

__all__ = ["vet_folder"]

_MAX_ENTRIES: Final = 1000


def vet_folder(path: str) -> Iterator[Finding]:
    """What is odd about the entries of the directory at ``path``. Raises StorageError where it
    cannot be listed.
    """
    entries = listed(path, _MAX_ENTRIES + 1)
    if len(entries) > _MAX_ENTRIES:
        yield Finding.of("unfinished", f"the directory has more than {_MAX_ENTRIES} entries")
    links = [entry.name for entry in entries if entry.kind == "link"]
    if links:
        names = ", ".join(links[:8])
        message = f"{len(links)} of its entries are links, which are not followed"
        yield Finding.of("member-link", message, evidence=names)
    others = [entry.name for entry in entries if entry.kind == "other"]
    if others:
        names = ", ".join(others[:8])
        message = f"{len(others)} of its entries are devices, pipes or sockets"
        yield Finding.of("member-device", message, evidence=names)
