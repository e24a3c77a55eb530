"""Machines of Hyper-V put together by hand, from no code of vmimg's: as .xml and as .vmcx.

Sources: the machine of Windows Server 2012 R2 that oz's Image Factory generates (which elements
there are, their types); ExHyperV's list of device types; dissect.hypervisor's description of the
binary store.
"""

from __future__ import annotations

import base64
import struct
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["generation1", "generation2", "vmcx", "xml"]

Tree = dict[str, Any]
IDE = "83f8638b-8dca-4152-9eda-2ca8b33039b4"
SCSI = "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
FLOPPY = "8f0d2762-0b00-4e04-af4f-19010527cb93"
SERIAL = "8e3a359f-559a-4b6a-98a9-1690a6100ed7"
NETWORK = "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778"
VIDEO = "f3cf6965-e8d3-44a9-9b7d-a04245ea7525"
BIOS = "ac6b8dc1-3257-4a70-b1b2-a9c9215659ad"
TPM = "736e6aa9-a3f8-49c0-9550-a963214d259a"
CREATED = 133_600_000_000_000_000  # 2024-05-14, in units of 100 ns since 1601


def _drive(kind: str, path: str = "") -> Tree:
    return {"pathname": path, "type": kind}


def _card(mac: str, switch: str) -> Tree:
    return {
        "Connection": {"AltPortName": "Dynamic Ethernet Switch Port", "AltSwitchName": switch},
        "FriendlyName": "Network Adapter",
        "IsConnected": bool(switch),
        "MacAddress": mac,
        "MacAddressIsStatic": True,
    }


def _manifest(devices: list[tuple[str, str, str]]) -> Tree:
    found: Tree = {"size": len(devices), "version": 260}
    for number, (device, instance, name) in enumerate(devices, 1):
        found[f"vdev{number:03}"] = {
            "device": device, "flags": 1, "instance": instance.upper(), "name": name,
        }  # fmt: skip
    return found


def generation1(
    disk: str = r"C:\VMs\web\Virtual Hard Disks\web.vhd", *, name: str = "web", **more: Any
) -> Tree:
    """A machine with a BIOS: a disk and a CD on IDE, one on SCSI, a port, a card."""
    scsi, card = "D7A36E9B-9256-4F0D-BE2C-3A13887F7B03", "55225880-49C0-4438-9CE2-5A01402FD8CB"
    drives = {"drive0": _drive("VHD", disk), "drive1": _drive("NONE")}
    return {
        f"_{card.lower()}_": _card("00-15-5D-01-07-DC", "Virtual External Switch"),
        f"_{IDE}_": {
            "VDEVVersion": 1280,
            "controller0": drives,
            "controller1": {"drive0": _drive("ISO"), "drive1": _drive("NONE")},
        },
        f"_{scsi.lower()}_": {
            "ChannelInstanceGuid": "{125506a8-a651-4852-87ad-3e7a29dd07fa}",
            **more.get("scsi", {}),
        },
        f"_{SERIAL}_": {
            "port0": {"connection": "\\\\.\\pipe\\console"},
            "port1": {"connection": ""},
        },
        f"_{FLOPPY}_": {"controller0": {"drive0": _drive("VFD")}},
        f"_{BIOS}_": {
            "bios_guid": "{7FFEE066-9755-4950-9A16-4C94AC67AD00}",
            "boot": {
                "device0": "Optical", "device1": "HardDrive", "device2": "Network",
                "device3": "Floppy",
            },
            "num_lock": True,
            "secure_boot_enabled": False,
        },
        "global_settings": {
            "power": {"host_startup": {"action": 1}},
            "snapshots": {"list": {"size": 0}},
        },
        "manifest": _manifest([
            (VIDEO, VIDEO, "Microsoft Synthetic Video"),
            (NETWORK, card, "Synthetic Ethernet Port"),
            (SCSI, scsi, "Synthetic SCSI Controller"),
        ]),
        "properties": {
            "creation_time": struct.pack("<Q", CREATED + more.get("later", 0) * 10**7),
            "global_id": "0AA394FA-7C4A-4070-BA32-773D43B28A68",
            "name": name,
            "notes": "serves <pages> & more",
            "subtype": 0,
            "type_id": "Virtual Machines",
            "version": 1280,
        },
        "settings": {
            "memory": {"bank": {"dynamic_memory_enabled": False, "limit": 1048576, "size": 1536}},
            "processors": {"count": 2, "limit": 100000},
        },
    }  # fmt: skip


def generation2(*disks: str, name: str = "db", later: int = 0) -> Tree:
    """A machine with UEFI and a TPM: all of ``disks`` on the second of two SCSI controllers."""
    first, second = "11111111-2222-3333-4444-555555555555", "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE"
    drives = {f"drive{at}": _drive("VHD", disk) for at, disk in enumerate(disks)}
    return {
        f"_{first}_": {"VDEVVersion": 512, "controller0": {"drive5": _drive("ISO", "D:\\w.iso")}},
        f"_{second.lower()}_": {"VDEVVersion": 512, "controller0": drives},
        f"_{BIOS}_": {
            "bios_guid": "{7FFEE066-9755-4950-9A16-4C94AC67AD01}",
            "secure_boot_enabled": True,
            "secure_boot_template": "MicrosoftUEFICertificateAuthority",
        },
        "manifest": _manifest([
            (SCSI, first, "Synthetic SCSI Controller"),
            (SCSI, second, "Synthetic SCSI Controller"),
            (TPM, TPM, "Microsoft Virtual TPM Device"),
        ]),
        "properties": {
            "creation_time": struct.pack("<Q", CREATED + later * 10**7),
            "name": name, "notes": "", "subtype": 1, "version": 2304,
        },
        "settings": {
            "memory": {"bank": {"size": 4096}},
            "processors": {"count": 4, "nested_virtualization": {"enabled": True}},
        },
    }  # fmt: skip


def xml(tree: Tree, encoding: str = "utf-16") -> bytes:
    """The tree as Windows Server 2012 R2 writes it."""
    body = f'<?xml version="1.0" encoding="{encoding}" standalone="yes"?>\r\n'
    return (body + _element("configuration", tree)).encode(encoding)


def _element(name: str, value: Any) -> str:
    if isinstance(value, dict):
        inner = "".join(_element(key, each) for key, each in value.items())
        return f"<{name}>\r\n{inner}</{name}>\r\n"
    kinds = {bool: "bool", int: "integer", bytes: "bytes", str: "string"}
    text = base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
    return f'<{name} type="{kinds[type(value)]}">{escape(text)}</{name}>\r\n'


def vmcx(
    tree: Tree,
    *,
    root: str = "configuration",
    entries: int = 0,
    stale: bool = False,
    loop: bool = False,
    large: int = 0x800,
) -> bytes:
    """The tree as Windows Server 2016 stores it: nodes in the first table of keys, values in the
    second, and those of ``large`` bytes or more in objects of their own.

    ``entries`` of its log are not replayed; with ``stale`` there is an older table of the same
    number, of zeros; with ``loop`` the root is under a node below it.
    """
    nodes: dict[tuple[str, ...], int] = {}
    first = struct.pack("<HHHI", 2, 1, 2, 0)
    second = struct.pack("<HHHI", 2, 2, 1, 0)
    outside: list[bytes] = []
    position = 0x10000

    def key(kind: int, name: str, value: bytes, parent: tuple[int, int]) -> bytes:
        text = name.encode() + b"\0"
        size = 21 + len(text) + len(value)
        return struct.pack("<HIHIIIB", kind, size, *parent, 0, 0, len(text)) + text + value

    def walk(name: str, value: Any, above: tuple[str, ...]) -> None:
        nonlocal first, second, position
        parent = (1, nodes[above]) if above else (0, 0)
        if isinstance(value, dict):
            nodes[(*above, name)] = len(first)
            first += key(9, name, bytes(12), parent)
            for inner, each in value.items():
                walk(inner, each, (*above, name))
            return
        if isinstance(value, bool):
            second += key(8, name, struct.pack("<I", value), parent)
        elif isinstance(value, int):
            second += key(3, name, struct.pack("<q", value), parent)
        else:
            kind = 6 if isinstance(value, str) else 7
            data = value.encode("utf-16-le") if isinstance(value, str) else value
            if len(data) >= large:
                second += key(kind | 0x100, name, struct.pack("<IQ", len(data), position), parent)
                outside.append(data)
                position += -(-len(data) // 0x1000) * 0x1000
            else:
                second += key(kind, name, struct.pack("<I", len(data)) + data, parent)

    walk(root, tree, ())
    if loop:
        inner = next(offset for path, offset in nodes.items() if len(path) == 2)
        first = first[:16] + struct.pack("<HI", 1, inner) + first[22:]
    places = [(6, 0x3000, 0x1000), (2, 0x4000, 0x4000), (2, 0x8000, 0x8000)]
    if stale:
        places.append((2, position, 0x1000))
    at = 0x10000
    for data in outside:
        places.append((3, at, -(-len(data) // 0x1000) * 0x1000))
        at += places[-1][2]
    objects = struct.pack("<II", 0x01110001, len(places))
    objects += b"".join(
        struct.pack("<BIQIB", kind, 0, where, size, 1) for kind, where, size in places
    )
    out = bytearray(position + (0x1000 if stale else 0))
    for offset, sequence in ((0, 6), (0x1000, 7)):
        header = struct.pack(
            "<IIHIQIQQI", 0x01282014, 0, sequence, 0x400, 0, 0x1000, 0x3000, 0x1000, 0x1000
        )
        out[offset : offset + len(header)] = header
    log = struct.pack("<IIIBIIIIIB", 0x01110003, 0, entries, 0, 8, 0, 0, 0, 0, 0)
    for offset, data in ((0x2000, objects), (0x3000, log), (0x4000, first), (0x8000, second)):
        assert offset != 0x4000 or len(data) <= 0x4000
        assert offset != 0x8000 or len(data) <= 0x8000
        out[offset : offset + len(data)] = data
    at = 0x10000
    for data in outside:
        out[at : at + len(data)] = data
        at += -(-len(data) // 0x1000) * 0x1000
    if stale:
        out[position : position + 10] = struct.pack("<HHHI", 2, 2, 0, 0)
    return bytes(out)


def _instance(name: str, **values: object) -> str:
    inner = "".join(
        f'<PROPERTY NAME="{key}" TYPE="string"><VALUE>{value}</VALUE></PROPERTY>'
        for key, value in values.items()
    )
    return f'<VALUE.OBJECT><INSTANCE CLASSNAME="{name}">{inner}</INSTANCE></VALUE.OBJECT>'


def exp(guid: str) -> bytes:
    """An export of Windows Server 2008: instances of WMI's classes, a disk and a card."""
    own = f"Microsoft:{guid}"
    ide = f"{own}\\83F8638B-8DCA-4152-9EDA-2CA8B33039B4\\1"

    def parent(id_: str) -> str:
        escaped = id_.replace("\\", "\\\\")
        return f'\\\\HOST\\root\\virtualization:Msvm_X.InstanceID="{escaped}"'

    text = "".join((
        _instance("Msvm_VirtualSystemGlobalSettingData", ElementName="old server"),
        _instance("Msvm_VirtualSystemSettingData", InstanceID=own, Notes="from 2008",
                  BIOSGUID="{7FFEE066-9755-4950-9A16-4C94AC67AD00}"),
        _instance("Msvm_ProcessorSettingData", InstanceID=f"{own}\\p", ResourceType=3,
                  VirtualQuantity=2),
        _instance("Msvm_MemorySettingData", InstanceID=f"{own}\\m", ResourceType=4,
                  VirtualQuantity=1024),
        _instance("Msvm_ResourceAllocationSettingData", InstanceID=ide, ResourceType=5,
                  ResourceSubType="Microsoft Emulated IDE Controller", Address=1),
        _instance("Msvm_ResourceAllocationSettingData", InstanceID=f"{ide}\\0\\D", Address=1,
                  ResourceSubType="Microsoft Synthetic Disk Drive", Parent=parent(ide)),
        _instance("Msvm_ResourceAllocationSettingData", InstanceID=f"{ide}\\0\\L",
                  ResourceSubType="Microsoft Virtual Hard Disk", Connection="E:\\VMs\\old.vhd",
                  Parent=parent(f"{ide}\\0\\D")),
        _instance("Msvm_SyntheticEthernetPortSettingData", InstanceID=f"{own}\\n",
                  ResourceType=10, Address="00155D010203"),
    ))  # fmt: skip
    body = f"<DECLARATIONS><DECLGROUP>{text}</DECLGROUP></DECLARATIONS>"
    return f'<?xml version="1.0" encoding="utf-16"?>{body}'.encode("utf-16")
