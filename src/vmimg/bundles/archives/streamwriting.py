"""Sinks that compress what is sent into one stream: gzip on all cores, others by their library.

Imports storage.
"""

from __future__ import annotations

from typing import Any

from vmimg.bundles.archives.deflating import DeflateStream
from vmimg.codecs import Level
from vmimg.storage.base import Buffer, Storage

__all__ = ["GZIP_HEADER", "CompressedSink", "GzipSink", "gzip_trailer"]

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: deflate, no flags, no time, no word on how hard it was tried, made on an unknown
system.
"""


class GzipSink(DeflateStream):
    """One gzip member in an empty ``storage``."""

    def __init__(self, storage: Storage, *, level: Level = "default", threads: int = 0) -> None:
        storage.write(0, GZIP_HEADER)
        super().__init__(storage, len(GZIP_HEADER), level=level, threads=threads)

    def finish(self) -> int:
        checksum = super().finish()
        trailer = gzip_trailer(checksum, self.plain)
        self._storage.write(self.at, trailer)
        self.at += len(trailer)
        self._storage.resize(self.at)
        return checksum


class CompressedSink:
    """What ``compressor`` (of lzma, bz2 or zstd) makes, in an empty ``storage``."""

    def __init__(self, storage: Storage, compressor: Any) -> None:
        self._storage = storage
        self._compressor = compressor
        self._at = 0

    def write(self, data: Buffer) -> None:
        """Take ``data``."""
        self._put(self._compressor.compress(data))

    def finish(self) -> None:
        """End the stream."""
        self._put(self._compressor.flush())
        self._storage.resize(self._at)

    def _put(self, data: bytes) -> None:
        if data:
            self._storage.write(self._at, data)
            self._at += len(data)


def gzip_trailer(checksum: int, size: int) -> bytes:
    """What stands behind the data: the checksum, and the size as far as it fits."""
    return checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
