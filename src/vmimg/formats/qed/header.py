"""The header of a QED image: parsed, checked, and made. No numpy.

`read_header` believes nothing: each number is checked against what QEMU allows and against the size
of the file before anything is read or allocated by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmimg.disk.layer import ParentRef
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.qed import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_down

__all__ = ["QedHeader", "max_size", "pack_header", "parent_ref", "read_header", "write_features"]

# Of the features that nobody has defined, so that an error can name them.
_FEATURE_BITS: Final = 64


@dataclass(slots=True)
class QedHeader:
    """What the header says, checked. Offsets and sizes in bytes but ``table_size`` and
    ``header_size``, which count clusters.
    """

    cluster_size: int
    table_size: int
    size: int
    l1_offset: int
    header_size: int = 1
    features: int = 0
    compat_features: int = 0
    autoclear_features: int = 0
    backing_file: str | None = None

    @property
    def table_bytes(self) -> int:
        return self.table_size * self.cluster_size

    @property
    def entries(self) -> int:
        """Entries of a table."""
        return self.table_bytes // 8

    @property
    def blocks(self) -> int:
        """Clusters of the disk."""
        return -(-self.size // self.cluster_size)

    @property
    def tables(self) -> int:
        """L2 tables that the disk can have: entries of the L1 table that mean something."""
        return -(-self.blocks // self.entries)

    @property
    def first_cluster(self) -> int:
        """Where the first regular cluster begins: no table and no data lies in front of it."""
        return self.header_size * self.cluster_size

    @property
    def need_check(self) -> bool:
        return bool(self.features & s.NEED_CHECK)

    def limit(self, file_size: int) -> int:
        """Where the last whole cluster of a file of that size ends. QEMU counts no part of one."""
        return align_down(file_size, self.cluster_size)


def read_header(storage: Storage) -> QedHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for features that are not known.
    """
    name = storage.name
    if storage.size < s.HEADER_SIZE:
        raise FormatError(
            f"{name}: a QED header has {s.HEADER_SIZE} bytes, the file {storage.size}"
        )
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    if bytes(raw.magic) != s.MAGIC:
        raise FormatError(f"{name}: not a QED image: it begins with {bytes(raw.magic).hex(' ')}")
    unknown = raw.features & ~s.KNOWN_FEATURES
    if unknown:
        bits = ", ".join(str(bit) for bit in range(_FEATURE_BITS) if unknown >> bit & 1)
        raise UnsupportedFeature(
            f"{name}: has QED features that are not known (bit {bits} of features): "
            "a newer program made it"
        )
    header = QedHeader(
        cluster_size=raw.cluster_size,
        table_size=raw.table_size,
        size=raw.image_size,
        l1_offset=raw.l1_table_offset,
        header_size=raw.header_size,
        features=raw.features,
        compat_features=raw.compat_features,
        autoclear_features=raw.autoclear_features,
    )
    _check_numbers(storage, header)
    if header.features & s.BACKING_FILE:
        header.backing_file = _backing_file(
            storage, header, raw.backing_filename_offset, raw.backing_filename_size
        )
    return header


def pack_header(header: QedHeader) -> bytes:
    """The first bytes of a new image: the header, and the backing file's name right behind it."""
    named = b""
    if header.backing_file is not None:
        named = header.backing_file.encode("utf-8", "surrogateescape")
        if not named or len(named) > s.MAX_NAME:
            raise OptionError(
                f"the name of the backing file has {len(named)} bytes; a QED image takes "
                f"1 to {s.MAX_NAME}"
            )
    raw = s.Header(
        cluster_size=header.cluster_size,
        table_size=header.table_size,
        header_size=header.header_size,
        features=header.features,
        compat_features=header.compat_features,
        autoclear_features=header.autoclear_features,
        l1_table_offset=header.l1_offset,
        image_size=header.size,
        backing_filename_offset=s.HEADER_SIZE if named else 0,
        backing_filename_size=len(named),
    )
    raw.magic[:] = s.MAGIC
    return bytes(raw) + named


def write_features(storage: Storage, header: QedHeader) -> None:
    """Bring the features of ``header`` to the file, and nothing else of it: QEMU may have written
    more there than we keep. Does not flush.
    """
    start = int(s.Header.features.offset)
    fields = (header.features, header.compat_features, header.autoclear_features)
    storage.write(start, b"".join(field.to_bytes(8, "little") for field in fields))


def parent_ref(header: QedHeader) -> ParentRef | None:
    """The backing file. Whether it is raw is all that an image says of its format."""
    if header.backing_file is None:
        return None
    return ParentRef(header.backing_file, "raw" if header.features & s.NO_PROBE else None)


def max_size(cluster_size: int, table_size: int) -> int:
    """Bytes of the largest disk that such tables can map."""
    entries = table_size * cluster_size // 8
    return entries * entries * cluster_size


def _check_numbers(storage: Storage, header: QedHeader) -> None:
    name, cluster, tables = storage.name, header.cluster_size, header.table_size
    if not s.MIN_CLUSTER <= cluster <= s.MAX_CLUSTER or cluster & (cluster - 1):
        raise FormatError(
            f"{name}: a cluster size of {cluster} bytes is not a power of two from "
            f"{s.MIN_CLUSTER} to {s.MAX_CLUSTER}"
        )
    if not s.MIN_TABLE <= tables <= s.MAX_TABLE or tables & (tables - 1):
        raise FormatError(
            f"{name}: a table size of {tables} clusters is not a power of two from "
            f"{s.MIN_TABLE} to {s.MAX_TABLE}"
        )
    if header.size % s.SECTOR or header.size >= 1 << 63:
        raise FormatError(
            f"{name}: a virtual size of {header.size} bytes is not a possible number of sectors"
        )
    if header.size > max_size(cluster, tables):
        raise FormatError(
            f"{name}: a disk of {header.size} bytes is more than its tables can map "
            f"({max_size(cluster, tables)})"
        )
    limit = header.limit(storage.size)
    if not header.header_size or header.first_cluster > limit:
        raise FormatError(
            f"{name}: the header is said to have {header.header_size} clusters of {cluster} "
            f"bytes, the file has {storage.size} bytes"
        )
    start = header.l1_offset
    if start % cluster or start < header.first_cluster:
        raise FormatError(
            f"{name}: the L1 table is said to be at {start}: that is not a cluster behind the "
            "header"
        )
    if start + header.table_bytes > limit:
        raise FormatError(
            f"{name}: the L1 table at {start} reaches behind the end of the file "
            f"({storage.size}): it is truncated or damaged"
        )


def _backing_file(storage: Storage, header: QedHeader, offset: int, length: int) -> str:
    if offset + length > header.first_cluster:
        raise FormatError(
            f"{storage.name}: the name of the backing file, {length} bytes at {offset}, is not "
            "inside the header"
        )
    if not 0 < length <= s.MAX_NAME:
        raise FormatError(
            f"{storage.name}: the name of the backing file is said to have {length} bytes; "
            f"there may be 1 to {s.MAX_NAME}"
        )
    # QEMU reads it as a C string.
    named = storage.read(offset, length).partition(b"\0")[0]
    if any(byte < 0x20 or byte == 0x7F for byte in named):
        # It would go to people's terminals with every message.
        raise FormatError(
            f"{storage.name}: the name of the backing file has control characters in it"
        )
    return named.decode("utf-8", "surrogateescape")
