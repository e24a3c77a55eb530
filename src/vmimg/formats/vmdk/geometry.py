"""Geometry: the cylinders, heads and sectors that VMware gives a disk.

No current guest needs it, but VMware warns of disks without one, and old boot loaders believe it.
The rules are those of VMware's own tools (knowledge base 1026266, "Recreating a missing virtual
machine disk descriptor file"; the BusLogic rules of its manuals): IDE disks count as ATA does, SCSI
disks as the controllers of BusLogic and LSI do. Cylinders are rounded down, as in vSphere exports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmimg.formats.vmdk.structures import SECTOR
from vmimg.units import GIB

__all__ = ["Geometry", "disk_geometry"]

# ATA's registers count no further (ATA-5, 16514064 sectors).
_MAX_IDE_CYLINDERS: Final = 16383
# open-vmdk's, and that of a BIOS: 16 bits.
_MAX_SCSI_CYLINDERS: Final = 65535


@dataclass(frozen=True, slots=True)
class Geometry:
    """``sectors`` are those of a track."""

    cylinders: int
    heads: int
    sectors: int


def disk_geometry(sectors: int, adapter_type: str) -> Geometry:
    """The geometry of a disk of ``sectors`` at a controller of ``adapter_type`` (ide or SCSI)."""
    if adapter_type == "ide":
        heads, track, most = 16, 63, _MAX_IDE_CYLINDERS
    else:
        most = _MAX_SCSI_CYLINDERS
        if sectors < GIB // SECTOR:
            heads, track = 64, 32
        elif sectors < 2 * GIB // SECTOR:
            heads, track = 128, 32
        else:
            heads, track = 255, 63
    return Geometry(max(1, min(most, sectors // (heads * track))), heads, track)
