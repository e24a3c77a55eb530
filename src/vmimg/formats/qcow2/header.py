"""The header of a qcow2 image: parsed, checked, and written. No numpy.

`read_header` believes nothing: each number is checked against the limits of the specification,
those of QEMU, and the size of the file, before anything is read or allocated by it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.qcow2 import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_up, format_size

__all__ = ["Extension", "Qcow2Header", "header_of", "pack_header", "read_header"]


@dataclass(frozen=True, slots=True)
class Extension:
    """A header extension as it stands in the file, ``data`` without padding."""

    type: int
    data: bytes


@dataclass(slots=True)
class Qcow2Header:
    """What the first cluster says, checked. Offsets and sizes in bytes, ``l1_size`` in entries."""

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    crypt_method: int = s.CRYPT_NONE
    nb_snapshots: int = 0
    snapshots_offset: int = 0
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = 4
    header_length: int = s.V3_FULL_LENGTH
    compression_type: int = 0
    unknown_fields: bytes = b""
    """Header bytes behind compression_type, kept when the header is rewritten."""
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    extensions: tuple[Extension, ...] = field(default=())
    """All extensions but the three strings above (backing format, data file name) in file order."""

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def refcount_bits(self) -> int:
        return 1 << self.refcount_order

    @property
    def extended_l2(self) -> bool:
        return bool(self.incompatible_features & s.EXTENDED_L2)

    @property
    def external_data(self) -> bool:
        return bool(self.incompatible_features & s.EXTERNAL_DATA)

    @property
    def data_file_raw(self) -> bool:
        return self.external_data and bool(self.autoclear_features & s.DATA_FILE_RAW)

    @property
    def l2_entry_size(self) -> int:
        """Bytes of an L2 entry: 8, or 16 with subclusters."""
        return 16 if self.extended_l2 else 8

    @property
    def l2_entries(self) -> int:
        """Clusters that one L2 table maps."""
        return self.cluster_size // self.l2_entry_size

    @property
    def l1_needed(self) -> int:
        """L1 entries that the virtual size needs."""
        return -(-self.size // (self.cluster_size * self.l2_entries))

    @property
    def refcounts_per_block(self) -> int:
        return self.cluster_size * 8 >> self.refcount_order

    @property
    def compression_name(self) -> str:
        return s.COMPRESSION_NAMES[self.compression_type]

    def extension(self, kind: int) -> bytes | None:
        """The data of the extension of type ``kind``, None where there is none."""
        return next((e.data for e in self.extensions if e.type == kind), None)


def read_header(storage: Storage, *, lenient: bool = False) -> Qcow2Header:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for unknown incompatible features (by the name that the image gives them).

    ``lenient`` is for check, which reports and mends some of it: tables may lie behind the end of
    the file, there may be no refcount table, and too many snapshots.
    """
    name = storage.name
    if storage.size < s.V2_LENGTH:
        raise FormatError(
            f"{name}: a qcow2 header has {s.V2_LENGTH} bytes, the file {storage.size}"
        )
    head = storage.read(0, min(storage.size, s.V3_FULL_LENGTH)).ljust(s.V3_FULL_LENGTH, b"\0")
    raw = s.Header.from_buffer_copy(head)
    if head[:4] != s.MAGIC:
        raise FormatError(
            f"{name}: not a qcow2 image: the magic at offset 0 is {head[:4].hex(' ')}"
        )
    if raw.version not in (2, 3):
        raise UnsupportedFeature(f"{name}: qcow2 version {raw.version}; known are 2 and 3")
    if not s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS:
        raise FormatError(
            f"{name}: cluster_bits is {raw.cluster_bits}; clusters have 512 bytes (9) to 2 MiB (21)"
        )
    header = header_of(raw)
    if header.version == 3:
        _read_version_3(storage, header)
    _read_extensions(storage, header, int(raw.backing_file_offset))
    _check_features(storage, header)
    _read_backing_name(storage, raw, header)
    _check_tables(storage, header, lenient)
    return header


def header_of(raw: s.Header) -> Qcow2Header:
    """The numbers of ``raw`` as they stand, unchecked; in version 2 what that means for the fields
    which only version 3 has.
    """
    new = raw.version == 3
    typed = new and raw.header_length > s.V3_LENGTH
    return Qcow2Header(
        version=raw.version,
        cluster_bits=raw.cluster_bits,
        size=raw.size,
        l1_size=raw.l1_size,
        l1_table_offset=raw.l1_table_offset,
        refcount_table_offset=raw.refcount_table_offset,
        refcount_table_clusters=raw.refcount_table_clusters,
        crypt_method=raw.crypt_method,
        nb_snapshots=raw.nb_snapshots,
        snapshots_offset=raw.snapshots_offset,
        incompatible_features=raw.incompatible_features if new else 0,
        compatible_features=raw.compatible_features if new else 0,
        autoclear_features=raw.autoclear_features if new else 0,
        refcount_order=raw.refcount_order if new else 4,
        header_length=raw.header_length if new else s.V2_LENGTH,
        compression_type=raw.compression_type if typed else 0,
    )


def pack_header(header: Qcow2Header) -> bytes:
    """The first bytes of the image: header, extensions, backing file name; at most one cluster.

    Raises FormatError when they do not fit.
    """
    backing = (header.backing_file or "").encode("utf-8", "surrogateescape")
    if len(backing) > s.MAX_BACKING_NAME:
        raise FormatError(f"the backing file name has {len(backing)} bytes; qcow2 allows 1023")
    length = s.V2_LENGTH
    if header.version == 3:
        length = align_up(s.V3_FULL_LENGTH + len(header.unknown_fields), 8)
    extensions = b"".join(_pack_extensions(header))
    raw = s.Header(
        magic=s.MAGIC,
        version=header.version,
        backing_file_offset=length + len(extensions) if backing else 0,
        backing_file_size=len(backing),
        cluster_bits=header.cluster_bits,
        size=header.size,
        crypt_method=header.crypt_method,
        l1_size=header.l1_size,
        l1_table_offset=header.l1_table_offset,
        refcount_table_offset=header.refcount_table_offset,
        refcount_table_clusters=header.refcount_table_clusters,
        nb_snapshots=header.nb_snapshots,
        snapshots_offset=header.snapshots_offset,
        incompatible_features=header.incompatible_features,
        compatible_features=header.compatible_features,
        autoclear_features=header.autoclear_features,
        refcount_order=header.refcount_order,
        header_length=length,
        compression_type=header.compression_type,
    )
    packed = (bytes(raw) + header.unknown_fields).ljust(length, b"\0")[:length]
    packed += extensions + backing
    if len(packed) > header.cluster_size:
        raise FormatError(
            f"header, extensions and backing file name take {len(packed)} bytes; "
            f"they must fit one cluster of {header.cluster_size}"
        )
    return packed


def _read_version_3(storage: Storage, header: Qcow2Header) -> None:
    name, length = storage.name, header.header_length
    if not s.V3_LENGTH <= length <= header.cluster_size or length % 8 or length > storage.size:
        raise FormatError(f"{name}: header_length is {length}; at least 104, in the first cluster")
    if header.refcount_order > 6:
        raise FormatError(
            f"{name}: refcount_order is {header.refcount_order}; the widest is 6 (64 bits)"
        )
    if length > s.V3_FULL_LENGTH:
        header.unknown_fields = storage.read(s.V3_FULL_LENGTH, length - s.V3_FULL_LENGTH)


def _check_features(storage: Storage, header: Qcow2Header) -> None:
    name = storage.name
    unknown = header.incompatible_features & ~s.KNOWN_INCOMPATIBLE
    if unknown:
        names = dict(_feature_names(header))
        bits = [bit for bit in range(64) if unknown >> bit & 1]
        listed = ", ".join(names.get(bit, f"bit {bit}") for bit in bits)
        raise UnsupportedFeature(f"{name}: needs qcow2 features that are not known here: {listed}")
    has_type = bool(header.incompatible_features & s.COMPRESSION_TYPE)
    if header.compression_type >= len(s.COMPRESSION_NAMES):
        raise UnsupportedFeature(
            f"{name}: compression type {header.compression_type}; known are 0 (zlib) and 1 (zstd)"
        )
    if has_type != bool(header.compression_type):
        raise FormatError(
            f"{name}: compression_type is {header.compression_type}, but its feature bit is "
            f"{'set' if has_type else 'not set'}"
        )
    if header.extended_l2 and header.cluster_bits < s.MIN_EXTENDED_CLUSTER_BITS:
        raise FormatError(f"{name}: extended L2 entries need clusters of 16 KiB or more")
    if header.crypt_method > s.CRYPT_LUKS:
        raise UnsupportedFeature(f"{name}: encryption method {header.crypt_method} is not known")


def _feature_names(header: Qcow2Header) -> Iterator[tuple[int, str]]:
    """(bit, name) of the incompatible features that the image names."""
    table = header.extension(s.EXT_FEATURE_NAMES) or b""
    width = ctypes.sizeof(s.FeatureName)
    for start in range(0, len(table) - width + 1, width):
        entry = s.FeatureName.from_buffer_copy(table, start)
        if entry.type == 0 and entry.name:
            # Words from a stranger's file end up on a terminal: keep them printable.
            text = entry.name.decode("ascii", "replace")
            yield entry.bit, "".join(c if c.isprintable() else "?" for c in text)


def _read_extensions(storage: Storage, header: Qcow2Header, backing_offset: int) -> None:
    """Extensions lie between the header and the backing file name, or else the end of the first
    cluster.
    """
    name = storage.name
    offset, end = header.header_length, min(header.cluster_size, storage.size)
    # QEMU before 0.11 wrote the name straight behind the header, with no extension to end the list.
    if offset <= backing_offset < end:
        end = backing_offset
    area = storage.read(offset, end - offset)
    found: list[Extension] = []
    position = 0
    while position + 8 <= len(area):
        head = s.ExtensionHeader.from_buffer_copy(area, position)
        if head.type == s.EXT_END:
            break
        position += 8
        if position + head.length > len(area):
            raise FormatError(
                f"{name}: header extension {head.type:#010x} at offset {offset + position - 8} "
                f"claims {head.length} bytes and would leave the first cluster"
            )
        data = area[position : position + head.length]
        position = align_up(position + head.length, 8)
        if head.type == s.EXT_BACKING_FORMAT:
            header.backing_format = _text(data)
        elif head.type == s.EXT_DATA_FILE:
            header.data_file = _text(data)
        else:
            found.append(Extension(head.type, data))
    header.extensions = tuple(found)


def _read_backing_name(storage: Storage, raw: s.Header, header: Qcow2Header) -> None:
    if not raw.backing_file_offset:
        return
    start, length = int(raw.backing_file_offset), int(raw.backing_file_size)
    if length > s.MAX_BACKING_NAME or length > header.cluster_size:
        raise FormatError(
            f"{storage.name}: the backing file name has {length} bytes, 1023 are allowed"
        )
    if start < header.header_length or start + length > min(header.cluster_size, storage.size):
        raise FormatError(
            f"{storage.name}: the backing file name at {start} ({length} bytes) lies outside "
            "the first cluster"
        )
    if length:
        header.backing_file = _text(storage.read(start, length))


def _check_tables(storage: Storage, header: Qcow2Header, lenient: bool) -> None:
    name, cluster = storage.name, header.cluster_size
    if header.size > 1 << 63:
        raise FormatError(f"{name}: a virtual size of {header.size} bytes is not possible")
    if header.l1_size * 8 > s.MAX_L1_BYTES:
        raise FormatError(
            f"{name}: an L1 table of {header.l1_size} entries; at most 32 MiB are allowed"
        )
    if header.l1_size < header.l1_needed:
        raise FormatError(
            f"{name}: the L1 table has {header.l1_size} entries; a disk of "
            f"{format_size(header.size)} needs {header.l1_needed}"
        )
    if header.refcount_table_clusters * cluster > s.MAX_REFTABLE_BYTES:
        raise FormatError(
            f"{name}: a refcount table of {header.refcount_table_clusters} clusters; "
            "at most 8 MiB are allowed"
        )
    if not header.refcount_table_clusters and not lenient:
        raise FormatError(f"{name}: there is no refcount table")
    if header.nb_snapshots > s.MAX_SNAPSHOTS and not lenient:
        raise FormatError(f"{name}: {header.nb_snapshots} snapshots; at most 65536 are allowed")
    for what, start, length in (
        ("L1 table", header.l1_table_offset, header.l1_size * 8),
        ("refcount table", header.refcount_table_offset, header.refcount_table_clusters * cluster),
        ("snapshot table", header.snapshots_offset, header.nb_snapshots),
    ):
        if not length:
            continue
        if start % cluster or not (start or lenient):
            raise FormatError(f"{name}: the {what} at offset {start} is not on a cluster boundary")
        if lenient:
            continue
        # A file may end inside the last cluster that a table takes, but not in front of it.
        if start >= storage.size or (what == "L1 table" and start + length > storage.size):
            raise FormatError(
                f"{name}: the {what} at offset {start} ({length} bytes) lies behind the end of the "
                f"file ({storage.size}): it is truncated or damaged"
            )


def _pack_extensions(header: Qcow2Header) -> Iterator[bytes]:
    strings = (
        (s.EXT_BACKING_FORMAT, header.backing_format),
        (s.EXT_DATA_FILE, header.data_file),
    )
    for kind, text in strings:
        if text:
            yield _pack_extension(kind, text.encode("utf-8", "surrogateescape"))
    for extension in header.extensions:
        yield _pack_extension(extension.type, extension.data)
    yield _pack_extension(s.EXT_END, b"")


def _pack_extension(kind: int, data: bytes) -> bytes:
    return bytes(s.ExtensionHeader(kind, len(data))) + data.ljust(align_up(len(data), 8), b"\0")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
