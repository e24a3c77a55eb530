"""Package: what goes into a bundle that is being made, how, and what came of it.

Imports disk, machines and transfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmimg.codecs import Level
from vmimg.disk.stack import Disk
from vmimg.formats.keys import Keys
from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine
from vmimg.storage.base import Storage
from vmimg.transfer.engine import Progress

__all__ = ["How", "Made", "Package", "PackedDisk"]


@dataclass(frozen=True, slots=True)
class PackedDisk:
    """A disk that goes into a bundle. ``name``: a file's name without extension, unique.
    ``drive``: which of the machine's drives it is.
    """

    name: str
    disk: Disk
    drive: int


@dataclass(frozen=True, slots=True)
class Package:
    """``machine`` has one drive for each of ``disks``, besides CDs and floppies. ``files``: other
    things to be carried along, by name: a variable store, a licence, a boot kernel. ``directory``:
    what a kind is made of that carries files and no disks.
    """

    machine: Machine
    disks: tuple[PackedDisk, ...]
    files: Mapping[str, Storage] = field(default_factory=dict)
    directory: str = ""


@dataclass(frozen=True, slots=True)
class How:
    """``options`` of the kind, parsed. ``format``: of the disks, "" for the kind's usual one;
    ``disk_options`` of that format. ``level``: how hard to compress. ``replace``: the target may
    exist.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    format: str = ""
    disk_options: Mapping[str, Any] = field(default_factory=dict)
    level: Level = "default"
    threads: int = 0
    replace: bool = False
    keys: Keys | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """``path``, ``size`` in bytes (of all files, for a directory); ``losses``: of the machine."""

    path: str
    size: int
    losses: tuple[Loss, ...] = ()
