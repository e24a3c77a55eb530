"""Layers of container images, and the disk of a machine in one: KubeVirt's containerDisks.

A containerDisk is a container image, of Docker or OCI, that has nothing but a directory /disk with
one disk in it, raw or qcow2, so that registries carry disks. A layer is a tar, plain or compressed;
its first few KiB name what is in it. Imports the readers of archives and streams.

Source: KubeVirt's user guide, "Disks and Volumes", containerDisk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.probe.entries import Archive, Entry, disk_kind, path_of
from vmimg.probe.streams import Unpacking, stream_kind
from vmimg.probe.tar import BLOCK, header_of, read_tar
from vmimg.storage.memory import MemoryStorage

__all__ = ["LayerDisk", "disks_in_layers", "the_disk_of"]

# Read and unpacked of a layer to learn what is in it.
_HEAD: Final = 32 << 10
_MAX_LAYERS: Final = 16
_MAX_MEMBERS: Final = 16
# A compressed tar of a blank disk has a few hundred bytes.
_LEAST: Final = 64


@dataclass(frozen=True, slots=True)
class LayerDisk:
    """``disk``: the member of the layer's tar; its places count from the start of that.

    ``kind``: its format by its first bytes. ``packed``: how the layer is compressed, or "".
    """

    layer: Entry
    disk: Entry
    kind: str
    packed: str


def disks_in_layers(archive: Archive) -> Iterator[LayerDisk]:
    """The disk of each layer that has one in /disk, as far as layers can be read."""
    layers = [entry for entry in archive.entries if _may_be_layer(entry)]
    for layer in layers[:_MAX_LAYERS]:
        head = archive.content(layer, _HEAD)
        if not head:
            continue
        packed = stream_kind(head[:16])
        found = the_disk_of(View(_unpacked(head, packed), 0, _HEAD))
        if found is not None:
            yield LayerDisk(layer, *found, packed)


def the_disk_of(layer: View) -> tuple[Entry, str] | None:
    """The first file in /disk of the tar that ``layer`` begins with, and its format."""
    block = layer.read(0, BLOCK)
    if len(block) < BLOCK or header_of(block) is None:
        return None
    walk = read_tar(layer, _MAX_MEMBERS)
    for entry in walk.entries:
        path = path_of(entry)
        if entry.kind == "file" and entry.size and path.startswith("disk/"):
            return entry, disk_kind(entry, walk.content(entry, BLOCK))
    return None


def _may_be_layer(entry: Entry) -> bool:
    path = path_of(entry)
    # Docker's own archives, and those of OCI, in which nothing but its digest names a blob.
    named = path.endswith("/layer.tar") or path.startswith("blobs/") or path.count("/") == 0
    return entry.kind == "file" and named and entry.size >= _LEAST


def _unpacked(head: bytes, packed: str) -> MemoryStorage:
    if not packed:
        return MemoryStorage(head, "layer")
    unpacking = Unpacking(View(MemoryStorage(head, "layer"), 0, len(head)), packed, limit=_HEAD)
    unpacking.enough = _HEAD
    made = bytearray()
    for piece in unpacking:
        made += piece[: _HEAD - len(made)]
        if len(made) >= _HEAD or unpacking.members > _MAX_MEMBERS:
            break
    return MemoryStorage(bytes(made), "layer")
