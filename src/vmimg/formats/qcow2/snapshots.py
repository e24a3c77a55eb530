"""The snapshot table of qcow2: internal snapshots, each with an L1 table of its own. No numpy.

The table has no index and no length: entries of varying size follow each other, each padded to 8
bytes, ``nb_snapshots`` of them. It is read in pieces and ends at QEMU's limit of 64 MiB, or at the
end of the file, whatever the header says.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vmimg.errors import FormatError, OptionError
from vmimg.formats.driver import Snapshot
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["SnapshotRecord", "at_snapshot", "find_snapshot", "read_snapshots"]

_ENTRY_BYTES = ctypes.sizeof(s.SnapshotEntry)
_EXTRA_BYTES = ctypes.sizeof(s.SnapshotExtra)
_BLANK = bytes(_ENTRY_BYTES)
# Fetched at a time: a table of a few snapshots is one read.
_READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """An entry of the table. Offsets and sizes in bytes, ``l1_size`` in entries.

    ``entry_offset`` and ``entry_length`` say where it lies in the file, padding included;
    ``extra`` is its extra data as it stands, known or not.
    """

    snapshot: Snapshot
    l1_table_offset: int
    l1_size: int
    entry_offset: int
    entry_length: int
    extra: bytes


def read_snapshots(storage: Storage, header: Qcow2Header) -> list[SnapshotRecord]:
    """All entries, in the order of the table. Raises FormatError when it is cut short or too large.

    The L1 tables that they point to are not checked: see `at_snapshot`.
    """
    return list(_entries(storage, header)) if header.nb_snapshots else []


def find_snapshot(
    records: Sequence[SnapshotRecord], wanted: str, image: str = "the image"
) -> SnapshotRecord:
    """The snapshot whose id is ``wanted``, else the first one of that name. Raises OptionError."""
    for record in records:
        if record.snapshot.id == wanted:
            return record
    for record in records:
        if record.snapshot.name == wanted:
            return record
    listed = ", ".join(f"{r.snapshot.id} ({r.snapshot.name})" for r in records[:20])
    raise OptionError(
        f"{image}: there is no snapshot '{wanted}'; "
        + (f"there are: {listed}" if listed else "there are none")
    )


def at_snapshot(storage: Storage, header: Qcow2Header, record: SnapshotRecord) -> Qcow2Header:
    """The header as it would be if the snapshot were the present state of the disk.

    Raises FormatError for an L1 table that cannot be.
    """
    what = f"{storage.name}: snapshot '{record.snapshot.name}'"
    start, entries = record.l1_table_offset, record.l1_size
    then = replace(
        header,
        size=record.snapshot.disk_size,
        l1_size=entries,
        l1_table_offset=start,
    )
    if entries * 8 > s.MAX_L1_BYTES:
        raise FormatError(f"{what}: an L1 table of {entries} entries; at most 32 MiB are allowed")
    if then.size > 1 << 63 or entries < then.l1_needed:
        raise FormatError(
            f"{what}: an L1 table of {entries} entries for a disk of {then.size} bytes, which "
            f"needs {then.l1_needed}"
        )
    if entries and (not start or start % header.cluster_size or start + entries * 8 > storage.size):
        raise FormatError(
            f"{what}: the L1 table at offset {start} ({entries * 8} bytes) is not on a cluster "
            f"boundary or lies behind the end of the file ({storage.size})"
        )
    return then


def _entries(storage: Storage, header: Qcow2Header) -> Iterator[SnapshotRecord]:
    table = _Table(storage, header.snapshots_offset)
    blank = Snapshot("", "", 0, 0, 0, 0, header.size)
    for number in range(header.nb_snapshots):
        start = table.position
        fixed = table.take(number, _ENTRY_BYTES)
        if fixed == _BLANK and start % 8 == 0:
            # A table behind the end of the file has thousands of them.
            yield SnapshotRecord(blank, 0, 0, start, _ENTRY_BYTES, b"")
            continue
        entry = s.SnapshotEntry.from_buffer_copy(fixed)
        extra = table.take(number, entry.extra_data_size)
        id_bytes = table.take(number, entry.id_str_size)
        name_bytes = table.take(number, entry.name_size)
        table.take(number, align_up(table.position, 8) - table.position, optional=True)
        known = s.SnapshotExtra.from_buffer_copy(extra[:_EXTRA_BYTES].ljust(_EXTRA_BYTES, b"\0"))
        yield SnapshotRecord(
            snapshot=Snapshot(
                id=_text(id_bytes),
                name=_text(name_bytes),
                # Version 2 had no room for states of 4 GiB; the extra field takes precedence.
                vm_state_size=known.vm_state_size if len(extra) >= 8 else entry.vm_state_size,
                date_sec=entry.date_sec,
                date_nsec=entry.date_nsec,
                vm_clock_nsec=entry.vm_clock_nsec,
                disk_size=known.disk_size if len(extra) >= 16 else header.size,
                # All ones: recorded without an instruction counter.
                icount=known.icount if len(extra) >= 24 and known.icount != 2**64 - 1 else None,
            ),
            l1_table_offset=entry.l1_table_offset,
            l1_size=entry.l1_size,
            entry_offset=start,
            entry_length=table.position - start,
            extra=extra,
        )


class _Table:
    """Bytes of the table one behind the other, fetched ahead in pieces."""

    def __init__(self, storage: Storage, start: int) -> None:
        self._storage = storage
        self._end = min(storage.size, start + s.MAX_SNAPSHOT_TABLE_BYTES)
        self._piece = b""
        self._piece_start = start
        self.position = start

    def take(self, number: int, length: int, *, optional: bool = False) -> bytes:
        if self.position + length > self._end:
            if not optional:
                raise FormatError(
                    f"{self._storage.name}: entry {number} of the snapshot table at offset "
                    f"{self.position} needs {length} more bytes, but the "
                    + (
                        f"file ends at {self._end}: it is truncated or damaged"
                        if self._end == self._storage.size
                        else "table is larger than the 64 MiB that are allowed"
                    )
                )
            length = max(0, self._end - self.position)
        first = self.position - self._piece_start
        if first + length > len(self._piece):
            self._piece_start = self.position
            ahead = min(max(length, _READ_BYTES), self._end - self.position)
            self._piece = self._storage.read(self.position, ahead)
            first = 0
        self.position += length
        return self._piece[first : first + length]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
