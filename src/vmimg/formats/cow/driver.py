"""CowDriver: finds, describes, opens, makes and checks COW images.

Reading a header needs no numpy; layer, writer and check are imported by the methods that use them.
No program that makes these images is left: QEMU dropped the format in version 2.3. Spec: QEMU
block/cow.c.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.cow import structures as s
from vmimg.formats.cow.header import CowHeader, read_header
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["CowDriver"]

# User Mode Linux counts up to 3. More may come, but "OOOM" can begin a disk, too.
_VERSIONS = (1, 2, 3)


class CowDriver(Driver):
    """COW as QEMU had it; the images of User Mode Linux are refused by name."""

    def probe(self, storage: Storage) -> int:
        if storage.size < 8:
            return 0
        start = storage.read(0, 8)
        versions = [s.MAGIC + version.to_bytes(4, "big") for version in _VERSIONS]
        return 100 if start in (*versions, s.MAGIC_SWAPPED + b"\1\0\0\0") else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="cow",
            virtual_size=header.size,
            cluster_size=s.SECTOR,
            parent=header.parent,
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
            raise OptionError(f"{storage.name}: a COW image has no snapshots inside")
        header = read_header(storage)
        if writable:
            from vmimg.formats.cow.allocation import WritableCowLayer

            return WritableCowLayer(storage, header)
        from vmimg.formats.cow.layer import CowLayer

        return CowLayer(storage, header)

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
        from vmimg.formats.cow.writer import CowWriter

        return CowWriter(size, parent=parent, base=base)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.cow.vetting import vet_image

        return vet_image(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.cow.vetting import find_evidence

        return find_evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.cow.check import check_image

        return check_image(storage, repair=repair)


def _details(header: CowHeader) -> dict[str, Any]:
    details: dict[str, Any] = {
        "layout": "64 bits" if header.bitmap_offset == ctypes.sizeof(s.Header64) else "32 bits",
        "bitmap-offset": header.bitmap_offset,
        "data-offset": header.data_offset,
    }
    if header.mtime:
        details["backing-file-mtime"] = header.mtime
    return details


def _notes(header: CowHeader) -> Iterator[str]:
    if header.backing_file is not None:
        yield "cannot say which format its backing file has: pass --backing-format"
