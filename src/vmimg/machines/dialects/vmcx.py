"""Hyper-V's .vmcx of a machine or a snapshot, since Windows Server 2016. It is only read.

The keys are those of the older .xml, in a binary store; a .vmrs, the state of a machine when it was
saved, is another such store, in which no machine is described. Imports `probe` and hyperv_settings.
"""

from __future__ import annotations

from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.machines.dialects.hyperv_settings import Value, created, machine_of
from vmimg.machines.model import Machine
from vmimg.probe.hyperv_keys import read_keys
from vmimg.storage.memory import MemoryStorage

__all__ = ["read", "read_created"]


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine in ``data``."""
    return (machine_of(_values(data, name), "vmcx", name),)


def read_created(data: bytes, name: str) -> str:
    """When the machine or the snapshot was made, "" where that is not told."""
    return created(_values(data, name))


def _values(data: bytes, name: str) -> dict[str, Value]:
    storage = MemoryStorage(data, name)
    found = read_keys(View(storage, 0, storage.size), name)
    root = "configuration/"
    values = {
        path.removeprefix(root): each for path, each in found.items() if path.startswith(root)
    }
    if not values:
        held = ", ".join(sorted({path.partition("/")[0] for path in found})[:4]) or "nothing"
        raise FormatError(f"{name}: is no configuration of a machine of Hyper-V: it holds {held}")
    return values
