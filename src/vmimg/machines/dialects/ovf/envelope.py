"""Envelope: what an OVF descriptor says of the package: files, disks, networks, texts, systems.

The elements stand in the namespace of the version, and makers differ in whether attributes have its
prefix; so names are matched locally. Files before 1.0, and oVirt's to this day, have
<Section xsi:type="ovf:DiskSection_Type"> where later ones have <DiskSection>. Source: DSP0243
1.1.1, sections 7 to 9 and annex D. Imports names, xml and the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from vmimg.errors import FormatError
from vmimg.machines import xml
from vmimg.machines.dialects.ovf.names import (
    ENVELOPES,
    OVF1,
    OVF2,
    VBOX,
    XSI,
    format_name,
    format_uri,
    units,
)
from vmimg.machines.model import Machine

__all__ = [
    "Envelope",
    "File",
    "Network",
    "OvfDisk",
    "Product",
    "Property",
    "is_ovirt",
    "kind_of",
    "parse_envelope",
    "sections",
    "systems",
]

_MAX_FILES: Final = 2000
_MAX_SYSTEMS: Final = 256
_MAX_CHUNKS: Final = 10_000
# What VirtualSystemType begins with.
_FAMILIES: Final = (
    ("vmx-", "vmware"),
    ("virtualbox-", "virtualbox"),
    ("xen", "xen"),
    ("hvm", "xen"),
)


@dataclass(frozen=True, slots=True)
class File:
    """A file that the package refers to. ``href`` as it stands there; ``size`` in bytes, None where
    it is not told. ``chunk_size``: with one, the file is cut in pieces ``name.000000000``,
    ``name.000000001``... of that many bytes. ``compression``: "gzip", or "".
    """

    id: str
    href: str
    size: int | None = None
    chunk_size: int = 0
    compression: str = ""

    @property
    def name(self) -> str:
        """The member of the package, without percent encoding. Some makers (VirtualBox) do not
        encode, so a member called exactly `href` comes first.
        """
        return unquote(self.href)

    @property
    def chunks(self) -> tuple[str, ...]:
        """The names of its pieces, in order; itself, where it is in one."""
        if not self.chunk_size:
            return (self.name,)
        count = 1 if self.size is None else -(-self.size // self.chunk_size) or 1
        return tuple(f"{self.name}.{number:09}" for number in range(min(count, _MAX_CHUNKS)))


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """A disk. ``file``: the id of its File, "" for an empty disk. ``capacity``, ``populated`` in
    bytes (None: not told). ``format``: the URI. ``parent``: the id of the disk whose blocks show
    where this one has none. ``interface``, ``boot``: what oVirt says there of the drive.
    """

    id: str
    file: str = ""
    capacity: int = 0
    format: str = ""
    parent: str = ""
    populated: int | None = None
    interface: str = ""
    boot: bool = False

    @property
    def format_name(self) -> str:
        """The name that vmimg has for the format, "" for an unknown one."""
        return format_name(self.format)


@dataclass(frozen=True, slots=True)
class Network:
    """A network by the ``name`` that the machines' interfaces connect to."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Property:
    """A value that is asked for when the appliance is installed."""

    key: str
    type: str = "string"
    value: str = ""
    label: str = ""
    description: str = ""
    user_configurable: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """What the software is. ``system``: the ovf:id of the system that it is in, "" for all."""

    product: str = ""
    vendor: str = ""
    version: str = ""
    full_version: str = ""
    product_url: str = ""
    vendor_url: str = ""
    properties: tuple[Property, ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A descriptor. ``version``: "0.9", "1.0", "1.1" or "2.0". ``flavour``: who wrote it, "vmware",
    "virtualbox", "ovirt", "xen" or "". ``configuration``: the id of the one that is deployed where
    nobody chooses. ``places``: for each (number of the machine, number of its
    drive) the id of its `OvfDisk`, or of the `File` for a CD or floppy.
    """

    version: str = "1.1"
    flavour: str = ""
    files: tuple[File, ...] = ()
    disks: tuple[OvfDisk, ...] = ()
    networks: tuple[Network, ...] = ()
    machines: tuple[Machine, ...] = ()
    system_ids: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()
    eulas: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    collection: str = ""
    configuration: str = ""
    places: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def file(self, id: str) -> File | None:
        """The file with that id."""
        return next((each for each in self.files if each.id == id), None)

    def disk(self, id: str) -> OvfDisk | None:
        """The disk with that id."""
        return next((each for each in self.disks if each.id == id), None)

    def file_of(self, disk: OvfDisk) -> File | None:
        """The file of a disk, None for one without. oVirt refers to it by its href."""
        if not disk.file:
            return None
        return self.file(disk.file) or next(
            (each for each in self.files if each.href == disk.file), None
        )


def kind_of(element: xml.Element) -> str:
    """What a section is: its name, or the type that it had before 1.0: "DiskSection"."""
    name = xml.local(element)
    if name in ("Section", "Content"):
        kind = element.get(f"{{{XSI}}}type") or ""
        return kind.rpartition(":")[2].removesuffix("_Type") or name
    return name


def sections(element: xml.Element, kind: str) -> Iterator[xml.Element]:
    """The children of ``element`` that are of that kind."""
    return (each for each in element if kind_of(each) == kind)


def systems(root: xml.Element) -> Iterator[xml.Element]:
    """The virtual systems, in the order they stand in, out of all collections."""
    for each in root:
        kind = kind_of(each)
        if kind == "VirtualSystem":
            yield each
        elif kind == "VirtualSystemCollection":
            yield from systems(each)


def is_ovirt(system: xml.Element) -> bool:
    """Whether oVirt wrote the system: by elements that no other maker writes."""
    signs = ("VmType", "TemplateId", "IsAutoSuspend", "default_display_type", "BiosType")
    return any(xml.child(system, each) is not None for each in signs)


def parse_envelope(root: xml.Element, name: str) -> Envelope:
    """What ``root`` says of the package; without machines. Raises FormatError."""
    space = xml.namespace(root)
    if sum(1 for _ in systems(root)) > _MAX_SYSTEMS:
        raise FormatError(f"{name}: more than {_MAX_SYSTEMS} machines")
    if space not in ENVELOPES:
        raise FormatError(f"{name}: an envelope of an unknown kind: '{xml.printable(space[:80])}'")
    return Envelope(
        version=_version(root, space),
        flavour=_flavour(root),
        files=_files(root, name),
        disks=_disks(root, name),
        networks=_networks(root),
        system_ids=tuple(xml.attribute(each, "id", within=space) for each in systems(root)),
        products=_products(root),
        eulas=tuple(xml.text(each, "License") for each in root.iter() if _is(each, "EulaSection")),
        annotations=tuple(
            xml.text(each, "Annotation") for each in root.iter() if _is(each, "AnnotationSection")
        ),
        collection=_collection(root),
        configuration=_default_configuration(root),
    )


def _is(element: xml.Element, kind: str) -> bool:
    return kind_of(element) == kind


def _version(root: xml.Element, space: str) -> str:
    told = xml.attribute(root, "version", within=space).strip()
    if space == OVF2:
        return "2.0"
    if space.rstrip("/") != OVF1:
        return "0.9"
    # VirtualBox says so of its files; 1.1 differs from 1.0 in nothing that is read here.
    return told if told in ("0.9", "1.0", "1.1") else "1.1"


def _flavour(root: xml.Element) -> str:
    if any(map(is_ovirt, systems(root))):
        return "ovirt"
    for each in systems(root):
        for hardware in sections(each, "VirtualHardwareSection"):
            kind = xml.text(hardware, "System", "VirtualSystemType").lower()
            for start, flavour in _FAMILIES:
                if kind.startswith(start):
                    return flavour
    # Namespaces that are declared say nothing: makers declare each other's.
    used = {xml.namespace(each) for each in root.iter()}
    if VBOX in used:
        return "virtualbox"
    return "xen" if any("citrix.com" in each for each in used) else ""


def _files(root: xml.Element, name: str) -> tuple[File, ...]:
    found: dict[str, File] = {}
    for references in xml.children(root, "References"):
        for each in xml.children(references, "File"):
            id = xml.attribute(each, "id")
            href = xml.attribute(each, "href")
            if not id or not href:
                raise FormatError(f"{name}: a file in References has no id or no href")
            if id in found:
                raise FormatError(f"{name}: two files have the id '{xml.printable(id[:80])}'")
            if len(found) >= _MAX_FILES:
                raise FormatError(f"{name}: more than {_MAX_FILES} files")
            what = f"of file '{xml.printable(id[:80])}'"
            size = xml.attribute(each, "size")
            chunk = xml.number(xml.attribute(each, "chunkSize"), f"the chunkSize {what}", name)
            total = xml.number(size, f"the size {what}", name)
            if chunk and total // chunk > _MAX_CHUNKS:
                raise FormatError(f"{name}: more than {_MAX_CHUNKS} chunks {what}")
            compression = xml.attribute(each, "compression").strip().lower()
            found[id] = File(
                id,
                href,
                total if size.strip() else None,
                chunk,
                "" if compression == "identity" else compression,
            )
    return tuple(found.values())


def _disks(root: xml.Element, name: str) -> tuple[OvfDisk, ...]:
    found: dict[str, OvfDisk] = {}
    defaults = _defaults(root)
    for section in sections(root, "DiskSection"):
        for each in xml.children(section, "Disk"):
            id = xml.attribute(each, "diskId")
            if not id:
                raise FormatError(f"{name}: a disk in DiskSection has no diskId")
            if id in found:
                raise FormatError(f"{name}: two disks have the id '{xml.printable(id[:80])}'")
            if len(found) >= _MAX_FILES:
                raise FormatError(f"{name}: more than {_MAX_FILES} disks")
            what = f"of disk '{xml.printable(id[:80])}'"
            # oVirt counts in GiB under names of its own: size, not capacity.
            told = xml.attribute(each, "capacity")
            unit = units(xml.attribute(each, "capacityAllocationUnits"), name)
            if not told:
                told, unit = xml.attribute(each, "size"), 1 << 30
            if told.startswith("${"):
                told = defaults.get(told[2:].partition("}")[0], "")
            capacity = xml.number(told, f"the capacity {what}", name) * unit
            if capacity >= 1 << 63:
                raise FormatError(f"{name}: the capacity {what} is {capacity} bytes")
            populated = xml.attribute(each, "populatedSize")
            found[id] = OvfDisk(
                id,
                xml.attribute(each, "fileRef"),
                capacity,
                _format(each),
                xml.attribute(each, "parentRef"),
                xml.number(populated, f"the populatedSize {what}", name) if populated else None,
                xml.attribute(each, "disk-interface").lower(),
                xml.flag(xml.attribute(each, "boot")) is True,
            )
    return tuple(found.values())


def _default_configuration(root: xml.Element) -> str:
    for section in sections(root, "DeploymentOptionSection"):
        found = list(xml.children(section, "Configuration"))
        for each in found:
            if xml.flag(xml.attribute(each, "default")):
                return xml.attribute(each, "id")
        if found:
            return xml.attribute(found[0], "id")
    return ""


def _format(disk: xml.Element) -> str:
    # oVirt names VMware's format for whatever it is, and the truth beside it.
    told = {"COW": "qcow2", "RAW": "raw"}.get(xml.attribute(disk, "volume-format").upper())
    return format_uri(told) if told else xml.attribute(disk, "format")


def _defaults(root: xml.Element) -> dict[str, str]:
    """Defaults of properties: a capacity may name one, "${disk.size}"."""
    return {
        xml.attribute(each, "key"): xml.attribute(each, "value")
        for each in root.iter()
        if xml.local(each) == "Property"
    }


def _networks(root: xml.Element) -> tuple[Network, ...]:
    return tuple(
        Network(xml.attribute(each, "name"), xml.text(each, "Description"))
        for section in sections(root, "NetworkSection")
        for each in xml.children(section, "Network")
    )


def _products(root: xml.Element) -> tuple[Product, ...]:
    found = []
    for each in root.iter():
        if not _is(each, "ProductSection"):
            continue
        around = each.getparent()
        properties = tuple(
            Property(
                xml.attribute(one, "key"),
                xml.attribute(one, "type", "string"),
                xml.attribute(one, "value"),
                xml.text(one, "Label"),
                xml.text(one, "Description"),
                xml.flag(xml.attribute(one, "userConfigurable")) or False,
            )
            for one in xml.children(each, "Property")
        )
        system = ""
        if around is not None and kind_of(around) == "VirtualSystem":
            system = xml.attribute(around, "id")
        found.append(
            Product(
                product=xml.text(each, "Product"),
                vendor=xml.text(each, "Vendor"),
                version=xml.text(each, "Version"),
                full_version=xml.text(each, "FullVersion"),
                product_url=xml.text(each, "ProductUrl"),
                vendor_url=xml.text(each, "VendorUrl"),
                properties=properties,
                system=system,
            )
        )
    return tuple(found)


def _collection(root: xml.Element) -> str:
    for each in sections(root, "VirtualSystemCollection"):
        return xml.text(each, "Name") or xml.attribute(each, "id")
    return ""
