"""The files of a directory, for an image of them: what is there, and what they are called.

Links are taken as links. What an image cannot hold (sockets, devices, names that Windows cannot
have) is refused, not left out. Imports errors.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field

from vmimg.errors import OptionError, StorageError

__all__ = ["Node", "scan"]


@dataclass(slots=True, eq=False)
class Node:
    """``kind``: "directory", "file" or "link", which leads to ``target``. ``size`` in bytes;
    ``written``: nanoseconds since 1970. ``link``: equal for names of one file, else 0.
    """

    name: str
    path: str
    kind: str
    size: int = 0
    written: int = 0
    link: int = 0
    target: str = ""
    children: list[Node] = field(default_factory=list)
    sha1: bytes = bytes(20)


def scan(directory: str) -> list[Node]:
    """Everything in ``directory``, itself first, what is in a directory behind it, in the order of
    their names. Raises StorageError, OptionError for what an image cannot hold.
    """
    root = _node("", directory, {})
    if root.kind != "directory":
        raise OptionError(f"{directory}: is no directory")
    numbers: dict[tuple[int, int], int] = {}
    found = [root]
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for name in _names(node.path):
            node.children.append(_node(name, os.path.join(node.path, name), numbers))
        found += node.children
        waiting += [each for each in reversed(node.children) if each.kind == "directory"]
    # Names of one file that lie elsewhere do not count.
    groups = Counter(node.link for node in found)
    for node in found:
        if groups[node.link] == 1:
            node.link = 0
    return found


def _node(name: str, path: str, numbers: dict[tuple[int, int], int]) -> Node:
    try:
        # Windows follows the link that a user named; what lies in the image is not followed.
        status = os.stat(path) if not name else os.lstat(path)
        target = os.readlink(path) if name and stat.S_ISLNK(status.st_mode) else ""
    except OSError as error:
        raise _failure(path, error) from error
    _check(name, path)
    written = status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):
        return Node(name, path, "directory", written=written)
    if stat.S_ISLNK(status.st_mode):
        return Node(name, path, "link", written=written, target=target)
    if not stat.S_ISREG(status.st_mode):
        raise OptionError(f"{path}: is no file, directory or link, and an image holds nothing else")
    link = 0
    if status.st_nlink > 1:
        link = numbers.setdefault((status.st_dev, status.st_ino), len(numbers) + 1)
    return Node(name, path, "file", size=status.st_size, written=written, link=link)


def _check(name: str, path: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise OptionError(
            f"{path!r}: its name is no UTF-8, and cannot be said in an image"
        ) from None
    if "\\" in name:
        raise OptionError(f"{path}: has a backslash in its name, which separates names in an image")


def _names(path: str) -> list[str]:
    try:
        # Windows looks names up without regard to case.
        return sorted(os.listdir(path), key=lambda name: (name.upper(), name))
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot read it: {(error.strerror or str(error)).lower()}")
