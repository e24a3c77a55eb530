"""Writing a .vbox. Losses are found by reading what was written.

Elements stand in the order in which VirtualBox writes them, which its schema allows. Imports
arranging, reading, storage, media, words, comparing and the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from vmimg.errors import FormatError, OptionError
from vmimg.machines import guests, xml
from vmimg.machines.comparing import losses_of
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.vbox import words
from vmimg.machines.dialects.vbox.arranging import (
    depth,
    ids_of,
    one_tree,
    parents_first,
    room_of,
    settled,
    unique,
)
from vmimg.machines.dialects.vbox.media import planned, with_extras
from vmimg.machines.dialects.vbox.reading import read
from vmimg.machines.dialects.vbox.storage import write_storage
from vmimg.machines.dialects.vbox.versions import settings_number
from vmimg.machines.model import Bus, Drive, Extra, Machine, Network, Snapshot

__all__ = ["write"]

_NS: Final = f"{{{words.SPACE}}}"
_MIB: Final = 1 << 20
_LEAST_MEMORY: Final = 1 << 30
_MOST_MIB: Final = 2 << 20
_MOST_CPUS: Final = 64
_DEEPEST: Final = 100
_LONG_AGO: Final = "1970-01-01T00:00:00Z"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# IRQ and I/O base of COM1 to COM4.
_UARTS: Final = (("4", "0x3f8"), ("3", "0x2f8"), ("4", "0x3e8"), ("3", "0x2e8"))
_MAX_ADAPTERS: Final = {"q35": 36, "virt": 36}

_REASONS: Final = {
    "name": "a machine has a name, of one line",
    "uuid": "a machine has one",
    "architecture": "it is told by the guest system only",
    "chipset": "VirtualBox has PIIX3, ICH9 and the one of ARM",
    "firmware.kind": "VirtualBox has BIOS where nothing else is said",
    "firmware.secure_boot": "VirtualBox keeps it in the variable store",
    "firmware.loader": "the code of the firmware is VirtualBox's",
    "cpus.count": "a machine has 1 to 64 processors",
    "cpus": "VirtualBox says how many processors, and no more",
    "memory": "VirtualBox counts it in MiB, and a machine has 4 to 2097152",
    "clock": "VirtualBox has UTC, or the time of the host",
    "guest": "it is known by its family there",
    "controllers": "VirtualBox has these, and every drive needs one",
    "drives.bus": "VirtualBox has no such bus for it",
    "drives.controller": "there is no such place on that bus",
    "drives.slot": "there is no such place on that bus",
    "drives.source": "VirtualBox's images are files",
    "drives.format": "an image has a format that VirtualBox knows",
    "drives.size": "the image tells its size",
    "drives.boot": "VirtualBox orders kinds of devices, and boots the first of each",
    "drives.readonly": "an image that is used twice is of one kind",
    "drives.serial": "a .vbox has no serial numbers",
    "drives": "drives stand by their controllers",
    "networks.model": "VirtualBox has no such card",
    "networks.mac": "VirtualBox has no such address",
    "networks.kind": "VirtualBox has no such way to attach it",
    "networks.boot": "VirtualBox orders kinds of devices, and boots the first of each",
    "serials": "VirtualBox has no such port, and not more than four",
    "display.memory": "VirtualBox counts it in MiB, up to 256",
    "display": "VirtualBox has no such card, and shows it by RDP",
    "sound": "VirtualBox has one sound card, of other models",
    "usb": "VirtualBox has no such controller",
    "snapshots.id": "VirtualBox gives snapshots a uuid",
    "snapshots.parent": "VirtualBox has one tree of snapshots, by uuid",
    "snapshots.created": "a snapshot has a time",
    "snapshots.current": "a machine stands on one snapshot",
    "snapshots.drives": "a .vbox says less of a disk",
    "snapshots": "VirtualBox has one tree of snapshots",
    "extras": "there is no place for it",
    "": "a .vbox does not say it",
}


def write(machine: Machine) -> Written:
    """The .vbox."""
    if depth(machine.snapshots) > _DEEPEST:
        raise OptionError(f"a .vbox has no room for snapshots that are more than {_DEEPEST} deep")
    data = _Writer(machine).write()
    try:
        found = read(data, "machine.vbox")[0]
    except FormatError as error:
        raise OptionError(f"a .vbox has no room for it: {error}") from None
    return Written(data, losses_of(machine, found, "vbox", _REASONS))


class _Writer:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.extras: tuple[Extra, ...] = tuple(machine.extras.get("vbox", ()))
        self.told = dict(self.extras)
        self.version = settings_number(machine)
        self.room = room_of(machine)
        self.drives = settled(machine.drives, self.room)
        snapshots = one_tree(machine.snapshots)
        self.snapshots = [
            replace(each, drives=settled(each.drives, self.room)) for each in snapshots
        ]
        self.ids = ids_of(self.snapshots)
        registry = with_extras(planned(self.drives, self.snapshots), self.extras)
        self.registry = unique(registry)

    def write(self) -> bytes:
        machine = self.machine
        version = self.told.get("VirtualBox@version", "")
        number = re.fullmatch(r"1\.(\d{1,2})(-\w+)?", version)
        # An older version than what is written could not hold it, a newer one has it elsewhere.
        if number is None or not _same_layout(int(number[1]), self.version):
            version = f"1.{self.version}-linux"
        root = xml.make(f"{_NS}VirtualBox", {"version": version}, nsmap={None: words.SPACE})
        current = [self.ids[each.id] for each in self.snapshots if each.current]
        attributes = {
            "uuid": words.braced(
                words.plain_uuid(machine.uuid) or words.derived_uuid("machine", machine.name)
            ),
            "name": machine.name or "machine",
            "OSType": self._os_type(),
        }
        if current:
            attributes["currentSnapshot"] = words.braced(current[0])
        attributes |= self._attributes("Machine@", attributes)
        element = xml.make(f"{_NS}Machine", attributes, parent=root)
        self._registry(element)
        if machine.description:
            self._add(element, "Description", content=machine.description)
        self._keep(element, "Machine/", first=("ExtraData",))
        roots = [each for each in self.snapshots if not each.parent]
        for each in roots[:1]:
            self._snapshot(element, each)
        self._machine_hardware(element, self.drives, None)
        self._keep(element, "Machine/", but=("ExtraData",))
        return xml.serialise(root)

    def _os_type(self) -> str:
        told = self.told.get("Machine@OSType", "")
        if told and not self.machine.guest and not self.machine.architecture:
            return told
        return guests.virtualbox(self.machine.guest, self.machine.architecture)

    def _add(
        self,
        parent: xml.Element,
        name: str,
        attributes: Mapping[str, str] | None = None,
        content: str = "",
    ) -> xml.Element:
        return xml.make(f"{_NS}{name}", attributes, content, parent=parent)

    def _attributes(self, prefix: str, known: Iterable[str] = ()) -> dict[str, str]:
        """Attributes that the reader kept of a place."""
        found = {}
        for key, value in self.extras:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in known and re.fullmatch(r"[A-Za-z]\w*", name):
                found[name] = value
        return found

    def _keep(
        self,
        parent: xml.Element,
        prefix: str,
        *,
        first: tuple[str, ...] = (),
        but: tuple[str, ...] = (),
    ) -> None:
        """Elements that the reader kept of a place."""
        for key, value in self.extras:
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or "/" in name or "@" in name or name in but:
                continue
            if not first or name in first:
                parent.append(xml.snippet(value))

    def _registry(self, parent: xml.Element) -> None:
        registry = self._add(parent, "MediaRegistry")
        disks = self._add(registry, "HardDisks")
        made: dict[str, xml.Element] = {}
        for image in parents_first(self.registry):
            attributes = {
                "uuid": words.braced(image.uuid),
                "location": image.path,
                "format": image.format,
            }
            above = made.get(image.parent)
            if above is None:
                attributes["type"] = image.type
            made[image.path] = self._add(disks if above is None else above, "HardDisk", attributes)
        for group, device in (("DVDImages", "cdrom"), ("FloppyImages", "floppy")):
            section = self._add(registry, group)
            for image in self.registry.values():
                if image.device == device:
                    attributes = {"uuid": words.braced(image.uuid), "location": image.path}
                    self._add(section, "Image", attributes)

    def _snapshot(self, parent: xml.Element, snapshot: Snapshot) -> None:
        """The tree of snapshots; a list, for a tree of a thousand would be too deep a recursion."""
        stack = [(parent, snapshot)]
        while stack:
            above, each = stack.pop()
            created = each.created if _TIME.fullmatch(each.created) else _LONG_AGO
            attributes = {
                "uuid": words.braced(self.ids[each.id]),
                "name": each.name or "Snapshot",
                "timeStamp": created,
            }
            if each.memory:
                attributes["stateFile"] = each.memory
            element = self._add(above, "Snapshot", attributes)
            if each.description:
                self._add(element, "Description", content=each.description)
            self._machine_hardware(element, each.drives, self.ids[each.id])
            children = [one for one in self.snapshots if one.parent == each.id]
            if children:
                group = self._add(element, "Snapshots")
                stack += [(group, one) for one in reversed(children)]

    def _machine_hardware(
        self, parent: xml.Element, drives: Sequence[Drive], snapshot: str | None
    ) -> None:
        """<Hardware> and what belongs to it, for the machine or a snapshot."""
        kept = self.told.get(f"Snapshot:{snapshot}/Hardware", "") if snapshot else ""
        platform = None
        if self.version >= 20:
            architecture = "ARM" if self.machine.architecture == "aarch64" else "x86"
            platform = self._add(parent, "Platform", {"architecture": architecture})
            self._platform(platform)
            self._keep(platform, "Platform/")
        if kept:
            hardware = xml.snippet(kept)
            parent.append(hardware)
        else:
            hardware = self._add(parent, "Hardware", self._attributes("Hardware@"))
            self._hardware(hardware, hardware if platform is None else None)
        write_storage(
            hardware if self.version >= 19 else parent,
            self._controllers(drives),
            drives,
            self.registry,
            self.extras if snapshot is None else (),
            _NS,
        )

    def _controllers(self, drives: Sequence[Drive]) -> list[tuple[Bus, int, str]]:
        models: dict[tuple[Bus, int], str] = {}
        for each in self.machine.controllers:
            index = 0 if each.bus == "ide" else each.index
            if each.bus in self.room and index < self.room[each.bus][0]:
                models.setdefault((each.bus, index), each.model)
        for drive in drives:
            models.setdefault((drive.bus, 0 if drive.bus == "ide" else drive.controller), "")
        # Indices are counted, so one that is left out is made up for.
        for bus, index in list(models):
            for lower in range(index):
                models.setdefault((bus, lower), "")
        found = []
        for (bus, index), model in models.items():
            if (bus, model) not in words.CONTROLLER_TYPES:
                model = self._default_model(bus)
            found.append((bus, index, model))
        return sorted(found, key=lambda each: (list(words.NAMES).index(each[0]), each[1]))

    def _default_model(self, bus: str) -> str:
        if bus == "scsi":
            return "lsisas1068" if guests.is_windows(self.machine.guest) else "lsilogic"
        return {"ide": "piix4", "sata": "ahci"}.get(bus, "")

    def _platform(self, platform: xml.Element) -> None:
        """Processors, chipset and clock, which Hardware had before 1.20."""
        machine = self.machine
        count = {"count": str(min(max(machine.cpus.count, 1), _MOST_CPUS))}
        cpu = self._add(platform, "CPU", count | self._attributes("CPU@"))
        self._keep(cpu, "CPU/")
        names = {model: name for name, model in words.CHIPSETS.items()}
        chipset = names.get(machine.chipset, "PIIX3")
        if machine.architecture == "aarch64":
            chipset = "ARMv8Virtual"
        elif chipset == "ARMv8Virtual":
            chipset = "PIIX3"
        if chipset != "PIIX3":
            self._add(platform, "Chipset", {"type": chipset})
        if machine.clock == "utc":
            self._add(platform, "RTC", {"localOrUTC": "UTC"})

    def _hardware(self, hardware: xml.Element, platform: xml.Element | None) -> None:
        machine = self.machine
        if platform is not None:
            self._platform(platform)
        size = min(max(4, -(-(machine.memory or _LEAST_MEMORY) // _MIB)), _MOST_MIB)
        memory = self._add(
            hardware, "Memory", {"RAMSize": str(size)} | self._attributes("Hardware/Memory@")
        )
        self._keep(memory, "Hardware/Memory/")
        self._firmware(hardware)
        self._boot(hardware)
        self._display(hardware)
        self._network(hardware)
        self._serials(hardware)
        self._usb(hardware)
        self._sound(hardware)
        own = ("Memory", "Network", "UART", "USB")
        self._keep(hardware, "Hardware/", but=own)

    def _firmware(self, hardware: xml.Element) -> None:
        firmware = self.machine.firmware
        uefi = firmware.kind == "uefi"
        modern = self.version >= 20
        # ARM has no BIOS.
        uefi = uefi or self.machine.architecture == "aarch64"
        kind = {"type": "EFI" if uefi else "BIOS"}
        own = self._attributes("Hardware/Firmware@")
        if uefi or own or modern:
            element = self._add(hardware, "Firmware", kind | own)
            self._keep(element, "Hardware/Firmware/")
            if modern and firmware.variables:
                self._add(element, "NVRAM", {"path": firmware.variables})
        bios = [key for key, _ in self.extras if key.startswith("Hardware/BIOS")]
        if not modern and (bios or firmware.variables):
            element = self._add(hardware, "BIOS", self._attributes("Hardware/BIOS@"))
            self._keep(element, "Hardware/BIOS/")
            if firmware.variables:
                self._add(element, "NVRAM", {"path": firmware.variables})
        if firmware.tpm:
            kinds = {known: name for name, known in words.TPMS.items()}
            self._add(hardware, "TrustedPlatformModule", {"type": kinds[firmware.tpm]})

    def _boot(self, hardware: xml.Element) -> None:
        kinds = {kind: name for name, kind in words.BOOT.items()}
        order = [(each.boot, kinds[each.device]) for each in self.drives if each.boot]
        order += [(each.boot, "Network") for each in self.machine.networks if each.boot]
        names = list(dict.fromkeys(name for _, name in sorted(order)))
        if not names:
            return
        section = self._add(hardware, "Boot")
        for position in range(1, 5):
            name = names[position - 1] if position <= len(names) else "None"
            self._add(section, "Order", {"position": str(position), "device": name})

    def _display(self, hardware: xml.Element) -> None:
        display = self.machine.display
        if display is None:
            return
        cards = {model: name for name, model in words.GRAPHICS.items()}
        attributes = {}
        if card := cards.get(display.model):
            attributes["controller"] = card
        if display.memory:
            attributes["VRAMSize"] = str(min(256, -(-display.memory // _MIB)))
        if display.heads:
            attributes["monitorCount"] = str(min(64, display.heads))
        if display.accelerated is not None:
            attributes["accelerate3D"] = str(display.accelerated).lower()
        attributes |= self._attributes("Hardware/Display@", attributes)
        element = self._add(hardware, "Display", attributes)
        self._keep(element, "Hardware/Display/")
        if display.remote == "rdp" and "Hardware/RemoteDisplay" not in self.told:
            self._add(hardware, "RemoteDisplay", {"enabled": "true"})

    def _network(self, hardware: xml.Element) -> None:
        section = self._add(hardware, "Network")
        used = set()
        most = _MAX_ADAPTERS.get(self.machine.chipset, 8)
        for at, network in enumerate(self.machine.networks[:most]):
            place = f"networks[{at}]"
            slot = self.told.get(f"{place}@slot", "")
            number = int(slot) if slot.isdecimal() and len(slot) < 3 and int(slot) < most else at
            if number in used:
                number = next(each for each in range(most + 1) if each not in used)
            used.add(number)
            self._adapter(section, network, place, number)
        for key, value in self.extras:
            if key == "Hardware/Network/Adapter":
                element = xml.snippet(value)
                told = xml.attribute(element, "slot")
                if told.isdecimal() and int(told[:4]) not in used:
                    used.add(int(told[:4]))
                    section.append(element)

    def _adapter(self, parent: xml.Element, network: Network, place: str, slot: int) -> None:
        card = self.told.get(f"{place}@type", "")
        if words.CARDS.get(card) != network.model:
            card = words.CARD_TYPES.get(network.model, "82540EM")
        attributes = {"slot": str(slot), "enabled": "true"}
        mac = network.mac.replace(":", "").upper()
        # The first byte of a group address is odd, and VirtualBox's schema has none.
        if re.fullmatch(r"[0-9A-F][02468ACE][0-9A-F]{10}", mac):
            attributes["MACAddress"] = mac
        if not network.connected:
            attributes["cable"] = "false"
        attributes["type"] = card
        attributes |= self._attributes(f"{place}@", (*attributes, "slot", "mode"))
        element = self._add(parent, "Adapter", attributes)
        mode = self.told.get(f"{place}@mode", "")
        if words.ATTACHMENTS.get(mode) != network.kind:
            mode = words.MODES.get(network.kind, "")
        own = f"{place}/{mode}"
        if mode and own in self.told:
            kept = xml.snippet(self.told[own])
            if mode != "NAT":
                kept.set("name", network.network)
            element.append(kept)
        elif mode:
            named = {} if mode == "NAT" or not network.network else {"name": network.network}
            self._add(element, mode, named)
        self._keep(element, f"{place}/", but=(mode,))

    def _serials(self, hardware: xml.Element) -> None:
        ports = [value for key, value in self.extras if key == "Hardware/UART/Port"]
        if not self.machine.serials and not ports:
            return
        section = self._add(hardware, "UART")
        for at, serial in enumerate(self.machine.serials[:4]):
            irq, base = _UARTS[at]
            attributes = {
                "slot": str(at),
                "enabled": "true",
                "IOBase": base,
                "IRQ": irq,
                "hostMode": words.HOST_MODES[serial.kind],
            }
            if serial.path:
                attributes["path"] = serial.path
            attributes |= self._attributes(f"serials[{at}]@", attributes)
            self._add(section, "Port", attributes)
        for value in ports:
            element = xml.snippet(value)
            if xml.attribute(element, "slot") not in map(str, range(len(self.machine.serials))):
                section.append(element)

    def _usb(self, hardware: xml.Element) -> None:
        kept = [key for key, _ in self.extras if key.startswith("Hardware/USB/")]
        if not self.machine.usb and not kept:
            return
        section = self._add(hardware, "USB")
        names = {model: name for name, model in words.USBS.items()}
        if self.machine.usb:
            controllers = self._add(section, "Controllers")
            for model in self.machine.usb:
                kind = names.get(model, "OHCI")
                self._add(controllers, "Controller", {"name": kind, "type": kind})
        self._keep(section, "Hardware/USB/")

    def _sound(self, hardware: xml.Element) -> None:
        cards = {"ac97": "AC97", "sb16": "SB16", "es1370": "AC97"}
        for model in self.machine.sound[:1]:
            attributes = {
                "controller": cards.get(model, "HDA"),
                "driver": "Null",
                "enabled": "true",
                "enabledOut": "true",
            }
            self._add(hardware, "AudioAdapter", attributes)


def _same_layout(told: int, own: int) -> bool:
    """Whether the elements stand where this writer puts them for ``own``."""
    if told < 9 or told > 20:
        return False
    return (told >= 20) == (own >= 20) and (told >= 19) == (own >= 19) and told >= min(own, 17)
