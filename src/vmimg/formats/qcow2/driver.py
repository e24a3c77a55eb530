"""qcow2's Driver: what an image says of itself, and who reads, writes and checks it.

Reading a header, listing snapshots and bitmaps needs no numpy; layer, writer and check are imported
by the methods that use them. Spec: QEMU docs/interop/qcow2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import ChainError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.bitmaps import read_bitmaps
from vmimg.formats.qcow2.encryption import describe_encryption, open_cipher
from vmimg.formats.qcow2.header import Qcow2Header, read_header
from vmimg.formats.qcow2.snapshots import at_snapshot, find_snapshot, read_snapshots
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["Qcow2Driver"]


class Qcow2Driver(Driver):
    """All of qcow2 versions 2 and 3."""

    def probe(self, storage: Storage) -> int:
        if storage.size < 8 or storage.read(0, 4) != s.MAGIC:
            return 0
        # Version 1 is the format "qcow".
        return 0 if int.from_bytes(storage.read(4, 4), "big") == 1 else 100

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        return ImageInfo(
            format="qcow2",
            virtual_size=header.size,
            cluster_size=header.cluster_size,
            encrypted=header.crypt_method != s.CRYPT_NONE,
            dirty=bool(header.incompatible_features & s.DIRTY),
            parent=_parent(header),
            data_file=header.data_file if header.external_data else None,
            snapshots=tuple(record.snapshot for record in read_snapshots(storage, header)),
            details=_details(storage, header),
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
        header = read_header(storage)
        cipher = open_cipher(storage, header, keys)
        if snapshot is not None:
            records = read_snapshots(storage, header)
            record = find_snapshot(records, snapshot, storage.name)
            header = at_snapshot(storage, header, record)
        data = _data_storage(storage, header, companions)
        if writable:
            from vmimg.formats.qcow2.allocation import WritableQcow2Layer

            return WritableQcow2Layer(storage, header, data, cipher=cipher)
        from vmimg.formats.qcow2.layer import Qcow2Layer

        return Qcow2Layer(storage, header, data, cipher=cipher)

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
        from vmimg.formats.qcow2.writer import Qcow2Writer

        return Qcow2Writer(size, options, parent=parent, name=name, keys=keys)

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.qcow2.vetting import vet_image

        return vet_image(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.qcow2.vetting import find_evidence

        return find_evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.qcow2.check import check_image

        return check_image(storage, companions=companions, repair=repair)


def _parent(header: Qcow2Header) -> ParentRef | None:
    if header.backing_file is None:
        return None
    return ParentRef(header.backing_file, header.backing_format)


def _data_storage(storage: Storage, header: Qcow2Header, companions: Companions) -> Storage:
    if not header.external_data:
        return storage
    if header.data_file is None:
        raise ChainError(
            f"{storage.name}: keeps its data in an external file but does not name it; "
            "name it with qemu-img amend -o data_file="
        )
    return companions(header.data_file, "data file")


def _details(storage: Storage, header: Qcow2Header) -> dict[str, Any]:
    """Keys and values of qemu-img's format-specific data."""
    details: dict[str, Any] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": header.compression_name,
    }
    if header.version >= 3:
        details["lazy-refcounts"] = bool(header.compatible_features & s.LAZY_REFCOUNTS)
    details["refcount-bits"] = header.refcount_bits
    if header.version >= 3:
        details["corrupt"] = bool(header.incompatible_features & s.CORRUPT)
        details["extended-l2"] = header.extended_l2
        if header.external_data:
            if header.data_file is not None:
                details["data-file"] = header.data_file
            details["data-file-raw"] = header.data_file_raw
        bitmaps = read_bitmaps(storage, header)
        if bitmaps:
            details["bitmaps"] = [
                {"flags": b.flag_names, "name": b.name, "granularity": b.granularity}
                for b in bitmaps
            ]
    if header.crypt_method:
        details["encrypt"] = describe_encryption(storage, header)
    return details


def _notes(header: Qcow2Header) -> list[str]:
    notes: list[str] = []
    if header.incompatible_features & s.CORRUPT:
        notes.append("marked as corrupt: run vmimg check --repair all before writing to it")
    if header.incompatible_features & s.DIRTY:
        notes.append("not closed properly: run vmimg check --repair all before writing to it")
    if header.crypt_method == s.CRYPT_AES:
        notes.append("encrypted with QEMU's legacy AES: a wrong passphrase is not noticed")
    if header.backing_file is not None and header.backing_format is None:
        notes.append("does not say which format its backing file has: pass --backing-format")
    return notes
