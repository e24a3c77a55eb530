"""Writing a domain: what it cannot say, its elements, and what was kept from another domain.

Snapshots are descriptions of their own in libvirt, with a whole domain in each: they are given as
files beside (`virsh snapshot-create --redefine` takes them). Imports XML, words,
elements, keeping, reading, fitting.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from vmimg.machines.dialect import Written
from vmimg.machines.dialects.libvirt import words
from vmimg.machines.dialects.libvirt.elements import X86, rendered
from vmimg.machines.dialects.libvirt.keeping import put_back
from vmimg.machines.dialects.libvirt.reading import read
from vmimg.machines.fitting import Fitting, Rule, network_card, own_extras
from vmimg.machines.model import Controller, Drive, Machine, Network, Snapshot
from vmimg.machines.xml import make, printable, serialise

__all__ = ["write"]

_SERIAL_NUMBER: Final = re.compile(r"[A-Za-z0-9_.+ -]+")
_SERVICE: Final = re.compile(r"[^:\s]*:[^:\s]+")
_ROOM: Final = {
    "ide": (2, 2), "sata": (16, 6), "scsi": (256, 256), "virtio": (1, 18278), "usb": (8, 16),
    "floppy": (1, 2), "xen": (1, 16),
}  # fmt: skip


def _sayable(value: str) -> bool:
    return value == _clean(value)


def _clean(value: str) -> str:
    return printable(value).replace("\r", "").strip()


def _name(machine: Machine) -> str:
    return re.sub(r"[/\n\r\t]", "-", _clean(machine.name)) or "machine"


_RULES: Final = (
    Rule("name", "a domain has a name of one line without /", lambda name: name != "" and
         _sayable(name) and not re.search(r"[/\n\t]", name), _name, needed=True),
    Rule("description", "XML has no such characters", _sayable,
         lambda machine: _clean(machine.description)),
    Rule("memory", "a domain has memory", lambda size: size > 0, 1 << 30, needed=True),
    Rule("chipset", "libvirt has no such chipset", words.CHIPSETS),
    Rule("guest", "libosinfo's id of it is not known", words.guest_id),
    Rule("drives[].size", "a domain does not say how large a disk is"),
    Rule("drives[].format", "libvirt has no name for the format", words.FORMATS),
    Rule("drives[].serial", "libvirt allows letters, digits and _.+- in it",
         lambda serial: _SERIAL_NUMBER.fullmatch(serial) and serial == serial.strip()),
    Rule("networks[].model", "libvirt has no such card", words.NETWORK_MODELS, network_card),
    Rule("serials[]", "libvirt needs host and port", lambda serial: serial.kind != "tcp"
         or _SERVICE.fullmatch(serial.path)),
    Rule("display.model", "libvirt has no such video card", words.VIDEO, "vga"),
    Rule("display.remote", "libvirt shows no screen so", ("vnc", "spice", "rdp", "sdl")),
    Rule("sound[]", "libvirt has no such sound card", words.SOUND, "ich9"),
    Rule("usb[]", "libvirt has no such USB controller", words.USB),
    Rule("snapshots[]", "a domain does not list its snapshots; they lie in files beside"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The domain; each snapshot as a file beside, "snapshots/1.xml", in their order."""
    extras = tuple(machine.extras.get("libvirt", ()))
    fitting = _fitting(machine)
    root = rendered(fitting.fitted)
    failed = put_back(root, extras)
    data = serialise(root, declaration=False)
    (found,) = read(data, machine.name)
    losses = fitting.losses + own_extras(machine, "libvirt", failed, found)
    return Written(data, losses, _snapshots(machine))


def _fitting(machine: Machine) -> Fitting:
    kept = dict(machine.extras.get("libvirt", ()))
    xen = machine.chipset == "xenpv" or kept.get("@type") == "xen"
    fitting = Fitting(machine, "libvirt", _rules(xen))
    _fit_firmware(fitting)
    _fit_drives(fitting, xen)
    for at, network in fitting.members("networks"):
        _fit_network(
            fitting,
            f"networks[{at}]",
            network,
            f"devices/interface[{at + 1}]/@type" in kept
            or (len(machine.networks) == 1 and "devices/interface/@type" in kept),
        )
    display = machine.display
    if display is not None:
        if fitting.now("display.model") in ("", "none"):
            reason = "it is said of a video card"
            if display.memory or display.heads or display.accelerated is not None:
                if display.model == "none":
                    for key in ("memory", "heads", "accelerated"):
                        fitting.lose(f"display.{key}", reason)
                else:
                    fitting.lose("display.model", reason, "vga")
            elif not display.model and not fitting.now("display.remote"):
                fitting.lose("display", "nothing is said of it")
        if display.memory % 1024:
            fitting.lose("display.memory", "counted in KiB", display.memory >> 10 << 10)
    _fit_controllers(fitting)
    return fitting


def _rules(xen: bool) -> list[Rule]:
    rules = list(_RULES)
    if not xen:
        rules.insert(
            0,
            Rule("networks[].model", "only Xen has it", lambda model: model != "xen", network_card),
        )
    return rules


def _fit_firmware(fitting: Fitting) -> None:
    firmware = fitting.machine.firmware
    if fitting.machine.chipset == "xenpv":
        for key in ("kind", "secure_boot", "variables", "loader"):
            fitting.lose(f"firmware.{key}", "a paravirtual guest has no firmware")
        return
    kind = firmware.kind
    if not kind and (firmware.loader or firmware.variables):
        kind = "uefi" if firmware.variables else "bios"
        fitting.lose("firmware.kind", "a loader is one for BIOS or for UEFI", kind)
    if kind != "uefi":
        fitting.lose("firmware.secure_boot", "only UEFI has it")
        fitting.lose("firmware.variables", "only UEFI has them")


def _fit_drives(fitting: Fitting, xen: bool) -> None:
    machine = fitting.machine
    # What QEMU's q35, virt and other architectures do not have.
    no_ide = machine.chipset in ("q35", "virt") or machine.architecture not in X86
    room = {
        bus: place
        for bus, place in _ROOM.items()
        if not (bus == "xen" and not xen) and not (bus == "ide" and no_ide)
    }

    def fallback(drive: Drive) -> str:
        if drive.device == "floppy":
            return "floppy"
        if xen:
            return "xen"
        if drive.device == "cdrom" or machine.guest.startswith("win"):
            return "ide" if machine.chipset == "i440fx" and not no_ide else "sata"
        return "virtio"

    for at, drive in fitting.members("drives"):
        key = f"drives[{at}]"
        if drive.source == "network" and words.split_url(drive.path) is None:
            fitting.lose(key, "libvirt cannot say this address")
        elif drive.source == "volume" and not re.fullmatch(r"[^/]+/.+", drive.path, re.S):
            fitting.lose(key, "a volume is named by its pool and its name")
        elif drive.source == "block" and not drive.path:
            fitting.lose(f"{key}.source", "there is no device", "file")
        if drive.device != "disk":
            fitting.lose(f"{key}.readonly", "only said of disks")
    fitting.place(
        room, fallback, "libvirt", lambda device, bus: (device == "floppy") == (bus == "floppy")
    )


def _fit_network(fitting: Fitting, key: str, network: Network, kept: bool) -> None:
    kind = network.kind
    if kind == "nat" or (not kind and not kept):
        reason = "libvirt's network 'default' does it" if kind else "an interface is on something"
        fitting.lose(f"{key}.kind", reason, "network")
        fitting.lose(f"{key}.network", reason, network.network or "default")
    elif kind in ("hostonly", "internal"):
        fitting.lose(f"{key}.kind", "it is a network of libvirt like any other", "network")
    elif kind in ("user", "none") or not kind:
        fitting.lose(f"{key}.network", "there is none on this kind of interface")
    if fitting.now(f"{key}.kind") in ("network", "bridge") and not fitting.now(f"{key}.network"):
        fitting.lose(f"{key}.network", "an interface is on something", "default")


def _fit_controllers(fitting: Fitting) -> None:
    for at, each in enumerate(fitting.machine.controllers):
        if each.model not in words.CONTROLLER_MODELS.get(each.bus, {}):
            fitting.lose(f"controllers[{at}].model", "libvirt has no such model there")
    drives = fitting.fitted.drives
    found: list[Controller] = []
    for at, each in fitting.members("controllers"):
        if each.bus not in words.CONTROLLERS:
            continue
        model = fitting.now(f"controllers[{at}].model")
        places = [each.index]
        if each.bus == "ide":
            used = {drive.controller for drive in drives if drive.bus == "ide"}
            first = each.index // 2 * 2
            places = sorted(used & {first, first + 1}) or [first]
        found.extend(
            Controller(each.bus, place, model)
            for place in places
            if not any((other.bus, other.index) == (each.bus, place) for other in found)
        )
    fitting.controllers(
        tuple(found), "libvirt lists what has disks of its own; IDE has two channels"
    )


def _snapshots(machine: Machine) -> dict[str, bytes]:
    return {
        f"snapshots/{at}.xml": _snapshot(machine, snapshot)
        for at, snapshot in enumerate(machine.snapshots, 1)
    }


def _snapshot(machine: Machine, snapshot: Snapshot) -> bytes:
    root = make("domainsnapshot")
    make("name", content=snapshot.id, parent=root)
    if snapshot.description:
        make("description", content=snapshot.description, parent=root)
    if snapshot.parent:
        make("name", content=snapshot.parent, parent=make("parent", parent=root))
    if snapshot.created:
        made = datetime.strptime(snapshot.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        make("creationTime", content=str(int(made.timestamp())), parent=root)
    if snapshot.memory:
        make("memory", {"snapshot": "external", "file": snapshot.memory}, parent=root)
    then = replace(machine, snapshots=(), drives=snapshot.drives or machine.drives)
    root.append(rendered(_fitting(then).fitted))
    return serialise(root, declaration=False)
