"""DMG, the disk image of macOS (UDIF). This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.units import KIB, MIB

__all__ = ["DMG"]

_SUBFORMATS = ("UDZO", "UDBZ", "ULFO", "ULMO", "UDRO")

DMG = Format(
    name="dmg",
    title="Apple disk image",
    implementation="vmimg.formats.dmg.driver:DmgDriver",
    extensions=(".dmg",),
    aliases=("udif",),
    magic=(
        Magic(-512, b"koly"),
        Magic(0, b"koly"),
        Magic(0, b"encrcdsa"),
        Magic(-8, b"cdsaencr"),
    ),
    subformats=_SUBFORMATS,
    options=(
        Option(
            "subformat",
            "compression: UDZO zlib, UDBZ bzip2, ULFO LZFSE, ULMO LZMA, UDRO none",
            default="UDZO",
            choices=_SUBFORMATS,
        ),
        Option("cluster_size", "bytes of a chunk", kind="size", default=1 * MIB),
    ),
    capabilities=Capabilities(
        read=True,
        create=True,
        convert=True,
        check=True,
        compression=("zlib", "bzip2", "lzfse", "lzma"),
        encryption="read",
    ),
    # Sectors are counted in 64 bits; this is where 64-bit offsets of files end, and a little less.
    limits=Limits(max_size=1 << 60, block_sizes=(64 * KIB, 16 * MIB)),
    spec='J. Levin "Demystifying the DMG File Format"; libmodi "Mac OS disk image types"',
)
