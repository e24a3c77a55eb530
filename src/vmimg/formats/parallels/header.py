"""The header of an expanding Parallels image: parsed, checked, and made. No numpy.

`read_header` believes nothing: each number is checked against what QEMU takes and against the size
of the file before anything is read or allocated by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.parallels import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["ParallelsHeader", "has_magic", "pack_header", "read_header"]


@dataclass(slots=True)
class ParallelsHeader:
    """What the header says, checked. ``tracks``: sectors of a cluster; the last five as they are
    in the file.
    """

    extended: bool
    """The BAT counts clusters, not sectors."""
    tracks: int
    entries: int
    sectors: int
    heads: int = s.HEADS
    cylinders: int = 0
    in_use: int = s.CLOSED
    data_off: int = 0
    flags: int = 0
    ext_off: int = 0

    @property
    def size(self) -> int:
        """Virtual bytes."""
        return self.sectors * s.SECTOR

    @property
    def block_size(self) -> int:
        """Bytes of a cluster."""
        return self.tracks * s.SECTOR

    @property
    def blocks(self) -> int:
        """Clusters of the disk; the BAT may have more entries."""
        return -(-self.sectors // self.tracks)

    @property
    def unit(self) -> int:
        """What BAT entries count, in bytes."""
        return self.block_size if self.extended else s.SECTOR

    @property
    def table_end(self) -> int:
        return s.BAT_OFFSET + s.BAT_ENTRY * self.entries

    @property
    def least_data_start(self) -> int:
        """Where clusters can begin at the earliest."""
        return align_up(self.table_end, self.unit)

    @property
    def data_start(self) -> int:
        """Where clusters begin: as data_off says, if that can be."""
        if self.data_off_wrong is not None:
            return self.least_data_start
        return self.data_off * s.SECTOR or self.least_data_start

    @property
    def data_off_wrong(self) -> str | None:
        """What is wrong with data_off. Reading does not need it."""
        start, least = self.data_off * s.SECTOR, self.least_data_start
        if not start and not self.extended:
            return None  # an old image that leaves it to its reader
        if start < least:
            return (
                f"the data area is said to begin at {start}, but the BAT ends at "
                f"{self.table_end}, and the first cluster can be at {least}"
            )
        if start % self.unit:
            return f"the data area is said to begin at {start}, inside a cluster"
        return None

    @property
    def dirty(self) -> bool:
        return self.in_use == s.IN_USE


def has_magic(head: bytes) -> bool:
    """Whether a file that begins so is an expanding image."""
    return head[:16] in (s.MAGIC_OLD, s.MAGIC_EXT)


def read_header(storage: Storage) -> ParallelsHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for other versions.
    """
    name = storage.name
    head = storage.read(0, min(storage.size, s.HEADER_SIZE))
    if not has_magic(head):
        raise FormatError(f"{name}: not a Parallels image: it begins with {head[:16]!r}")
    if len(head) < s.HEADER_SIZE:
        raise FormatError(
            f"{name}: a Parallels header has {s.HEADER_SIZE} bytes, the file {len(head)}"
        )
    raw = s.Header.from_buffer_copy(head)
    if raw.version != s.VERSION:
        raise UnsupportedFeature(f"{name}: Parallels image version {raw.version}; known is 2")
    extended = raw.magic == s.MAGIC_EXT
    header = ParallelsHeader(
        extended=extended,
        tracks=raw.tracks,
        entries=raw.nb_bat_entries,
        # The upper half of old images is to be passed over.
        sectors=raw.nb_sectors if extended else raw.nb_sectors & 0xFFFF_FFFF,
        heads=raw.heads,
        cylinders=raw.cylinders,
        in_use=raw.in_use,
        data_off=raw.data_off,
        flags=raw.flags,
        ext_off=raw.ext_off,
    )
    _check(storage, header)
    return header


def pack_header(header: ParallelsHeader) -> bytes:
    """The first bytes of a new image."""
    return bytes(
        s.Header(
            magic=s.MAGIC_EXT if header.extended else s.MAGIC_OLD,
            version=s.VERSION,
            heads=header.heads,
            cylinders=header.cylinders,
            tracks=header.tracks,
            nb_bat_entries=header.entries,
            nb_sectors=header.sectors,
            in_use=header.in_use,
            data_off=header.data_off,
            flags=header.flags,
            ext_off=header.ext_off,
        )
    )


def _check(storage: Storage, header: ParallelsHeader) -> None:
    name = storage.name
    if not header.tracks:
        raise FormatError(f"{name}: a cluster is said to have no sectors")
    if header.tracks > s.MAX_CLUSTER_SECTORS:
        raise FormatError(f"{name}: a cluster is said to have {header.block_size} bytes")
    if header.entries > s.MAX_ENTRIES:
        raise FormatError(f"{name}: a BAT of {header.entries} entries; QEMU takes {s.MAX_ENTRIES}")
    if header.blocks > header.entries:
        raise FormatError(
            f"{name}: a disk of {header.size} bytes has no room in {header.entries} clusters of "
            f"{header.block_size} bytes"
        )
    if header.table_end > storage.size:
        raise FormatError(
            f"{name}: the BAT has {header.entries} entries and reaches behind the end of the file "
            f"({storage.size}): it is truncated or damaged"
        )
