"""Making bundles that are directories: the disks converted into it, the description beside them.

Imports described, transfer and machines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from vmimg import storage as storages
from vmimg.bundles.described import renamed
from vmimg.bundles.package import How, Made, Package
from vmimg.errors import OptionError
from vmimg.formats.registry import find as find_format
from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine
from vmimg.machines.registry import find
from vmimg.storage.base import Storage
from vmimg.storage.output import OutputSet
from vmimg.transfer.convert import convert

__all__ = ["make_folder"]

_PIECE: Final = 4 << 20


def make_folder(
    package: Package,
    target: str,
    how: How,
    *,
    format: str,
    dialect: str,
    description: str,
    options: Mapping[str, Any] | None = None,
    options_of: Callable[[str], Mapping[str, Any]] | None = None,
    settle: Callable[[Machine, Package, str], Machine] | None = None,
    disks_in: str = "",
    folders: Sequence[str] = (),
) -> Made:
    """A directory ``target`` with the disks of ``package`` as ``format``, and the machine in
    ``dialect`` in the file ``description``. ``options_of``: further options of the disk whose file
    has that name.

    ``options``: of all images. ``settle``: the machine as it is when the images are made, in the
    directory that it is given. ``disks_in``: the directory in it for the disks; ``folders``: all
    that there are. An existing directory is replaced only if it holds such a machine. Nothing is
    left of one that could not be finished.
    """
    found = find_format(how.format or format)
    suffix = found.extensions[0]
    machine, losses = _without_past(package.machine, package)
    with OutputSet() as outputs:
        part = outputs.folder(target, description, replace=how.replace)
        for folder in folders:
            os.mkdir(os.path.join(part, folder))
        paths: dict[int, tuple[str, str]] = {}
        for packed in package.disks:
            name = f"{packed.name}{suffix}"
            convert(
                packed.disk,
                os.path.join(part, disks_in, name),
                format=found.name,
                options={
                    **(options or {}),
                    **(options_of(name) if options_of else {}),
                    **how.disk_options,
                },
                threads=how.threads,
                level=how.level,
                target_keys=how.keys,
                progress=how.progress,
            )
            paths[packed.drive] = (name, found.name)
        machine = renamed(machine, paths)
        if settle is not None:
            machine = settle(machine, package, part)
        written = find(dialect).write(machine)
        losses += written.losses
        for name, storage in package.files.items():
            _check_name(name, part, (description, *folders), target)
            _copy(storage, os.path.join(part, name))
        for name, data in {**written.files, description: written.data}.items():
            # What was given is better than what is made up.
            if name not in package.files:
                with storages.open(os.path.join(part, name), "create") as file:
                    file.write(0, data)
                    file.flush()
        size = sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(part)
            for name in names
        )
    return Made(target, size, tuple(losses))


def _without_past(machine: Machine, package: Package) -> tuple[Machine, list[Loss]]:
    """``machine`` without what is written nowhere: states of before, and a variable store that does
    not come along.
    """
    losses = [
        Loss(f"snapshots[{at}]", each.name or each.id, "the disks are written as they are now")
        for at, each in enumerate(machine.snapshots)
    ]
    machine = replace(machine, snapshots=())
    variables = machine.firmware.variables
    if variables:
        last = re.split(r"[\\/]", variables)[-1]
        there = last in package.files
        if not there:
            losses.append(Loss("firmware.variables", variables, "the file does not come along"))
        firmware = replace(machine.firmware, variables=last if there else "")
        machine = replace(machine, firmware=firmware)
    return machine, losses


def _check_name(name: str, part: str, taken: tuple[str, ...], target: str) -> None:
    plain = os.path.basename(name) == name and name not in ("", ".", "..")
    if not plain or name in taken or os.path.lexists(os.path.join(part, name)):
        raise OptionError(f"'{name}' is no name for a further file in {target}")


def _copy(storage: Storage, path: str) -> None:
    with storages.open(path, "create") as copy:
        for start in range(0, storage.size, _PIECE):
            copy.write(start, storage.read(start, min(_PIECE, storage.size - start)))
        copy.flush()
