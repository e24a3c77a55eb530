"""Reading a config.pvs. Imports XML, words, keeping, snapshots and guests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.parallels import words
from vmimg.machines.dialects.parallels.snapshots import read_snapshots
from vmimg.machines.guests import by_parallels
from vmimg.machines.model import (
    BUSES,
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
from vmimg.machines.xml import Element, children, find, number, parse, text

__all__ = ["drive_place", "machine_of", "read", "read_with"]

_MIB: Final = 1 << 20
# Numbers that are a few, and those of MiB (a disk of an EiB, more is no disk).
_FEW: Final = 1 << 16
_MAX_DEVICES: Final = 256
_MOST_MIB: Final = 1 << 40
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC: Final = re.compile(r"[0-9A-Fa-f]{12}")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine in ``data``."""
    return read_with(data, name, {})


def read_with(data: bytes, name: str, beside: Mapping[str, bytes]) -> tuple[Machine, ...]:
    """The same, with the snapshots of the Snapshots.xml in ``beside``."""
    from vmimg.machines.dialects.parallels.keeping import kept

    root = parse(data, name, root=words.ROOT)
    machine = machine_of(root, name)
    extras = kept(root, machine)
    snapshots = read_snapshots(beside["Snapshots.xml"], name) if "Snapshots.xml" in beside else ()
    found = replace(machine, snapshots=snapshots)
    return (replace(found, extras={"parallels": extras}) if extras else found,)


def machine_of(root: Element, name: str) -> Machine:
    """What the model has words for."""
    reader = _Reader(root, name)
    return reader.machine()


def drive_place(element: Element, name: str) -> tuple[Bus, int, int]:
    """(bus, controller, slot) of an Fdd, CdRom or Hdd."""
    if element.tag == "Fdd":
        return "floppy", 0, _whole(element, name, "Index")
    kind = _whole(element, name, "InterfaceType", default=2)
    bus: Bus = words.INTERFACES.get(kind, "")
    stack = _whole(element, name, "StackIndex")
    return (bus, stack // 2, stack % 2) if bus == "ide" else (bus, 0, stack)


class _Reader:
    def __init__(self, root: Element, name: str) -> None:
        self._root = root
        self._name = name
        self._hardware = find(root, "Hardware")

    def machine(self) -> Machine:
        root, name = self._root, self._name
        uuid = text(root, "Identification", "VmUuid").strip("{}").lower()
        architecture = "aarch64" if self._number("Hardware", "Cpu", "Type") == 1 else "x86_64"
        boots = self._boots()
        drives = self._drives(boots)
        networks = self._networks(boots)
        return Machine(
            name=text(root, "Identification", "VmName"),
            description=text(root, "Settings", "General", "VmDescription"),
            uuid=uuid if _UUID.fullmatch(uuid) else "",
            architecture=architecture,
            firmware=self._firmware(),
            cpus=CPUs(self._number("Hardware", "Cpu", "Number", high=_FEW)),
            memory=self._number("Hardware", "Memory", "RAM", high=_MOST_MIB) * _MIB,
            guest=by_parallels(number(
                text(root, "Settings", "General", "OsNumber"), "OsNumber", name, high=0xFFFF
            )),
            controllers=self._controllers(),
            drives=drives,
            networks=networks,
            serials=self._serials(),
            display=self._display(),
            sound=self._sound(),
            usb=self._usb(),
        )  # fmt: skip

    def _number(self, *path: str, high: int = _FEW) -> int:
        value = text(self._root, *path)
        return number(value, path[-1], self._name, high=high)

    def _devices(self, element: str) -> list[Element]:
        found = [] if self._hardware is None else list(children(self._hardware, element))
        if len(found) > _MAX_DEVICES:
            raise FormatError(
                f"{self._name}: has {len(found)} of {element}, more than {_MAX_DEVICES}"
            )
        return found

    def _firmware(self) -> Firmware:
        bios = find(self._root, "Settings", "Startup", "Bios")
        efi = "" if bios is None else text(bios, "EfiEnabled")
        tpm = "2.0" if self._number("Hardware", "TpmChip", "Type") else ""
        if not efi:
            return Firmware(tpm=tpm)  # type: ignore[arg-type]
        if efi == "0":
            return Firmware("bios", tpm=tpm)  # type: ignore[arg-type]
        secure = {"0": False, "1": True}.get(
            text(bios, "EfiSecureBoot") if bios is not None else ""
        )
        return Firmware("uefi", secure, tpm)  # type: ignore[arg-type]

    def _boots(self) -> dict[tuple[str, int], int]:
        """Rank by (element, Index) of what boots, of the devices that are there."""
        order = find(self._root, "Settings", "Startup", "BootingOrder")
        there = {
            (element, _whole(each, self._name, "Index"))
            for element in words.BOOT_TYPES.values()
            for each in self._devices(element)
        }
        found: list[tuple[int, int, tuple[str, int]]] = []
        for at, each in enumerate(children(order, "BootDevice") if order is not None else ()):
            element = words.BOOT_TYPES.get(_whole(each, self._name, "Type"), "")
            key = (element, _whole(each, self._name, "Index"))
            if text(each, "InUse") == "1" and key in there:
                found.append((_whole(each, self._name, "BootingNumber"), at, key))
        ranks: dict[tuple[str, int], int] = {}
        for _, _, key in sorted(found):
            ranks.setdefault(key, len(ranks) + 1)
        return ranks

    def _drives(self, boots: dict[tuple[str, int], int]) -> tuple[Drive, ...]:
        drives: list[Drive] = []
        for tag, device in words.DEVICES.items():
            for element in self._devices(tag):
                bus, controller, slot = drive_place(element, self._name)
                boot = boots.get((tag, _whole(element, self._name, "Index")), 0)
                drives.append(self._drive(element, device, boot, bus, controller, slot))
        rank = {bus: at for at, bus in enumerate(("", *BUSES))}
        drives.sort(key=lambda each: (rank[each.bus], each.controller, each.slot))
        return tuple(drives)

    def _drive(
        self, element: Element, device: str, boot: int, bus: Bus, controller: int, slot: int
    ) -> Drive:
        path = text(element, "SystemName")
        real = text(element, "EmulatedType") == str(words.REAL)
        disk = device == "disk"
        size = number(text(element, "Size"), "Size", self._name, high=_MOST_MIB) if disk else 0
        return Drive(
            device=device,  # type: ignore[arg-type]
            bus=bus,
            controller=controller,
            slot=slot,
            path=path,
            source="block" if real and path else "file",
            format="parallels" if disk and not real and is_own_disk(path) else "",
            size=size * _MIB,
            boot=boot,
            serial=text(element, "SerialNumber") if disk else "",
        )

    def _controllers(self) -> tuple[Controller, ...]:
        """The SCSI controller, where its disks say its model."""
        for tag in ("CdRom", "Hdd"):
            for element in self._devices(tag):
                model = words.SCSI.get(_whole(element, self._name, "SubType"), "")
                said = text(element, "SubType")
                if said and model and drive_place(element, self._name)[0] == "scsi":
                    return (Controller("scsi", 0, model),)
        return ()

    def _networks(self, boots: dict[tuple[str, int], int]) -> tuple[Network, ...]:
        return tuple(
            self._network(each, boots.get(("NetworkAdapter", _whole(each, self._name, "Index")), 0))
            for each in self._devices("NetworkAdapter")
        )

    def _network(self, element: Element, boot: int) -> Network:
        mac = re.sub(r"[:.-]", "", text(element, "MAC"))
        kind, network = "", ""
        emulated = text(element, "EmulatedType")
        virtual = text(element, "VirtualNetworkID")
        if emulated == str(words.SHARED):
            kind = "nat"
        elif emulated == str(words.HOST_ONLY):
            kind, network = "hostonly", virtual
        elif emulated == str(words.BRIDGED) and virtual:
            kind, network = "network", virtual
        elif emulated == str(words.BRIDGED):
            adapter = text(element, "AdapterName")
            kind, network = "bridge", "" if adapter == words.DEFAULT_ADAPTER else adapter
        return Network(
            model=words.CARDS.get(_whole(element, self._name, "AdapterType"), ""),
            mac=":".join(re.findall("..", mac.lower())) if _MAC.fullmatch(mac) else "",
            kind=kind,  # type: ignore[arg-type]
            network=network,
            connected=text(element, "Connected") != "0" and text(element, "Enabled") != "0",
            boot=boot,
        )

    def _serials(self) -> tuple[Serial, ...]:
        found = []
        for element in self._devices("Serial"):
            kind = words.SERIALS.get(_whole(element, self._name, "EmulatedType"))
            path = text(element, "SystemName")
            if kind is not None and path:
                found.append(Serial(kind, path))  # type: ignore[arg-type]
        return tuple(found)

    def _display(self) -> Display | None:
        video = find(self._root, "Hardware", "Video")
        remote = "vnc" if self._number("Settings", "RemoteDisplay", "Mode") else ""
        if video is None:
            return Display(remote=remote) if remote else None
        accelerated = text(video, "Enable3DAcceleration")
        return Display(
            model="none" if text(video, "Enabled") == "0" else "",
            memory=self._number("Hardware", "Video", "VideoMemorySize", high=_MOST_MIB) * _MIB,
            heads=self._number("Hardware", "Video", "MaxDisplays"),
            accelerated=None if not accelerated else accelerated != "0",
            remote=remote,
        )

    def _sound(self) -> tuple[str, ...]:
        return tuple(
            words.SOUNDS.get(_whole(element, self._name, "AdvancedType"), "hda")
            for element in self._devices("Sound")
            if text(element, "Enabled") != "0"
        )

    def _usb(self) -> tuple[str, ...]:
        usb = find(self._root, "Settings", "UsbController")
        return tuple(
            model for model, tag in words.USB.items() if usb is not None and text(usb, tag) == "1"
        )


def is_own_disk(path: str) -> bool:
    """Whether a name is that of a disk of Parallels."""
    return path.lower().endswith((".hdd", ".hds"))


def _whole(element: Element, name: str, tag: str, *, default: int = 0) -> int:
    return number(text(element, tag), tag, name, low=-_FEW, high=_FEW, default=default)
