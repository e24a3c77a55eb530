"""Parallels' machines (.pvm): config.pvs and .hdd bundles, with their snapshots, in a directory or
packed as one.

Imports described and foldering.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vmimg.bundles.bundle import Bundle
from vmimg.bundles.described import Described, description_in
from vmimg.bundles.foldering import make_folder
from vmimg.bundles.package import How, Made, Package
from vmimg.machines.dialects import parallels
from vmimg.machines.model import Machine
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder, joined
from vmimg.units import MIB

__all__ = ["make", "open"]

_SNAPSHOTS: Final = "Snapshots.xml"
_MAX_BYTES: Final = 64 << 20


def open(folder: Folder, claim: Claim) -> Bundle:
    """The machine in ``folder``."""
    index = description_in(folder, ("config.pvs",))
    snapshots = joined(index, _SNAPSHOTS)
    facts = {"snapshots": snapshots} if folder.exists(snapshots) else {}
    return Described(folder, "pvm", index, "parallels", read=_read, facts=facts)


def make(package: Package, target: str, how: How) -> Made:
    """A directory that Parallels Desktop opens."""
    return make_folder(
        package, target, how, format="parallels", dialect="parallels", description="config.pvs",
        options={"subformat": "expanding-bundle"}, settle=_sized,
    )  # fmt: skip


def _sized(machine: Machine, package: Package, folder: str) -> Machine:
    """``machine`` with the sizes of its disks, which Parallels wants to be told, in MiB."""
    drives = list(machine.drives)
    for packed in package.disks:
        size = packed.disk.size // MIB * MIB
        drives[packed.drive] = replace(drives[packed.drive], size=size)
    return replace(machine, drives=tuple(drives))


def _read(folder: Folder, index: str) -> tuple[Machine, ...]:
    """The config.pvs, and the states of the Snapshots.xml beside it."""
    beside = {}
    if folder.exists(joined(index, _SNAPSHOTS)):
        beside[_SNAPSHOTS] = folder.read(joined(index, _SNAPSHOTS), _MAX_BYTES)
    data = folder.read(index, _MAX_BYTES)
    return parallels.read_with(data, f"{folder.name}:{index}", beside)
