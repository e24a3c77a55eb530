"""The numbers that stand in a config.pvs, and what they mean in the model. Data only.

The names of the enumerations are those of Parallels' SDK (PrlEnums.h).
"""

from __future__ import annotations

from typing import Final

from vmimg.machines.model import Bus

ROOT: Final = "ParallelsVirtualMachine"

# PRL_MASS_STORAGE_INTERFACE_TYPE: how many controllers there are, and slots on each.
INTERFACES: Final[dict[int, Bus]] = {0: "ide", 1: "scsi", 2: "sata", 3: "virtio"}
ROOM: Final = {
    "ide": (2, 2), "scsi": (1, 16), "sata": (1, 6), "virtio": (1, 16), "floppy": (1, 1),
}  # fmt: skip
STACK: Final = {"ide": 4, "scsi": 16, "sata": 6, "virtio": 16}

# PRL_CLUSTERED_DEVICE_SUBTYPE, said of each disk of the SCSI controller.
SCSI: Final = {0: "buslogic", 1: "lsilogic", 2: "lsisas1068", 3: "virtio-scsi"}

# PRL_VM_NET_ADAPTER_TYPE; 1 is a Realtek RTL8029AS.
CARDS: Final = {0: "", 1: "ne2k_pci", 2: "e1000", 3: "virtio", 4: "e1000e"}

# PRL_NET_VIRTUAL_NETWORK_TYPE, as EmulatedType of an adapter.
HOST_ONLY: Final = 0
SHARED: Final = 1
BRIDGED: Final = 2
DEFAULT_ADAPTER: Final = "Default Adapter"

# PRL_DEVICE_TYPE, in the order of boot; the elements that they stand for.
BOOT_TYPES: Final = {3: "Fdd", 5: "CdRom", 6: "Hdd", 8: "NetworkAdapter"}
ELEMENTS: Final = {"floppy": "Fdd", "cdrom": "CdRom", "disk": "Hdd"}
DEVICES: Final = {element: device for device, element in ELEMENTS.items()}

# What a device is connected to: EmulatedType.
REAL: Final = 0
IMAGE: Final = 1
SERIALS: Final = {0: "device", 1: "file", 2: "unix", 3: "tcp"}

# EfiEnabled: 5 is what machines on Apple silicon have.
EFI_X86: Final = 1
EFI_ARM: Final = 5
# There has been no TPM but 2.0.
TPM: Final = 1

# AdvancedType of a sound card.
SOUNDS: Final = {0: "ac97", 2: "hda"}
USB: Final = {"uhci": "UhcEnabled", "ehci": "EhcEnabled", "xhci": "XhcEnabled"}

OUI: Final = "00:1c:42"
"""Of Parallels."""
