"""Where descriptors stand: in a file of their own, or inside a sparse file. No numpy."""

from __future__ import annotations

from vmimg.errors import FormatError
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.descriptor import Descriptor, looks_like_descriptor, parse_descriptor
from vmimg.formats.vmdk.header import SparseHeader
from vmimg.storage.base import Storage

__all__ = ["embedded_descriptor", "file_descriptor"]

_PROBED = 4096


def file_descriptor(storage: Storage) -> Descriptor:
    """The descriptor that ``storage`` is. Raises FormatError for what is none."""
    name = storage.name
    if not looks_like_descriptor(storage.read(0, min(storage.size, _PROBED))):
        raise FormatError(
            f"{name}: not a VMDK: it begins neither with a sparse header nor with a descriptor"
        )
    if storage.size > s.MAX_DESCRIPTOR:
        raise FormatError(
            f"{name}: a descriptor of {storage.size} bytes; at most {s.MAX_DESCRIPTOR} are read"
        )
    return parse_descriptor(storage.read(0, storage.size), name)


def embedded_descriptor(storage: Storage, header: SparseHeader) -> Descriptor | None:
    """The descriptor inside a sparse file; None for extents, whose descriptor is elsewhere."""
    if not header.descriptor_size:
        return None
    length = min(header.descriptor_size, s.MAX_DESCRIPTOR)
    text = storage.read(header.descriptor_offset, length)
    if not text.partition(b"\0")[0].strip():
        return None
    return parse_descriptor(text, storage.name)
