"""The variables of a machine's UEFI firmware, from the file that keeps them. Imports probe."""

from __future__ import annotations

import os

from vmimg.errors import FormatError
from vmimg.formats.opening import open_file
from vmimg.formats.raw.findings import View
from vmimg.probe.claims import SURE
from vmimg.probe.detecting import detect_storage
from vmimg.probe.firmware import VariableStore, find_volumes, read_store

__all__ = ["variable_store"]


def variable_store(path: str | os.PathLike[str]) -> VariableStore:
    """The store in the file at ``path``, with names, owners and sizes; values are not read.

    Raises FormatError where there is none.
    """
    with open_file(path, lock=False) as storage:
        view = View(storage, 0, storage.size)
        for volume in find_volumes(view):
            if volume.holds_variables:
                store = read_store(view, volume)
                if store is not None:
                    return store
        best = detect_storage(storage).best
    what = f"; it is {best.title}" if best.confidence >= SURE else ""
    raise FormatError(f"{os.fspath(path)}: there is no UEFI variable store in it{what}")
