"""What devices are called in .vmx files, and in the model. Imports nothing."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "BRIDGES",
    "BUSES",
    "CONNECTIONS",
    "CONNECTION_TYPES",
    "NETWORKS",
    "NETWORK_DEVICES",
    "ROOM",
    "SERIALS",
    "SERIAL_TYPES",
    "SOUNDS",
    "SOUND_DEVICES",
    "USBS",
]

# Root ports for the cards that are PCI Express; Workstation and ESXi write them for every machine,
# and without them such a card finds no slot.
BRIDGES: Final = (
    ("pciBridge0.present", "TRUE"),
    *(
        (f"pciBridge{number}.{key}", value)
        for number in (4, 5, 6, 7)
        for key, value in (("present", "TRUE"), ("virtualDev", "pcieRootPort"), ("functions", "8"))
    ),
)
BUSES: Final = ("ide", "sata", "scsi", "nvme", "floppy")
ROOM: Final = {
    "ide": (2, 2),
    "sata": (4, 30),
    "scsi": (4, 16),
    "nvme": (4, 15),
    "floppy": (1, 2),
}
NETWORKS: Final = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "vlance": "pcnet",
    "vmxnet": "vmxnet",
    "vmxnet3": "vmxnet3",
}
NETWORK_DEVICES: Final = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "pcnet": "vlance",
    "vmxnet": "vmxnet",
    "vmxnet2": "vmxnet",
    "vmxnet3": "vmxnet3",
}
CONNECTIONS: Final[dict[str, Any]] = {
    "bridged": "bridge",
    "nat": "nat",
    "hostonly": "hostonly",
    "pvn": "internal",
}
CONNECTION_TYPES: Final = {
    "bridge": "bridged",
    "nat": "nat",
    "user": "nat",
    "hostonly": "hostonly",
    "internal": "pvn",
}
SERIALS: Final[dict[str, Any]] = {
    "file": "file",
    "pipe": "pipe",
    "device": "device",
    "network": "tcp",
}
SERIAL_TYPES: Final = {
    "file": "file",
    "pipe": "pipe",
    "unix": "pipe",
    "device": "device",
    "pty": "device",
    "null": "device",
    "tcp": "network",
}
SOUNDS: Final = {"hdaudio": "hda", "es1371": "es1370", "sb16": "sb16"}
SOUND_DEVICES: Final = {
    "hda": "hdaudio",
    "ich6": "hdaudio",
    "ich9": "hdaudio",
    "es1370": "es1371",
    "ac97": "es1371",
    "sb16": "sb16",
}
USBS: Final = {"usb": "uhci", "ehci": "ehci", "usb_xhci": "xhci"}
