"""VMware's machines: a .vmx, .vmdk chains, .nvram and .vmsd in a directory, or packed as one.

Imports described and foldering.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

from vmimg.bundles.bundle import Bundle
from vmimg.bundles.described import Described, description_in
from vmimg.bundles.foldering import make_folder
from vmimg.bundles.package import How, Made, Package
from vmimg.machines.model import Machine
from vmimg.machines.registry import find
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder

__all__ = ["make", "open"]

_MAX_BYTES: Final = 64 << 20
# A name may have 255 bytes, and a character four of them.
_MAX_STEM: Final = 50


def open(folder: Folder, claim: Claim) -> Bundle:
    """The machine in ``folder``."""
    index = description_in(folder, (".vmx",))
    stem = os.path.splitext(index)[0]
    facts: dict[str, Any] = {
        name: f"{stem}{suffix}"
        for name, suffix in (("nvram", ".nvram"), ("snapshots", ".vmsd"))
        if folder.exists(f"{stem}{suffix}")
    }
    return Described(folder, "vmware", index, "vmx", read=_read, facts=facts)


def make(package: Package, target: str, how: How) -> Made:
    """A directory that VMware Workstation opens."""
    return make_folder(
        package, target, how, format="vmdk", dialect="vmx",
        description=f"{file_stem(package.machine)}.vmx",
    )  # fmt: skip


def file_stem(machine: Machine) -> str:
    """The machine's name as the name of a file."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "-", machine.name)[:_MAX_STEM]
    return plain.strip(" .-") or "machine"


def _read(folder: Folder, index: str) -> tuple[Machine, ...]:
    """The .vmx, and the snapshots of the .vmsd beside it."""
    from vmimg.machines.dialects import vmx

    data = folder.read(index, _MAX_BYTES)
    snapshots = f"{os.path.splitext(index)[0]}.vmsd"
    name = f"{folder.name}:{index}"
    if not folder.exists(snapshots):
        return find("vmx").read(data, name)
    beside = {snapshots.rpartition("/")[2]: folder.read(snapshots, _MAX_BYTES)}
    return vmx.read_with(data, name, beside)
