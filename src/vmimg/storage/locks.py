"""The image locks of QEMU: who may read, write and resize a file at the same time.

Two bytes stand for each permission: byte 100+i of the file is locked by whoever has permission i,
byte 200+i by whoever does not let others have it. All of them are shared locks, so that many may
hold the same byte: a conflict is a byte of the other row that somebody else holds. They belong to
the open file description, not to the process: two openings in one process conflict like any two.
Source: QEMU, block/file-posix.c (raw_apply_lock_bytes, raw_check_lock_bytes); what qemu-img takes
for what, seen with strace, is what is taken here: tests/storage/test_locks.py checks both ways.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from vmimg.errors import InUseError

try:
    import fcntl
except ImportError:  # Windows: no locks that QEMU there would honour
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = hasattr(fcntl, "F_OFD_SETLK")

__all__ = ["check", "take"]

_HAVE: Final = 100
_NOT_SHARED: Final = 200

# The order is QEMU's, include/block/block-common.h, BLK_PERM_*.
_CONSISTENT_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE = range(4)
_NAMES: Final = ("consistent read", "write", "write unchanged", "resize")

# struct flock: l_type, l_whence (short), l_start, l_len (off_t, 64 bits), l_pid (int), padded
_FLOCK: Final = struct.Struct("@hhqqi0q")

# What a file system without such locks answers; QEMU goes on without as well.
_NO_LOCKS: Final = frozenset(
    {errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF}
)


def take(fd: int, name: str, *, write: bool) -> None:
    """Lock an open file until ``fd`` (and its duplicates) are closed.

    A reader keeps others from writing and resizing; a writer has both and shares neither. Raises
    InUseError, with nothing locked, when another holder does not fit with that.
    """
    if not _HAS_LOCKS:
        return
    wanted = _wanted(write)
    for byte in (*_bytes(_HAVE, wanted), *_bytes(_NOT_SHARED, _UNSHARED)):
        try:
            # A shared lock needs a descriptor open for reading, and every one here is.
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte))
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            _release(fd)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InUseError(_message(name, byte, write)) from None
            raise
    try:
        check(fd, name, write=write)
    except InUseError:
        _release(fd)
        raise


def check(fd: int, name: str, *, write: bool) -> None:
    """Raise InUseError where ``take`` would, and lock nothing."""
    if not _HAS_LOCKS:
        return
    # The holders first: "holds the write lock" says more than "does not share it", and a running
    # machine does both.
    for byte in (*_bytes(_HAVE, _UNSHARED), *_bytes(_NOT_SHARED, _wanted(write))):
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise
        if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
            raise InUseError(_message(name, byte, write))


_UNSHARED: Final = (_WRITE, _RESIZE)


def _wanted(write: bool) -> tuple[int, ...]:
    return (_CONSISTENT_READ, _WRITE, _RESIZE) if write else (_CONSISTENT_READ,)


def _bytes(row: int, permissions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(row + permission for permission in permissions)


def _flock(kind: int, start: int, length: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _release(fd: int) -> None:
    try:
        fcntl.fcntl(
            fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _HAVE, _NOT_SHARED - _HAVE + len(_NAMES))
        )
    except OSError:
        pass


def _message(name: str, byte: int, write: bool) -> str:
    lock = _NAMES[byte % 100]
    if byte < _NOT_SHARED:
        held = f'another process holds the "{lock}" lock'
    else:
        held = f'another process uses it and does not share the "{lock}" lock'
    remedy = "stop it first" if write else "stop it first, or read it anyway with -U (force share)"
    return f"{name} is in use: {held}; {remedy}"
