"""The first cluster of a qcow2 image, read whatever it says, and vetted. No numpy.

`First` holds what stands there; its ``header`` is filled in as far as tables can be looked for at
all, and nothing in it has been checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.errors import OptionError
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Extension, Qcow2Header, header_of
from vmimg.formats.registry import find
from vmimg.formats.sampling import first_data
from vmimg.formats.vetting import Finding, Severity, of_name
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["First", "Placed", "at", "vet_header"]

_KNOWN_COMPATIBLE: Final = s.LAZY_REFCOUNTS
_KNOWN_AUTOCLEAR: Final = s.BITMAPS_CONSISTENT | s.DATA_FILE_RAW
_EXTENSIONS: Final = {
    s.EXT_BACKING_FORMAT: "the format of the backing file",
    s.EXT_FEATURE_NAMES: "the feature name table",
    s.EXT_BITMAPS: "bitmaps",
    s.EXT_ENCRYPTION: "the LUKS header",
    s.EXT_DATA_FILE: "the name of the data file",
}
# Nothing larger is of use: QEMU's images are smaller than 2^61, the largest file is 2^63.
_MAX_SIZE: Final = 1 << 62
# What is in the first cluster takes a few hundred bytes, where it is not 2 MiB of something else.
_HEAD_BYTES: Final = 256 << 10
_MAX_EXTENSIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class Placed:
    """A header extension, and where it begins."""

    offset: int
    type: int
    data: bytes


@dataclass(slots=True)
class First:
    """What the first cluster says. ``raw``: None where the file is shorter than a header;
    ``header``: None where its version, its length or the size of clusters cannot be.

    ``extensions_end``: where the extensions end; ``broken``: where one begins that does not fit.
    """

    raw: s.Header | None = None
    header: Qcow2Header | None = None
    extensions: tuple[Placed, ...] = ()
    extensions_end: int = 0
    broken: int | None = None

    @classmethod
    def read(cls, storage: Storage) -> First:
        """The first cluster of ``storage``. Raises nothing for what stands there."""
        if storage.size < s.V2_LENGTH:
            return cls()
        length = min(storage.size, s.V3_FULL_LENGTH)
        raw = s.Header.from_buffer_copy(storage.read(0, length).ljust(s.V3_FULL_LENGTH, b"\0"))
        first = cls(raw)
        bits = s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS
        if raw.version not in (2, 3) or not bits:
            return first
        if raw.version == 3 and not _fits(raw, storage):
            return first
        header = first.header = header_of(raw)
        first._read_extensions(storage, header, int(raw.backing_file_offset))
        header.extensions = tuple(Extension(e.type, e.data) for e in first.extensions)
        return first

    def _read_extensions(self, storage: Storage, header: Qcow2Header, backing: int) -> None:
        offset = self.extensions_end = header.header_length
        end = min(header.cluster_size, storage.size, _HEAD_BYTES)
        if offset <= backing < end:
            end = backing
        area = storage.read(offset, end - offset)
        found: list[Placed] = []
        position = 0
        while position + 8 <= len(area) and len(found) < _MAX_EXTENSIONS:
            head = s.ExtensionHeader.from_buffer_copy(area, position)
            if head.type == s.EXT_END:
                # Its length should be 0, and means nothing.
                position += 8
                break
            after = position + 8 + head.length
            if after > len(area):
                self.broken = offset + position
                break
            found.append(Placed(offset + position, head.type, area[position + 8 : after]))
            position = align_up(after, 8)
        self.extensions = tuple(found)
        self.extensions_end = offset + min(position, len(area))


def at(field: str) -> int:
    """Where a field of the header is."""
    place: int = getattr(s.Header, field).offset
    return place


def vet_header(storage: Storage, first: First) -> Iterator[Finding]:
    """What is wrong with the first cluster, without the tables that it leads to."""
    raw = first.raw
    if raw is None:
        yield Finding.of(
            "truncated",
            f"a qcow2 header has {s.V2_LENGTH} bytes, the file {storage.size}",
            offset=storage.size,
        )
        return
    if raw.version not in (2, 3):
        yield Finding.of(
            "unknown-version",
            f"it is of version {raw.version}; there are 2 and 3",
            offset=at("version"),
        )
        return
    if first.header is None:
        yield _impossible(storage, raw)
        return
    header = first.header
    yield from _vet_features(first, header)
    yield from _vet_fields(raw, header)
    yield from _vet_extensions(first, header)
    yield from _vet_data_file(first, header)
    yield from _vet_backing(storage, first, header)
    yield from _vet_gaps(storage, first, header)


def _fits(raw: s.Header, storage: Storage) -> bool:
    cluster = 1 << int(raw.cluster_bits)
    length = int(raw.header_length)
    return s.V3_LENGTH <= length <= min(cluster, storage.size) and not length % 8


def _impossible(storage: Storage, raw: s.Header) -> Finding:
    if not s.MIN_CLUSTER_BITS <= raw.cluster_bits <= s.MAX_CLUSTER_BITS:
        return Finding.of(
            "impossible-size",
            f"clusters are said to have 2^{raw.cluster_bits} bytes; 2^9 to 2^21 are possible",
            offset=at("cluster_bits"),
        )
    return Finding.of(
        "impossible-size",
        f"the header is said to have {raw.header_length} bytes: it has {s.V3_LENGTH} at least, a "
        "multiple of 8, and fits the first cluster",
        offset=at("header_length"),
    )


def _vet_features(first: First, header: Qcow2Header) -> Iterator[Finding]:
    unknown = header.incompatible_features & ~s.KNOWN_INCOMPATIBLE
    if unknown:
        yield Finding.of(
            "unknown-features",
            f"who does not know these features must not open it: {_named(first, unknown, 0)}",
            offset=at("incompatible_features"),
            evidence=f"{header.incompatible_features:#018x}",
        )
    if header.incompatible_features & s.CORRUPT:
        yield Finding.of("corrupt", offset=at("incompatible_features"))
    if header.extended_l2:
        # Since QEMU 5.2 of 2020; OpenStack's inspector takes it for a feature that nobody knows.
        yield Finding.of(
            "recent-features",
            "its clusters have subclusters (extended L2 entries)",
            offset=at("incompatible_features"),
        )
    for field, kind, known in (
        ("compatible_features", 1, _KNOWN_COMPATIBLE),
        ("autoclear_features", 2, _KNOWN_AUTOCLEAR),
    ):
        unknown = getattr(header, field) & ~known
        if unknown:
            yield Finding.of(
                "odd-field",
                f"it has features that are not known, and may be ignored: "
                f"{_named(first, unknown, kind)}",
                offset=at(field),
                severity=Severity.NOTE,
            )
    if header.autoclear_features & s.DATA_FILE_RAW and not header.external_data:
        yield Finding.of(
            "odd-field",
            "its data file is said to be raw, and it has none",
            offset=at("autoclear_features"),
        )
    if header.compression_type >= len(s.COMPRESSION_NAMES):
        yield Finding.of(
            "unknown-features",
            f"clusters are compressed by coder {header.compression_type}; known are 0 (zlib) and "
            "1 (zstd)",
            offset=at("compression_type"),
        )
    if header.crypt_method > s.CRYPT_LUKS:
        yield Finding.of(
            "unknown-features",
            f"it is encrypted by method {header.crypt_method}; known are 1 (AES) and 2 (LUKS)",
            offset=at("crypt_method"),
        )


def _named(first: First, bits: int, kind: int) -> str:
    """Bits of a field, by the names that the image has for them."""
    table = next((e.data for e in first.extensions if e.type == s.EXT_FEATURE_NAMES), b"")
    width = ctypes.sizeof(s.FeatureName)
    names: dict[int, str] = {}
    for start in range(0, min(len(table), 256 * width) - width + 1, width):
        entry = s.FeatureName.from_buffer_copy(table, start)
        if entry.type == kind and entry.name:
            names[entry.bit] = f" ('{entry.name.decode('ascii', 'replace')}')"
    return ", ".join(f"bit {bit}{names.get(bit, '')}" for bit in range(64) if bits >> bit & 1)


def _vet_fields(raw: s.Header, header: Qcow2Header) -> Iterator[Finding]:
    if header.refcount_order > 6:
        yield Finding.of(
            "impossible-size",
            f"reference counts are said to have 2^{header.refcount_order} bits; 64 are the most",
            offset=at("refcount_order"),
        )
    if header.size > _MAX_SIZE:
        yield Finding.of(
            "impossible-size",
            f"a virtual size of {header.size} bytes is not possible",
            offset=at("size"),
        )
    elif header.l1_size < header.l1_needed:
        yield Finding.of(
            "impossible-size",
            f"the disk is said to have {header.size} bytes, which needs an L1 table of "
            f"{header.l1_needed} entries; it has {header.l1_size}",
            offset=at("size"),
        )
    elif header.size % 512:
        yield Finding.of(
            "odd-field",
            f"a virtual size of {header.size} bytes is no number of sectors: programs differ in "
            "where they end",
            offset=at("size"),
        )
    if header.header_length > s.V3_LENGTH and any(bytes(raw.padding)):
        yield Finding.of(
            "odd-field",
            "the padding of the header is not zeros",
            offset=at("padding"),
            severity=Severity.NOTE,
        )


def _vet_extensions(first: First, header: Qcow2Header) -> Iterator[Finding]:
    if first.broken is not None:
        yield Finding.of(
            "table-outside",
            "a header extension is said to be longer than the first cluster",
            offset=first.broken,
        )
    seen: dict[int, Placed] = {}
    for extension in first.extensions:
        earlier = seen.setdefault(extension.type, extension)
        known = _EXTENSIONS.get(extension.type)
        if earlier is not extension:
            what = known or f"header extension {extension.type:#010x}"
            if earlier.data.rstrip(b"\0") != extension.data.rstrip(b"\0"):
                yield Finding.of(
                    "copies-disagree",
                    f"{what} is there twice, and differs: '{_text(earlier)}' and "
                    f"'{_text(extension)}'",
                    offset=extension.offset,
                )
            else:
                yield Finding.of("odd-field", f"{what} is there twice", offset=extension.offset)
        elif known is None:
            yield Finding.of(
                "odd-field",
                f"a header extension of type {extension.type:#010x} ({len(extension.data)} bytes) "
                "is not known, and may be ignored",
                offset=extension.offset,
                severity=Severity.NOTE,
            )
    encryption = seen.get(s.EXT_ENCRYPTION)
    if encryption is not None and header.crypt_method != s.CRYPT_LUKS:
        yield Finding.of(
            "odd-field",
            "it has a LUKS header and is not encrypted by it: programs differ in what they make of "
            "that",
            offset=encryption.offset,
            severity=Severity.ERROR,
        )


def _vet_data_file(first: First, header: Qcow2Header) -> Iterator[Finding]:
    # Where bit and name are there, `of_info` says it.
    named = next((e for e in first.extensions if e.type == s.EXT_DATA_FILE), None)
    if header.external_data and named is None:
        yield Finding.of(
            "data-file",
            "its data is in another file that it does not name",
            offset=at("incompatible_features"),
        )
    if named is not None and not header.external_data:
        yield of_name(
            "data-file",
            "data-file-outside",
            _text(named),
            "the data file that it names, without the bit which says that it uses one,",
        )


def _vet_backing(storage: Storage, first: First, header: Qcow2Header) -> Iterator[Finding]:
    assert first.raw is not None
    start, length = int(first.raw.backing_file_offset), int(first.raw.backing_file_size)
    declared = next((e for e in first.extensions if e.type == s.EXT_BACKING_FORMAT), None)
    if start:
        if length > s.MAX_BACKING_NAME:
            yield Finding.of(
                "impossible-size",
                f"the name of the backing file is said to have {length} bytes; 1023 are the most",
                offset=at("backing_file_size"),
            )
        elif start < header.header_length:
            yield Finding.of(
                "tables-overlap",
                f"the name of the backing file is said to be at {start}, over the header",
                offset=at("backing_file_offset"),
            )
        elif start + length > min(header.cluster_size, storage.size):
            yield Finding.of(
                "table-outside",
                f"the name of the backing file, {length} bytes at {start}, is not in the first "
                "cluster",
                offset=at("backing_file_offset"),
            )
        elif not length:
            yield Finding.of(
                "backing-file",
                "it has a place for the name of a backing file, and no name there",
                offset=at("backing_file_offset"),
            )
    elif length:
        yield Finding.of(
            "odd-field",
            "a name of a backing file has a length, and is nowhere",
            offset=at("backing_file_size"),
            severity=Severity.NOTE,
        )
    if declared is not None:
        try:
            find(_text(declared))
        except OptionError:
            yield Finding.of(
                "odd-field",
                f"the format of its backing file is said to be '{_text(declared)}', which is no "
                "format of disks",
                offset=declared.offset,
                evidence=_text(declared),
                # A protocol's name makes QEMU open something else than a file.
                severity=Severity.ERROR,
            )


def _vet_gaps(storage: Storage, first: First, header: Qcow2Header) -> Iterator[Finding]:
    """What lies behind the extensions and behind the name of the backing file."""
    assert first.raw is not None
    if first.broken is not None:
        return
    end = min(header.cluster_size, storage.size)
    start, length = int(first.raw.backing_file_offset), int(first.raw.backing_file_size)
    gaps = [(first.extensions_end, end)]
    if header.header_length <= start < end and length <= s.MAX_BACKING_NAME:
        gaps = [(first.extensions_end, start), (start + length, end)]
    for begin, stop in gaps:
        place = first_data(storage, begin, stop)
        if place is not None:
            yield Finding.of(
                "hidden-data",
                "there is data in the first cluster behind all that a header has",
                offset=place,
            )
            return
    if header.header_length > s.V3_FULL_LENGTH:
        place = first_data(storage, s.V3_FULL_LENGTH, header.header_length)
        if place is not None:
            yield Finding.of(
                "odd-field",
                "the header has fields that are not known, and may be ignored",
                offset=place,
                severity=Severity.NOTE,
            )


def _text(extension: Placed) -> str:
    return extension.data.rstrip(b"\0").decode("utf-8", "surrogateescape")
