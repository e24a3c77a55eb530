"""split: a raw disk cut into pieces that are numbered. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Option
from vmimg.units import GIB

__all__ = ["SPLIT"]

SPLIT = Format(
    name="split",
    title="Raw disk in parts",
    implementation="vmimg.formats.split.driver:SplitDriver",
    extensions=(".001", ".000", ".aa"),
    options=(
        Option(
            "part_size",
            "bytes of a part, but the last: 999 of them are called .001 to .999, 676 .aa to .zz",
            kind="size",
            default=2 * GIB,
        ),
        Option("preallocation", "allocate ahead", default="off", choices=("off", "falloc", "full")),
    ),
    capabilities=Capabilities(read=True, write=True, create=True, convert=True),
    limits=Limits(max_size=(1 << 63) - 1, larger="raw"),
    spec="none: the parts one behind the other, as split(1), dd, FTK Imager and 7-Zip cut them",
)
