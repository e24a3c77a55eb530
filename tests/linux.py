"""A real Linux to work on; the fixture `alpine` of conftest.py is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Alpine"]


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
