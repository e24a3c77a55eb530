"""Reading the .xml. Imports leaves, keeping and hyperv_settings."""

from __future__ import annotations

from dataclasses import replace

from vmimg.machines.dialects.hyperv_settings import created, reading
from vmimg.machines.dialects.hyperv_xml.keeping import OWN, kept
from vmimg.machines.dialects.hyperv_xml.leaves import ROOT, leaves_of, values_of
from vmimg.machines.model import Machine
from vmimg.machines.xml import parse

__all__ = ["read", "read_created"]


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine in ``data``."""
    leaves = leaves_of(parse(data, name, root=ROOT), name)
    found = reading(values_of(leaves), name)
    extras = kept(leaves, found)
    return (replace(found.machine, extras={OWN: extras}) if extras else found.machine,)


def read_created(data: bytes, name: str) -> str:
    """When the machine or the snapshot was made, "" where that is not told."""
    return created(values_of(leaves_of(parse(data, name, root=ROOT), name)))
