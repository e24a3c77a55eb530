"""VhdxDriver: how the rest of vmimg makes, reads, writes and checks VHDX.

Reading headers, metadata and the log needs no numpy; layer, writer and check are imported by the
methods that use them. Spec: MS-VHDX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.header import VhdxImage, read_headers, read_image
from vmimg.formats.vhdx.log import read_log, replay, replayed
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["VhdxDriver"]


class VhdxDriver(Driver):
    """Fixed, dynamic and differencing VHDX; AVHDX is a differencing one by another name."""

    def probe(self, storage: Storage) -> int:
        return 100 if storage.size >= 8 and storage.read(0, 8) == s.SIGNATURE else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        headers = read_headers(storage)
        found = read_log(storage, headers.header)
        image = read_image(replayed(storage, found), headers)
        return ImageInfo(
            format="vhdx",
            virtual_size=image.size,
            cluster_size=image.block_size,
            dirty=image.header.dirty,
            parent=_parent(storage, image),
            details=_details(image),
            notes=tuple(_notes(image, 0 if found is None else len(found.patches))),
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
            raise OptionError(f"{storage.name}: a VHDX has no internal snapshots")
        headers = read_headers(storage)
        if writable:
            from vmimg.formats.vhdx.allocation import WritableVhdxLayer

            # Before anything is changed it is looked at as it will be.
            found = read_log(storage, headers.header)
            read_image(replayed(storage, found), headers)
            headers = replay(storage, headers, found)
            return WritableVhdxLayer(storage, read_image(storage, headers))
        from vmimg.formats.vhdx.layer import VhdxLayer

        storage = replayed(storage, read_log(storage, headers.header))
        return VhdxLayer(storage, read_image(storage, headers))

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
        from vmimg.formats.vhdx.writer import VhdxWriter

        return VhdxWriter(size, options, parent=parent, base=base)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.telling import few
        from vmimg.formats.vhdx.vetting import vet

        return few(vet(storage))

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.vhdx.vetting import evidence

        return evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.vhdx.check import check_image

        return check_image(storage, repair=repair)


def _parent(storage: Storage, image: VhdxImage) -> ParentRef | None:
    return None if image.locator is None else image.locator.reference(storage.name)


def _details(image: VhdxImage) -> dict[str, Any]:
    header = image.header
    details: dict[str, Any] = {
        "subformat": "fixed" if image.leave_blocks_allocated else "dynamic",
        "block-size": image.block_size,
        "logical-sector-size": image.logical_sector_size,
        "physical-sector-size": image.physical_sector_size,
        "log-size": header.log_length,
        "creator": image.creator,
        "disk-id": s.guid_text(image.disk_id),
        "data-write-guid": s.guid_text(header.data_write_guid),
    }
    if image.locator is not None:
        details["subformat"] = "differencing"
        details["parent-locator"] = dict(image.locator.entries)
    return details


def _notes(image: VhdxImage, patches: int) -> list[str]:
    notes: list[str] = []
    if image.header.dirty:
        what = f"{patches} changes in its log are" if patches else "an empty log is"
        notes.append(
            f"not closed properly: {what} replayed in memory; "
            "vmimg check --repair all does it for good"
        )
    notes += [f"{problem}: the other copy is used" for problem in image.problems]
    return notes
