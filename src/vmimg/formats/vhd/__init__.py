"""VHD, the disk format of Virtual PC, Hyper-V and Azure. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.units import GIB, KIB, MIB

__all__ = ["VHD"]

VHD = Format(
    name="vhd",
    aliases=("vpc",),
    title="Microsoft Virtual Hard Disk",
    implementation="vmimg.formats.vhd.driver:VhdDriver",
    extensions=(".vhd", ".vpc", ".avhd"),
    # In front there is a copy of the footer, but in fixed disks; before Virtual PC 2004 the footer
    # had 511 bytes.
    magic=(Magic(0, b"conectix"), Magic(-512, b"conectix"), Magic(-511, b"conectix")),
    subformats=("dynamic", "fixed"),
    options=(
        Option(
            "subformat",
            "dynamic grows as it is written, fixed is the bare disk with a footer",
            default="dynamic",
            choices=("dynamic", "fixed"),
        ),
        Option("force_size", "accepted for qemu-img's sake: sizes are always exact", kind="bool"),
        Option(
            "block_size",
            "bytes of a block, a power of two from 512k to 256M; Windows takes 512k and 2M",
            kind="size",
            default=2 * MIB,
        ),
        Option("backing_file", "the image that unwritten sectors are read from"),
        Option("backing_fmt", "format of the backing file: vhd"),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        parent_format="vhd",
    ),
    limits=Limits(max_size=2040 * GIB, block_sizes=(512 * KIB, 256 * MIB), larger="vhdx"),
    spec="Microsoft Virtual Hard Disk Image Format Specification 1.0",
)
