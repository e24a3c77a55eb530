"""Proxmox's names of what the model has words for. Imports nothing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["AUDIO", "NETWORK", "NETWORK_NAMES", "SCSI", "SCSI_NAMES", "VGA", "VGA_NAMES", "chipset"]

SCSI: Final = {"lsilogic": "lsi", "pvscsi": "pvscsi", "virtio-scsi": "virtio-scsi-pci"}
SCSI_NAMES: Final = {
    **{name: model for model, name in SCSI.items()},
    "virtio-scsi-single": "virtio-scsi",
}
NETWORK: Final = {
    model: model
    for model in ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci", "vmxnet3")
}
NETWORK_NAMES: Final = {
    **NETWORK,
    "e1000-82540em": "e1000", "e1000-82544gc": "e1000", "e1000-82545em": "e1000",
}  # fmt: skip
VGA: Final = {
    "vga": "std", "cirrus": "cirrus", "qxl": "qxl", "virtio": "virtio", "vmvga": "vmware",
    "none": "none",
}  # fmt: skip
VGA_NAMES: Final = {name: model for model, name in VGA.items()}
AUDIO: Final = {"ich9": "ich9-intel-hda", "ich6": "intel-hda", "ac97": "AC97"}


def chipset(machine: str) -> str:
    """The chipset of a machine type, "" for an unknown one."""
    if machine == "q35" or machine.startswith("pc-q35"):
        return "q35"
    if machine == "pc" or re.match(r"pc-(i440fx|[0-9])", machine):
        return "i440fx"
    return "virt" if machine == "virt" or machine.startswith("virt-") else ""
