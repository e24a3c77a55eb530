"""A real Linux to work on; the fixture `alpine` of conftest.py is one."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import peers
from kinds import qemu_name

__all__ = ["INIT", "LOGIN", "PATIENCE", "Alpine", "boots"]

PATIENCE = 300
"""Seconds. Software emulation on a busy machine with two processors: a minute is usual."""

INIT = b"OpenRC"
"""On its console when the root file system is mounted and /sbin/init of it runs programs."""
LOGIN = b"getty"
"""When all services are started; that takes three times as long."""


@dataclass(frozen=True, slots=True)
class Alpine:
    """A real Alpine Linux: an ext4 root disk (1 GiB, qcow2 with zlib clusters) and what boots it.

    The files belong to the installed package and to all tests: read them, copy them, never write.
    """

    qcow2: Path
    kernel: Path
    initrd: Path

    append = "root=/dev/vda console=ttyS0 rootfstype=ext4 modules=virtio_blk,ext4"
    """The kernel's command line."""


def boots(alpine: Alpine, image: Path, format: str, log: Path, *, until: bytes = LOGIN) -> bool:
    """Start it, without writing to it, and wait for ``until`` on the serial console."""
    peers.require("qemu-system-x86_64")
    # Nothing that is not needed: drivers of a screen and of a CD take their time, and so do the
    # many instructions of the largest processor.
    command = [
        *("qemu-system-x86_64", "-M", "pc", "-cpu", "qemu64", "-m", "256", "-display", "none"),
        *("-nodefaults", "-no-user-config", "-serial", f"file:{log}", "-no-reboot"),
        *("-kernel", alpine.kernel, "-initrd", alpine.initrd, "-append", alpine.append),
        *("-drive", f"file={image},format={qemu_name(format)},if=virtio,snapshot=on"),
    ]
    machine = subprocess.Popen(list(map(os.fspath, command)), stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and machine.poll() is None:
            if log.exists() and until in log.read_bytes():
                return True
            time.sleep(0.5)
    finally:
        machine.kill()
        machine.communicate()
    return False
