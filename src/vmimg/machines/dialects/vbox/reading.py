"""Reading a .vbox. Imports storage, media, words, guests, xml and the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines import guests, xml
from vmimg.machines.dialects.vbox import words
from vmimg.machines.dialects.vbox.media import Image, extras_of, planned, read_registry
from vmimg.machines.dialects.vbox.storage import read_storage
from vmimg.machines.dialects.vbox.versions import settings_version
from vmimg.machines.model import (
    CPUs,
    Display,
    Drive,
    Extra,
    Firmware,
    Machine,
    Network,
    Serial,
    Snapshot,
)

__all__ = ["read", "read_machine"]

_MIB: Final = 1 << 20
_MAX_SNAPSHOTS: Final = 1000
_MAX_EXTRAS: Final = 10_000
# Elements whose content is the model's, wherever the version has them.
_HARDWARE_KNOWN: Final = (
    "Memory", "Firmware", "BIOS", "CPU", "Chipset", "RTC", "Boot", "Display", "Network", "UART",
    "USB", "USBController", "StorageControllers", "TrustedPlatformModule",
)  # fmt: skip
_MACHINE_KNOWN: Final = (
    "MediaRegistry", "Description", "Hardware", "Platform", "StorageControllers", "Snapshot",
)  # fmt: skip
_MACHINE_ATTRIBUTES: Final = ("uuid", "name", "OSType", "currentSnapshot")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine. Raises FormatError."""
    root = xml.parse(data, name, root="VirtualBox")
    element = xml.child(root, "Machine")
    if element is None:
        if xml.child(root, "MachineEncrypted") is not None:
            raise FormatError(f"{name}: the settings are encrypted")
        raise FormatError(f"{name}: is no settings file of a machine")
    version = xml.attribute(root, "version")
    if not re.fullmatch(r"1\.(9|1[0-9]|2[0-9])(\.\d+)?(-\w+)?", version):
        told = xml.printable(version[:40])
        raise FormatError(f"{name}: settings of version '{told}'; 1.9 to 1.20 are read")
    machine = read_machine(element, name)
    if version != settings_version(machine):
        kept = (("VirtualBox@version", version), *machine.extras.get("vbox", ()))
        machine = replace(machine, extras={**machine.extras, "vbox": kept})
    return (machine,)


def read_machine(element: xml.Element, name: str) -> Machine:
    """The machine of a <Machine>, which OVF has too. Raises FormatError."""
    element = xml.moved(element, lambda _: words.SPACE)
    hardware = xml.child(element, "Hardware")
    if hardware is None:
        hardware = xml.make("Hardware")
    platform = xml.child(element, "Platform")
    if len(element) > _MAX_EXTRAS or len(hardware) > _MAX_EXTRAS:
        raise FormatError(f"{name}: more than {_MAX_EXTRAS} settings of a machine")
    images = read_registry(xml.child(element, "MediaRegistry"), name)
    system = guests.by_virtualbox(xml.attribute(element, "OSType"))
    extras: list[Extra] = [
        (f"Machine@{key}", str(value))
        for key, value in element.attrib.items()
        if key not in _MACHINE_ATTRIBUTES
    ]
    machine = _hardware(element, hardware, platform, extras, name)
    machine = replace(
        machine,
        name=xml.attribute(element, "name"),
        description=xml.text(element, "Description"),
        uuid=words.plain_uuid(xml.attribute(element, "uuid")),
        architecture=system.architecture,
        guest=system.guest,
    )
    if not system.architecture and xml.attribute(element, "OSType"):
        extras.append(("Machine@OSType", xml.attribute(element, "OSType")))
    storage = read_storage(_storage(element, hardware), images, name)
    extras += storage.extras
    machine = replace(
        machine,
        controllers=storage.controllers,
        drives=storage.drives,
        snapshots=_snapshots(element, images, name),
    )
    machine = _boot(machine, hardware, name)
    extras += _snapshot_extras(element, machine, name)
    extras += extras_of(
        {image.path: image for image in images.values()},
        planned(machine.drives, machine.snapshots),
    )
    for each in element:
        if xml.local(each) not in _MACHINE_KNOWN:
            extras.append((f"Machine/{xml.local(each)}", xml.encoded(each)))
    if len(extras) > _MAX_EXTRAS:
        raise FormatError(f"{name}: more than {_MAX_EXTRAS} settings of a machine")
    return replace(machine, extras={"vbox": tuple(extras)}) if extras else machine


def _storage(element: xml.Element, hardware: xml.Element) -> xml.Element | None:
    found = xml.child(hardware, "StorageControllers")
    return found if found is not None else xml.child(element, "StorageControllers")


def _hardware(
    owner: xml.Element,
    hardware: xml.Element,
    platform: xml.Element | None,
    extras: list[Extra],
    name: str,
) -> Machine:
    """What <Hardware> and <Platform> say but for drives, and the rest into ``extras``."""

    def anywhere(wanted: str) -> xml.Element | None:
        found = xml.child(hardware, wanted)
        if found is None and platform is not None:
            found = xml.child(platform, wanted)
        return found

    memory, cpu, clock = xml.child(hardware, "Memory"), anywhere("CPU"), anywhere("RTC")
    display = xml.child(hardware, "Display")
    machine = Machine(
        chipset=words.CHIPSETS.get(_get(anywhere("Chipset"), "type", "PIIX3"), ""),
        firmware=_firmware(hardware),
        cpus=CPUs(xml.number(_get(cpu, "count"), "the number of processors", name, high=1 << 16)),
        memory=xml.number(_get(memory, "RAMSize"), "the RAMSize", name, high=1 << 32) * _MIB,
        clock="utc" if _get(clock, "localOrUTC") == "UTC" else "localtime",
        networks=_networks(hardware, extras, name),
        serials=_serials(hardware, extras, name),
        usb=_usb(hardware, extras),
        sound=_sound(hardware),
        display=_display(display, hardware, name),
    )
    extras += [(f"Hardware@{key}", str(value)) for key, value in hardware.attrib.items()]
    _keep(extras, "Hardware/Memory", memory, ("RAMSize",))
    _keep(extras, "CPU", cpu, ("count",))
    _keep(extras, "Hardware/Display", display, _DISPLAY_KNOWN)
    for kind in ("Firmware", "BIOS"):
        _keep(extras, f"Hardware/{kind}", xml.child(hardware, kind), ("type",), ("NVRAM",))
    remote = machine.display is not None and machine.display.remote == "rdp"
    for each in hardware:
        kind = xml.local(each)
        if kind in _HARDWARE_KNOWN or (kind == "AudioAdapter" and machine.sound):
            continue
        if kind == "RemoteDisplay" and remote and not len(each) and len(each.attrib) == 1:
            continue
        extras.append((f"Hardware/{kind}", xml.encoded(each)))
    if platform is not None:
        extras += [
            (f"Platform/{xml.local(each)}", xml.encoded(each))
            for each in platform
            if xml.local(each) not in _HARDWARE_KNOWN
        ]
    return machine


_DISPLAY_KNOWN: Final = (
    "VRAMSize", "monitorCount", "MonitorCount", "accelerate3D", "controller",
)  # fmt: skip


def _keep(
    extras: list[Extra],
    place: str,
    element: xml.Element | None,
    attributes: Iterable[str],
    children: Iterable[str] = (),
) -> None:
    """What an element has besides the attributes and children that the model has words for."""
    if element is None:
        return
    for key, value in element.attrib.items():
        if key not in attributes:
            extras.append((f"{place}@{key}", str(value)))
    extras += [
        (f"{place}/{xml.local(each)}", xml.encoded(each))
        for each in element
        if xml.local(each) not in children
    ]


def _get(element: xml.Element | None, key: str, default: str = "") -> str:
    return default if element is None else xml.attribute(element, key, default)


def _firmware(hardware: xml.Element) -> Firmware:
    told = _get(xml.child(hardware, "Firmware"), "type", "BIOS")
    kind: Any = "uefi" if told.upper().startswith("EFI") else "bios"
    variables = ""
    for place in ("BIOS", "Firmware"):
        found = xml.find(hardware, place, "NVRAM")
        variables = variables or _get(found, "path")
    tpm = words.TPMS.get(_get(xml.child(hardware, "TrustedPlatformModule"), "type"), "")
    return Firmware(kind=kind, tpm=tpm, variables=variables)


def _networks(hardware: xml.Element, extras: list[Extra], name: str) -> tuple[Network, ...]:
    found: list[tuple[int, xml.Element]] = []
    section = xml.child(hardware, "Network")
    for each in xml.children(section, "Adapter") if section is not None else ():
        if xml.flag(xml.attribute(each, "enabled")) is not True:
            extras.append(("Hardware/Network/Adapter", xml.encoded(each)))
            continue
        slot = xml.number(xml.attribute(each, "slot"), "the slot of an adapter", name, high=255)
        found.append((slot, each))
    found.sort(key=lambda each: each[0])
    networks = []
    for at, (slot, element) in enumerate(found):
        place = f"networks[{at}]"
        if slot != at:
            extras.append((f"{place}@slot", str(slot)))
        networks.append(_network(element, place, extras, name))
    return tuple(networks)


_ADAPTER_KNOWN: Final = ("slot", "enabled", "MACAddress", "cable", "type", "bootPriority")


def _network(element: xml.Element, place: str, extras: list[Extra], name: str) -> Network:
    card = xml.attribute(element, "type", "Am79C973")
    model = words.CARDS.get(card, card.lower())
    if card in words.CARDS and words.CARD_TYPES.get(model) != card:
        extras.append((f"{place}@type", card))
    kind: Any = "none"
    network = ""
    for each in element:
        mode = xml.local(each)
        if mode in words.ATTACHMENTS and kind == "none":
            kind = words.ATTACHMENTS[mode]
            told = "network" if mode == "NAT" else "name"
            network = "" if mode == "NAT" else xml.attribute(each, told)
            if mode != words.MODES[kind]:
                extras.append((f"{place}@mode", mode))
            # Forwarded ports and the like.
            if len(each) or [key for key in each.attrib if key != "name" or mode == "NAT"]:
                extras.append((f"{place}/{mode}", xml.encoded(each)))
        else:
            extras.append((f"{place}/{mode}", xml.encoded(each)))
    for key, value in element.attrib.items():
        if key not in _ADAPTER_KNOWN:
            extras.append((f"{place}@{key}", str(value)))
    mac = xml.attribute(element, "MACAddress").lower()
    if not re.fullmatch(r"[0-9a-f]{12}", mac):
        mac = ""
    return Network(
        model=model,
        mac=":".join(mac[at : at + 2] for at in range(0, len(mac), 2)),
        kind=kind,
        network=network,
        connected=xml.flag(xml.attribute(element, "cable")) is not False,
    )


def _serials(hardware: xml.Element, extras: list[Extra], name: str) -> tuple[Serial, ...]:
    found: list[tuple[int, Serial]] = []
    section = xml.child(hardware, "UART")
    for each in xml.children(section, "Port") if section is not None else ():
        if xml.flag(xml.attribute(each, "enabled")) is not True:
            extras.append(("Hardware/UART/Port", xml.encoded(each)))
            continue
        slot = xml.number(xml.attribute(each, "slot"), "the slot of a port", name, high=3)
        mode = xml.attribute(each, "hostMode")
        kind = words.SERIALS.get(mode, "null")
        path = "" if kind == "null" else xml.attribute(each, "path")
        found.append((slot, Serial(kind, path)))
        if xml.flag(xml.attribute(each, "server")) is True:
            extras.append((f"serials[{len(found) - 1}]@server", "true"))
    return tuple(each for _, each in sorted(found, key=lambda each: each[0]))


def _usb(hardware: xml.Element, extras: list[Extra]) -> tuple[str, ...]:
    found = []
    usb = xml.child(hardware, "USB")
    if usb is not None:
        for each in xml.children(usb):
            if xml.local(each) != "Controllers":
                extras.append((f"Hardware/USB/{xml.local(each)}", xml.encoded(each)))
                continue
            for one in xml.children(each, "Controller"):
                kind = xml.attribute(one, "type")
                found.append(words.USBS.get(kind, kind.lower()))
    old = xml.child(hardware, "USBController")
    if old is not None and xml.flag(xml.attribute(old, "enabled")):
        found.append("ohci")
        if xml.flag(xml.attribute(old, "enabledEhci")):
            found.append("ehci")
    return tuple(found)


def _sound(hardware: xml.Element) -> tuple[str, ...]:
    adapter = xml.child(hardware, "AudioAdapter")
    if adapter is None or xml.flag(xml.attribute(adapter, "enabled")) is not True:
        return ()
    return (words.AUDIO.get(xml.attribute(adapter, "controller", "AC97"), "ac97"),)


def _display(element: xml.Element | None, hardware: xml.Element, name: str) -> Display | None:
    if element is None:
        return None
    heads = xml.attribute(element, "monitorCount") or xml.attribute(element, "MonitorCount")
    megabytes = xml.number(xml.attribute(element, "VRAMSize"), "the VRAMSize", name, high=1 << 16)
    card = xml.attribute(element, "controller", "VBoxVGA")
    remote = xml.flag(_get(xml.child(hardware, "RemoteDisplay"), "enabled")) is True
    return Display(
        model=words.GRAPHICS.get(card, card.lower()),
        memory=megabytes * _MIB,
        heads=xml.number(heads, "the monitorCount", name, high=256),
        accelerated=xml.flag(xml.attribute(element, "accelerate3D")),
        remote="rdp" if remote else "",
    )


def _boot(machine: Machine, hardware: xml.Element, name: str) -> Machine:
    """The first of each kind of device boots, in the order of kinds."""
    section = xml.child(hardware, "Boot")
    if section is None:
        return machine
    told = sorted(
        (xml.number(xml.attribute(each, "position"), "a boot position", name, high=255),
         words.BOOT.get(xml.attribute(each, "device"), ""))
        for each in xml.children(section, "Order")
    )  # fmt: skip
    drives, networks = list(machine.drives), list(machine.networks)
    order = 0
    for _, kind in told:
        if kind == "network" and networks and not networks[0].boot:
            order += 1
            networks[0] = replace(networks[0], boot=order)
            continue
        for at, drive in enumerate(drives):
            if drive.device == kind:
                if not drive.boot:
                    order += 1
                    drives[at] = replace(drive, boot=order)
                break
    return replace(machine, drives=tuple(drives), networks=tuple(networks))


def _snapshots(
    element: xml.Element, images: Mapping[str, Image], name: str
) -> tuple[Snapshot, ...]:
    current = words.plain_uuid(xml.attribute(element, "currentSnapshot"))
    found = []
    for each, parent in _tree(element, name):
        id = words.plain_uuid(xml.attribute(each, "uuid"))
        found.append(
            Snapshot(
                id=id,
                name=xml.attribute(each, "name"),
                description=xml.text(each, "Description"),
                parent=parent,
                created=_time(xml.attribute(each, "timeStamp")),
                current=bool(id) and id == current,
                drives=_disks(each, images, name),
                memory=xml.attribute(each, "stateFile"),
            )
        )
    return tuple(found)


def _tree(element: xml.Element, name: str) -> list[tuple[xml.Element, str]]:
    """All snapshots, parents before children, with the id of the parent."""
    found = []
    stack = [(each, "") for each in xml.children(element, "Snapshot")]
    while stack:
        each, parent = stack.pop()
        found.append((each, parent))
        if len(found) > _MAX_SNAPSHOTS:
            raise FormatError(f"{name}: more than {_MAX_SNAPSHOTS} snapshots")
        id = words.plain_uuid(xml.attribute(each, "uuid"))
        nested = [
            one for group in xml.children(each, "Snapshots")
            for one in xml.children(group, "Snapshot")
        ]  # fmt: skip
        stack += [(one, id) for one in reversed(nested)]
    return found


def _disks(snapshot: xml.Element, images: Mapping[str, Image], name: str) -> tuple[Drive, ...]:
    hardware = xml.child(snapshot, "Hardware")
    holder = snapshot if hardware is None else hardware
    drives = read_storage(_storage(snapshot, holder), images, name).drives
    return tuple(each for each in drives if each.device == "disk")


def _snapshot_extras(element: xml.Element, machine: Machine, name: str) -> list[Extra]:
    """Hardware of snapshots that is not the machine's of now."""
    found = []
    for each, _ in _tree(element, name):
        hardware = xml.child(each, "Hardware")
        if hardware is None:
            continue
        ignored: list[Extra] = []
        then = _hardware(each, hardware, xml.child(each, "Platform"), ignored, name)
        then = _boot(replace(then, drives=machine.drives), hardware, name)
        if any(getattr(then, field) != getattr(machine, field) for field in _COMPARED):
            kept = xml.snippet(xml.encoded(hardware))
            for storage in list(xml.children(kept, "StorageControllers")):
                kept.remove(storage)
            id = words.plain_uuid(xml.attribute(each, "uuid"))
            found.append((f"Snapshot:{id}/Hardware", xml.encoded(kept)))
    return found


_COMPARED: Final = tuple(
    each.name
    for each in fields(Machine)
    if each.name
    in ("chipset", "firmware", "cpus", "memory", "clock", "serials", "usb", "sound", "display")
)


def _time(text: str) -> str:
    text = text.strip()
    return text if re.fullmatch(r"\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text) else ""
