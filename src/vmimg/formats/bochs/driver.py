"""BochsDriver: finds, describes, reads and checks growing disk images of Bochs.

Reading a header needs no numpy; layer and check are imported by the methods that use them.
Spec: Bochs iodev/hdimage/hdimage.h; QEMU reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmimg.disk.layer import Layer
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.bochs import structures as s
from vmimg.formats.bochs.header import read_header
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo
from vmimg.formats.keys import Keys
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["BochsDriver"]


class BochsDriver(Driver):
    """Growing images of versions 1 and 2. Other redologs are claimed, and refused by name."""

    def probe(self, storage: Storage) -> int:
        found = storage.size >= len(s.MAGIC) and storage.read(0, len(s.MAGIC)) == s.MAGIC
        return 100 if found else 0

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.bochs.vetting import vet_bochs

        return vet_bochs(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.bochs.vetting import bochs_evidence

        return tuple(bochs_evidence(storage))

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="bochs",
            virtual_size=header.size,
            cluster_size=header.extent_size,
            details={
                "version": f"{header.version >> 16}.{header.version & 0xFFFF}",
                "subtype": s.GROWING,
                "extent-size": header.extent_size,
                "bitmap-size": header.bitmap_size,
                "catalog-entries": header.entries,
            },
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
            raise OptionError(f"{storage.name}: a Bochs image has no snapshots inside")
        header = read_header(storage)
        if writable:
            raise UnsupportedFeature(
                f"{storage.name}: Bochs images can be read, not written; convert it first"
            )
        from vmimg.formats.bochs.layer import BochsLayer

        return BochsLayer(storage, header)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.bochs.check import check_image

        if repair:
            raise UnsupportedFeature(
                f"{storage.name}: Bochs images can be checked, not repaired; what can be read is "
                "saved by converting it"
            )
        return check_image(storage)
