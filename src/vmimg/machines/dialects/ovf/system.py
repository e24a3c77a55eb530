"""Writing a virtual system: its sections, and an item for each device.

What VMware does not know is written as the nearest thing that VMware and VirtualBox both have: a
disk on virtio hangs on SATA, a virtio network card becomes an E1000, which guests have drivers for.
Source: DSP0243 1.1.1, section 8; what ovftool writes. Imports kept, names, words and the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmimg.machines import guests, xml
from vmimg.machines.dialects.ovf import words
from vmimg.machines.dialects.ovf.envelope import OvfDisk
from vmimg.machines.dialects.ovf.kept import put, put_section
from vmimg.machines.dialects.ovf.names import OVF1, RASD, VBOX, VMW, VSSD, Resource
from vmimg.machines.model import Bus, Controller, Drive, Extra, Machine, Network
from vmimg.machines.slots import settle
from vmimg.machines.vmware import hardware_version

__all__ = ["REASONS", "System", "connection", "write_system"]

_MIB: Final = 1 << 20
_LEAST_MEMORY: Final = 1 << 30
_ROOM: Final = {
    "ide": (2, 2),
    "sata": (4, 30),
    "scsi": (4, 16),
    "nvme": (4, 15),
    "floppy": (1, 2),
}
_TYPE_OF_BUS: Final[dict[str, int]] = {
    "ide": Resource.IDE,
    "scsi": Resource.SCSI,
    "sata": Resource.OTHER_STORAGE,
    "nvme": Resource.OTHER_STORAGE,
}
_TITLES: Final = {"ide": "IDE", "scsi": "SCSI", "sata": "SATA", "nvme": "NVMe"}
_BOOT_TYPES: Final = {"disk": "disk", "cdrom": "cdrom", "floppy": "floppy"}

REASONS: Final = {
    "name": "a system has a name, of one line",
    "uuid": "an appliance is installed many times, and each machine gets its own",
    "architecture": "it is told by the guest system only",
    "chipset": "OVF leaves it to the hypervisor",
    "firmware.loader": "the code of the firmware is the hypervisor's",
    "firmware.tpm": "VMware's TPM is a 2.0",
    "firmware": "OVF does not say it",
    "cpus.count": "a machine has at least one processor",
    "cpus.model": "OVF leaves the model of the processor to the hypervisor",
    "cpus.threads": "OVF counts cores, not threads",
    "cpus": "OVF says the number of processors and how many cores a socket has",
    "memory": "OVF counts it in MiB, and a machine has some",
    "clock": "OVF does not say what the clock shows",
    "guest": "it is known by its family there",
    "controllers": "VMware and VirtualBox have these, and every drive needs one",
    "drives.bus": "VMware and VirtualBox have no such bus for it",
    "drives.controller": "there is no such place on that bus",
    "drives.slot": "there is no such place on that bus",
    "drives.source": "a package has files only",
    "drives.path": "a package has files only",
    "drives.readonly": "OVF has no disks that cannot be written",
    "drives.serial": "OVF has no serial numbers",
    "drives.boot": "VMware's boot order names each device once, from 1",
    "drives": "OVF does not say it of a drive",
    "networks.model": "VMware has no such card",
    "networks.kind": "OVF tells networks by their names",
    "networks.network": "OVF tells networks by their names",
    "networks": "OVF does not say it of an interface",
    "serials.path": "what the port leads to is the host's",
    "serials": "VMware has no such port",
    "display": "OVF says the memory and monitors of the card, not its model",
    "sound": "VMware and VirtualBox have no such card",
    "usb": "VMware and VirtualBox have no such controller",
    "snapshots": "OVF describes one state",
    "extras": "there is no place for it",
    "": "OVF does not say it",
}
"""Why things are lost, by places in the model."""


@dataclass(frozen=True, slots=True)
class System:
    """A machine to write. ``places``: its drives' disks or files; ``variables``: the id of the file
    with its variable store.
    """

    machine: Machine
    id: str
    disks: Sequence[OvfDisk]
    places: Mapping[int, str]
    variables: str = ""


def connection(network: Network) -> str:
    """The name of the network that an interface connects to, "" for none."""
    if network.kind == "none":
        return ""
    return network.network or words.NETWORK_NAMES[network.kind]


def write_system(system: System) -> xml.Element:
    """The <VirtualSystem>."""
    return _Writer(system).write()


class _Writer:
    def __init__(self, system: System) -> None:
        self.system = system
        self.machine = system.machine
        self.extras: list[Extra] = list(self.machine.extras.get("ovf", ()))
        self.root = xml.make(f"{{{OVF1}}}VirtualSystem", {f"{{{OVF1}}}id": system.id})
        self.hardware = self.root
        taken = {
            xml.text(xml.snippet(value), "InstanceID")
            for key, value in self.extras
            if key == "VirtualHardwareSection/Item"
        }
        self._free = (str(each) for each in range(1, 1 << 20) if str(each) not in taken)
        self.boots: list[tuple[int, str, str]] = []  # order, instance, type

    def write(self) -> xml.Element:
        machine = self.machine
        self._ovf("Info", self.root, "A virtual machine")
        if machine.name:
            self._ovf("Name", self.root, machine.name)
        if machine.guest or machine.architecture:
            self._guest()
        if machine.description:
            section = self._ovf("AnnotationSection", self.root)
            self._ovf("Info", section, "A human-readable annotation")
            self._ovf("Annotation", section, machine.description)
        self._hardware()
        for _, id, kind in sorted(self.boots):
            section = xml.make(
                f"{{{VMW}}}BootOrderSection",
                {
                    f"{{{OVF1}}}required": "false",
                    f"{{{VMW}}}instanceId": id,
                    f"{{{VMW}}}type": kind,
                },
                parent=self.root,
            )
            self._ovf("Info", section, "Virtual hardware device boot order")
        self._keep(self.root, "VirtualSystem/")
        return self.root

    def _ovf(
        self,
        name: str,
        parent: xml.Element,
        content: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> xml.Element:
        return xml.make(f"{{{OVF1}}}{name}", attributes, content, parent=parent)

    def _keep(self, element: xml.Element, prefix: str) -> None:
        """Put back what the reader kept of a place."""
        for key, value in self.extras:
            if _is_below(key, prefix):
                put_section(element, value)

    def _guest(self) -> None:
        guest, architecture = self.machine.guest, self.machine.architecture
        row = guests.find(guest)
        section = self._ovf(
            "OperatingSystemSection",
            self.root,
            attributes={
                f"{{{OVF1}}}id": str(guests.cim(guest, architecture)),
                f"{{{VMW}}}osType": guests.vmware_api(guest, architecture),
            },
        )
        self._ovf("Info", section, "The kind of installed guest operating system")
        self._ovf("Description", section, row.title if row else "Other")
        xml.make(
            f"{{{VBOX}}}OSType",
            {f"{{{OVF1}}}required": "false"},
            guests.virtualbox(guest, architecture),
            parent=section,
        )

    def _hardware(self) -> None:
        extras = dict(self.extras)
        attributes = {}
        if "VirtualHardwareSection@transport" in extras:
            attributes[f"{{{OVF1}}}transport"] = extras["VirtualHardwareSection@transport"]
        self.hardware = self._ovf("VirtualHardwareSection", self.root, attributes=attributes)
        self._ovf("Info", self.hardware, "Virtual hardware requirements")
        system = self._ovf("System", self.hardware)
        for name, content in (
            ("ElementName", "Virtual Hardware Family"),
            ("InstanceID", "0"),
            ("VirtualSystemIdentifier", self.system.id),
            (
                "VirtualSystemType",
                extras.get("System/VirtualSystemType") or hardware_version(self.machine),
            ),
        ):
            xml.make(f"{{{VSSD}}}{name}", content=content, parent=system)
        own = "System/VirtualSystemType"
        put(system, [value for key, value in self.extras if _is_below(key, "System/", own)])
        self._cpus()
        self._memory()
        self._drives()
        self._devices()
        self._keep_only("VirtualHardwareSection/Item")
        self._settings()
        self._keep_only("VirtualHardwareSection/Config")
        self._keep_only("VirtualHardwareSection/ExtraConfig")

    def _keep_only(self, wanted: str) -> None:
        for key, value in self.extras:
            if key == wanted:
                put_section(self.hardware, value)

    def _item(
        self,
        type: int,
        label: str,
        place: str = "",
        *,
        required: bool = True,
        config: Mapping[str, str] | None = None,
        **values: str,
    ) -> str:
        """An item; its InstanceID. ``values`` are children of CIM by their names."""
        id = next(self._free)
        attributes = {} if required else {f"{{{OVF1}}}required": "false"}
        item = self._ovf("Item", self.hardware, attributes=attributes)
        values.update(ElementName=label, InstanceID=id, ResourceType=str(type))
        for name in sorted(values):
            if values[name]:
                xml.make(f"{{{RASD}}}{name}", content=values[name], parent=item)
        for key, value in (config or {}).items():
            self._config(item, key, value)
        if place:
            put(item, [value for key, value in self.extras if _is_below(key, f"{place}/")])
        return id

    def _config(self, parent: xml.Element, key: str, value: str, name: str = "Config") -> None:
        xml.make(
            f"{{{VMW}}}{name}",
            {f"{{{OVF1}}}required": "false", f"{{{VMW}}}key": key, f"{{{VMW}}}value": value},
            parent=parent,
        )

    def _cpus(self) -> None:
        cpus = self.machine.cpus
        count = cpus.count or cpus.sockets * cpus.cores * max(cpus.threads, 1) or 1
        self._item(
            Resource.CPU,
            f"{count} virtual CPU(s)",
            "cpus",
            AllocationUnits="hertz * 10^6",
            Description="Number of Virtual CPUs",
            VirtualQuantity=str(count),
        )
        cores = cpus.cores * max(cpus.threads, 1)
        if cores:
            xml.make(
                f"{{{VMW}}}CoresPerSocket",
                {f"{{{OVF1}}}required": "false"},
                str(cores),
                parent=self.hardware[-1],
            )

    def _memory(self) -> None:
        size = -(-(self.machine.memory or _LEAST_MEMORY) // _MIB)
        self._item(
            Resource.MEMORY,
            f"{size}MB of memory",
            "memory",
            AllocationUnits="byte * 2^20",
            Description="Memory Size",
            VirtualQuantity=str(size),
        )

    def _controllers(self, used: list[tuple[Bus, int]]) -> dict[tuple[Bus, int], str]:
        """An item for each controller that the machine names and each that a drive hangs on."""
        ids: dict[tuple[Bus, int], str] = {}
        wanted: list[tuple[int, Controller]] = []
        for at, each in enumerate(self.machine.controllers):
            controllers = _ROOM.get(each.bus, (0, 0))[0]
            if each.bus in _TYPE_OF_BUS and each.index < controllers:
                wanted.append((at, each))
        told = {(each.bus, each.index) for _, each in wanted}
        wanted += [(-1, Controller(*each)) for each in used if each not in told]
        for at, each in wanted:
            if (each.bus, each.index) in ids:
                continue
            model = each.model
            if (each.bus, model) not in words.CONTROLLER_TYPES:
                model = self._default_model(each.bus)
            ids[each.bus, each.index] = self._item(
                _TYPE_OF_BUS[each.bus],
                f"{_TITLES[each.bus]} Controller {each.index}",
                f"controllers[{at}]" if at >= 0 else "",
                Address=str(each.index),
                Description=f"{_TITLES[each.bus]} Controller",
                ResourceSubType=words.CONTROLLER_TYPES[each.bus, model],
            )
        return ids

    def _default_model(self, bus: Bus) -> str:
        if bus == "scsi":
            # Windows has had no driver for the parallel one since Vista.
            return "lsisas1068" if guests.is_windows(self.machine.guest) else "lsilogic"
        return "ahci" if bus == "sata" else ""

    def _drives(self) -> None:
        drives = self.machine.drives
        spots = settle(drives, _ROOM, _fallback)
        used = list(dict.fromkeys((bus, at) for bus, at, _ in spots if bus != "floppy"))
        parents = self._controllers(sorted(used))
        names = {"disk": "Hard Disk", "cdrom": "CD/DVD Drive", "floppy": "Floppy Drive"}
        types = {"disk": Resource.DISK, "cdrom": Resource.CD, "floppy": Resource.FLOPPY}
        disks = {each.id for each in self.system.disks}
        for at, (drive, (bus, controller, slot)) in enumerate(zip(drives, spots, strict=True)):
            place = self.system.places.get(at, "")
            kind = "disk" if place in disks and drive.device == "disk" else "file"
            subtype = ""
            if drive.device == "cdrom":
                subtype = "vmware.cdrom.iso" if place else "vmware.cdrom.remotepassthrough"
            elif drive.device == "floppy":
                subtype = "vmware.floppy.device"
            id = self._item(
                types[drive.device],
                f"{names[drive.device]} {at + 1}",
                f"drives[{at}]",
                required=drive.device == "disk",
                AddressOnParent=str(slot),
                AutomaticAllocation="" if drive.device == "disk" else str(bool(place)).lower(),
                HostResource=f"ovf:/{kind}/{place}" if place else "",
                Parent=parents.get((bus, controller), ""),
                ResourceSubType=subtype,
            )
            if drive.boot:
                self.boots.append((drive.boot, id, _BOOT_TYPES[drive.device]))

    def _devices(self) -> None:
        machine = self.machine
        for at, network in enumerate(machine.networks):
            model = words.NETWORK_TYPES.get(network.model, "E1000")
            id = self._item(
                Resource.ETHERNET,
                f"Network adapter {at + 1}",
                f"networks[{at}]",
                Address=network.mac,
                AddressOnParent=str(7 + at),
                AutomaticAllocation=str(network.connected).lower(),
                Connection=connection(network),
                Description=f"{model} ethernet adapter",
                ResourceSubType=model,
            )
            if network.boot:
                self.boots.append((network.boot, id, "net"))
        for at, serial in enumerate(machine.serials):
            self._item(
                Resource.SERIAL,
                f"Serial port {at + 1}",
                f"serials[{at}]",
                required=False,
                AutomaticAllocation="false",
                ResourceSubType=words.SERIAL_TYPES[serial.kind],
            )
        for at, model in enumerate(machine.usb):
            self._item(
                Resource.USB,
                f"USB Controller {at + 1}",
                f"usb[{at}]",
                required=False,
                Address=str(at),
                Description="USB Controller",
                ResourceSubType=words.USB_TYPES.get(model, ""),
            )
        for at, model in enumerate(machine.sound):
            subtype = words.SOUND_TYPES.get(model, "vmware.soundcard.hdaudio")
            self._item(
                Resource.OTHER if subtype.startswith("vmware.") else Resource.SOUND,
                f"Sound Card {at + 1}",
                f"sound[{at}]",
                required=False,
                AutomaticAllocation="false",
                ResourceSubType=subtype,
            )
        if machine.display is not None:
            self._display()
        if machine.firmware.tpm:
            self._item(
                Resource.OTHER,
                "Virtual TPM",
                "firmware",
                required=False,
                AutomaticAllocation="false",
                ResourceSubType="vmware.vtpm",
            )

    def _display(self) -> None:
        display = self.machine.display
        assert display is not None
        config = {}
        if display.accelerated is not None:
            config["enable3DSupport"] = str(display.accelerated).lower()
        if display.heads:
            config["numDisplays"] = str(display.heads)
        if display.memory:
            config["videoRamSizeInKB"] = str(-(-display.memory // 1024))
        self._item(
            Resource.DISPLAY,
            "Video card",
            "display",
            required=False,
            config=config,
            AutomaticAllocation="false",
        )

    def _settings(self) -> None:
        firmware = self.machine.firmware
        if firmware.kind:
            kind = "efi" if firmware.kind == "uefi" else "bios"
            self._config(self.hardware, "firmware", kind)
        if firmware.secure_boot is not None:
            secure = str(firmware.secure_boot).lower()
            self._config(self.hardware, "bootOptions.efiSecureBootEnabled", secure)
        if self.system.variables:
            value = f"ovf:/file/{self.system.variables}"
            self._config(self.hardware, "nvram", value, "ExtraConfig")


def _fallback(drive: Drive) -> Bus:
    return "floppy" if drive.device == "floppy" else "sata"


def _is_below(key: str, prefix: str, *but: str) -> bool:
    """Whether an extra is of the place ``prefix`` itself."""
    return key.startswith(prefix) and "/" not in key[len(prefix) :] and key not in but
