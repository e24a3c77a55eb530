"""Item: one resource of a virtual hardware section, in whichever form its version gives it.

1.x has Item with children of the CIM class ResourceAllocationSettingData; 2.0 also StorageItem and
EthernetPortItem, whose children have other namespaces and the same names; oVirt has names more, and
InstanceId. Sources: DSP0243 1.1.1 section 8, 2.0.1 section 8; DSP0243 9.8 for configurations.
Imports envelope, names and xml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines import xml
from vmimg.machines.dialects.ovf.names import VMW

__all__ = ["Item", "read_items"]

_MAX_ITEMS: Final = 2000
_KINDS: Final = ("Item", "StorageItem", "EthernetPortItem")
# What the model says in its own words, and labels that are made anew.
_KNOWN: Final = frozenset(
    (
        "Address", "AddressOnParent", "AllocationUnits", "AutomaticAllocation", "Caption",
        "Connection", "Description", "ElementName", "HostResource", "InstanceID", "InstanceId",
        "Parent", "ResourceSubType", "ResourceType", "VirtualQuantity", "VirtualQuantityUnits",
    )
)  # fmt: skip


@dataclass(slots=True)
class Item:
    """A resource. ``type``: rasd:ResourceType; ``config``: VMware's settings of it, by key;
    ``rest``: the elements that nobody has taken up.
    """

    element: xml.Element
    id: str
    type: int
    subtype: str = ""
    address: str = ""
    slot: str = ""
    parent: str = ""
    quantity: str = ""
    unit: str = ""
    connection: str = ""
    host: str = ""
    label: str = ""
    allocated: bool = True
    config: dict[str, str] = field(default_factory=dict)
    rest: list[xml.Element] = field(default_factory=list)

    def take(self, key: str) -> str:
        """The value of VMware's setting ``key``, "" for none, which is taken up with that."""
        value = self.config.get(key, "")
        self.rest = [each for each in self.rest if not _sets(each, key)]
        return value

    def take_element(self, name: str) -> str:
        """The text of the element ``name`` that is no part of CIM, taken up with that."""
        found = next((each for each in self.rest if xml.local(each) == name), None)
        if found is None:
            return ""
        self.rest.remove(found)
        return xml.text(found)


def read_items(
    hardware: xml.Element, chosen: str, name: str
) -> tuple[list[Item], list[xml.Element]]:
    """The items that a machine has in the ``chosen`` configuration, and those of other ones and of
    other bounds.
    """
    items: dict[str, Item] = {}
    others = []
    for number, each in enumerate(_elements(hardware)):
        if number >= _MAX_ITEMS:
            raise FormatError(f"{name}: more than {_MAX_ITEMS} items of virtual hardware")
        configurations = xml.attribute(each, "configuration").split()
        if xml.attribute(each, "bound", "normal") != "normal" or (
            configurations and chosen not in configurations
        ):
            others.append(each)
            continue
        item = _item(each, name)
        key = item.id or f"#{number}"
        # An item of the chosen configuration replaces the one of all configurations. Two of one id
        # otherwise are a mistake that AWS makes: both count.
        if key in items and not configurations:
            key = f"{key}#{number}"
        items[key] = item
    return list(items.values()), others


def _elements(hardware: xml.Element) -> Iterator[xml.Element]:
    return (each for each in hardware if xml.local(each) in _KINDS)


def _item(element: xml.Element, name: str) -> Item:
    def text(*names: str) -> str:
        return next((found for each in names if (found := xml.text(element, each))), "")

    id = text("InstanceID", "InstanceId")
    what = f"the ResourceType of item '{xml.printable(id[:40])}'"
    type = xml.number(text("ResourceType"), what, name, high=0xFFFF)
    config = {
        xml.attribute(each, "key"): xml.attribute(each, "value")
        for each in xml.children(element, "Config", within=VMW)
    }
    return Item(
        element,
        id,
        type,
        subtype=text("ResourceSubType"),
        address=text("Address"),
        slot=text("AddressOnParent"),
        parent=text("Parent"),
        quantity=text("VirtualQuantity"),
        unit=text("AllocationUnits", "VirtualQuantityUnits"),
        connection=text("Connection"),
        host=text("HostResource"),
        label=text("ElementName", "Caption"),
        allocated=xml.flag(text("AutomaticAllocation")) is not False,
        config=config,
        rest=[each for each in element if xml.local(each) not in _KNOWN],
    )


def _sets(element: xml.Element, key: str) -> bool:
    return xml.local(element) == "Config" and xml.attribute(element, "key") == key
