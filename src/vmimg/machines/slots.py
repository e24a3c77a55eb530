"""Places for drives where a hypervisor has fewer than the machine asks for. Imports the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

from vmimg.machines.model import Bus, Drive

__all__ = ["settle"]

Spot = tuple[Bus, int, int]


def settle(
    drives: Sequence[Drive],
    room: Mapping[str, tuple[int, int]],
    fallback: Callable[[Drive], Bus],
) -> list[Spot]:
    """(bus, controller, slot) for each drive: its own where that exists and is free, or else the
    first free one of its bus, or of the ``fallback``.

    ``room``: how many controllers there are of a bus, and how many slots each has. Where a bus is
    full, slots beyond go on being counted: the last controller takes them.
    """
    spots: list[Spot | None] = []
    taken: set[Spot] = set()
    for drive in drives:
        controllers, slots = room.get(drive.bus, (0, 0))
        spot: Spot = (drive.bus, drive.controller, drive.slot)
        # Floppies and nothing else hang on a floppy controller.
        misplaced = (drive.bus == "floppy") != (drive.device == "floppy")
        fits = 0 <= drive.controller < controllers and 0 <= drive.slot < slots
        if fits and not misplaced and spot not in taken:
            taken.add(spot)
            spots.append(spot)
        else:
            spots.append(None)
    free: dict[Bus, Iterator[Spot]] = {}
    found: list[Spot] = []
    for drive, known in zip(drives, spots, strict=True):
        if known is not None:
            found.append(known)
            continue
        bus = drive.bus
        if bus not in room or (bus == "floppy") != (drive.device == "floppy"):
            bus = fallback(drive)
        spare = free.setdefault(bus, _all(bus, *room[bus]))
        found.append(next(spot for spot in spare if spot not in taken))
    return found


def _all(bus: Bus, controllers: int, slots: int) -> Iterator[Spot]:
    """The places of a bus, and then ones that its last controller does not have."""
    for controller in range(controllers):
        for slot in range(slots):
            yield bus, controller, slot
    for slot in count(slots):
        yield bus, controllers - 1, slot
