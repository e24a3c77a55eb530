"""Hyper-V's exports: a description, disks and snapshots in a directory, or packed as one.

    Virtual Machines/<guid>.vmcx (.xml before Windows Server 2016, .exp in 2008) and <guid>.vmrs
    Virtual Hard Disks/<name>.vhdx, and <name>_<guid>.avhdx for what came after a snapshot
    Snapshots/<guid>.vmcx or .xml: a whole description of each state that was kept

Disks are named by where they lay on the host that exported them: what counts is their last name,
which is looked for in the export and nowhere else.

What is made is an export of Windows Server 2012 R2: an .xml of version 5.0, which hosts up to
Windows Server 2019 import (`machines.dialects.hyperv_xml` has the sources). Hyper-V names files by
absolute paths, so ours name a place on the host, which is an option; from another one,
`Import-VM -Copy -VhdSourcePath` takes the disks (PowerShell's module Hyper-V). No Hyper-V has
imported one: dissect.target opens it, and Vagrant's own code finds its files. Imports described,
foldering and machines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vmimg.bundles.bundle import Bundle
from vmimg.bundles.described import Described, description_in, not_there, only
from vmimg.bundles.foldering import make_folder
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.vmware import file_stem
from vmimg.errors import FormatError, OptionError, StorageError, UnsafeImage, VmimgError
from vmimg.formats.registry import find as find_format
from vmimg.machines.dialects import hyperv_exp, hyperv_xml, vmcx
from vmimg.machines.model import Drive, Machine, Snapshot
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder

__all__ = ["check_format", "description_name", "disk_path", "make", "open"]

_FOLDERS: Final = ("Virtual Machines", "Virtual Hard Disks", "Snapshots")
_MACHINES, _DISKS, _SNAPSHOTS = (name.lower() for name in _FOLDERS)
_FORMAT: Final = "vhdx"
_READERS: Final[Mapping[str, Any]] = {".vmcx": vmcx, ".xml": hyperv_xml, ".exp": hyperv_exp}
_MAX_BYTES: Final = 64 << 20
_MAX_SNAPSHOTS: Final = 256
_MAX_KEPT: Final = 16 << 20
_MAX_CHAIN: Final = 256


def open(folder: Folder, claim: Claim) -> Bundle:
    """The machine in ``folder``."""
    index = _index(folder)
    root = _root(index)
    kept = _kept(folder, root)
    facts: dict[str, Any] = {"snapshots": kept} if kept else {}
    return Described(folder, "hyperv", index, "", read=_read, member_of=_member, facts=facts)


def make(package: Package, target: str, how: How) -> Made:
    """A directory as Hyper-V of Windows Server 2012 R2 exports it."""
    machine = package.machine
    check_format(machine, how.format or _FORMAT)
    place = str(how.options.get("location") or f"C:\\Hyper-V\\{file_stem(machine)}")
    return make_folder(
        package, target, how, format=_FORMAT, dialect="hyperv-xml",
        description=description_name(machine), disks_in=_FOLDERS[1], folders=_FOLDERS,
        settle=lambda machine, package, folder: _located(machine, package, place),
    )  # fmt: skip


def description_name(machine: Machine) -> str:
    """The member that describes ``machine``, as it is before its disks are made."""
    return f"{_FOLDERS[0]}/{hyperv_xml.machine_id(machine)}.xml"


def disk_path(name: str) -> str:
    """The member that is the disk with that file name."""
    return f"{_FOLDERS[1]}/{name}"


def check_format(machine: Machine, format: str) -> None:
    """Raises OptionError for disks that ``machine`` would not boot from."""
    if machine.firmware.kind == "uefi" and format == "vhd":
        raise OptionError("a machine of generation 2, with UEFI, takes disks in vhdx only")


def _located(machine: Machine, package: Package, place: str) -> Machine:
    """``machine`` with the paths that its disks have on the host."""
    drives = list(machine.drives)
    for packed in package.disks:
        drive = drives[packed.drive]
        path = f"{place.rstrip('/').rstrip(chr(92))}/{disk_path(drive.path)}"
        drives[packed.drive] = replace(drive, path=path.replace("/", "\\"))
    return replace(machine, drives=tuple(drives))


def _index(folder: Folder) -> str:
    """The description of the machine, of which its snapshots are not one."""
    if folder.index:
        return folder.index
    names = [name for name in folder.names() if _SNAPSHOTS not in name.lower().split("/")[:-1]]
    for extension in _READERS:
        inside = [
            name
            for name in names
            if name.lower().endswith(extension) and _MACHINES in name.lower().split("/")[:-1]
        ]
        if inside:
            return only(folder, inside)
    return description_in(folder, (".vmcx",))


def _root(index: str) -> str:
    """The directory of the export in which ``index`` is: "" or one that ends in a slash."""
    parts = index.split("/")[:-1]
    if parts and parts[-1].lower() in (_MACHINES, _SNAPSHOTS):
        parts.pop()
    return "".join(f"{part}/" for part in parts)


def _kept(folder: Folder, root: str) -> list[str]:
    """The descriptions of snapshots."""
    head = f"{root.lower()}{_SNAPSHOTS}/"
    found = [
        name
        for name in folder.names()
        if name.lower().startswith(head)
        and name.count("/") == head.count("/")
        and name.lower().endswith((".vmcx", ".xml"))
    ]
    if len(found) > _MAX_SNAPSHOTS:
        raise FormatError(f"{folder.name}: has {len(found)} snapshots, more than {_MAX_SNAPSHOTS}")
    if sum(folder.size(name) for name in found) > _MAX_KEPT:
        raise FormatError(f"{folder.name}: the descriptions of its snapshots are too large")
    return found


def _member(folder: Folder, index: str, drive: Drive) -> str:
    """The member that is the disk: of several of its name, the one whose path is most alike."""
    wanted = [part.lower() for part in re.split(r"[\\/]", drive.path)]
    root = _root(index).lower()
    found = [
        name
        for name in folder.names()
        if name.lower().startswith(root) and name.lower().rpartition("/")[2] == wanted[-1]
    ]
    if not found or not wanted[-1]:
        raise not_there(folder, drive)
    return max(found, key=lambda name: (_alike(name, wanted), f"/{_DISKS}/" in f"/{name.lower()}"))


def _alike(name: str, wanted: list[str]) -> int:
    """How many parts are the same, from the end."""
    pairs = zip(reversed(name.lower().split("/")), reversed(wanted), strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(wanted))


def _read(folder: Folder, index: str) -> tuple[Machine, ...]:
    """The machine, with the snapshots that lie beside."""
    machine = _machine(folder, index)
    kept = {name: _machine(folder, name) for name in _kept(folder, _root(index))}
    if not kept:
        return (machine,)
    return (replace(machine, snapshots=_snapshots(folder, index, machine, kept)),)


def _machine(folder: Folder, name: str) -> Machine:
    reader = _READERS.get(os.path.splitext(name)[1].lower(), hyperv_xml)
    found: tuple[Machine, ...] = reader.read(folder.read(name, _MAX_BYTES), f"{folder.name}:{name}")
    return found[0]


def _snapshots(
    folder: Folder, index: str, machine: Machine, kept: Mapping[str, Machine]
) -> tuple[Snapshot, ...]:
    """Parents before children. Which follows which, the chains of disks tell."""
    ids = {name: os.path.splitext(name.rpartition("/")[2])[0].lower() for name in kept}
    disks = {name: _disk(folder, index, each) for name, each in kept.items()}
    owners = {disk: ids[name] for name, disk in disks.items() if disk}
    current = _nearest(folder, _disk(folder, index, machine), owners)
    found = {}
    for name, each in kept.items():
        reader = _READERS[os.path.splitext(name)[1].lower()]
        found[ids[name]] = Snapshot(
            id=ids[name],
            name=each.name,
            description=each.description,
            parent=_nearest(folder, disks[name], owners),
            created=reader.read_created(folder.read(name, _MAX_BYTES), name),
            current=ids[name] == current,
            drives=each.drives,
            memory=_memory(folder, name),
        )
    return _parents_first(found)


def _parents_first(found: Mapping[str, Snapshot]) -> tuple[Snapshot, ...]:
    order: list[Snapshot] = []
    waiting = [""]
    by_time = sorted(found.values(), key=lambda each: (each.created, each.id))
    while waiting:
        parent = waiting.pop()
        below = [
            each for each in by_time if (each.parent if each.parent in found else "") == parent
        ]
        order += [each for each in by_time if parent and each.id == parent]
        waiting += [each.id for each in reversed(below)]
    return tuple(order)


def _disk(folder: Folder, index: str, machine: Machine) -> str:
    """The member of the first disk; "" where there is none."""
    for drive in machine.drives:
        if drive.device == "disk" and drive.source == "file" and drive.path:
            try:
                return _member(folder, index, drive)
            # A snapshot is told, though its disk did not come along.
            except (StorageError, UnsafeImage):
                return ""
    return ""


def _nearest(folder: Folder, disk: str, owners: Mapping[str, str]) -> str:
    """The snapshot of the nearest parent of ``disk``; "" for none."""
    seen = {disk}
    while disk and len(seen) < _MAX_CHAIN:
        disk = _parent(folder, disk)
        if disk in owners:
            return owners[disk]
        if disk in seen:
            break
        seen.add(disk)
    return ""


def _parent(folder: Folder, disk: str) -> str:
    """The member that a differencing disk names as its parent; "" for none."""
    format = "vhdx" if disk.lower().endswith("vhdx") else "vhd"
    try:
        with folder.open(disk) as storage:
            parent = find_format(format).driver().inspect(storage).parent
    except VmimgError:  # whoever opens the disk will say why
        return ""
    for named in (parent.path, *parent.alternatives) if parent is not None else ():
        wanted = [part.lower() for part in re.split(r"[\\/]", named)]
        found = [name for name in folder.names() if name.lower().rpartition("/")[2] == wanted[-1]]
        if wanted[-1] and found:
            return max(found, key=lambda name: _alike(name, wanted))
    return ""


def _memory(folder: Folder, name: str) -> str:
    """The file with the memory of a machine that ran when the snapshot was made."""
    stem = os.path.splitext(name)[0]
    last = stem.rpartition("/")[2]
    for member in (f"{stem}/{last}.bin", f"{stem}.vmrs", f"{stem}.VMRS"):
        if folder.exists(member):
            return member
    return ""
