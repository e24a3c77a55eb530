"""A virtual system of a descriptor, as a machine. VMware's and VirtualBox's extensions are read
beside the standard's words; what nobody here has a word for goes to the extras, under the place
where it stood. Source: DSP0243 1.1.1, section 8. Imports items, kept, words,
guests and the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

from vmimg.errors import FormatError
from vmimg.machines import guests, xml
from vmimg.machines.dialects.ovf import words
from vmimg.machines.dialects.ovf.envelope import Envelope, is_ovirt, kind_of, sections
from vmimg.machines.dialects.ovf.items import Item, read_items
from vmimg.machines.dialects.ovf.kept import in_order, kept
from vmimg.machines.dialects.ovf.names import VMW, Resource, units
from vmimg.machines.dialects.ovf.ovirt import read_ovirt
from vmimg.machines.dialects.vbox.reading import read_machine
from vmimg.machines.model import (
    Bus,
    Controller,
    CPUs,
    Display,
    Drive,
    Extra,
    Machine,
    Network,
    Serial,
)
from vmimg.machines.vmware import hardware_version

__all__ = ["read_system"]

_MAX_EXTRAS: Final = 10_000
_BUS_OF_TYPE: Final[dict[int, Bus]] = {
    Resource.IDE: "ide",
    Resource.SCSI: "scsi",
    Resource.OTHER_STORAGE: "sata",
}
_DEVICES: Final = {
    Resource.DISK: "disk",
    Resource.CD: "cdrom",
    Resource.DVD: "cdrom",
    Resource.FLOPPY: "floppy",
}
_UNDERSTOOD: Final = (
    "Info", "Name", "OperatingSystemSection", "AnnotationSection", "VirtualHardwareSection",
)  # fmt: skip
_SYSTEM_KNOWN: Final = (
    "ElementName", "InstanceID", "InstanceId", "VirtualSystemIdentifier", "VirtualSystemType",
)  # fmt: skip


def read_system(
    system: xml.Element, package: Envelope, name: str
) -> tuple[Machine, dict[int, str]]:
    """The machine, and for each of its drives the id of the disk or file of the package."""
    if is_ovirt(system):
        return read_ovirt(system, package, name)
    reader = _Reader(system, package, name)
    reader.read()
    return reader.finish()


class _Reader:
    def __init__(self, system: xml.Element, package: Envelope, name: str) -> None:
        self.system = system
        self.package = package
        self.name = name
        self.extras: list[Extra] = []
        self.drives: list[Drive] = []
        self.places: dict[int, str] = {}
        self.boot = _boot_order(system)
        self.boots: dict[str, tuple[str, int]] = {}  # item: (field, number)
        self.controllers: dict[str, Controller] = {}
        self.networks: list[Network] = []
        self.serials: list[Serial] = []
        self.sound: list[str] = []
        self.usb: list[str] = []
        self.machine = Machine()
        self.settings: Machine | None = None  # of VirtualBox, which embeds its own

    def read(self) -> None:
        system = self.system
        if len(system) > _MAX_EXTRAS:
            raise FormatError(f"{self.name}: more than {_MAX_EXTRAS} sections of a machine")
        self.machine = replace(
            self.machine,
            name=xml.text(system, "Name") or xml.attribute(system, "id"),
            description="".join(
                xml.text(each, "Annotation") for each in sections(system, "AnnotationSection")
            ),
        )
        for each in sections(system, "OperatingSystemSection"):
            self._guest(each)
        for each in sections(system, "VirtualHardwareSection"):
            self._hardware(each)
            break  # a second one is for another platform
        for each in system:
            if kind_of(each) == "Machine" and xml.namespace(each) != VMW:
                self.settings = read_machine(each, self.name)
            elif kind_of(each) not in (*_UNDERSTOOD, *_BOOT_SECTIONS):
                self._section(each)

    def finish(self) -> tuple[Machine, dict[int, str]]:
        controllers = tuple(self.controllers.values())
        machine = replace(
            self.machine,
            controllers=controllers,
            drives=tuple(self.drives),
            networks=tuple(self.networks),
            serials=tuple(self.serials),
            sound=tuple(self.sound),
            usb=tuple(self.usb),
        )
        if self._told_version and self._told_version != hardware_version(machine):
            self.extras.insert(0, ("System/VirtualSystemType", self._told_version))
        if self.settings is not None:
            machine = _with_settings(machine, self.settings)
        if self.extras:
            if len(self.extras) > _MAX_EXTRAS:
                raise FormatError(f"{self.name}: more than {_MAX_EXTRAS} settings of a machine")
            # Where items stand among one another says nothing, so they come in one order always.
            ordered = tuple(sorted(self.extras, key=_rank))
            machine = replace(machine, extras={**machine.extras, "ovf": ordered})
        return machine, self.places

    _told_version = ""

    def _guest(self, section: xml.Element) -> None:
        number = xml.number(xml.attribute(section, "id"), "the id of the guest system", self.name)
        found = guests.best(
            guests.by_vmware(xml.attribute(section, "osType")),
            guests.by_virtualbox(xml.text(section, "OSType")),
            guests.by_cim(number),
        )
        self.machine = replace(self.machine, guest=found.guest, architecture=found.architecture)

    def _section(self, section: xml.Element) -> None:
        self.extras.append((f"VirtualSystem/{kind_of(section)}", kept(section)))

    def _hardware(self, hardware: xml.Element) -> None:
        if len(hardware) > _MAX_EXTRAS:
            raise FormatError(f"{self.name}: more than {_MAX_EXTRAS} items of virtual hardware")
        transport = xml.attribute(hardware, "transport")
        if transport:
            self.extras.append(("VirtualHardwareSection@transport", transport))
        for each in xml.children(hardware, "System"):
            self._told_version = xml.text(each, "VirtualSystemType")
            for one in in_order(each):
                if xml.local(one) not in _SYSTEM_KNOWN:
                    self.extras.append((f"System/{xml.local(one)}", kept(one)))
        items, others = read_items(hardware, self.package.configuration, self.name)
        for item in items:
            self._controller(item)
        for item in items:
            self._item(item)
        for element in others:
            self.extras.append(("VirtualHardwareSection/Item", kept(element)))
        for each in hardware:
            if xml.local(each) == "Config":
                self._setting(each)
            elif xml.local(each) == "ExtraConfig":
                self._extra_setting(each)

    def _setting(self, element: xml.Element) -> None:
        key, value = xml.attribute(element, "key"), xml.attribute(element, "value")
        firmware = self.machine.firmware
        if key == "firmware" and value.lower() in ("efi", "bios"):
            kind = "uefi" if value.lower() == "efi" else "bios"
            firmware = replace(firmware, kind=cast("Any", kind))
        elif key == "bootOptions.efiSecureBootEnabled" and xml.flag(value) is not None:
            firmware = replace(firmware, secure_boot=xml.flag(value))
        else:
            self.extras.append(("VirtualHardwareSection/Config", kept(element)))
        self.machine = replace(self.machine, firmware=firmware)

    def _extra_setting(self, element: xml.Element) -> None:
        key, value = xml.attribute(element, "key"), xml.attribute(element, "value")
        file = self.package.file(value.rpartition("/")[2]) if key == "nvram" else None
        if file is None:
            self.extras.append(("VirtualHardwareSection/ExtraConfig", kept(element)))
        else:
            firmware = replace(self.machine.firmware, variables=file.name)
            self.machine = replace(self.machine, firmware=firmware)

    def _controller(self, item: Item) -> None:
        if item.type not in _BUS_OF_TYPE:
            return
        # Several may be named, any of which will do.
        known = [each for each in item.subtype.lower().split() if each in words.CONTROLLERS]
        usual = (_BUS_OF_TYPE[item.type], item.subtype)
        bus, model = words.CONTROLLERS[known[0]] if known else usual
        used = {each.index for each in self.controllers.values() if each.bus == bus}
        index = int(item.address) if item.address.isdecimal() and len(item.address) < 4 else -1
        if index < 0 or index in used:
            index = next(each for each in range(len(used) + 1) if each not in used)
        at = len(self.controllers)
        self.controllers[item.id or f"#{at}"] = Controller(cast("Bus", bus), index, model)
        self._rest(item, f"controllers[{at}]")

    def _item(self, item: Item) -> None:
        if item.type in _BUS_OF_TYPE:
            return
        if item.type == Resource.CPU:
            self._cpus(item)
        elif item.type == Resource.MEMORY:
            self._memory(item)
        elif item.type in _DEVICES:
            self._drive(item)
        elif item.type == Resource.ETHERNET:
            self._network(item)
        elif item.type == Resource.SERIAL:
            self._serial(item)
        elif item.type == Resource.DISPLAY:
            self._display(item)
        elif item.type == Resource.USB:
            self.usb.append(words.USBS.get(item.subtype.lower(), item.subtype or "ohci"))
            self._rest(item, f"usb[{len(self.usb) - 1}]")
        elif item.subtype.lower() in words.SOUNDS:
            self.sound.append(words.SOUNDS[item.subtype.lower()])
            self._rest(item, f"sound[{len(self.sound) - 1}]")
        elif item.subtype.lower() == "vmware.vtpm":
            firmware = replace(self.machine.firmware, tpm="2.0")
            self.machine = replace(self.machine, firmware=firmware)
            self._rest(item, "firmware")
        else:
            self.extras.append(("VirtualHardwareSection/Item", kept(item.element)))

    def _rest(self, item: Item, place: str) -> None:
        for each in in_order(item.rest):
            self.extras.append((f"{place}/{xml.local(each)}", kept(each)))

    def _cpus(self, item: Item) -> None:
        count = xml.number(item.quantity, "the number of processors", self.name, high=1 << 20)
        cores = xml.number(
            item.take_element("CoresPerSocket"), "CoresPerSocket", self.name, high=1 << 20
        )
        cpus = CPUs(self.machine.cpus.count + count)
        if cores and count % cores == 0:
            cpus = CPUs(count, count // cores, cores, 1)
        self.machine = replace(self.machine, cpus=cpus)
        self._rest(item, "cpus")

    def _memory(self, item: Item) -> None:
        quantity = xml.number(item.quantity, "the memory", self.name, high=1 << 50)
        size = quantity * units(item.unit, self.name, default=1 << 20)
        xml.number(str(size), "the memory", self.name, high=1 << 50)
        self.machine = replace(self.machine, memory=self.machine.memory + size)
        self._rest(item, "memory")

    def _drive(self, item: Item) -> None:
        place = item.host.removeprefix("ovf:").strip("/")
        kind, _, id = place.partition("/")
        disk = self.package.disk(id) if kind == "disk" else None
        file = self.package.file_of(disk) if disk else None
        if file is None and kind == "file":
            file = self.package.file(id)
        parent = self.controllers.get(item.parent)
        bus: Bus = parent.bus if parent else ("floppy" if item.type == Resource.FLOPPY else "")
        controller = parent.index if parent else 0
        at = len(self.drives)
        drive = Drive(
            device=cast("Any", _DEVICES[item.type]),
            bus=bus,
            controller=controller,
            slot=self._slot(item, bus, controller),
            path=file.name if file else "",
            format=disk.format_name if disk else "",
            size=disk.capacity if disk else 0,
            boot=self.boot.get(item.id, 0),
        )
        if disk is not None:
            self.places[at] = disk.id
        elif file is not None:
            self.places[at] = file.id
        self.drives.append(drive)
        self._rest(item, f"drives[{at}]")

    def _slot(self, item: Item, bus: Bus, controller: int) -> int:
        if item.slot.isdecimal() and len(item.slot) < 5:
            return int(item.slot)
        used = {
            each.slot for each in self.drives if (each.bus, each.controller) == (bus, controller)
        }
        return next(each for each in range(len(used) + 1) if each not in used)

    def _network(self, item: Item) -> None:
        model = next(
            (
                words.NETWORKS[each]
                for each in item.subtype.lower().split()
                if each in words.NETWORKS
            ),
            item.subtype,
        )
        kind = words.NETWORK_KINDS.get(item.connection.lower())
        if kind is None:
            kind = "network" if item.connection else ""
        at = len(self.networks)
        self.networks.append(
            Network(
                model=model,
                mac=_mac(item.address),
                kind=cast("Any", kind),
                network=item.connection if kind == "network" else "",
                connected=item.allocated,
                boot=self.boot.get(item.id, 0),
            )
        )
        self._rest(item, f"networks[{at}]")

    def _serial(self, item: Item) -> None:
        kind = words.SERIALS.get(item.subtype.lower(), "device")
        path = "" if item.host.startswith(("ovf:", "/disk/", "/file/")) else item.host
        self.serials.append(Serial(cast("Any", kind), path))
        self._rest(item, f"serials[{len(self.serials) - 1}]")

    def _display(self, item: Item) -> None:
        kilobytes = xml.number(
            item.take("videoRamSizeInKB"), "videoRamSizeInKB", self.name, high=1 << 32
        )
        heads = xml.number(item.take("numDisplays"), "numDisplays", self.name, high=1 << 10)
        self.machine = replace(
            self.machine,
            display=Display(
                memory=kilobytes << 10,
                heads=heads,
                accelerated=xml.flag(item.take("enable3DSupport")),
            ),
        )
        self._rest(item, "display")


_BOOT_SECTIONS: Final = ("BootOrderSection",)


_ORDER: Final = (
    "System", "VirtualHardwareSection@", "cpus", "memory", "controllers", "drives", "networks",
    "serials", "usb", "sound", "display", "firmware", "VirtualHardwareSection/Item",
    "VirtualHardwareSection/Config", "VirtualHardwareSection/ExtraConfig", "VirtualSystem",
    "Envelope",
)  # fmt: skip


def _rank(extra: Extra) -> int:
    return next(at for at, start in enumerate(_ORDER) if extra[0].startswith(start))


# Of VirtualBox's settings, what is about the package that they are in, or told by it.
_OF_PACKAGE: Final = (
    "drives[", "StorageController", "HardDisk:", "Snapshot:", "Machine@version", "Machine@{",
    "Machine/Info",
)  # fmt: skip


def _with_settings(machine: Machine, settings: Machine) -> Machine:
    """``machine`` with what only VirtualBox's settings in the descriptor say. Drives and
    controllers are told by the descriptor, and how a package's disks are called there.
    """
    told = tuple(
        (key, value)
        for key, value in settings.extras.get("vbox", ())
        if not key.startswith(_OF_PACKAGE)
    )
    return replace(
        machine,
        description=machine.description or settings.description,
        uuid=machine.uuid or settings.uuid,
        chipset=machine.chipset or settings.chipset,
        firmware=machine.firmware if machine.firmware.kind else settings.firmware,
        clock=machine.clock or settings.clock,
        display=machine.display or settings.display,
        extras={"vbox": told} if told else {},
    )


def _boot_order(system: xml.Element) -> dict[str, int]:
    """The ids of items that VMware boots from, in order, from 1."""
    order: dict[str, int] = {}
    for each in sections(system, "BootOrderSection"):
        id = xml.attribute(each, "instanceId")
        if id and id not in order:
            order[id] = len(order) + 1
    return order


def _mac(text: str) -> str:
    digits = text.replace(":", "").replace("-", "").lower()
    if len(digits) != 12 or any(each not in "0123456789abcdef" for each in digits):
        return ""
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))
