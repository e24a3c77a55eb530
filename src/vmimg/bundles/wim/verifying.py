"""Whether the bytes of a WIM are those that were written: its table of checksums, and its blobs.

The table holds the SHA-1 of each 10 MiB from behind the header to the end of the table of blobs;
besides, each blob is known by the SHA-1 of what it holds. Imports archive.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from typing import Final

from vmimg.bundles.bundle import Verdict
from vmimg.bundles.wim.archive import Archive
from vmimg.bundles.wim.structures import IntegrityHeader
from vmimg.errors import ChainError, FormatError, UnsupportedFeature
from vmimg.probe.wim import COMPRESSED, WimHeader
from vmimg.storage.base import Storage

__all__ = ["DIGEST", "digest_of", "verify_blobs", "verify_integrity"]

DIGEST: Final = 20
_CHUNK: Final = 1 << 20
_MAX_TABLE: Final = 64 << 20
_MOST_SAID: Final = 100


def verify_integrity(archive: Archive) -> Iterator[Verdict]:
    """By the table of checksums of each part; nothing where there is none."""
    try:
        for number, (storage, wim) in enumerate(archive.parts(), 1):
            more = f" of part {number}" if archive.wim.header.total_parts > 1 else ""
            yield from _verify_part(storage, wim.header, f"integrity table{more}")
    except ChainError as error:
        yield Verdict("parts", "missing", "", str(error))


def _verify_part(storage: Storage, header: WimHeader, subject: str) -> Iterator[Verdict]:
    place = header.integrity
    what = "SHA-1 of chunks"
    if not place.size:
        return
    size = ctypes.sizeof(IntegrityHeader)
    if place.flags & COMPRESSED or not size <= place.size <= _MAX_TABLE:
        yield Verdict(subject, "bad", what, f"it has {place.size} bytes")
        return
    if place.end > storage.size:
        yield Verdict(subject, "bad", what, "it ends behind the file")
        return
    data = storage.read(int(place.offset), place.size)
    table = IntegrityHeader.from_buffer_copy(data)
    start, end = ctypes.sizeof(WimHeader), min(header.blob_table.end, storage.size)
    chunk, count = int(table.chunk_size), int(table.count)
    covered = header.blob_table.end - start
    if not chunk or count != -(-covered // chunk) or len(data) < size + count * DIGEST:
        yield Verdict(
            subject, "bad", what, f"it has {count} checksums of {chunk} bytes each for {covered}"
        )
        return
    wrong = 0
    for number in range(count):
        first = start + number * chunk
        last = min(first + chunk, start + covered)
        at = size + number * DIGEST
        if last <= end and digest_of(storage, first, last) == data[at : at + DIGEST]:
            continue
        wrong += 1
        if wrong <= _MOST_SAID:
            yield Verdict(subject, "bad", "SHA-1", f"bytes {first} to {last} differ")
    if not wrong:
        yield Verdict(subject, "good", what, f"{count} of {chunk} bytes")
    elif wrong > _MOST_SAID:
        yield Verdict(subject, "bad", what, f"{wrong} of {count} differ")


def verify_blobs(archive: Archive) -> Iterator[Verdict]:
    """Each blob by the checksum that it is known by."""
    what = "SHA-1 of blobs"
    good = wrong = 0
    try:
        for blob in archive.blobs():
            try:
                storage = archive.open(blob)
                right = digest_of(storage, 0, storage.size) == blob.sha1
                detail = "it holds something else"
            except FormatError as error:
                right, detail = False, str(error)
            good += right
            wrong += not right
            if not right and wrong <= _MOST_SAID:
                yield Verdict(f"blob {blob.sha1.hex()}", "bad", "SHA-1", detail)
    except (UnsupportedFeature, ChainError) as error:
        yield Verdict("files", "unknown", what, str(error))
        return
    except FormatError as error:
        yield Verdict("files", "bad", what, str(error))
        return
    if wrong > _MOST_SAID or not wrong:
        detail = f"{good} of {good + wrong} blobs"
        yield Verdict("files", "bad" if wrong else "good", what, detail)


def digest_of(storage: Storage, start: int, end: int) -> bytes:
    """The SHA-1 of a range."""
    digest = hashlib.sha1(usedforsecurity=False)
    for offset in range(start, end, _CHUNK):
        digest.update(storage.read(offset, min(_CHUNK, end - offset)))
    return digest.digest()
