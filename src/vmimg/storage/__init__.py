"""Where the bytes of an image live. ``open`` picks the class; nothing above asks the system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vmimg.errors import StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.file import FileStorage, Mode

if TYPE_CHECKING:
    from vmimg.storage.memory import MemoryStorage
    from vmimg.storage.output import Output, OutputSet
    from vmimg.storage.slice import SliceStorage
    from vmimg.storage.stream import StreamSink, outer_compression, spool

__all__ = [
    "Buffer",
    "FileStorage",
    "MemoryStorage",
    "Mode",
    "Output",
    "OutputSet",
    "SliceStorage",
    "Storage",
    "StreamSink",
    "folder_sizes",
    "hand_over",
    "open",
    "outer_compression",
    "spool",
]

_LAZY = {
    "MemoryStorage": "memory",
    "Output": "output",
    "OutputSet": "output",
    "SliceStorage": "slice",
    "StreamSink": "stream",
    "outer_compression": "stream",
    "spool": "stream",
}


def open(path: str | os.PathLike[str], mode: Mode = "r", *, lock: bool = True) -> Storage:
    """The bytes at ``path``: a regular file or a block device.

    ``mode``: ``"r"``; ``"rw"``, it must exist; ``"create"``, made or emptied. ``lock=False`` takes
    none of QEMU's image locks, to read what a running machine writes. Raises StorageError,
    InUseError.
    """
    if mode == "r" and path in _handed:
        return FileStorage.from_fd(os.dup(_handed[os.fspath(path)]), os.fspath(path))
    return FileStorage(path, mode, lock=lock)


_handed: dict[str, int] = {}


def hand_over(path: str, fd: int) -> None:
    """From now on, ``path`` opened for reading is ``fd``, an open descriptor, and nothing else.

    For a process that was given a file and may open none by itself.
    """
    _handed[path] = fd


def folder_sizes(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes of the files in a directory: as listed, and as allocated on its medium."""
    try:
        with os.scandir(path) as entries:
            found = [entry.stat() for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"{os.fspath(path)}: cannot list it: {reason}") from error
    # 512: the unit of st_blocks. Windows has none.
    blocks = (getattr(status, "st_blocks", -(-status.st_size // 512)) for status in found)
    return sum(status.st_size for status in found), 512 * sum(blocks)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        value = getattr(importlib.import_module(f"vmimg.storage.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
