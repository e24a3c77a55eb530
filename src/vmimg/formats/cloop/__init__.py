"""cloop, the compressed disk of Knoppix. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.units import MIB

__all__ = ["CLOOP"]

CLOOP = Format(
    name="cloop",
    title="Compressed loop of Knoppix",
    implementation="vmimg.formats.cloop.driver:CloopDriver",
    extensions=(".cloop",),
    magic=(
        # The number of the version in the second line of a script, in front or at the end.
        *(Magic(place, version) for place in (11, -125) for version in (b"V2.0", b"V4.0")),
        Magic(-8, b"\nCLOOP3\n"),
    ),
    options=(
        Option(
            "cluster_size",
            "bytes of a block, a multiple of 512 that divides the size; unless set, the one that "
            "is nearest to 64k",
            kind="size",
        ),
    ),
    capabilities=Capabilities(
        read=True, create=True, convert=True, check=True, compression=("deflate",)
    ),
    # What QEMU opens: fewer than 2^26 blocks, of 64 MiB at most.
    limits=Limits(max_size=((1 << 26) - 1) * 64 * MIB, block_sizes=(512, 64 * MIB), larger="qcow2"),
    spec="cloop.h of cloop 2 (V2.0) and 4 (V4.0); compressed_loop.h of cloop-utils 4 (CLOOP3)",
)
