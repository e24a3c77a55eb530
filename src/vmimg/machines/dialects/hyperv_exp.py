r"""The .exp of an export of Windows Server 2008 and 2008 R2: instances of WMI classes in XML. It is
only read.

    <DECLARATIONS><DECLGROUP><VALUE.OBJECT>
      <INSTANCE CLASSNAME="Msvm_ProcessorSettingData">
        <PROPERTY NAME="VirtualQuantity"><VALUE>2</VALUE></PROPERTY>

What is in a machine are resources, as in OVF: a type, an address, a parent and what is connected.
Sources: DMTF DSP0201 (CIM in XML); the WMI provider "root\virtualization" by Microsoft (classes
Msvm_VirtualSystemGlobalSettingData, Msvm_VirtualSystemSettingData, Msvm_*SettingData). Imports XML.
"""

from __future__ import annotations

import re
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network
from vmimg.machines.xml import Element, children, number, parse

__all__ = ["read"]

_MIB: Final = 1 << 20
_PROCESSOR, _MEMORY, _ETHERNET = 3, 4, 10
# Images that are in a drive, each with the drive as its parent.
_IMAGES: Final = {
    "hard disk": "disk", "cd/dvd disk": "cdrom", "floppy disk": "floppy",
}  # fmt: skip
_Instance = dict[str, str]


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine in ``data``. Raises FormatError where there is none."""
    root = parse(data, name, root="DECLARATIONS")
    instances = [_properties(each) for each in root.iter("INSTANCE")]
    settings = [each for each in instances if each["class"] == "Msvm_VirtualSystemSettingData"]
    if not settings:
        raise FormatError(f"{name}: describes no machine of Hyper-V")
    whole = next(
        (each for each in instances if each["class"] == "Msvm_VirtualSystemGlobalSettingData"),
        settings[0],
    )
    # Each state that was kept has resources of its own; those of the machine bear its identifier.
    own = settings[0].get("InstanceID", "").partition(":")[2].upper()
    resources = [each for each in instances if not own or own in each.get("InstanceID", "").upper()]
    ids = {each["InstanceID"].upper(): each for each in resources if each.get("InstanceID")}
    quantity = {
        kind: number(each.get("VirtualQuantity", ""), "VirtualQuantity", name, high=1 << 40)
        for each in resources
        for kind in (_PROCESSOR, _MEMORY)
        if each.get("ResourceType") == str(kind)
    }
    return (
        Machine(
            name=whole.get("ElementName", ""),
            description=settings[0].get("Notes", ""),
            uuid=settings[0].get("BIOSGUID", "").strip("{}").lower(),
            architecture="x86_64",
            firmware=Firmware("bios"),
            cpus=CPUs(min(quantity.get(_PROCESSOR, 0), 1 << 16)),
            memory=quantity.get(_MEMORY, 0) * _MIB,
            drives=tuple(_drives(resources, ids)),
            networks=tuple(_network(each) for each in resources if _is_card(each)),
        ),
    )


def _properties(instance: Element) -> _Instance:
    found = {"class": str(instance.get("CLASSNAME", ""))}
    for each in children(instance):
        name = each.get("NAME")
        values = [value.text or "" for value in each.iter("VALUE")]
        if name is not None and values:
            found[str(name)] = values[0].strip()
    return found


def _drives(resources: list[_Instance], ids: dict[str, _Instance]) -> list[Drive]:
    drives: list[Drive] = []
    scsi: list[str] = []
    for each in resources:
        words = each.get("ResourceSubType", "").lower()
        kind = next((value for word, value in _IMAGES.items() if word in words), None)
        path = each.get("Connection", "")
        if kind is None or "virtual" not in words or not path:
            continue
        drive = _parent(each, ids)
        controller = _parent(drive, ids)
        title = controller.get("ResourceSubType", "").lower()
        slot = _small(drive.get("Address", ""))
        if kind == "floppy":
            place = ("floppy", 0, slot)
        elif "scsi" in title:
            key = controller.get("InstanceID", "")
            if key not in scsi:
                scsi.append(key)
            place = ("scsi", scsi.index(key), slot)
        else:
            place = ("ide", _small(controller.get("Address", "")), slot)
        drives.append(
            Drive(
                kind,  # type: ignore[arg-type]
                *place,  # type: ignore[arg-type]
                path=path,
                format="vhd" if kind == "disk" else "",
            )
        )
    order = ("ide", "scsi", "floppy")
    return sorted(drives, key=lambda each: (order.index(each.bus), each.controller, each.slot))


def _parent(resource: _Instance, ids: dict[str, _Instance]) -> _Instance:
    found = re.search(r'InstanceID="((?:[^"\\]|\\.)*)"', resource.get("Parent", ""))
    if found is None:
        return {}
    return ids.get(found[1].replace("\\\\", "\\").upper(), {})


def _small(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 4 else 0


def _is_card(resource: _Instance) -> bool:
    return resource.get("ResourceType") == str(_ETHERNET) and "Port" in resource["class"]


def _network(card: _Instance) -> Network:
    mac = re.sub(r"[^0-9a-f]", "", card.get("Address", "").lower())
    return Network(
        model="netvsc" if "Synthetic" in card["class"] else "",
        mac=":".join(re.findall("..", mac)) if len(mac) == 12 and mac.strip("0") else "",
    )
