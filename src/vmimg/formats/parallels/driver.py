"""ParallelsDriver: finds, describes, opens, writes and checks Parallels images: files and bundles.

Headers and descriptors are read without numpy; layers, writers and check are imported by the
methods that use them. Spec: QEMU docs/interop/parallels and prl-xml; ploop's ploop1_image.h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Snapshot, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.bundle import (
    NO_GUID,
    Descriptor,
    braced,
    looks_like_bundle,
    read_descriptor,
)
from vmimg.formats.parallels.extension import Extension, read_extension
from vmimg.formats.parallels.header import ParallelsHeader, has_magic, read_header
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["ParallelsDriver"]

_PROBED = 4096

_PARAMETERS = (
    ("name", "Name"),
    ("uid", "UID"),
    ("cylinders", "Cylinders"),
    ("heads", "Heads"),
    ("sectors-per-track", "Sectors"),
    ("physical-sector-size", "PhysicalSectorSize"),
    ("logical-sector-size", "LogicSectorSize"),
)
"""Keys of info, and the elements of Disk_Parameters that they give."""


class ParallelsDriver(Driver):
    """Expanding images of both signatures; bundles, ploop's as well."""

    def probe(self, storage: Storage) -> int:
        if _is_bundle(storage):
            return 100
        if storage.size < s.HEADER_SIZE or not has_magic(storage.read(0, 16)):
            return 0
        return 100

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.parallels.vetting import vet_bundle, vet_file

        return vet_bundle(storage) if _is_bundle(storage) else vet_file(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.parallels.vetting import bundle_evidence, file_evidence

        found = bundle_evidence(storage) if _is_bundle(storage) else file_evidence(storage)
        return tuple(found)

    def inspect(self, storage: Storage) -> ImageInfo:
        if _is_bundle(storage):
            return _bundle_info(read_descriptor(storage))
        header = read_header(storage)
        extension = read_extension(storage, header)
        return ImageInfo(
            format="parallels",
            virtual_size=header.size,
            cluster_size=header.block_size,
            dirty=header.dirty,
            details=_details(header, extension),
            notes=tuple(_notes(header, extension)),
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
        from vmimg.formats.parallels.opening import open_bundle, open_file

        if _is_bundle(storage):
            return open_bundle(
                storage,
                read_descriptor(storage),
                writable=writable,
                companions=companions,
                snapshot=snapshot,
            )
        if snapshot is not None:
            raise OptionError(
                f"{storage.name}: is one image of a bundle, if of any; snapshots are opened "
                f"through the bundle's directory, where the {s.INDEX} is"
            )
        return open_file(storage, writable=writable)

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
        from vmimg.formats.parallels.writer import make_writer

        if parent is not None:
            raise OptionError("a parallels image cannot have a backing file")
        return make_writer(size, options, name=name)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.parallels.check import check_bundle, check_file

        if _is_bundle(storage):
            return check_bundle(storage, companions=companions, repair=repair)
        return check_file(storage, repair=repair)


def _is_bundle(storage: Storage) -> bool:
    return looks_like_bundle(storage.read(0, min(storage.size, _PROBED)))


def _bundle_info(descriptor: Descriptor) -> ImageInfo:
    top, first = descriptor.top, descriptor.storages[0]
    parameters = descriptor.parameters
    image = first.images.get(top)
    split = len(descriptor.storages) > 1
    details: dict[str, Any] = {
        "image-type": "plain" if image is not None and image.plain else "expanding",
        "top-guid": braced(top),
        "extents": [
            {
                "filename": each.file,
                "format": "plain" if each.plain else "expanding",
                "guid": braced(each.guid),
                "virtual-offset": storage.start,
                "virtual-size": storage.end - storage.start,
            }
            for storage in descriptor.storages
            for each in storage.images.values()
        ],
        "states": [
            {"guid": braced(guid)} | ({} if parent == NO_GUID else {"parent": braced(parent)})
            for guid, parent in descriptor.parents.items()
        ],
    }
    for key, name in _PARAMETERS:
        if parameters.value(name):
            details[key] = parameters.value(name)
    notes = []
    if descriptor.refusal:
        notes.append(f"cannot be read: {descriptor.refusal}")
    if split:
        notes.append(f"split into {len(descriptor.storages)} pieces")
    return ImageInfo(
        format="parallels",
        virtual_size=descriptor.size,
        cluster_size=first.block_size or None,
        encrypted=descriptor.encrypted,
        snapshots=tuple(_snapshots(descriptor)),
        details=details,
        notes=tuple(notes),
    )


def _snapshots(descriptor: Descriptor) -> Iterator[Snapshot]:
    """The states that are not the present one. The file has no dates, and no names but those of
    the images.
    """
    images = descriptor.storages[0].images
    for guid in descriptor.parents:
        if guid != descriptor.top:
            name = images[guid].file if guid in images else ""
            yield Snapshot(braced(guid), name, 0, 0, 0, 0, descriptor.size)


def _details(header: ParallelsHeader, extension: Extension | None) -> dict[str, Any]:
    details: dict[str, Any] = {
        "signature": (s.MAGIC_EXT if header.extended else s.MAGIC_OLD).decode(),
        "in-use": f"{header.in_use:#x}",
        "bat-entries": header.entries,
        "data-offset": header.data_start,
        "cylinders": header.cylinders,
        "heads": header.heads,
    }
    if header.flags:
        details["flags"] = f"{header.flags:#x}"
    if extension is not None:
        details["extension"] = extension.to_json()
        details["bitmaps"] = [
            {"id": str(bitmap.id), "granularity": bitmap.granularity}
            for bitmap in extension.bitmaps
        ]
    return details


def _notes(header: ParallelsHeader, extension: Extension | None) -> Iterator[str]:
    if header.dirty:
        yield "marked as in use: open elsewhere, or not closed properly: see vmimg check"
    if header.data_off_wrong is not None:
        yield f"{header.data_off_wrong}: run vmimg check --repair all"
    if extension is None:
        return
    if extension.wrong:
        yield f"its format extension is damaged: {extension.wrong}"
    elif extension.bitmaps:
        stale = " (stale: written since by what does not keep them)" * (not header.in_use)
        yield f"{len(extension.bitmaps)} dirty bitmaps{stale}; they are lost when it is written to"
