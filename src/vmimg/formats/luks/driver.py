"""LuksDriver: what a LUKS volume says of itself, and who reads, writes and checks it.

What a header says can be had without the key and without numpy; the ciphers are imported when a
volume is opened. Spec: LUKS on-disk format 1.2.3, LUKS2 on-disk format 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import CheckReport, Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.luks import structures as s
from vmimg.formats.luks.luks1 import Luks1, describe_luks1, read_luks1
from vmimg.formats.luks.luks2 import Luks2, read_luks2
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["LuksDriver"]


class LuksDriver(Driver):
    """LUKS 1 and 2; new volumes are LUKS 1, which QEMU reads as well."""

    def probe(self, storage: Storage) -> int:
        # Not sure of it: a raw disk may hold a volume, and a footer behind it may say more.
        head = storage.read(0, min(8, storage.size))
        version = s.luks_version(head)
        if version > 2:
            # Said by name rather than taken for noise; a magic with nothing behind it is neither.
            return 20 if any(storage.read(8, min(s.HEADER_BYTES, storage.size) - 8)) else 0
        return 20 if version else 0

    def inspect(self, storage: Storage) -> ImageInfo:
        header = read_header(storage)
        if isinstance(header, Luks2):
            details, notes = header.describe(), (header.refusal,) if header.refusal else ()
            size = header.size(storage)
        else:
            details, notes = describe_luks1(storage.read(0, s.HEADER_BYTES)), ()
            del details["format"]
            size = _payload_size(storage, header)
        return ImageInfo(
            format="luks", virtual_size=size, encrypted=True, details=details, notes=notes
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
        from vmimg.disk.concat import ConcatLayer
        from vmimg.disk.crypt import DataCipher
        from vmimg.formats.luks.layer import LuksLayer

        if snapshot is not None:
            raise OptionError(f"{storage.name}: a LUKS volume has no snapshots")
        header = read_header(storage)
        if isinstance(header, Luks1):
            size = _payload_size(storage, header)
            cipher = DataCipher(storage.name, None, "virtual")
            if keys is not None:
                cipher = _unlocked1(storage, header, keys)
            return LuksLayer(storage, header.payload_offset, size, cipher, writable=writable)
        header.ready(storage.name)
        ciphers = [DataCipher(storage.name, None, "virtual") for _ in header.segments]
        if keys is not None:
            ciphers = _unlocked2(storage, header, keys)
        parts = [
            LuksLayer(
                storage,
                segment.offset,
                segment.length(storage),
                cipher,
                first_byte=segment.iv_tweak * s.SECTOR,
                writable=writable,
            )
            for segment, cipher in zip(header.segments, ciphers, strict=True)
        ]
        return parts[0] if len(parts) == 1 else ConcatLayer(parts)

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
        from vmimg.formats.luks.volume import new_volume
        from vmimg.formats.luks.writer import LuksWriter

        if parent is not None:
            raise OptionError("a LUKS volume cannot have a backing file")
        return LuksWriter(size, new_volume(options, name, keys))

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.luks.vetting import vet_volume

        return vet_volume(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.luks.vetting import find_evidence

        return find_evidence(storage)

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        from vmimg.formats.luks.check import check_volume

        return check_volume(storage, repair=repair)


def read_header(storage: Storage) -> Luks1 | Luks2:
    """The header of ``storage``; that of version 2 even where its first copy is gone."""
    version = s.luks_version(storage.read(0, min(8, storage.size)))
    if version == 1:
        return read_luks1(storage)
    if version > 2:
        raise UnsupportedFeature(f"{storage.name}: LUKS version {version}; known are 1 and 2")
    return read_luks2(storage)


def _payload_size(storage: Storage, header: Luks1) -> int:
    if header.payload_offset > storage.size:
        raise FormatError(
            f"{storage.name}: its data is said to be at {header.payload_offset}, but the file ends "
            f"at {storage.size}: it is truncated or damaged"
        )
    return (storage.size - header.payload_offset) // s.SECTOR * s.SECTOR


def _unlocked1(storage: Storage, header: Luks1, keys: Keys) -> DataCipher:
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.luks.keyslots import unlock_luks1, volume_cipher

    key = unlock_luks1(storage, header, keys(storage.name))
    cipher = volume_cipher(storage.name, header.cipher, header.mode, key)
    return DataCipher(storage.name, cipher, "virtual")


def _unlocked2(storage: Storage, header: Luks2, keys: Keys) -> list[DataCipher]:
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.luks.keyslots import unlock_luks2, volume_cipher

    found = unlock_luks2(storage, header, keys(storage.name))
    ciphers = []
    for segment in header.segments:
        cipher, _, mode = segment.encryption.partition("-")
        ciphers.append(
            volume_cipher(storage.name, cipher, mode, found[segment.digest], segment.sector_size)
        )
    return [DataCipher(storage.name, cipher, "virtual") for cipher in ciphers]
