"""What of a machine a config.pvs can say, and what it has to have. Imports words, snapshots
and fitting.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from vmimg.errors import FormatError
from vmimg.machines.dialects.parallels import words
from vmimg.machines.dialects.parallels.reading import is_own_disk
from vmimg.machines.dialects.parallels.snapshots import (
    TIME,
    guid,
    read_snapshots,
    write_snapshots,
)
from vmimg.machines.fitting import Fitting, Rule, network_card
from vmimg.machines.guests import by_parallels, parallels
from vmimg.machines.model import BUSES, Controller, Drive, Machine, Network
from vmimg.machines.xml import printable

__all__ = ["fitted"]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_SPACE: Final = UUID("f1f4a0f5-0bb8-5d0a-8f0e-2b7d5a7f1c35")
"""For identifiers that are made of what a machine is."""


def _sayable(value: str) -> bool:
    return value == _clean(value)


def _clean(value: str) -> str:
    return printable(value).replace("\r", "").strip()


def _whole_mib(size: int) -> bool:
    return size % _MIB == 0


def _uuid(machine: Machine) -> str:
    return str(uuid5(_SPACE, repr((machine.name, machine.drives, machine.networks))))


_RULES: Final = (
    Rule("name", "a machine has a name", lambda name: name and _sayable(name),
         lambda machine: _clean(machine.name) or "machine", needed=True),
    Rule("description", "XML has no such characters", _sayable,
         lambda machine: _clean(machine.description)),
    Rule("uuid", "a machine has an identifier", bool, _uuid, needed=True),
    Rule("architecture", "Parallels runs x86_64 and aarch64", ("x86_64", "aarch64"), "x86_64",
         needed=True),
    Rule("chipset", "Parallels chooses it"),
    Rule("firmware.variables", "it is NVRAM.dat beside, and not named"),
    Rule("firmware.loader", "Parallels has its own"),
    Rule("firmware.tpm", "the TPM of Parallels is 2.0", ("2.0",), "2.0"),
    Rule("cpus.count", "a machine has processors", lambda count: 0 < count <= 1 << 16, 1,
         needed=True),
    Rule("cpus.sockets", "the topology is not said"),
    Rule("cpus.cores", "the topology is not said"),
    Rule("cpus.threads", "the topology is not said"),
    Rule("cpus.model", "the host's is taken"),
    Rule("memory", "a machine has memory, in MiB", lambda size: size and _whole_mib(size),
         lambda machine: -(-machine.memory // _MIB) * _MIB or _GIB, needed=True),
    Rule("clock", "only a shift of the clock is said"),
    Rule("guest", "Parallels has no number of its own for it",
         lambda guest: by_parallels(parallels(guest)[1]) == guest,
         lambda machine: by_parallels(parallels(machine.guest)[1]) or None),
    Rule("drives[].path", "XML has no such characters", _sayable),
    Rule("drives[].readonly", "it is not said of a disk"),
    Rule("drives[].serial", "XML has no such characters", _sayable),
    Rule("networks[].model", "Parallels has no such card", tuple(words.CARDS.values()),
         lambda machine: "virtio" if machine.architecture == "aarch64" else network_card(machine)),
    Rule("networks[].network", "XML has no such characters", _sayable),
    Rule("serials[]", "a port is a file, a device, a socket or host:port",
         lambda serial: serial.kind in words.SERIALS.values() and serial.path
         and _sayable(serial.path)),
    Rule("display.model", "Parallels has a card of its own", ("none",)),
    Rule("display.memory", "it is counted in MiB", _whole_mib),
    Rule("display.remote", "Parallels shows a screen elsewhere through VNC only", ("vnc",)),
    Rule("sound[]", "Parallels has AC'97 and Intel's HD Audio", tuple(words.SOUNDS.values()),
         "hda"),
    Rule("usb[]", "Parallels has no such controller", tuple(words.USB)),
    Rule("snapshots[].name", "XML has no such characters", _sayable),
    Rule("snapshots[].description", "XML has no such characters", _sayable),
    Rule("snapshots[].created", "it is no time", TIME.fullmatch),
    Rule("snapshots[].memory", "its name is not said"),
    Rule("snapshots[].drives", "the disks have states of the same name"),
)  # fmt: skip


def fitted(machine: Machine) -> Fitting:
    """``machine`` on its way into a config.pvs."""
    fitting = Fitting(machine, "parallels", _RULES)
    _fit_firmware(fitting)
    _fit_drives(fitting)
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network, at)
    _fit_boots(fitting)
    _fit_usb(fitting)
    _fit_snapshots(fitting)
    _fit_order(fitting)
    return fitting


def _fit_firmware(fitting: Fitting) -> None:
    kind = fitting.machine.firmware.kind
    if kind == "bios" and fitting.now("architecture") == "aarch64":
        fitting.lose("firmware.kind", "machines of aarch64 have UEFI", kind := "uefi")
    if kind != "uefi":
        fitting.lose("firmware.secure_boot", "only UEFI has it")


def _fit_drives(fitting: Fitting) -> None:
    machine = fitting.machine
    others = [
        drive
        for drive in machine.drives
        if drive.bus not in words.ROOM and drive.device != "floppy"
    ]
    spare = "sata" if len(others) <= words.STACK["sata"] else "scsi"
    for at, drive in fitting.members("drives"):
        key = f"drives[{at}]"
        if drive.source in ("network", "volume"):
            fitting.lose(key, "Parallels opens files and devices only")
            continue
        if drive.source == "block" and not fitting.now(f"{key}.path"):
            fitting.lose(f"{key}.source", "there is no device", "file")
        _fit_disk(fitting, key, drive)

    def fallback(drive: Drive) -> str:
        return "floppy" if drive.device == "floppy" else spare

    def fits(device: str, bus: str) -> bool:
        if bus in ("floppy", "virtio"):
            return device == ("floppy" if bus == "floppy" else "disk")
        return device != "floppy"

    fitting.place(words.ROOM, fallback, "Parallels", fits)
    listed = next(
        (each for each in machine.controllers if (each.bus, each.index) == ("scsi", 0)), None
    )
    found: tuple[Controller, ...] = ()
    there = any(drive.bus == "scsi" for drive in fitting.fitted.drives)
    if listed is not None and there and listed.model in words.SCSI.values():
        found = (Controller("scsi", 0, listed.model),)
    fitting.controllers(found, "only the model of the SCSI controller is said, if it has disks")


def _fit_disk(fitting: Fitting, key: str, drive: Drive) -> None:
    if drive.device != "disk":
        fitting.lose(f"{key}.size", "it is said of disks only")
        fitting.lose(f"{key}.format", "it is said of disks only")
        fitting.lose(f"{key}.serial", "it is said of disks only")
        return
    own = fitting.now(f"{key}.source") == "file" and is_own_disk(fitting.now(f"{key}.path"))
    reason = "the name says it" if own else "Parallels takes disks of its own format only"
    fitting.lose(f"{key}.format", reason, "parallels" if own else "")
    if drive.size % _MIB:
        fitting.lose(f"{key}.size", "it is counted in MiB", -(-drive.size // _MIB) * _MIB)


def _fit_network(fitting: Fitting, key: str, network: Network, at: int) -> None:
    name = fitting.now(f"{key}.network")
    kind = network.kind
    if not re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", network.mac):
        seed = repr((fitting.machine.name, fitting.machine.uuid, at)).encode()
        tail = sha256(seed).digest()[:3]
        mac = f"{words.OUI}:{tail.hex(':')}"
        fitting.lose(f"{key}.mac", "a card has an address", mac)
    if kind == "internal":
        fitting.lose(f"{key}.kind", "what is next to it has the host in it", "hostonly")
    elif kind == "none":
        fitting.lose(f"{key}.kind", "a card is on some network", "nat")
        fitting.lose(f"{key}.connected", "it is on none", False)
    elif kind in ("", "user") or (kind == "network" and not name):
        instead = "bridge" if kind == "network" else "nat"
        fitting.lose(f"{key}.kind", "a card is on some network", instead)
    now = fitting.now(f"{key}.kind")
    if now == "nat":
        fitting.lose(f"{key}.network", "the shared network has no name")
    elif now == "bridge" and name == words.DEFAULT_ADAPTER:
        fitting.lose(f"{key}.network", "Parallels takes it for any adapter")


def _fit_boots(fitting: Fitting) -> None:
    """What boots is numbered without gaps."""
    order = sorted(
        (member.boot, name, at)
        for name in ("drives", "networks")
        for at, member in fitting.members(name)
        if member.boot > 0
    )
    for rank, (boot, name, at) in enumerate(order, 1):
        if rank != boot:
            fitting.lose(f"{name}[{at}].boot", "what boots is numbered without gaps", rank)
    for name in ("drives", "networks"):
        for at, member in fitting.members(name):
            if member.boot < 0:
                fitting.lose(f"{name}[{at}].boot", "it is no place in an order")


def _fit_usb(fitting: Fitting) -> None:
    now = tuple(each for each in words.USB if each in fitting.fitted.usb)
    if now != fitting.fitted.usb:
        fitting.lose("usb", "there is one of each, in this order", now)


def _fit_snapshots(fitting: Fitting) -> None:
    for at, each in fitting.members("snapshots"):
        reason = "a state is named by a GUID"
        fitting.lose(f"snapshots[{at}].id", reason, guid(each.id))
        if each.parent:
            fitting.lose(f"snapshots[{at}].parent", reason, guid(each.parent))
    now = fitting.fitted.snapshots
    try:
        found = read_snapshots(write_snapshots(now), "snapshots")
    except FormatError:  # deeper than anybody reads
        found = ()
    if found != now:
        fitting.lose("snapshots", "they are told as a tree, a state behind its parent", found)


def _fit_order(fitting: Fitting) -> None:
    drives = fitting.fitted.drives
    rank = {bus: at for at, bus in enumerate(BUSES)}
    found = tuple(sorted(drives, key=lambda each: (rank[each.bus], each.controller, each.slot)))
    if found != drives:
        fitting.lose("drives", "their places tell their order", found)
