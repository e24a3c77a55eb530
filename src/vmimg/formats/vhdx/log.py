"""The log of a VHDX: what a writer that was cut off had promised, found and replayed.

The log is a ring of entries in units of 4 KiB. An entry says which sectors of the file get which
bytes, or zeros; it counts when its checksum fits and its GUID is the header's::

    entry header | descriptors (32 bytes each) ... | data sectors, one for each data descriptor

Entries that follow each other with ascending sequence numbers are a sequence. The active sequence
is the one with the highest number whose last entry names, as its tail, an entry of the same
sequence; from that tail on it is replayed. An entry that was torn fails its checksum, and the
sequence ends in front of it. All of it is repeatable: replaying twice does no harm.

Opened for reading, `LogOverlay` shows the file as it is after a replay; opened for writing,
`replay` does it. Spec: MS-VHDX 2.3. Memory is bounded by the largest log that is read. numpy is
used only for logs with much in them.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.crc32c import combine, crc32c, finished, sector_remainders
from vmimg.formats.vhdx.header import Headers, VhdxHeader, next_header, pack_header
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView
from vmimg.units import MIB, align_up

__all__ = ["LogOverlay", "Replay", "read_log", "replay", "replayed", "write_header"]

# Hyper-V's logs have 1 MiB. A log is read whole, and what it says is held in memory.
_MAX_LOG: Final = 64 * MIB
_MAX_DESCRIPTORS: Final = 1 << 16
# Entries of more bytes than this are worth the import of numpy.
_PLAIN_BYTES: Final = 256 << 10
_HEADER_BYTES: Final = ctypes.sizeof(s.LogEntryHeader)
_DESCRIPTOR_BYTES: Final = ctypes.sizeof(s.DataDescriptor)


@dataclass(frozen=True, slots=True)
class Patch:
    """``data``, or ``length`` bytes of zeros where it is None, for ``offset`` of the file."""

    offset: int
    length: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What the log wants done: ``patches`` in this order, and the file at least ``file_size``."""

    patches: tuple[Patch, ...]
    file_size: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry that may be valid; ``place`` is its offset in the ring."""

    place: int
    header: s.LogEntryHeader

    @property
    def length(self) -> int:
        return int(self.header.entry_length)

    @property
    def sequence(self) -> int:
        return int(self.header.sequence_number)

    @property
    def descriptor_bytes(self) -> int:
        """Of the header and the descriptors, in whole sectors."""
        used = _HEADER_BYTES + int(self.header.descriptor_count) * _DESCRIPTOR_BYTES
        return align_up(used, s.LOG_SECTOR)


def read_log(storage: Storage, header: VhdxHeader) -> Replay | None:
    """What is to be replayed; None where the log is clean.

    A log that is marked as used and has no valid entry is one that nothing was written to yet
    (QEMU marks it first): there is nothing to do. Raises FormatError where the file was cut off
    since, or the log would write where it must not.
    """
    if not header.dirty or not header.log_length:
        return None
    if header.log_length > _MAX_LOG:
        raise UnsupportedFeature(
            f"{storage.name}: its log of {header.log_length >> 20} MiB has to be replayed; "
            f"{_MAX_LOG >> 20} MiB are the most that is read"
        )
    ring = storage.read(header.log_offset, header.log_length)
    entries = _active_sequence(storage.name, ring, header.log_guid)
    if not entries:
        return Replay((), storage.size, 0)
    for entry in entries:
        if entry.header.flushed_file_offset > storage.size:
            raise FormatError(
                f"{storage.name}: its log was written when the file had "
                f"{entry.header.flushed_file_offset} bytes; it has {storage.size}: it is truncated"
            )
    file_size = max(storage.size, int(entries[-1].header.last_file_offset))
    if file_size > 1 << 62:
        raise FormatError(f"{storage.name}: its log asks for a file of {file_size} bytes")
    patches: list[Patch] = []
    for entry in entries:
        patches += _patches(ring, entry)
    limits = ((0, s.REGION_TABLE_OFFSETS[0]), (header.log_offset, header.log_length))
    for patch in patches:
        end = patch.offset + patch.length
        over = any(patch.offset < start + length and start < end for start, length in limits)
        if over or end > file_size:
            raise FormatError(
                f"{storage.name}: its log wants to write {patch.length} bytes at {patch.offset}, "
                + ("over the headers or the log" if over else "behind the end of the file")
            )
    return Replay(tuple(patches), file_size, len(entries))


def replayed(storage: Storage, found: Replay | None) -> Storage:
    """``storage`` as it reads when the log is replayed; itself where there is nothing to replay."""
    if found is None or not (found.patches or found.file_size > storage.size):
        return storage
    return LogOverlay(storage, found)


def replay(storage: Storage, headers: Headers, found: Replay | None) -> Headers:
    """Replay the log into the file, for good, and mark it as clean. The headers afterwards."""
    if not headers.header.dirty:
        return headers
    if found is not None:
        if found.file_size > storage.size:
            storage.resize(found.file_size)
        for patch in found.patches:
            if patch.data is None:
                storage.zero(patch.offset, patch.length)
            else:
                storage.write(patch.offset, patch.data)
        storage.flush()
    for _ in range(2):
        headers = write_header(storage, headers, log_guid=s.NO_GUID)
    return headers


def write_header(storage: Storage, headers: Headers, **changes: bytes) -> Headers:
    """Write the header that does not count, with ``changes``: durable, and current from then on.

    Cut off at any point, the other one is still whole.
    """
    headers = next_header(headers, **changes)
    storage.write(s.HEADER_OFFSETS[headers.current], pack_header(headers.header))
    storage.flush()
    return headers


class LogOverlay(ReadOnlyView):
    """A file as it is after a replay of its log, for reading; closing it closes the file."""

    def __init__(self, base: Storage, found: Replay) -> None:
        super().__init__(base, found.file_size)
        self.replay = found
        # Disjoint, ascending.
        self._starts: list[int] = []
        self._patches: list[Patch] = []
        for patch in found.patches:
            if patch.length:
                self._put(patch)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self._check(offset, len(buffer))
        inside = max(0, min(end, self._base.size) - offset)
        if inside:
            self._base.read_into(offset, buffer[:inside])
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)
        for patch in self._over(offset, end):
            low, high = max(offset, patch.offset), min(end, patch.offset + patch.length)
            part = bytes(high - low)
            if patch.data is not None:
                part = patch.data[low - patch.offset : high - patch.offset]
            buffer[low - offset : high - offset] = part

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        inside = min(end, self._base.size)
        if start < inside:
            for low, high, hole in self._base.extents(start, inside):
                # What the log puts into a hole is no hole. Zeros said to be data do no harm.
                yield low, high, hole and not self._over(low, high)
        if max(start, inside) < end:
            low = max(start, inside)
            yield low, end, not self._over(low, end)

    def _over(self, start: int, end: int) -> list[Patch]:
        """The patches that touch [start, end)."""
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, end - 1)
        found = self._patches[first:last]
        if found and found[0].offset + found[0].length <= start:
            del found[0]
        return found

    def _put(self, patch: Patch) -> None:
        """Lay ``patch`` over those that are there."""
        start, end = patch.offset, patch.offset + patch.length
        pieces = [patch]
        old = self._over(start, end)
        first = bisect_right(self._starts, old[0].offset - 1 if old else start)
        for other in old:
            other_end = other.offset + other.length
            if other.offset < start:
                pieces.insert(0, _part(other, other.offset, start))
            if other_end > end:
                pieces.append(_part(other, end, other_end))
        self._patches[first : first + len(old)] = pieces
        self._starts[first : first + len(old)] = [piece.offset for piece in pieces]


def _part(patch: Patch, start: int, end: int) -> Patch:
    data = patch.data
    if data is not None:
        data = data[start - patch.offset : end - patch.offset]
    return Patch(start, end - start, data)


# Finding the active sequence


def _active_sequence(name: str, ring: bytes, log_guid: bytes) -> list[_Entry]:
    """The entries to replay, in order."""
    by_place = {entry.place: entry for entry in _valid_entries(name, ring, log_guid)}
    follows: dict[int, _Entry] = {}
    for entry in by_place.values():
        after = by_place.get((entry.place + entry.length) % len(ring))
        if after is not None and after.sequence == entry.sequence + 1:
            follows[entry.place] = after
    behind = {entry.place for entry in follows.values()}
    best: list[_Entry] = []
    for entry in by_place.values():
        if entry.place in behind:
            continue
        # Each entry lies in one sequence only: this is no more than one look at each of them.
        sequence = [entry]
        while (after := follows.get(sequence[-1].place)) is not None:
            sequence.append(after)
        tail = int(sequence[-1].header.tail)
        begin = next((n for n, entry in enumerate(sequence) if entry.place == tail), None)
        if begin is not None and (not best or sequence[-1].sequence > best[-1].sequence):
            best = sequence[begin:]
    return best


def _valid_entries(name: str, ring: bytes, log_guid: bytes) -> list[_Entry]:
    """The entries that are whole."""
    found: list[_Entry] = []
    descriptors = 0
    for place in range(0, len(ring), s.LOG_SECTOR):
        if ring[place : place + 4] != s.LOG_SIGNATURE:
            continue
        entry = _Entry(place, s.LogEntryHeader.from_buffer_copy(ring, place))
        if not _may_be_valid(entry, ring, log_guid):
            continue
        descriptors += int(entry.header.descriptor_count)
        if descriptors > _MAX_DESCRIPTORS:
            raise UnsupportedFeature(
                f"{name}: its log has more than {_MAX_DESCRIPTORS} descriptors to replay"
            )
        if _is_whole(entry, ring):
            found.append(entry)
    return _with_right_checksum(found, ring)


def _may_be_valid(entry: _Entry, ring: bytes, log_guid: bytes) -> bool:
    header, length = entry.header, entry.length
    if bytes(header.log_guid) != log_guid or not header.sequence_number:
        return False
    if length % s.LOG_SECTOR or not s.LOG_SECTOR <= length <= len(ring):
        return False
    return entry.descriptor_bytes <= length


def _is_whole(entry: _Entry, ring: bytes) -> bool:
    """Whether all descriptors and data sectors are of this entry.

    So entries do not overlap, and all checksums together cost no more than the log has bytes.
    """
    place = entry.descriptor_bytes
    for descriptor in _descriptors(ring, entry):
        if descriptor.sequence_number != entry.sequence or descriptor.file_offset % s.LOG_SECTOR:
            return False
        if isinstance(descriptor, s.ZeroDescriptor):
            if descriptor.zero_length % s.LOG_SECTOR:
                return False
            continue
        if descriptor.signature != s.DESCRIPTOR_SIGNATURE or place == entry.length:
            return False
        sector = s.DataSector.from_buffer_copy(_cut(ring, entry.place + place, s.LOG_SECTOR))
        sequence = sector.sequence_high << 32 | sector.sequence_low
        if sector.signature != s.DATA_SIGNATURE or sequence != entry.sequence:
            return False
        place += s.LOG_SECTOR
    return place == entry.length


def _with_right_checksum(entries: list[_Entry], ring: bytes) -> list[_Entry]:
    if sum(entry.length for entry in entries) <= _PLAIN_BYTES:
        valid = []
        for entry in entries:
            data = bytearray(_cut(ring, entry.place, entry.length))
            data[4:8] = bytes(4)
            if crc32c(data) == entry.header.checksum:
                valid.append(entry)
        return valid
    blank = bytearray(ring)
    for entry in entries:
        blank[entry.place + 4 : entry.place + 8] = bytes(4)
    remainders = sector_remainders(blank, s.LOG_SECTOR)
    valid = []
    for entry in entries:
        crc, first = 0, entry.place // s.LOG_SECTOR
        for number in range(first, first + entry.length // s.LOG_SECTOR):
            crc = combine(crc, remainders[number % len(remainders)], s.LOG_SECTOR)
        if finished(crc, entry.length) == entry.header.checksum:
            valid.append(entry)
    return valid


def _patches(ring: bytes, entry: _Entry) -> Iterator[Patch]:
    place = entry.place + entry.descriptor_bytes
    for descriptor in _descriptors(ring, entry):
        offset = int(descriptor.file_offset)
        if isinstance(descriptor, s.ZeroDescriptor):
            yield Patch(offset, int(descriptor.zero_length), None)
            continue
        sector = _cut(ring, place, s.LOG_SECTOR)
        data = bytes(descriptor.leading_bytes) + sector[8:-4] + bytes(descriptor.trailing_bytes)
        yield Patch(offset, s.LOG_SECTOR, data)
        place += s.LOG_SECTOR


def _descriptors(ring: bytes, entry: _Entry) -> Iterator[s.DataDescriptor | s.ZeroDescriptor]:
    table = _cut(ring, entry.place, entry.descriptor_bytes)
    for number in range(int(entry.header.descriptor_count)):
        start = _HEADER_BYTES + number * _DESCRIPTOR_BYTES
        zero = table[start : start + 4] == s.ZERO_SIGNATURE
        yield (s.ZeroDescriptor if zero else s.DataDescriptor).from_buffer_copy(table, start)


def _cut(ring: bytes, place: int, length: int) -> bytes:
    """``length`` bytes from ``place``, going round."""
    place %= len(ring)
    part = ring[place : place + length]
    return part if len(part) == length else part + ring[: length - len(part)]
