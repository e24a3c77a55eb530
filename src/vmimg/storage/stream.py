"""Bytes that come or go in one direction: pipes, and files compressed from outside.

An image is read at any position, so what cannot seek is unpacked into a temporary file without a
name first, in bounded memory, and zeros become holes in it. The other way, StreamSink takes what a
writer produces in ascending order to a pipe.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

from vmimg.errors import (
    FormatError,
    OptionError,
    StorageError,
    UnsafeImage,
    UnsupportedFeature,
)
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.file import FileStorage

__all__ = ["HEAD_SIZE", "Progress", "StreamSink", "outer_compression", "spool", "spool_pieces"]

Progress = Callable[[int, int | None], None]
"""Called with (bytes of the source taken so far, bytes in all; None for a pipe)."""

HEAD_SIZE: Final = 10
"""What outer_compression needs to see, in bytes."""

_CHUNK: Final = 1 << 20
# A hole saves nothing below the block of a file system; 64 KiB is also qcow2's cluster.
_BLOCK: Final = 1 << 16
_ZEROS: Final = bytes(_BLOCK)
# What a dictionary may take. `xz -9` needs 65 MiB; larger ones must be asked for explicitly there.
_XZ_MEMORY: Final = 192 << 20
# 128 MiB: what the zstd program accepts without being told --long.
_ZSTD_WINDOW_LOG: Final = 27


def outer_compression(head: bytes) -> str | None:
    """``"gzip"``, ``"xz"``, ``"zstd"`` or ``"bzip2"`` by the first HEAD_SIZE bytes; else None."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    # The second: a skippable frame, which pzstd and others put first.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
    ):
        return "zstd"
    # Followed by a block (the digits of pi) or the end (the square root of it).
    if (
        head.startswith(b"BZh")
        and head[3:4].isdigit()
        and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    ):
        return "bzip2"
    return None


def spool(
    source: int | Storage,
    name: str | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Storage:
    """What ``source`` holds, unpacked, as a storage that can be read at any position.

    ``source`` is a descriptor (0 is standard input; it stays open) or a storage (which is closed,
    unless it is itself the result because there is nothing to unpack). A
    descriptor of a regular file that is not compressed is not copied either.

    The temporary file is made in ``directory``, or where TMPDIR says, and has no name. ``limit``
    bounds its size in bytes. Raises FormatError for data that is corrupt or cut off,
    UnsupportedFeature for what needs more memory to unpack than is sensible, UnsafeImage beyond
    ``limit``, StorageError.
    """
    if isinstance(source, Storage):
        name = name or source.name
        head = source.read(0, min(HEAD_SIZE, source.size))
        kind = outer_compression(head)
        if kind is None:
            return source
        try:
            chunks = unpacked(kind, _from_storage(source, progress), name)
            return _spool(chunks, name, directory, limit)
        finally:
            source.close()

    name = name or ("standard input" if source == 0 else f"descriptor {source}")
    try:
        status = os.fstat(source)
        position = os.lseek(source, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise StorageError(f"{name}: cannot read it: {_reason(error)}") from error
    if stat.S_ISDIR(status.st_mode) or os.isatty(source):
        kind_of_file = "a directory" if stat.S_ISDIR(status.st_mode) else "a terminal"
        raise StorageError(f"{name}: cannot read an image from it: it is {kind_of_file}")
    if position == 0:
        # Its own position is left alone; a duplicate shares it, and nothing here uses it.
        return spool(
            FileStorage.from_fd(os.dup(source), name),
            directory=directory,
            limit=limit,
            progress=progress,
        )
    total = status.st_size - position if position is not None else None
    chunks = _from_descriptor(source, name, total, progress)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_SIZE:
            break
    kind = outer_compression(head)
    everything = _chain(head, chunks)
    if kind is not None:
        everything = unpacked(kind, everything, name)
    return _spool(everything, name, directory, limit)


def spool_pieces(
    pieces: Iterator[bytes],
    name: str,
    *,
    directory: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Storage:
    """The same of ``pieces``, one after the other, which are not unpacked."""
    return _spool(pieces, name, directory, limit)


class StreamSink:
    """Writes to a descriptor that cannot seek, such as standard output (1).

    Raises OptionError for a terminal: an image on it helps nobody.
    """

    position: int
    """Bytes written so far."""

    def __init__(self, fd: int = 1, name: str = "standard output") -> None:
        if os.isatty(fd):
            raise OptionError(f"{name} is a terminal; redirect it to a file or pipe it somewhere")
        self.name = name
        self.position = 0
        self._fd = fd

    def write(self, data: Buffer) -> None:
        """All of ``data``, or StorageError: also where the reader has gone (EPIPE)."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._fd, view)
            except BlockingIOError:  # somebody else set it non-blocking
                select.select([], [self._fd], [])
                continue
            except BrokenPipeError:
                raise StorageError(
                    f"{self.name}: its reader went away after {self.position} bytes"
                ) from None
            except OSError as error:
                raise StorageError(
                    f"{self.name}: cannot write at offset {self.position}: {_reason(error)}"
                ) from error
            self.position += count
            view = view[count:]

    def write_zeros(self, length: int) -> None:
        """``length`` zeros."""
        while length > 0:
            self.write(_ZEROS[:length] if length < _BLOCK else _ZEROS)
            length -= _BLOCK


# The temporary file


def _spool(
    chunks: Iterator[bytes],
    name: str,
    directory: str | os.PathLike[str] | None,
    limit: int | None,
) -> FileStorage:
    import tempfile

    where = os.fspath(directory) if directory is not None else tempfile.gettempdir()
    copy = f"temporary copy of {name} in {where}"
    try:
        # O_TMPFILE where there is one; else made, and its name removed at once.
        with tempfile.TemporaryFile(buffering=0, dir=where) as file:
            storage = FileStorage.from_fd(os.dup(file.fileno()), copy, writable=True)
    except OSError as error:
        raise StorageError(f"{copy}: cannot create it: {_reason(error)}") from error
    try:
        size = 0
        buffer = bytearray()
        for chunk in chunks:
            buffer += chunk
            if limit is not None and size + len(buffer) > limit:
                raise UnsafeImage(
                    f"{name}: unpacks to more than the {limit} bytes that are allowed"
                )
            if len(buffer) >= _CHUNK:
                whole = len(buffer) // _BLOCK * _BLOCK
                _write_sparse(storage, size, buffer, whole)
                size += whole
                del buffer[:whole]
        _write_sparse(storage, size, buffer, len(buffer))
        storage.resize(size + len(buffer))
    except BaseException:
        storage.close()
        raise
    storage.name = name
    storage.writable = False
    return storage


def _write_sparse(storage: Storage, offset: int, buffer: bytearray, length: int) -> None:
    """Write the blocks that are not zeros; ``offset`` is a multiple of the block."""
    # The view must be gone before the buffer shrinks, and so must its slices: a failed write keeps
    # them in its traceback, but then nothing shrinks any more.
    with memoryview(buffer) as view:
        start = 0
        for block in range(0, length, _BLOCK):
            end = min(block + _BLOCK, length)
            # Compared as bytes: memcmp, where memoryviews are compared item by item.
            if bytes(view[block:end]) == (_ZEROS if end - block == _BLOCK else bytes(end - block)):
                if start < block:
                    storage.write(offset + start, view[start:block])
                start = end
        if start < length:
            storage.write(offset + start, view[start:length])


# The sources


def _from_storage(source: Storage, progress: Progress | None) -> Iterator[bytes]:
    offset = 0
    while offset < source.size:
        chunk = source.read(offset, min(_CHUNK, source.size - offset))
        offset += len(chunk)
        if progress is not None:
            progress(offset, source.size)
        yield chunk


def _from_descriptor(
    fd: int, name: str, total: int | None, progress: Progress | None
) -> Iterator[bytes]:
    done = 0
    while True:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            select.select([fd], [], [])
            continue
        except OSError as error:
            raise StorageError(f"{name}: cannot read at offset {done}: {_reason(error)}") from error
        if not chunk:
            return
        done += len(chunk)
        if progress is not None:
            progress(done, total)
        yield chunk


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


# Decompression. Four libraries, one interface: decompress(data, max_length), eof, needs_input,
# unused_data. Each object unpacks one member; the files are a row of them.


class _Input:
    """Chunks as one row of bytes that can be handed back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.data = b""
        self.at = 0
        self._before = 0

    @property
    def taken(self) -> int:
        """Bytes of the source that were taken and not handed back."""
        return self._before + self.at

    def fill(self, count: int) -> bool:
        """Have ``count`` bytes at hand in ``data`` from ``at``; False where the source has less."""
        while len(self.data) - self.at < count:
            chunk = next(self._chunks, b"")
            if not chunk:
                return False
            self._before += self.at
            self.data = self.data[self.at :] + chunk
            self.at = 0
        return True

    def take(self, limit: int) -> memoryview:
        """Some bytes, at most ``limit``; none at the end."""
        self.fill(1)
        piece = memoryview(self.data)[self.at : self.at + limit]
        self.at += len(piece)
        return piece

    def hand_back(self, count: int) -> None:
        """The last ``count`` bytes of the last take."""
        self.at -= count


def unpacked(kind: str, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """What is in the stream of ``chunks``, compressed by ``kind`` (`outer_compression`), in pieces.

    Raises FormatError where it is broken or ends early, and what the chunks raise.
    """
    make, errors = _library(kind)
    source = _Input(chunks)
    while source.fill(1):
        if kind == "gzip":
            # ISA-L loses its place in a header that comes in two pieces, as some do in a file of
            # many members (bgzip). So it is given none.
            _skip_gzip_header(source, name)
        decompressor = make()
        # A library copies what it was given and did not need. Small pieces first keep that in
        # proportion where members are short.
        step = 4096
        while not decompressor.eof:
            data = source.take(step) if decompressor.needs_input else memoryview(b"")
            step = min(step * 2, _CHUNK)
            if decompressor.needs_input and not data:
                raise _cut_off(kind, source, name)
            try:
                output = decompressor.decompress(data, _CHUNK)
            except errors as error:
                if "memory" in str(error).lower():
                    raise UnsupportedFeature(
                        f"{name}: its {kind} data needs more memory to unpack than is allowed;"
                        " unpack it first"
                    ) from error
                raise FormatError(f"{name}: the {kind} data is corrupt ({error})") from error
            if output:
                yield output
            elif not (data or decompressor.eof or decompressor.needs_input):
                raise FormatError(f"{name}: the {kind} data is corrupt after {source.taken} bytes")
        source.hand_back(len(decompressor.unused_data))
        if not _another_member(kind, source, name):
            return


def _another_member(kind: str, source: _Input, name: str) -> bool:
    """Whether one follows; what else may follow, each kind's own program decides."""
    if kind in ("gzip", "xz"):
        padding = 0
        while piece := source.take(4096):
            rest = len(bytes(piece).lstrip(b"\0"))
            padding += len(piece) - rest
            if rest:
                source.hand_back(rest)
                break
        if kind == "xz" and padding % 4:
            raise FormatError(
                f"{name}: the xz data is corrupt ({padding} bytes of padding, no multiple of 4)"
            )
    source.fill(HEAD_SIZE)
    head = source.data[source.at : source.at + HEAD_SIZE]
    if not head or outer_compression(head) == kind:
        return bool(head)
    if kind in ("gzip", "bzip2"):
        # Both programs: "trailing garbage ignored". Tapes and boot loaders leave some.
        return False
    raise FormatError(f"{name}: something that is no {kind} data follows the {kind} data")


def _cut_off(kind: str, source: _Input, name: str) -> FormatError:
    return FormatError(f"{name}: the {kind} data is cut off after {source.taken} bytes")


def _skip_gzip_header(source: _Input, name: str) -> None:
    """Go behind the header of a gzip member (RFC 1952, section 2.3)."""

    def need(count: int) -> None:
        if count > _CHUNK:
            raise FormatError(f"{name}: the gzip data is corrupt (a header of {count} bytes)")
        if not source.fill(count):
            source.at = len(source.data)
            raise _cut_off("gzip", source, name)

    length = 10
    need(length)
    method, flags = source.data[source.at + 2], source.data[source.at + 3]
    if method != 8 or flags & 0xE0:
        raise FormatError(f"{name}: the gzip data is corrupt (method {method}, flags {flags:#x})")
    if flags & 0x04:  # FEXTRA
        need(length + 2)
        start = source.at + length
        length += 2 + int.from_bytes(source.data[start : start + 2], "little")
    for flag in (0x08, 0x10):  # FNAME, FCOMMENT
        if flags & flag:
            need(length + 1)
            while (end := source.data.find(b"\0", source.at + length)) < 0:
                need(len(source.data) - source.at + 1)
            length = end + 1 - source.at
    if flags & 0x02:  # FHCRC
        import zlib

        need(length + 2)
        start = source.at + length
        stored = int.from_bytes(source.data[start : start + 2], "little")
        if stored != zlib.crc32(memoryview(source.data)[source.at : start]) & 0xFFFF:
            raise FormatError(f"{name}: the gzip data is corrupt (the checksum of its header)")
        length += 2
    need(length)
    source.at += length


def _library(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """How to make a decompressor for one member, and what it raises for corrupt data."""
    if kind == "gzip":
        from isal import igzip_lib

        # Its type stub calls the exception an instance.
        corrupt: Any = igzip_lib.IsalError
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER), (
            corrupt,
        )
    if kind == "xz":
        import lzma

        return (
            lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
            (lzma.LZMAError,),
        )
    if kind == "zstd":
        from vmimg.codecs.zstd import library

        zstd = library()
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on device; set TMPDIR to a directory with room"
    return (error.strerror or str(error)).lower()
