"""What things are called in .vbox files, and in the model. Imports the model.

Source: VirtualBox-settings.xsd (TStorageControllerType, TNetworkAdapterType, ...), Settings.cpp.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from vmimg.machines.model import Bus

__all__ = [
    "ATTACHMENTS",
    "AUDIO",
    "BOOT",
    "CARDS",
    "CARD_TYPES",
    "CHIPSETS",
    "CONTROLLERS",
    "CONTROLLER_TYPES",
    "FORMATS",
    "GRAPHICS",
    "HOST_MODES",
    "MODES",
    "NAMES",
    "SERIALS",
    "SPACE",
    "TPMS",
    "USBS",
    "braced",
    "derived_uuid",
    "plain_uuid",
    "port_count",
]

SPACE: Final = "http://www.virtualbox.org/"
"""The namespace of settings. Before 2007 it was innotek's; in an OVF they are in that of OVF."""

CONTROLLERS: Final[dict[str, tuple[Bus, str]]] = {
    "PIIX3": ("ide", "piix3"),
    "PIIX4": ("ide", "piix4"),
    "ICH6": ("ide", "ich6"),
    "AHCI": ("sata", "ahci"),
    "LsiLogic": ("scsi", "lsilogic"),
    "BusLogic": ("scsi", "buslogic"),
    "LsiLogicSas": ("scsi", "lsisas1068"),
    "VirtioSCSI": ("scsi", "virtio-scsi"),
    "I82078": ("floppy", ""),
    "USB": ("usb", ""),
    "NVMe": ("nvme", ""),
}
CONTROLLER_TYPES: Final = {place: name for name, place in CONTROLLERS.items()}
NAMES: Final = {
    "ide": "IDE",
    "sata": "SATA",
    "scsi": "SCSI",
    "floppy": "Floppy",
    "usb": "USB",
    "nvme": "NVMe",
}
"""Names of controllers, with a number behind them from the second on."""

CARDS: Final = {
    "Am79C970A": "pcnet",
    "Am79C973": "pcnet",
    "82540EM": "e1000",
    "82543GC": "e1000",
    "82545EM": "e1000",
    "virtio": "virtio",
    "ne2000": "ne2k_pci",
}
CARD_TYPES: Final = {"pcnet": "Am79C973", "e1000": "82540EM", "virtio": "virtio"}
ATTACHMENTS: Final[dict[str, Any]] = {
    "NAT": "nat",
    "BridgedInterface": "bridge",
    "HostInterface": "bridge",
    "InternalNetwork": "internal",
    "HostOnlyInterface": "hostonly",
    "HostOnlyNetwork": "hostonly",
    "NATNetwork": "network",
}
MODES: Final = {
    "": "NAT",
    "nat": "NAT",
    "user": "NAT",
    "bridge": "BridgedInterface",
    "internal": "InternalNetwork",
    "hostonly": "HostOnlyInterface",
    "network": "NATNetwork",
}
SERIALS: Final[dict[str, Any]] = {
    "Disconnected": "null",
    "HostPipe": "pipe",
    "HostDevice": "device",
    "RawFile": "file",
    "TCP": "tcp",
}
HOST_MODES: Final = {
    "null": "Disconnected",
    "pty": "Disconnected",
    "pipe": "HostPipe",
    "unix": "HostPipe",
    "device": "HostDevice",
    "file": "RawFile",
    "tcp": "TCP",
}
CHIPSETS: Final = {"PIIX3": "i440fx", "ICH9": "q35", "ARMv8Virtual": "virt"}
GRAPHICS: Final = {
    "VBoxVGA": "vboxvga",
    "VMSVGA": "vmvga",
    "VBoxSVGA": "vboxsvga",
    "None": "none",
    "QemuRamFB": "ramfb",
}
AUDIO: Final = {"AC97": "ac97", "HDA": "hda", "SB16": "sb16"}
USBS: Final = {"OHCI": "ohci", "EHCI": "ehci", "XHCI": "xhci"}
TPMS: Final[dict[str, Any]] = {"v1_2": "1.2", "v2_0": "2.0"}
BOOT: Final = {"HardDisk": "disk", "DVD": "cdrom", "Floppy": "floppy", "Network": "network"}
FORMATS: Final = {
    "VDI": "vdi",
    "VMDK": "vmdk",
    "VHD": "vhd",
    "VHDX": "vhdx",
    "RAW": "raw",
    "PARALLELS": "parallels",
    "QCOW": "qcow2",
    "QED": "qed",
    "DMG": "dmg",
}
_UUID: Final = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?")


def plain_uuid(text: str) -> str:
    """A uuid in lower case without braces, "" for what is none."""
    found = _UUID.fullmatch(text.strip().lower())
    return found[1] if found else ""


def braced(uuid: str) -> str:
    """A uuid as VirtualBox writes it."""
    return f"{{{uuid}}}"


def derived_uuid(*of: str) -> str:
    """A uuid that is always the same for the same texts."""
    digits = list(hashlib.sha256("\0".join(of).encode("utf-8", "replace")).hexdigest()[:32])
    digits[12], digits[16] = "8", "a"  # of the version for one's own schemes (RFC 9562)
    text = "".join(digits)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def port_count(bus: str, model: str, slots: int) -> int:
    """How many ports a controller is said to have, which ``slots`` are in use of."""
    least = {"ide": 2, "floppy": 1, "usb": 8, "scsi": 8 if model == "lsisas1068" else 16}
    return 2 if bus == "ide" else max(least.get(bus, 1), slots if bus != "floppy" else 1)
