"""The calls into the operating system that storage makes, each with what stands in where it lacks.

Every function takes a file descriptor (`exchange` two paths), raises OSError and knows nothing of
vmimg. Linux has all of them; elsewhere the ones that save work raise OSError(EOPNOTSUPP), and
callers do the work by hand.
ctypes is imported on first use: opening and reading a file needs none of it.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = [
    "HAS_HOLES",
    "OPEN_FLAGS",
    "UNSUPPORTED",
    "allocate",
    "clone_range",
    "copy_range",
    "device_geometry",
    "discard_device",
    "exchange",
    "punch_hole",
    "read_at",
    "sync",
    "write_at",
    "zero_device",
    "zero_range",
]

# O_BINARY: Windows would translate line ends. O_NOINHERIT is its O_CLOEXEC.
OPEN_FLAGS = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
)

HAS_HOLES = hasattr(os, "SEEK_DATA") and sys.platform != "win32"

UNSUPPORTED = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.EXDEV}
)
"""Error numbers by which a kernel or file system says that it cannot do a thing at all."""

# Linux, include/uapi/linux/falloc.h and fs.h
_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_FALLOC_ZERO_RANGE = 0x10
_BLKDISCARD = 0x1277
_BLKZEROOUT = 0x127F
_BLKSSZGET = 0x1268
_FICLONERANGE = 0x4020940D
# fs.h and fcntl.h
_RENAME_EXCHANGE = 0x02
_AT_FDCWD = -100
# macOS, sys/disk.h
_DKIOCGETBLOCKSIZE = 0x40046418
_DKIOCGETBLOCKCOUNT = 0x40086419

# UIO_MAXIOV: more pieces than this in one pwritev are EINVAL.
_MAX_PIECES = 1024

_Data = bytes | bytearray | memoryview

# Windows has no positional calls: there the position is shared, and taken in turns.
_position = threading.Lock()


if hasattr(os, "preadv"):

    def read_at(fd: int, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` (bytes); returns how many bytes came, 0 at the end."""
        return os.preadv(fd, [buffer], offset)

elif hasattr(os, "pread"):

    def read_at(fd: int, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` (bytes); returns how many bytes came, 0 at the end."""
        data = os.pread(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

else:

    def read_at(fd: int, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` (bytes); returns how many bytes came, 0 at the end."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, min(len(buffer), 1 << 24))
        buffer[: len(data)] = data
        return len(data)


if hasattr(os, "pwritev"):

    def write_at(fd: int, pieces: Sequence[_Data], offset: int) -> int:
        """Write ``pieces`` behind each other from ``offset``; returns how many bytes went."""
        return os.pwritev(fd, pieces[:_MAX_PIECES], offset)

elif hasattr(os, "pwrite"):

    def write_at(fd: int, pieces: Sequence[_Data], offset: int) -> int:
        """Write the first of ``pieces`` at ``offset``; returns how many bytes went."""
        return os.pwrite(fd, pieces[0], offset)

else:

    def write_at(fd: int, pieces: Sequence[_Data], offset: int) -> int:
        """Write the first of ``pieces`` at ``offset``; returns how many bytes went."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, pieces[0])


def sync(fd: int, *, everything: bool = False) -> None:
    """Data and the metadata needed to read it are on the medium when this returns.

    ``everything``: and the rest of the metadata (mode, owner).
    """
    if sys.platform == "darwin":
        import fcntl

        # fsync there stops at the drive's cache.
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    if everything or not hasattr(os, "fdatasync"):
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make a range read as zeros and give its space back; never changes the size of a file.

    On a block device both numbers must be multiples of its sector size.
    """
    _fallocate(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make a range read as zeros and keep its space; never changes the size of a file."""
    _fallocate(fd, _FALLOC_ZERO_RANGE | _FALLOC_KEEP_SIZE, offset, length)


def allocate(fd: int, offset: int, length: int) -> None:
    """Reserve space for a range, beyond the end too, which moves there."""
    _fallocate(fd, 0, offset, length)


def copy_range(source: int, offset: int, target: int, target_offset: int, length: int) -> int:
    """Copy inside the kernel; returns how many bytes went, 0 at the end of the source."""
    if not hasattr(os, "copy_file_range"):
        raise _unsupported()
    return os.copy_file_range(source, target, length, offset, target_offset)


def clone_range(source: int, offset: int, target: int, target_offset: int, length: int) -> None:
    """Share the blocks of a range; all of it or nothing."""
    # struct file_clone_range: src_fd, src_offset, src_length, dest_offset
    _ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, offset, length, target_offset))


def zero_device(fd: int, offset: int, length: int) -> None:
    """Have the kernel write zeros to a block device; whole sectors only."""
    _ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", offset, length))


def discard_device(fd: int, offset: int, length: int) -> None:
    """Tell a block device that a range is free; whole sectors only; what it reads as is open."""
    _ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, length))


def device_geometry(fd: int) -> tuple[int, int]:
    """(size, logical sector size) of a block device, in bytes."""
    if sys.platform == "linux":
        (sector,) = struct.unpack("=i", _ioctl(fd, _BLKSSZGET, bytes(4)))
        return os.lseek(fd, 0, os.SEEK_END), sector
    if sys.platform == "darwin":
        (sector,) = struct.unpack("=I", _ioctl(fd, _DKIOCGETBLOCKSIZE, bytes(4)))
        (count,) = struct.unpack("=Q", _ioctl(fd, _DKIOCGETBLOCKCOUNT, bytes(8)))
        return sector * count, sector
    return os.lseek(fd, 0, os.SEEK_END), 512


def exchange(one: str, other: str) -> None:
    """Two paths of one file system change places, files or directories, in one step."""
    if sys.platform != "linux":
        raise _unsupported()
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:  # glibc has it since 2.28
        raise _unsupported()
    call.argtypes = [
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
    ]  # fmt: skip
    paths = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one, None, other)


def _ioctl(fd: int, request: int, argument: bytes) -> bytes:
    if sys.platform == "win32":
        raise _unsupported()
    import fcntl

    return fcntl.ioctl(fd, request, argument)


_libc: Any = None


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which Python offers without its modes only."""
    global _libc
    if sys.platform != "linux":
        raise _unsupported()
    import ctypes

    if _libc is None:
        libc = ctypes.CDLL(None, use_errno=True)
        # The name with 64-bit offsets, everywhere; a C library without it has them anyway (musl).
        call = getattr(libc, "fallocate64", None) or libc.fallocate
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        _libc = call
    while _libc(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
