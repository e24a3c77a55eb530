"""The registry: every format in one line, and how names are resolved to formats.

Third parties add formats through the entry-point group ``vmimg.formats``; each entry point is a
`Format`. Entry points are read only when a name is not one of ours, to keep start-up fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from vmimg.errors import OptionError
from vmimg.formats.bochs import BOCHS
from vmimg.formats.cloop import CLOOP
from vmimg.formats.cow import COW
from vmimg.formats.descriptor import Format
from vmimg.formats.dmg import DMG
from vmimg.formats.iso import ISO
from vmimg.formats.luks import LUKS
from vmimg.formats.parallels import PARALLELS
from vmimg.formats.qcow import QCOW
from vmimg.formats.qcow2 import QCOW2
from vmimg.formats.qed import QED
from vmimg.formats.raw import RAW
from vmimg.formats.split import SPLIT
from vmimg.formats.vdi import VDI
from vmimg.formats.vhd import VHD
from vmimg.formats.vhdx import VHDX
from vmimg.formats.vmdk import VMDK

__all__ = ["FORMATS", "all_formats", "by_extension", "find"]

_GROUP: Final = "vmimg.formats"

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format.name: format
        for format in (
            RAW,
            QCOW2,
            QCOW,
            COW,
            VMDK,
            VHD,
            VHDX,
            VDI,
            DMG,
            PARALLELS,
            LUKS,
            ISO,
            CLOOP,
            SPLIT,
            QED,
            BOCHS,
        )
    }
)
"""The formats that come with vmimg, by name."""


def all_formats() -> Iterator[Format]:
    """Ours first, then those of third parties."""
    yield from FORMATS.values()
    yield from _plugins()


def find(name: str) -> Format:
    """The format of that name or alias. Raises OptionError, listing the names, for any other."""
    wanted = name.lower()
    for format in all_formats():
        if wanted == format.name or wanted in format.aliases:
            return format
    names = ", ".join(format.name for format in all_formats())
    raise OptionError(f"there is no format '{name}'; known are: {names}")


def by_extension(path: str) -> Format | None:
    """The format that files called like ``path`` have, or None."""
    lowered = path.lower()
    for format in all_formats():
        if lowered.endswith(format.extensions):
            return format
    return None


@cache
def _plugins() -> tuple[Format, ...]:
    if not _any_plugin():
        return ()
    from importlib.metadata import entry_points

    return tuple(point.load() for point in entry_points(group=_GROUP))


def _any_plugin() -> bool:
    """Whether any distribution has entry points of our group.

    importlib.metadata takes 75 ms to say so, half of what `vmimg info` takes; this takes 2.
    """
    wanted = f"[{_GROUP}]".encode()
    for folder in sys.path:
        try:
            with os.scandir(folder or os.curdir) as entries:
                names = [e.path for e in entries if e.name.endswith((".dist-info", ".egg-info"))]
        except OSError:  # a zip file, or not there
            continue
        for name in names:
            try:
                with open(os.path.join(name, "entry_points.txt"), "rb") as file:
                    if wanted in file.read():
                        return True
            except OSError:
                continue
    return False
