"""What has no word in the model, kept as OVF 1.1 would say it, whichever version it was read from.

Before 1.0 sections are called <Section xsi:type="ovf:..._Type">; 2.0 has a namespace of its own,
and items of storage and networks in further ones. What is kept is brought to one form, so that it
can be written where the schema (DSP8023 1.1.1) lets it stand: children of CIM in the order of the
alphabet, each of them once. What 1.1 has no place for is not written, and so is listed as lost.
Imports names, envelope and xml.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from vmimg.machines import xml
from vmimg.machines.dialects.ovf.envelope import kind_of
from vmimg.machines.dialects.ovf.names import ENVELOPES, EPASD, OVF1, RASD, SASD, VSSD, XSI

__all__ = ["in_order", "kept", "put", "put_section"]

_ITEMS: Final = ("Item", "StorageItem", "EthernetPortItem")
_RESOURCES: Final = (RASD, SASD, EPASD, SASD.removesuffix(".xsd"), EPASD.removesuffix(".xsd"))
_SECTIONS: Final = frozenset(
    (
        "AnnotationSection", "DeploymentOptionSection", "DiskSection", "EulaSection",
        "InstallSection", "NetworkSection", "OperatingSystemSection", "ProductSection",
        "ResourceAllocationSection", "StartupSection", "VirtualHardwareSection",
    )
)  # fmt: skip
# Children of CIM's classes, by the namespace of each.
_CHILDREN: Final = {
    RASD: frozenset(
        (
            "Address", "AddressOnParent", "AllocationUnits", "AutomaticAllocation",
            "AutomaticDeallocation", "Caption", "Connection", "ConsumerVisibility", "Description",
            "ElementName", "HostResource", "InstanceID", "Limit", "MappingBehavior",
            "OtherResourceType", "Parent", "PoolID", "Reservation", "ResourceSubType",
            "ResourceType", "VirtualQuantity", "VirtualQuantityUnits", "Weight",
        )
    ),
    VSSD: frozenset(
        (
            "AutomaticRecoveryAction", "AutomaticShutdownAction", "AutomaticStartupAction",
            "AutomaticStartupActionDelay", "AutomaticStartupActionSequenceNumber", "Caption",
            "ConfigurationDataRoot", "ConfigurationFile", "ConfigurationID", "CreationTime",
            "Description", "ElementName", "InstanceID", "LogDataRoot", "Notes", "RecoveryFile",
            "SnapshotDataRoot", "SuspendDataRoot", "SwapFileDataRoot", "VirtualSystemIdentifier",
            "VirtualSystemType",
        )
    ),
}  # fmt: skip
_MANY: Final = ("Connection", "HostResource", "Notes")


def kept(element: xml.Element) -> str:
    """``element`` as text, in the words of 1.1. Applied to its own result, it changes nothing."""
    kind = kind_of(element)
    found = xml.moved(element, _modern)
    if xml.namespace(found) == OVF1:
        if xml.local(element) in _ITEMS:
            found = _item(found)
        elif kind != xml.local(element) and kind in _SECTIONS:
            found.tag = f"{{{OVF1}}}{kind}"
            del found.attrib[f"{{{XSI}}}type"]
        for each in found.iter():
            _qualify(each)
    return xml.encoded(found)


def in_order(elements: Iterable[xml.Element]) -> list[xml.Element]:
    """CIM's by the alphabet, then what others have put in."""
    return sorted(elements, key=_place)


def put(parent: xml.Element, texts: Iterable[str]) -> None:
    """Add elements that were kept to ``parent``, whose children are then in the schema's order."""
    there: set[Any] = {each.tag for each in parent}
    for text in texts:
        element = xml.snippet(text)
        if _has_room(element, there):
            there.add(element.tag)
            parent.append(element)
    parent[:] = in_order(parent)


def put_section(parent: xml.Element, text: str) -> None:
    """Add a section, or an item, that was kept, if 1.1 has such a thing."""
    element = xml.snippet(text)
    name = xml.local(element)
    known = ("Item",) if xml.local(parent) == "VirtualHardwareSection" else _SECTIONS
    if xml.namespace(element) == OVF1 and name not in known:
        return
    if name == "Item":
        there: set[Any] = set()
        for each in list(element):
            if _has_room(each, there):
                there.add(each.tag)
            else:
                element.remove(each)
    parent.append(element)


def _has_room(element: xml.Element, there: set[Any]) -> bool:
    known = _CHILDREN.get(xml.namespace(element))
    name = xml.local(element)
    return known is None or (name in known and (element.tag not in there or name in _MANY))


def _place(element: xml.Element) -> tuple[bool, str]:
    ours = _modern(xml.namespace(element)) in _CHILDREN
    return (not ours, xml.local(element) if ours else "")


def _modern(space: str) -> str:
    if space in _RESOURCES:
        return RASD
    # Before 1.0 most elements had none.
    return OVF1 if space in ENVELOPES or not space else space


def _item(item: xml.Element) -> xml.Element:
    item.tag = f"{{{OVF1}}}Item"
    for each in item:
        if xml.local(each) == "InstanceId":
            each.tag = f"{{{RASD}}}InstanceID"
    # VirtualBox leaves the name out, which the schema asks for.
    if xml.child(item, "ElementName", within=RASD) is None:
        name = xml.text(item, "Caption") or xml.text(item, "Description") or "Item"
        xml.make(f"{{{RASD}}}ElementName", content=name, parent=item)
    item[:] = in_order(item)
    return item


def _qualify(element: xml.Element) -> None:
    """Give the attributes of OVF's elements the prefix that some makers leave out."""
    if xml.namespace(element) != OVF1:
        return
    for key, value in list(element.attrib.items()):
        name = str(key)
        if not name.startswith("{") and f"{{{OVF1}}}{name}" not in element.attrib:
            del element.attrib[key]
            element.set(f"{{{OVF1}}}{name}", value)
