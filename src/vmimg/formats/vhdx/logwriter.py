"""LogWriter: changes to metadata, written to the log before they are made.

One session, from the first change to the close, goes like this:

1. the headers get new FileWriteGuid and DataWriteGuid, before anything else changes;
2. an entry is written and made durable; the first one of a log, before the headers name its GUID,
   so that no header ever names a log with nothing in it;
3. the caller makes the changes in their place; they need not be durable before the next entry,
   whose barrier makes them so: each entry is its own tail;
4. where the ring ends, and at the close, the log is declared clean: LogGuid becomes zero.

The ring is not gone round under one GUID: QEMU finds sequences without looking at tails and at the
number of the second entry, and would replay what an earlier round left. It also takes an entry that
ends where the ring does for an empty log, so the last sector stays free. Spec: MS-VHDX 2.3.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Sequence
from typing import Final

from vmimg.errors import StorageError
from vmimg.formats.vhdx import structures as s
from vmimg.formats.vhdx.crc32c import crc32c
from vmimg.formats.vhdx.header import Headers
from vmimg.formats.vhdx.log import write_header
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["LogWriter", "pack_entry"]

_HEADER_BYTES: Final = ctypes.sizeof(s.LogEntryHeader)
_DESCRIPTOR_BYTES: Final = ctypes.sizeof(s.DataDescriptor)

Sector = tuple[int, bytes]
"""(offset in the file, 4096 bytes)."""


class LogWriter:
    """The log of ``storage``, clean at the beginning. ``headers`` are those in the file."""

    def __init__(self, storage: Storage, headers: Headers) -> None:
        self.headers = headers
        self._storage = storage
        self._place = 0
        self._sequence = 1

    def announce(self) -> None:
        """Say in both headers that file and data are about to change."""
        guids = {"file_write_guid": uuid.uuid4().bytes_le, "data_write_guid": uuid.uuid4().bytes_le}
        self._write_headers(**guids)

    def append(self, sectors: Sequence[Sector]) -> None:
        """Make it durable that ``sectors`` are to be written.

        Everything that was written so far must be durable: new blocks, and the changes of the entry
        before.
        """
        header = self.headers.header
        end = header.log_length - s.LOG_SECTOR
        guid = header.log_guid if header.dirty else uuid.uuid4().bytes_le
        entry = self._pack(guid, sectors)
        if self._place + len(entry) > end:
            self.retire()
            guid = uuid.uuid4().bytes_le
            entry = self._pack(guid, sectors)
        if len(entry) > end:
            raise StorageError(
                f"{self._storage.name}: its log of {header.log_length} bytes is too small for a "
                f"change of {len(entry)}"
            )
        self._storage.write(header.log_offset + self._place, entry)
        self._storage.flush()
        if not self.headers.header.dirty:
            self._write_headers(log_guid=guid)
        self._place += len(entry)
        self._sequence += 1

    def retire(self) -> None:
        """Declare the log clean: all that it says is done, and durable."""
        if self.headers.header.dirty:
            self._write_headers(log_guid=s.NO_GUID)
        self._place = 0

    def _pack(self, guid: bytes, sectors: Sequence[Sector]) -> bytes:
        return pack_entry(guid, self._sequence, self._place, self._storage.size, sectors)

    def _write_headers(self, **changes: bytes) -> None:
        for _ in range(2):
            self.headers = write_header(self._storage, self.headers, **changes)


def pack_entry(
    guid: bytes, sequence: int, tail: int, file_size: int, sectors: Sequence[Sector]
) -> bytes:
    """A log entry that writes ``sectors``. ``tail``: offset in the ring of the oldest entry that is
    still needed; ``file_size``: of the file, now and afterwards.
    """
    descriptors, data = list[bytes](), list[bytes]()
    for offset, content in sectors:
        if not any(content):
            zero = s.ZeroDescriptor(s.ZERO_SIGNATURE, 0, s.LOG_SECTOR, offset, sequence)
            descriptors.append(bytes(zero))
            continue
        descriptor = s.DataDescriptor(
            s.DESCRIPTOR_SIGNATURE,
            (ctypes.c_uint8 * 4)(*content[-4:]),
            (ctypes.c_uint8 * 8)(*content[:8]),
            offset,
            sequence,
        )
        descriptors.append(bytes(descriptor))
        high, low = (sequence >> 32).to_bytes(4, "little"), (sequence & 0xFFFF_FFFF)
        data += [s.DATA_SIGNATURE, high, content[8:-4], low.to_bytes(4, "little")]
    used = _HEADER_BYTES + len(descriptors) * _DESCRIPTOR_BYTES
    body = b"".join(descriptors).ljust(align_up(used, s.LOG_SECTOR) - _HEADER_BYTES, b"\0")
    body += b"".join(data)
    header = s.LogEntryHeader(
        signature=s.LOG_SIGNATURE,
        entry_length=_HEADER_BYTES + len(body),
        tail=tail,
        sequence_number=sequence,
        descriptor_count=len(descriptors),
        log_guid=s.Guid(*guid),
        flushed_file_offset=file_size,
        last_file_offset=file_size,
    )
    header.checksum = crc32c(bytes(header) + body)
    return bytes(header) + body
