"""Opening a box: its disks in place, its machine from what its provider describes it by.

Sources: see the package. Imports machines and archives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.texts import listed, need, read_json, read_text, textual
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.formats.registry import find as find_format
from vmimg.machines import registry as dialects
from vmimg.machines.dialects import vagrant as dialect
from vmimg.machines.model import Drive, Machine
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder, joined

__all__ = ["VagrantBox", "open"]

_MAX_DISKS: Final = 256
# Providers that are called otherwise by some boxes.
_ALIASES: Final = {
    "vmware": "vmware_desktop", "vmware_fusion": "vmware_desktop",
    "vmware_workstation": "vmware_desktop", "kvm": "libvirt",
}  # fmt: skip
_FACTS: Final = ("architecture", "format", "version", "vsphere", "hw_version")


class VagrantBox(Bundle):
    """A box of one ``provider`` ("" where nothing says which)."""

    kind = "vagrant"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.names = listed(folder)
        self.metadata: dict[str, Any] = {}
        drives: tuple[Drive, ...] = ()
        architecture = ""
        if "metadata.json" in self.names:
            data = read_text(folder, self.names["metadata.json"])
            described, self.metadata = dialect.read_metadata(data, f"{self.name}:metadata.json")
            drives, architecture = described.drives, described.architecture
        said = self.metadata.get("provider")
        named = said if isinstance(said, str) else ""
        self.provider = _ALIASES.get(named, named) or self._guessed()
        self.program = self._vagrantfile()
        look = _PROVIDERS.get(self.provider)
        if look is not None:
            machine, self.disks = look(self, drives)
            if machine is not None:
                if architecture and not machine.architecture:
                    machine = replace(machine, architecture=architecture)
                self.machines = (machine,)
        self.facts = self._facts()

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"provider": textual(self.provider)}
        for key in _FACTS:
            value = textual(self.metadata.get(key))
            if value:
                facts[key.replace("_", "-")] = value
        if textual(self.metadata.get("virtual_size")):
            facts["virtual-size"] = f"{textual(self.metadata['virtual_size'])} GB"
        if self.provider not in _PROVIDERS:
            facts["disks-of-provider"] = "unknown: no disk is looked for"
        if self.program is not None:
            facts["vagrantfile"] = True
            mac = self.program.of("config").get("vm.base_mac")
            if isinstance(mac, str):
                facts["base-mac"] = textual(mac)
        if "metadata.json" not in self.names:
            facts["version-of-format"] = 1
        if "info.json" in self.names:
            info = read_json(self.folder, self.names["info.json"])
            facts["info"] = {
                textual(key): textual(value)
                for key, value in list(info.items())[:16]
                if textual(key) and textual(value)
            }
        return facts

    def _guessed(self) -> str:
        """The provider of a box without metadata: those of the first version are VirtualBox's."""
        for provider, ends in (
            ("virtualbox", (".ovf",)),
            ("libvirt", ("box.img",)),
            ("vmware_desktop", (".vmx",)),
            ("hyperv", (".vmcx",)),
            ("parallels", ("config.pvs",)),
        ):
            if self.ending(*ends):
                return provider
        return ""

    def _vagrantfile(self) -> dialect.Program | None:
        # A box of the first version may keep its own in include/_Vagrantfile.
        for name in ("Vagrantfile", "include/_Vagrantfile"):
            if name in self.names:
                data = read_text(self.folder, self.names[name], 1 << 20)
                return dialect.parse(data, f"{self.name}:{name}")
        return None

    def ending(self, *ends: str) -> list[str]:
        """The members whose names, in lower case, end like that."""
        return [real for plain, real in self.names.items() if plain.lower().endswith(ends)]

    def described(self, dialect_name: str, member: str) -> Machine:
        """The machine in a member. Raises what reading it raises."""
        where = f"{self.name}:{member}"
        try:
            found = dialects.find(dialect_name)
            machines = found.read(read_text(self.folder, member, 16 << 20), where)
        except ImportError as error:
            raise UnsupportedFeature(f"{where}: cannot be read here: {error}") from error
        if not machines:
            raise FormatError(f"{where}: describes no machine")
        return machines[0]

    def drives_of(self, machine: Machine, member: str) -> tuple[BundleDisk, ...]:
        """The disks that ``machine``, which ``member`` describes, has in this box."""
        found: list[BundleDisk] = []
        for at, drive in enumerate(machine.drives):
            if drive.device == "disk" and drive.path and drive.source == "file":
                name = need(self.folder, joined(member, drive.path), member)
                format = "" if name.lower().endswith((".img", ".bin")) else drive.format
                found.append(BundleDisk("", name, format, drive.size, (0, at)))
        return _numbered(found)


def open(folder: Folder, claim: Claim) -> VagrantBox:
    """The box in ``folder``. Raises FormatError, UnsafeImage, UnsupportedFeature."""
    return VagrantBox(folder)


_Found = tuple[Machine | None, tuple[BundleDisk, ...]]


def _libvirt(box: VagrantBox, drives: tuple[Drive, ...]) -> _Found:
    if not drives and "box.img" in box.names:
        drives = (Drive(path="box.img"),)
    machine = Machine(drives=drives)
    if box.program is not None:
        machine = dialect.settings_of(box.program, "libvirt", drives)
    disks: list[BundleDisk] = []
    said = box.metadata.get("disks")
    for at, drive in enumerate(machine.drives):
        plain = joined("metadata.json", drive.path)
        name = need(box.folder, box.names.get(plain, plain), "metadata.json")
        entry = said[at] if isinstance(said, list) else {}
        title = entry.get("name") if isinstance(entry, dict) else None
        disks.append(
            BundleDisk(textual(title, 64), name, _known(drive.format), drive.size, (0, at))
        )
    return machine, _numbered(disks)


def _virtualbox(box: VagrantBox, drives: tuple[Drive, ...]) -> _Found:
    return _by(box, "ovf", box.ending("box.ovf") or box.ending(".ovf"))


def _vmware(box: VagrantBox, drives: tuple[Drive, ...]) -> _Found:
    return _by(box, "vmx", box.ending(".vmx"))


def _by(box: VagrantBox, dialect_name: str, members: list[str]) -> _Found:
    if not members:
        raise FormatError(f"{box.name}: is a box for {box.provider}, and has no .{dialect_name}")
    machine = box.described(dialect_name, members[0])
    return machine, box.drives_of(machine, members[0])


def _hyperv(box: VagrantBox, drives: tuple[Drive, ...]) -> _Found:
    inside = [name for name in box.names.values() if "virtual machines/" in f"/{name.lower()}"]
    described = [name for name in inside if name.lower().endswith(".vmcx")]
    described += [name for name in inside if name.lower().endswith(".xml")]
    machine = None
    if described:
        kind = "vmcx" if described[0].lower().endswith(".vmcx") else "hyperv-xml"
        machine = box.described(kind, described[0])
    # What the description names is a path of the host that it was exported on: Vagrant takes the
    # disk that lies in the box.
    images = box.ending(".vhdx", ".vhd")
    disks = [BundleDisk("", name) for name in images]
    at = [n for n, drive in enumerate(machine.drives) if drive.device == "disk"] if machine else []
    for number, disk in enumerate(disks[: len(at)]):
        disks[number] = replace(disk, drive=(0, at[number]))
    return machine, _numbered(disks)


def _parallels(box: VagrantBox, drives: tuple[Drive, ...]) -> _Found:
    configs = box.ending("config.pvs")
    reader = dialects.by_claim("pvs")
    machine = box.described(reader.name, configs[0]) if configs and reader is not None else None
    descriptors = box.ending("/diskdescriptor.xml")
    disks = [BundleDisk("", name, "parallels") for name in descriptors]
    at = [n for n, drive in enumerate(machine.drives) if drive.device == "disk"] if machine else []
    for number, disk in enumerate(disks):
        bundle = disk.member.rpartition("/")[0].rpartition("/")[2]
        for drive_number in at:
            drive = machine.drives[drive_number] if machine else Drive()
            if drive.path.replace("\\", "/").rstrip("/").rpartition("/")[2] == bundle:
                disks[number] = replace(disk, drive=(0, drive_number))
    return machine, _numbered(disks)


_PROVIDERS: Final[dict[str, Callable[[VagrantBox, tuple[Drive, ...]], _Found]]] = {
    "libvirt": _libvirt,
    "virtualbox": _virtualbox,
    "vmware_desktop": _vmware,
    "hyperv": _hyperv,
    "parallels": _parallels,
}


def _known(format: str) -> str:
    """A format by vmimg's name. Raises UnsupportedFeature for what is no name of a disk format."""
    if not format:
        return ""
    try:
        return find_format(format).name
    except OptionError:
        shown = textual(format, 32)
        raise UnsupportedFeature(
            f"metadata.json: says that a disk is of the format '{shown}', which is unknown"
        ) from None


def _numbered(disks: list[BundleDisk]) -> tuple[BundleDisk, ...]:
    """With names: their own, or disk1, disk2... No two are the same."""
    if len(disks) > _MAX_DISKS:
        raise FormatError(f"it has {len(disks)} disks, which is beyond all reason")
    taken: set[str] = set()
    named: list[BundleDisk] = []
    for number, disk in enumerate(disks, 1):
        name = disk.name if disk.name and disk.name not in taken else f"disk{number}"
        while name in taken:
            name += "-"
        taken.add(name)
        named.append(replace(disk, name=name))
    return tuple(named)
