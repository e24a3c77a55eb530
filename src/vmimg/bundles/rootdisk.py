"""The part of a disk that a kernel is given as its root: a partition, or all of a disk without.

Where a kernel is loaded from outside, the disk beside it is a bare file system. Imports disk and
the raw format's findings.
"""

from __future__ import annotations

from typing import Final

from vmimg.disk.stack import Disk
from vmimg.disk.views import RangeLayer
from vmimg.errors import OptionError
from vmimg.formats.raw.contents import Contents, Partition, examine
from vmimg.storage.view import ReadOnlyStorage
from vmimg.units import format_size

__all__ = ["DiskStorage", "root_of"]

_TABLES: Final = ("mbr", "gpt", "apm")
_ROOTS: Final = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "squashfs")


class DiskStorage(ReadOnlyStorage):
    """What the guest sees, as bytes to look at. Does not own the disk."""

    def __init__(self, disk: Disk) -> None:
        self.name = disk.name
        self.size = disk.size
        self._disk = disk

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)

    def close(self) -> None:
        pass


def root_of(disk: Disk, number: int = 0) -> tuple[Disk, str]:
    """The root file system on ``disk`` as a disk of its own, and what it was found as, in words.

    ``number``: of the partition that is wanted; 0 for the only one that can be it. Raises
    OptionError where there is none, or more than one.
    """
    found = examine(DiskStorage(disk))
    if found.kind not in _TABLES:
        if number:
            raise OptionError(f"{disk.name}: has no partitions, and so no partition {number}")
        return disk, found.title()
    inside = [part for part in found.partitions if part.start + part.size <= disk.size]
    if number:
        chosen = [part for part in inside if part.number == number]
    else:
        chosen = [part for part in inside if _can_be_root(part.contents)]
    if len(chosen) != 1:
        numbers = ", ".join(_told(part) for part in (chosen or inside)) or "none"
        problem = "several partitions that can be the root" if chosen else "no such partition"
        raise OptionError(
            f"{disk.name}: has {problem}: say which with the option partition=NUMBER ({numbers})"
        )
    part = chosen[0]
    return Disk([RangeLayer(disk, part.start, part.size)]), f"partition {_told(part)}"


def _can_be_root(contents: Contents | None) -> bool:
    return contents is not None and contents.kind == "filesystem" and contents.name in _ROOTS


def _told(part: Partition) -> str:
    what = part.contents.title() if part.contents is not None else part.type_name or part.type
    return f"{part.number}: {what}, {format_size(part.size)}"
