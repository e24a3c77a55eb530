"""raw: the guest's bytes and nothing else. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Option

__all__ = ["RAW"]

RAW = Format(
    name="raw",
    title="Raw disk",
    implementation="vmimg.formats.raw.driver:RawDriver",
    extensions=(".raw", ".img", ".bin", ".dd", ".flp", ".vfd", ".ima"),
    options=(
        Option("preallocation", "allocate ahead", default="off", choices=("off", "falloc", "full")),
    ),
    capabilities=Capabilities(read=True, write=True, create=True, convert=True),
    limits=Limits(max_size=(1 << 63) - 1),
    spec="none: byte n of the file is byte n of the disk",
)
