"""The disks that bundles and archives hold, as storages that can be vetted like files.

A member is a disk by its name, or by its first bytes whatever its name: who unpacks it goes by
either. Those that lie in the archive as they are are read in their place; what is packed is
unpacked into memory, if it is small. The files of a whole system are not looked at: nobody opens
them as disks. Imports the readers of archives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.probe.claims import Claim
from vmimg.probe.entries import Archive, Entry, is_disk, kind_by_magic, path_of
from vmimg.probe.layers import disks_in_layers, the_disk_of
from vmimg.probe.sevenzip import read_7z
from vmimg.probe.tar import read_tar
from vmimg.probe.zip import read_zip
from vmimg.storage.base import Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage

__all__ = ["disks_inside"]

_MAX_MEMBERS: Final = 4096
# Members whose first bytes are looked at.
_MAX_HEADS: Final = 256
_HEAD: Final = 512
# Layers with a disk in them; a containerDisk has one.
_MAX_LAYERS: Final = 4
# Of a packed member, in memory.
_MAX_UNPACKED: Final = 24 << 20


def disks_inside(view: View, claim: Claim) -> Iterator[tuple[str, Storage | None]]:
    """(name, bytes) of each; None where all of it cannot be had."""
    if claim.name == "rootfs":
        return
    archive = _archive(view, claim)
    if archive is None:
        return
    if claim.name == "containerdisk":
        yield from _in_layers(view, archive)
    heads = _MAX_HEADS
    for entry in archive.entries:
        if entry.kind != "file" or entry.size < 4 or path_of(entry).startswith("rootfs/"):
            continue
        named = is_disk(entry)
        if not named and heads > 0:
            heads -= 1
            named = kind_by_magic(archive.content(entry, _HEAD) or b"") != ""
        if named:
            yield entry.name, _whole(view, archive, entry)


def _archive(view: View, claim: Claim) -> Archive | None:
    names = (claim.name, *claim.refines)
    if "tar" in names:
        return read_tar(view, _MAX_MEMBERS)
    if "zip" in names:
        return read_zip(view, _MAX_MEMBERS)
    return read_7z(view, _MAX_MEMBERS) if "7z" in names else None


def _whole(view: View, archive: Archive, entry: Entry) -> Storage | None:
    name = f"{view.storage.name}:{entry.name}"
    if entry.data is not None:
        if entry.data + entry.size > view.size:
            return None
        return SliceStorage(view.storage, view.start + entry.data, entry.size, name)
    if entry.size > _MAX_UNPACKED:
        return None
    data = archive.content(entry, _MAX_UNPACKED)
    return MemoryStorage(data, name) if data is not None and len(data) == entry.size else None


def _in_layers(view: View, archive: Archive) -> Iterator[tuple[str, Storage | None]]:
    from vmimg.probe.vetters import unpacked

    for number, found in enumerate(disks_in_layers(archive)):
        name = f"{found.layer.name}:{found.disk.name}"
        layer = _whole(view, archive, found.layer)
        if found.packed and layer is not None:
            # One at the most: that is where the time goes.
            layer = unpacked(View(layer, 0, layer.size))[0] if number == 0 else None
        inner = the_disk_of(View(layer, 0, layer.size)) if layer is not None else None
        disk = inner[0] if inner is not None else found.disk
        if layer is None or disk.data is None or disk.data + disk.size > layer.size:
            yield name, None
        else:
            yield name, SliceStorage(layer, disk.data, disk.size, name)
        if number + 1 >= _MAX_LAYERS:
            return
