"""Vetters: what a stranger can do with files that are no disk formats, by family.

Each module has VETTERS, by the name of the claim that it vets. Disk formats vet themselves
(`Driver.vet`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from time import process_time
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding
from vmimg.storage.base import Storage

__all__ = ["Vetter", "unpacked", "vetters"]

Vetter = Callable[[View], Iterator[Finding]]

_MODULES: Final = (
    "archives",
    "bundles",
    "compressed",
    "wim",
    "cpio",
    "boot",
    "firmware",
    "machines",
    "texts",
    "states",
)
# What is vetted of a stream, unpacked in memory: all of it, or it is said not to be.
_MAX_UNPACKED: Final = 48 << 20
_MAX_TAKEN: Final = 16 << 20
_SECONDS: Final = 0.4


def vetters(name: str) -> tuple[Vetter, ...]:
    """Those for the claim ``name``."""
    return tuple(table[name] for table in _tables() if name in table)


def unpacked(view: View) -> tuple[Storage | None, bool]:
    """What a stream unpacks to, as far as vetting may hold it, and whether that is all of it."""
    from vmimg.probe.streams import Unpacking, stream_kind
    from vmimg.storage.memory import MemoryStorage

    kind = stream_kind(view.read(0, min(16, view.size)))
    if not kind or kind == "compress":
        return None, False
    unpacking = Unpacking(view, kind, limit=_MAX_TAKEN)
    unpacking.enough = _MAX_UNPACKED
    storage = MemoryStorage(name=f"what is in {view.storage.name}")
    until = process_time() + _SECONDS
    for piece in unpacking:
        storage.write(storage.size, piece)
        if storage.size > _MAX_UNPACKED or process_time() > until:
            return storage, False
    return storage, unpacking.state == "whole"


@cache
def _tables() -> tuple[dict[str, Vetter], ...]:
    return tuple(import_module(f"vmimg.probe.vetters.{name}").VETTERS for name in _MODULES)
