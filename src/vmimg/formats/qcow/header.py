"""The header of a qcow image: parsed, checked, and made. No numpy.

`read_header` believes nothing: each number is checked against QEMU's limits and the size of the
file before anything is read or allocated by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmimg.disk.layer import ParentRef
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.qcow import structures as s
from vmimg.storage.base import Storage
from vmimg.units import align_down, align_up, format_size

__all__ = ["QcowHeader", "pack_header", "read_header"]


@dataclass(slots=True)
class QcowHeader:
    """What the header says, checked. Offsets and sizes in bytes.

    ``size`` is a multiple of 512: what is behind the last whole sector, QEMU does not show.
    """

    size: int
    cluster_bits: int
    l2_bits: int
    l1_table_offset: int
    crypt_method: int = s.CRYPT_NONE
    mtime: int = 0
    backing_file: str | None = None

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def clusters(self) -> int:
        """Clusters of the disk."""
        return -(-self.size // self.cluster_size)

    @property
    def l2_entries(self) -> int:
        """Clusters that one L2 table maps."""
        return 1 << self.l2_bits

    @property
    def l2_bytes(self) -> int:
        return 8 << self.l2_bits

    @property
    def l1_entries(self) -> int:
        return -(-self.size >> self.cluster_bits + self.l2_bits)

    @property
    def l1_end(self) -> int:
        return self.l1_table_offset + 8 * self.l1_entries

    @property
    def parent(self) -> ParentRef | None:
        """The backing file; its format is nowhere said."""
        return None if self.backing_file is None else ParentRef(self.backing_file, None)


def read_header(storage: Storage) -> QcowHeader:
    """The header of ``storage``. Raises FormatError for what breaks the format, UnsupportedFeature
    for other versions and unknown encryption.
    """
    name = storage.name
    if storage.size < s.HEADER_SIZE:
        raise FormatError(
            f"{name}: a qcow header has {s.HEADER_SIZE} bytes, the file {storage.size}"
        )
    raw = s.Header.from_buffer_copy(storage.read(0, s.HEADER_SIZE))
    # As bytes: ctypes cuts a string off at its first zero.
    magic = bytes(raw)[:4]
    if magic != s.MAGIC:
        raise FormatError(f"{name}: not a qcow image: the magic at offset 0 is {magic.hex(' ')}")
    if raw.version != s.VERSION:
        raise UnsupportedFeature(
            f"{name}: qcow version {raw.version}; this format is version 1, later ones are qcow2"
        )
    if not s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS:
        raise FormatError(
            f"{name}: cluster_bits is {raw.cluster_bits}; clusters have 512 bytes (9) to 64 KiB "
            "(16)"
        )
    if not s.MIN_L2_BITS <= raw.l2_bits <= s.MAX_L2_BITS:
        raise FormatError(
            f"{name}: l2_bits is {raw.l2_bits}; L2 tables have 512 bytes (6) to 64 KiB (13)"
        )
    if raw.crypt_method not in (s.CRYPT_NONE, s.CRYPT_AES):
        raise UnsupportedFeature(
            f"{name}: encryption method {raw.crypt_method}; known are none (0) and AES (1)"
        )
    if raw.size < s.SECTOR:
        raise FormatError(f"{name}: a virtual size of {raw.size} bytes is less than a sector")
    header = QcowHeader(
        size=align_down(raw.size, s.SECTOR),
        cluster_bits=raw.cluster_bits,
        l2_bits=raw.l2_bits,
        l1_table_offset=raw.l1_table_offset,
        crypt_method=raw.crypt_method,
        mtime=raw.mtime,
    )
    _check_l1(storage, header)
    if raw.backing_file_offset:
        header.backing_file = _backing_name(
            storage, int(raw.backing_file_offset), int(raw.backing_file_size)
        )
    return header


def pack_header(header: QcowHeader) -> bytes:
    """The first bytes of a new image, up to its L1 table, which is placed by this.

    Raises FormatError when the name of the backing file does not fit.
    """
    backing = (header.backing_file or "").encode("utf-8", "surrogateescape")
    if len(backing) > s.MAX_BACKING_NAME:
        raise FormatError(f"the backing file name has {len(backing)} bytes; qcow allows 1023")
    header.l1_table_offset = align_up(s.HEADER_SIZE + len(backing), s.L1_ALIGN)
    raw = s.Header(
        magic=s.MAGIC,
        version=s.VERSION,
        backing_file_offset=s.HEADER_SIZE if backing else 0,
        backing_file_size=len(backing),
        mtime=header.mtime,
        size=header.size,
        cluster_bits=header.cluster_bits,
        l2_bits=header.l2_bits,
        crypt_method=header.crypt_method,
        l1_table_offset=header.l1_table_offset,
    )
    return (bytes(raw) + backing).ljust(header.l1_table_offset, b"\0")


def _check_l1(storage: Storage, header: QcowHeader) -> None:
    name = storage.name
    if header.l1_entries > s.MAX_L1_ENTRIES:
        raise FormatError(
            f"{name}: a disk of {format_size(header.size)} needs an L1 table of "
            f"{header.l1_entries} entries; QEMU allows {s.MAX_L1_ENTRIES}"
        )
    if header.l1_table_offset < s.HEADER_SIZE:
        raise FormatError(
            f"{name}: the L1 table is said to be at {header.l1_table_offset}, over the header"
        )
    if header.l1_end > storage.size:
        raise FormatError(
            f"{name}: the L1 table at offset {header.l1_table_offset} ({8 * header.l1_entries} "
            f"bytes) reaches behind the end of the file ({storage.size}): it is truncated or "
            "damaged"
        )


def _backing_name(storage: Storage, start: int, length: int) -> str | None:
    if length > s.MAX_BACKING_NAME:
        raise FormatError(
            f"{storage.name}: the name of the backing file has {length} bytes; at most 1023 are "
            "allowed"
        )
    if start < s.HEADER_SIZE or start + length > storage.size:
        raise FormatError(
            f"{storage.name}: the backing file name at {start} ({length} bytes) lies over the "
            "header or behind the end of the file"
        )
    data = storage.read(start, length).partition(b"\0")[0]
    return data.decode("utf-8", "surrogateescape") or None
