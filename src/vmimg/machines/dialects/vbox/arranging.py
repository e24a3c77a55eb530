"""What VirtualBox needs in another order than the model may have it: places for drives, one tree of
snapshots, images after those that they stand upon. Imports media, words, slots and the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmimg.machines.dialects.vbox import words
from vmimg.machines.dialects.vbox.media import Image, Registry
from vmimg.machines.model import Drive, Machine, Snapshot
from vmimg.machines.slots import settle

__all__ = ["depth", "ids_of", "one_tree", "parents_first", "room_of", "settled", "unique"]


def room_of(machine: Machine) -> dict[str, tuple[int, int]]:
    """How many controllers of each bus, and how many slots each has."""
    # The old chipset has room for one controller of each kind (MachineImplMaxInstances).
    many = 1 if machine.chipset in ("", "i440fx", "xenpv") else 8
    return {
        "ide": (2, 2),
        "sata": (many, 30),
        "scsi": (many, 16),
        "nvme": (many, 255),
        "usb": (1, 8),
        "floppy": (1, 2),
    }


def settled(drives: Sequence[Drive], room: Mapping[str, tuple[int, int]]) -> tuple[Drive, ...]:
    """``drives`` at places that there are."""
    spots = settle(drives, room, lambda drive: "floppy" if drive.device == "floppy" else "sata")
    return tuple(
        replace(drive, bus=bus, controller=controller, slot=slot)
        for drive, (bus, controller, slot) in zip(drives, spots, strict=True)
    )


def depth(snapshots: Sequence[Snapshot]) -> int:
    """How many snapshots stand above one another at most."""
    depths: dict[str, int] = {}
    for each in one_tree(snapshots):
        depths[each.id] = depths.get(each.parent, 0) + 1
    return max(depths.values(), default=0)


def one_tree(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Parents before children, below one root. What hangs in the air or in a circle hangs on the
    root then.
    """
    if not snapshots:
        return []
    known = {each.id for each in snapshots}
    unique = list({each.id: each for each in reversed(snapshots)}.values())[::-1]
    first = next((each for each in unique if each.parent not in known), unique[0])
    made = [replace(first, parent="")]
    left = [each for each in unique if each.id != first.id]
    ids = {first.id}
    while left:
        later = []
        for each in left:
            if each.parent in ids:
                ids.add(each.id)
                made.append(each)
            else:
                later.append(each)
        if len(later) == len(left):
            later[0] = replace(later[0], parent=first.id)
        left = later
    return made


def ids_of(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """The uuids of snapshots by their ids."""
    return {
        each.id: words.plain_uuid(each.id) or words.derived_uuid("snapshot", each.id)
        for each in snapshots
    }


def unique(registry: Registry) -> Registry:
    """Two images never have one uuid: VirtualBox would take one for the other."""
    used: set[str] = set()
    found: Registry = {}
    for path, image in registry.items():
        uuid = image.uuid
        while uuid in used:
            uuid = words.derived_uuid("again", path, uuid)
        used.add(uuid)
        found[path] = replace(image, uuid=uuid)
    return found


def parents_first(registry: Registry) -> list[Image]:
    """The disk images, each behind its parent."""
    disks = {path: image for path, image in registry.items() if image.device == "disk"}
    found: dict[str, Image] = {}
    for image in disks.values():
        chain = [image]
        while (above := disks.get(chain[-1].parent)) and above not in chain:
            if above.path in found:
                break
            chain.append(above)
        for each in reversed(chain):
            found.setdefault(each.path, each)
    return list(found.values())
