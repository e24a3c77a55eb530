"""UEC images, sets of AMI, AKI and ARI: a root file system with its kernel, and often an initrd.

    name.img              a bare file system (the AMI), read as raw
    name-vmlinuz          its kernel (the AKI)
    name-initrd           its initrd (the ARI), if it needs one
    name-floppy, -loader  a boot loader on a floppy, in Ubuntu's

The three lie in a tar.gz. Sources: Ubuntu's "UEC Images" and its cloud images up to 14.04, CirrOS's
-uec.tar.gz; OpenStack's "AMI, AKI, ARI". Imports archives and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from vmimg.bundles.archives import GzipTarWriter
from vmimg.bundles.booting import (
    initrds_in,
    is_initrd,
    is_kernel,
    kernel_facts,
    kernels_in,
    loader_in,
    root_images,
)
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.imaging import stream_image
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.rootdisk import root_of
from vmimg.bundles.texts import textual
from vmimg.bundles.unsaid import unsaid
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError
from vmimg.formats.raw.contents import examine
from vmimg.machines.model import Drive, Machine
from vmimg.probe.claims import Claim
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.output import Output
from vmimg.transfer.streaming import ByteSink

__all__ = ["UecImage", "make", "open"]

_MAX_DISKS: Final = 16


class UecImage(Bundle):
    """``kernel``, ``initrd``, ``loader``: members, "" for what there is not."""

    kind = "uec"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.kernel = next(iter(kernels_in(folder)), "")
        self.initrd = next(iter(initrds_in(folder)), "")
        self.loader = loader_in(folder.names())
        disks = root_images(folder)
        if not self.kernel or not disks:
            missing = "an image of a disk" if self.kernel else "a kernel"
            raise FormatError(f"{self.name}: is no UEC image: there is no {missing} in it")
        if len(disks) > _MAX_DISKS:
            raise FormatError(f"{self.name}: holds {len(disks)} images of disks")
        # Raw, whatever a guest wrote to its first sectors.
        self.disks = tuple(
            BundleDisk("root" if len(disks) == 1 else f"disk{number}", name, "raw")
            for number, name in enumerate(disks, 1)
        )
        self.facts = self._facts()
        architecture = self.facts.get("kernel-architecture")
        if architecture:
            drives = tuple(Drive(path=disk.member, format="raw") for disk in self.disks)
            self.machines = (Machine(architecture=architecture, drives=drives),)
            self.disks = tuple(
                replace(disk, drive=(0, number)) for number, disk in enumerate(self.disks)
            )

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        with self.folder.open(self.kernel) as storage:
            facts["kernel"] = self.kernel
            about = kernel_facts(storage)
            facts["kernel-type"] = about["title"]
            for key in ("version", "architecture"):
                if key in about:
                    facts[f"kernel-{key}"] = about[key]
        if self.initrd:
            with self.folder.open(self.initrd) as storage:
                facts["initrd"] = self.initrd
                facts["initrd-type"] = kernel_facts(storage)["title"]
        if self.loader:
            facts["loader"] = self.loader
        with self.folder.open(self.disks[0].member) as storage:
            facts["root"] = textual(examine(storage).title())
        return facts


def open(folder: Folder, claim: Claim) -> UecImage:
    """The image in ``folder``. Raises FormatError."""
    return UecImage(folder)


def make(package: Package, target: str, how: How) -> Made:
    """A tar.gz of the disk's root file system, and the kernel and initrd of ``package.files``."""
    if len(package.disks) != 1:
        raise OptionError(f"a UEC image has one disk, not {len(package.disks)}")
    if how.format not in ("", "raw"):
        raise OptionError(f"a UEC image has its disk as raw, not as {how.format}")
    disk = package.disks[0]
    names = _names(package.files, disk.name)
    root, _ = root_of(disk.disk, int(how.options.get("partition") or 0))
    with Output(target, replace=how.replace) as storage:
        # GNU's headers, which programs of that time know for large files.
        packing = GzipTarWriter(storage, level=how.level, threads=how.threads, flavour="gnu")
        with closing(packing) as writer:
            # The disk first: who sees only the beginning of an archive shall know what it is for.
            writer.add_stream(f"{disk.name}.img", root.size, lambda sink: _send(root, sink, how))
            for given, name in names.items():
                writer.add_storage(name, package.files[given])
            writer.finish()
        size = storage.size
    kind = "a UEC image"
    # Of the architecture its kernel speaks.
    losses = unsaid(package.machine, kind, said=("architecture",), carried=[disk.drive])
    return Made(target, size, losses)


def _names(files: Mapping[str, Storage], base: str) -> dict[str, str]:
    """What is carried along, and what to call it: readers go by what is in a name."""
    found: dict[str, str] = {}
    for name in files:
        last = name.rpartition("/")[2]
        if is_initrd(name):
            found[name] = last if "initrd" in last else f"{base}-initrd"
        elif is_kernel(name):
            found[name] = last if "vmlinuz" in last else f"{base}-vmlinuz"
        else:
            found[name] = last
    if not any(is_kernel(name) for name in found):
        raise OptionError(
            "a UEC image has a kernel beside its disk: give it as a file, as vmlinuz=PATH (and its "
            "initrd as initrd=PATH)"
        )
    if len(set(found.values())) != len(found):
        raise OptionError("a UEC image has one kernel and one initrd")
    return found


def _send(root: Disk, sink: ByteSink, how: How) -> int:
    return stream_image(
        root, "raw", sink, name=root.name, threads=how.threads, progress=how.progress
    )
