"""What VirtualBox's schema (VirtualBox-settings.xsd of 7.1) asks of the settings that we write, and
what its code (Settings.cpp of 7.1) writes though its schema does not have it: a TPM, a display
without a card, host-only networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from structure import Rule, Type, faults, integer, one_of

from vmimg.machines import xml

__all__ = ["vbox_faults"]

SPACE: Final = "http://www.virtualbox.org/"
# Null is no identifier.
UUID: Final = one_of(r"\{(?![0-]*\})[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")
FLAG: Final = one_of("true|false|0|1")
SOME: Final = one_of(r"[^\n\r]+")
TEXT: Final = one_of(".*")
TIME: Final = one_of(r"\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d.*Z")
UNSIGNED: Final = integer(0, (1 << 32) - 1)


def _words(*names: str) -> Type:
    return lambda text: text.strip() in names


def _number(low: int, high: int) -> Type:
    """Decimal, or hexadecimal behind 0x."""
    fits = integer(low, high)
    return lambda text: fits(str(int(text, 16)) if text.lower().startswith("0x") else text)


IMAGES: Final = Rule("Image*", closed=True)
IMAGE: Final = Rule(
    "Description? Property*",
    required={"uuid": UUID, "location": SOME},
    optional={"type": TEXT, "format": TEXT},
    closed=True,
)
FIRMWARES: Final = "ACPI? IOAPIC? Logo? BootMenu? TimeOffset? PXEDebug? NVRAM?"
FIRMWARE: Final = Rule(
    anywhere=f"{FIRMWARES} SmbiosUuidLittleEndian? AutoSerialNumGen? IDEController?",
    optional={"type": _words("BIOS", "EFI", "EFI32", "EFI64", "EFIDUAL")},
    closed=True,
)
CHIPSET: Final = Rule(required={"type": _words("PIIX3", "ICH9", "ARMv8Virtual")}, closed=True)
RTC: Final = Rule(required={"localOrUTC": _words("local", "UTC")}, closed=True)
NAMED: Final = Rule(optional={"name": TEXT}, closed=True)
HARDWARE: Final = (
    "CPU? Memory Firmware? HID? HPET? Chipset? Paravirt? Boot? Display? VideoCapture? "
    "RemoteDisplay? BIOS? TrustedPlatformModule? USBController? USB? Network? UART? LPT? "
    "AudioAdapter? RTC? SharedFolders? Clipboard? DragAndDrop? IO? HostPci? EmulatedUSB? Guest? "
    "GuestProperties? StorageControllers?"
)
_MODES: Final = (
    "NAT|NATNetwork|HostInterface|BridgedInterface|InternalNetwork|HostOnlyInterface|"
    "HostOnlyNetwork|GenericInterface"
)
ADAPTER: Final[dict[str, Any]] = {
    "required": {"slot": UNSIGNED},
    "optional": {
        "enabled": FLAG,
        "MACAddress": one_of("[0-9A-Fa-f][02468ACEace][0-9A-Fa-f]{10}"),
        "type": _words(
            "Am79C970A", "Am79C973", "Am79C960", "82540EM", "82543GC", "82545EM", "virtio"
        ),
        "cable": FLAG, "speed": UNSIGNED, "bootPriority": UNSIGNED, "trace": FLAG,
        "tracefile": TEXT, "bandwidthGroup": TEXT,
        "promiscuousModePolicy": _words("Deny", "AllowNetwork", "AllowAll"),
    },
    "closed": True,
}  # fmt: skip
CONTROLLERS: Final = (
    "AHCI", "LsiLogic", "BusLogic", "PIIX3", "PIIX4", "ICH6", "LsiLogicSas", "I82078", "USB",
    "NVMe", "VirtioSCSI",
)  # fmt: skip

RULES: Final = {
    "VirtualBox": Rule("Machine", required={"version": one_of(r"1\.\d+(-\w+)?")}, closed=True),
    "Machine": Rule(
        anywhere="MediaRegistry? Description? Teleporter? Hardware Platform? StorageControllers? "
        "Groups? ExtraData? Snapshot?",
        required={"uuid": UUID, "name": SOME, "OSType": SOME},
        # "version" is for OVF only.
        optional={
            "nameSync": FLAG, "directoryIncludesUUID": FLAG, "stateFile": SOME,
            "currentSnapshot": UUID, "snapshotFolder": SOME, "lastStateChange": TIME,
            "aborted": FLAG, "currentStateModified": FLAG, "VMProcessPriority": TEXT,
            "executionEngine": TEXT,
        },
        closed=True,
    ),
    "Snapshot": Rule(
        anywhere="Description? Hardware Platform? StorageControllers? Snapshots?",
        required={"uuid": UUID, "name": TEXT, "timeStamp": TIME},
        optional={"stateFile": SOME},
        closed=True,
    ),
    "Description": Rule(text=TEXT),
    "Snapshots": Rule("Snapshot*", closed=True),
    "MediaRegistry": Rule(anywhere="HardDisks? DVDImages? FloppyImages?", closed=True),
    "HardDisks": Rule("HardDisk*", closed=True),
    "HardDisks/HardDisk": Rule(
        "Description? Property* HardDisk*",
        required={
            "uuid": UUID, "location": SOME, "format": SOME,
            "type": _words(
                "Normal", "Immutable", "Writethrough", "Shareable", "Readonly", "MultiAttach"
            ),
        },
        closed=True,
    ),
    # One that is of another's blocks has no type of its own.
    "HardDisk/HardDisk": Rule(
        "Description? Property* HardDisk*",
        required={"uuid": UUID, "location": SOME, "format": SOME},
        optional={"autoReset": FLAG},
        closed=True,
    ),
    "DVDImages": IMAGES,
    "FloppyImages": IMAGES,
    "DVDImages/Image": IMAGE,
    "FloppyImages/Image": IMAGE,
    "Hardware": Rule(anywhere=HARDWARE, optional={"version": TEXT, "uuid": UUID}, closed=True),
    "Platform": Rule(
        anywhere="Chipset? Iommu? RTC? CPU x86?",
        required={"architecture": _words("None", "x86", "ARM")},
        closed=True,
    ),
    "Memory": Rule(
        required={"RAMSize": integer(4, 2 << 20)}, optional={"PageFusion": FLAG}, closed=True
    ),
    "Hardware/CPU": Rule(
        None, optional={"count": integer(1, 64), "hotplug": FLAG}, closed=True
    ),
    "Platform/CPU": Rule(
        None, optional={"count": integer(1, 64), "hotplug": FLAG}, closed=True
    ),
    "Chipset": CHIPSET,
    "RTC": RTC,
    "Firmware": FIRMWARE,
    "BIOS": FIRMWARE,
    "NVRAM": Rule(optional={"path": TEXT, "enabled": FLAG}, closed=True),
    "TrustedPlatformModule": Rule(required={"type": one_of("v[12]_[02]|None|Host|Swtpm")}),
    "Boot": Rule("Order*", closed=True),
    "Order": Rule(
        required={
            "position": integer(1, 4),
            "device": _words("None", "Floppy", "DVD", "HardDisk", "Network"),
        },
        closed=True,
    ),
    "Display": Rule(
        optional={
            "VRAMSize": integer(0, 256), "monitorCount": integer(1, 64),
            "MonitorCount": integer(1, 64), "accelerate3D": FLAG, "accelerate2DVideo": FLAG,
            "controller": _words("VBoxVGA", "VMSVGA", "VBoxSVGA", "QemuRamFB", "None"),
        },
        closed=True,
    ),
    "RemoteDisplay": Rule(
        "VideoChannel? VRDEProperties?",
        optional={
            "enabled": FLAG, "port": TEXT, "authType": _words("Null", "Guest", "External"),
            "authTimeout": UNSIGNED, "allowMultiConnection": FLAG, "reuseSingleConnection": FLAG,
        },
        closed=True,
    ),
    "Network": Rule("Adapter*", closed=True),
    "Adapter": Rule(
        f"(({_MODES})? DisabledModes?)|(DisabledModes ({_MODES}))", **ADAPTER
    ),
    **{f"Adapter/{mode}": NAMED for mode in _MODES.split("|")},
    "Adapter/NAT": Rule("(DNS|Alias|TFTP|Forwarding)*"),
    "UART": Rule("Port*", closed=True),
    "UART/Port": Rule(
        required={
            "slot": integer(0, 3), "enabled": FLAG, "IRQ": _number(0, 255),
            "hostMode": _words("Disconnected", "RawFile", "HostPipe", "HostDevice", "TCP"),
        },
        optional={
            "IOBase": _number(0, 0xFFFF), "IOAddress": _number(0, 0xFFFF), "path": SOME,
            "server": FLAG, "uartType": TEXT,
        },
        closed=True,
    ),
    "USB": Rule("Controllers? DeviceFilters?", closed=True),
    "Controllers": Rule("Controller*", closed=True),
    "Controller": Rule(
        required={"name": TEXT, "type": _words("OHCI", "EHCI", "XHCI")}, closed=True
    ),
    "AudioAdapter": Rule(
        required={
            "driver": _words(
                "Null", "OSS", "ALSA", "Pulse", "CoreAudio", "MMPM", "SolAudio", "WinMM",
                "DirectSound",
            )
        },
        optional={
            "enabled": FLAG, "enabledIn": FLAG, "enabledOut": FLAG, "useDefault": FLAG,
            "controller": _words("AC97", "SB16", "HDA"), "codec": TEXT,
        },
    ),
    "StorageControllers": Rule("StorageController*", closed=True),
    "StorageController": Rule(
        "AttachedDevice*",
        required={"name": TEXT, "type": _words(*CONTROLLERS), "PortCount": UNSIGNED},
        optional={
            "useHostIOCache": FLAG, "Bootable": FLAG, "PCIBus": UNSIGNED, "PCIDevice": UNSIGNED,
            "PCIFunction": UNSIGNED, "IDE0MasterEmulationPort": UNSIGNED,
            "IDE0SlaveEmulationPort": UNSIGNED, "IDE1MasterEmulationPort": UNSIGNED,
            "IDE1SlaveEmulationPort": UNSIGNED,
        },
        closed=True,
    ),
    "AttachedDevice": Rule(
        "(Image|HostDrive)?",
        optional={
            "type": _words("HardDisk", "DVD", "Floppy"), "port": UNSIGNED, "device": UNSIGNED,
            "passthrough": FLAG, "tempeject": FLAG, "nonrotational": FLAG, "discard": FLAG,
            "hotpluggable": FLAG,
        },
        closed=True,
    ),
    "AttachedDevice/Image": Rule(required={"uuid": UUID}, closed=True),
    "HostDrive": Rule(required={"src": SOME}, closed=True),
}  # fmt: skip
# What no two of one parent may have in common.
_UNIQUE: Final = {
    "Boot": ("Order", "position"),
    "Network": ("Adapter", "slot"),
    "UART": ("Port", "slot"),
    "SharedFolders": ("SharedFolder", "name"),
    "GuestProperties": ("GuestProperty", "name"),
}


def vbox_faults(data: bytes) -> list[str]:
    """Everything about settings that the schema forbids, and references to nothing."""
    root = xml.parse(data, "ours.vbox", root="VirtualBox")
    return [*faults(root, RULES, _word, str), *_references(root)]


def _word(element: xml.Element) -> str:
    name = xml.local(element)
    return name if xml.namespace(element) == SPACE else f"foreign:{name}"


def _references(root: xml.Element) -> Iterator[str]:
    for each in root.iter():
        if (name := _word(each)).startswith("foreign:"):
            yield f"{name} is of the namespace '{xml.namespace(each)}'"
        if name in _UNIQUE:
            child, key = _UNIQUE[name]
            told = [one.get(key) for one in each if _word(one) == child]
            if len(set(told)) != len(told):
                yield f"{name}: two of one {key}: {told}"
    images = [
        each.get("uuid")
        for each in root.iter()
        if _word(each) in ("HardDisk", "Image") and each.get("location")
    ]
    if len(set(images)) != len(images):
        yield f"two images of one uuid: {images}"
    snapshots = [each.get("uuid") for each in root.iter() if _word(each) == "Snapshot"]
    if len(set(snapshots)) != len(snapshots):
        yield f"two snapshots of one uuid: {snapshots}"
    for each in root.iter():
        around = each.getparent()
        attached = around is not None and _word(around) == "AttachedDevice"
        if _word(each) == "Image" and attached and each.get("uuid") not in images:
            yield f"AttachedDevice: there is no image {each.get('uuid')}"
    current = root[0].get("currentSnapshot") if len(root) else None
    if current is not None and current not in snapshots:
        yield f"Machine: there is no snapshot {current}"
