"""FramedStorage: xz and zstd of several blocks or frames, unpacked one by one where they are asked
for.

xz has an index at its end that says where its blocks lie; `xz -T` makes several. zstd has the sizes
of frames in their headers, and a walk over the headers of blocks finds the frames (pzstd, t2sz and
others make several). Frames that are too large to be kept are no use: then the stream is unpacked
as a whole. Sources: the .xz file format 1.2.1, sections 2 to 4; RFC 8878, section 3.1. Imports
storage.
"""

from __future__ import annotations

import lzma
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import Any, Final

from vmimg.codecs.zstd import WINDOW_LOG_MAX, library
from vmimg.errors import FormatError, UnsafeImage, UnsupportedFeature
from vmimg.probe.streams import XZ_MEMORY
from vmimg.storage.base import Storage
from vmimg.storage.view import ReadOnlyView

__all__ = ["FramedStorage", "open_framed"]

_LARGEST: Final = 32 << 20
_KEPT: Final = 64 << 20
_MAX_INDEX: Final = 32 << 20
_MAX_FRAMES: Final = 1 << 20
_XZ_HEADER: Final = 12
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class _Frames:
    """``at``, ``stored``: where they lie; ``made``: where each ends in what comes out."""

    def __init__(self) -> None:
        self.at = array("q")
        self.stored = array("q")
        self.made = array("q")

    def add(self, at: int, stored: int, size: int) -> bool:
        """False for one that is too large, or one too many."""
        if size > _LARGEST or stored > 2 * _LARGEST or len(self.at) >= _MAX_FRAMES:
            return False
        self.at.append(at)
        self.stored.append(stored)
        self.made.append((self.made[-1] if self.made else 0) + size)
        return True


class FramedStorage(ReadOnlyView):
    """What ``frames`` in ``base``, which belongs to it, unpack to. ``head``: what stands in front
    of each, for xz: the header of the stream.
    """

    def __init__(self, base: Storage, kind: str, frames: _Frames, head: bytes) -> None:
        super().__init__(base, frames.made[-1])
        self._kind = kind
        self._frames = frames
        self._head = head
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        made = self._frames.made
        done = 0
        while done < len(buffer):
            number = bisect_right(made, offset + done)
            block = self._block(number)
            skip = offset + done - (made[number - 1] if number else 0)
            piece = memoryview(block)[skip : skip + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def identity(self) -> tuple[int, ...] | None:
        return None

    def _block(self, number: int) -> bytes:
        with self._lock:
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
                return block
        # Two threads may unpack the same one: that costs time, and nothing else.
        block = self._unpacked(number)
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = block
                self._bytes += len(block)
            while self._bytes > _KEPT and len(self._blocks) > 1:
                self._bytes -= len(self._blocks.popitem(last=False)[1])
        return block

    def _unpacked(self, number: int) -> bytes:
        frames = self._frames
        size = frames.made[number] - (frames.made[number - 1] if number else 0)
        data = self._base.read(frames.at[number], frames.stored[number])
        try:
            block = self._decoder().decompress(self._head + data, size + 1)
        except (lzma.LZMAError, library().ZstdError) as error:
            raise FormatError(f"{self.name}: the {self._kind} data is corrupt ({error})") from None
        if len(block) != size:
            raise FormatError(
                f"{self.name}: the {self._kind} data is corrupt (a block has not {size} bytes)"
            )
        return block  # type: ignore[no-any-return]

    def _decoder(self) -> Any:
        if self._kind == "xz":
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        zstd = library()
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
        return zstd.ZstdDecompressor(options=options)


def open_framed(storage: Storage, kind: str, *, limit: int) -> FramedStorage | None:
    """What the stream in ``storage`` unpacks to, frame by frame; None where it is not made of
    several, or not so that they can be found. Raises UnsafeImage beyond ``limit`` bytes.
    """
    found: _Frames | None = None
    head = b""
    if kind == "xz":
        head = storage.read(0, min(_XZ_HEADER, storage.size))
        found = _xz_blocks(storage)
    elif kind == "zstd":
        found = _zstd_frames(storage)
    if found is None or len(found.at) < 2:
        return None
    if found.made[-1] > limit:
        raise UnsafeImage(
            f"{storage.name}: unpacks to more than the {limit} bytes that are allowed"
        )
    framed = FramedStorage(storage, kind, found, head)
    try:
        framed.read(0, 1)
    except UnsupportedFeature:
        return None
    return framed


def _xz_blocks(storage: Storage) -> _Frames | None:
    """Of a file of one stream without padding, as all makers make it."""
    end = storage.size
    if end < 3 * _XZ_HEADER:
        return None
    footer = storage.read(end - _XZ_HEADER, _XZ_HEADER)
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if footer[10:] != b"YZ" or length > min(_MAX_INDEX, end - 2 * _XZ_HEADER):
        return None
    index = storage.read(end - _XZ_HEADER - length, length)
    count, at = _varint(index, 1)
    if index[0] or not 1 < count <= _MAX_FRAMES:
        return None
    frames = _Frames()
    place = _XZ_HEADER
    for _ in range(count):
        unpadded, at = _varint(index, at)
        size, at = _varint(index, at)
        stored = -(-unpadded // 4) * 4
        if not unpadded or not frames.add(place, stored, size):
            return None
        place += stored
    return frames if place == end - _XZ_HEADER - length else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next one is; 0 where there is none."""
    number = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            return 0, at
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
    return 0, at


def _zstd_frames(storage: Storage) -> _Frames | None:
    """Where every frame says its size."""
    frames = _Frames()
    at = 0
    while at < storage.size:
        head = storage.read(at, min(18, storage.size - at))
        if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50 and len(head) >= 8:
            at += 8 + int.from_bytes(head[4:8], "little")  # a frame that is skipped
            continue
        size, length = _zstd_header(head)
        if size is None:
            return None
        end = _zstd_end(storage, at + length, bool(head[4] & 0x04))
        if end is None or not frames.add(at, end - at, size):
            return None
        at = end
    return frames if at == storage.size else None


def _zstd_header(head: bytes) -> tuple[int | None, int]:
    """The size that the frame's header states, and how long it is."""
    if len(head) < 6 or head[:4] != _ZSTD_MAGIC:
        return None, 0
    flags = head[4]
    single = bool(flags & 0x20)
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    field = head[at : at + width]
    if not width or len(field) < width:
        return None, 0
    return int.from_bytes(field, "little") + (256 if width == 2 else 0), at + width


def _zstd_end(storage: Storage, at: int, checksum: bool) -> int | None:
    """Where the frame ends whose blocks begin at ``at``."""
    # A block has 128 KiB at the most, and no frame that is kept has more than these, nor many empty
    # ones.
    for _ in range(2 * _LARGEST >> 17):
        if at + 3 > storage.size:
            return None
        header = int.from_bytes(storage.read(at, 3), "little")
        kind, size = header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == 1 else size)
        if header & 1:
            at += 4 * checksum
            return at if at <= storage.size else None
    return None
