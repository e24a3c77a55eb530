"""Reading a descriptor: the envelope with its machines. Imports envelope and hardware."""

from __future__ import annotations

from dataclasses import replace

from vmimg.machines import xml
from vmimg.machines.dialects.ovf.envelope import Envelope, parse_envelope, systems
from vmimg.machines.dialects.ovf.hardware import read_system

__all__ = ["envelope"]


def envelope(data: bytes, name: str) -> Envelope:
    """The descriptor in ``data``, with its machines. Raises FormatError."""
    root = xml.parse(data, name, root="Envelope")
    found = parse_envelope(root, name)
    machines = []
    places: dict[tuple[int, int], str] = {}
    for number, system in enumerate(systems(root)):
        machine, drives = read_system(system, found, name)
        machines.append(machine)
        places.update({(number, drive): id for drive, id in drives.items()})
    return replace(found, machines=tuple(machines), places=places)
