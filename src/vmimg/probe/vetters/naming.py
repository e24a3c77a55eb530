"""What to say of a path that a machine's description names. Nothing is looked up.

A description is for the host that it was written on, and some programs know absolute paths only: so
the caller says how bad it is. Devices and the system's own files are worse than others everywhere.
Imports vetting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from vmimg.formats.vetting import Finding, Severity, is_outside

__all__ = ["is_device", "named"]

_DEVICE: Final = re.compile(r"(?:/dev/|\\\\[.?]\\|//[.?]/)", re.IGNORECASE)
# Where no disk, log or port of a machine lies, and what it would be a loss to read or overwrite.
_SYSTEM: Final = ("/etc", "/proc", "/sys", "/boot", "/root", "/var/log", "/var/spool", "/bin",
                  "/sbin", "/lib")  # fmt: skip
_WINDOWS: Final = re.compile(r"[a-z]:[\\/](?:windows|program files)", re.IGNORECASE)


def is_device(name: str) -> bool:
    """Whether ``name`` is a device of the host or a named pipe of Windows."""
    return _DEVICE.match(name) is not None


def named(
    name: str,
    what: str,
    *,
    outside: Severity = Severity.ERROR,
    device: Severity = Severity.ERROR,
) -> Iterator[Finding]:
    """What is wrong with a file called ``name``; nothing if it lies beside the description.

    ``what``: "a disk". ``outside``, ``device``: how bad it is where it lies elsewhere, or is a
    device; of the system's own files and of other hosts it is an error.
    """
    if is_device(name):
        message = f"{what} is the device '{name}'"
        yield Finding.of("device-extent", message, evidence=name, severity=device)
    elif is_outside(name):
        where = ""
        if _is_systems(name):
            outside, where = Severity.ERROR, ", which is the system's"
        elif name.startswith(("\\\\", "//")):
            outside, where = Severity.ERROR, ", on another host"
        message = f"{what} is '{name}'{where}"
        yield Finding.of("names-outside", message, evidence=name, severity=outside)


def _is_systems(name: str) -> bool:
    path = name.removeprefix("file://")
    if _WINDOWS.match(path):
        return True
    return any(path == folder or path.startswith(f"{folder}/") for folder in _SYSTEM)
