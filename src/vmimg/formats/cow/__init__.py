"""COW, the format that QEMU had before qcow. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.cow.structures import MAX_SIZE
from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option

__all__ = ["COW"]

COW = Format(
    name="cow",
    title="QEMU's first copy-on-write, after User Mode Linux",
    implementation="vmimg.formats.cow.driver:CowDriver",
    extensions=(".cow",),
    magic=(Magic(0, b"OOOM"), Magic(0, b"MOOO\1\0\0\0")),
    options=(
        Option("backing_file", "the image that unwritten sectors are read from"),
        Option("backing_fmt", "format of the backing file; the image has no place to say it"),
    ),
    capabilities=Capabilities(
        read=True, write=True, create=True, convert=True, parent=True, check=True
    ),
    limits=Limits(max_size=MAX_SIZE, larger="qcow2"),
    spec="QEMU block/cow.c (up to version 2.2)",
)
