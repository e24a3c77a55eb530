"""LXD and Incus images: a machine's disk or a container's files, with a description in YAML.

    unified    metadata.yaml, templates/, and rootfs.img (a virtual machine, qcow2), rootfs/ or
               rootfs.squashfs (a container), in one tar
    split      a tar of metadata.yaml and templates/, and beside it disk.qcow2, rootfs.squashfs or
               rootfs.tar.xz

A container's files are no disk, which is said. Sources: Incus's and LXD's "Image format";
distrobuilder's image/incus.go (the names of the files, the properties). Imports archives and below.
"""

from __future__ import annotations

import lzma
import os
import re
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from vmimg.bundles.archives import TarWriter, open_folder
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.imaging import write_image
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.texts import architecture_of, read_text, read_yaml, textual
from vmimg.bundles.unsaid import unsaid
from vmimg.errors import FormatError, OptionError, UnsupportedFeature
from vmimg.machines.model import Drive, Firmware, Machine
from vmimg.probe.claims import Claim
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.output import Output, OutputSet

__all__ = ["LxdImage", "make", "open"]

_METADATA: Final = "metadata.yaml"
# (member, whether it is a machine's disk)
_ROOTS: Final = (
    ("rootfs.img", True), ("disk.qcow2", True), ("disk.img", True), ("rootfs.squashfs", False),
    ("rootfs.tar.xz", False), ("rootfs.tar.zst", False), ("rootfs.tar.gz", False),
)  # fmt: skip
_METADATA_TARS: Final = re.compile(r"(lxd|incus|metadata|meta)\.tar(\.\w{2,4})?")
_PROPERTIES: Final = ("os", "release", "variant", "serial", "name", "description", "version")
_MAX_TIME: Final = 253402300799  # the end of the year 9999
_SPLIT_INDEX: Final = "incus.tar.xz"
_MAX_SHOWN: Final = 32


class LxdImage(Bundle):
    """An image. ``metadata``: what metadata.yaml says, as texts. ``root``: the member with the disk
    or the files of a container, "" where it has only metadata.
    """

    kind = "lxd"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._inner: Folder | None = None
        try:
            self.metadata = self._metadata()
        except BaseException:
            self._close_inner()
            raise
        names = set(folder.names())
        self.root = next((name for name, _ in _ROOTS if name in names), "")
        if not self.root and any(name.startswith("rootfs/") for name in names):
            self.root = "rootfs/"
        self.type = "virtual-machine" if dict(_ROOTS).get(self.root) else "container"
        if self.type == "virtual-machine":
            # Incus takes nothing else, and what a guest wrote shall not decide.
            self.disks = (BundleDisk("root", self.root, "qcow2", drive=(0, 0)),)
            self.machines = (self._machine(),)
        self.facts = self._facts()

    def find(self, name: str | None = None) -> BundleDisk:
        if not self.disks and self.root:
            raise UnsupportedFeature(
                f"{self.name}: is an image of a container: its '{self.root}' holds files, no disk"
            )
        if not self.disks:
            raise UnsupportedFeature(
                f"{self.name}: is the metadata of an image in two files: the disk is in the other"
            )
        return super().find(name)

    def close(self) -> None:
        self._close_inner()
        super().close()

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _metadata(self) -> dict[str, Any]:
        holder = self.folder
        if not holder.exists(_METADATA):
            tars = [name for name in holder.names() if _METADATA_TARS.fullmatch(name)]
            if not tars:
                raise FormatError(f"{self.name}: has no {_METADATA}")
            holder = self._inner = open_folder(self.folder.open(tars[0]))
            if not holder.exists(_METADATA):
                raise FormatError(f"{holder.name}: has no {_METADATA}")
        return read_yaml(read_text(holder, _METADATA, 1 << 20), f"{holder.name}:{_METADATA}")

    def _machine(self) -> Machine:
        """What is known of it: LXD and Incus boot their machines by UEFI."""
        properties = self._properties()
        secure = textual(properties.get("requirements.secureboot")).lower()
        return Machine(
            name=textual(properties.get("name"), 128),
            description=textual(properties.get("description")),
            architecture=architecture_of(self.metadata.get("architecture")),
            firmware=Firmware("uefi", secure_boot=False if secure == "false" else None),
            drives=(Drive(path=self.root, format="qcow2"),),
        )

    def _properties(self) -> dict[str, Any]:
        said = self.metadata.get("properties")
        return said if isinstance(said, dict) else {}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"architecture": textual(self.metadata.get("architecture"))}
        facts["image-type"] = self.type if self.root else "unknown: it has only metadata"
        if self.root:
            facts["root"] = self.root
        for key in ("creation_date", "expiry_date"):
            if key in self.metadata:
                facts[key.replace("_", "-")] = _moment(self.metadata[key])
        properties = self._properties()
        for key in _PROPERTIES:
            if textual(properties.get(key)):
                facts[key] = textual(properties[key])
        demands = {
            textual(key): textual(value)
            for key, value in list(properties.items())[:_MAX_SHOWN]
            if isinstance(key, str) and key.startswith("requirements.")
        }
        if demands:
            facts["requirements"] = demands
        templates = self.metadata.get("templates")
        if isinstance(templates, dict) and templates:
            facts["templates"] = [textual(path) for path in list(templates)[:_MAX_SHOWN]]
        return facts


def open(folder: Folder, claim: Claim) -> LxdImage:
    """The image in ``folder``. Raises FormatError."""
    return LxdImage(folder)


def _moment(value: Any) -> str:
    text = textual(value, 32)
    if re.fullmatch(r"\d{1,12}", text, re.ASCII) and int(text) <= _MAX_TIME:
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return text


def make(package: Package, target: str, how: How) -> Made:
    """An image of a virtual machine: a tar, or with the option ``split`` a directory."""
    if len(package.disks) != 1:
        raise OptionError(f"an LXD or Incus image has one disk, not {len(package.disks)}")
    if how.format not in ("", "qcow2"):
        raise OptionError(f"an LXD or Incus image has its disk in qcow2, not in {how.format}")
    for name in package.files:
        if not name.startswith("templates/"):
            raise OptionError(f"an LXD or Incus image has templates/..., and no place for '{name}'")
    metadata = _written(package.machine, how)
    if how.options.get("split"):
        size = _make_split(package, target, how, metadata)
    else:
        with Output(target, replace=how.replace) as storage:
            writer = TarWriter(storage)
            _add_metadata(writer, package, metadata)
            writer.add_image("rootfs.img", lambda inner: _write_disk(package, inner, how))
            writer.finish()
            size = storage.size
    carried = [disk.drive for disk in package.disks]
    losses = unsaid(
        package.machine, "an LXD or Incus image", said=("architecture", "name", "description"),
        carried=carried,
    )  # fmt: skip
    # Its machines boot by UEFI, and no other way.
    said_so = ("firmware.kind",) if package.machine.firmware.kind == "uefi" else ()
    return Made(target, size, tuple(loss for loss in losses if loss.key not in said_so))


def _make_split(package: Package, target: str, how: How, metadata: bytes) -> int:
    memory = MemoryStorage(name=_SPLIT_INDEX)
    writer = TarWriter(memory)
    _add_metadata(writer, package, metadata)
    writer.finish()
    packed = lzma.compress(memory.getvalue())
    with OutputSet() as outputs:
        part = outputs.folder(target, _SPLIT_INDEX, replace=how.replace)
        outputs.add(os.path.join(part, _SPLIT_INDEX)).write(0, packed)
        disk = outputs.add(os.path.join(part, "disk.qcow2"))
        size = _write_disk(package, disk, how)
    return len(packed) + size


def _add_metadata(writer: TarWriter, package: Package, metadata: bytes) -> None:
    writer.add(_METADATA, metadata)
    for name, storage in package.files.items():
        writer.add_storage(name, storage)


def _write_disk(package: Package, storage: Storage, how: How) -> int:
    # Compressed clusters: the tar around it needs no compression then, and is written in one pass.
    return write_image(
        package.disks[0].disk, "qcow2", storage, name="rootfs.img", options=how.disk_options,
        compress=True, level=how.level, threads=how.threads, keys=how.keys, progress=how.progress,
    )  # fmt: skip


def _written(machine: Machine, how: How) -> bytes:
    architecture = machine.architecture or "x86_64"
    said = {key: how.options.get(key) for key in ("os", "release", "variant")}
    words = [str(value) for value in said.values() if value] or [machine.name]
    properties = {key: str(value) for key, value in said.items() if value}
    properties["architecture"] = architecture
    properties["description"] = str(
        how.options.get("description") or machine.description or " ".join(words)
    )
    if machine.name:
        properties["name"] = machine.name
    metadata = {
        "architecture": architecture,
        "creation_date": int(how.options.get("creation_date") or 0),
        "properties": properties,
    }
    try:
        return yaml.safe_dump(metadata, allow_unicode=True, width=1 << 20).encode()
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise OptionError(f"what is said of the image is no text: {error}") from None
