"""The headers of VMDK's extents: parsed and checked. No numpy.

Nothing is believed: each number is checked against the limits of the specification, those of QEMU
and the size of the file, before anything is read or allocated by it. Hosted sparse (KDMV), ESX COW
(COWD) and seSparse extents come out as one thing, `SparseHeader`: a disk of grains, found through
a directory of tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vmdk import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = [
    "SparseHeader",
    "extent_kind",
    "find_footer",
    "read_extent_header",
    "read_sparse_header",
]

# 64 TiB of seSparse; 16 TiB of hosted extents with 8 KiB grains. 32 MiB of memory.
_MAX_GD_ENTRIES: Final = 1 << 22
# How far from the end of the file a stream's footer is looked for: some tools pad files.
_FOOTER_REACH: Final = 64 * 1024


@dataclass(slots=True)
class SparseHeader:
    """A sparse extent. Offsets and sizes in bytes, but for ``entry_size`` all as in the header.

    ``kind``: "KDMV", "COWD" or "SESPARSE". ``rgd_offset`` is None where no redundant directory is
    used. ``places``: what entries count, in bytes: sectors, but grains in seSparse.
    ``unclean_place`` and ``free_place``: where in the file the mark of an unclean shutdown (with
    its width) and the number of the next free sector stand.
    """

    kind: str
    version: int
    flags: int
    size: int
    grain_size: int
    gtes_per_gt: int
    gd_offset: int
    gd_entries: int
    overhead: int
    rgd_offset: int | None = None
    descriptor_offset: int = 0
    descriptor_size: int = 0
    compressed: bool = False
    markers: bool = False
    footer_offset: int | None = None
    unclean: bool = False
    unclean_place: tuple[int, int] = (0, 0)
    free_place: int | None = None
    parent_name: str | None = None
    entry_size: int = 4
    tables_offset: int = 0
    grains_offset: int = 0
    newline_damage: bool = False

    @property
    def zero_grains(self) -> bool:
        """A table entry of 1 is a grain of zeros."""
        return self.kind == "KDMV" and bool(self.flags & s.FLAG_ZERO_GRAIN)

    @property
    def table_bytes(self) -> int:
        """Bytes that a grain table takes in the file: whole sectors."""
        return align_up(self.gtes_per_gt * self.entry_size, s.SECTOR)


def extent_kind(head: bytes) -> str | None:
    """Which of KDMV, COWD and SESPARSE an extent is by its first 8 bytes; None for none of them."""
    if head[:4] == s.SPARSE_MAGIC:
        return "KDMV"
    if head[:4] == s.COWD_MAGIC:
        return "COWD"
    if head[:8] == s.SESPARSE_MAGIC.to_bytes(8, "little"):
        return "SESPARSE"
    return None


def read_extent_header(storage: Storage, *, lenient: bool = False) -> SparseHeader:
    """The header of a sparse extent of any kind. Raises FormatError, UnsupportedFeature.

    ``lenient`` is for check, which reports: directories may lie behind the end of the file.
    """
    kind = extent_kind(storage.read(0, min(8, storage.size)))
    if kind is None:
        raise FormatError(f"{storage.name}: not a sparse VMDK extent: its first bytes name none")
    if kind == "KDMV":
        return read_sparse_header(storage, lenient=lenient)
    if kind == "COWD":
        return _read_cowd(storage, lenient)
    return _read_sesparse(storage)


def read_sparse_header(storage: Storage, *, lenient: bool = False) -> SparseHeader:
    """The header of a hosted sparse extent, of a stream's footer where it has one.

    A capacity of 0 with a descriptor is given back as it is: the descriptor has the extents.
    """
    name = storage.name
    raw = _parse(storage, 0)
    _check_version(raw.version, name)
    descriptor = (int(raw.descriptorOffset), int(raw.descriptorSize))
    newline = bytes(
        (raw.singleEndLineChar, raw.nonEndLineChar, raw.doubleEndLineChar1, raw.doubleEndLineChar2)
    )
    damaged = bool(raw.flags & s.FLAG_NEWLINE_TEST) and newline != s.END_OF_LINE_TEST
    footer = None
    if raw.gdOffset == s.GD_AT_END:
        footer = find_footer(storage)
        raw = _parse(storage, footer)
        _check_version(raw.version, name)
        if raw.gdOffset == s.GD_AT_END:
            raise FormatError(f"{name}: its footer at {footer} does not say where the tables are")
    header = SparseHeader(
        kind="KDMV",
        version=raw.version,
        flags=raw.flags,
        size=_in_bytes(raw.capacity, "capacity", name),
        grain_size=_in_bytes(raw.grainSize, "grain size", name),
        gtes_per_gt=raw.numGTEsPerGT,
        gd_offset=_in_bytes(raw.gdOffset, "offset of the grain directory", name),
        gd_entries=0,
        overhead=_in_bytes(raw.overHead, "overhead", name),
        descriptor_offset=_in_bytes(descriptor[0], "offset of the descriptor", name),
        descriptor_size=_in_bytes(descriptor[1], "size of the descriptor", name),
        footer_offset=footer,
        unclean=bool(raw.uncleanShutdown),
        unclean_place=(s.SparseExtentHeader.uncleanShutdown.offset, 1),
        newline_damage=damaged,
    )
    _check_descriptor(storage, header)
    if not header.size and header.descriptor_size:
        return header
    if raw.compressAlgorithm not in (s.COMPRESSION_NONE, s.COMPRESSION_DEFLATE):
        raise UnsupportedFeature(
            f"{name}: compressed with method {raw.compressAlgorithm}; known is 1, deflate"
        )
    header.compressed = raw.compressAlgorithm == s.COMPRESSION_DEFLATE
    header.markers = bool(raw.flags & s.FLAG_MARKERS)
    if header.compressed and header.grain_size > s.MAX_HELD_GRAIN:
        raise FormatError(
            f"{name}: compressed grains of {header.grain_size} bytes; "
            f"at most {s.MAX_HELD_GRAIN} are read"
        )
    if raw.flags & s.FLAG_REDUNDANT:
        header.rgd_offset = _in_bytes(raw.rgdOffset, "offset of the redundant directory", name)
    if not 1 <= header.gtes_per_gt <= s.GTES_PER_GT:
        raise FormatError(
            f"{name}: grain tables of {header.gtes_per_gt} entries; there are 1 to {s.GTES_PER_GT}"
        )
    _set_directory(header, name)
    if not lenient:
        _check_end(storage, header)
    return header


def _parse(storage: Storage, offset: int) -> s.SparseExtentHeader:
    if storage.size < s.SECTOR:
        raise FormatError(f"{storage.name}: a VMDK header has 512 bytes, the file {storage.size}")
    return s.SparseExtentHeader.from_buffer_copy(storage.read(offset, s.SECTOR))


def _check_version(version: int, name: str) -> None:
    if not 1 <= version <= 3:
        raise UnsupportedFeature(f"{name}: sparse VMDK version {version}; known are 1 to 3")


def _in_bytes(sectors: int, what: str, name: str) -> int:
    if sectors >= 1 << 53:
        raise FormatError(f"{name}: the {what} is {sectors} sectors, which is not possible")
    return int(sectors) * s.SECTOR


def _set_directory(header: SparseHeader, name: str) -> None:
    grain = header.grain_size
    if grain < s.SECTOR or grain & (grain - 1) or grain > s.MAX_GRAIN_SECTORS * s.SECTOR:
        raise FormatError(
            f"{name}: a grain size of {grain // s.SECTOR} sectors; it is a power of two up to "
            f"{s.MAX_GRAIN_SECTORS}"
        )
    header.gd_entries = -(-header.size // (grain * header.gtes_per_gt))
    if header.gd_entries > _MAX_GD_ENTRIES:
        raise FormatError(
            f"{name}: a grain directory of {header.gd_entries} entries; "
            f"at most {_MAX_GD_ENTRIES} are possible"
        )


def _check_end(storage: Storage, header: SparseHeader) -> None:
    if header.overhead > storage.size:
        raise FormatError(
            f"{storage.name}: its metadata takes {header.overhead} bytes, but the file ends at "
            f"{storage.size}: it is truncated"
        )
    length = header.gd_entries * header.entry_size
    directories = [header.gd_offset]
    if header.rgd_offset is not None:
        directories.append(header.rgd_offset)
    if all(offset + length > storage.size for offset in directories):
        raise FormatError(
            f"{storage.name}: the grain directory at offset {header.gd_offset} ({length} bytes) "
            f"lies behind the end of the file ({storage.size}): it is truncated or damaged"
        )


def _check_descriptor(storage: Storage, header: SparseHeader) -> None:
    if not header.descriptor_offset or not header.descriptor_size:
        header.descriptor_offset = header.descriptor_size = 0
        return
    if header.descriptor_size > s.MAX_DESCRIPTOR + 1:
        raise FormatError(
            f"{storage.name}: the descriptor has {header.descriptor_size} bytes; "
            f"at most {s.MAX_DESCRIPTOR} are read"
        )
    if header.descriptor_offset + header.descriptor_size > storage.size:
        raise FormatError(
            f"{storage.name}: the descriptor at offset {header.descriptor_offset} "
            f"({header.descriptor_size} bytes) lies behind the end of the file ({storage.size}): "
            "it is truncated or damaged"
        )


def find_footer(storage: Storage) -> int:
    """Where the footer of a stream is: in front of the end-of-stream marker, behind its own.

    Raises FormatError where there is none.
    """
    end = storage.size // s.SECTOR * s.SECTOR
    start = max(s.SECTOR, end - _FOOTER_REACH)
    tail = storage.read(start, end - start) if end > start else b""
    marker = bytes(s.MetadataMarker(1, 0, s.MARKER_FOOTER))[:16]
    for place in range(len(tail) - 2 * s.SECTOR, -1, -s.SECTOR):
        # Not all writers count the footer as a sector of metadata; QEMU does not look at it either.
        if tail[place + 8 : place + 16] != marker[8:16]:
            continue
        footer = place + s.SECTOR
        if tail[footer : footer + 4] == s.SPARSE_MAGIC:
            return start + footer
    raise FormatError(
        f"{storage.name}: a stream without the footer that says where its tables are: "
        "it is truncated, the transfer of the file was cut short"
    )


def _read_cowd(storage: Storage, lenient: bool) -> SparseHeader:
    name, fields = storage.name, s.CowdHeader
    length = s.COWD_GD_OFFSET * s.SECTOR
    if storage.size < length:
        raise FormatError(f"{name}: a COWD header has {length} bytes, the file {storage.size}")
    raw = s.CowdHeader.from_buffer_copy(storage.read(0, length))
    if raw.version != s.COWD_VERSION:
        raise UnsupportedFeature(f"{name}: COWD version {raw.version}; known is 1")
    header = SparseHeader(
        kind="COWD",
        version=raw.version,
        flags=raw.flags,
        size=raw.numSectors * s.SECTOR,
        grain_size=raw.grainSize * s.SECTOR,
        gtes_per_gt=s.COWD_GTES_PER_GT,
        gd_offset=raw.gdOffset * s.SECTOR,
        gd_entries=0,
        overhead=length,
        unclean=bool(raw.uncleanShutdown),
        unclean_place=(fields.uncleanShutdown.offset, fields.uncleanShutdown.size),
        free_place=fields.freeSector.offset,
        parent_name=_cowd_parent(raw),
    )
    _set_directory(header, name)
    if raw.numGDEntries < header.gd_entries:
        raise FormatError(
            f"{name}: the grain directory has {raw.numGDEntries} entries; a disk of "
            f"{raw.numSectors} sectors needs {header.gd_entries}"
        )
    if not lenient:
        _check_end(storage, header)
    return header


def _cowd_parent(raw: s.CowdHeader) -> str | None:
    """The parent's name. A root disk has its geometry there: three numbers, the first below 65536,
    so that what looks like a text ends within two bytes.
    """
    text = bytes(raw.parentFileName)
    if len(text) < 3 or any(byte < 32 for byte in text):
        return None
    return text.decode("utf-8", "surrogateescape")


def _read_sesparse(storage: Storage) -> SparseHeader:
    name = storage.name
    if storage.size < s.SECTOR:
        raise FormatError(f"{name}: a seSparse header has 512 bytes, the file {storage.size}")
    raw = s.SeSparseConstHeader.from_buffer_copy(storage.read(0, s.SECTOR))
    known = (
        ("version", raw.version, s.SESPARSE_VERSION),
        ("grain size", raw.grain_size, s.SESPARSE_GRAIN_SECTORS),
        ("grain table size", raw.grain_table_size, s.SESPARSE_GT_SECTORS),
        ("flags", raw.flags, 0),
        ("reserved field 1", raw.reserved1, 0),
        ("reserved field 2", raw.reserved2, 0),
        ("reserved field 3", raw.reserved3, 0),
        ("reserved field 4", raw.reserved4, 0),
    )
    # As strict as QEMU: the format is not documented, and what is not known changes the meaning.
    for what, value, expected in known:
        if value != expected:
            raise UnsupportedFeature(
                f"{name}: a seSparse {what} of {value:#x}; known is {expected:#x}"
            )
    header = SparseHeader(
        kind="SESPARSE",
        version=1,
        flags=0,
        size=_in_bytes(raw.capacity, "capacity", name),
        grain_size=s.SESPARSE_GRAIN_SECTORS * s.SECTOR,
        gtes_per_gt=s.SESPARSE_GTES_PER_GT,
        gd_offset=_in_bytes(raw.grain_dir_offset, "offset of the grain directory", name),
        gd_entries=0,
        overhead=s.SECTOR,
        entry_size=8,
        tables_offset=_in_bytes(raw.grain_tables_offset, "offset of the grain tables", name),
        grains_offset=_in_bytes(raw.grains_offset, "offset of the grains", name),
    )
    _set_directory(header, name)
    size = _in_bytes(raw.grain_dir_size, "size of the grain directory", name)
    if size < header.gd_entries * header.entry_size:
        raise FormatError(
            f"{name}: the grain directory has {size} bytes; a disk of {header.size} bytes needs "
            f"{header.gd_entries * header.entry_size}"
        )
    _check_volatile(storage, _in_bytes(raw.volatile_header_offset, "volatile header", name))
    _check_end(storage, header)
    return header


def _check_volatile(storage: Storage, offset: int) -> None:
    name = storage.name
    if offset + s.SECTOR > storage.size:
        raise FormatError(f"{name}: the volatile header at {offset} is not in the file")
    raw = s.SeSparseVolatileHeader.from_buffer_copy(storage.read(offset, s.SECTOR))
    if raw.magic != s.SESPARSE_VOLATILE_MAGIC:
        raise FormatError(
            f"{name}: the volatile header at {offset} begins with {raw.magic:#x}: it is damaged"
        )
    if raw.replay_journal:
        raise UnsupportedFeature(
            f"{name}: not closed properly; its journal has to be replayed by ESXi, which powers "
            "the machine on and off"
        )
