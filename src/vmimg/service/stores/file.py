"""FileStore: a directory, with a file for each key.

    ROOT/3f/a1/3fa1c2d8-...      two levels, so that no directory grows large

A file appears when it is complete and durable, by storage's Output: on Linux it has no name until
then, elsewhere one that ends in ``.vmimg-part``, which `sweep` removes after a crash. Imports the
base of stores, storage, errors.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from typing import Final, NoReturn
from urllib.parse import quote

from vmimg.errors import InUseError, OptionError, StorageError, VmimgError
from vmimg.service.stores.base import Exists, NotFound, Putting, Store, Stored, StoreFull, check_key
from vmimg.service.stores.ranged import Alone
from vmimg.storage import locks, syscalls
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.file import FileStorage
from vmimg.storage.output import Output
from vmimg.units import format_size

__all__ = ["FileStore"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# The suffix is Output's.
_LEFTOVER: Final = ".vmimg-part"
# Images belong to projects, not to whoever has an account on this host.
_MODE: Final = 0o700


class FileStore(Store):
    """The directory ``root``, made where it is missing.

    ``capacity``: at most this many bytes, by the sizes of the files. Each process counts for
    itself what it puts and deletes, beginning with what is there, and looks again before it
    refuses.
    """

    is_near = True

    def __init__(
        self, name: str, root: str | os.PathLike[str], *, capacity: int | None = None
    ) -> None:
        self.name = name
        self._root = os.path.abspath(root)
        self.url = "file://" + quote(self._root)
        self._alone = Alone(f"the store {name}")
        self._capacity = capacity
        self._used: int | None = None
        self._coming = 0
        """Of these, bytes of uploads that have not ended."""
        self._counting = threading.Lock()

    # The five

    def put(self, key: str, size: int | None = None) -> Putting:
        path = self._path(key)
        if size is not None:
            self._require(key, size)
        try:
            # Not the root: where that is gone, its file system is not mounted.
            inner = os.path.dirname(path)
            _make_folder(os.path.dirname(inner))
            _make_folder(inner)
            return _FilePutting(self, key, Output(path))
        except (OSError, VmimgError) as error:
            self._fail(key, "store it", error)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        with self._opened(key) as storage:
            try:
                storage.read_into(offset, buffer)
            except StorageError as error:
                self._fail(key, "read it", error)

    def size(self, key: str) -> int:
        return self._status(key).st_size

    def delete(self, key: str) -> None:
        path = self._path(key)
        size = self._status(key).st_size
        try:
            os.unlink(path)
        except FileNotFoundError:
            raise self._absent(key) from None
        except OSError as error:
            self._fail(key, "delete it", error)
        self._give_back(size)
        try:
            _sync(os.path.dirname(path))
        except OSError:
            pass  # it is gone; should the machine lose power now, it may have to be deleted again

    def list(self) -> Iterator[Stored]:
        for entry in self._files():
            try:
                check_key(entry.name)
                status = entry.stat(follow_symlinks=False)
            except (ValueError, FileNotFoundError):
                continue
            except OSError as error:
                self._fail(entry.name, "list it", error)
            if stat.S_ISREG(status.st_mode) and entry.path == self._path(entry.name):
                yield Stored(entry.name, status.st_size, status.st_mtime)

    # What a directory can do besides

    def open(self, key: str) -> Storage:
        storage = self._opened(key)
        storage.folder, storage.member = self._alone, key
        return storage

    def location(self, key: str) -> str:
        return "file://" + quote(self._path(key))

    def free(self) -> int | None:
        left = None if self._capacity is None else max(0, self._capacity - self._counted())
        if hasattr(os, "statvfs"):
            try:
                status = os.statvfs(self._root)
            except OSError:
                return left
            room = status.f_bavail * status.f_frsize
            left = room if left is None else min(left, room)
        return left

    def prepare(self) -> None:
        try:
            os.makedirs(os.path.dirname(self._root), exist_ok=True)
            _make_folder(self._root)
            Output(os.path.join(self._root, "writable")).abort()
            with os.scandir(self._root):
                pass
        except (OSError, VmimgError) as error:
            self._fail(self._root, "use it", error)

    def sweep(self) -> int:
        removed = 0
        for entry in self._files():
            if not entry.name.endswith(_LEFTOVER):
                continue
            try:
                fd = os.open(entry.path, os.O_RDWR | syscalls.OPEN_FLAGS)
            except OSError:
                continue  # published or removed since
            try:
                # Whoever still writes it holds a lock.
                locks.check(fd, entry.name, write=True)
                os.unlink(entry.path)
                removed += 1
            except (InUseError, FileNotFoundError):
                pass
            except OSError as error:
                self._fail(entry.name, "remove it", error)
            finally:
                os.close(fd)
        return removed

    # Space

    def take(self, key: str, size: int) -> None:
        """Count ``size`` more bytes of an upload. Raises StoreFull."""
        if self._capacity is None:
            return
        with self._counting:
            if self._sum() + size > self._capacity:
                self._used = None
                if self._sum() + size > self._capacity:
                    self._refuse(key)
            self._coming += size

    def settle(self, size: int, *, kept: bool) -> None:
        """An upload of which ``size`` bytes were counted has ended."""
        if self._capacity is None:
            return
        with self._counting:
            self._coming -= size
            if kept and self._used is not None:
                self._used += size

    def _give_back(self, size: int) -> None:
        with self._counting:
            if self._used is not None:
                self._used = max(0, self._used - size)

    def _counted(self) -> int:
        with self._counting:
            return self._sum()

    def _sum(self) -> int:
        if self._used is None:
            self._used = sum(stored.size for stored in self.list())
        return self._used + self._coming

    def _require(self, key: str, size: int) -> None:
        """Refuse at once what cannot fit."""
        free = self.free()
        if free is not None and size > free:
            self._used = None  # others may have deleted
            if size > (self.free() or 0):
                self._refuse(key)

    def _refuse(self, key: str) -> NoReturn:
        limit = "" if self._capacity is None else f" of {format_size(self._capacity)}"
        raise StoreFull(f"{self.name}: cannot store {key}: the store{limit} is full")

    # Files

    def path(self, key: str) -> str:
        """The file that ``key`` is, or would be."""
        return self._path(key)

    def _path(self, key: str) -> str:
        check_key(key)
        return os.path.join(self._root, key[:2], key[2:4], key)

    def _status(self, key: str) -> os.stat_result:
        try:
            return os.stat(self._path(key), follow_symlinks=False)
        except FileNotFoundError:
            raise self._absent(key) from None
        except OSError as error:
            self._fail(key, "find it", error)

    def _opened(self, key: str) -> FileStorage:
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | syscalls.OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
            return FileStorage.from_fd(fd, key)
        except FileNotFoundError:
            raise self._absent(key) from None
        except (OSError, StorageError) as error:
            self._fail(key, "open it", error)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """What lies where files of keys do."""
        for outer in self._entries(self._root):
            if len(outer.name) == 2 and outer.is_dir(follow_symlinks=False):
                for inner in self._entries(outer.path):
                    if len(inner.name) == 2 and inner.is_dir(follow_symlinks=False):
                        yield from self._entries(inner.path)

    def _entries(self, path: str) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(path) as entries:
                return tuple(entries)
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._fail(path, "list it", error)

    def _absent(self, key: str) -> NotFound:
        return NotFound(f"{self.name}: there is no {key}")

    def _fail(self, key: str, what: str, error: Exception) -> NoReturn:
        _raise(self.name, key, what, error)


class _FilePutting(Putting):
    def __init__(self, store: FileStore, key: str, output: Output) -> None:
        super().__init__(key)
        self._store = store
        self._output = output
        self._counted = 0

    def _write(self, data: Buffer) -> None:
        length = memoryview(data).nbytes
        self._store.take(self.key, length)
        self._counted += length
        try:
            self._output.storage.write(self.size, data)
        except StorageError as error:
            _raise(self._store.name, self.key, "store it", error)

    def _commit(self) -> None:
        try:
            self._output.commit()
        except VmimgError as error:
            _raise(self._store.name, self.key, "store it", error)
        self._store.settle(self._counted, kept=True)

    def _abort(self) -> None:
        self._output.abort()
        self._store.settle(self._counted, kept=False)


def _raise(store: str, key: str, what: str, error: Exception) -> NoReturn:
    """Raise what ``error`` means for a store. No path is in it: the sender of an image is told."""
    if isinstance(error, OptionError):
        raise Exists(f"{store}: {key} is stored already") from error
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError):
        raise error
    reason = (cause.strerror or str(cause)).lower()
    kind = StoreFull if cause.errno in _FULL else StorageError
    raise kind(f"{store}: {key}: cannot {what}: {reason}") from error


def _make_folder(path: str) -> None:
    """A directory that outlives a loss of power, before anything is in it."""
    try:
        os.mkdir(path, _MODE)
    except FileExistsError:
        return
    _sync(os.path.dirname(path))


def _sync(path: str) -> None:
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
        os.close(fd)
