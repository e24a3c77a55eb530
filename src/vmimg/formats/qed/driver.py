"""QedDriver: finds, describes, opens, writes and checks QED images.

Reading a header needs no numpy; layer, writer and check are imported by the methods that use them.
Spec: QEMU docs/interop/qed_spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.qed import structures as s
from vmimg.formats.qed.header import QedHeader, parent_ref, read_header
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["QedDriver"]


class QedDriver(Driver):
    """QED, of which there is one version."""

    def probe(self, storage: Storage) -> int:
        found = storage.size >= len(s.MAGIC) and storage.read(0, len(s.MAGIC)) == s.MAGIC
        return 100 if found else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="qed",
            virtual_size=header.size,
            cluster_size=header.cluster_size,
            dirty=header.need_check,
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
            raise OptionError(f"{storage.name}: a QED image has no snapshots inside")
        header = read_header(storage)
        if writable:
            from vmimg.formats.qed.allocation import WritableQedLayer

            return WritableQedLayer(storage, header)
        from vmimg.formats.qed.layer import QedLayer

        return QedLayer(storage, header)

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
        from vmimg.formats.qed.writer import QedWriter

        return QedWriter(size, options, parent=parent)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.qed.vetting import vet_image

        return vet_image(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.qed.vetting import find_evidence

        return find_evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.qed.check import check_image

        return check_image(storage, repair=repair)


def _details(header: QedHeader) -> dict[str, Any]:
    return {
        "table-size": header.table_size,
        "header-size": header.header_size,
        "l1-table-offset": header.l1_offset,
        "need-check": header.need_check,
        "features": header.features,
        "compatible-features": header.compat_features,
        "autoclear-features": header.autoclear_features,
    }


def _notes(header: QedHeader) -> Iterator[str]:
    if header.need_check:
        yield "not closed properly: it is checked before the first write"
    if header.backing_file is not None and not header.features & s.NO_PROBE:
        yield "does not say which format its backing file has: pass --backing-format"
    if header.table_size == 1:
        yield "has tables of one cluster: QEMU refuses the image"
