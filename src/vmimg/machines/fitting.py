"""Fitting: what becomes of a machine in a dialect that has fewer words. For writers.

A writer says in a table of rules what its dialect can say, then looks at what a table cannot hold;
each time it loses something here, with the reason. What is written at the end is `fitted`, the
machine after its losses, of which the dialect can say everything: so the law of
`vmimg.machines.losses` holds by construction. Imports the model and losses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Final

from vmimg.machines.losses import Loss, foreign, without
from vmimg.machines.model import Controller, Drive, Machine, Network

__all__ = [
    "Fitting",
    "Rule",
    "boot_by_class",
    "boot_letters",
    "booted_by",
    "network_card",
    "no_boot_order",
    "own_extras",
    "parts",
    "tap_networks",
    "virtio_disks",
]

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a dialect can say at a place of the model.

    ``key``: "firmware.tpm", or "drives[].bus" for all members. ``allowed``: the values, or a
    function that tells; the field's default may stand always, but where it is ``needed``.
    ``instead``: what stands there otherwise, or a function of the machine. ``drop``: the whole
    member of the list is left out.
    """

    key: str
    reason: str
    allowed: Collection[Any] | Callable[[Any], Any] = ()
    instead: Any = None
    needed: bool = False
    drop: bool = False

    def permits(self, value: Any) -> bool:
        return bool(self.allowed(value) if callable(self.allowed) else value in self.allowed)


class Fitting:
    """A machine on its way into the dialect ``own``."""

    def __init__(self, machine: Machine, own: str, rules: Iterable[Rule] = ()) -> None:
        self.machine = machine
        self._losses: dict[str, Loss] = {loss.key: loss for loss in foreign(machine, own)}
        for rule in rules:
            self.apply(rule)
        for key, value in _texts("", machine):
            if not value.isascii() and not self.gone(key) and self.now(key) == value:
                whole = value.encode("utf-8", "replace").decode()
                if whole != value:  # half of a pair, as JSON can have it
                    self.lose(key, "it is no text of Unicode", whole)

    def apply(self, rule: Rule) -> None:
        """Lose what ``rule`` does not permit."""
        head, _, tail = rule.key.partition("[].")
        if rule.key.endswith("[]"):
            for at, member in enumerate(getattr(self.machine, rule.key[:-2])):
                if not rule.permits(member):
                    self.lose(f"{rule.key[:-2]}[{at}]", rule.reason, rule.instead)
            return
        keys = [rule.key]
        if tail:
            keys = [f"{head}[{at}].{tail}" for at in range(len(getattr(self.machine, head)))]
        for key in keys:
            value, default = self._value(key)
            if value is _ABSENT or self.lost(key):
                continue
            if value == default and (not rule.needed or rule.permits(value)):
                continue
            if value != default and rule.permits(value):
                continue
            if rule.drop:
                self.lose(key.rpartition(".")[0], rule.reason)
                continue
            instead = rule.instead(self.machine) if callable(rule.instead) else rule.instead
            self.lose(key, rule.reason, instead)

    def lose(self, key: str, reason: str, instead: Any = None) -> None:
        """What is at ``key`` will not be found; ``instead`` as in Loss. What was lost inside of it
        is lost with it; what is the same as before is no loss.
        """
        if self.gone(key):
            return
        value, default = self._value(key)
        if not key.endswith("]") and value == (default if instead is None else instead):
            self._losses.pop(key, None)
            return
        for other in [other for other in self._losses if other.startswith((key + ".", key + "["))]:
            del self._losses[other]
        self._losses[key] = Loss(key, _shown(value), reason, instead)

    def gone(self, key: str) -> bool:
        """Whether the place itself, or one around it, is left out or replaced already."""
        parts_ = [each for each in self._losses if key.startswith((each + ".", each + "["))]
        own = self._losses.get(key)
        return bool(parts_) or (own is not None and key.endswith("]") and own.instead is None)

    def lost(self, key: str) -> bool:
        return key in self._losses or self.gone(key)

    def now(self, key: str) -> Any:
        """What is at ``key`` after the losses so far (nothing around it being left out)."""
        value, default = self._value(key)
        loss = self._losses.get(key)
        if loss is None:
            return value
        return default if loss.instead is None else loss.instead

    def members(self, name: str) -> Iterator[tuple[int, Any]]:
        """The members of a list of the machine that are not left out, as they were."""
        for at, member in enumerate(getattr(self.machine, name)):
            if not self.gone(f"{name}[{at}]"):
                yield at, member

    @property
    def losses(self) -> tuple[Loss, ...]:
        return tuple(self._losses.values())

    @property
    def fitted(self) -> Machine:
        """The machine after the losses."""
        return without(self.machine, self.losses)

    def place(
        self,
        room: Mapping[str, tuple[int, int]],
        fallback: Callable[[Drive], str],
        title: str,
        fits: Callable[[str, str], bool] = lambda device, bus: True,
    ) -> None:
        """Find a place for every drive. ``room``: how many controllers a bus has, and how many
        slots each; ``fallback``: the bus of a drive that cannot stay on its own; ``fits`` tells
        whether a device can hang on a bus.
        """
        taken: set[tuple[str, int, int]] = set()
        homeless: list[tuple[int, str]] = []
        for at, drive in self.members("drives"):
            bus = self.now(f"drives[{at}].bus")
            if bus not in room or not fits(drive.device, bus):
                bus = fallback(drive)
                said = f"{title} has no {_on(drive)}" if drive.bus else "a drive hangs on a bus"
                self.lose(f"drives[{at}].bus", said, bus)
                homeless.append((at, bus))
                continue
            spot = (bus, drive.controller, drive.slot)
            controllers, slots = room[bus]
            if spot in taken or drive.controller >= controllers or drive.slot >= slots:
                homeless.append((at, bus))
            else:
                taken.add(spot)
        for at, bus in homeless:
            controllers, slots = room[bus]
            free = (
                (controller, slot)
                for controller in range(controllers)
                for slot in range(slots)
                if (bus, controller, slot) not in taken
            )
            spot_ = next(free, None)
            if spot_ is None:
                self.lose(f"drives[{at}]", f"{title} has no place left for it on {bus}")
                continue
            taken.add((bus, *spot_))
            reason = f"{title} has no such place on {bus}"
            self.lose(f"drives[{at}].controller", reason, spot_[0])
            self.lose(f"drives[{at}].slot", reason, spot_[1])

    def controllers(self, found: tuple[Controller, ...], reason: str) -> None:
        """Where a reader will find these controllers, whatever the machine says."""
        now = {
            at: replace(each, model=self.now(f"controllers[{at}].model"))
            for at, each in self.members("controllers")
        }
        if tuple(each for each in now.values() if each in found) == found:
            for at, each in now.items():
                if each not in found:
                    self.lose(f"controllers[{at}]", reason)
            return
        self.lose("controllers", reason, found)

    def _value(self, key: str) -> tuple[Any, Any]:
        """What is at ``key``, and the field's default."""
        value: Any = self.machine
        default: Any = None
        for step in parts(key):
            if isinstance(step, int):
                value, default = value[step], None
            elif isinstance(value, Mapping):
                value, default = value[step], ()
            elif is_dataclass(value):
                default = _default(value, step)
                value = getattr(value, step)
            else:
                return _ABSENT, None
        return value, default


def parts(key: str) -> list[str | int]:
    """The steps of a key: "drives[1].bus" is "drives", 1, "bus"."""
    steps: list[str | int] = []
    for part in key.split("."):
        name, *places = part.replace("]", "").split("[")
        steps.append(name)
        steps.extend(int(place) for place in places)
    return steps


def own_extras(
    machine: Machine, own: str, failed: Collection[int], found: Machine
) -> tuple[Loss, ...]:
    """The losses of what was kept of the dialect itself. ``failed``: the places of what could not
    be put back; ``found``: the machine that a reader finds. What contradicts itself or the machine
    may come out otherwise than it was, and then the list is what is found.
    """
    extras = tuple(machine.extras.get(own, ()))
    there = tuple(found.extras.get(own, ()))
    if there == tuple(each for at, each in enumerate(extras) if at not in failed):
        return tuple(
            Loss(f"extras.{own}[{at}]", " = ".join(extras[at]), "its place is gone")
            for at in failed
        )
    said = "; ".join(" = ".join(each) for each in extras if each not in there)
    return (Loss(f"extras.{own}", said, "it does not fit to the rest", there),)


def network_card(machine: Machine) -> str:
    """A card that the guest has a driver for, where its own is not to be had."""
    return "e1000" if machine.guest.startswith("win") else "virtio"


def no_boot_order(fitting: Fitting, reason: str) -> None:
    """The dialect does not say what boots first."""
    for name in ("drives", "networks"):
        fitting.apply(Rule(f"{name}[].boot", reason))


def virtio_disks(fitting: Fitting, title: str) -> None:
    """The dialect has disks only, of virtio, in files or devices, that are found in their order."""
    for at, drive in fitting.members("drives"):
        if drive.device != "disk":
            kind = "CD" if drive.device == "cdrom" else "floppy"
            fitting.lose(f"drives[{at}]", f"{title} has no {kind} drives")
        elif drive.source not in ("file", "block") or not drive.path:
            fitting.lose(f"drives[{at}]", f"{title} has files and devices only")
    for at, _ in fitting.members("drives"):
        fitting.lose(f"drives[{at}].bus", f"{title} has virtio only", "virtio")
        for part in ("controller", "slot"):
            fitting.lose(f"drives[{at}].{part}", "disks are found in their order")


def tap_networks(fitting: Fitting) -> None:
    """The dialect names a tap of the host for each network."""
    reason = "a tap of the host, which has to be there"
    for at, _ in fitting.members("networks"):
        fitting.lose(f"networks[{at}].kind", reason, "bridge")
        fitting.lose(f"networks[{at}].network", reason, f"tap{at}")


def boot_by_class(fitting: Fitting, reason: str) -> None:
    """The dialect has a letter for disks ("c"), CDs ("d") and the network ("n"): of each, the first
    device can be told to boot.
    """
    first: dict[str, str] = {}
    booted = []
    for name in ("drives", "networks"):
        for at, member in fitting.members(name):
            key = f"{name}[{at}]"
            first.setdefault(boot_letter(member), key)
            if member.boot and first[boot_letter(member)] != key:
                fitting.lose(f"{key}.boot", reason)
            elif member.boot:
                booted.append((member.boot, key))
    for order, (_, key) in enumerate(sorted(booted), 1):
        fitting.lose(f"{key}.boot", "the order counts what is there", order)


def boot_letter(member: Drive | Network) -> str:
    """The class of a device, as BIOSes of Xen have it."""
    if isinstance(member, Network):
        return "n"
    return {"disk": "c", "cdrom": "d", "floppy": "a"}[member.device]


def boot_letters(machine: Machine) -> str:
    """The classes in the order in which their devices boot."""
    members: list[Drive | Network] = [*machine.drives, *machine.networks]
    booted = sorted((each.boot, boot_letter(each)) for each in members if each.boot)
    return "".join(letter for _, letter in booted)


def booted_by(letters: str, machine: Machine) -> Machine:
    """The machine in which the first device of each class boots as the letters say."""
    found: dict[str, list[Any]] = {
        "drives": list(machine.drives),
        "networks": list(machine.networks),
    }
    order = 0
    for letter in dict.fromkeys(letters):
        for members in found.values():
            at = next((at for at, each in enumerate(members) if boot_letter(each) == letter), None)
            if at is not None:
                order += 1
                members[at] = replace(members[at], boot=order)
    return replace(machine, drives=tuple(found["drives"]), networks=tuple(found["networks"]))


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts of a machine with their places, but for what was kept."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, tuple):
        for at, each in enumerate(value):
            yield from _texts(f"{key}[{at}]", each)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name != "extras":
                name = f"{key}.{field.name}" if key else field.name
                yield from _texts(name, getattr(value, field.name))


def _default(value: Any, name: str) -> Any:
    found = next(each for each in fields(value) if each.name == name)
    if found.default is not MISSING:
        return found.default
    return {} if found.default_factory is not MISSING else None


def _on(drive: Drive) -> str:
    names = {"disk": "disks", "cdrom": "CD drives", "floppy": "floppy drives"}
    return f"{names[drive.device]} on {drive.bus}"


def _shown(value: Any) -> str:
    """A value as a person reads it in a list of losses."""
    if value is _ABSENT or value is None:
        return ""
    if is_dataclass(value):
        said = (
            f"{each.name} {getattr(value, each.name)}"
            for each in fields(value)
            if getattr(value, each.name) not in ("", 0, None, (), False)
        )
        return ", ".join(said)
    if isinstance(value, tuple):
        return "; ".join(_shown(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
