"""Output that appears under its name only when it is complete and durable.

On Linux the file has no name until then (O_TMPFILE), so that even a kill -9 leaves nothing. Where
the file system cannot do that (NFS, some overlays) or the platform, it has a name beside the target
that ends in ``.vmimg-part``, and is removed on any failure that a process lives to see.

Several files that belong together (an image and its data file) go through one OutputSet; so does an
image that is a directory. A directory cannot be without a name: it is made under one that ends in
``.vmimg-part`` and renamed.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Self

from vmimg.errors import OptionError, StorageError
from vmimg.storage import locks, syscalls
from vmimg.storage.file import FileStorage
from vmimg.storage.output_folder import OutputFolder, close_fd, part_name

__all__ = ["Output", "OutputSet"]

_TMPFILE = getattr(os, "O_TMPFILE", 0)
# What kernels and file systems without O_TMPFILE answer; those that do not know the flag see an
# attempt to write to a directory.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
# os.link follows a symbolic link for certain when it is given a directory: without one CPython
# calls link(2), which on Linux does not.
_CAN_LINK = bool(_TMPFILE) and os.link in os.supports_dir_fd


class Output:
    """A file that is being made. ``with Output(path) as storage: ...`` commits at the end of the
    block and leaves nothing behind when the block raises.

    ``storage`` is empty, open for reading and writing, and closed by commit or abort. Symbolic
    links are written through: what they point to is made or replaced. A block device is written in
    place: ``storage.is_device`` is true, its old content shows through, commit is a flush, abort
    leaves what was written.

    Raises OptionError, now and again at commit, when ``path`` exists and ``replace`` is false, and
    InUseError when the existing file is locked by another process (a running virtual machine). A
    replaced file passes on its permission bits, and its owner where the system allows that.
    """

    path: str
    """As the caller named it."""
    storage: FileStorage

    def __init__(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        self.path = os.fspath(path)
        self._replace = replace
        self._directory_fd = -1
        self._part: str | None = None
        self._old: str | None = None
        self._keep = False
        self._done = False
        if not self.path or "\0" in self.path:
            raise OptionError(f"{self.path!r} is not a path to write to")
        # Windows spells a drive's root with a separator too.
        if self.path.endswith(os.sep):
            raise StorageError(f"{self.path}: cannot write it: it names a directory")
        self._target = os.path.realpath(self.path)
        status = self._existing()
        if status is not None and stat.S_ISBLK(status.st_mode):
            self.storage = FileStorage(self.path, "rw")
            return
        self._check_target()
        self._directory, self._base = os.path.split(self._target)
        try:
            self.storage = self._create()
            if status is not None:
                _pass_on(self.storage.fileno(), status)
        except OSError as error:
            self._discard()
            raise self._failure("cannot create it", error) from error
        except BaseException:
            self._discard()
            raise

    # The context manager hands out the storage: all that the code inside the block needs.

    def __enter__(self) -> FileStorage:
        return self.storage

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def commit(self) -> None:
        """Make the content durable, then give it its name. A second call does nothing.

        After an error nothing is left, and an existing file is untouched.
        """
        if self._done:
            return
        try:
            self._prepare()
            self._publish()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Throw it away. Does nothing once committed."""
        if not self._done:
            self._discard()

    # In two steps for OutputSet: everything that may take long or fail, then the name.

    def _prepare(self) -> None:
        try:
            syscalls.sync(self.storage.fileno(), everything=True)
        except OSError as error:
            raise self._failure("cannot make its content durable", error) from error
        if not self.storage.is_device:
            self._check_target()

    def _publish(self) -> bool:
        """Returns whether a name was made that did not exist before."""
        if self.storage.is_device:
            self._done = True
            self.storage.close()
            return False
        try:
            self._set_aside()
            made = self._name_it()
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise self._failure("cannot give the finished file its name", error) from error
        self._done = True
        self._part = None
        try:
            self.storage.close()
            self._sync_directory()
        except BaseException:
            if made or self._old is not None:
                self._unpublish()
            raise
        finally:
            self._close_directory()
        return made or self._old is not None

    def _unpublish(self) -> None:
        """Take back a name that ``_publish`` made, or give it back to the file that had it."""
        if self._old is not None:
            self._put_back()
            return
        try:
            os.unlink(self._target)
        except OSError:
            pass

    def _set_aside(self) -> None:
        """Give the file that is replaced another name besides, as long as the set can fail."""
        if not self._keep or not self._replace or not os.path.lexists(self._target):
            return
        old = self._join(part_name(self._base))
        try:
            os.link(self._target, old)
        except OSError as error:
            if error.errno not in syscalls.UNSUPPORTED and error.errno != errno.EPERM:
                raise
            # No hard links (FAT, some network file systems): for a moment there is no file.
            os.rename(self._target, old)
        self._old = old

    def _put_back(self) -> None:
        if self._old is None:
            return
        try:
            os.replace(self._old, self._target)
            # Of two names for one file rename(2) takes none away.
            if os.path.lexists(self._old):
                os.unlink(self._old)
            self._old = None
        except OSError:
            pass  # it lies beside, by a name that tells

    def _forget_old(self) -> None:
        """The set is complete."""
        if self._old is None:
            return
        try:
            os.unlink(self._old)
        except OSError:
            pass
        self._old = None

    def _name_it(self) -> bool:
        directory = self._directory_fd
        if self._part is not None:
            # Windows renames no open file.
            if os.name == "nt":
                self.storage.close()
            if not self._replace:
                return self._rename_part_to_new()
            os.replace(self._join(self._part), self._target)
            return False
        source = f"/proc/self/fd/{self.storage.fileno()}"
        try:
            os.link(source, self._base, src_dir_fd=directory, dst_dir_fd=directory)
            return True
        except FileExistsError:
            if not self._replace:
                raise
        # link(2) does not replace, so that the file needs a name for the moment before rename(2).
        part = part_name(self._base)
        os.link(source, part, src_dir_fd=directory, dst_dir_fd=directory)
        self._part = part
        os.rename(part, self._base, src_dir_fd=directory, dst_dir_fd=directory)
        return False

    def _rename_part_to_new(self) -> bool:
        """rename(2) replaces: where links exist, link and unlink do not, and races are decided."""
        assert self._part is not None
        part = self._join(self._part)
        if os.name == "nt":
            os.rename(part, self._target)  # refuses to replace there
            return True
        try:
            os.link(part, self._target)
        except OSError as error:
            if error.errno not in syscalls.UNSUPPORTED and error.errno != errno.EPERM:
                raise
            # No hard links (FAT, some network file systems): as near as one gets.
            if os.path.lexists(self._target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(part, self._target)
        else:
            os.unlink(part)
        return True

    def _create(self) -> FileStorage:
        flags = os.O_RDWR | syscalls.OPEN_FLAGS
        if hasattr(os, "O_DIRECTORY"):
            self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | flags & ~3)
        # Naming it later goes through /proc, which a bare chroot lacks.
        if _CAN_LINK and os.path.exists("/proc/self/fd"):
            try:
                fd = os.open(".", flags | _TMPFILE, 0o666, dir_fd=self._directory_fd)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
            else:
                return FileStorage.from_fd(fd, self.path, writable=True)
        self._part = part_name(self._base)
        fd = os.open(self._join(self._part), flags | os.O_CREAT | os.O_EXCL, 0o666)
        storage = FileStorage.from_fd(fd, self.path, writable=True)
        # It can be seen, and so be opened, by others.
        locks.take(fd, self.path, write=True)
        return storage

    def _check_target(self) -> None:
        """Raise what forbids to make or replace the target as it is now."""
        status = self._existing()
        if status is None:
            return
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no file and no block device"
            raise StorageError(
                f"{self.path}: cannot write it: it is {kind}; - writes to standard output"
            )
        if not self._replace:
            raise self._exists()
        try:
            fd = os.open(self._target, os.O_RDONLY | syscalls.OPEN_FLAGS)
        except OSError:
            return  # whoever may not read it may replace it all the same
        try:
            locks.check(fd, self.path, write=True)
        finally:
            close_fd(fd)

    def _existing(self) -> os.stat_result | None:
        try:
            return os.stat(self._target)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("cannot create it", error) from error

    def _discard(self) -> None:
        self._done = True
        self._put_back()
        try:
            if hasattr(self, "storage"):
                self.storage.close()
        except StorageError:
            pass  # it goes away in any case
        if self._part is not None:
            try:
                os.unlink(self._join(self._part))
            except OSError:
                pass
            self._part = None
        self._close_directory()

    def _sync_directory(self) -> None:
        if self._directory_fd < 0:
            return
        try:
            os.fsync(self._directory_fd)
        except OSError as error:
            # Some file systems cannot sync a directory, and say so.
            if error.errno not in syscalls.UNSUPPORTED:
                raise self._failure("cannot make its name durable", error) from error

    def _close_directory(self) -> None:
        fd, self._directory_fd = self._directory_fd, -1
        if fd >= 0:
            close_fd(fd)

    def _join(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _exists(self) -> OptionError:
        return OptionError(f"{self.path} exists; pass --force to replace it")

    def _failure(self, what: str, error: OSError) -> StorageError:
        reason = (error.strerror or str(error)).lower()
        return StorageError(f"{self.path}: {what}: {reason}")


class OutputSet:
    """Outputs that belong together: all of them appear, or none.

    ``with OutputSet() as outputs: data = outputs.add("a.data"); image = outputs.add("a.qcow2")``.
    At the end of the block every file is made durable and checked first; then they get their names
    in the order of ``add``, so what others refer to comes first. Should one of those last steps
    fail, the names made before it are taken back, and files that they replaced are put back. (Until
    the last has its name those lie beside, as ``.vmimg-part``: a kill -9 just then leaves them.)
    """

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._folders: list[OutputFolder] = []

    def folder(self, path: str | os.PathLike[str], index: str, *, replace: bool = False) -> str:
        """A directory that will be called ``path`` and holds the file ``index`` besides others: the
        path of it as long as it is being made, for `add`.

        Raises OptionError where ``path`` exists and ``replace`` is false, StorageError where what
        is there is no directory with an ``index`` in it.
        """
        made = OutputFolder(os.fspath(path), index, replace=replace)
        self._folders.append(made)
        return made.part

    def add(self, path: str | os.PathLike[str], *, replace: bool = False) -> FileStorage:
        """A new file at ``path``, see Output; closed by commit or abort."""
        added = Output(path, replace=replace)
        self._outputs.append(added)
        return added.storage

    def commit(self) -> None:
        """All of them, in order."""
        made: list[Output] = []
        try:
            for each in self._outputs:
                each._prepare()
                each._keep = len(self._outputs) + len(self._folders) > 1
            # Not extend: what was made before an error must be known then.
            for each in self._outputs:
                if each._publish():
                    made.append(each)  # noqa: PERF401
            for folder in self._folders:
                folder.publish()
        except BaseException:
            for each in reversed(made):
                each._unpublish()
            self.abort()
            raise
        for each in made:
            each._forget_old()

    def abort(self) -> None:
        """Throw away those that are not committed."""
        for each in self._outputs:
            each.abort()
        for folder in self._folders:
            folder.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


def _pass_on(fd: int, status: os.stat_result) -> None:
    """Give a file the permission bits of the one that it will replace, and its owner if allowed."""
    if not hasattr(os, "fchmod"):
        return
    # The owner first: chown takes bits away.
    if os.geteuid() == 0:
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except OSError:
            pass
    os.fchmod(fd, stat.S_IMODE(status.st_mode) & 0o777)
