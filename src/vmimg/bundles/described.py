"""Bundles that are a machine's own directory: a description, and the disks that it names.

VMware's, VirtualBox's, Parallels' and Hyper-V's differ in the dialect and in where disks lie; what
is the same is here: which file describes the machine, and which files its drives are. It makes no
difference whether the directory is one, or is packed in an archive. Imports machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.errors import FormatError, StorageError
from vmimg.formats.registry import find as find_format
from vmimg.machines.model import Drive, Machine
from vmimg.machines.registry import find
from vmimg.storage.folder import Folder, joined

__all__ = [
    "Described",
    "description_in",
    "drive_disks",
    "elsewhere",
    "not_there",
    "only",
    "renamed",
]

_MAX_BYTES: Final = 64 << 20
# Of descriptions beside each other in one archive.
_MAX_DESCRIPTIONS: Final = 256
_MAX_DISKS: Final = 1024


class Described(Bundle):
    """One machine: ``index`` is the member that describes it, in ``dialect``."""

    def __init__(
        self,
        folder: Folder,
        kind: str,
        index: str,
        dialect: str,
        *,
        read: Callable[[Folder, str], tuple[Machine, ...]] | None = None,
        member_of: Callable[[Folder, str, Drive], str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self.kind = kind  # type: ignore[misc]
        data_name = f"{folder.name}:{index}"
        if read is not None:
            self.machines = read(folder, index)
        else:
            self.machines = find(dialect).read(folder.read(index, _MAX_BYTES), data_name)
        self.disks = drive_disks(self.machines, folder, index, member_of)
        away = elsewhere(self.machines)
        self.facts = {
            "description": index,
            **({"disks-elsewhere": away} if away else {}),
            **(facts or {}),
        }


def description_in(folder: Folder, extensions: tuple[str, ...]) -> str:
    """The member that describes the machine: the one that was named, or the one there is: of the
    first of ``extensions`` that any has, the outermost. Raises FormatError where there is none, or
    several of the same depth.
    """
    if folder.index:
        return folder.index
    names = [name for name in folder.names() if not _is_shadow(name)]
    for extension in extensions:
        found = [name for name in names if name.lower().endswith(extension)]
        if found:
            return only(folder, found)
    raise FormatError(f"{folder.name}: there is no {' or '.join(extensions)} in it")


def only(folder: Folder, found: Sequence[str]) -> str:
    """The outermost of ``found`` descriptions. Raises FormatError where there are several."""
    depth = min(name.count("/") for name in found)
    outer = [name for name in found if name.count("/") == depth][:_MAX_DESCRIPTIONS]
    if len(outer) > 1:
        raise FormatError(
            f"{folder.name}: describes several machines: open one of {', '.join(outer[:8])}"
        )
    return outer[0]


def _is_shadow(name: str) -> bool:
    """Whether it is what macOS puts beside each file in archives for other systems."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def drive_disks(
    machines: tuple[Machine, ...],
    folder: Folder,
    index: str,
    member_of: Callable[[Folder, str, Drive], str] | None = None,
) -> tuple[BundleDisk, ...]:
    """The disks of ``machines``, in the order of their drives. Those that are no files (devices of
    the host, volumes) are left out: see `elsewhere`. Raises UnsafeImage where a drive names what
    lies outside of ``folder``, StorageError where it is not there.
    """
    disks: list[BundleDisk] = []
    for at, machine in enumerate(machines):
        for number, drive in enumerate(machine.drives):
            if drive.device != "disk" or drive.source != "file":
                continue
            if len(disks) >= _MAX_DISKS:
                raise FormatError(f"{folder.name}: describes more than {_MAX_DISKS} disks")
            member = (member_of or _beside)(folder, index, drive) if drive.path else ""
            disks.append(
                BundleDisk(
                    f"disk{len(disks) + 1}",
                    member,
                    drive.format if member else "",
                    drive.size,
                    (at, number),
                )
            )
    return tuple(disks)


def elsewhere(machines: tuple[Machine, ...]) -> list[str]:
    """What the disks that are no files in the bundle are on their host."""
    return [
        drive.path
        for machine in machines
        for drive in machine.drives
        if drive.device == "disk" and drive.source != "file"
    ]


def not_there(folder: Folder, drive: Drive) -> StorageError:
    """The disk of ``drive`` did not come along."""
    return StorageError(
        f"{folder.name}: its disk '{drive.path}' is not in it, and is looked for nowhere else"
    )


def _beside(folder: Folder, index: str, drive: Drive) -> str:
    """The member that ``drive`` of a description in member ``index`` is.

    A directory that is an image (Parallels') is opened by its index.
    """
    member = joined(index, drive.path)
    if folder.exists(member):
        return member
    if drive.format:
        inside = find_format(drive.format).index
        if inside and folder.exists(f"{member}/{inside}"):
            return f"{member}/{inside}"
    try:
        folder.open(member).close()
    except StorageError:
        pass  # a link that leads out is another thing than a file that is missing
    raise not_there(folder, drive)


def renamed(machine: Machine, paths: Mapping[int, tuple[str, str]]) -> Machine:
    """``machine`` with (path, format) for the drives of these numbers."""
    drives = list(machine.drives)
    for number, (path, format) in paths.items():
        drives[number] = replace(drives[number], path=path, format=format, source="file")
    return replace(machine, drives=tuple(drives))
