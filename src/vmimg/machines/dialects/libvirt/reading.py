"""Reading a domain: the machine, and what is kept beside it. Imports XML, words, keeping, elements.

Devices that the model has no word for (a PCI passthrough, a disk on vhost-user) are set aside as a
whole before the rest is compared; what was understood in another form than we write it (<os><boot>,
a console that is the serial port) is taken out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.machines.dialects.libvirt import words
from vmimg.machines.dialects.libvirt.devices import Devices
from vmimg.machines.dialects.libvirt.elements import rendered
from vmimg.machines.dialects.libvirt.keeping import kept
from vmimg.machines.model import (
    ARCHITECTURES,
    CPUs,
    Drive,
    Firmware,
    Machine,
    Network,
    Snapshot,
)
from vmimg.machines.xml import (
    Element,
    child,
    children,
    find,
    local,
    number,
    parse,
    printable,
    text,
)

__all__ = ["read"]

_CONTAINERS: Final = ("lxc", "openvz")
_UUID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine of a <domain>, of a running one's <domstatus>, or of a <domainsnapshot>."""
    root = parse(data, name, root=("domain", "domstatus", "domainsnapshot"))
    if local(root) == "domain":
        return (_Domain(root, name).machine(),)
    inner = child(root, "domain")
    if inner is None:
        raise FormatError(f"{name}: there is no <domain> in this <{local(root)}>")
    machine = _Domain(inner, name).machine()
    if local(root) == "domainsnapshot":
        machine = replace(machine, snapshots=(_snapshot(root, machine, name),))
    return (machine,)


def _snapshot(root: Element, machine: Machine, name: str) -> Snapshot:
    id_ = text(root, "name")
    if not id_:
        raise FormatError(f"{name}: the snapshot has no name")
    created = number(text(root, "creationTime"), "the snapshot's time", name, high=253402300799)
    memory = child(root, "memory")
    return Snapshot(
        id=id_,
        name=id_,
        description=text(root, "description"),
        created=_stamp(created) if created else "",
        current=text(root, "active") == "1",
        drives=machine.drives,
        memory="" if memory is None else memory.get("file", ""),
    )


def _stamp(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Domain:
    """One <domain>, which is taken apart as it is read."""

    def __init__(self, domain: Element, name: str) -> None:
        self._domain = domain
        self._name = name
        devices = list(children(domain, "devices"))
        if len(devices) > 1:
            raise FormatError(f"{name}: the domain has {len(devices)} lists of devices, not one")
        self._devices = Devices(devices[0] if devices else None, name)
        kind = domain.get("type", "")
        form = text(domain, "os", "type")
        if kind in _CONTAINERS or form in ("exe", "uml"):
            word = printable(kind or form)[:40]
            raise UnsupportedFeature(f"{name}: a container ({word}), not a virtual machine")

    def machine(self) -> Machine:
        domain, devices = self._domain, self._devices
        drives = devices.drives()
        networks = devices.networks()
        drives, networks = self._boot_by_class(drives, networks)
        type_ = find(domain, "os", "type")
        arch = "" if type_ is None else type_.get("arch", "")
        machine = Machine(
            name=text(domain, "name"),
            description=text(domain, "description"),
            uuid=self._uuid(),
            architecture=arch if arch in ARCHITECTURES else "",
            chipset=self._chipset(type_),
            firmware=self._firmware(),
            cpus=self._cpus(),
            memory=self._memory(),
            clock=self._clock(),
            guest=self._guest(),
            controllers=devices.controllers(drives),
            drives=tuple(drives),
            networks=tuple(networks),
            serials=devices.serials(),
            display=devices.display(),
            sound=devices.sound(),
            usb=devices.usb(),
        )
        extras = (*devices.aside, *kept(domain, rendered(machine)))
        return replace(machine, extras={"libvirt": extras} if extras else {})

    def _number(self, value: str | None, what: str, high: int = (1 << 31) - 1) -> int:
        return number(value or "", what, self._name, high=high)

    def _uuid(self) -> str:
        found = text(self._domain, "uuid").lower()
        if not _UUID.fullmatch(found):
            return ""
        digits = found.replace("-", "")
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _chipset(self, type_: Element | None) -> str:
        if type_ is not None and text(type_) in ("xen", "linux"):
            return "xenpv"
        if type_ is None and child(self._domain, "bootloader") is not None:
            return "xenpv"
        return "" if type_ is None else words.chipset(type_.get("machine", ""))

    def _memory(self) -> int:
        memory = child(self._domain, "memory")
        size = 0 if memory is None else self._size(memory)
        now = child(self._domain, "currentMemory")
        if now is not None and self._size(now) == size:
            self._domain.remove(now)
        return size

    def _size(self, element: Element) -> int:
        unit = words.UNITS.get(element.get("unit", "KiB").lower())
        if unit is None:
            raise FormatError(
                f"{self._name}: memory in '{printable(element.get('unit', ''))[:20]}'"
            )
        return self._number(text(element), "the memory", 1 << 62) * unit

    def _cpus(self) -> CPUs:
        count = self._number(text(self._domain, "vcpu"), "the number of processors", 1 << 16)
        cpu = child(self._domain, "cpu")
        if cpu is None:
            return CPUs(count)
        model = text(cpu, "model")
        if cpu.get("mode") in ("host-passthrough", "host-model", "maximum"):
            model = "host"
        topology = child(cpu, "topology")
        if topology is None:
            return CPUs(count, model=model)
        sockets, cores, threads, dies, clusters = (
            self._number(topology.get(key, "1"), f"the {key} of the processors", 1 << 16)
            for key in ("sockets", "cores", "threads", "dies", "clusters")
        )
        cores *= max(dies, 1) * max(clusters, 1)
        if not (sockets and cores and threads):
            return CPUs(count, model=model)
        return CPUs(count, sockets, cores, threads, model)

    def _firmware(self) -> Firmware:
        os = child(self._domain, "os")
        tpm = self._devices.tpm()
        if os is None:
            return Firmware(tpm=tpm)
        loader, nvram = child(os, "loader"), child(os, "nvram")
        kind = {"efi": "uefi", "bios": "bios"}.get(os.get("firmware", ""), "")
        secure = None
        features = child(os, "firmware")
        for feature in () if features is None else children(features, "feature"):
            if feature.get("name") == "secure-boot" and feature.get("enabled") in ("yes", "no"):
                secure = feature.get("enabled") == "yes"
        path = ""
        if loader is not None:
            path = text(loader)
            if not kind:
                kind = "uefi" if loader.get("type") == "pflash" or nvram is not None else "bios"
            if loader.get("secure") in ("yes", "no") and secure is None:
                secure = loader.get("secure") == "yes"
        variables = ""
        if nvram is not None:
            source = child(nvram, "source")
            variables = text(nvram) if source is None else source.get("file", "")
            if source is not None and nvram.get("type") == "file" and len(source) == 0:
                nvram.remove(source)
                del nvram.attrib["type"]
            kind = kind or "uefi"
        if text(os, "type") in ("xen", "linux"):
            return Firmware(tpm=tpm)
        if kind != "uefi":
            secure = None
        return Firmware(
            "uefi" if kind == "uefi" else "bios" if kind else "", secure, tpm, variables, path
        )

    def _clock(self) -> str:
        clock = child(self._domain, "clock")
        if clock is None:
            return ""
        offset = clock.get("offset", "utc")
        if offset in ("utc", "localtime"):
            return offset
        return clock.get("timezone", "") if offset == "timezone" else ""

    def _guest(self) -> str:
        os = find(self._domain, "metadata", "libosinfo", "os")
        return "" if os is None else words.guest(os.get("id", ""))

    def _boot_by_class(
        self, drives: list[Drive], networks: list[Network]
    ) -> tuple[list[Drive], list[Network]]:
        """<os><boot dev> names classes: the first device of each gets a number of its own."""
        os = child(self._domain, "os")
        classes = [] if os is None else list(children(os, "boot"))
        if (
            os is None
            or not classes
            or any([each.boot for each in drives] + [each.boot for each in networks])
        ):
            return drives, networks
        order = 0
        for each in classes[:16]:
            device = {"hd": "disk", "cdrom": "cdrom", "fd": "floppy"}.get(each.get("dev", ""))
            if each.get("dev") == "network" and networks and not networks[0].boot:
                order += 1
                networks[0] = replace(networks[0], boot=order)
            at = next((at for at, drive in enumerate(drives) if drive.device == device), None)
            if at is not None and not drives[at].boot:
                order += 1
                drives[at] = replace(drives[at], boot=order)
        for each in classes:
            os.remove(each)
        return drives, networks
