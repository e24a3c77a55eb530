"""Writing a descriptor: OVF 1.1 as VMware's and VirtualBox's importers both take it.

The order of elements is the schema's (DSP8023): sections of the envelope, then systems; in an item
the children of CIM by the alphabet, then VMware's. Everything of VMware's or VirtualBox's own is
marked ovf:required="false". Losses are found by reading what was written. Imports system, reading,
comparing and the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final
from urllib.parse import quote

from vmimg.errors import FormatError, OptionError
from vmimg.machines import xml
from vmimg.machines.comparing import losses_of
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.ovf.envelope import File, Network, OvfDisk, Product
from vmimg.machines.dialects.ovf.kept import put_section
from vmimg.machines.dialects.ovf.names import (
    FORMAT_URIS,
    OVF1,
    RASD,
    VBOX,
    VMW,
    VSSD,
    XSI,
    format_uri,
)
from vmimg.machines.dialects.ovf.reading import envelope
from vmimg.machines.dialects.ovf.system import REASONS, System, connection, write_system
from vmimg.machines.losses import Loss
from vmimg.machines.model import Drive, Machine

__all__ = ["write_envelope"]

_NAMESPACES: Final = {
    None: OVF1, "ovf": OVF1, "rasd": RASD, "vssd": VSSD, "vmw": VMW, "vbox": VBOX, "xsi": XSI,
}  # fmt: skip
# Not the colon: what stands before one in a first segment is a scheme (RFC 3986, 4.2).
_PLAIN: Final = "/-_.~!$&'()*+,;=@"


def write_envelope(
    machines: Sequence[Machine],
    files: Sequence[File] = (),
    disks: Sequence[OvfDisk] = (),
    *,
    places: Mapping[tuple[int, int], str] | None = None,
    networks: Sequence[Network] = (),
    products: Sequence[Product] = (),
    eulas: Sequence[str] = (),
    collection: str = "",
    version: str = "1.1",
) -> Written:
    """A descriptor of ``machines`` and of a package's ``files`` and ``disks``.

    ``places``: for (number of the machine, number of its drive) the id of its OvfDisk, or of the
    File of a CD; a drive that is not in it takes the disk whose file has the drive's path, and
    where there is none, a File and an OvfDisk are made for it. ``collection``: the name of what
    holds several machines. Losses of several machines begin with "machines[1].". Raises
    OptionError for a version that is not written, and for no machine at all.
    """
    if version != "1.1":
        raise OptionError(f"OVF {version} is not written, only 1.1")
    if not machines:
        raise OptionError("an OVF descriptor has at least one machine")
    package = _Package(list(files), list(disks), dict(places or {}))
    for number, machine in enumerate(machines):
        package.find_disks(number, machine)
    data = _write(machines, package, networks, products, eulas, collection)
    try:
        found = envelope(data, "descriptor").machines
    except FormatError as error:
        raise OptionError(f"OVF has no room for it: {error}") from None
    losses: list[Loss] = []
    for number, (machine, again) in enumerate(zip(machines, found, strict=True)):
        prefix = f"machines[{number}]." if len(machines) > 1 else ""
        lost = losses_of(machine, again, "ovf", REASONS)
        losses += [replace(each, key=prefix + each.key) for each in lost]
    return Written(data, tuple(losses))


@dataclass(slots=True)
class _Package:
    files: list[File]
    disks: list[OvfDisk]
    places: dict[tuple[int, int], str]
    variables: dict[int, str] = field(default_factory=dict)
    _known: dict[str, File] = field(default_factory=dict)
    _by_file: dict[str, list[str]] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for file in self.files:
            self._known.setdefault(file.href, file)
            self._known.setdefault(file.name, file)
        for disk in self.disks:
            self._by_file.setdefault(disk.file, []).append(disk.id)
        self._used = {each.id for each in self.files} | {each.id for each in self.disks}

    def find_disks(self, number: int, machine: Machine) -> None:
        """Give each drive of the machine its disk or file, and its variable store a file."""
        for at, drive in enumerate(machine.drives):
            if (number, at) in self.places:
                continue
            path = drive.path if drive.source == "file" else ""
            file = self._file(path)
            if drive.device != "disk":
                if file is not None:
                    self.places[number, at] = file.id
                continue
            free = self._by_file.get(file.id, []) if file else []
            taken = set(self.places.values()) if free else set()
            known = next((id for id in free if id not in taken), "")
            self.places[number, at] = known or self._new_disk(drive, file)
        if machine.firmware.variables:
            file = self._file(machine.firmware.variables)
            assert file is not None
            self.variables[number] = file.id

    def _file(self, path: str) -> File | None:
        if not path:
            return None
        if path not in self._known:
            self._known[path] = File(self._free("file"), quote(path, _PLAIN))
            self.files.append(self._known[path])
        return self._known[path]

    def _new_disk(self, drive: Drive, file: File | None) -> str:
        format = format_uri(_format(drive))
        disk = OvfDisk(self._free("vmdisk"), file.id if file else "", drive.size, format)
        self.disks.append(disk)
        return disk.id

    def _free(self, stem: str) -> str:
        """An id that nothing has, counted from 1."""
        start = len(self.files if stem == "file" else self.disks) + 1
        id = next(id for number in count(start) if (id := f"{stem}{number}") not in self._used)
        self._used.add(id)
        return id


def _format(drive: Drive) -> str:
    """The format has to be told; where the machine does not, the extension does."""
    extension = drive.path.rpartition(".")[2].lower()
    return drive.format or (extension if extension in FORMAT_URIS else "")


def _write(
    machines: Sequence[Machine],
    package: _Package,
    networks: Sequence[Network],
    products: Sequence[Product],
    eulas: Sequence[str],
    collection: str,
) -> bytes:
    root = xml.make(f"{{{OVF1}}}Envelope", {f"{{{OVF1}}}version": "1.0"}, nsmap=_NAMESPACES)
    _references(root, package.files)
    if package.disks:
        _disk_section(root, package.disks)
    _network_section(root, machines, networks)
    single = len(machines) == 1 and not collection
    for machine in machines if single else ():
        for key, value in machine.extras.get("ovf", ()):
            if key.startswith("Envelope/"):
                put_section(root, value)
    parent = root
    if not single:
        name = collection or "vApp"
        parent = _make("VirtualSystemCollection", root, {"id": _identifier(name)})
        _make("Info", parent, content="A collection of virtual machines")
        if collection:
            _make("Name", parent, content=name)
    # Texts for all stand before the systems; those of one machine are in its extras.
    target = parent if not single else None
    systems = [
        write_system(
            System(
                machine,
                _identifiers(machines)[number],
                package.disks,
                {at: id for (of, at), id in package.places.items() if of == number},
                package.variables.get(number, ""),
            )
        )
        for number, machine in enumerate(machines)
    ]
    for product in products:
        if not product.system:
            (systems[0] if target is None else target).append(_product(product))
    for text in eulas:
        (systems[0] if target is None else target).append(_eula(text))
    for system in systems:
        parent.append(system)
    return xml.serialise(root)


def _make(
    name: str,
    parent: xml.Element | None,
    attributes: Mapping[str, str] | None = None,
    content: str = "",
) -> xml.Element:
    qualified = {f"{{{OVF1}}}{key}": value for key, value in (attributes or {}).items()}
    return xml.make(f"{{{OVF1}}}{name}", qualified, content, parent=parent)


def _references(root: xml.Element, files: Iterable[File]) -> None:
    references = _make("References", root)
    for file in files:
        attributes = {"href": file.href, "id": file.id}
        if file.size is not None:
            attributes["size"] = str(file.size)
        if file.chunk_size:
            attributes["chunkSize"] = str(file.chunk_size)
        if file.compression:
            attributes["compression"] = file.compression
        _make("File", references, attributes)


def _disk_section(root: xml.Element, disks: Iterable[OvfDisk]) -> None:
    section = _make("DiskSection", root)
    _make("Info", section, content="Virtual disks")
    for disk in disks:
        attributes = {
            "capacity": str(disk.capacity),
            "capacityAllocationUnits": "byte",
            "diskId": disk.id,
        }
        if disk.file:
            attributes["fileRef"] = disk.file
        attributes["format"] = disk.format
        if disk.parent:
            attributes["parentRef"] = disk.parent
        if disk.populated is not None:
            attributes["populatedSize"] = str(disk.populated)
        _make("Disk", section, attributes)


def _network_section(
    root: xml.Element, machines: Sequence[Machine], given: Sequence[Network]
) -> None:
    told = {each.name: each.description for each in given}
    for machine in machines:
        for network in machine.networks:
            if name := connection(network):
                told.setdefault(name, "")
    if not told:
        return
    section = _make("NetworkSection", root)
    _make("Info", section, content="Logical networks")
    for name, description in told.items():
        element = _make("Network", section, {"name": name})
        _make("Description", element, content=description or f"The {name} network")


def _product(product: Product) -> xml.Element:
    section = _make("ProductSection", None)
    _make("Info", section, content="Information about the installed software")
    for name, content in (
        ("Product", product.product),
        ("Vendor", product.vendor),
        ("Version", product.version),
        ("FullVersion", product.full_version),
        ("ProductUrl", product.product_url),
        ("VendorUrl", product.vendor_url),
    ):
        if content:
            _make(name, section, content=content)
    for each in product.properties:
        attributes = {"key": each.key, "type": each.type}
        if each.value:
            attributes["value"] = each.value
        if each.user_configurable:
            attributes["userConfigurable"] = "true"
        element = _make("Property", section, attributes)
        if each.label:
            _make("Label", element, content=each.label)
        if each.description:
            _make("Description", element, content=each.description)
    return section


def _eula(text: str) -> xml.Element:
    section = _make("EulaSection", None)
    _make("Info", section, content="End-user license agreement")
    _make("License", section, content=text)
    return section


def _identifiers(machines: Sequence[Machine]) -> list[str]:
    found: list[str] = []
    for machine in machines:
        plain = name = _identifier(machine.name or "vm")
        number = 2
        while name in found:
            name = f"{plain}-{number}"
            number += 1
        found.append(name)
    return found


def _identifier(name: str) -> str:
    return xml.printable(name).strip() or "vm"
