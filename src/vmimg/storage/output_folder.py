"""A directory that appears under its name when everything in it is complete.

There is no directory without a name: it is made under one that ends in ``.vmimg-part``. One that
replaces another changes places with it in one step, where the system can do that (Linux, on most
file systems); elsewhere the old one is renamed before, and put back should the new one not get its
name. `vmimg.storage.output` uses it. Imports locks and syscalls.
"""

from __future__ import annotations

import errno
import os
import shutil

from vmimg.errors import OptionError, StorageError
from vmimg.storage import locks, syscalls

__all__ = ["OutputFolder", "close_fd", "part_name", "sync_folder"]


class OutputFolder:
    """A directory that is being made under another name, ``part``."""

    def __init__(self, path: str, index: str, *, replace: bool) -> None:
        self._path = os.path.normpath(path)
        self._index = index
        self._replace = replace
        self._done = False
        self._check_target()
        directory, base = os.path.split(os.path.realpath(self._path))
        self._target = os.path.join(directory, base)
        self.part = os.path.join(directory, part_name(base))
        try:
            os.mkdir(self.part)
        except OSError as error:
            raise self._failure("cannot create it", error) from error

    def publish(self) -> None:
        """Rename it, and remove the one that it replaces. The files in it are durable already.

        After an error the old one is whole, and where it was.
        """
        self._check_target()
        directory, base = os.path.split(self._target)
        old = os.path.join(directory, part_name(base))
        # What appeared since the check is not ours to replace: the rename fails on it.
        replaced = self._replace and os.path.isdir(self._target)
        try:
            for folder, _, _ in os.walk(self.part):
                sync_folder(folder)
            if replaced and self._exchanged(directory):
                old = self.part
            else:
                self._renamed(directory, old if replaced else None)
            self._done = True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another one was faster
                raise OptionError(f"{self._path} exists; pass --force to replace it") from error
            raise self._failure("cannot give the finished directory its name", error) from error
        if replaced:
            shutil.rmtree(old, ignore_errors=True)

    def _exchanged(self, directory: str) -> bool:
        """Change places with the old one; False where the system cannot."""
        try:
            syscalls.exchange(self.part, self._target)
        except OSError as error:
            if error.errno in syscalls.UNSUPPORTED or error.errno == errno.EPERM:
                return False
            raise
        try:
            sync_folder(directory)
        except BaseException:
            syscalls.exchange(self.part, self._target)
            raise
        return True

    def _renamed(self, directory: str, old: str | None) -> None:
        """Take the name, once the one that has it is called ``old``."""
        if old is not None:
            os.rename(self._target, old)
        try:
            os.rename(self.part, self._target)
            try:
                sync_folder(directory)
            except BaseException:
                os.rename(self._target, self.part)
                raise
        except BaseException:
            if old is not None:
                os.rename(old, self._target)
            raise

    def abort(self) -> None:
        """Remove it. Does nothing once it is published."""
        if not self._done:
            shutil.rmtree(self.part, ignore_errors=True)

    def _check_target(self) -> None:
        if not os.path.lexists(self._path):
            return
        if not os.path.isdir(self._path):
            raise StorageError(
                f"{self._path}: cannot write it: it is a file, and the image is a directory"
            )
        try:
            names = sorted(os.listdir(self._path))
        except OSError as error:
            raise self._failure("cannot replace it", error) from error
        if not names:
            return
        # Whatever else lies in a directory would be lost.
        if not os.path.isfile(os.path.join(self._path, self._index)):
            raise StorageError(
                f"{self._path}: cannot write it: it is a directory with something else in it"
            )
        if not self._replace:
            raise OptionError(f"{self._path} exists; pass --force to replace it")
        for name in names:
            file = os.path.join(self._path, name)
            if os.path.islink(file) or not os.path.isfile(file):
                continue
            try:
                fd = os.open(file, os.O_RDONLY | syscalls.OPEN_FLAGS)
            except OSError:
                continue  # whoever may not read it may replace it all the same
            try:
                locks.check(fd, file, write=True)
            finally:
                close_fd(fd)

    def _failure(self, what: str, error: OSError) -> StorageError:
        reason = (error.strerror or str(error)).lower()
        return StorageError(f"{self._path}: {what}: {reason}")


def sync_folder(path: str) -> None:
    """Make the names in a directory durable, where that can be done. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems cannot sync a directory, and say so.
        if error.errno not in syscalls.UNSUPPORTED:
            raise
    finally:
        close_fd(fd)


def close_fd(fd: int) -> None:
    """Close what was open for reading: nothing can be lost with it."""
    try:
        os.close(fd)
    except OSError:
        pass


def part_name(base: str) -> str:
    """What ``base`` is called as long as it is not complete: another name each time."""
    # 255 bytes are the limit of a name on most file systems.
    short = os.fsdecode(os.fsencode(base)[:200])
    return f".{short}.{os.urandom(4).hex()}.vmimg-part"
