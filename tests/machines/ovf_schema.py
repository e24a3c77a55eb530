"""What OVF 1.1's schema (DMTF DSP8023 1.1.1, with CIM's of 2.22) asks of a descriptor, and what
DSP0243 1.1.1 asks besides: ids that refer to something, extensions that nobody has to understand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import ovf_makers
from structure import Rule, Type, faults, integer, one_of

from vmimg.machines import xml

__all__ = ["ovf_faults"]

OVF: Final = ovf_makers.OVF
RASD: Final = f"{ovf_makers.CIM}/CIM_ResourceAllocationSettingData"
VSSD: Final = f"{ovf_makers.CIM}/CIM_VirtualSystemSettingData"
EXTENSIONS: Final = ("http://www.vmware.com/schema/ovf", "http://www.virtualbox.org/ovf/machine")

TEXT: Final = one_of(".*")
FLAG: Final = one_of(r"\s*(true|false|0|1)\s*")
SHORT: Final = integer(0, 0xFFFF)
INT: Final = integer(0, (1 << 32) - 1)
LONG: Final = integer(-(1 << 63), (1 << 63) - 1)
UNSIGNED: Final = integer(0, (1 << 64) - 1)
# A relative reference: no colon in its first segment, which would be a scheme (RFC 3986).
REFERENCE: Final = one_of(
    r"(?![^/?#]*:)(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|[^\x00-\x7f]|%[0-9A-Fa-f]{2})+"
)
WHERE_ANY: Final = {"required": FLAG}

SECTIONS: Final = {
    "AnnotationSection": Rule("Info Annotation other*", optional=WHERE_ANY),
    "DeploymentOptionSection": Rule("Info Configuration+ other*", optional=WHERE_ANY),
    "DiskSection": Rule("Info Disk* other*", optional=WHERE_ANY),
    "EulaSection": Rule("Info License other*", optional=WHERE_ANY),
    "InstallSection": Rule("Info other*", required={"initialBootStopDelay": SHORT}),
    "NetworkSection": Rule("Info Network* other*", optional=WHERE_ANY),
    "OperatingSystemSection": Rule(
        "Info Description? other*", required={"id": SHORT}, optional=WHERE_ANY
    ),
    "ProductSection": Rule(
        "Info Product? Vendor? Version? FullVersion? ProductUrl? VendorUrl? AppUrl? Icon* "
        "(Category|Property)* other*",
        optional=WHERE_ANY,
    ),
    "ResourceAllocationSection": Rule("Info Item* other*", optional=WHERE_ANY),
    "StartupSection": Rule("Info Item* other*", optional=WHERE_ANY),
    "VirtualHardwareSection": Rule("Info System? Item* other*", optional=WHERE_ANY),
}

# Children of CIM's classes in the schema's order; all at most once but those with a star.
RESOURCE: Final = (
    "Address? AddressOnParent? AllocationUnits? AutomaticAllocation? AutomaticDeallocation? "
    "Caption? Connection* ConsumerVisibility? Description? ElementName HostResource* InstanceID "
    "Limit? MappingBehavior? OtherResourceType? Parent? PoolID? Reservation? ResourceSubType? "
    "ResourceType? VirtualQuantity? VirtualQuantityUnits? Weight?"
)
SYSTEM: Final = (
    "AutomaticRecoveryAction? AutomaticShutdownAction? AutomaticStartupAction? "
    "AutomaticStartupActionDelay? AutomaticStartupActionSequenceNumber? Caption? "
    "ConfigurationDataRoot? ConfigurationFile? ConfigurationID? CreationTime? Description? "
    "ElementName InstanceID LogDataRoot? Notes* RecoveryFile? SnapshotDataRoot? SuspendDataRoot? "
    "SwapFileDataRoot? VirtualSystemIdentifier? VirtualSystemType?"
)
TYPES: Final[dict[str, Type]] = {
    "AutomaticAllocation": FLAG,
    "AutomaticDeallocation": FLAG,
    "Caption": one_of(".{0,64}"),
    "ConsumerVisibility": SHORT,
    "Limit": UNSIGNED,
    "MappingBehavior": SHORT,
    "Reservation": UNSIGNED,
    "ResourceType": SHORT,
    "VirtualQuantity": UNSIGNED,
    "Weight": INT,
}


def _prefixed(prefix: str, model: str) -> str:
    return " ".join(f"{prefix}:{each}" for each in model.split()) + " other*"


RULES: Final = {
    "Envelope": Rule("References Section* Content Strings*"),
    "References": Rule("File* other*"),
    "File": Rule(
        "other*",
        required={"id": TEXT, "href": REFERENCE},
        optional={"size": UNSIGNED, "chunkSize": LONG, "compression": one_of("(|gzip|bzip2)")},
    ),
    "VirtualSystem": Rule("Info Name? Section*", required={"id": one_of(".+")}),
    "VirtualSystemCollection": Rule(
        "Info Name? Section* Content*", required={"id": one_of(".+")}
    ),
    **SECTIONS,
    "Disk": Rule(
        "other*",
        required={"diskId": one_of(".+"), "capacity": one_of(r"\d+|\$\{.+\}")},
        optional={"populatedSize": LONG, "capacityAllocationUnits": one_of("byte.*")},
    ),
    "Network": Rule("Description?", required={"name": one_of(".+")}),
    "Property": Rule(
        "Label? Description? Value*",
        required={"key": TEXT, "type": TEXT},
        optional={"userConfigurable": FLAG, "password": FLAG},
    ),
    "Value": Rule("other*", required={"value": TEXT}),
    "Icon": Rule(required={"fileRef": TEXT}, optional={"height": SHORT, "width": SHORT}),
    "Configuration": Rule("Label Description", required={"id": TEXT}, optional={"default": FLAG}),
    "StartupSection/Item": Rule(
        required={"id": TEXT, "order": SHORT},
        optional={"startDelay": SHORT, "stopDelay": SHORT, "waitingForGuest": FLAG},
    ),
    "System": Rule(_prefixed("vssd", SYSTEM)),
    "Item": Rule(_prefixed("rasd", RESOURCE), optional={**WHERE_ANY, "bound": TEXT}),
    **{f"rasd:{name}": Rule(text=type_) for name, type_ in TYPES.items()},
}  # fmt: skip
_HEADS: Final = {"VirtualSystem": "Content", "VirtualSystemCollection": "Content"}


def _attribute(name: str) -> str:
    return name.removeprefix(f"{{{OVF}}}") if name.startswith(f"{{{OVF}}}") else f"other {name}"


def _word(element: xml.Element) -> str:
    space, name = xml.namespace(element), xml.local(element)
    if space == OVF:
        return name
    for prefix, known in (("rasd", RASD), ("vssd", VSSD)):
        if space == known:
            return f"{prefix}:{name}"
    return "other" if "dmtf.org" not in space else f"unknown:{name}"


def _is_leaf(name: str) -> bool:
    return name != "other" and not name.startswith("unknown:")


def _head(element: xml.Element) -> str:
    """What a child is called in a content model: heads of groups stand for their members."""
    name = _word(element)
    around = element.getparent()
    at_section = around is not None and xml.local(around) in (
        "Envelope", "VirtualSystem", "VirtualSystemCollection",
    )  # fmt: skip
    if not at_section:
        return name
    # An extension there is a section of its own: it begins with what it is about.
    if name == "other" and xml.local(element).endswith("Section"):
        first = next(iter(element), None)
        return "Section" if first is not None and first.tag == f"{{{OVF}}}Info" else name
    return "Section" if name in SECTIONS else _HEADS.get(name, name)


def ovf_faults(data: bytes) -> list[str]:
    """Everything about a descriptor that the schema forbids, or the standard."""
    root = xml.parse(data, "ours.ovf", root="Envelope")
    if root.tag != f"{{{OVF}}}Envelope":
        return [f"the root is {root.tag}"]
    found = faults(root, RULES, _word, _attribute, head=_head, leaf=_is_leaf)
    return [*found, *_extensions(root), *_references(root)]


def _extensions(root: xml.Element) -> Iterator[str]:
    """Elements of others have their makers' namespaces, and need not be understood."""
    for each in root.iter():
        space = xml.namespace(each)
        if _word(each) != "other":
            continue
        if space not in EXTENSIONS:
            yield f"{xml.local(each)}: is of the namespace '{space}'"
        inside = each.getparent()
        outermost = inside is not None and _word(inside) != "other"
        if outermost and each.get(f"{{{OVF}}}required") != "false":
            yield f"{xml.local(each)}: has to be understood by every reader"


def _references(root: xml.Element) -> Iterator[str]:
    def all_of(name: str, key: str) -> list[str]:
        return [xml.attribute(each, key, within=OVF) for each in root.iter() if _word(each) == name]

    files, disks = all_of("File", "id"), all_of("Disk", "diskId")
    networks, configurations = all_of("Network", "name"), all_of("Configuration", "id")
    systems = all_of("VirtualSystem", "id") + all_of("VirtualSystemCollection", "id")
    for what, ids in (
        ("file", files), ("disk", disks), ("network", networks), ("system", systems),
    ):  # fmt: skip
        if len(set(ids)) != len(ids):
            yield f"two of one {what}: {ids}"
    for each in root.iter():
        name = _word(each)
        if name == "Disk":
            if (file := xml.attribute(each, "fileRef")) and file not in files:
                yield f"Disk: there is no file {file}"
            if (disk := xml.attribute(each, "parentRef")) and disk not in disks:
                yield f"Disk: there is no disk {disk}"
        if name == "VirtualSystem":
            yield from _items(each, files, disks, networks, configurations)


def _items(
    system: xml.Element,
    files: list[str],
    disks: list[str],
    networks: list[str],
    configurations: list[str],
) -> Iterator[str]:
    hardware = [each for each in system if _word(each) == "VirtualHardwareSection"]
    if len(hardware) != 1:
        yield f"a system has {len(hardware)} sections of virtual hardware"
    items = [each for one in hardware for each in one if _word(each) == "Item"]
    instances = [xml.text(each, "InstanceID") for each in items]
    told = [one for one, each in zip(instances, items, strict=True) if not _is_option(each)]
    if len(set(told)) != len(told):
        yield f"two items of one InstanceID: {told}"
    for each in items:
        if not xml.text(each, "ResourceType"):
            yield "Item: has no ResourceType"
        if (parent := xml.text(each, "Parent")) and parent not in instances:
            yield f"Item: there is no parent {parent}"
        place = xml.text(each, "HostResource").removeprefix("ovf:").removeprefix("/")
        kind, _, id = place.partition("/")
        if kind and id not in {"disk": disks, "file": files}.get(kind, ()):
            yield f"Item: there is no {place}"
        if (network := xml.text(each, "Connection")) and network not in networks:
            yield f"Item: there is no network {network}"
        for one in xml.attribute(each, "configuration").split():
            if one not in configurations:
                yield f"Item: there is no configuration {one}"


def _is_option(item: xml.Element) -> bool:
    return bool(xml.attribute(item, "configuration") or xml.attribute(item, "bound"))
