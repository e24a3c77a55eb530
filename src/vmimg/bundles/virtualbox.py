"""VirtualBox's machines: a .vbox and its disks, with the tree of snapshots, in a directory or
packed as one.

Imports described and foldering.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from vmimg import storage as storages
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.described import Described, description_in
from vmimg.bundles.foldering import make_folder
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.vmware import file_stem
from vmimg.formats.registry import find as find_format
from vmimg.machines.dialects.vbox import disk_uuid, image_key, is_image_key
from vmimg.machines.model import Machine
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder

__all__ = ["make", "open"]

_FORMAT: Final = "vdi"


def open(folder: Folder, claim: Claim) -> Bundle:
    """The machine in ``folder``."""
    index = description_in(folder, (".vbox", ".vbox-prev"))
    return Described(folder, "virtualbox", index, "vbox")


def make(package: Package, target: str, how: How) -> Made:
    """A directory whose .vbox VirtualBox adds."""
    machine = package.machine
    uuids = {}
    if (how.format or _FORMAT) == _FORMAT:
        # VirtualBox compares the uuid in an image with that in the .vbox, and takes no two images
        # of one uuid: those of two machines have to differ.
        identity = machine.uuid or machine.name
        uuids = {f"{packed.name}.vdi": disk_uuid(identity, packed.name) for packed in package.disks}
        if "uuid" in how.disk_options and len(uuids) == 1:
            uuids = {name: str(how.disk_options["uuid"]) for name in uuids}
    return make_folder(
        replace(package, machine=_with_uuids(machine, uuids)), target, how, format=_FORMAT,
        dialect="vbox", description=f"{file_stem(machine)}.vbox",
        options_of=lambda name: {"uuid": uuids[name]} if name in uuids else {},
        settle=_told,
    )  # fmt: skip


def _told(machine: Machine, package: Package, folder: str) -> Machine:
    """``machine`` with the identifiers that its VHDs were given."""
    uuids = {}
    for packed in package.disks:
        drive = machine.drives[packed.drive]
        if drive.format == "vhd":
            with storages.open(os.path.join(folder, drive.path)) as storage:
                details = find_format("vhd").driver().inspect(storage).details
            uuids[drive.path] = details["unique-id"]
    return _with_uuids(machine, uuids) if uuids else machine


def _with_uuids(machine: Machine, uuids: dict[str, str]) -> Machine:
    """``machine`` with the images that are written, and without what it says of those of before."""
    kept = tuple(pair for pair in machine.extras.get("vbox", ()) if not is_image_key(pair[0]))
    told = tuple((image_key(name), uuid) for name, uuid in uuids.items())
    extras = {**machine.extras, "vbox": (*kept, *told)}
    return replace(machine, extras={name: pairs for name, pairs in extras.items() if pairs})
