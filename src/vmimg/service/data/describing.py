"""Machines in Glance's useful properties: what an appliance says of its machine, and back.

Names and values: https://docs.openstack.org/glance/latest/admin/useful-image-properties.html.
Imports machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from vmimg.machines.model import (
    ARCHITECTURES,
    BUSES,
    Controller,
    CPUs,
    Drive,
    Firmware,
    Machine,
    Network,
)
from vmimg.service.catalogue.images import ImageRecord
from vmimg.units import GIB, MIB

__all__ = ["machine_of", "of_machine"]

_BUSES: Final[Mapping[str, str]] = {
    "ide": "ide", "sata": "sata", "scsi": "scsi", "virtio": "virtio", "usb": "usb", "xen": "xen",
}  # fmt: skip
_NICS: Final[Mapping[str, str]] = {
    "virtio": "virtio", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139",
    "pcnet": "pcnet", "vmxnet": "vmxnet", "vmxnet2": "vmxnet2", "vmxnet3": "vmxnet3",
    "ne2k_pci": "ne2k_pci", "xen": "netfront",
}  # fmt: skip
_TOPOLOGY: Final = ("sockets", "cores", "threads")
_MOST_CPUS: Final = 4096


def of_machine(machine: Machine) -> dict[str, str]:
    """What a description says, in Glance's useful properties."""
    found: dict[str, str] = {}
    if machine.architecture:
        found["architecture"] = machine.architecture
    if machine.firmware.kind:
        found["hw_firmware_type"] = machine.firmware.kind
    if machine.firmware.secure_boot:
        found["os_secure_boot"] = "required"
    if machine.firmware.tpm:
        found["hw_tpm_version"] = machine.firmware.tpm
    buses = [drive.bus for drive in machine.drives if drive.device == "disk"]
    if buses and buses[0] in _BUSES:
        found["hw_disk_bus"] = _BUSES[buses[0]]
    scsi = [each.model for each in machine.controllers if each.bus == "scsi" and each.model]
    if scsi and buses and buses[0] == "scsi":
        found["hw_scsi_model"] = scsi[0]
    models = [each.model for each in machine.networks if each.model in _NICS]
    if models:
        found["hw_vif_model"] = _NICS[models[0]]
    if machine.cpus.sockets:
        found["hw_cpu_sockets"] = str(machine.cpus.sockets)
        found["hw_cpu_cores"] = str(machine.cpus.cores)
        found["hw_cpu_threads"] = str(machine.cpus.threads)
    return found


def machine_of(record: ImageRecord) -> Machine:
    """The machine that an image is for, as far as its properties say; the rest is plain."""
    said = record.properties
    kind = said.get("hw_firmware_type")
    tpm = said.get("hw_tpm_version")
    bus = said.get("hw_disk_bus")
    scsi = said.get("hw_scsi_model")
    nics = {glance: ours for ours, glance in _NICS.items()}
    nic = said.get("hw_vif_model") or ""
    architecture = said.get("architecture")
    sockets, cores, threads = (_count(said.get(f"hw_cpu_{part}")) for part in _TOPOLOGY)
    drive = Drive(bus=cast(Any, bus)) if bus in BUSES else Drive()
    controllers = (Controller("scsi", 0, scsi),) if bus == "scsi" and scsi else ()
    count = sockets * cores * threads
    return Machine(
        name=record.name or record.id,
        architecture=architecture if architecture in ARCHITECTURES else "",
        firmware=Firmware(
            kind=cast(Any, kind) if kind in ("bios", "uefi") else "",
            secure_boot=True if said.get("os_secure_boot") == "required" else None,
            tpm=cast(Any, tpm) if tpm in ("1.2", "2.0") else "",
        ),
        cpus=CPUs(count, sockets, cores, threads) if count <= _MOST_CPUS else CPUs(1),
        memory=max(record.min_ram * MIB, GIB),
        controllers=controllers,
        drives=(drive,),
        networks=(Network(nics.get(nic, "")),),
    )


def _count(said: str | None) -> int:
    return int(said) if said and said.isascii() and said.isdigit() and int(said[:6]) > 0 else 1
