"""pack and repack: disks and a machine into a bundle, from one bundle into another.

Nothing is unpacked on the way: the disk of one bundle is read in place while the other is written.
Imports opening, sources and transfer.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import Any, Final

from vmimg import storage as storages
from vmimg.bundles.booting import initrds_in, kernels_in
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.kind import BundleKind
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.registry import by_extension, find
from vmimg.bundles.sources import open_disk
from vmimg.codecs import find_level
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError
from vmimg.formats.keys import Keys, as_keys
from vmimg.machines.losses import Loss, graded
from vmimg.machines.model import CPUs, Drive, Machine, Network
from vmimg.storage.base import Storage
from vmimg.transfer.engine import Progress
from vmimg.units import GIB

__all__ = ["DEFAULT_MACHINE", "Packed", "over_all", "pack", "packaged", "repack"]

_DEFAULT_POLICY: Final = ParentPolicy()
DEFAULT_MACHINE: Final = Machine(
    architecture="x86_64", cpus=CPUs(count=1), memory=GIB, networks=(Network(kind="nat"),)
)
"""What a disk becomes when nobody says what machine it is of."""
# Letters of names of disks inside of bundles: a tar's old header has room for 100.
_LONGEST: Final = 60


@dataclass(frozen=True, slots=True)
class Packed:
    """What was made: ``kind`` by its name, ``path``, ``size`` in bytes of all its files, ``disks``:
    their virtual sizes; ``losses``: what the bundle cannot say of the machine.
    """

    kind: str
    path: str
    size: int
    disks: tuple[int, ...]
    losses: tuple[Loss, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, with hyphens in the names."""
        return {
            "kind": self.kind,
            "filename": self.path,
            "file-size": self.size,
            "virtual-sizes": list(self.disks),
            "losses": [loss.to_json() for loss in self.losses],
        }


def pack(
    disks: Sequence[str | os.PathLike[str] | Disk],
    target: str | os.PathLike[str],
    *,
    kind: str | None = None,
    machine: Machine | None = None,
    files: Mapping[str, str | os.PathLike[str]] | None = None,
    options: Mapping[str, Any] | None = None,
    format: str | None = None,
    disk_options: Mapping[str, Any] | None = None,
    level: str = "default",
    threads: int = 0,
    replace: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Make a bundle at ``target`` of ``disks`` (paths, disks in bundles, or open ones), or of the
    one directory that is given, for kinds that are made of files.

    ``kind``: a name of `BUNDLES`; by the extension of ``target`` where None. ``machine``: what the
    disks belong to, its drives in their order; a plain one with one processor and 1 GiB where None.
    ``files``: what is carried along, by its name in the bundle. ``options`` of the kind; ``format``
    and ``disk_options`` of the disks in it. Raises what opening and making raise; nothing is left
    of a bundle that could not be finished.
    """
    if not disks:
        raise OptionError("there is no disk to be packed")
    path = os.fspath(target)
    found = _kind(path, kind)
    if found.of_files:
        if len(disks) != 1 or isinstance(disks[0], Disk) or not os.path.isdir(disks[0]):
            raise OptionError(f"{found.title}: is made of one directory of files")
        if files or format or disk_options or machine not in (None, DEFAULT_MACHINE):
            raise OptionError(f"{found.title}: carries no disk and describes no machine")
        return _make(
            found, path, DEFAULT_MACHINE, (), {}, directory=os.fspath(disks[0]),
            options=options, format=None, disk_options=None, level=level,
            threads=threads, replace=replace, keys=None, progress=progress,
        )  # fmt: skip
    with ExitStack() as stack:
        opened = [
            disk
            if isinstance(disk, Disk)
            else stack.enter_context(open_disk(disk, policy=policy, keys=keys))
            for disk in disks
        ]
        _check_number(found, disks)
        carried = _opened(files, stack)
        whole, made_up = _completed(machine or Machine(), path)
        whole = _with_drives(whole, opened)
        packed = _make(
            found, path, whole, _named_disks(whole, opened), carried,
            options=options, format=format, disk_options=disk_options, level=level,
            threads=threads, replace=replace, keys=as_keys(keys), progress=progress,
        )  # fmt: skip
    return _replace(packed, losses=_said(packed.losses, made_up))


def packaged(
    disks: Sequence[Disk],
    target: str,
    *,
    machine: Machine | None = None,
    files: Mapping[str, Storage] | None = None,
) -> Package:
    """What `pack` makes a bundle called ``target`` of; ``files`` are open."""
    if not disks:
        raise OptionError("there is no disk to be packed")
    whole, _ = _completed(machine or Machine(), target)
    whole = _with_drives(whole, disks)
    return Package(whole, _named_disks(whole, disks), files or {})


def repack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    kind: str | None = None,
    system: str | None = None,
    files: Mapping[str, str | os.PathLike[str]] | None = None,
    options: Mapping[str, Any] | None = None,
    format: str | None = None,
    disk_options: Mapping[str, Any] | None = None,
    level: str = "default",
    threads: int = 0,
    replace: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Make another kind of bundle of the one at ``source``: the same disks, the same machine.

    ``system``: which of several machines in it, by its name. ``files``: as for `pack`, besides
    what the bundle has of a variable store, kernel and initrd. The rest is as for `pack`.
    """
    name, path = os.fspath(source), os.fspath(target)
    found = _kind(path, kind)
    if found.of_files:
        raise OptionError(
            f"{found.title}: is made of a directory of files: `vmimg unpack` and `vmimg pack` do it"
        )
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(name, policy=policy, near=path))
        at = _system(bundle, system)
        opened, drives = list[Disk](), list[int | None]()
        for disk in bundle.disks:
            if disk.drive is not None and disk.drive[0] != at:
                continue
            if disk.member:
                layer = bundle.open_disk(disk.name, policy=policy, keys=keys)
            else:
                layer = Disk([EmptyLayer(disk.size)])
            opened.append(stack.enter_context(layer))
            drives.append(disk.drive[1] if disk.drive is not None else None)
        if not opened:
            raise OptionError(f"{name}: there is no disk in it")
        _check_number(found, [f"{name}:{disk.name}" for disk in bundle.disks if disk.member])
        machine, made_up = _completed(bundle.machines[at] if bundle.machines else Machine(), name)
        if None in drives or not bundle.machines:
            machine = _with_drives(machine, opened)
            numbers = _disk_drives(machine)
        else:
            numbers = [drive for drive in drives if drive is not None]
        members, losses = _carried(bundle, machine), list[Loss]()
        if not found.files:
            reason = f"{found.title}: carries disks only"
            losses += [Loss(f"files.{each}", member, reason) for each, member in members.items()]
            members = {}
        carried = _opened(files, stack)
        for each, member in members.items():
            if each not in carried:
                carried[each] = stack.enter_context(bundle.folder.open(member))
        packed = _make(
            found, path, machine, _named_disks(machine, opened, numbers), carried,
            options=options, format=format, disk_options=disk_options, level=level,
            threads=threads, replace=replace, keys=as_keys(keys), progress=progress,
        )  # fmt: skip
    return _replace(packed, losses=(*_said(packed.losses, made_up), *losses))


def _check_number(kind: BundleKind, disks: Sequence[Any]) -> None:
    if kind.one_disk and len(disks) > 1:
        raise OptionError(
            f"{kind.title}: has room for one disk, not {len(disks)}: make one of each, as "
            f"`vmimg pack {disks[0]} -O {kind.name}`"
        )


def _opened(
    files: Mapping[str, str | os.PathLike[str]] | None, stack: ExitStack
) -> dict[str, Storage]:
    """``files``, open until ``stack`` ends."""
    return {name: stack.enter_context(storages.open(path)) for name, path in (files or {}).items()}


def _make(
    kind: BundleKind,
    target: str,
    machine: Machine,
    disks: tuple[PackedDisk, ...],
    files: Mapping[str, Storage],
    *,
    options: Mapping[str, Any] | None,
    format: str | None,
    disk_options: Mapping[str, Any] | None,
    level: str,
    threads: int,
    replace: bool,
    keys: Keys | None,
    progress: Progress | None,
    directory: str = "",
) -> Packed:
    if format and kind.formats and format not in kind.formats:
        raise OptionError(
            f"{kind.title}: carries disks as {', '.join(kind.formats)}, not as {format}"
        )
    how = How(
        options=kind.parse_options(options or {}),
        format=format or "",
        disk_options=disk_options or {},
        level=find_level(level),
        threads=threads,
        replace=replace,
        keys=keys,
        progress=over_all(progress, [each.disk.size for each in disks]),
    )
    made: Made = kind.make(Package(machine, disks, files, directory), target, how)
    sizes = tuple(each.disk.size for each in disks)
    return Packed(kind.name, made.path, made.size, sizes, graded(machine, made.losses))


def _kind(target: str, name: str | None) -> BundleKind:
    found = find(name) if name is not None else by_extension(target)
    if found is None:
        raise OptionError(f"{target}: its extension names no kind of bundle; pass -O with one")
    return found


def _system(bundle: Bundle, name: str | None) -> int:
    """The number of the machine that is meant."""
    names = [machine.name for machine in bundle.machines]
    if name is None:
        if len(names) > 1:
            raise OptionError(
                f"{bundle.name}: describes {len(names)} machines: name one with --system "
                f"({', '.join(names)})"
            )
        return 0
    if name not in names:
        raise OptionError(f"{bundle.name}: there is no machine '{name}' in it: {', '.join(names)}")
    return names.index(name)


def _disk_drives(machine: Machine) -> list[int]:
    return [at for at, drive in enumerate(machine.drives) if drive.device == "disk"]


def _with_drives(machine: Machine, disks: Sequence[Disk]) -> Machine:
    """``machine`` with one drive for each of ``disks``."""
    have = _disk_drives(machine)
    if len(have) > len(disks):
        raise OptionError(
            f"the machine has {len(have)} disks, and {len(disks)} were given: name all of them, in "
            "the order of its drives"
        )
    drives = list(machine.drives)
    taken = {(drive.bus, drive.controller, drive.slot) for drive in drives}
    bus = drives[have[-1]].bus if have else ""
    slot = 0
    for _ in disks[len(have) :]:
        while (bus, 0, slot) in taken:
            slot += 1
        taken.add((bus, 0, slot))
        drives.append(Drive(bus=bus, slot=slot))
    return _replace(machine, drives=tuple(drives))


def _completed(machine: Machine, path: str) -> tuple[Machine, frozenset[str]]:
    """``machine`` with a name by ``path``, and what no machine runs without; and the places of all
    that was made up.
    """
    changes: dict[str, Any] = {}
    places: list[str] = []
    if not machine.name:
        stem = os.path.basename(os.path.normpath(path)).partition(".")[0]
        changes["name"] = stem or "machine"
        places.append("name")
    if not machine.architecture:
        changes["architecture"] = DEFAULT_MACHINE.architecture
        places.append("architecture")
    if not machine.cpus.count:
        changes["cpus"] = _replace(machine.cpus, count=DEFAULT_MACHINE.cpus.count)
        places.append("cpus.count")
    if not machine.memory:
        changes["memory"] = DEFAULT_MACHINE.memory
        places.append("memory")
    if not machine.cpus.count and not machine.memory and not machine.networks:
        changes["networks"] = DEFAULT_MACHINE.networks
        places += ["networks[0]", "networks[0].kind"]
    return _replace(machine, **changes), frozenset(places)


def _said(losses: Sequence[Loss], made_up: frozenset[str]) -> tuple[Loss, ...]:
    """``losses`` but for those of what nobody said."""
    return tuple(loss for loss in losses if loss.key not in made_up)


def _named_disks(
    machine: Machine, disks: Sequence[Disk], numbers: Sequence[int] | None = None
) -> tuple[PackedDisk, ...]:
    """``disks`` with names for their files: of the machine, numbered where there are several."""
    # Accents are left out, not letters.
    letters = unicodedata.normalize("NFKD", machine.name)
    plain = "".join(c for c in letters if not unicodedata.combining(c))
    base = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain)
    base = re.sub(r"-{2,}", "-", base).strip("-.")[:_LONGEST] or "disk"
    drives = _disk_drives(machine) if numbers is None else numbers
    return tuple(
        PackedDisk(f"{base}-disk{number}", disk, drive)
        for number, (disk, drive) in enumerate(zip(disks, drives, strict=True), 1)
    )


def _carried(bundle: Bundle, machine: Machine) -> dict[str, str]:
    """Members that belong to the machine, by what to call them: its variable store, and the kernel
    and initrd that lie beside its disks.
    """
    beside = {disk.member.rpartition("/")[0] for disk in bundle.disks if disk.member}
    disks = {disk.member for disk in bundle.disks}
    members = [
        name
        for name in (*kernels_in(bundle.folder), *initrds_in(bundle.folder))
        if name.rpartition("/")[0] in beside and name not in disks
    ]
    if machine.firmware.variables and bundle.folder.exists(machine.firmware.variables):
        members.append(machine.firmware.variables)
    return {os.path.basename(member): member for member in members}


def over_all(progress: Progress | None, sizes: Sequence[int]) -> Progress | None:
    """``progress`` of disks of all these ``sizes`` together, from that of one after the other."""
    if progress is None or len(sizes) < 2:
        return progress
    total = sum(sizes)
    state = {"disk": 0, "before": 0, "last": 0}

    def step(done: int, size: int) -> None:
        if done < state["last"] and state["disk"] < len(sizes) - 1:
            state["before"] += sizes[state["disk"]]
            state["disk"] += 1
        state["last"] = done
        progress(min(state["before"] + done, total), total)

    return step
