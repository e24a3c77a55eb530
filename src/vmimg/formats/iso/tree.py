"""The tree of files that a disc is made of: scanned from a directory, or put together.

Names and times are settled here; file contents are opened one after the other, when they are
copied. The order is that of the names, so that equal trees make equal discs. Imports errors only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from vmimg.errors import OptionError, StorageError
from vmimg.formats.iso.names import iso_directory_name, iso_file_name, joliet_name, unique

__all__ = ["Node", "scan"]

_SPECIAL: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(slots=True)
class Node:
    """A file, directory or symbolic link.

    ``mode``: type and permissions as of stat. ``mtime`` in seconds since the epoch. ``source``: the
    path of a file's content, or the content; ``target``: what a link points to. ``iso_name`` and
    ``joliet_name`` are those on the disc, set by `settle`.
    """

    name: str
    mode: int
    mtime: int
    source: str | bytes = b""
    size: int = 0
    target: str = ""
    children: list[Node] = field(default_factory=list)
    iso_name: str = ""
    joliet_name: str = ""

    @property
    def kind(self) -> Literal["file", "directory", "link"]:
        if stat.S_ISDIR(self.mode):
            return "directory"
        return "link" if stat.S_ISLNK(self.mode) else "file"

    def walk(self) -> Iterator[Node]:
        """All nodes from this one down, parents first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.children)

    def find(self, path: str) -> Node | None:
        """The node at ``path``, relative to this one."""
        node = self
        for part in path.split("/"):
            if part in ("", "."):
                continue
            found = next((child for child in node.children if child.name == part), None)
            if found is None:
                return None
            node = found
        return node

    def add(self, child: Node) -> Node:
        """Put ``child`` into this directory, under a name that is free; returns it."""
        names = [other.name for other in self.children]
        child.name = unique([child.name], _numbered, names)[0]
        self.children.append(child)
        return child

    def settle(self, reserved: tuple[str, ...] = ()) -> None:
        """Sort what is below, and give it its names on the disc. ``reserved``: names of ISO 9660
        that nothing in this directory may have.
        """
        for node in self.walk():
            node.children.sort(key=lambda child: child.name.encode())
            files = [child for child in node.children if child.kind != "directory"]
            folders = [child for child in node.children if child.kind == "directory"]
            taken = list(reserved) if node is self else []
            names = unique((child.name for child in folders), iso_directory_name, taken)
            for child, name in zip(folders, names, strict=True):
                child.iso_name = name
            # A file without an extension would be called like a directory, but for the dot.
            taken += [f"{name}.;1" for name in names]
            names = unique((child.name for child in files), iso_file_name, taken)
            for child, name in zip(files, names, strict=True):
                child.iso_name = name
            names = unique((child.name for child in node.children), joliet_name)
            for child, name in zip(node.children, names, strict=True):
                child.joliet_name = name


def scan(directory: str, leave_out: str, skipped: list[str]) -> Node:
    """The tree below ``directory``. Symbolic links stay what they are and are not followed.

    What no disc can hold (pipes, sockets, devices) goes into ``skipped``, with a reason; so does
    the file ``leave_out``, the disc's own. Raises StorageError, and OptionError for a name that is
    no text.
    """
    try:
        status = os.stat(directory)
    except OSError as error:
        raise _failure(directory, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise OptionError(f"{directory}: is not a directory; name the one that holds the files")
    try:
        own = os.stat(leave_out)
        identity = (own.st_dev, own.st_ino)
    except OSError:
        identity = None
    root = Node("", status.st_mode, int(status.st_mtime))
    pending = [(root, directory)]
    while pending:
        parent, folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise _failure(folder, error) from error
        for entry in found:
            node = _node(entry, identity, skipped)
            if node is None:
                continue
            parent.children.append(node)
            if node.kind == "directory":
                pending.append((node, entry.path))
    return root


def _node(entry: os.DirEntry[str], own: tuple[int, int] | None, skipped: list[str]) -> Node | None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise OptionError(
            f"{entry.path!r}: the name is not UTF-8, which names on a disc are; rename it"
        ) from None
    try:
        status = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else ""
        target.encode()
    except OSError as error:
        raise _failure(entry.path, error) from error
    except UnicodeEncodeError:
        raise OptionError(f"{entry.path}: points to a name that is not UTF-8") from None
    special = _SPECIAL.get(stat.S_IFMT(status.st_mode))
    if special is not None:
        skipped.append(f"{entry.path}: left out: {special} has no place on a disc")
        return None
    if own == (status.st_dev, status.st_ino):
        skipped.append(f"{entry.path}: left out: it is the image that is being made")
        return None
    regular = stat.S_ISREG(status.st_mode)
    return Node(
        entry.name,
        status.st_mode,
        int(status.st_mtime),
        source=entry.path if regular else b"",
        size=status.st_size if regular else 0,
        target=target,
    )


def _numbered(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if suffix else name


def _failure(path: str, error: OSError) -> StorageError:
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{path}: cannot read it: {reason}")
