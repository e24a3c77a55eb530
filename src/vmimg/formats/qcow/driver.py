"""QcowDriver: finds, describes, opens, makes and checks qcow images of version 1.

Reading a header needs no numpy; layer, writer and check are imported by the methods that use them.
Spec: QEMU block/qcow.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.qcow import structures as s
from vmimg.formats.qcow.header import QcowHeader, read_header
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["QcowDriver"]


class QcowDriver(Driver):
    """qcow, version 1."""

    def probe(self, storage: Storage) -> int:
        if storage.size < 8:
            return 0
        return 100 if storage.read(0, 8) == s.MAGIC + s.VERSION.to_bytes(4, "big") else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="qcow",
            virtual_size=header.size,
            cluster_size=header.cluster_size,
            encrypted=header.crypt_method != s.CRYPT_NONE,
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
            raise OptionError(f"{storage.name}: a qcow image of version 1 has no snapshots inside")
        header = read_header(storage)
        cipher = None
        if header.crypt_method:
            from vmimg.formats.qcow.encryption import legacy_aes

            cipher = legacy_aes(storage.name, keys)
        if writable:
            from vmimg.formats.qcow.allocation import WritableQcowLayer

            return WritableQcowLayer(storage, header, cipher)
        from vmimg.formats.qcow.layer import QcowLayer

        return QcowLayer(storage, header, cipher)

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
        from vmimg.formats.qcow.writer import QcowWriter

        return QcowWriter(size, parent=parent)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.qcow.vetting import vet_image

        return vet_image(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.qcow.vetting import find_evidence

        return find_evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.qcow.check import check_image

        return check_image(storage, repair=repair)


def _details(header: QcowHeader) -> dict[str, Any]:
    details: dict[str, Any] = {
        "l1-entries": header.l1_entries,
        "l1-table-offset": header.l1_table_offset,
        "l2-entries": header.l2_entries,
    }
    if header.mtime:
        details["backing-file-mtime"] = header.mtime
    if header.crypt_method == s.CRYPT_AES:
        details["encrypt"] = {"format": "aes"}
    return details


def _notes(header: QcowHeader) -> Iterator[str]:
    if header.backing_file is not None:
        yield "cannot say which format its backing file has: pass --backing-format"
    if header.crypt_method:
        yield "encrypted with QEMU's legacy AES: a wrong passphrase is not noticed, it reads noise"
