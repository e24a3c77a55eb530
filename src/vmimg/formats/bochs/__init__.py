"""The growing disk images of the Bochs emulator. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.bochs.structures import MAGIC, MAX_CATALOG, MAX_EXTENT, SECTOR
from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic

__all__ = ["BOCHS"]

BOCHS = Format(
    name="bochs",
    title="Bochs growing disk",
    implementation="vmimg.formats.bochs.driver:BochsDriver",
    # Bochs calls them .img, which is what everybody calls a raw disk.
    extensions=(".bochs",),
    magic=(Magic(0, MAGIC),),
    capabilities=Capabilities(read=True, check=True),
    limits=Limits(
        max_size=MAX_CATALOG * MAX_EXTENT, block_sizes=(SECTOR, MAX_EXTENT), larger="qcow2"
    ),
    spec="Bochs development manual, harddisk redologs; iodev/hdimage/hdimage.h",
)
