"""A real Linux to work on; the fixture `alpine` of conftest.py is one."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import peers
from kinds import qemu_name

__all__ = ["PATIENCE", "Alpine", "boots"]

PATIENCE = 300
"""Seconds. Software emulation on a busy machine with two processors: a minute is usual."""


@dataclass(frozen=True, slots=True)
class Alpine:
    """A real Alpine Linux: an ext4 root disk (1 GiB, qcow2 with zlib clusters) and what boots it.

    The files belong to the installed package and to all tests: read them, copy them, never write.
    """

    qcow2: Path
    kernel: Path
    initrd: Path

    append = "root=/dev/vda console=ttyS0 rootfstype=ext4 modules=virtio_blk,ext4"
    """The kernel's command line; a `getty` line on the serial console shows that it is up."""


def boots(alpine: Alpine, image: Path, format: str, log: Path) -> bool:
    """Start it, without writing to it, and wait for a getty on the serial console."""
    peers.require("qemu-system-x86_64")
    command = [
        *("qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-m", "256", "-display", "none"),
        *("-monitor", "none", "-serial", f"file:{log}", "-no-reboot", "-nic", "none"),
        *("-kernel", alpine.kernel, "-initrd", alpine.initrd, "-append", alpine.append),
        *("-drive", f"file={image},format={qemu_name(format)},if=virtio,snapshot=on"),
    ]
    machine = subprocess.Popen(list(map(os.fspath, command)), stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and machine.poll() is None:
            if log.exists() and b"getty" in log.read_bytes():
                return True
            time.sleep(0.5)
    finally:
        machine.kill()
        machine.communicate()
    return False
