"""VDI, VirtualBox's disk image. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.formats.vdi.structures import MAX_BLOCKS, MAX_NEW_BLOCK, MIN_NEW_BLOCK
from vmimg.units import MIB

__all__ = ["VDI"]

VDI = Format(
    name="vdi",
    title="VirtualBox disk image",
    implementation="vmimg.formats.vdi.driver:VdiDriver",
    extensions=(".vdi",),
    magic=(Magic(0x40, b"\x7f\x10\xda\xbe"),),
    subformats=("dynamic", "fixed"),
    options=(
        Option(
            "subformat",
            "grow as blocks are written, or have all blocks from the start",
            default="dynamic",
            choices=("dynamic", "fixed"),
        ),
        Option("static", "the same as subformat=fixed", kind="bool", default=False),
        Option(
            "preallocation",
            "metadata is the same as subformat=fixed",
            default="off",
            choices=("off", "metadata"),
        ),
        Option(
            "block_size",
            "bytes of a block, 4k to 256M (QEMU and 7-Zip read 1M only)",
            kind="size",
            default=MIB,
        ),
        Option("uuid", "the image's identity; made from its layout where not given"),
        Option("backing_file", "the VDI that unwritten blocks are read from"),
        Option("backing_fmt", "format of the backing file: vdi"),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        parent_format="vdi",
    ),
    # The map ends in front of the first 4 GiB, because a field of 32 bits says where data begins:
    # 1023.5 TiB with the usual blocks of 1 MiB.
    limits=Limits(max_size=MAX_BLOCKS * MAX_NEW_BLOCK, block_sizes=(MIN_NEW_BLOCK, MAX_NEW_BLOCK)),
    spec="VirtualBox src/VBox/Storage/VDICore.h",
)
