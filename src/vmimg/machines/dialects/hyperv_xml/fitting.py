"""What of a machine a document of version 5.0 can say, and what it has to have.

Sources of limits: see the package. Imports fitting, rendering and hyperv_settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from vmimg.machines.dialects.hyperv_settings import disk_format, number_boots
from vmimg.machines.dialects.hyperv_xml.keeping import OWN
from vmimg.machines.dialects.hyperv_xml.rendering import boot_order, guest_id
from vmimg.machines.fitting import Fitting, Rule
from vmimg.machines.model import Controller, Display, Drive, Machine, Network
from vmimg.machines.xml import printable

__all__ = ["fitted"]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_UNIT: Final = 2 * _MIB
"""Of memory."""
_LEAST: Final = 32 * _MIB
_MOST: Final = 1 << 40
_PROCESSORS: Final = 64
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_ROOM: Final = {"ide": (2, 2), "scsi": (4, 64), "floppy": (1, 1)}
_ON_IDE: Final = 4
_ORDER: Final = ("ide", "scsi", "floppy")
_UNSAID: Final = "Hyper-V has no word for it"


def _clean(value: str) -> str:
    return printable(value).replace("\r", "").strip()


def _sayable(value: str) -> bool:
    return value == _clean(value)


def _memory(machine: Machine) -> int:
    whole = -(-machine.memory // _UNIT) * _UNIT
    return min(max(whole, _LEAST), _MOST) if machine.memory > 0 else _GIB


_RULES: Final = (
    Rule("name", "a machine has a name", lambda name: name and _sayable(name),
         lambda machine: _clean(machine.name) or "machine", needed=True),
    Rule("description", "XML has no such characters", _sayable,
         lambda machine: _clean(machine.description)),
    Rule("uuid", "a machine has an identifier", _UUID.fullmatch, guest_id, needed=True),
    Rule("architecture", "Hyper-V runs x86_64", ("x86_64",), "x86_64", needed=True),
    Rule("chipset", "Hyper-V has its own"),
    Rule("firmware.kind", "a machine is of generation 1 or 2", ("bios", "uefi"), "bios",
         needed=True),
    Rule("firmware.tpm", "only since Windows Server 2016 machines have a TPM"),
    Rule("firmware.variables", "Hyper-V keeps them in a form of its own"),
    Rule("firmware.loader", "Hyper-V has its own"),
    Rule("cpus.count", f"a machine has 1 to {_PROCESSORS} processors",
         lambda count: 0 < count <= _PROCESSORS,
         lambda machine: min(max(machine.cpus.count, 1), _PROCESSORS), needed=True),
    Rule("cpus.sockets", "the topology is the host's"),
    Rule("cpus.cores", "the topology is the host's"),
    Rule("cpus.threads", "the topology is the host's"),
    Rule("cpus.model", "the host's is taken"),
    Rule("memory", "memory comes in 2 MiB, from 32 MiB to 1 TiB",
         lambda size: _LEAST <= size <= _MOST and size % _UNIT == 0, _memory, needed=True),
    Rule("clock", _UNSAID),
    Rule("guest", _UNSAID),
    Rule("controllers[].model", "there is one kind of each"),
    Rule("drives[].path", "XML has no such characters", _sayable),
    Rule("drives[].size", "the image says it"),
    Rule("drives[].readonly", _UNSAID),
    Rule("drives[].serial", _UNSAID),
    Rule("networks[].model", "Hyper-V has one card", ("netvsc",), "netvsc", needed=True),
    Rule("networks[].mac", "it is no address", _MAC.fullmatch),
    Rule("networks[].network", "XML has no such characters", _sayable),
    Rule("serials[]", "a port is a named pipe",
         lambda serial: serial.kind == "pipe" and serial.path and _sayable(serial.path)),
    Rule("sound[]", "Hyper-V has no sound card"),
    Rule("usb[]", "Hyper-V has no USB controller"),
    Rule("snapshots[]", "a state that was kept is a file of its own"),
)  # fmt: skip


def fitted(machine: Machine) -> Fitting:
    """``machine`` on its way into a document."""
    fitting = Fitting(machine, OWN, _RULES)
    second = fitting.now("firmware.kind") == "uefi"
    if not second:
        fitting.lose("firmware.secure_boot", "only machines of generation 2 have it")
    elif machine.firmware.secure_boot is None:
        fitting.lose("firmware.secure_boot", "it is on or off", False)
    _fit_display(fitting)
    _fit_drives(fitting, second)
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network)
    for at, _ in list(fitting.members("serials"))[2:]:
        fitting.lose(f"serials[{at}]", "there are two ports")
    _fit_boots(fitting)
    _fit_order(fitting)
    return fitting


def _fit_display(fitting: Fitting) -> None:
    if fitting.machine.display is None:
        fitting.lose("display", "a machine has a video card", Display("synthvid"))
        return
    for key in ("memory", "heads", "accelerated", "remote"):
        fitting.lose(f"display.{key}", _UNSAID)
    fitting.lose("display.model", "Hyper-V has its own card", "synthvid")


def _fit_drives(fitting: Fitting, second: bool) -> None:
    for at, drive in fitting.members("drives"):
        if drive.source in ("network", "volume"):
            fitting.lose(f"drives[{at}]", "Hyper-V opens files and devices only")
        elif second and drive.device == "floppy":
            fitting.lose(f"drives[{at}]", "machines of generation 2 have no floppy")
    _place(fitting, second)
    for at, drive in fitting.members("drives"):
        _fit_source(fitting, f"drives[{at}]", drive, second)
    _fit_controllers(fitting)


def _place(fitting: Fitting, second: bool) -> None:
    """A place for each drive. What boots comes first where the BIOS boots from IDE only, then what
    is on IDE and CDs; disks for which there is no room there go to SCSI.
    """
    members = list(fitting.members("drives"))
    booted = _booted(members)

    def urgent(each: tuple[int, Drive]) -> tuple[bool, bool, int]:
        at, drive = each
        return at != booted, drive.bus != "ide" and drive.device != "cdrom", at

    taken: set[tuple[str, int, int]] = set()
    homeless: list[tuple[int, str]] = []
    left = _ON_IDE
    for at, drive in sorted(members, key=urgent):
        bus, reason = _bus(drive, second=second, booted=at == booted, left=left)
        left -= bus == "ide"
        if not bus:
            fitting.lose(f"drives[{at}]", reason)
            continue
        fitting.lose(f"drives[{at}].bus", reason, bus)
        spot = (bus, drive.controller, drive.slot)
        controllers, slots = _ROOM[bus]
        inside = 0 <= drive.controller < controllers and 0 <= drive.slot < slots
        if drive.bus == bus and inside and spot not in taken:
            taken.add(spot)
        else:
            homeless.append((at, bus))
    # In the order that they have, so that it stays; what boots comes before the other disks.
    first = min(
        (at for at, _ in homeless if fitting.machine.drives[at].device == "disk"), default=0
    )
    homeless.sort(key=lambda each: (first if each[0] == booted else each[0], each[0] != booted))
    for at, bus in homeless:
        spot = next((each for each in _spots(bus) if each not in taken), ("", 0, 0))
        if not spot[0]:
            fitting.lose(f"drives[{at}]", f"there is no place left for it on {bus}")
            continue
        taken.add(spot)
        reason = f"it found another place on {bus}"
        fitting.lose(f"drives[{at}].controller", reason, spot[1])
        fitting.lose(f"drives[{at}].slot", reason, spot[2])


def _booted(members: Sequence[tuple[int, Drive]]) -> int:
    """Which drive is the disk that boots: as it is told, or else the first on IDE, or the first."""
    disks = [(at, drive) for at, drive in members if drive.device == "disk"]
    told = sorted((drive.boot, at) for at, drive in disks if drive.boot > 0)
    if told:
        return told[0][1]
    on_ide = [at for at, drive in disks if drive.bus == "ide"]
    return next(iter((*on_ide, *(at for at, _ in disks))), -1)


def _spots(bus: str) -> Iterator[tuple[str, int, int]]:
    controllers, slots = _ROOM[bus]
    return ((bus, at, slot) for at in range(controllers) for slot in range(slots))


def _bus(drive: Drive, *, second: bool, booted: bool, left: int) -> tuple[str, str]:
    """The bus for a drive, "" where there is no room, and why it may be another than its own.
    ``left``: places on IDE.
    """
    if drive.device == "floppy":
        return "floppy", "floppy drives are on a bus of their own"
    if second:
        return "scsi", "machines of generation 2 have SCSI only"
    if drive.device == "cdrom":
        return ("ide", "CD drives are on IDE") if left else ("", "CD drives are on IDE: it is full")
    if not booted and (drive.bus == "scsi" or not left):
        return "scsi", "IDE is full"
    return "ide", "the BIOS boots from IDE" if drive.bus == "scsi" else "there is no such bus"


def _fit_source(fitting: Fitting, key: str, drive: Drive, second: bool) -> None:
    if drive.source == "block":
        if drive.device == "floppy" or not fitting.now(f"{key}.path"):
            fitting.lose(f"{key}.source", "there is no device", "file")
        elif second and drive.device == "cdrom":
            reason = "machines of generation 2 read no drive of the host"
            fitting.lose(f"{key}.path", reason)
            fitting.lose(f"{key}.source", reason, "file")
    path = fitting.now(f"{key}.path")
    if drive.device != "disk":
        fitting.lose(f"{key}.format", "it is said of disks only")
    else:
        fitting.lose(f"{key}.format", "Hyper-V takes .vhd and .vhdx", disk_format(path))


def _fit_controllers(fitting: Fitting) -> None:
    drives = fitting.fitted.drives
    used = {(each.bus, each.controller) for each in drives}
    listed = [each for each in fitting.machine.controllers if each.bus == "scsi"]
    last = max(
        (at for at in (
            *(at for bus, at in used if bus == "scsi"), *(each.index for each in listed)
        ) if at < _ROOM["scsi"][0]),
        default=-1,
    )  # fmt: skip
    used |= {("scsi", at) for at in range(last + 1)}
    found = sorted(used, key=lambda each: (_ORDER.index(each[0]), each[1]))
    fitting.controllers(
        tuple(Controller(*each) for each in found), "Hyper-V has those that the drives need"
    )


def _fit_network(fitting: Fitting, key: str, network: Network) -> None:
    name = fitting.now(f"{key}.network")
    if network.kind in ("bridge", "hostonly", "internal", "network") and name:
        fitting.lose(f"{key}.kind", "a switch is what its host made it", "network")
        return
    reason = "a card is on a switch that has a name, or on none"
    fitting.lose(f"{key}.kind", reason, "none")
    fitting.lose(f"{key}.network", reason)
    fitting.lose(f"{key}.connected", reason, False)


def _fit_boots(fitting: Fitting) -> None:
    """Kinds of devices are in an order, all of them, and of each the first one is meant."""
    machine = fitting.fitted
    ranked = sorted(range(len(machine.drives)), key=lambda at: _rank(machine.drives[at]))
    drives = [replace(machine.drives[at], boot=0) for at in ranked]
    networks = [replace(each, boot=0) for each in machine.networks]
    number_boots(drives, networks, boot_order(machine))
    reason = "Hyper-V has an order of kinds of devices"
    places = [at for at, _ in fitting.members("drives")]
    for at, drive in zip(ranked, drives, strict=True):
        fitting.lose(f"drives[{places[at]}].boot", reason, drive.boot)
    places = [at for at, _ in fitting.members("networks")]
    for place, network in zip(places, networks, strict=True):
        fitting.lose(f"networks[{place}].boot", reason, network.boot)


def _fit_order(fitting: Fitting) -> None:
    drives = fitting.fitted.drives
    found = tuple(sorted(drives, key=_rank))
    if found != drives:
        fitting.lose("drives", "their places tell their order", found)


def _rank(drive: Drive) -> tuple[int, int, int]:
    return _ORDER.index(drive.bus), drive.controller, drive.slot
