"""image_info: what an image file says of itself, and what the file system says of it.

Nothing that the image names is opened, so it works where a parent is missing or forbidden; with
``chain`` the parents are followed, as the policy allows. Imports the registry; no numpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from vmimg import storage as storages
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError
from vmimg.formats.descriptor import Format
from vmimg.formats.detect import Claim, detect, identify
from vmimg.formats.driver import ImageInfo, Snapshot
from vmimg.formats.opening import Chain, open_file
from vmimg.formats.registry import find
from vmimg.storage.base import Storage

__all__ = ["DiskInfo", "image_info", "storage_info"]

_DEFAULT_POLICY = ParentPolicy()


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """One image file. Sizes in bytes: ``file_size`` as listed, ``actual_size`` as allocated.

    ``backing_path``: the parent's name, made relative to where the child's is, not looked for.
    ``claims``: all formats whose marks the file bears, the best first.
    """

    filename: str
    file_size: int
    actual_size: int
    image: ImageInfo
    backing_path: str | None
    claims: tuple[Claim, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The keys of qemu-img 7.2's ``info --output json``, and file-size."""
        image = self.image
        facts: dict[str, Any] = {}
        if image.snapshots:
            facts["snapshots"] = [_snapshot_json(snapshot) for snapshot in image.snapshots]
        if image.parent is not None:
            if image.parent.format is not None:
                facts["backing-filename-format"] = image.parent.format
            facts["backing-filename"] = image.parent.path
            facts["full-backing-filename"] = self.backing_path
        facts |= {
            "virtual-size": image.virtual_size,
            "filename": self.filename,
            "format": image.format,
            "actual-size": self.actual_size,
            "file-size": self.file_size,
            "dirty-flag": image.dirty,
        }
        if image.cluster_size is not None:
            facts["cluster-size"] = image.cluster_size
        if image.encrypted:
            facts["encrypted"] = True
        if image.compressed:
            facts["compressed"] = True
        if image.details:
            facts["format-specific"] = {"type": image.format, "data": image.details}
        others = [c.format.name for c in self.claims if c.confidence > 1]
        if others not in ([], [image.format]):
            facts["detected-formats"] = others
        return facts


def image_info(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    policy: ParentPolicy = _DEFAULT_POLICY,
    share: bool = False,
    chain: bool = False,
) -> list[DiskInfo]:
    """The image at ``path``; with ``chain``, its parents behind it.

    ``format`` is a registry name, found by the image's structure where it is None. ``share`` takes
    no locks. Raises what is in `vmimg.errors`, and nothing else.
    """
    given = find(format) if format is not None else None
    files = Chain(policy, share=share)
    try:
        storage = files.adopt(open_file(path, lock=not share))
        found = given or identify(storage)
        infos = [storage_info(storage, found)]
        if os.path.isdir(path):
            infos[0] = _all_files(infos[0], path)
        while chain and infos[-1].image.parent is not None:
            if len(infos) >= policy.max_depth:
                raise ChainError(
                    f"{storage.name}: the chain of images has more than {policy.max_depth} layers"
                )
            storage, found = files.parent(storage, infos[-1].image.parent)
            infos.append(storage_info(storage, found))
        return infos
    finally:
        files.close()


def storage_info(storage: Storage, format: Format) -> DiskInfo:
    """The same of bytes that are open; they stay so."""
    image = format.driver().inspect(storage)
    parent = image.parent
    return DiskInfo(
        filename=storage.name,
        file_size=storage.size,
        actual_size=storage.allocated(),
        image=image,
        backing_path=_beside(storage.name, parent.path) if parent is not None else None,
        claims=tuple(detect(storage)),
    )


def _all_files(info: DiskInfo, folder: str | os.PathLike[str]) -> DiskInfo:
    """``info`` of an image that is a directory: its size is that of the files in it."""
    listed, allocated = storages.folder_sizes(folder)
    return replace(info, file_size=listed, actual_size=allocated)


def _beside(image: str, named: str) -> str:
    """``named`` as seen from where the user is; URLs and the like as they stand."""
    before, colon, _ = named.partition(":")
    if os.path.isabs(named) or (colon and "/" not in before):
        return named
    return os.path.join(os.path.dirname(image), named)


def _snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    facts = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec // 10**9,
        "vm-clock-nsec": snapshot.vm_clock_nsec % 10**9,
    }
    if snapshot.icount is not None:
        facts["icount"] = snapshot.icount
    return facts
