"""oVirt's flavour: what its engine keeps in storage domains, and puts into OVAs.

It is OVF before 1.0 with elements of its own: <Content xsi:type="ovf:VirtualSystem_Type">, sections
by xsi:type, rasd:InstanceId, processors as sockets, cores and threads, devices told apart by
rasd:Type and rasd:Device. Sources: ovirt-engine (OvfWriter, OvfProperties, VmDeviceType), virt-v2v
(create_ovf). Read only. Imports items, guests and the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

from vmimg.machines import guests, xml
from vmimg.machines.dialects.ovf.envelope import Envelope, OvfDisk, sections
from vmimg.machines.dialects.ovf.items import Item, read_items
from vmimg.machines.dialects.ovf.names import Resource, units
from vmimg.machines.model import (
    Bus,
    CPUs,
    Display,
    Drive,
    Extra,
    Firmware,
    Machine,
    Network,
)

__all__ = ["read_ovirt"]

# BiosType: chipset, firmware, secure boot.
_BIOS: Final = {
    "1": ("i440fx", "bios", None),
    "2": ("q35", "bios", None),
    "3": ("q35", "uefi", False),
    "4": ("q35", "uefi", True),
}
_INTERFACES: Final[dict[str, Bus]] = {
    "virtio": "virtio",
    "virtio_scsi": "scsi",
    "ide": "ide",
    "sata": "sata",
    "spapr_vscsi": "scsi",
}
# VmInterfaceType.
_NETWORKS: Final = {"0": "rtl8139", "1": "rtl8139", "2": "e1000", "3": "virtio", "6": "e1000e"}
_DISPLAYS: Final = ("qxl", "vga", "cirrus", "bochs", "virtio")
_UNDERSTOOD: Final = (
    "Info", "Name", "Description", "Comment", "BiosType", "TimeZone", "Section",
    "OperatingSystemSection", "VirtualHardwareSection", "ClusterArch", "TpmEnabled",
)  # fmt: skip
_DEVICES: Final[dict[str, str]] = {"disk": "disk", "cdrom": "cdrom", "floppy": "floppy"}


def read_ovirt(system: xml.Element, package: Envelope, name: str) -> tuple[Machine, dict[int, str]]:
    """The machine, and for each of its drives the id of the disk of the package."""
    id = xml.attribute(system, "id").lower()
    chipset, kind, secure = _BIOS.get(xml.text(system, "BiosType"), ("", "", None))
    machine = Machine(
        name=xml.text(system, "Name"),
        description=xml.text(system, "Description"),
        uuid=id if len(id) == 36 and id.count("-") == 4 else "",
        architecture=_architecture(xml.text(system, "ClusterArch")),
        chipset=chipset,
        firmware=Firmware(cast("Any", kind), secure),
        clock=xml.text(system, "TimeZone").replace("Etc/GMT", "utc"),
    )
    for each in sections(system, "OperatingSystemSection"):
        found = guests.by_ovirt(xml.text(each, "Description"))
        machine = replace(
            machine,
            guest=found.guest,
            architecture=machine.architecture or found.architecture,
        )
    extras: list[Extra] = []
    places: dict[int, str] = {}
    for each in sections(system, "VirtualHardwareSection"):
        items, others = read_items(each, package.configuration, name)
        for item in items:
            machine = _with(machine, item, package, places, extras, name)
        extras += [("VirtualHardwareSection/Item", xml.encoded(other)) for other in others]
        break
    for each in system:
        if xml.local(each) not in _UNDERSTOOD:
            extras.append((f"Content/{xml.local(each)}", xml.encoded(each)))
    if extras:
        # Not of "ovf": its writer could not put them back, for it writes no such flavour.
        machine = replace(machine, extras={"ovirt": tuple(extras)})
    return machine, places


def _with(
    machine: Machine,
    item: Item,
    package: Envelope,
    places: dict[int, str],
    extras: list[Extra],
    name: str,
) -> Machine:
    kind = item.take_element("Type").lower()
    device = item.take_element("Device").lower()
    if item.type == Resource.CPU:
        return replace(machine, cpus=_cpus(item, name))
    if item.type == Resource.MEMORY:
        quantity = xml.number(item.quantity, "the memory", name, high=1 << 40)
        size = quantity * units(item.unit, name, default=1 << 20)
        return replace(machine, memory=xml.number(str(size), "the memory", name, high=1 << 50))
    if item.type in (Resource.DISK, Resource.CD, Resource.FLOPPY) or kind == "disk":
        drive, id = _drive(item, device, package, machine)
        if id:
            places[len(machine.drives)] = id
        return replace(machine, drives=(*machine.drives, drive))
    if item.type == Resource.ETHERNET:
        return replace(machine, networks=(*machine.networks, _network(item)))
    if kind == "video" and device in _DISPLAYS:
        heads = xml.number(item.quantity, "the number of monitors", name, high=1 << 10)
        return replace(machine, display=Display(model=device, heads=heads))
    if kind == "graphics" and device in ("vnc", "spice"):
        return replace(machine, display=replace(machine.display or Display(), remote=device))
    if kind == "sound" and device in ("ich6", "ich9", "ac97"):
        return replace(machine, sound=(*machine.sound, device))
    if kind == "tpm":
        return replace(machine, firmware=replace(machine.firmware, tpm="2.0"))
    extras.append(("VirtualHardwareSection/Item", xml.encoded(item.element)))
    return machine


def _cpus(item: Item, name: str) -> CPUs:
    def number(key: str) -> int:
        return xml.number(item.take_element(key), key, name, high=1 << 16)

    sockets, cores = number("num_of_sockets"), number("cpu_per_socket")
    threads = number("threads_per_cpu") or 1
    if sockets and cores:
        return CPUs(sockets * cores * threads, sockets, cores, threads)
    return CPUs(xml.number(item.quantity, "the number of processors", name, high=1 << 20))


def _drive(item: Item, device: str, package: Envelope, machine: Machine) -> tuple[Drive, str]:
    if item.type == Resource.CD or device == "cdrom":
        return Drive("cdrom", "ide", 1, _free(machine, "ide", 1)), ""
    if item.type == Resource.FLOPPY or device == "floppy":
        return Drive("floppy", "floppy"), ""
    disk = _disk(item, package)
    if disk is None:
        return Drive(bus="virtio", slot=_free(machine, "virtio", 0)), ""
    file = package.file_of(disk) or package.file(disk.id)
    # Which interface it hangs on stands in DiskSection only; oVirt's own is VirtIO.
    bus: Bus = _INTERFACES.get(disk.interface, "virtio")
    return (
        Drive(
            bus=bus,
            slot=_free(machine, bus, 0),
            path=file.name if file else "",
            format=disk.format_name,
            size=disk.capacity,
            boot=1 if disk.boot else 0,
        ),
        disk.id,
    )


def _disk(item: Item, package: Envelope) -> OvfDisk | None:
    host = item.host.removeprefix("ovf:").strip("/").removeprefix("disk/")
    for each in package.disks:
        if host in (each.id, each.file) or (each.id and host.rpartition("/")[2] == each.id):
            return each
    return None


def _free(machine: Machine, bus: Bus, controller: int) -> int:
    used = {
        each.slot for each in machine.drives if (each.bus, each.controller) == (bus, controller)
    }
    return next(each for each in range(len(used) + 1) if each not in used)


def _network(item: Item) -> Network:
    linked = item.take_element("Linked")
    mac = item.take_element("MACAddress").lower()
    return Network(
        model=_NETWORKS.get(item.subtype, item.subtype if item.subtype.isalpha() else ""),
        mac=mac,
        kind="network" if item.connection else "",
        network=item.connection,
        connected=xml.flag(linked) is not False,
    )


def _architecture(text: str) -> str:
    return {"ppc64": "ppc64le", "x86_64": "x86_64", "s390x": "s390x"}.get(text.lower(), "")
