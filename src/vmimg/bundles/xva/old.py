"""Exports of XenServer 3 and 4.0: an appliance, its disks cut into compressed pieces of 1 GB.

    ova.xml
    hda/chunk-000000000.gz     the first 1,000,000,000 bytes of a disk
    hda/chunk-000000001.gz     the next ones

The pieces are one gzip stream each, and the disk is what all of them unpack to. Sources: XenServer
Software Development Kit Guide, "Importing and exporting VMs" (XVA format version 1); xen-api,
ocaml/xe-cli/rt/geneva/xva.ml. Imports archives and storage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vmimg.bundles.pieces import open_pieces
from vmimg.errors import FormatError
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["ChunkedDisk", "chunked_disks", "is_old", "open_chunks"]

_CHUNK: Final = re.compile(r"(?:\./)?([^/]+)/chunk-?(\d{9})\.gz", re.ASCII)


@dataclass(frozen=True, slots=True)
class ChunkedDisk:
    """``members``: its pieces in their order. ``size``: virtual bytes."""

    directory: str
    members: tuple[str, ...]
    size: int


def is_old(text: bytes) -> bool:
    """Whether an ova.xml is one of an appliance."""
    return b"<appliance" in text[:4096]


def chunked_disks(
    names: Iterable[str], sizes: Mapping[str, int], folder: Folder
) -> dict[str, ChunkedDisk]:
    """The disks among ``names``. ``sizes``: their virtual bytes, by directory. Raises FormatError
    where a piece is missing.
    """
    found = dict[str, dict[int, str]]()
    for name in names:
        match = _CHUNK.fullmatch(name)
        if match is not None and match[1] in sizes:
            pieces = found.setdefault(match[1], {})
            if int(match[2]) in pieces:
                raise FormatError(f"{folder.name}: there are two pieces '{name}'")
            pieces[int(match[2])] = name
    disks = dict[str, ChunkedDisk]()
    for directory, pieces in found.items():
        if max(pieces) != len(pieces) - 1:
            raise FormatError(f"{folder.name}: a piece of the disk '{directory}' is missing")
        members = tuple(pieces[number] for number in sorted(pieces))
        disks[directory] = ChunkedDisk(directory, members, sizes[directory])
    return disks


def open_chunks(folder: Folder, disk: ChunkedDisk) -> Storage:
    """All of a disk, unpacked as it is read. Raises FormatError where it has not the size that is
    said.
    """
    storage = open_pieces(folder, disk.members, disk.directory, compression="gzip", limit=disk.size)
    if storage.size != disk.size:
        found = storage.size
        storage.close()
        raise FormatError(
            f"{folder.name}:{disk.directory}: unpacks to {found} bytes, and the disk has "
            f"{disk.size}"
        )
    return storage
