"""CloopDriver: finds, describes, opens, writes and checks cloops.

Reading a header needs no numpy; layer, writer and check are imported by the methods that use them.
Spec: see `structures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.cloop.header import claim, read_header
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["CloopDriver"]


class CloopDriver(Driver):
    """cloop of versions 2, 3 and 4 to read, 2 to write: the one that everything reads."""

    def probe(self, storage: Storage) -> int:
        return claim(storage)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.cloop.vetting import vet_cloop

        return vet_cloop(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.cloop.vetting import cloop_evidence

        return tuple(cloop_evidence(storage))

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="cloop",
            virtual_size=header.size,
            cluster_size=header.block_size,
            compressed=True,
            details={
                "version": header.version,
                "blocks": header.blocks,
                "block-size": header.block_size,
                "index-offset": header.index,
                "index-at-end": header.at_end,
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
            raise OptionError(f"{storage.name}: a cloop has no snapshots")
        header = read_header(storage)
        if writable:
            raise UnsupportedFeature(
                f"{storage.name}: a cloop is written once and for all; convert it to write to it"
            )
        from vmimg.formats.cloop.layer import CloopLayer

        return CloopLayer(storage, header)

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
        from vmimg.formats.cloop.writer import CloopWriter

        return CloopWriter(size, options)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.cloop.check import check_image

        return check_image(storage, repair=repair)
