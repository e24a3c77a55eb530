"""What devices are called in OVF descriptors, and in the model. Facts of ovftool, ESXi, VirtualBox
(ApplianceImplExport.cpp, ovfreader.cpp), virt-v2v and govmomi. Imports nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONTROLLERS",
    "CONTROLLER_TYPES",
    "NETWORKS",
    "NETWORK_KINDS",
    "NETWORK_NAMES",
    "NETWORK_TYPES",
    "SERIALS",
    "SERIAL_TYPES",
    "SOUNDS",
    "SOUND_TYPES",
    "USBS",
    "USB_TYPES",
]

CONTROLLERS: Final = {
    "lsilogic": ("scsi", "lsilogic"),
    "lsilogicsas": ("scsi", "lsisas1068"),
    "buslogic": ("scsi", "buslogic"),
    "virtualscsi": ("scsi", "pvscsi"),
    "virtioscsi": ("scsi", "virtio-scsi"),
    "virtio-scsi": ("scsi", "virtio-scsi"),
    "piix3": ("ide", "piix3"),
    "piix4": ("ide", "piix4"),
    "ich6": ("ide", "ich6"),
    "ahci": ("sata", "ahci"),
    "vmware.sata.ahci": ("sata", "ahci"),
    "vmware.nvme.controller": ("nvme", ""),
    "nvme": ("nvme", ""),
    "nvmexpress": ("nvme", ""),
}
"""ResourceSubType in lower case: (bus, model)."""

CONTROLLER_TYPES: Final = {
    ("scsi", "lsilogic"): "lsilogic",
    ("scsi", "lsisas1068"): "lsilogicsas",
    ("scsi", "buslogic"): "buslogic",
    ("scsi", "pvscsi"): "VirtualSCSI",
    ("ide", "piix3"): "PIIX3",
    ("ide", "piix4"): "PIIX4",
    ("ide", "ich6"): "ICH6",
    ("ide", ""): "",
    ("sata", "ahci"): "AHCI",
    ("nvme", ""): "vmware.nvme.controller",
}
"""(bus, model): ResourceSubType, of what VMware knows. It takes "AHCI" for its own name of it."""

NETWORKS: Final = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "pcnet32": "pcnet",
    "flexible": "pcnet",
    "vlance": "pcnet",
    "vmxnet": "vmxnet",
    "vmxnet2": "vmxnet2",
    "vmxnet3": "vmxnet3",
    "virtio": "virtio",
    "virtio-net": "virtio",
    "rtl8139": "rtl8139",
    "realtek rtl8139": "rtl8139",
    "ne2k_pci": "ne2k_pci",
}
NETWORK_TYPES: Final = {
    "e1000": "E1000",
    "e1000e": "E1000e",
    "pcnet": "PCNet32",
    "vmxnet": "VmxNet",
    "vmxnet2": "VmxNet2",
    "vmxnet3": "VmxNet3",
}
# Names that stand for a way of being attached, where nobody has called a network so.
NETWORK_KINDS: Final = {
    "nat": "nat",
    "bridged": "bridge",
    "hostonly": "hostonly",
    "internal": "internal",
}
NETWORK_NAMES: Final = {
    "nat": "nat",
    "user": "nat",
    "bridge": "bridged",
    "hostonly": "hostonly",
    "internal": "internal",
    "": "VM Network",
    "network": "VM Network",
}

SERIALS: Final = {
    "vmware.serialport.device": "device",
    "vmware.serialport.file": "file",
    "vmware.serialport.pipe": "pipe",
    "vmware.serialport.uri": "tcp",
}
SERIAL_TYPES: Final = {
    "device": "vmware.serialport.device",
    "pty": "vmware.serialport.device",
    "null": "vmware.serialport.device",
    "file": "vmware.serialport.file",
    "pipe": "vmware.serialport.pipe",
    "unix": "vmware.serialport.pipe",
    "tcp": "vmware.serialport.uri",
}
SOUNDS: Final = {
    "vmware.soundcard.hdaudio": "hda",
    "vmware.soundcard.ensoniq1371": "es1370",
    "vmware.soundcard.sb16": "sb16",
    "ensoniq1371": "ac97",
    "hdaudio": "hda",
    "ac97": "ac97",
    "sb16": "sb16",
}
# VMware's cards are items of type 1 ("other"); VirtualBox's is of type 35, and called so for AC97.
SOUND_TYPES: Final = {
    "hda": "vmware.soundcard.hdaudio",
    "ich6": "vmware.soundcard.hdaudio",
    "ich9": "vmware.soundcard.hdaudio",
    "es1370": "vmware.soundcard.ensoniq1371",
    "sb16": "vmware.soundcard.sb16",
    "ac97": "ensoniq1371",
}
USBS: Final = {
    "vmware.usb.ehci": "ehci",
    "vmware.usb.xhci": "xhci",
    "vmware.usb.uhci": "uhci",
}
USB_TYPES: Final = {
    "ehci": "vmware.usb.ehci",
    "xhci": "vmware.usb.xhci",
    "ohci": "",
}
