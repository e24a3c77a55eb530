"""Compressed streams as storages: through an index where that can be, from a temporary copy where
not.

gzip is read through `inflating`. xz and zstd that are made of several blocks or frames are read
frame by frame (`framed`). All else is unpacked once, into a file without a name, in bounded memory.
Imports probe, storage.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from typing import Any

from vmimg.bundles.archives.framed import open_framed
from vmimg.bundles.archives.inflating import InflatedStorage
from vmimg.codecs.crc32 import crc32, crc32_join
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.raw.findings import View
from vmimg.probe.streams import XZ_MEMORY, Unpacking
from vmimg.storage.base import Storage
from vmimg.storage.stream import spool, spool_pieces

__all__ = ["head_of", "lzma_filter", "raw_lzma", "stream_pieces", "unpacked", "unpacked_member"]

_SPOOLED = ("xz", "zstd", "bzip2")


def head_of(storage: Storage, kind: str, length: int) -> bytes:
    """The first ``length`` bytes that the stream in ``storage`` unpacks to, or fewer."""
    head = b""
    for piece in stream_pieces(storage, kind):
        head += piece
        if len(head) >= length:
            break
    return head[:length]


def unpacked(
    storage: Storage,
    kind: str,
    *,
    near: str | None,
    limit: int,
    watch: Callable[[bytes], None] | None = None,
) -> tuple[Storage, bool]:
    """What the stream in ``storage`` unpacks to, and whether ``watch`` was shown all of it.
    ``storage`` belongs to it. ``kind``: of `probe.streams.TITLES`.

    Raises FormatError for data that is corrupt or cut off, UnsafeImage beyond ``limit`` bytes.
    """
    name = storage.name
    if kind == "gzip":
        inflated = InflatedStorage(storage, name, gzip=True, owns=True)
        inflated.measure(watch, limit=limit)
        return inflated, watch is not None
    framed = open_framed(storage, kind, limit=limit)
    if framed is not None:
        return framed, False
    if kind in _SPOOLED:
        return spool(storage, name, directory=near, limit=limit), False
    try:
        return spool_pieces(stream_pieces(storage, kind), name, directory=near, limit=limit), False
    finally:
        storage.close()


def stream_pieces(storage: Storage, kind: str) -> Iterator[bytes]:
    """What the stream in ``storage`` unpacks to. Raises FormatError, UnsupportedFeature."""
    unpacking = Unpacking(View(storage, 0, storage.size), kind, limit=storage.size)
    yield from unpacking
    if unpacking.state == "memory":
        raise UnsupportedFeature(
            f"{storage.name}: its {kind} data needs more memory to unpack than is allowed; unpack"
            " it first"
        )
    if unpacking.state == "unseen":
        raise UnsupportedFeature(
            f"{storage.name}: its {kind} data is not unpacked here; unpack it first"
        )
    if unpacking.state != "whole":
        raise FormatError(f"{storage.name}: the {kind} data is {unpacking.problem}")


def unpacked_member(
    packed: Storage, kind: str, size: int, checksum: int | None, *, near: str | None
) -> Storage:
    """A copy, unpacked, of a member of an archive which states its ``size`` and checksum."""

    def checked() -> Iterator[bytes]:
        made = total = 0
        for piece in _zip_lzma(packed) if kind == "lzma" else stream_pieces(packed, kind):
            made += len(piece)
            total = crc32_join(total, crc32(piece), len(piece))
            if made > size:
                break
            yield piece
        if made != size or checksum not in (None, total):
            raise FormatError(f"{packed.name}: the compressed data is corrupt (size or checksum)")

    return spool_pieces(checked(), packed.name, directory=near)


def _zip_lzma(packed: Storage) -> Iterator[bytes]:
    """LZMA as a zip has it (APPNOTE, section 5.8): version, length, properties."""
    head = packed.read(0, min(9, packed.size))
    if len(head) < 9 or head[2:4] != b"\x05\0":
        raise FormatError(f"{packed.name}: the compressed data is corrupt (properties of LZMA)")
    yield from raw_lzma(packed, 9, [lzma_filter(head[4:9], packed.name)], packed.name)


def lzma_filter(properties: bytes, name: str) -> dict[str, Any]:
    """The five bytes of properties that go with raw LZMA, as the standard library wants them."""
    rest, literal = divmod(properties[0], 9)
    position, state = divmod(rest, 5)
    dictionary = max(4096, int.from_bytes(properties[1:5], "little"))
    if position > 4 or literal + state > 4:
        raise FormatError(f"{name}: the compressed data is corrupt (properties of LZMA)")
    if dictionary > XZ_MEMORY:
        raise UnsupportedFeature(f"{name}: needs more memory to unpack than is allowed")
    return {
        "id": lzma.FILTER_LZMA1,
        "dict_size": dictionary,
        "lc": literal,
        "lp": state,
        "pb": position,
    }


def raw_lzma(
    storage: Storage, at: int, filters: list[dict[str, Any]], name: str
) -> Iterator[bytes]:
    """What raw LZMA or LZMA2 unpacks to, up to the end of ``storage``, or of the stream."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            data = storage.read(at, min(64 << 10, storage.size - at))
            at += len(data)
        try:
            piece = decompressor.decompress(data, 1 << 20)
        except lzma.LZMAError as error:
            raise FormatError(f"{name}: the compressed data is corrupt ({error})") from None
        if piece:
            yield piece
        elif not data:
            return
