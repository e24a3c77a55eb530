"""IsoDriver: finds and describes images of optical discs, and reads them as raw does.

Hybrid images are disks as well: their partitions are told by what tells them of raw disks. Imports
numpy nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.driver import Companions, Driver, ImageInfo
from vmimg.formats.iso.volume import Volume, is_disc, read_volume
from vmimg.formats.keys import Keys
from vmimg.formats.raw.contents import Contents, View, examine, partition_tables
from vmimg.formats.raw.driver import RawLayer
from vmimg.storage.base import Storage
from vmimg.units import align_up, format_size

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["IsoDriver", "IsoLayer"]

_SECTOR: Final = 512
# Sure enough to be preferred to raw; a fixed VHD whose disk is a disc stays a VHD.
_CONFIDENCE: Final = 20
# Some makers put zeros behind the volume: 150 sectors, or up to a whole cylinder.
_PADDING: Final = 1 << 20


class IsoDriver(Driver):
    """ISO 9660 with all that is laid over it, and UDF alone."""

    def probe(self, storage: Storage) -> int:
        return _CONFIDENCE if is_disc(View(storage, 0, storage.size)) else 0

    def is_plain(self, storage: Storage) -> bool:
        return True

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.iso.vetting import vet_disc

        return vet_disc(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.iso.evidence import disc_evidence

        return tuple(disc_evidence(View(storage, 0, storage.size)))

    def inspect(self, storage: Storage) -> ImageInfo:
        volume = _volume(storage)
        contents = examine(storage)
        tables = partition_tables(storage)
        notes = contents.lines()
        notes += [problem for problem in volume.problems if problem not in notes]
        notes += _behind(storage, volume, contents)
        return ImageInfo(
            format="iso",
            virtual_size=align_up(storage.size, _SECTOR),
            details=_details(storage, volume, contents, tables),
            notes=tuple(notes),
        )

    def open(
        self,
        storage: Storage,
        *,
        writable: bool,
        companions: Companions,
        snapshot: str | None = None,
        keys: Keys | None = None,
    ) -> IsoLayer:
        if snapshot is not None:
            raise OptionError(f"{storage.name}: an ISO image has no snapshots")
        if writable:
            raise UnsupportedFeature(
                f"{storage.name}: an ISO image is read, not written; -f raw writes it as a raw disk"
            )
        _volume(storage)
        return IsoLayer(storage)


class IsoLayer(RawLayer):
    """The disc's bytes; closing it closes ``storage``."""

    format = "iso"

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage, writable=False)


def _volume(storage: Storage) -> Volume:
    volume = read_volume(View(storage, 0, storage.size))
    if volume is None:
        raise FormatError(
            f"{storage.name}: has no volume descriptor of ISO 9660 or UDF at offset 32768"
        )
    return volume


def _details(
    storage: Storage, volume: Volume, contents: Contents, tables: tuple[Contents, ...]
) -> dict[str, Any]:
    details: dict[str, Any] = {
        "label": volume.label,
        "file-systems": list(_file_systems(volume)),
        "volume-size": volume.size,
        "trailing-size": _trailing(storage, volume),
        "block-size": volume.block_size,
        "system": volume.system,
        "volume-set": volume.volume_set,
        "publisher": volume.publisher,
        "preparer": volume.preparer,
        "application": volume.application,
        "created": volume.created,
        "modified": volume.modified,
        "expires": volume.expires,
        "effective": volume.effective,
        "joliet-label": volume.joliet.label if volume.joliet is not None else "",
        "udf-label": volume.udf.label if volume.udf is not None else "",
        "boot-images": [
            {
                "platform": entry.platform,
                "bootable": entry.bootable,
                "media": entry.media,
                "load-segment": entry.load_segment,
                "size": entry.size,
                "offset": entry.offset,
                **({"section": entry.section} if entry.section else {}),
            }
            for entry in volume.boot
        ],
        "partition-tables": [table.kind.upper() for table in tables],
        "contents": contents.to_json(),
    }
    return {key: value for key, value in details.items() if value not in ("", None, [], 0)}


def _file_systems(volume: Volume) -> Iterator[str]:
    if volume.iso9660:
        yield "ISO 9660"
    if volume.enhanced:
        yield "ISO 9660:1999"
    if volume.joliet is not None:
        yield f"Joliet level {volume.joliet.level}"
    if volume.rock_ridge:
        yield f"Rock Ridge {volume.rock_ridge}"
    if volume.udf is not None:
        yield f"UDF {volume.udf.revision}".strip()


def _trailing(storage: Storage, volume: Volume) -> int:
    # UDF has no size of its own: only what must be there.
    if volume.size is None or not volume.iso9660:
        return 0
    return max(0, storage.size - volume.size)


def _behind(storage: Storage, volume: Volume, contents: Contents) -> Iterator[str]:
    """What is told of bytes behind the volume: nothing of padding, nor of partitions."""
    trailing = _trailing(storage, volume)
    if volume.size is None or not trailing:
        return
    if any(p.start + p.size > volume.size for p in contents.partitions):
        return
    if trailing <= _PADDING and not any(storage.read(volume.size, trailing)):
        return
    yield (
        f"{format_size(trailing)} ({trailing} bytes) lie behind the end of the volume, at "
        f"{volume.size}"
    )
