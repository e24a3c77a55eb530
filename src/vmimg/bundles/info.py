"""bundle_info: what a bundle says of itself and of the disks in it. Imports opening, machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmimg import storage as storages
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.naming import named
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.registry import find
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import VmimgError
from vmimg.formats.detect import identify
from vmimg.formats.info import DiskInfo, storage_info
from vmimg.formats.registry import find as find_format
from vmimg.machines.model import Machine
from vmimg.machines.showing import to_json

__all__ = ["BundleInfo", "bundle_info", "disk_info"]

_DEFAULT_POLICY = ParentPolicy()


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """``disks``: each with what its image says, or the reason why that cannot be read. Sizes in
    bytes; ``files``: how many there are in it.
    """

    filename: str
    kind: str
    file_size: int
    files: int
    disks: tuple[tuple[BundleDisk, DiskInfo | str], ...]
    machines: tuple[Machine, ...]
    facts: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What the kind is called."""
        return find(self.kind).title

    def to_json(self) -> dict[str, Any]:
        """Everything, with hyphens in the names."""
        disks = []
        for disk, info in self.disks:
            facts: dict[str, Any] = {"name": disk.name, "member": disk.member}
            if isinstance(info, str):
                facts |= {"virtual-size": disk.size or None, "format": disk.format or None}
                if info:
                    facts["error"] = info
            else:
                facts |= info.to_json()
            disks.append(facts)
        return {
            "filename": self.filename,
            "bundle": self.kind,
            "file-size": self.file_size,
            "files": self.files,
            "disks": disks,
            "machines": [to_json(machine) for machine in self.machines],
            **({"details": dict(self.facts)} if self.facts else {}),
        }


def bundle_info(
    path: str | os.PathLike[str], *, policy: ParentPolicy = _DEFAULT_POLICY
) -> BundleInfo:
    """The bundle at ``path``. Raises what opening it raises; a disk that cannot be read is said."""
    text = os.fspath(path)
    with open_bundle(text, policy=policy) as bundle:
        size = storages.folder_sizes(text)[0] if os.path.isdir(text) else os.path.getsize(text)
        return BundleInfo(
            filename=text,
            kind=bundle.kind,
            file_size=size,
            files=bundle.count_files(),
            disks=tuple((disk, _told(bundle, disk)) for disk in bundle.disks),
            machines=bundle.machines,
            facts=bundle.facts,
        )


def disk_info(path: str | os.PathLike[str], *, policy: ParentPolicy = _DEFAULT_POLICY) -> DiskInfo:
    """What the image says that ``path`` names in a bundle (appliance.ova:disk2)."""
    name = named(path)
    with open_bundle(name.path, policy=policy) as bundle:
        return _inspected(bundle, bundle.find(name.disk))


def _told(bundle: Bundle, disk: BundleDisk) -> DiskInfo | str:
    if not disk.member:
        return ""
    try:
        return _inspected(bundle, disk)
    except VmimgError as error:
        return str(error)


def _inspected(bundle: Bundle, disk: BundleDisk) -> DiskInfo:
    with bundle.storage(disk) as storage:
        format = find_format(disk.format) if disk.format else identify(storage)
        return storage_info(storage, format)
