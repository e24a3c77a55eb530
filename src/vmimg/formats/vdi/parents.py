"""How a VDI image names its parent, and how that is found. No numpy.

By UUID only: the child's uuidLinkage is the parent's uuidCreate. Which file that is stands in
VirtualBox's registry, the .vbox file. So the parent is looked for among the .vdi files of the
folders that may be followed, by their headers: a bounded number of them, regular files only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmimg import storage as storages
from vmimg.disk.layer import UNNAMED, ParentRef
from vmimg.errors import ChainError, VmimgError
from vmimg.formats.vdi.header import NO_UUID, VdiHeader, read_header
from vmimg.storage.base import Storage

__all__ = ["VdiParent", "find_parent", "has_uuid", "parent_ref"]

_MOST_FILES: Final = 4096
"""Headers read in one search."""


@dataclass(frozen=True, slots=True)
class VdiParent(ParentRef):
    """``modification``: the parent's uuidModify as the child knows it, null where it does not."""

    modification: UUID = NO_UUID


def parent_ref(header: VdiHeader) -> VdiParent | None:
    """What the image says of its parent; None where it needs none."""
    if not header.is_child:
        return None
    return VdiParent(
        f"{UNNAMED}{header.uuid_linkage}", "vdi", modification=header.uuid_parent_modify
    )


def has_uuid(storage: Storage, ref: ParentRef) -> bool:
    """Whether ``storage`` is the image that ``ref`` means."""
    try:
        return f"{UNNAMED}{read_header(storage).uuid_create}" == ref.path
    except VmimgError:
        return False


def find_parent(ref: ParentRef, folders: Sequence[str]) -> str | None:
    """The path of the image that ``ref`` means, in one of ``folders``; None where there is none.

    Where an image was copied with its UUID, the one whose last modification is what the child
    expects. Raises ChainError where several are equally good.
    """
    if not ref.path.startswith(UNNAMED):
        return None
    try:
        wanted = UUID(ref.path.removeprefix(UNNAMED))
    except ValueError:
        return None
    expected = ref.modification if isinstance(ref, VdiParent) else NO_UUID
    found: list[str] = []
    unchanged: list[str] = []
    seen: set[str] = set()
    for path in _candidates(folders):
        real = os.path.realpath(path)
        header = _header(path) if real not in seen else None
        seen.add(real)
        if header is None or header.uuid_create != wanted:
            continue
        found.append(path)
        if header.uuid_modify == expected:
            unchanged.append(path)
    best = unchanged or found
    if len(best) > 1:
        raise ChainError(
            f"the parent {wanted} is one of {', '.join(best)}, which bear the same UUID; "
            "leave only the right one in the folder"
        )
    return best[0] if best else None


def _candidates(folders: Sequence[str]) -> Iterator[str]:
    """Paths of regular .vdi files, in the order of their names; not below the folders."""
    left = _MOST_FILES
    for folder in folders:
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.lower().endswith(".vdi") and entry.is_file():
                        names.append(entry.name)
                        if len(names) > left:
                            raise ChainError(
                                f"{folder}: more than {_MOST_FILES} .vdi files to look for a "
                                "parent in; put the images of the chain into a folder of their own"
                            )
        except OSError:  # not there, or not to be listed: nothing to be found in it
            continue
        left -= len(names)
        for name in sorted(names):
            yield os.path.join(folder, name)


def _header(path: str) -> VdiHeader | None:
    """None for a file that cannot be read, or is something else."""
    try:
        # Without a lock: only 512 bytes are looked at, and the chain locks what it opens.
        with storages.open(path, lock=False) as storage:
            return read_header(storage)
    except VmimgError:
        return None
