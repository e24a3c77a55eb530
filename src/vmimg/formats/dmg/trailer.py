"""Trailer: the koly block of a DMG, found, read and checked. Without numpy.

It is the last 512 bytes of the file, or, where the file was made to be streamed, the first. Spec:
Levin, "Demystifying the DMG File Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.dmg import structures as s
from vmimg.storage.base import Storage

__all__ = ["Trailer", "find_trailer", "read_trailer"]


@dataclass(frozen=True, slots=True)
class Trailer:
    """The trailer's numbers, in bytes, checked against the file. ``size`` is 0 where it says none;
    checksums are None where there is none, or not a CRC-32 (``other_checksums``).
    """

    place: int
    flags: int
    variant: int
    data_offset: int
    data_length: int
    resource_offset: int
    resource_length: int
    list_offset: int
    list_length: int
    size: int
    segment_id: UUID
    data_checksum: int | None
    master_checksum: int | None
    other_checksums: bool


def find_trailer(storage: Storage) -> int | None:
    """Where the trailer is; None where there is none."""
    for place in (storage.size - s.KOLY_SIZE, 0):
        if place < 0 or place + s.KOLY_SIZE > storage.size:
            continue
        koly = s.Koly.from_buffer_copy(storage.read(place, s.KOLY_SIZE))
        if koly.Signature == s.KOLY and koly.HeaderSize == s.KOLY_SIZE:
            return place
    return None


def read_trailer(storage: Storage) -> Trailer:
    """The trailer of ``storage``. Raises FormatError, and UnsupportedFeature where there are
    several segments.
    """
    name = storage.name
    place = find_trailer(storage)
    if place is None:
        raise FormatError(f"{name}: a DMG has a trailer of 512 bytes at its end, and there is none")
    koly = s.Koly.from_buffer_copy(storage.read(place, s.KOLY_SIZE))
    if koly.Version != s.KOLY_VERSION:
        raise UnsupportedFeature(f"{name}: is a DMG of version {koly.Version}; there is only 4")
    if koly.SegmentCount > 1:
        raise UnsupportedFeature(
            f"{name}: is part {koly.SegmentNumber} of a DMG in {koly.SegmentCount} segments; join "
            "them on a Mac with hdiutil convert"
        )
    for what, offset, length in (
        ("data fork", koly.DataForkOffset, koly.DataForkLength),
        ("resource fork", koly.RsrcForkOffset, koly.RsrcForkLength),
        ("property list", koly.XMLOffset, koly.XMLLength),
    ):
        if length and offset + length > storage.size:
            raise FormatError(
                f"{name}: its {what} is said to be {length} bytes at {offset}, but the file ends "
                f"at {storage.size}: it is truncated or damaged"
            )
    if koly.SectorCount >= s.MAX_SECTORS:
        raise FormatError(f"{name}: says that its disk has {koly.SectorCount} sectors")
    if not koly.XMLLength and not koly.RsrcForkLength:
        raise UnsupportedFeature(f"{name}: has no block tables, neither as XML nor as a resource")
    return Trailer(
        place=place,
        flags=koly.Flags,
        variant=koly.ImageVariant,
        data_offset=koly.DataForkOffset,
        data_length=koly.DataForkLength,
        resource_offset=koly.RsrcForkOffset,
        resource_length=koly.RsrcForkLength,
        list_offset=koly.XMLOffset,
        list_length=koly.XMLLength,
        size=koly.SectorCount * s.SECTOR,
        segment_id=UUID(bytes=bytes(koly.SegmentID)),
        data_checksum=checksum_of(koly.DataChecksum),
        master_checksum=checksum_of(koly.MasterChecksum),
        other_checksums=_is_other(koly.DataChecksum) or _is_other(koly.MasterChecksum),
    )


def checksum_of(checksum: s.Checksum) -> int | None:
    """The CRC-32 in ``checksum``, where there is one."""
    if checksum.type != s.CHECKSUM_CRC32 or checksum.size != 32:
        return None
    return int.from_bytes(bytes(checksum.data[:4]), "big")


def _is_other(checksum: s.Checksum) -> bool:
    return checksum.type not in (s.CHECKSUM_NONE, s.CHECKSUM_CRC32)
