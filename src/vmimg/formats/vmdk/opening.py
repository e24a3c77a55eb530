"""Opening a VMDK: from a file to the layer of its disk, whatever it is made of.

A sparse file is a layer by itself. A text descriptor names extents, each of which becomes a layer;
where there are several, they are joined. Files that the descriptor names are opened by
``companions`` and by nothing else. Imports the layers of this package.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.disk.concat import ConcatLayer
from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.driver import Companions
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.descriptor import (
    FLAT_TYPES,
    SPARSE_TYPES,
    Descriptor,
    ExtentLine,
)
from vmimg.formats.vmdk.flat import FlatLayer, ForbiddenLayer, ZeroLayer
from vmimg.formats.vmdk.header import SparseHeader, extent_kind, read_extent_header
from vmimg.formats.vmdk.image import VmdkImage, VmdkLayer, parent_of
from vmimg.formats.vmdk.sesparse import SeSparseLayer
from vmimg.formats.vmdk.sparse import SparseLayer
from vmimg.formats.vmdk.text import embedded_descriptor, file_descriptor
from vmimg.storage.base import Storage

__all__ = ["VmdkConcatLayer", "open_image"]


class VmdkConcatLayer(ConcatLayer, VmdkLayer):
    """The extents of an image, one behind the other."""

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self.owns_image:
                self.image.close()


def open_image(storage: Storage, *, writable: bool, companions: Companions) -> Layer:
    """The layer of the image in ``storage``. Raises FormatError, UnsupportedFeature, and what
    ``companions`` raises.
    """
    if extent_kind(storage.read(0, min(8, storage.size))) is None:
        return _open_text(storage, file_descriptor(storage), 0, writable, companions)
    header = read_extent_header(storage)
    descriptor = embedded_descriptor(storage, header)
    if descriptor is not None and not header.size:
        if descriptor.size:
            offset = header.descriptor_offset
            return _open_text(storage, descriptor, offset, writable, companions)
        return _empty_layer(storage, descriptor, header)
    if descriptor is not None and len(descriptor.extents) > 1:
        raise UnsupportedFeature(
            f"{storage.name}: the descriptor inside it names {len(descriptor.extents)} extents; "
            "an image of several files has its descriptor in a file of its own"
        )
    image = VmdkImage(storage, descriptor, header.descriptor_offset)
    parent = parent_of(descriptor, storage.name)
    if header.parent_name is not None:
        parent = ParentRef(header.parent_name, "vmdk")
    layer = _sparse_layer(storage, header, image, None, None, writable=writable)
    layer.adopt(image, parent, writable=layer.writable)
    return layer


def _empty_layer(storage: Storage, descriptor: Descriptor, header: SparseHeader) -> VmdkLayer:
    """The layer of a disk without a byte, whose header looks like that of a descriptor."""
    image = VmdkImage(storage, descriptor, header.descriptor_offset)
    layer = ZeroLayer(0, image)
    layer.adopt(image, parent_of(descriptor, storage.name), writable=storage.writable)
    return layer


def _open_text(
    storage: Storage,
    descriptor: Descriptor,
    text_offset: int,
    writable: bool,
    companions: Companions,
) -> Layer:
    name = storage.name
    if not descriptor.extents:
        raise FormatError(f"{name}: the descriptor names no extents")
    image = VmdkImage(storage, descriptor, text_offset)
    parent = parent_of(descriptor, name)
    parts = list(_parts(image, descriptor, parent, writable, companions))
    if len(parts) == 1 and isinstance(parts[0], VmdkLayer):
        parts[0].adopt(image, parent, writable=parts[0].writable)
        return parts[0]
    joined = VmdkConcatLayer(parts)
    if writable and parent is not None and not joined.aligned:
        raise UnsupportedFeature(
            f"{name}: a delta whose extents do not end on whole grains cannot be written in place; "
            "convert it first"
        )
    joined.adopt(image, parent, writable=writable)
    return joined


def _parts(
    image: VmdkImage,
    descriptor: Descriptor,
    parent: ParentRef | None,
    writable: bool,
    companions: Companions,
) -> Iterator[Layer]:
    """The layers of the extents, in order; empty extents have none."""
    for number, line in enumerate(descriptor.extents):
        if not line.sectors and len(descriptor.extents) > 1:
            continue
        part = _part(image, line, number, writable and line.access == "RW", companions)
        part.parent = parent
        yield part


def _part(
    image: VmdkImage, line: ExtentLine, number: int, writable: bool, companions: Companions
) -> Layer:
    name, size = image.storage.name, line.sectors * s.SECTOR
    if line.type == "ZERO":
        return ZeroLayer(size, image)
    if line.access == "NOACCESS":
        return ForbiddenLayer(size, f"{name}: extent {number} ('{line.filename}')")
    if line.type not in FLAT_TYPES and line.type not in SPARSE_TYPES:
        raise UnsupportedFeature(
            f"{name}: extent {number} is of the type {line.type}: a disk of a storage network, "
            "which only ESXi maps"
        )
    assert line.filename is not None
    # Partitions are extents of one and the same device.
    storage = image.files.get(line.filename)
    if storage is None:
        storage = image.files[line.filename] = companions(line.filename, "extent")
    if line.type in FLAT_TYPES:
        offset = line.offset * s.SECTOR
        if offset + size > storage.size:
            raise FormatError(
                f"{name}: the extent '{line.filename}' has {size} bytes from {offset}, but the "
                f"file ends at {storage.size}: it is truncated"
            )
        writable = writable and storage.writable
        return FlatLayer(storage, offset, size, image, file=storage.name, writable=writable)
    header = read_extent_header(storage)
    if size > header.size:
        raise FormatError(
            f"{name}: the extent '{line.filename}' is said to have {size} bytes, but its header "
            f"says {header.size}"
        )
    return _sparse_layer(storage, header, image, size, storage.name, writable=writable)


def _sparse_layer(
    storage: Storage,
    header: SparseHeader,
    image: VmdkImage,
    size: int | None,
    file: str | None,
    *,
    writable: bool,
) -> VmdkLayer:
    if writable:
        from vmimg.formats.vmdk.allocation import WritableSparseLayer

        return WritableSparseLayer(storage, header, image, size=size, file=file)
    kind = SeSparseLayer if header.kind == "SESPARSE" else SparseLayer
    return kind(storage, header, image, size=size, file=file)
