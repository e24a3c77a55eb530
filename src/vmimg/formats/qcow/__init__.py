"""qcow, QEMU's first copy-on-write format (version 1). This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.formats.qcow.structures import (
    MAX_CLUSTER_BITS,
    MAX_SIZE,
    MIN_CLUSTER_BITS,
)

__all__ = ["QCOW"]

QCOW = Format(
    name="qcow",
    title="QEMU copy-on-write 1",
    implementation="vmimg.formats.qcow.driver:QcowDriver",
    # Files called .qcow are qcow2 nearly always, and a new one should be.
    extensions=(".qcow1",),
    aliases=("qcow1",),
    magic=(Magic(0, b"QFI\xfb\0\0\0\1"),),
    options=(
        Option("backing_file", "the image that unwritten clusters are read from"),
        Option("backing_fmt", "format of the backing file; the image has no place to say it"),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        compression=("zlib",),
        encryption="read",
    ),
    limits=Limits(
        max_size=MAX_SIZE,
        block_sizes=(1 << MIN_CLUSTER_BITS, 1 << MAX_CLUSTER_BITS),
        larger="qcow2",
    ),
    spec="QEMU block/qcow.c",
    notes=(
        "The legacy AES encryption keeps nothing by which a passphrase could be checked: "
        "a wrong one reads as noise."
    ),
)
