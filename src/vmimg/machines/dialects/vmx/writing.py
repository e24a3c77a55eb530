"""Writing a .vmx, and the .vmsd beside it for a machine with snapshots.

Losses are found by reading what was written. Imports text, words, reading, comparing and the model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from vmimg.errors import FormatError, OptionError
from vmimg.machines import guests
from vmimg.machines.comparing import losses_of
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.vmx import words
from vmimg.machines.dialects.vmx.reading import read_with
from vmimg.machines.dialects.vmx.snapshots import write_snapshots
from vmimg.machines.dialects.vmx.text import compose
from vmimg.machines.model import Bus, Drive, Machine, Network
from vmimg.machines.slots import settle
from vmimg.machines.vmware import hardware_number

__all__ = ["write"]

Line = tuple[str, str]

_MIB: Final = 1 << 20
_LEAST_MEMORY: Final = 1 << 30
# What VMware gives to people to choose from: others are checked against the host's own.
_STATIC_MAC: Final = re.compile(r"00:50:56:[0-3][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}")
_SCSI: Final = ("lsilogic", "lsisas1068", "buslogic", "pvscsi")

_REASONS: Final = {
    "architecture": "it is told by the guest system only",
    "chipset": "VMware has one chipset",
    "firmware.loader": "only with the kind of firmware it is for",
    "firmware.tpm": "VMware's TPM is a 2.0",
    "cpus.model": "VMware takes the host's processor",
    "cpus": "VMware counts processors, and cores in a socket",
    "memory": "VMware counts it in MiB, and a machine has some",
    "clock": "VMware has the host's time, or UTC",
    "guest": "it is known by its family there",
    "controllers": "VMware has these, and every drive needs one",
    "drives.bus": "VMware has no such bus for it",
    "drives.controller": "there is no such place on that bus",
    "drives.slot": "there is no such place on that bus",
    "drives.source": "VMware's disks are files",
    "drives.format": "VMware's disks are VMDKs",
    "drives.size": "the image tells its size",
    "drives.boot": "disks boot next to one another, and of the CDs the first",
    "drives.readonly": "a .vmx has no disks that cannot be written",
    "drives.serial": "a .vmx has no serial numbers",
    "networks.model": "VMware has no such card",
    "networks.kind": "VMware has no such way to attach it",
    "networks.network": "what it is attached to has no name there",
    "serials": "VMware has no such port",
    "display": "VMware has one video card, shown by itself or by VNC",
    "sound": "VMware has one sound card, of other models",
    "usb": "VMware has no such controller",
    "snapshots.id": "VMware numbers snapshots",
    "snapshots.parent": "VMware numbers snapshots",
    "snapshots.drives": "a .vmsd says less of a disk",
    "snapshots": "a .vmsd does not say it",
    "extras": "another line says the same",
    "": "a .vmx does not say it",
}


def write(machine: Machine) -> Written:
    """The .vmx; `Written.files` has the .vmsd where there are snapshots."""
    data = compose(_lines(machine))
    files = {}
    if machine.snapshots:
        stem = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", machine.name).strip(". ") or "machine"
        files[f"{stem}.vmsd"] = write_snapshots(machine.snapshots, stem)
    try:
        found = read_with(data, "machine.vmx", files)[0]
    except FormatError as error:
        raise OptionError(f"a .vmx has no room for it: {error}") from None
    return Written(data, losses_of(machine, found, "vmx", _REASONS), files)


def _lines(machine: Machine) -> Iterator[Line]:
    own = machine.extras.get("vmx", ())
    extras = {key.lower(): value for key, value in own}
    yield "config.version", "8"
    yield (
        "virtualHW.version",
        extras.get("virtualhw.version") or str(hardware_number(machine)),
    )
    if not any(key.startswith("pcibridge") for key in extras):
        yield from words.BRIDGES
    yield from _head(machine)
    yield from _drives(machine)
    for at, network in enumerate(machine.networks):
        yield from _network(at, network, extras.get(f"ethernet{at}.addresstype", ""))
    yield from _devices(machine)
    yield from _boot_order(machine)
    yield from own


def _head(machine: Machine) -> Iterator[Line]:
    if machine.name:
        yield "displayName", machine.name
    if machine.description:
        yield "annotation", machine.description
    yield "guestOS", guests.vmx(machine.guest, machine.architecture)
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", machine.uuid):
        yield "uuid.bios", _spaced(machine.uuid.replace("-", ""))
    firmware = machine.firmware
    if firmware.kind:
        yield "firmware", "efi" if firmware.kind == "uefi" else "bios"
    if firmware.secure_boot is not None:
        yield "uefi.secureBoot.enabled", _truth(firmware.secure_boot)
    if firmware.tpm:
        yield "vtpm.present", "TRUE"
    if firmware.variables:
        yield "nvram", firmware.variables
    if firmware.loader:
        yield ("efi64.filename" if firmware.kind == "uefi" else "bios440.filename"), firmware.loader
    cpus = machine.cpus
    threads = cpus.cores * max(cpus.threads, 1)
    if cpus.count or cpus.sockets * threads:
        yield "numvcpus", str(cpus.count or cpus.sockets * threads)
    if threads:
        yield "cpuid.coresPerSocket", str(threads)
    yield "memsize", str(-(-(machine.memory or _LEAST_MEMORY) // _MIB))
    if machine.clock == "utc":
        yield "rtc.diffFromUTC", "0"


def _drives(machine: Machine) -> Iterator[Line]:
    spots = settle(machine.drives, words.ROOM, _fallback)
    models = {
        (each.bus, each.index): each.model
        for each in machine.controllers
        if each.bus in ("sata", "scsi", "nvme") and each.index < words.ROOM[each.bus][0]
    }
    for bus, index, _ in spots:
        if bus in ("sata", "scsi", "nvme"):
            models.setdefault((bus, index), "")
    for (bus, index), model in sorted(models.items()):
        yield f"{bus}{index}.present", "TRUE"
        if bus == "scsi":
            yield f"{bus}{index}.virtualDev", model if model in _SCSI else _default_scsi(machine)
    for drive, (bus, controller, slot) in zip(machine.drives, spots, strict=True):
        prefix = f"floppy{slot}" if bus == "floppy" else f"{bus}{controller}:{slot}"
        yield f"{prefix}.present", "TRUE"
        if drive.device == "cdrom":
            yield f"{prefix}.deviceType", "cdrom-image" if drive.path else "cdrom-raw"
            yield f"{prefix}.fileName", drive.path or "auto detect"
            if not drive.path:
                yield f"{prefix}.autodetect", "TRUE"
        elif drive.device == "floppy":
            yield f"{prefix}.fileType", "file"
            yield f"{prefix}.fileName", drive.path
        else:
            yield f"{prefix}.deviceType", "disk"
            yield f"{prefix}.fileName", drive.path
    if not any(bus == "floppy" and slot == 0 for bus, _, slot in spots):
        yield "floppy0.present", "FALSE"


def _default_scsi(machine: Machine) -> str:
    # Windows has had no driver for the parallel one since Vista.
    return "lsisas1068" if guests.is_windows(machine.guest) else "lsilogic"


def _fallback(drive: Drive) -> Bus:
    return "floppy" if drive.device == "floppy" else "sata"


def _network(at: int, network: Network, given: str) -> Iterator[Line]:
    prefix = f"ethernet{at}"
    yield f"{prefix}.present", "TRUE"
    if network.model:
        yield f"{prefix}.virtualDev", words.NETWORK_DEVICES.get(network.model, "e1000")
    if network.model == "vmxnet2":
        yield f"{prefix}.features", "15"
    if network.kind == "network" and network.network.lower().startswith("vmnet"):
        yield f"{prefix}.connectionType", "custom"
        yield f"{prefix}.vnet", network.network
    else:
        if network.kind in words.CONNECTION_TYPES:
            yield f"{prefix}.connectionType", words.CONNECTION_TYPES[network.kind]
        if network.kind == "internal":
            digest = hashlib.sha256(network.network.encode("utf-8", "replace")).hexdigest()
            yield f"{prefix}.pvnID", _spaced("52" + digest[:30])
        if network.network:
            yield f"{prefix}.networkName", network.network
    if network.mac and given in ("generated", "vpx"):
        yield f"{prefix}.generatedAddress", network.mac  # its type is among the extras
    elif network.mac:
        yield f"{prefix}.addressType", "static"
        yield f"{prefix}.address", network.mac
        if not _STATIC_MAC.fullmatch(network.mac):
            yield f"{prefix}.checkMACAddress", "FALSE"
    else:
        yield f"{prefix}.addressType", "generated"
    if not network.connected:
        yield f"{prefix}.startConnected", "FALSE"


def _devices(machine: Machine) -> Iterator[Line]:
    for at, serial in enumerate(machine.serials):
        prefix = f"serial{at}"
        yield f"{prefix}.present", "TRUE"
        yield f"{prefix}.fileType", words.SERIAL_TYPES[serial.kind]
        path = f"telnet://{serial.path}" if serial.kind == "tcp" else serial.path
        yield f"{prefix}.fileName", path
    controllers = {model: key for key, model in words.USBS.items()}
    for model in machine.usb:
        yield f"{controllers.get(model, 'usb')}.present", "TRUE"
    for model in machine.sound[:1]:
        yield "sound.present", "TRUE"
        yield "sound.virtualDev", words.SOUND_DEVICES.get(model, "hdaudio")
    display = machine.display
    if display is None:
        return
    yield "svga.present", "TRUE"
    if display.memory:
        yield "svga.vramSize", str(display.memory)
    if display.heads:
        yield "svga.numDisplays", str(display.heads)
    if display.accelerated is not None:
        yield "mks.enable3d", _truth(display.accelerated)
    if display.remote == "vnc":
        yield "RemoteDisplay.vnc.enabled", "TRUE"


def _boot_order(machine: Machine) -> Iterator[Line]:
    spots = settle(machine.drives, words.ROOM, _fallback)
    order: list[tuple[int, str, str]] = []
    for drive, (bus, controller, slot) in zip(machine.drives, spots, strict=True):
        if drive.boot:
            kind = {"disk": "hdd"}.get(drive.device, drive.device)
            order.append((drive.boot, kind, f"{bus}{controller}:{slot}"))
    for at, network in enumerate(machine.networks):
        if network.boot:
            order.append((network.boot, f"ethernet{at}", ""))
    if not order:
        return
    order.sort()
    yield "bios.bootOrder", ",".join(dict.fromkeys(kind for _, kind, _ in order))
    disks = [place for _, kind, place in order if kind == "hdd"]
    if disks:
        yield "bios.hddOrder", ",".join(disks)


def _truth(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _spaced(digits: str) -> str:
    pairs = [digits[at : at + 2] for at in range(0, 32, 2)]
    return " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])
