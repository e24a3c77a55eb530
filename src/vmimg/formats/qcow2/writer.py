"""Qcow2Writer: lays out a new qcow2 image. Places blocks, never touches guest data.

::

    header | LUKS header and key slots, if encrypted
           | data and compressed clusters, each L2 table behind the data it maps,
           | each refcount block behind the clusters it counts | L1 | last refcount blocks |
           refcount table

Everything but the header is appended, so a finished part never changes, memory stays bounded, and a
stream needs to know only the first cluster beforehand. Imports the writer contract and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import codec
from vmimg.disk.layer import ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Companion, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Extension, Qcow2Header, pack_header
from vmimg.formats.qcow2.newencryption import Encryption, encryption_method, new_encryption
from vmimg.formats.qcow2.refcounts import pack_refcounts
from vmimg.units import MIB, align_up, format_size

__all__ = ["Qcow2Writer", "new_header"]

# A cluster that compressed blocks are packed into is given up when this much was placed behind it,
# so that a stream has to hold back no more than that.
_OPEN_WINDOW: Final = 4 * MIB
# With clusters smaller than this the feature name table would crowd out a backing file name.
_FEATURE_TABLE_CLUSTER: Final = 4096

# Where the data file begins in the row of addresses: behind the largest image and virtual disk.
_DATA_START: Final = 1 << 62

_ALL_ALLOCATED = np.uint64(0xFFFF_FFFF)
_ALL_ZERO = np.uint64(0xFFFF_FFFF << 32)
_COPIED = np.uint64(s.COPIED)
_ZERO_FLAG = np.uint64(s.ZERO_FLAG)
_NO_FLAG = np.uint64(0)


class Qcow2Writer(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed."""

    def __init__(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        parent: ParentRef | None = None,
        *,
        name: str = "disk",
        keys: Keys | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        self._given = (size, options, parent)
        self._header = new_header(size, options, parent)
        self._encryption = encryption or new_encryption(options, name, keys)
        self.encrypted = self._header.crypt_method != s.CRYPT_NONE
        self.block_size = self._header.cluster_size
        self.preallocation = str(options["preallocation"])
        if self._header.external_data:
            assert self._header.data_file is not None
            self.companions = (Companion(self._header.data_file, _DATA_START),)
            self.data_limit = _DATA_START + size
            if self._header.data_file_raw and self.preallocation == "off":
                # Only when every cluster is mapped does the data file stay a valid raw image
                # whatever is written later; QEMU forces the same.
                self.preallocation = "metadata"
        elif not self.encrypted:  # QEMU does not compress what is encrypted
            self.codec = codec(s.COMPRESSION_CODECS[self._header.compression_type])
        self.hides_parent = self._header.version >= 3
        self._has_parent = parent is not None
        self._next = 1
        """The next free cluster of the file."""
        self._l1 = np.zeros(self._header.l1_size, np.uint64)
        self._tables: dict[int, NDArray[np.uint64]] = {}
        self._extra: dict[int, NDArray[np.uint64]] = {}
        """Refcounts above one, by refcount block: clusters that several compressed blocks share."""
        self._refblocks: list[int] = []
        self._open_at = 0
        """The next free byte of the cluster that compressed blocks are packed into; 0: none is
        open.
        """
        self._open_count = 0
        """Compressed blocks in that cluster so far."""
        self._file_size = 0
        self._volume_at = 0
        """Where the LUKS header is to be written; 0: there is none, or it was."""
        if self._encryption is not None and self._encryption.volume is not None:
            length = self._encryption.volume.payload_offset
            self._volume_at = self._allocate(-(-length // self.block_size))
            extension = bytes(s.EncryptionExtension(self._volume_at, length))
            self._header.extensions = (
                Extension(s.EXT_ENCRYPTION, extension),
                *self._header.extensions,
            )

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._place(blocks, _ALL_ALLOCATED)

    def reserve(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        # Above a parent, subclusters that nobody wrote must stay unallocated to let it show
        # through.
        if self.encrypted:
            # What nobody wrote would read as noise. Zero clusters keep their place.
            return self._place(blocks, np.uint64(0) if self._has_parent else _ALL_ZERO, _ZERO_FLAG)
        return self._place(blocks, np.uint64(0) if self._has_parent else _ALL_ALLOCATED)

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        entry = np.uint64(0) if self._header.extended_l2 else _ZERO_FLAG
        self._assign(blocks, np.full(len(blocks), entry, np.uint64), _ALL_ZERO)

    def place_compressed(self, block: int, length: int, note: Any) -> int:
        offset = self._pack(length)
        first = offset >> self._header.cluster_bits
        last = (offset + length - 1) >> self._header.cluster_bits
        if self._open_count:  # the first touched cluster holds other compressed blocks already
            self._count_again(first)
        self._open_at = offset + length
        self._open_count = 1 if last > first or not self._open_count else self._open_count + 1
        if self._open_at % self.block_size == 0:
            # Exactly full. Going on in the next cluster would be contiguous, but it is not shared.
            self._open_at = self._open_count = 0
        sectors = (offset + length - 1) // 512 - offset // 512
        shift = 62 - (self._header.cluster_bits - 8)
        entry = s.COMPRESSED_FLAG | sectors << shift | offset
        self._assign(np.array([block], np.int64), np.array([entry], np.uint64), np.uint64(0))
        return offset

    def encrypt(self, address: int, virtual: int, data: memoryview) -> None:
        assert self._encryption is not None
        place = address - _DATA_START if self.companions else address
        self._encryption.cipher.encrypt(place, virtual, data)

    def twin(self) -> Qcow2Writer | None:
        if self._encryption is None:
            return None
        size, options, parent = self._given
        return Qcow2Writer(size, options, parent, encryption=self._encryption)

    @property
    def settled(self) -> int:
        return self._open_at or self._next * self.block_size

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        yield from self._volume_parts()
        per_table = self._header.l2_entries
        for index in sorted(self._tables):
            if (index + 1) * per_table <= done:
                yield self._close_table(index)
        if self._open_at and self._next * self.block_size - self._open_at > max(
            _OPEN_WINDOW, 2 * self.block_size
        ):
            self._open_at = self._open_count = 0
        counted = self.settled >> self._header.cluster_bits
        while (len(self._refblocks) + 1) * self._header.refcounts_per_block <= counted:
            yield self._close_refblock(self._header.refcounts_per_block)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield from self._volume_parts()
        for index in sorted(self._tables):
            yield self._close_table(index)
        self._open_at = self._open_count = 0
        header, cluster = self._header, self.block_size
        l1 = (self._l1.astype(">u8")).tobytes()
        header.l1_table_offset = self._allocate(max(1, -(-len(l1) // cluster)))
        yield header.l1_table_offset, l1

        written = len(self._refblocks)
        blocks, tables = self._refcount_room(self._next - written)
        total = self._next + blocks - written + tables
        while len(self._refblocks) < blocks:
            per_block = header.refcounts_per_block
            covered = min(per_block, total - len(self._refblocks) * per_block)
            yield self._close_refblock(covered)
        table = np.array(self._refblocks, ">u8").tobytes()
        header.refcount_table_offset = self._allocate(tables)
        header.refcount_table_clusters = tables
        yield header.refcount_table_offset, table
        self._file_size = self._next * cluster
        yield 0, pack_header(header)

    def full_size(self) -> int:
        header, cluster = self._header, self.block_size
        blocks = 0 if header.external_data else -(-header.size // cluster)
        first = self._first_cluster
        used = first + blocks + header.l1_needed + max(1, -(-header.l1_size * 8 // cluster))
        data = header.size if header.external_data else 0
        return (used + sum(self._refcount_room(used))) * cluster + data

    @property
    def file_size(self) -> int:
        return self._file_size

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return (self._header.size,) if self.companions else ()

    @property
    def _first_cluster(self) -> int:
        """Clusters of the header, and of the LUKS header."""
        volume = self._encryption.volume if self._encryption is not None else None
        return 1 + (-(-volume.payload_offset // self.block_size) if volume is not None else 0)

    def _volume_parts(self) -> Iterator[tuple[int, bytes]]:
        start, self._volume_at = self._volume_at, 0
        if start and self._encryption is not None and self._encryption.volume is not None:
            for offset, data in self._encryption.volume.parts:
                yield start + offset, data

    def _place(
        self, blocks: NDArray[np.int64], bitmap: np.uint64, flag: np.uint64 = _NO_FLAG
    ) -> NDArray[np.int64]:
        cluster = self.block_size
        if self._header.external_data:
            offsets = blocks * cluster
            start = _DATA_START
        else:
            first = self._allocate(len(blocks))
            offsets = first + np.arange(len(blocks), dtype=np.int64) * cluster
            start = 0
        if not self._header.extended_l2:  # with subclusters the bitmap says it
            entries = offsets.astype(np.uint64) | _COPIED | flag
        else:
            entries = offsets.astype(np.uint64) | _COPIED
        self._assign(blocks, entries, bitmap)
        return offsets + start

    def _assign(
        self, blocks: NDArray[np.int64], entries: NDArray[np.uint64], bitmap: np.uint64
    ) -> None:
        """Put ``entries`` of ``blocks`` (ascending) into their L2 tables."""
        per_table = self._header.l2_entries
        start = 0
        while start < len(blocks):
            index = int(blocks[start]) // per_table
            stop = int(np.searchsorted(blocks, (index + 1) * per_table))
            table = self._tables.get(index)
            if table is None:
                width = self._header.l2_entry_size // 8
                table = self._tables[index] = np.zeros((per_table, width), np.uint64)
            rows = blocks[start:stop] - index * per_table
            table[rows, 0] = entries[start:stop]
            if self._header.extended_l2:
                table[rows, 1] = bitmap
            start = stop

    def _close_table(self, index: int) -> tuple[int, bytes]:
        table = self._tables.pop(index)
        offset = self._allocate(1)
        self._l1[index] = np.uint64(offset) | _COPIED
        return offset, table.astype(">u8").tobytes()

    def _close_refblock(self, covered: int) -> tuple[int, bytes]:
        """The next refcount block, whose first ``covered`` clusters are in use."""
        counts = np.zeros(self._header.refcounts_per_block, np.uint64)
        counts[:covered] = 1
        extra = self._extra.pop(len(self._refblocks), None)
        if extra is not None:
            counts += extra
        offset = self._allocate(1)
        self._refblocks.append(offset)
        return offset, pack_refcounts(counts, self._header.refcount_order)

    def _refcount_room(self, used: int) -> tuple[int, int]:
        """Clusters of refcount blocks and table for a file that has ``used`` others.

        They count themselves, so both grow until they cover the whole file.
        """
        cluster, per_block = self.block_size, self._header.refcounts_per_block
        blocks = tables = 1
        while True:
            total = used + blocks + tables
            if -(-total // per_block) <= blocks and -(-blocks * 8 // cluster) <= tables:
                break
            blocks = max(blocks, -(-total // per_block))
            tables = max(tables, -(-blocks * 8 // cluster))
        if tables * cluster > s.MAX_REFTABLE_BYTES:
            raise OptionError(
                f"an image file of {format_size(total * cluster)} with clusters of {cluster} bytes "
                "needs a refcount table of more than the 8 MiB that QEMU reads; choose a larger "
                "cluster_size"
            )
        return blocks, tables

    def _allocate(self, clusters: int) -> int:
        offset = self._next * self.block_size
        self._next += clusters
        return offset

    def _pack(self, length: int) -> int:
        """Where ``length`` bytes of compressed data go: behind the last ones, if they fit there."""
        cluster = self.block_size
        most = (1 << self._header.refcount_bits) - 1
        if self._open_at and self._open_count < most:
            end = align_up(self._open_at, cluster)
            if self._open_at + length <= end:
                return self._open_at
            if end == self._next * cluster:
                self._allocate(1)
                return self._open_at
        self._open_count = 0
        return self._allocate(1)

    def _count_again(self, cluster: int) -> None:
        index, entry = divmod(cluster, self._header.refcounts_per_block)
        extra = self._extra.get(index)
        if extra is None:
            extra = self._extra[index] = np.zeros(self._header.refcounts_per_block, np.uint64)
        extra[entry] += np.uint64(1)


def new_header(
    size: int, options: Mapping[str, OptionValue], parent: ParentRef | None
) -> Qcow2Header:
    """The header of a new image, its tables not yet placed. Raises OptionError for options that do
    not fit together, with the words of what to change.
    """
    cluster_size = int(options["cluster_size"])
    if not 512 <= cluster_size <= 2 * MIB or cluster_size & (cluster_size - 1):
        raise OptionError(f"cluster_size is a power of two from 512 to 2M, not {cluster_size}")
    version = 2 if options["compat"] in ("0.10", "v2") else 3
    extended = bool(options["extended_l2"])
    refcount_bits = int(options["refcount_bits"])
    compression = s.COMPRESSION_NAMES.index(str(options["compression_type"]))
    data_file = options.get("data_file")
    crypt_method = encryption_method(options)
    encrypted = crypt_method != s.CRYPT_NONE
    if encrypted and options["data_file_raw"]:
        raise OptionError("data_file_raw=on cannot be combined with encryption")
    if version == 2:
        for name, wanted in (
            ("lazy_refcounts", options["lazy_refcounts"]),
            ("extended_l2", extended),
            ("refcount_bits", refcount_bits != 16),
            ("compression_type", compression),
            ("data_file", data_file),
            ("preallocation", encrypted and options["preallocation"] != "off"),
        ):
            if wanted:
                raise OptionError(f"{name}={options[name]} needs compat=1.1")
    if extended and cluster_size < 1 << s.MIN_EXTENDED_CLUSTER_BITS:
        raise OptionError("extended_l2=on needs a cluster_size of 16k or more")
    if options["data_file_raw"] and not data_file:
        raise OptionError("data_file_raw=on needs a data_file")
    if options["data_file_raw"] and parent is not None:
        raise OptionError("data_file_raw=on cannot be combined with a backing file")
    if parent is not None and options["preallocation"] != "off" and not extended:
        raise OptionError("preallocation with a backing file needs extended_l2=on")

    header = Qcow2Header(
        version=version,
        cluster_bits=cluster_size.bit_length() - 1,
        size=size,
        l1_size=0,
        l1_table_offset=0,
        refcount_table_offset=0,
        refcount_table_clusters=0,
        crypt_method=crypt_method,
        refcount_order=refcount_bits.bit_length() - 1,
        compression_type=compression,
        compatible_features=s.LAZY_REFCOUNTS if options["lazy_refcounts"] else 0,
        data_file=str(data_file) if data_file else None,
    )
    if compression:
        header.incompatible_features |= s.COMPRESSION_TYPE
    if extended:
        header.incompatible_features |= s.EXTENDED_L2
    if data_file:
        header.incompatible_features |= s.EXTERNAL_DATA
    if options["data_file_raw"]:
        header.autoclear_features |= s.DATA_FILE_RAW
    if parent is not None:
        header.backing_file, header.backing_format = parent.path, parent.format
    if version == 3 and cluster_size >= _FEATURE_TABLE_CLUSTER:
        header.extensions = (Extension(s.EXT_FEATURE_NAMES, _feature_table()),)
    header.l1_size = header.l1_needed
    if header.l1_size * 8 > s.MAX_L1_BYTES:
        largest = s.MAX_L1_BYTES // 8 * header.l2_entries * cluster_size
        raise OptionError(
            f"a disk of {format_size(size)} needs larger clusters: "
            f"with cluster_size={cluster_size} qcow2 holds {format_size(largest)}"
        )
    pack_header(header)  # fails now, not after hours, when names do not fit
    return header


def _feature_table() -> bytes:
    return b"".join(bytes(s.FeatureName(*entry)) for entry in s.FEATURE_NAMES)
