"""VHDX, the virtual hard disk of Hyper-V since 2012. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.units import MIB, TIB

__all__ = ["VHDX"]

VHDX = Format(
    name="vhdx",
    title="Microsoft Hyper-V virtual hard disk v2",
    implementation="vmimg.formats.vhdx.driver:VhdxDriver",
    extensions=(".vhdx", ".avhdx"),
    magic=(Magic(0, b"vhdxfile"),),
    subformats=("dynamic", "fixed"),
    options=(
        Option(
            "subformat",
            "dynamic (blocks as they are written) or fixed (all blocks at once)",
            default="dynamic",
            choices=("dynamic", "fixed"),
        ),
        Option(
            "block_size",
            "bytes of a block, a power of two from 1M to 256M; 0 picks one by the disk's size",
            kind="size",
            default=0,
        ),
        Option("log_size", "bytes of the log, whole MiB", kind="size", default=MIB),
        Option(
            "block_state_zero",
            "mark blocks without data as zeros, not as absent",
            kind="bool",
            default=True,
        ),
        Option(
            "logical_sector_size",
            "bytes of a sector as the guest sees it",
            kind="size",
            default=512,
            choices=(512, 4096),
        ),
        Option(
            "physical_sector_size",
            "bytes of a sector of the medium, as told to the guest",
            kind="size",
            default=4096,
            choices=(512, 4096),
        ),
        Option("backing_file", "the parent of a differencing disk"),
        Option("backing_fmt", "format of the parent: vhdx"),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        parent_format="vhdx",
    ),
    limits=Limits(max_size=64 * TIB, block_sizes=(MIB, 256 * MIB)),
    spec="MS-VHDX",
)
