"""Making OVF packages and OVAs: one pass over each disk, written where it shall lie.

Order as DSP0243 has it: descriptor, manifest, certificate, then the files in the order of
References. Disks are streamOptimized VMDKs unless told otherwise, compressed on all cores. Digests
are taken of what was just written, out of the page cache, while the next disk is made. Spec: DMTF
DSP0243 2.1.1, sections 5.2 to 5.5. Imports machines, archives and transfer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from vmimg.bundles.imaging import write_image
from vmimg.bundles.manifest import manifest_size, write_manifest
from vmimg.bundles.ovf.targets import FolderTarget, PackageTarget, TarTarget
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.signing import Signer, load_signer
from vmimg.errors import OptionError
from vmimg.formats.keys import no_keys
from vmimg.formats.registry import find as find_format
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.ovf import File, OvfDisk, format_uri, write_envelope
from vmimg.machines.losses import Loss
from vmimg.machines.model import Drive, Machine
from vmimg.storage.base import Storage
from vmimg.storage.output import Output, OutputSet

__all__ = ["Member", "Plan", "make_ova", "make_ovf"]

_DEFAULT_FORMAT: Final = "vmdk"
_STREAM: Final = "streamOptimized"
_DEFAULT_OPTIONS: Final[dict[str, dict[str, Any]]] = {"vmdk": {"subformat": _STREAM}}
_COMPRESSIBLE: Final = ("qcow2",)
# A size that takes as many digits as any: what room is kept for.
_LONGEST: Final = (1 << 63) - 1


def make_ova(package: Package, target: str, how: How) -> Made:
    """See `vmimg.bundles.ova.make`."""
    plan = Plan(package, how, target)
    with Output(target, replace=how.replace) as storage:
        size = plan.write(TarTarget(storage))
    return Made(target, size, plan.losses)


def make_ovf(package: Package, target: str, how: How) -> Made:
    """See `vmimg.bundles.ovf.make`."""
    plan = Plan(package, how, target)
    with OutputSet() as outputs:
        if target.lower().endswith(".ovf"):
            folder = os.path.dirname(target)
        else:
            folder = outputs.folder(target, plan.descriptor, replace=how.replace)
        size = plan.write(FolderTarget(outputs, folder, replace=how.replace))
    return Made(target, size, plan.losses)


def _stem(target: str) -> str:
    base = os.path.basename(os.path.normpath(target))
    stem, extension = os.path.splitext(base)
    return (stem if extension.lower() in (".ova", ".ovf") else base) or "machine"


@dataclass(frozen=True, slots=True)
class Member:
    """A disk and the file that it becomes."""

    packed: PackedDisk
    name: str


class Plan:
    """Everything about a package but its bytes. ``target``: the path that it is called after.
    ``losses`` are known once it is written.
    """

    def __init__(self, package: Package, how: How, target: str) -> None:
        stem = _stem(target)
        self._package = package
        self.how = how
        self.format = how.format or _DEFAULT_FORMAT
        self.descriptor = f"{stem}.ovf"
        self._manifest = f"{stem}.mf"
        self._certificate = f"{stem}.cert"
        self.losses: tuple[Loss, ...] = ()
        extension = find_format(self.format).extensions[0]
        self._members = tuple(Member(packed, packed.name + extension) for packed in package.disks)
        self._names = [member.name for member in self._members]
        self.options = {**_DEFAULT_OPTIONS.get(self.format, {}), **how.disk_options}
        # What is compressed in any case is not asked.
        self.compress = self.format in _COMPRESSIBLE and bool(how.options.get("compress", True))
        self._algorithm = str(how.options.get("manifest", "sha256"))
        self._signer = self._load_signer()
        self._check_names()

    def write(self, target: PackageTarget) -> int:
        """All members, in the order of the specification; their bytes together."""
        names = [*self._names, *self._package.files]
        largest = dict.fromkeys(names, _LONGEST)
        target.text(self.descriptor, len(self._described(largest).data))
        if self._algorithm != "off":
            listed = [self.descriptor, *names]
            target.text(self._manifest, manifest_size(self._algorithm, listed))
        if self._signer is not None:
            target.text(self._certificate, self._signer.size(self._manifest))
        sizes, values = dict[str, int](), dict[str, Future[str]]()
        with ThreadPoolExecutor(2) as pool:
            for member in self._members:
                sizes[member.name] = self.image(target, member)
                self._digest(member.name, target, pool, values)
            for name, storage in self._package.files.items():
                sizes[name] = target.copy(name, storage)
                self._digest(name, target, pool, values)
            digests = [(name, value.result()) for name, value in values.items()]
        described = self._described(sizes)
        self.losses = (*described.losses, *self._left_out())
        text = target.padded(self.descriptor, described.data)
        target.fill(self.descriptor, text)
        if self._algorithm != "off":
            self._vouch(target, text, digests)
        return target.finish()

    def _vouch(
        self, target: PackageTarget, text: bytes, digests: Sequence[tuple[str, str]]
    ) -> None:
        """The manifest, and its signature."""
        own = hashlib.new(self._algorithm, text).hexdigest()
        manifest = write_manifest(self._algorithm, [(self.descriptor, own), *digests])
        target.fill(self._manifest, manifest)
        if self._signer is not None:
            target.fill(self._certificate, self._signer.sign(manifest, self._manifest))

    def image(self, target: PackageTarget, member: Member) -> int:
        """Put the disk of ``member`` into ``target``; the size of its file."""
        how = self.how

        def write(storage: Storage) -> int:
            return write_image(
                member.packed.disk,
                self.format,
                storage,
                name=member.name,
                options=self.options,
                compress=self.compress,
                level=how.level,
                threads=how.threads,
                progress=how.progress,
            )

        return target.image(member.name, write)

    def _digest(
        self,
        name: str,
        target: PackageTarget,
        pool: ThreadPoolExecutor,
        values: dict[str, Future[str]],
    ) -> None:
        if self._algorithm != "off":
            values[name] = pool.submit(target.digest, name, self._algorithm)

    def _machine(self) -> Machine:
        """The machine, its drives called as the files here are."""
        drives = list(self._package.machine.drives)
        for member in self._members:
            at = member.packed.drive
            drives[at] = replace(
                drives[at],
                path=member.name,
                source="file",
                format=self.format,
                size=member.packed.disk.size,
            )
        for at, drive in enumerate(drives):
            if self._is_left_out(drive):
                drives[at] = replace(drive, path="", source="file")
        machine = replace(self._package.machine, drives=tuple(drives))
        variables = os.path.basename(machine.firmware.variables)
        if variables not in self._package.files:
            variables = ""
        return replace(machine, firmware=replace(machine.firmware, variables=variables))

    def _is_left_out(self, drive: Drive) -> bool:
        """Whether it is a CD or floppy whose image does not go into the package."""
        return drive.device != "disk" and bool(drive.path) and drive.path not in self._package.files

    def _left_out(self) -> list[Loss]:
        """What the machine refers to and the package does not hold."""
        machine = self._package.machine
        losses = [
            Loss(f"drives[{at}].path", drive.path, "the image is not in the package")
            for at, drive in enumerate(machine.drives)
            if self._is_left_out(drive)
        ]
        variables = machine.firmware.variables
        if variables and os.path.basename(variables) not in self._package.files:
            reason = "the file with the variables is not in the package"
            losses.append(Loss("firmware.variables", variables, reason))
        return losses

    def _described(self, sizes: Mapping[str, int]) -> Written:
        """The descriptor, for files of these sizes."""
        files = [
            File(f"file{number}", quote(name), sizes[name])
            for number, name in enumerate((*self._names, *self._package.files), 1)
        ]
        uri = format_uri(self.format)
        if self.options.get("subformat", _STREAM) != _STREAM:
            uri = uri.replace(f"#{_STREAM}", "#sparse")
        disks = [
            OvfDisk(f"vmdisk{number}", files[number - 1].id, member.packed.disk.size, uri)
            for number, member in enumerate(self._members, 1)
        ]
        places = {
            (0, member.packed.drive): disk.id
            for member, disk in zip(self._members, disks, strict=True)
        }
        return write_envelope([self._machine()], files, disks, places=places)

    def _load_signer(self) -> Signer | None:
        options = self.how.options
        key, certificate = str(options.get("key") or ""), str(options.get("certificate") or "")
        if not key and not certificate:
            return None
        if not key or not certificate:
            raise OptionError("a package is signed with a key and its certificate: give both")
        if self._algorithm == "off":
            raise OptionError("what is signed is the manifest: there must be one")
        return load_signer(key, certificate, self._algorithm, self.how.keys or no_keys)

    def _check_names(self) -> None:
        names = [*self._names, *self._package.files]
        own = (self.descriptor, self._manifest, self._certificate)
        for name in names:
            if "/" in name or "\\" in name or name in ("", ".", ".."):
                raise OptionError(f"'{name}' is no name of a file in a package")
        taken = [name.lower() for name in (*own, *names)]
        for name in names:
            if taken.count(name.lower()) > 1:
                raise OptionError(f"two files of the package would be called '{name}'")
