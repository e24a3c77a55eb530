"""VdiDriver: finds, describes, opens, writes and checks VDI images.

Reading a header and looking for a parent need no numpy; layer, writer and check are imported by the
methods that use them. Spec: VirtualBox src/VBox/Storage/VDICore.h, VDI.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.vdi import structures as s
from vmimg.formats.vdi.header import NO_UUID, VdiHeader, read_header
from vmimg.formats.vdi.parents import find_parent, has_uuid, parent_ref
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["VdiDriver"]


class VdiDriver(Driver):
    """VDI of versions 0.1, 0.2 and 1.1, of all types."""

    def probe(self, storage: Storage) -> int:
        place = s.PreHeader.u32Signature.offset
        if storage.size < s.HEADER_OFFSET:
            return 0
        found = int.from_bytes(storage.read(place, 4), "little") == s.SIGNATURE
        return 100 if found else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="vdi",
            virtual_size=header.size,
            cluster_size=header.block_size,
            parent=parent_ref(header),
            details=_details(header),
            notes=tuple(_notes(header)),
        )

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
                f"{storage.name}: a VDI image has no snapshots inside; open the snapshot's own file"
            )
        header = read_header(storage)
        if writable:
            from vmimg.formats.vdi.allocation import WritableVdiLayer

            return WritableVdiLayer(storage, header)
        from vmimg.formats.vdi.layer import VdiLayer

        return VdiLayer(storage, header)

    parent_extensions = (".vdi",)

    def is_parent(self, storage: Storage, ref: ParentRef) -> bool:
        return has_uuid(storage, ref)

    def locate_parent(self, ref: ParentRef, folders: Sequence[str]) -> str | None:
        return find_parent(ref, folders)

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
        from vmimg.formats.vdi.writer import VdiWriter

        return VdiWriter(size, options, parent=parent, base=base, name=name)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.telling import few
        from vmimg.formats.vdi.vetting import vet

        return few(vet(storage))

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.vdi.vetting import evidence

        return evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.vdi.check import check_image

        return check_image(storage, repair=repair)


def _details(header: VdiHeader) -> dict[str, Any]:
    details: dict[str, Any] = {
        "version": f"{header.major}.{header.minor}",
        "image-type": s.TYPE_NAMES[header.image_type],
        "flags": header.flags,
        "block-size": header.block_size,
        "block-extra": header.block_extra,
        "blocks": header.blocks,
        "blocks-allocated": header.blocks_allocated,
        "map-offset": header.offset_blocks,
        "data-offset": header.offset_data,
        "uuid": str(header.uuid_create),
        "uuid-modification": str(header.uuid_modify),
    }
    if header.uuid_linkage != NO_UUID:
        details["uuid-parent"] = str(header.uuid_linkage)
    if header.uuid_parent_modify != NO_UUID:
        details["uuid-parent-modification"] = str(header.uuid_parent_modify)
    if header.text:
        details["creator"] = header.text.strip("<> ")
    if header.comment:
        details["comment"] = header.comment
    if all(header.geometry):
        details["geometry"] = list(header.geometry)
    return details


def _notes(header: VdiHeader) -> Iterator[str]:
    if header.blocks_allocated > header.blocks:
        yield (
            f"counts {header.blocks_allocated} allocated blocks of {header.blocks}: "
            "run vmimg check --repair all"
        )
    if header.flags & ~s.ZERO_EXPAND:
        yield f"has flags that VirtualBox does not know ({header.flags:#x}): it refuses the image"
    if NO_UUID in (header.uuid_create, header.uuid_modify):
        yield "has no UUID of its own: VirtualBox refuses the image"
    if not header.is_child and header.uuid_linkage != NO_UUID:
        yield "names a parent, but is not of a type that has one: the parent is not read"
