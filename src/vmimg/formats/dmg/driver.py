"""DmgDriver: finds, describes, opens, makes and checks DMG images, and opens encrypted ones.

Trailers and block tables are read without numpy. Spec: Levin, "Demystifying the DMG File Format".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.dmg import structures as s
from vmimg.formats.dmg.encryption import EncryptedImage, is_encrypted, read_encrypted, unlock
from vmimg.formats.dmg.front import CLAIMS, first_chunk
from vmimg.formats.dmg.partitions import Partition, read_partitions, virtual_size
from vmimg.formats.dmg.trailer import Trailer, find_trailer, read_trailer
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys, no_keys
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["DmgDriver"]


class DmgDriver(Driver):
    """UDIF with any coder, plain or encrypted (version 2)."""

    def probe(self, storage: Storage) -> int:
        return 100 if is_encrypted(storage) or find_trailer(storage) is not None else 0

    def is_plain(self, storage: Storage) -> bool:
        return first_chunk(storage) == s.RAW

    def explains(self, storage: Storage) -> tuple[str, ...]:
        return CLAIMS.get(first_chunk(storage), ())

    def vet(self, storage: Storage) -> Iterator[Finding]:
        if is_encrypted(storage):
            from vmimg.formats.dmg.lockvetting import vet_encrypted

            return vet_encrypted(storage)
        from vmimg.formats.dmg.vetting import vet_dmg

        return vet_dmg(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.dmg.vetting import dmg_evidence

        return tuple(dmg_evidence(storage))

    def inspect(self, storage: Storage) -> ImageInfo:
        if is_encrypted(storage):
            return _encrypted_info(read_encrypted(storage))
        trailer = read_trailer(storage)
        partitions = read_partitions(storage, trailer)
        kinds: dict[int, int] = {}
        for partition in partitions:
            for kind, count in partition.kinds().items():
                kinds[kind] = kinds.get(kind, 0) + count
        return ImageInfo(
            format="dmg",
            virtual_size=virtual_size(trailer, partitions),
            compressed=any(kind in kinds for kind in s.CODERS),
            details=_details(trailer, partitions, kinds),
            notes=tuple(_notes(trailer)),
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
            raise OptionError(f"{storage.name}: a DMG has no snapshots")
        if writable:
            raise UnsupportedFeature(
                f"{storage.name}: a DMG cannot be written in place; convert it to raw or qcow2"
            )
        from vmimg.formats.dmg.layer import open_bytes

        if is_encrypted(storage):
            # Its tables are encrypted as well: without the key there is nothing to map.
            return open_bytes(unlock(storage, read_encrypted(storage), keys or no_keys))
        return open_bytes(storage)

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
        from vmimg.formats.dmg.writer import DmgWriter

        return DmgWriter(size, options)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.dmg.check import check_image

        if repair:
            raise UnsupportedFeature(
                f"{storage.name}: a DMG cannot be repaired: what a checksum says is wrong is not "
                "in it a second time"
            )
        if is_encrypted(storage):
            storage = unlock(storage, read_encrypted(storage), keys or no_keys)
            if find_trailer(storage) is None:
                raise UnsupportedFeature(f"{storage.name}: the raw disk inside has no checksums")
        return check_image(storage)


def _details(
    trailer: Trailer, partitions: Sequence[Partition], kinds: Mapping[int, int]
) -> dict[str, Any]:
    coded = {kind: count for kind, count in kinds.items() if kind in s.KINDS and kind != s.RAW}
    main = max(coded, key=lambda kind: coded[kind]) if coded else s.RAW
    details: dict[str, Any] = {
        "subformat": s.KINDS[main],
        "flags": trailer.flags,
        "variant": trailer.variant,
        "segment-id": str(trailer.segment_id),
        "data-length": trailer.data_length,
        "partitions": [
            {
                "name": partition.name,
                "id": partition.id,
                "start": partition.start,
                "size": partition.size,
                "chunks": partition.chunks,
            }
            for partition in partitions
        ],
    }
    if trailer.master_checksum is not None:
        details["checksum"] = f"{trailer.master_checksum:08x}"
    return details


def _notes(trailer: Trailer) -> Iterator[str]:
    if trailer.other_checksums:
        yield "has a checksum that is no CRC-32: vmimg check does not verify it"
    if trailer.place == 0:
        yield "its trailer stands in front, where QEMU does not look for it"


def _encrypted_info(image: EncryptedImage) -> ImageInfo:
    return ImageInfo(
        format="dmg",
        virtual_size=image.data_size,
        encrypted=True,
        details={
            "encryption": f"aes-{image.key_bits}-cbc",
            "block-size": image.block_size,
            "uuid": str(image.uuid),
            "keys": len(image.keys),
        },
        notes=(
            "encrypted as a whole: its size is that of the image inside, whatever disk is in that",
        ),
    )
