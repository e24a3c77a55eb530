"""VHD's Driver: what an image says of itself, and who reads, writes and checks it.

Reading footer and header needs no numpy; layers, writer and check are imported by the methods that
use them. Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import FormatError, OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import FoundFooter, VhdImage, find_footers, read_image
from vmimg.formats.vhd.locators import parent_name, parent_ref, read_locators
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["VhdDriver"]


class VhdDriver(Driver):
    """Fixed, dynamic and differencing VHD."""

    def probe(self, storage: Storage) -> int:
        head, end = find_footers(storage)
        if end is not None and end.spans_file:
            # Also what a guest makes that writes a footer to the end of its raw disk. It gains
            # nothing by it: a fixed disk names no other file, and loses its last sector.
            return 60
        if head is not None and head.good and head.sparse:
            return 100
        if head is not None and (not head.good or head.fields.disk_type != s.FIXED):
            return 60  # damaged, or of a kind that is refused by name
        if end is not None and end.good and end.sparse and _has_header(storage, end):
            return 60
        if end is not None and end.good and end.fields.disk_type == s.FIXED:
            # Of another size than its file: cut off, or more than a disk. Who is told that it is a
            # VHD reads it as one, and who goes by the first bytes takes it for raw.
            return 50
        return 0

    def is_plain(self, storage: Storage) -> bool:
        head, end = find_footers(storage)
        # In front there is a copy of the footer, but in fixed disks.
        return head is None and end is not None

    def inspect(self, storage: Storage) -> ImageInfo:
        image = read_image(storage)
        dynamic = image.dynamic
        return ImageInfo(
            format="vhd",
            virtual_size=image.size,
            cluster_size=dynamic.block_size if dynamic is not None else None,
            parent=parent_ref(storage, dynamic) if dynamic and image.differencing else None,
            details=_details(storage, image),
            notes=(*image.notes, *(f"damaged: {what}" for what in image.damage)),
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
            raise OptionError(f"{storage.name}: a VHD has no snapshots")
        image = read_image(storage)
        if writable and image.damage:
            raise FormatError(
                f"{storage.name}: {image.damage[0]}, so it cannot be written; "
                "run vmimg check --repair all first"
            )
        if image.dynamic is None:
            from vmimg.formats.vhd.layer import FixedVhdLayer

            return FixedVhdLayer(storage, image, writable=writable)
        if writable:
            from vmimg.formats.vhd.allocation import WritableVhdLayer

            return WritableVhdLayer(storage, image)
        from vmimg.formats.vhd.layer import VhdLayer

        return VhdLayer(storage, image)

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
        from vmimg.formats.vhd.writer import new_writer

        return new_writer(size, options, parent, base)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.telling import few
        from vmimg.formats.vhd.vetting import vet

        return few(vet(storage))

    def vet_other(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.vhd.vetting import vet_other

        return vet_other(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.vhd.vetting import evidence

        return evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.vhd.check import check_image

        return check_image(storage, repair=repair)


def _has_header(storage: Storage, footer: FoundFooter) -> bool:
    offset, cookie = footer.fields.data_offset, s.DYNAMIC_COOKIE
    if offset + s.DYNAMIC_HEADER_SIZE > storage.size:
        return False
    return storage.read(offset, len(cookie)) == cookie


def _details(storage: Storage, image: VhdImage) -> dict[str, Any]:
    """qemu-img has no format-specific data for VHD; the words are the specification's."""
    fields = image.fields
    details: dict[str, Any] = {
        "subformat": s.TYPE_NAMES[fields.disk_type],
        "current-size": fields.current_size,
        "original-size": fields.original_size,
        "geometry": {
            "cylinders": fields.cylinders,
            "heads": fields.heads,
            "sectors-per-track": fields.sectors_per_track,
            "size": image.geometry_size,
        },
        "creator-application": _tag(fields.creator_application),
        "creator-version": f"{fields.creator_version >> 16}.{fields.creator_version & 0xFFFF}",
        "creator-host-os": _tag(fields.creator_host_os),
        "time-stamp": fields.time_stamp,
        "unique-id": str(image.unique_id),
        "saved-state": bool(fields.saved_state),
        "temporary": bool(fields.features & s.TEMPORARY),
    }
    header = image.dynamic
    if header is not None:
        details["block-size"] = header.block_size
        details["max-table-entries"] = header.max_table_entries
    if header is not None and image.differencing:
        details["parent-unique-id"] = str(header.parent_unique_id)
        details["parent-time-stamp"] = header.parent_time_stamp
        details["parent-name"] = parent_name(header)
        details["parent-locators"] = {
            locator.code: locator.text for locator in read_locators(storage, header)
        }
    return details


def _tag(raw: Any) -> str:
    return bytes(raw).decode("latin-1").rstrip(" \0")
