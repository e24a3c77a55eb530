"""Reading a .vmx. Imports text, words, snapshots, guests and the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from vmimg.errors import FormatError
from vmimg.machines import guests
from vmimg.machines.dialects.vmx import words
from vmimg.machines.dialects.vmx.snapshots import read_snapshots
from vmimg.machines.dialects.vmx.text import Dictionary
from vmimg.machines.model import (
    Bus,
    Controller,
    CPUs,
    Display,
    Drive,
    Firmware,
    Machine,
    Network,
    Serial,
)
from vmimg.machines.vmware import hardware_number

__all__ = ["read", "read_with"]

_MIB: Final = 1 << 20
_MAX_DRIVES: Final = 1024  # VMware has room for 260
_MAX_ORDER: Final = 64
_UNIT: Final = re.compile(r"(ide|sata|scsi|nvme)(\d{1,2}):(\d{1,3})\.(\w+)", re.I)
_FLOPPY: Final = re.compile(r"floppy(\d)\.(\w+)", re.I)
_CONTROLLER: Final = re.compile(r"(sata|scsi|nvme)(\d{1,2})\.(present|virtualDev)", re.I)
_NUMBERED: Final = re.compile(r"(ethernet|serial)(\d{1,2})\.\w+", re.I)
_SIGNS: Final = (
    "config.version", "virtualHW.version", "displayName", "guestOS", "memsize", "scsi0.present",
)  # fmt: skip
_EMPTY: Final = ("", "auto detect", "emptybackingstring")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine, without its snapshots, which are told beside it."""
    return read_with(data, name, {})


def read_with(data: bytes, name: str, beside: Mapping[str, bytes]) -> tuple[Machine, ...]:
    """The machine, with the snapshots of its .vmsd, if ``beside`` has one: files by their names.

    Raises FormatError.
    """
    entries = Dictionary.parse(data, name)
    if not any(key in entries for key in _SIGNS):
        raise FormatError(f"{name}: has none of the keys that every .vmx has")
    machine = _machine(entries, name)
    found = _companion(name, beside)
    if found:
        machine = replace(machine, snapshots=read_snapshots(beside[found], found))
    return (machine,)


def _companion(name: str, beside: Mapping[str, bytes]) -> str:
    stem = re.split(r"[/\\]", name)[-1].removesuffix(".vmx")
    wanted = [each for each in beside if each.lower().endswith(".vmsd")]
    if stem + ".vmsd" in wanted:
        return stem + ".vmsd"
    return wanted[0] if len(wanted) == 1 else ""


def _machine(entries: Dictionary, name: str) -> Machine:
    for key in (".encoding", "encoding", "config.version"):
        entries.take(key)
    system = guests.by_vmware(entries.take("guestOS"))
    drives, buses = _drives(entries, name)
    machine = Machine(
        name=entries.take("displayName"),
        description=entries.take("annotation"),
        uuid=_uuid(entries),
        architecture=system.architecture,
        firmware=_firmware(entries),
        cpus=_cpus(entries, name),
        memory=entries.number("memsize", name, high=1 << 40) * _MIB,
        clock=_clock(entries),
        guest=system.guest,
        controllers=_controllers(entries, buses),
        drives=drives,
        networks=_networks(entries, name),
        serials=_serials(entries, name),
        display=_display(entries, name),
        sound=_sound(entries),
        usb=_usb(entries),
    )
    machine = _boot_order(machine, entries)
    _drop_what_is_always_there(machine, entries)
    rest = entries.rest()
    return replace(machine, extras={"vmx": rest}) if rest else machine


def _drop_what_is_always_there(machine: Machine, entries: Dictionary) -> None:
    """What a writer puts into every file is no property of this one."""
    if entries.look("virtualHW.version") == str(hardware_number(machine)):
        entries.take("virtualHW.version")
    bridges = [key for key in entries.names() if key.lower().startswith("pcibridge")]
    if len(bridges) == len(words.BRIDGES) and all(
        entries.look(key) == value for key, value in words.BRIDGES
    ):
        for key in bridges:
            entries.take(key)
    if entries.look("floppy0.present").upper() == "FALSE":
        entries.take("floppy0.present")


def _uuid(entries: Dictionary) -> str:
    text = entries.look("uuid.bios")
    digits = re.sub(r"[\s-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        return ""
    entries.take("uuid.bios")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _firmware(entries: Dictionary) -> Firmware:
    kind: Any = {"efi": "uefi", "bios": "bios"}.get(entries.look("firmware").lower(), "")
    if kind:
        entries.take("firmware")
    loader = "efi64.filename" if kind == "uefi" else "bios440.filename"
    return Firmware(
        kind=kind,
        secure_boot=entries.flag("uefi.secureBoot.enabled"),
        tpm="2.0" if entries.flag("vtpm.present") else "",
        variables=entries.take("nvram"),
        loader=entries.take(loader),
    )


def _cpus(entries: Dictionary, name: str) -> CPUs:
    count = entries.number("numvcpus", name, high=1 << 16)
    cores = entries.number("cpuid.coresPerSocket", name, high=1 << 16)
    if cores and count and count % cores == 0:
        return CPUs(count, count // cores, cores, 1)
    return CPUs(count)


def _clock(entries: Dictionary) -> str:
    if entries.look("rtc.diffFromUTC") == "0":
        entries.take("rtc.diffFromUTC")
        return "utc"
    return ""


def _drives(entries: Dictionary, name: str) -> tuple[tuple[Drive, ...], list[tuple[str, int]]]:
    """The drives in the order of the file, and the buses that they hang on."""
    found: dict[tuple[str, int, int], Drive] = {}
    buses: list[tuple[str, int]] = []
    for key in list(entries.names()):
        unit = _UNIT.fullmatch(key)
        floppy = _FLOPPY.fullmatch(key)
        if unit:
            place = (unit[1].lower(), int(unit[2]), int(unit[3]))
            prefix = f"{unit[1]}{unit[2]}:{unit[3]}"
        elif floppy:
            place, prefix = ("floppy", 0, int(floppy[1])), f"floppy{floppy[1]}"
        else:
            continue
        if place in found or entries.look(f"{prefix}.present").strip().upper() != "TRUE":
            continue
        if len(found) >= _MAX_DRIVES:
            raise FormatError(f"{name}: has more than {_MAX_DRIVES} drives")
        entries.take(f"{prefix}.present")
        found[place] = _drive(entries, prefix, place)
        if place[0] != "floppy":
            buses.append(place[:2])
    return tuple(found.values()), list(dict.fromkeys(buses))


def _drive(entries: Dictionary, prefix: str, place: tuple[str, int, int]) -> Drive:
    path = entries.take(f"{prefix}.fileName")
    kind = entries.look(f"{prefix}.deviceType").lower()
    device: Any = "disk"
    if place[0] == "floppy":
        device = "floppy"
        entries.take(f"{prefix}.fileType")
    elif "cdrom" in kind or (not kind and path.lower().endswith(".iso")):
        device = "cdrom"
    if device == "cdrom":
        # "cdrom-raw" and "atapi-cdrom" are drives of the host, of which the path is one.
        entries.take(f"{prefix}.deviceType")
        if path.lower() == "auto detect" and entries.look(f"{prefix}.autodetect") == "TRUE":
            entries.take(f"{prefix}.autodetect")
    elif kind in ("disk", "scsi-harddisk", "ata-harddisk"):
        entries.take(f"{prefix}.deviceType")
    if path.lower() in _EMPTY:
        path = ""
    source: Any = "block" if path.startswith("/dev/") else "file"
    return Drive(
        device=device,
        bus=cast("Bus", place[0]),
        controller=place[1],
        slot=place[2],
        path=path,
        source=source,
        format="vmdk" if device == "disk" and path.lower().endswith(".vmdk") else "",
    )


def _controllers(entries: Dictionary, used: list[tuple[str, int]]) -> tuple[Controller, ...]:
    found: dict[tuple[str, int], Controller] = {}
    for key in list(entries.names()):
        match = _CONTROLLER.fullmatch(key)
        if match is None:
            continue
        bus, index = match[1].lower(), int(match[2])
        prefix = f"{match[1]}{match[2]}"
        if (bus, index) in found or entries.flag(f"{prefix}.present") is not True:
            continue
        model = entries.take(f"{prefix}.virtualDev").lower()
        if bus == "sata" and model in ("", "ahci"):
            model = "ahci"
        found[bus, index] = Controller(cast("Bus", bus), index, model)
    for bus, index in used:
        if bus == "ide":
            found[bus, index] = Controller("ide", index, "piix4")
    return tuple(sorted(found.values(), key=lambda each: (words.BUSES.index(each.bus), each.index)))


def _numbers(entries: Dictionary, kind: str) -> list[int]:
    found = [
        int(match[2])
        for key in entries.names()
        if (match := _NUMBERED.fullmatch(key)) and match[1].lower() == kind
    ]
    return [
        number
        for number in sorted(set(found))
        if entries.look(f"{kind}{number}.present").strip().upper() == "TRUE"
    ]


def _networks(entries: Dictionary, name: str) -> tuple[Network, ...]:
    found = []
    for number in _numbers(entries, "ethernet"):
        prefix = f"ethernet{number}"
        entries.take(f"{prefix}.present")
        told = entries.take(f"{prefix}.virtualDev").lower()
        model = words.NETWORKS.get(told, told)
        if model == "vmxnet" and entries.look(f"{prefix}.features") == "15":
            entries.take(f"{prefix}.features")
            model = "vmxnet2"
        kind, network = _connection(entries, prefix)
        found.append(
            Network(
                model=model,
                mac=_mac(entries, prefix),
                kind=kind,
                network=network,
                connected=entries.flag(f"{prefix}.startConnected") is not False,
            )
        )
    return tuple(found)


def _connection(entries: Dictionary, prefix: str) -> tuple[Any, str]:
    told = entries.look(f"{prefix}.connectionType").lower()
    network = entries.take(f"{prefix}.networkName")
    if told == "custom" and entries.look(f"{prefix}.vnet"):
        entries.take(f"{prefix}.connectionType")
        return "network", entries.take(f"{prefix}.vnet")
    if told in words.CONNECTIONS:
        entries.take(f"{prefix}.connectionType")
        if told == "pvn" and network:
            entries.take(f"{prefix}.pvnID")
        return words.CONNECTIONS[told], network
    return ("network" if network else ""), network


def _mac(entries: Dictionary, prefix: str) -> str:
    kind = entries.look(f"{prefix}.addressType").lower()
    key = f"{prefix}.address" if kind == "static" else f"{prefix}.generatedAddress"
    mac = entries.look(key).lower().replace("-", ":")
    if not re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
        if not kind or kind == "generated":
            entries.take(f"{prefix}.addressType")
        return ""
    entries.take(key)
    if kind == "static":
        entries.take(f"{prefix}.addressType")
        if entries.look(f"{prefix}.checkMACAddress").lower() == "false":
            entries.take(f"{prefix}.checkMACAddress")
    return mac


def _serials(entries: Dictionary, name: str) -> tuple[Serial, ...]:
    found = []
    for number in _numbers(entries, "serial"):
        prefix = f"serial{number}"
        entries.take(f"{prefix}.present")
        told = entries.look(f"{prefix}.fileType").lower()
        if told and told not in words.SERIALS:
            continue  # a printer: kept as it is
        entries.take(f"{prefix}.fileType")
        path = entries.take(f"{prefix}.fileName")
        kind = words.SERIALS.get(told, "device")
        if kind == "tcp":
            path = path.partition("://")[2] or path
        found.append(Serial(kind, path))
    return tuple(found)


def _display(entries: Dictionary, name: str) -> Display | None:
    keys = ("svga.present", "svga.vramSize", "svga.numDisplays", "mks.enable3d")
    remote = entries.flag("RemoteDisplay.vnc.enabled")
    if remote is None and not any(key in entries for key in keys):
        return None
    entries.take("svga.present")
    return Display(
        model="vmvga",
        memory=entries.number("svga.vramSize", name),
        heads=entries.number("svga.numDisplays", name, high=64),
        accelerated=entries.flag("mks.enable3d"),
        remote="vnc" if remote else "",
    )


def _sound(entries: Dictionary) -> tuple[str, ...]:
    if entries.look("sound.present").upper() != "TRUE":
        return ()
    entries.take("sound.present")
    told = entries.take("sound.virtualDev").lower()
    # The card of machines that do not say.
    return (words.SOUNDS.get(told, told or "es1370"),)


def _usb(entries: Dictionary) -> tuple[str, ...]:
    found = []
    for key in list(entries.names()):
        kind, _, rest = key.lower().partition(".")
        if rest == "present" and kind in words.USBS and entries.look(key).upper() == "TRUE":
            entries.take(key)
            found.append(words.USBS[kind])
    return tuple(found)


def _boot_order(machine: Machine, entries: Dictionary) -> Machine:
    told = entries.take("bios.bootOrder").lower().replace(" ", "")
    disks = entries.take("bios.hddOrder").lower().replace(" ", "")
    if not told:
        return machine
    drives, networks = list(machine.drives), list(machine.networks)
    order = 0
    for each in told.split(",")[:_MAX_ORDER]:
        if each == "hdd":
            wanted = disks.split(",")[:_MAX_ORDER] if disks else [_first(machine, "disk")]
        elif each in ("cdrom", "cd"):
            wanted = [_first(machine, "cdrom")]
        elif each == "floppy":
            wanted = [_first(machine, "floppy")]
        else:
            wanted = [each]
        for place in wanted:
            for at, drive in enumerate(drives):
                if place == f"{drive.bus}{drive.controller}:{drive.slot}" and not drive.boot:
                    order += 1
                    drives[at] = replace(drive, boot=order)
            for at, network in enumerate(networks):
                if place == f"ethernet{at}" and not network.boot:
                    order += 1
                    networks[at] = replace(network, boot=order)
    return replace(machine, drives=tuple(drives), networks=tuple(networks))


def _first(machine: Machine, device: str) -> str:
    return next(
        (
            f"{each.bus}{each.controller}:{each.slot}"
            for each in machine.drives
            if each.device == device
        ),
        "",
    )
