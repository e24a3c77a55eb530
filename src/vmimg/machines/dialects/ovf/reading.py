"""Reading a descriptor: the envelope with its machines. Imports envelope, hardware, kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vmimg.machines import xml
from vmimg.machines.dialects.ovf.envelope import (
    Envelope,
    is_ovirt,
    parse_envelope,
    sections,
    systems,
)
from vmimg.machines.dialects.ovf.hardware import read_system
from vmimg.machines.dialects.ovf.kept import kept
from vmimg.machines.model import Machine

__all__ = ["envelope"]

_OPTIONS: Final = "DeploymentOptionSection"


def envelope(data: bytes, name: str) -> Envelope:
    """The descriptor in ``data``, with its machines. Raises FormatError."""
    root = xml.parse(data, name, root="Envelope")
    found = parse_envelope(root, name)
    machines = []
    places: dict[tuple[int, int], str] = {}
    for number, system in enumerate(systems(root)):
        machine, drives = read_system(system, found, name)
        if not is_ovirt(system):
            machine = _with_options(machine, root)
        machines.append(machine)
        places.update({(number, drive): id for drive, id in drives.items()})
    return replace(found, machines=tuple(machines), places=places)


def _with_options(machine: Machine, root: xml.Element) -> Machine:
    """``machine`` with the configurations that items of it may be for."""
    options = tuple((f"Envelope/{_OPTIONS}", kept(each)) for each in sections(root, _OPTIONS))
    if not options:
        return machine
    extras = {**machine.extras, "ovf": (*machine.extras.get("ovf", ()), *options)}
    return replace(machine, extras=extras)
