"""What an image says of the machine that it is for, in Glance's useful properties.

Firmware from the partition table, architecture from the types of its partitions or from the kernel
itself, the guest's system from the label of an installation disc. Only what is beyond doubt: an
owner's word always counts more. Names and values are those of Glance's "Useful image properties"
(https://docs.openstack.org/glance/latest/admin/useful-image-properties.html). Imports formats,
bundles and probe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vmimg.bundles.rootdisk import DiskStorage
from vmimg.errors import VmimgError
from vmimg.formats.opening import open_storage_disk
from vmimg.formats.raw.contents import Contents, examine
from vmimg.formats.registry import FORMATS
from vmimg.probe.vetting import Report
from vmimg.storage.base import Storage
from vmimg.storage.slice import SliceStorage

__all__ = ["learned"]

# Types of root and /usr partitions: the UAPI group's Discoverable Partitions Specification.
_ROOTS: Final[Mapping[str, str]] = {
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "x86_64",
    "44479540-f297-41b2-9af7-d131d5f0458a": "i686",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "aarch64",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "armv7l",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224": "riscv64",
    "c31c45e6-3f39-412e-80fb-4809c4980599": "ppc64le",
    "08a7acea-624c-4a20-91e8-6e0fa67d23f9": "s390x",
}
_EFI_SYSTEM: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_BIOS_BOOT: Final = "21686148-6449-6e6f-744e-656564454649"
# What is not in a label by the name that Glance has for it.
_DISTROS: Final = (
    (re.compile(r"ubuntu", re.I), "ubuntu"),
    (re.compile(r"debian", re.I), "debian"),
    (re.compile(r"fedora", re.I), "fedora"),
    (re.compile(r"centos", re.I), "centos"),
    (re.compile(r"\brhel|red hat", re.I), "rhel"),
    (re.compile(r"rocky", re.I), "rocky"),
    (re.compile(r"almalinux", re.I), "almalinux"),
    (re.compile(r"opensuse", re.I), "opensuse"),
    (re.compile(r"\bsles?\b|\bsle-", re.I), "sles"),
    (re.compile(r"^arch_|archlinux", re.I), "arch"),
    (re.compile(r"alpine", re.I), "alpine"),
    (re.compile(r"freebsd", re.I), "freebsd"),
)


def learned(storage: Storage, report: Report) -> dict[str, str]:
    """Properties by name. Looks into ``storage``, which stays open; never raises VmimgError."""
    best = report.detection.best
    found: dict[str, str] = {}
    machine = best.details.get("architecture")
    if isinstance(machine, str) and machine and best.family == "boot":
        found["architecture"] = machine
    if best.family in ("disk", "content") or best.name == "raw":
        name = best.name if best.name in FORMATS else "raw"
        try:
            disk = open_storage_disk(
                SliceStorage(storage, 0, storage.size), format=name, sealed=True
            )
        except VmimgError:
            return found
        with disk:
            try:
                found |= _of(examine(DiskStorage(disk)))
            except VmimgError:
                pass
    return found


def _of(contents: Contents) -> dict[str, str]:
    types = {partition.type.lower() for partition in contents.partitions}
    found: dict[str, str] = {}
    if _EFI_SYSTEM in types and _BIOS_BOOT not in types:
        found["hw_firmware_type"] = "uefi"
    architectures = {_ROOTS[type] for type in types if type in _ROOTS}
    if len(architectures) == 1:
        found["architecture"] = architectures.pop()
    labels = [contents.label] if contents.kind == "iso9660" else []
    for label in labels:
        for pattern, distro in _DISTROS:
            if pattern.search(label):
                return found | {"os_distro": distro}
    return found
