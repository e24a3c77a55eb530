"""Directories: machines, packages and boxes as their programs keep them, by the names in them.

A name is all that speaks for a directory; nothing in it is opened, and no link is followed. What
the files are, they say themselves. A directory that is a disk (a Parallels .hdd) is its driver's.
Sources: the layouts of Parallels Desktop, VMware Workstation, VirtualBox, Hyper-V's export, the OCI
image layout, LXD's unified and split images, Amazon's AMI tools, UTM, Vagrant. Imports storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence, Family
from vmimg.storage.listing import Entry, listed

__all__ = ["recognise_folder"]

MAX_ENTRIES: Final = 1000
# Names that speak for a claim are shown; a box of a hundred disks has no need to show all.
_MAX_SHOWN: Final = 6
# Hyper-V's export is a directory in a directory for each machine.
_HYPERV: Final = ("virtual machines", "virtual hard disks", "snapshots")
_KERNELS: Final = ("vmlinuz", "linux", "bzimage", "kernel", "vmlinux", "linux26")
_INITRDS: Final = ("initrd", "initramfs", "cloud-initramfs")


@dataclass(frozen=True, slots=True)
class _Folder:
    """What a directory holds: names in lower case to the names as they are, by kind."""

    files: dict[str, str]
    folders: dict[str, str]

    def ending(self, *ends: str) -> list[str]:
        return [name for lower, name in self.files.items() if lower.endswith(ends)]


def recognise_folder(path: str) -> Iterator[Claim]:
    """What the directory at ``path`` is, best first. Raises StorageError where it is unreadable.

    Looks at the first 1000 entries.
    """
    folder = _folder(listed(path, MAX_ENTRIES))
    claims = [claim for judge in _JUDGES if (claim := judge(folder)) is not None]
    claims.sort(key=lambda claim: -claim.confidence)
    # A machine with an export of itself beside it is both; that is no contradiction.
    for number, claim in enumerate(claims):
        yield replace(claim, refines=tuple(each.name for each in claims[number + 1 :]))


def _folder(entries: tuple[Entry, ...]) -> _Folder:
    files = {entry.name.lower(): entry.name for entry in entries if entry.kind == "file"}
    folders = {entry.name.lower(): entry.name for entry in entries if entry.kind == "folder"}
    return _Folder(files, folders)


def _claim(
    name: str,
    family: Family,
    title: str,
    confidence: int,
    names: list[str],
    *,
    details: dict[str, object] | None = None,
    container: str = "",
) -> Claim:
    shown = tuple(Evidence(0, f"it holds {printable(each)}") for each in names[:_MAX_SHOWN])
    return Claim(
        name,
        family,
        title,
        confidence,
        shown,
        details or {},
        container_format=container,
    )


def _parallels(folder: _Folder) -> Claim | None:
    if "config.pvs" not in folder.files:
        return None
    disks = [name for lower, name in folder.folders.items() if lower.endswith((".hdd", ".hds"))]
    names = [folder.files["config.pvs"], *disks]
    details: dict[str, object] = {"disks": len(disks)}
    return _claim("pvm", "machine", "Parallels machine (.pvm)", 90, names, details=details)


def _vmware(folder: _Folder) -> Claim | None:
    machines, disks = folder.ending(".vmx"), folder.ending(".vmdk")
    if not machines or "metadata.json" in folder.files:
        return None
    details: dict[str, object] = {"disks": len(disks)}
    sure = 90 if disks else 60
    names = [*machines, *disks]
    return _claim("vmware-folder", "machine", "VMware machine", sure, names, details=details)


def _virtualbox(folder: _Folder) -> Claim | None:
    machines = folder.ending(".vbox")
    if not machines:
        return None
    disks = folder.ending(".vdi", ".vmdk", ".vhd")
    details: dict[str, object] = {"disks": len(disks)}
    names = [*machines, *disks]
    return _claim("vbox-folder", "machine", "VirtualBox machine", 90, names, details=details)


def _hyperv(folder: _Folder) -> Claim | None:
    parts = [folder.folders[name] for name in _HYPERV if name in folder.folders]
    if "virtual machines" not in folder.folders or len(parts) < 2:
        return None
    return _claim("hyperv-export", "machine", "export of a Hyper-V machine", 80, parts)


def _utm(folder: _Folder) -> Claim | None:
    if "config.plist" not in folder.files or not folder.folders.keys() & {"data", "images"}:
        return None
    names = [folder.files["config.plist"]]
    return _claim("utm", "machine", "UTM machine (.utm)", 70, names)


def _oci(folder: _Folder) -> Claim | None:
    if "oci-layout" not in folder.files or "index.json" not in folder.files:
        return None
    names = [folder.files["oci-layout"], folder.files["index.json"]]
    sure = 90 if "blobs" in folder.folders else 60
    return _claim("oci", "bundle", "OCI image layout", sure, names)


def _lxd(folder: _Folder) -> Claim | None:
    roots: list[str]
    if "metadata.yaml" in folder.files:
        roots = [n for n in ("rootfs.img", "disk.qcow2", "rootfs.squashfs") if n in folder.files]
        if "rootfs" in folder.folders:
            roots.append("rootfs")
        if roots:
            names = [folder.files["metadata.yaml"], *roots]
            return _claim("lxd", "bundle", "unpacked LXD or Incus image", 80, names)
    metadata = [
        name
        for lower, name in folder.files.items()
        if lower in ("lxd.tar.xz", "incus.tar.xz", "metadata.tar.xz", "meta.tar.xz")
    ]
    roots = [n for n in ("rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2") if n in folder.files]
    if metadata and roots:
        title = "LXD or Incus image in two files"
        return _claim("lxd", "bundle", title, 80, [*metadata, *roots])
    return None


def _ec2(folder: _Folder) -> Claim | None:
    manifests = folder.ending(".manifest.xml")
    parts = [
        name
        for lower, name in folder.files.items()
        if lower.rpartition(".part.")[1] and lower.rpartition(".part.")[2].isdigit()
    ]
    if not manifests or not parts:
        return None
    details: dict[str, object] = {"parts": len(parts)}
    title = "EC2 instance-store bundle"
    names = [*manifests, *parts]
    return _claim("ec2-bundle", "bundle", title, 90, names, details=details, container="ami")


def _box(folder: _Folder) -> Claim | None:
    if "metadata.json" not in folder.files:
        return None
    disks = folder.ending(".img", ".qcow2", ".vmdk", ".vdi", ".vhd", ".vhdx")
    machines = folder.ending(".ovf", ".vmx")
    hyperv = [folder.folders[name] for name in _HYPERV[:2] if name in folder.folders]
    if not disks and not machines and not hyperv:
        return None
    names = [folder.files["metadata.json"], *machines, *disks, *hyperv]
    # Surer than the machine in it: what a box is made of is a machine's own directory.
    return _claim("vagrant", "bundle", "unpacked Vagrant box", 95, names)


def _ovf(folder: _Folder) -> Claim | None:
    descriptions = folder.ending(".ovf")
    if not descriptions:
        return None
    manifests = folder.ending(".mf", ".cert")
    disks = folder.ending(".vmdk", ".vhd", ".vhdx", ".iso", ".img")
    sure = 90 if disks or manifests else 60
    details: dict[str, object] = {"disks": len(disks), "manifest": bool(manifests)}
    names = [*descriptions, *manifests, *disks]
    title = "unpacked OVF package"
    return _claim("ovf-folder", "bundle", title, sure, names, details=details, container="ovf")


def _netboot(folder: _Folder) -> Claim | None:
    kernels = [n for lower, n in folder.files.items() if lower.startswith(_KERNELS)]
    initrds = [n for lower, n in folder.files.items() if lower.startswith(_INITRDS)]
    if not kernels or not initrds:
        return None
    names = [kernels[0], initrds[0]]
    return _claim("netboot", "boot", "kernel and initrd to boot from a network", 60, names)


_JUDGES: Final[tuple[Callable[[_Folder], Claim | None], ...]] = (
    _parallels,
    _virtualbox,
    _box,
    _vmware,
    _ovf,
    _hyperv,
    _utm,
    _oci,
    _lxd,
    _ec2,
    _netboot,
)
