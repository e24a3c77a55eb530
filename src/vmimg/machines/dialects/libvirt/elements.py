"""The elements of a domain that is all in the model's words. Imports XML and words.

`writing` writes with it, and `reading` compares with it, to find what a domain says besides.
"""

from __future__ import annotations

from typing import Final

from vmimg.machines.dialects.libvirt import words
from vmimg.machines.model import Drive, Machine, Network, Serial
from vmimg.machines.xml import Element, make

__all__ = ["X86", "rendered"]

X86: Final = ("", "x86_64", "i686")


def rendered(machine: Machine) -> Element:
    """The <domain> of a machine that libvirt can say."""
    paravirtual = machine.chipset == "xenpv"
    domain = make("domain", {"type": "xen" if paravirtual else "kvm"})
    make("name", content=machine.name, parent=domain)
    if machine.uuid:
        make("uuid", content=machine.uuid, parent=domain)
    if machine.guest:
        metadata = make("metadata", parent=domain)
        info = make(
            f"{{{words.OSINFO}}}libosinfo", nsmap={"libosinfo": words.OSINFO}, parent=metadata
        )
        make(f"{{{words.OSINFO}}}os", {"id": words.guest_id(machine.guest)}, parent=info)
    if machine.description:
        make("description", content=machine.description, parent=domain)
    unit, size = ("KiB", machine.memory >> 10)
    if machine.memory % 1024:
        unit, size = "b", machine.memory
    make("memory", {"unit": unit}, str(size), parent=domain)
    if machine.cpus.count:
        make("vcpu", content=str(machine.cpus.count), parent=domain)
    if paravirtual:
        make("bootloader", parent=domain)
    _os(domain, machine)
    _features(domain, machine)
    _cpu(domain, machine)
    if machine.clock:
        clock = {"offset": machine.clock}
        if machine.clock not in ("utc", "localtime"):
            clock = {"offset": "timezone", "timezone": machine.clock}
        make("clock", clock, parent=domain)
    _devices(make("devices", parent=domain), machine)
    return domain


def _os(domain: Element, machine: Machine) -> None:
    firmware = machine.firmware
    os = make("os", parent=domain)
    attributes = {"arch": machine.architecture, "machine": words.CHIPSETS.get(machine.chipset, "")}
    kind = "xen" if machine.chipset == "xenpv" else "hvm"
    make("type", {key: value for key, value in attributes.items() if value}, kind, parent=os)
    if firmware.kind and not firmware.loader:
        os.set("firmware", "efi" if firmware.kind == "uefi" else "bios")
    secure = None if firmware.secure_boot is None else "yes" if firmware.secure_boot else "no"
    if firmware.loader and firmware.kind == "uefi":
        loader = {"readonly": "yes", "type": "pflash"} | ({"secure": secure} if secure else {})
        make("loader", loader, firmware.loader, parent=os)
    elif firmware.loader:
        make("loader", {"type": "rom"}, firmware.loader, parent=os)
    elif secure:
        feature = {"enabled": secure, "name": "secure-boot"}
        make("feature", feature, parent=make("firmware", parent=os))
    if firmware.variables:
        make("nvram", content=firmware.variables, parent=os)


def _features(domain: Element, machine: Machine) -> None:
    """Without <acpi> a guest finds neither its devices nor the power button."""
    x86 = machine.architecture in X86 and machine.chipset != "xenpv"
    if not x86 and machine.firmware.kind != "uefi":
        return
    features = make("features", parent=domain)
    make("acpi", parent=features)
    if x86:
        make("apic", parent=features)
        if machine.firmware.secure_boot:  # the variables are kept from the guest by SMM
            make("smm", {"state": "on"}, parent=features)


def _cpu(domain: Element, machine: Machine) -> None:
    cpus = machine.cpus
    if not cpus.model and not cpus.sockets:
        return
    if cpus.model == "host":
        cpu = make("cpu", {"mode": "host-passthrough"}, parent=domain)
    elif cpus.model:
        cpu = make("cpu", {"mode": "custom", "match": "exact"}, parent=domain)
        make("model", {"fallback": "allow"}, cpus.model, parent=cpu)
    else:
        cpu = make("cpu", parent=domain)
    if cpus.sockets:
        topology = {"sockets": cpus.sockets, "cores": cpus.cores, "threads": cpus.threads}
        make("topology", {key: str(value) for key, value in topology.items()}, parent=cpu)


def _devices(devices: Element, machine: Machine) -> None:
    letters = 0
    for drive in machine.drives:
        prefix = words.PREFIXES[drive.bus]
        at = drive.controller * 2 + drive.slot if drive.bus in ("ide", "floppy") else drive.slot
        if prefix == "sd":  # shared by three buses: names are given in order
            at, letters = letters, letters + 1
        _disk(devices, drive, words.device_name(prefix, at))
    for at, model in enumerate(machine.usb):
        attributes = {"type": "usb", "index": str(at), "model": words.USB[model]}
        make("controller", attributes, parent=devices)
    seen = set()
    for controller in machine.controllers:
        index = controller.index // 2 if controller.bus == "ide" else controller.index
        if (controller.bus, index) in seen:
            continue
        seen.add((controller.bus, index))
        attributes = {"type": words.CONTROLLERS[controller.bus], "index": str(index)}
        if controller.model:
            attributes["model"] = words.CONTROLLER_MODELS[controller.bus][controller.model]
        make("controller", attributes, parent=devices)
    for network in machine.networks:
        _interface(devices, network)
    for at, serial in enumerate(machine.serials):
        _serial(devices, serial, at)
    if machine.firmware.tpm:
        model = "tpm-tis" if machine.firmware.tpm == "1.2" else "tpm-crb"
        backend = {"type": "emulator", "version": machine.firmware.tpm}
        make("backend", backend, parent=make("tpm", {"model": model}, parent=devices))
    display = machine.display
    if display is not None and display.remote:
        auto = {"port": "-1", "autoport": "yes"} if display.remote != "sdl" else {}
        make("graphics", {"type": display.remote, **auto}, parent=devices)
    for model in machine.sound:
        make("sound", {"model": model}, parent=devices)
    if display is not None and display.model:
        attributes = {"type": words.VIDEO[display.model]}
        if display.memory:
            attributes["vram"] = str(display.memory >> 10)
        if display.heads:
            attributes["heads"] = str(display.heads)
        video = make("model", attributes, parent=make("video", parent=devices))
        if display.accelerated is not None:
            make("acceleration", {"accel3d": "yes" if display.accelerated else "no"}, parent=video)


def _disk(devices: Element, drive: Drive, name: str) -> None:
    disk = make("disk", {"type": drive.source, "device": drive.device}, parent=devices)
    if drive.format:
        make("driver", {"name": "qemu", "type": words.FORMATS[drive.format]}, parent=disk)
    if drive.source == "network":
        protocol, host, port, path = words.split_url(drive.path) or ("", "", "", "")
        source = make(
            "source", {"protocol": protocol} | ({"name": path} if path else {}), parent=disk
        )
        if host:
            make("host", {"name": host} | ({"port": port} if port else {}), parent=source)
    elif drive.source == "volume":
        pool, _, volume = drive.path.partition("/")
        make("source", {"pool": pool, "volume": volume}, parent=disk)
    elif drive.path:
        make("source", {"dev" if drive.source == "block" else "file": drive.path}, parent=disk)
    make("target", {"dev": name, "bus": words.BUSES[drive.bus]}, parent=disk)
    if drive.readonly or drive.device == "cdrom":
        make("readonly", parent=disk)
    if drive.serial:
        make("serial", content=drive.serial, parent=disk)
    if drive.boot:
        make("boot", {"order": str(drive.boot)}, parent=disk)
    address: dict[str, object] = {}
    if drive.bus == "ide":
        controller, channel = divmod(drive.controller, 2)
        address = {"type": "drive", "controller": controller, "bus": channel, "target": 0}
        address["unit"] = drive.slot
    elif drive.bus in ("sata", "scsi", "floppy"):
        address = {"type": "drive", "controller": drive.controller, "bus": 0, "target": 0}
        address["unit"] = drive.slot
    elif drive.bus == "usb":
        address = {"type": "usb", "bus": drive.controller, "port": drive.slot + 1}
    if address:
        make("address", {key: str(value) for key, value in address.items()}, parent=disk)


def _interface(devices: Element, network: Network) -> None:
    kind = {"none": "null", "": "kept"}.get(network.kind, network.kind)
    interface = make("interface", {"type": kind}, parent=devices)
    if network.mac:
        make("mac", {"address": network.mac}, parent=interface)
    if network.network:
        attribute = "bridge" if network.kind == "bridge" else "network"
        make("source", {attribute: network.network}, parent=interface)
    if network.model:
        make("model", {"type": words.NETWORK_MODELS[network.model]}, parent=interface)
    if not network.connected:
        make("link", {"state": "down"}, parent=interface)
    if network.boot:
        make("boot", {"order": str(network.boot)}, parent=interface)


def _serial(devices: Element, serial: Serial, at: int) -> None:
    element = make("serial", {"type": words.SERIALS[serial.kind]}, parent=devices)
    if serial.kind == "tcp":
        host, _, service = serial.path.rpartition(":")
        make("source", {"mode": "bind", "host": host, "service": service}, parent=element)
        make("protocol", {"type": "raw"}, parent=element)
    elif serial.kind == "unix":
        make("source", {"mode": "bind", "path": serial.path}, parent=element)
    elif serial.kind not in ("pty", "null"):
        make("source", {"path": serial.path}, parent=element)
    make("target", {"port": str(at)}, parent=element)
