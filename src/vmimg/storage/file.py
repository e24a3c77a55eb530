"""Local files and block devices."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NoReturn

from vmimg.errors import InUseError, StorageError
from vmimg.storage import locks, syscalls
from vmimg.storage.base import Buffer, Storage

__all__ = ["FileStorage", "Mode"]

Mode = Literal["r", "rw", "create"]

# off_t is a signed 64-bit number everywhere.
_MAX_OFFSET: Final = (1 << 63) - 1
# Zeros written by hand go out in pieces of this size, so that memory stays bounded.
_ZERO_PIECE: Final = 1 << 20
# No file system shares blocks that are smaller.
_CLONE_ALIGNMENT: Final = 4096

_REMEDIES: Final = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no larger file",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose another place",
}


class FileStorage(Storage):
    """A regular file or a block device, open by its path or by a descriptor.

    ``mode`` is ``"r"``, ``"rw"`` (it must exist) or ``"create"`` (made where it is missing, emptied
    where it exists, after the lock is taken). ``lock`` takes QEMU's image locks, see locks.py; an
    unlocked reader reads while others write. Raises StorageError for what is neither a file nor a
    block device, InUseError for what another process holds, or the system (mounted).

    Growing is safe with several threads: a write, zero or allocate beyond the end first moves the
    end and never moves it back.
    """

    is_device: bool
    """A block device: fixed in size, and new ranges do not read as zeros."""
    sector_size: int
    """Logical sector in bytes: of the device, or 512 for a file."""

    def __init__(
        self, path: str | os.PathLike[str], mode: Mode = "r", *, lock: bool = True
    ) -> None:
        self._fd = -1
        self.name = os.fspath(path)
        self._adopt(_open(self.name, mode, lock), writable=mode != "r")
        try:
            if lock:
                locks.take(self._fd, self.name, write=self.writable)
            if mode == "create" and not self.is_device:
                self.resize(0)
        except OSError as error:
            self.close()
            raise _failure(self.name, "cannot lock it", error) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_fd(cls, fd: int, name: str, *, writable: bool = False) -> FileStorage:
        """Over an open descriptor, which it then owns; ``name`` is for messages. No locks."""
        storage = cls.__new__(cls)
        storage._fd = -1
        storage.name = name
        storage._adopt(fd, writable=writable)
        return storage

    def _adopt(self, fd: int, *, writable: bool) -> None:
        self._fd = fd
        self.writable = writable
        self._growing = threading.Lock()
        self._can_clone = True
        self._can_punch = True
        try:
            status = os.fstat(fd)
            _refuse_other_kinds(self.name, status)
            self.is_device = stat.S_ISBLK(status.st_mode)
            if self.is_device:
                self.size, self.sector_size = syscalls.device_geometry(fd)
            else:
                self.size, self.sector_size = status.st_size, 512
        except OSError as error:
            self.close()
            raise _failure(self.name, "cannot open it", error) from error
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for a system call that is not offered here; it stays with this object."""
        return self._fd

    # Reading

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            raise StorageError(
                f"{self.name}: cannot read {length} bytes at offset {offset}:"
                f" it ends at {self.size}"
            )
        done = 0
        while done < length:
            try:
                count = syscalls.read_at(self._fd, buffer[done:] if done else buffer, offset + done)
            except OSError as error:
                self._fail("read", offset + done, length - done, error)
            if count == 0:
                raise StorageError(
                    f"{self.name}: cannot read {length} bytes at offset {offset}:"
                    f" it now ends at {offset + done}"
                )
            done += count

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        # Block devices do not tell; what cannot tell is data throughout.
        if self.is_device or not syscalls.HAS_HOLES:
            yield from super().extents(start, end)
            return
        while start < end:
            try:
                data = min(os.lseek(self._fd, start, os.SEEK_DATA), end)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    yield start, end, True
                    return
                if error.errno not in syscalls.UNSUPPORTED:
                    self._fail("map", start, end - start, error)
                yield start, end, False
                return
            if data > start:
                yield start, data, True
            if data == end:
                return
            try:
                hole = min(os.lseek(self._fd, data, os.SEEK_HOLE), end)
            except OSError as error:
                # Cut off by somebody since: the read that follows says so.
                if error.errno != errno.ENXIO:
                    self._fail("map", data, end - data, error)
                hole = end
            # A hole that was filled between the two calls must not stop the walk.
            hole = max(hole, data + 1)
            yield data, hole, False
            start = hole

    def copy_range(self, offset: int, target: Storage, target_offset: int, length: int) -> bool:
        if not isinstance(target, FileStorage) or self.is_device or target.is_device:
            return False
        if offset < 0 or offset + length > self.size:
            return False  # a read says what is wrong
        target._extend("copy", target_offset, length)
        if (
            self._can_clone
            and not (offset | target_offset) % _CLONE_ALIGNMENT
            and (length % _CLONE_ALIGNMENT == 0 or offset + length == self.size)
        ):
            try:
                syscalls.clone_range(self._fd, offset, target._fd, target_offset, length)
                return True
            except OSError as error:
                # Not asked again: the answer depends on the two file systems, or on alignment to
                # blocks larger than assumed, and copying goes on either way.
                self._can_clone = error.errno not in syscalls.UNSUPPORTED
        done = 0
        while done < length:
            try:
                count = syscalls.copy_range(
                    self._fd, offset + done, target._fd, target_offset + done, length - done
                )
            except OSError as error:
                if done == 0 and error.errno in syscalls.UNSUPPORTED:
                    return False
                target._fail("write", target_offset + done, length - done, error)
            if count == 0:
                # Some file systems answer so for files that they make up as they are read.
                if done == 0:
                    return False
                raise StorageError(
                    f"{self.name}: cannot copy {length} bytes from offset {offset}:"
                    f" it now ends at {offset + done}"
                )
            done += count
        return True

    # Writing

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        self._write(offset, [view], view.nbytes)

    def write_all(self, offset: int, pieces: list[Buffer]) -> None:
        views = [memoryview(piece) for piece in pieces if piece]
        self._write(offset, views, sum(view.nbytes for view in views))

    def _write(self, offset: int, pieces: list[memoryview], length: int) -> None:
        end = offset + length
        if self._has_room("write", offset, length) or not length:
            self._put(offset, end, pieces)
            return
        # The write itself moves the end: nobody finds the file longer than what it holds.
        with self._growing:
            self._put(offset, end, pieces)
            self.size = max(self.size, end)

    def _put(self, offset: int, end: int, pieces: list[memoryview]) -> None:
        first = 0
        while offset < end:
            try:
                count = syscalls.write_at(self._fd, pieces[first:] if first else pieces, offset)
            except OSError as error:
                self._fail("write", offset, end - offset, error)
            if count == 0:
                raise StorageError(f"{self.name}: wrote nothing at offset {offset}")
            offset += count
            if offset < end:
                while count >= pieces[first].nbytes:
                    count -= pieces[first].nbytes
                    first += 1
                if count:
                    pieces[first] = pieces[first][count:]

    def zero(self, offset: int, length: int) -> None:
        if length <= 0:
            return
        # What lies beyond the end becomes zeros by moving the end.
        old = self.size
        self._extend("zero", offset, length)
        end = min(offset + length, old)
        if offset >= end:
            return
        # Devices take whole sectors only.
        unit = self.sector_size if self.is_device else 1
        start, stop = -(-offset // unit) * unit, end // unit * unit
        if start >= stop or not self._punch(start, stop - start):
            self._write_zeros(offset, end - offset)
            return
        self._write_zeros(offset, start - offset)
        self._write_zeros(stop, end - stop)

    def _punch(self, offset: int, length: int) -> bool:
        """Zeros without writing them; False, with nothing promised, where that cannot be."""
        if not self._can_punch:
            return False
        ways = [syscalls.punch_hole, syscalls.zero_range]
        if self.is_device:
            ways.append(syscalls.zero_device)
        for way in ways:
            try:
                way(self._fd, offset, length)
                return True
            except OSError as error:
                if error.errno not in syscalls.UNSUPPORTED:
                    self._fail("zero", offset, length, error)
        self._can_punch = False
        return False

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, _ZERO_PIECE)))
        while length > 0:
            piece = zeros[: min(length, _ZERO_PIECE)]
            self._write(offset, [piece], len(piece))
            offset += len(piece)
            length -= len(piece)

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, self.size)
        if self.is_device:
            unit = self.sector_size
            offset, end = -(-offset // unit) * unit, end // unit * unit
        if not 0 <= offset < end:
            return
        self._require_writable("discard", offset, length)
        call = syscalls.discard_device if self.is_device else syscalls.punch_hole
        try:
            call(self._fd, offset, end - offset)
        except OSError as error:
            if error.errno not in syscalls.UNSUPPORTED:
                self._fail("discard", offset, length, error)

    def allocate(self, offset: int, length: int) -> None:
        if length <= 0:
            return
        self._extend("allocate", offset, length)
        if self.is_device:
            return
        try:
            syscalls.allocate(self._fd, offset, length)
        except OSError as error:
            if error.errno not in syscalls.UNSUPPORTED:
                self._fail("allocate", offset, length, error)
            for start, end, hole in list(self.extents(offset, offset + length)):
                if hole:
                    self._write_zeros(start, end - start)

    def resize(self, size: int) -> None:
        self._require_writable("resize", 0, size)
        if self.is_device:
            if size > self.size:
                raise StorageError(
                    f"{self.name}: {size} bytes are needed and the device holds {self.size};"
                    " choose a larger one"
                )
            return
        with self._growing:
            self._truncate("resize", 0, size)

    def flush(self) -> None:
        if not self.writable:
            return
        try:
            syscalls.sync(self._fd)
        except OSError as error:
            raise _failure(self.name, "cannot make its content durable", error) from error

    # What it is

    def allocated(self) -> int:
        if self.is_device:
            return self.size
        blocks: int | None = getattr(self._status(), "st_blocks", None)  # not on Windows
        # The unit of st_blocks is 512 bytes, whatever the file system's own block is.
        return self.size if blocks is None else blocks * 512

    def modified(self) -> float | None:
        return None if self.is_device else self._status().st_mtime

    def identity(self) -> tuple[int, ...] | None:
        status = self._status()
        # Two nodes of one device are the same container.
        if self.is_device:
            return (-1, status.st_rdev)
        return (status.st_dev, status.st_ino)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError as error:
                # NFS reports here what it could not write. What was only read has lost nothing, and
                # by now its reader may have finished what it read it for.
                if self.writable:
                    raise _failure(self.name, "cannot close it", error) from error

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass

    def __repr__(self) -> str:
        return f"<FileStorage {self.name!r} {self.size} bytes>"

    # Helpers

    def _status(self) -> os.stat_result:
        try:
            return os.fstat(self._fd)
        except OSError as error:
            raise _failure(self.name, "cannot examine it", error) from error

    def _require_writable(self, action: str, offset: int, length: int) -> None:
        if not self.writable:
            raise StorageError(
                f"{self.name}: cannot {action} {length} bytes at offset {offset}:"
                " it is open for reading only"
            )

    def _extend(self, action: str, offset: int, length: int) -> None:
        """Move the end to where ``length`` bytes from ``offset`` need it.

        Under a lock, and only forward: were it moved by ftruncate without one, a thread that zeroes
        could cut off what another has just written.
        """
        end = offset + length
        if self._has_room(action, offset, length):
            return
        with self._growing:
            if end > self.size:
                self._truncate(action, offset, end)

    def _has_room(self, action: str, offset: int, length: int) -> bool:
        """Whether the range lies inside the file; StorageError where it cannot even grow there."""
        end = offset + length
        if self.writable and offset >= 0 and end <= self.size:
            return True
        self._require_writable(action, offset, length)
        if offset < 0 or end > _MAX_OFFSET:
            raise StorageError(
                f"{self.name}: cannot {action} {length} bytes at offset {offset}:"
                " no file reaches there"
            )
        if self.is_device:
            raise StorageError(
                f"{self.name}: cannot {action} {length} bytes at offset {offset}:"
                f" the device ends at {self.size}; choose a larger one"
            )
        return False

    def _truncate(self, action: str, offset: int, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            self._fail(action, offset, size - offset, error)
        self.size = size

    def _fail(self, action: str, offset: int, length: int, error: OSError) -> NoReturn:
        raise _failure(
            self.name, f"cannot {action} {length} bytes at offset {offset}", error
        ) from error


def _failure(name: str, what: str, error: OSError) -> StorageError:
    remedy = _REMEDIES.get(error.errno or 0)
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{name}: {what}: {reason}" + (f"; {remedy}" if remedy else ""))


def _open(name: str, mode: Mode, lock: bool) -> int:
    # O_NONBLOCK: a FIFO must be refused, not waited for; files and block devices do not mind it.
    flags = syscalls.OPEN_FLAGS | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    flags |= os.O_RDONLY if mode == "r" else os.O_RDWR
    try:
        try:
            status = os.stat(name)
        except FileNotFoundError:
            if mode != "create":
                raise
            flags |= os.O_CREAT
        else:
            # Before opening: to open some devices is to use them (tapes rewind, watchdogs start).
            _refuse_other_kinds(name, status)
            # Without O_CREAT this is Linux's claim on a device: EBUSY while it is mounted, or a
            # part of a RAID or a volume group.
            if mode != "r" and lock and stat.S_ISBLK(status.st_mode):
                flags |= os.O_EXCL
        return os.open(name, flags, 0o666)
    except ValueError as error:  # a NUL in the path
        raise StorageError(f"{name!r}: cannot open it: {error}") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise InUseError(
                f"{name} is in use: the system has it mounted, or as part of a RAID or volume"
                " group; release it first"
            ) from error
        raise _failure(name, "cannot open it", error) from error


def _refuse_other_kinds(name: str, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    kinds: Sequence[tuple[bool, str]] = (
        (stat.S_ISDIR(mode), "a directory; name an image inside it"),
        (
            stat.S_ISFIFO(mode),
            "a pipe, which cannot be read at any position; pass - and pipe into it",
        ),
        (stat.S_ISSOCK(mode), "a socket"),
        (stat.S_ISCHR(mode), "a character device; name a file or a block device"),
    )
    kind = next((text for matches, text in kinds if matches), "no regular file")
    raise StorageError(f"{name}: cannot open it: it is {kind}")
