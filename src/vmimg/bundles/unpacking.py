"""unpack: what is in a bundle becomes files in a directory, its disks in the format of choice.

The directory appears when everything in it is complete, or not at all. Names of members are checked
before any is written, and links and devices are no files. Imports opening and transfer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from vmimg import storage as storages
from vmimg.bundles.bundle import Bundle, BundleDisk, check_total
from vmimg.bundles.kind import parse_options
from vmimg.bundles.naming import named
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import over_all
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import OptionError, UnsafeImage
from vmimg.formats.keys import Keys
from vmimg.formats.registry import by_extension
from vmimg.formats.registry import find as find_format
from vmimg.machines.losses import Loss
from vmimg.machines.model import Drive, Machine
from vmimg.machines.reading import anchored
from vmimg.machines.registry import find as find_dialect
from vmimg.storage.base import Storage
from vmimg.storage.folder import joined
from vmimg.storage.output import OutputSet
from vmimg.transfer.convert import convert
from vmimg.transfer.engine import Progress

__all__ = ["Unpacked", "unpack"]

_DEFAULT_POLICY: Final = ParentPolicy()
_CHUNK: Final = 4 << 20
_MAX_FILES: Final = 10_000
# What is kept besides disks that became others.
_KEPT: Final = (".nvram", ".vmsd", ".fd", ".txt", ".html", ".rtf", ".md", "vagrantfile", ".iso")
_BOOT: Final = ("vmlinuz", "initrd", "initramfs", "kernel", "loader")
_MAX_KEPT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was unpacked to ``path``: names of files there, and the bytes of each. ``losses``: what
    the description of the machine that was written does not say.
    """

    path: str
    kind: str
    files: Mapping[str, int]
    losses: tuple[Loss, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, with hyphens in the names."""
        return {
            "directory": self.path,
            "kind": self.kind,
            "files": dict(self.files),
            "losses": [loss.to_json() for loss in self.losses],
        }


def unpack(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    compress: bool = False,
    dialect: str | None = None,
    threads: int = 0,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> Unpacked:
    """Write what is in the bundle ``source`` to the directory ``folder``, which must not exist or
    be empty.

    ``format``: what its disks become, with ``options`` and ``compress`` as for convert; None leaves
    all files as they are. ``dialect``: write the machine in that dialect as well, with the new
    names of its disks. ``source`` may name a disk (`appliance.ova:disk2`): then only that is
    unpacked. Raises what opening and converting raise.
    """
    name = named(source)
    target = os.fspath(folder)
    if format is None and compress:
        raise OptionError("options of disks go with the format that they become (-O)")
    if dialect is not None:
        find_dialect(dialect)
    with open_bundle(name.path, policy=policy, near=target) as bundle, OutputSet() as outputs:
        if format is None and options and not bundle.unpack_options:
            raise OptionError("options of disks go with the format that they become (-O)")
        if format is not None and not bundle.disks:
            raise OptionError(f"{bundle.name}: there is no disk in it to become {format}")
        part = outputs.folder(target, "")
        if format is None and dialect is None:
            settings = parse_options(bundle.kind, bundle.unpack_options, options or {})
            own = bundle.unpack(part, name.disk, settings, progress, limit=policy.max_size)
            if own is not None:
                return Unpacked(target, bundle.kind, own.files, own.losses)
        made = _Directory(part)
        disks = list(bundle.disks) if name.disk is None else [bundle.find(name.disk)]
        renamed: dict[str, str] = {}
        if format is None and name.disk is not None:
            _copy_disk(bundle, disks[0], made, progress)
        elif format is None:
            _copy(bundle, list(bundle.folder.names()), made, policy.max_size, progress)
        else:
            suffix = find_format(format).extensions[0]
            sizes = [disk.size for disk in disks if disk.member]
            # Where one is not told, each disk has its own.
            together = over_all(progress, sizes) if all(sizes) else progress
            for disk in disks:
                if not disk.member:
                    continue
                new = made.free(f"{disk.name}{suffix}")
                with bundle.open_disk(disk.name, policy=policy, keys=keys) as opened:
                    convert(
                        opened, made.path(new), format=format, options=options, compress=compress,
                        threads=threads, policy=policy, progress=together,
                    )  # fmt: skip
                made.note(new)
                renamed[disk.member] = new
            if name.disk is None:
                _copy(bundle, _beside(bundle), made, policy.max_size, None)
        losses = _describe(bundle, made, dialect, renamed, target) if dialect is not None else ()
        return Unpacked(target, bundle.kind, made.files, losses)


class _Directory:
    """The new directory, under the name that it has until it is complete."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.files: dict[str, int] = {}

    def path(self, name: str) -> str:
        """Where the file ``name`` goes; its directory is made."""
        path = os.path.join(self._part, *joined("", name).split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def free(self, name: str) -> str:
        """``name``, or another one where that is taken."""
        stem, suffix = os.path.splitext(os.path.basename(name))
        number, found = 1, f"{stem}{suffix}"
        while found in self.files:
            number += 1
            found = f"{stem}-{number}{suffix}"
        return found

    def note(self, name: str) -> None:
        """The file ``name`` is there: it, or what it is a directory of."""
        path = self.path(name)
        if os.path.isdir(path):
            self.files[name] = storages.folder_sizes(path)[0]
        else:
            self.files[name] = os.path.getsize(path)

    def copy(self, name: str, source: Storage) -> None:
        """All of ``source``, its holes as holes."""
        with storages.open(self.path(name), "create") as target:
            for start, end, hole in source.extents(0, source.size):
                if hole or source.copy_range(start, target, start, end - start):
                    continue
                for offset in range(start, end, _CHUNK):
                    data = source.read(offset, min(_CHUNK, end - offset))
                    if data.count(0) != len(data):
                        target.write(offset, data)
            target.resize(source.size)
            target.flush()
        self.files[name] = source.size

    def write(self, name: str, data: bytes) -> None:
        with storages.open(self.path(name), "create") as target:
            target.write(0, data)
            target.flush()
        self.files[name] = len(data)


def _copy(
    bundle: Bundle,
    members: Sequence[str],
    made: _Directory,
    limit: int,
    progress: Progress | None,
) -> None:
    if len(members) > _MAX_FILES:
        raise UnsafeImage(f"{bundle.name}: holds {len(members)} files; {_MAX_FILES} are unpacked")
    done, total = 0, sum(bundle.folder.size(member) for member in members)
    check_total(bundle.name, total, limit)
    for member in members:
        with bundle.folder.open(member) as storage:
            made.copy(member, storage)
            done += storage.size
            if progress is not None:
                progress(done, max(1, total))


def _copy_disk(
    bundle: Bundle, disk: BundleDisk, made: _Directory, progress: Progress | None
) -> None:
    """The image of one disk, as it is; one that is no member of its own as what it amounts to."""
    with bundle.storage(disk) as storage:
        name = disk.member if bundle.folder.exists(disk.member) else f"{disk.name}.img"
        made.copy(name.rpartition("/")[2], storage)
        if progress is not None:
            progress(storage.size, max(1, storage.size))


def _beside(bundle: Bundle) -> list[str]:
    """Members that are no disks, and small: descriptions, variable stores, licences. What says how
    the old files are to be read, or what their checksums are, has no meaning beside the new ones.
    """
    disks = {disk.member for disk in bundle.disks}
    return [
        name
        for name in bundle.folder.names()
        if _is_kept(name.rpartition("/")[2].lower())
        and not any(name == disk or name.startswith(f"{disk}/") for disk in disks)
        and bundle.folder.size(name) <= _MAX_KEPT
    ]


def _is_kept(base: str) -> bool:
    return base.endswith(_KEPT) or base.startswith(_BOOT) or any(f"-{b}" in base for b in _BOOT)


def _describe(
    bundle: Bundle, made: _Directory, dialect: str, renamed: Mapping[str, str], target: str
) -> tuple[Loss, ...]:
    """Write the machines in ``dialect``; what that cannot say of them."""
    found = find_dialect(dialect)
    losses: list[Loss] = []
    if not bundle.machines:
        raise OptionError(f"{bundle.name}: describes no machine")
    for at, machine in enumerate(bundle.machines):
        new = _with_new_names(machine, at, bundle, renamed)
        written = found.write(anchored(new, target) if found.absolute else new)
        stem = made.free(f"{machine.name or 'machine'}{(*found.extensions, '.txt')[0]}")
        made.write(stem.replace("/", "-"), written.data)
        for name, data in written.files.items():
            made.write(name, data)
        losses += written.losses
    return tuple(losses)


def _with_new_names(
    machine: Machine, at: int, bundle: Bundle, renamed: Mapping[str, str]
) -> Machine:
    drives: list[Drive] = list(machine.drives)
    for disk in bundle.disks:
        if disk.drive is not None and disk.drive[0] == at and disk.member in renamed:
            new = renamed[disk.member]
            old = drives[disk.drive[1]]
            drives[disk.drive[1]] = replace(old, path=new, format=_format_of(new) or old.format)
    return replace(machine, drives=tuple(drives))


def _format_of(path: str) -> str:
    found = by_extension(path)
    return found.name if found is not None else ""
