"""Making a box: metadata, a Vagrantfile and the disks, in a tar or a tar.gz.

A disk that is compressed in its own format goes into a plain tar, in one pass; others into a
tar.gz.
`vagrant box add` takes both. Sources: see the package. Imports archives and imaging.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Final

from vmimg.bundles import hyperv
from vmimg.bundles.archives import ArchiveWriter, GzipTarWriter, TarWriter
from vmimg.bundles.imaging import stream_image, write_image
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.errors import OptionError
from vmimg.formats.parallels.newbundle import Piece, render_descriptor
from vmimg.formats.parallels.structures import INDEX
from vmimg.machines import registry as dialects
from vmimg.machines.dialects import vagrant as dialect
from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine
from vmimg.storage.base import Storage
from vmimg.storage.output import Output
from vmimg.transfer.streaming import ByteSink
from vmimg.units import GIB

__all__ = ["make"]

_DOCKER_NAMES: Final = {
    "x86_64": "amd64", "i686": "i386", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le",
    "ppc64": "ppc64", "s390x": "s390x", "riscv64": "riscv64",
}  # fmt: skip
# In sectors: what Parallels Desktop makes.
_CLUSTER: Final = 2048
_PLAIN_VAGRANTFILE: Final = 'Vagrant.configure("2") do |config|\n{}end\n'


@dataclass(frozen=True, slots=True)
class _Contents:
    """What goes into a box: ``texts`` in front, then ``disks`` by the names of their files."""

    metadata: dict[str, Any]
    texts: dict[str, bytes]
    disks: dict[str, PackedDisk]
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True)
class _Provider:
    """``formats`` of disks that it takes, the usual one first; ``options`` of that one."""

    formats: tuple[str, ...]
    contents: Callable[[Package, str], _Contents]
    options: dict[str, Any]


def make(package: Package, target: str, how: How) -> Made:
    """A box at ``target`` for the provider of ``how.options``."""
    provider = str(how.options.get("provider") or "libvirt")
    rule = _PROVIDERS.get(provider)
    if rule is None:
        names = ", ".join(_PROVIDERS)
        raise OptionError(f"a box for '{provider}' cannot be made; there are: {names}")
    format = how.format or rule.formats[0]
    if format not in rule.formats:
        names = " or ".join(rule.formats)
        raise OptionError(f"a box for {provider} has disks in {names}, not in {format}")
    contents = rule.contents(package, format)
    options = {**(rule.options if format == rule.formats[0] else {}), **how.disk_options}
    gzip, compress = _compression(str(how.options.get("compression") or "auto"), format, options)
    with Output(target, replace=how.replace) as storage, ExitStack() as stack:
        writer: ArchiveWriter = TarWriter(storage)
        if gzip:
            packing = GzipTarWriter(storage, level=how.level, threads=how.threads)
            writer = stack.enter_context(closing(packing))
        metadata = json.dumps(contents.metadata, indent=2, sort_keys=True) + "\n"
        writer.add("metadata.json", metadata.encode())
        for name, text in contents.texts.items():
            writer.add(name, text)
        for name, carried in package.files.items():
            writer.add_storage(name, carried)
        for name, disk in contents.disks.items():
            _add_disk(writer, name, disk, format, options, how, stream=gzip, compress=compress)
        writer.finish()
        size = storage.size
    return Made(target, size, contents.losses)


def _compression(wanted: str, format: str, options: dict[str, Any]) -> tuple[bool, bool]:
    """(whether the archive is compressed, whether the blocks of the disk are)."""
    packed = options.get("subformat") == "streamOptimized"
    if wanted == "gzip":
        return True, False
    if wanted == "none":
        return False, False
    return not packed and format != "qcow2", format == "qcow2"


def _add_disk(
    writer: ArchiveWriter,
    name: str,
    disk: PackedDisk,
    format: str,
    options: dict[str, Any],
    how: How,
    *,
    stream: bool,
    compress: bool,
) -> None:
    base = name.rpartition("/")[2]
    more: dict[str, Any] = {"level": how.level, "threads": how.threads, "progress": how.progress}

    def write(storage: Storage) -> int:
        return write_image(
            disk.disk, format, storage, name=base, options=options, compress=compress,
            keys=how.keys, **more,
        )  # fmt: skip

    def send(sink: ByteSink) -> int:
        return stream_image(disk.disk, format, sink, name=base, options=options, **more)

    if stream:
        writer.add_stream(name, None, send)
    else:
        writer.add_image(name, write)


def _metadata(machine: Machine, provider: str) -> dict[str, Any]:
    said: dict[str, Any] = {"provider": provider}
    if machine.architecture in _DOCKER_NAMES:
        said["architecture"] = _DOCKER_NAMES[machine.architecture]
    return said


def _libvirt(package: Package, format: str) -> _Contents:
    machine = package.machine
    packed = [disk.drive for disk in package.disks]
    written = dialect.write_for_box(machine, packed)
    said = _metadata(machine, "libvirt")
    losses = [
        loss
        for loss in written.losses
        if loss.key != "architecture" or machine.architecture not in _DOCKER_NAMES
    ]
    if len(package.disks) == 1:
        # In GB, rounded up: what the volume is made of must have room for the disk.
        said |= {"format": format, "virtual_size": -(-package.disks[0].disk.size // GIB)}
        disks = {"box.img": package.disks[0]}
    else:
        disks = {f"box_{number}.img": disk for number, disk in enumerate(package.disks, 1)}
        said["disks"] = [
            {"format": format, "name": disk.name, "path": name} for name, disk in disks.items()
        ]
    return _Contents(said, {"Vagrantfile": written.data}, disks, tuple(losses))


def _virtualbox(package: Package, format: str) -> _Contents:
    disks = {f"box-disk{n:03}.{format}": disk for n, disk in enumerate(package.disks, 1)}
    machine, losses = _with_files(package, disks, format)
    written = dialects.find("ovf").write(machine)
    mac = next((each.mac for each in machine.networks if each.mac), "") or _mac(machine)
    # VirtualBox's import makes another address; Vagrant sets this one, and refuses a box without.
    line = f'  config.vm.base_mac = "{mac.replace(":", "").upper()}"\n'
    texts = {
        "Vagrantfile": _PLAIN_VAGRANTFILE.format(line).encode(),
        "box.ovf": written.data,
        **written.files,
    }
    return _Contents(_metadata(machine, "virtualbox"), texts, disks, (*losses, *written.losses))


def _vmware(package: Package, format: str) -> _Contents:
    disks = {f"{disk.name}.{format}": disk for disk in package.disks}
    machine, losses = _with_files(package, disks, format)
    written = dialects.find("vmx").write(machine)
    texts = {"Vagrantfile": _PLAIN_VAGRANTFILE.format("").encode(), "box.vmx": written.data}
    metadata = _metadata(machine, "vmware_desktop")
    return _Contents(metadata, texts | written.files, disks, (*losses, *written.losses))


def _parallels(package: Package, format: str) -> _Contents:
    texts = {"Vagrantfile": _PLAIN_VAGRANTFILE.format("").encode()}
    bundles = {f"{disk.name}.hdd": disk for disk in package.disks}
    disks: dict[str, PackedDisk] = {}
    for name, disk in bundles.items():
        # An expanding image, and beside it what makes it a disk of Parallels Desktop's.
        file = f"{name}.0.hds"
        sectors = -(-disk.disk.size // 512)
        piece = Piece(0, sectors, file)
        texts[f"box.pvm/{name}/{INDEX}"] = render_descriptor(
            disk.name, sectors, [piece], cluster=_CLUSTER, plain=False, ploop=False
        )
        disks[f"box.pvm/{name}/{file}"] = disk
    machine, losses = _with_files(package, bundles, format)
    written = dialects.find("parallels").write(machine)
    texts["box.pvm/config.pvs"] = written.data
    metadata = _metadata(machine, "parallels")
    return _Contents(metadata, texts, disks, (*losses, *written.losses))


def _hyperv(package: Package, format: str) -> _Contents:
    machine = package.machine
    if len(package.disks) != 1:
        # Its import takes the first file that it finds, for each of the machine's disks.
        raise OptionError(f"a box for hyperv has one disk, not {len(package.disks)}")
    hyperv.check_format(machine, format)
    disks = {hyperv.disk_path(f"{disk.name}.{format}"): disk for disk in package.disks}
    machine, losses = _with_files(package, disks, format)
    written = dialects.find("hyperv-xml").write(machine)
    texts = {
        "Vagrantfile": _PLAIN_VAGRANTFILE.format("").encode(),
        hyperv.description_name(machine): written.data,
    }
    return _Contents(_metadata(machine, "hyperv"), texts, disks, (*losses, *written.losses))


def _with_files(
    package: Package, disks: dict[str, PackedDisk], format: str
) -> tuple[Machine, list[Loss]]:
    """The machine with its drives where they lie in the box; and what it had in them elsewhere."""
    drives = list(package.machine.drives)
    losses: list[Loss] = []
    for name, disk in disks.items():
        drives[disk.drive] = replace(
            drives[disk.drive], path=name, source="file", format=format,
            size=disk.disk.size,
        )  # fmt: skip
    packed = {disk.drive for disk in disks.values()}
    for at, drive in enumerate(drives):
        if at not in packed and drive.path and drive.path not in package.files:
            losses.append(Loss(f"drives[{at}].path", drive.path, "it does not come in the box", ""))
            drives[at] = replace(drive, path="")
    return replace(package.machine, drives=tuple(drives)), losses


def _mac(machine: Machine) -> str:
    """An address of VirtualBox's for a machine that has none: always the same."""
    told = hashlib.sha256(f"{machine.uuid} {machine.name}".encode("utf-8", "replace")).hexdigest()
    return f"080027{told[:6]}"


_PROVIDERS: Final = {
    "libvirt": _Provider(("qcow2",), _libvirt, {}),
    "virtualbox": _Provider(("vmdk", "vdi", "vhd"), _virtualbox, {"subformat": "streamOptimized"}),
    "vmware_desktop": _Provider(("vmdk",), _vmware, {"subformat": "monolithicSparse"}),
    "parallels": _Provider(("parallels",), _parallels, {"cluster_size": _CLUSTER * 512}),
    "hyperv": _Provider(("vhdx", "vhd"), _hyperv, {}),
}
