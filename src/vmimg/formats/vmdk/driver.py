"""VMDK's Driver: what an image says of itself, and who reads, writes and checks it.

`inspect` reads headers and descriptors without numpy and follows no name: what the extents are is
taken from the text. Spec: VMware "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.descriptor import Descriptor, looks_like_descriptor
from vmimg.formats.vmdk.header import SparseHeader, extent_kind, read_extent_header
from vmimg.formats.vmdk.image import parent_of
from vmimg.formats.vmdk.text import embedded_descriptor, file_descriptor
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["VmdkDriver"]

_PROBED = 4096

_DDB_KEYS = (
    ("adapter-type", "adapterType"),
    ("hw-version", "virtualHWVersion"),
    ("tools-version", "toolsVersion"),
    ("uuid", "uuid"),
    ("long-content-id", "longContentID"),
    ("thin-provisioned", "thinProvisioned"),
)
"""Keys of info, and the entries of the disk data base that they give."""

_HEADER_TYPES = {"KDMV": "monolithicSparse", "COWD": "vmfsSparse", "SESPARSE": "seSparse"}
"""The kind of an extent that has no descriptor."""


class VmdkDriver(Driver):
    """All kinds of VMDK."""

    def probe(self, storage: Storage) -> int:
        if storage.size < 8:
            return 0
        head = storage.read(0, min(storage.size, _PROBED))
        if extent_kind(head) is not None:
            return 100
        return 100 if looks_like_descriptor(head) else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        if extent_kind(storage.read(0, min(8, storage.size))) is None:
            return _text_info(storage, file_descriptor(storage))
        header = read_extent_header(storage)
        descriptor = embedded_descriptor(storage, header)
        if descriptor is not None and not header.size and descriptor.size:
            return _text_info(storage, descriptor)
        return _sparse_info(storage, header, descriptor)

    def open(
        self,
        storage: Storage,
        *,
        writable: bool,
        companions: Companions,
        snapshot: str | None = None,
        keys: Keys | None = None,
    ) -> Layer:
        if snapshot is not None:
            raise OptionError(
                f"{storage.name}: a VMDK has no internal snapshots; open the delta that was made "
                "for the snapshot"
            )
        from vmimg.formats.vmdk.opening import open_image

        return open_image(storage, writable=writable, companions=companions)

    def writer(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
        name: str = "disk",
        keys: Keys | None = None,
    ) -> Writer:
        from vmimg.formats.vmdk.writer import make_writer

        return make_writer(size, options, parent=parent, base=base, name=name)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.telling import few
        from vmimg.formats.vmdk.vetting import vet

        return few(vet(storage))

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.vmdk.vetting import evidence

        return evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.vmdk.check import check_image

        return check_image(storage, companions=companions, repair=repair)


def _sparse_info(
    storage: Storage, header: SparseHeader, descriptor: Descriptor | None
) -> ImageInfo:
    kind = "streamOptimized" if header.compressed else _HEADER_TYPES[header.kind]
    extent: dict[str, Any] = {
        "filename": storage.name,
        "format": "",
        "virtual-size": header.size,
        "cluster-size": header.grain_size,
    }
    if header.compressed:
        extent["compressed"] = True
    parent = parent_of(descriptor, storage.name)
    if header.parent_name is not None:
        parent = ParentRef(header.parent_name, "vmdk")
    notes: list[str] = []
    if descriptor is None:
        notes.append("an extent without a descriptor: part of an image that another file describes")
    if header.unclean:
        notes.append("not closed properly: run vmimg check")
    if header.newline_damage:
        notes.append("its end-of-line characters were changed: the file was sent as text")
    return ImageInfo(
        format="vmdk",
        virtual_size=header.size,
        cluster_size=header.grain_size,
        dirty=header.unclean,
        parent=parent,
        details={
            **_details(descriptor, kind),
            "extents": [extent],
            "version": header.version,
        },
        notes=tuple(notes),
    )


def _text_info(storage: Storage, descriptor: Descriptor) -> ImageInfo:
    folder = os.path.dirname(storage.name)
    extents: list[dict[str, Any]] = []
    for line in descriptor.extents:
        extent: dict[str, Any] = {
            "filename": os.path.join(folder, line.filename) if line.filename is not None else "",
            "format": line.type,
            "virtual-size": line.sectors * s.SECTOR,
        }
        if line.access != "RW":
            extent["access"] = line.access
        extents.append(extent)
    return ImageInfo(
        format="vmdk",
        virtual_size=descriptor.size,
        parent=parent_of(descriptor, storage.name),
        details={**_details(descriptor, descriptor.create_type or ""), "extents": extents},
    )


def _details(descriptor: Descriptor | None, kind: str) -> dict[str, Any]:
    """Keys and values of qemu-img's format-specific data, and more from the disk data base."""
    details: dict[str, Any] = {}
    if descriptor is None:
        return {"create-type": kind}
    if descriptor.cid is not None:
        details["cid"] = descriptor.cid
    if descriptor.parent_cid is not None:
        details["parent-cid"] = descriptor.parent_cid
    details["create-type"] = descriptor.create_type or kind
    # Where ESX keeps which blocks changed, for backups; a VMDK of version 3 has it.
    if "changetrackpath" in descriptor.settings:
        details["change-track-path"] = descriptor.settings["changetrackpath"]
    for key, name in _DDB_KEYS:
        value = descriptor.ddb(name)
        if value is not None:
            details[key] = value
    return details
