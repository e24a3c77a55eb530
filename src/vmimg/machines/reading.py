"""Descriptions in files: which dialect a file is in, found by its content, and what it says.

Imports probe, to detect.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, Final

from vmimg.errors import FormatError, OptionError
from vmimg.formats.opening import open_file
from vmimg.machines.dialect import Dialect, Written
from vmimg.machines.model import Machine
from vmimg.machines.registry import DIALECTS, by_claim, by_extension, find
from vmimg.probe.claims import SURE, Claim
from vmimg.probe.detecting import detect_storage

__all__ = ["Description", "anchored", "dialect_for", "read_machines", "write_machine"]

# A .vbox with many snapshots has some MiB.
_MAX_BYTES: Final = 64 << 20
# Not what Windows, an ESXi's datastore or a URL begins with.
_RELATIVE: Final = re.compile(r"(?![/\\[]|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://).")
_HINTS: Final = {
    "vmsd": "the .vmx beside it describes the machine, and is read together with it",
    "vmware-state": "the .vmx beside it describes the machine",
    "vmware-nvram": "the .vmx beside it describes the machine",
    "uefi-vars": "`vmimg machine vars` lists them",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a file says: ``machines``, in ``dialect``."""

    path: str
    dialect: Dialect
    machines: tuple[Machine, ...]


def read_machines(path: str | os.PathLike[str], *, dialect: str | None = None) -> Description:
    """The machines that the file at ``path`` describes.

    ``dialect``: a name of `DIALECTS`; found by the content where None, and by the extension where
    that does not tell. Raises FormatError for what breaks the dialect's rules, and where none fits.
    """
    text = os.fspath(path)
    given = find(dialect) if dialect is not None else None
    with open_file(text, lock=False) as storage:
        if storage.size > _MAX_BYTES:
            raise FormatError(f"{text}: has {storage.size} bytes: no description of a machine has")
        data = storage.read(0, storage.size)
        detection = None if given else detect_storage(storage)
    found = given or (_detected(detection.claims) if detection else None) or by_extension(text)
    if found is None and detection is not None and detection.best.confidence >= SURE:
        best = detection.best
        raise FormatError(f"{text}: describes no machine: it is {best.title}{_hint(best)}")
    if found is None or not found.reads:
        known = ", ".join(each.name for each in DIALECTS.values() if each.reads)
        raise FormatError(
            f"{text}: is no description of a machine that can be told by itself; pass -f with one "
            f"of {known}"
        )
    return Description(text, found, found.read(data, text))


def anchored(machine: Machine, folder: str) -> Machine:
    """``machine`` with absolute paths of the files that it names relative to ``folder``."""

    def path(text: str) -> str:
        return os.path.abspath(os.path.join(folder, text)) if _RELATIVE.match(text) else text

    drives = tuple(
        replace(drive, path=path(drive.path)) if drive.source in ("", "file") else drive
        for drive in machine.drives
    )
    firmware = replace(
        machine.firmware,
        variables=path(machine.firmware.variables),
        loader=path(machine.firmware.loader),
    )
    return replace(machine, drives=drives, firmware=firmware)


def dialect_for(name: str | None, path: str = "") -> Dialect:
    """The dialect to write: that of the ``name``, or of the extension of ``path``."""
    found = find(name) if name is not None else by_extension(path, writes=True)
    if found is None:
        known = ", ".join(each.name for each in DIALECTS.values() if each.writes)
        raise OptionError(f"{path}: its extension names no dialect; pass -O with one of {known}")
    return found


def write_machine(
    machine: Machine, dialect: str | None = None, *, path: str = ""
) -> tuple[Dialect, Written]:
    """``machine`` in ``dialect``, or in that of the extension of ``path``."""
    found = dialect_for(dialect, path)
    return found, found.write(machine)


def _hint(claim: Claim) -> str:
    """What to do instead, if something can be done."""
    if claim.name in _HINTS:
        return f"; {_HINTS[claim.name]}"
    return "; `vmimg info` shows what it says" if claim.family == "disk" else ""


def _detected(claims: Any) -> Dialect | None:
    for claim in claims:
        found = by_claim(claim.name)
        if found is not None:
            return found
    return None
