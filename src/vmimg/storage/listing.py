"""What a directory holds, by name and kind: enough to see what it is without opening anything.

Apart from the files so that whoever looks at strangers' directories has one bounded way to do it.
Imports errors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice

from vmimg.errors import StorageError

__all__ = ["Entry", "listed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """``kind``: "file", "folder", "link", or "other" (pipes, devices, sockets). ``size`` in bytes,
    0 of what is no file.
    """

    name: str
    kind: str
    size: int = 0


def listed(path: str | os.PathLike[str], limit: int) -> tuple[Entry, ...]:
    """The first ``limit`` entries of the directory at ``path``, by name. Links are not followed.

    Raises StorageError where it cannot be listed.
    """
    try:
        with os.scandir(path) as entries:
            found = [_entry(entry) for entry in islice(entries, limit)]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"{os.fspath(path)}: cannot list it: {reason}") from error
    return tuple(sorted(found, key=lambda entry: entry.name))


def _entry(entry: os.DirEntry[str]) -> Entry:
    # A name that is no text would break whoever prints it.
    name = entry.name.encode("utf-8", "replace").decode()
    if entry.is_symlink():
        return Entry(name, "link")
    if entry.is_dir(follow_symlinks=False):
        return Entry(name, "folder")
    if entry.is_file(follow_symlinks=False):
        return Entry(name, "file", entry.stat(follow_symlinks=False).st_size)
    return Entry(name, "other")
