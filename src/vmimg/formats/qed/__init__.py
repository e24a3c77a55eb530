"""QED, QEMU's enhanced disk. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.formats.qed.structures import (
    DEFAULT_CLUSTER,
    DEFAULT_TABLE,
    MAGIC,
    MAX_CLUSTER,
    MIN_CLUSTER,
)

__all__ = ["QED"]

QED = Format(
    name="qed",
    title="QEMU enhanced disk",
    implementation="vmimg.formats.qed.driver:QedDriver",
    extensions=(".qed",),
    magic=(Magic(0, MAGIC),),
    options=(
        Option(
            "cluster_size", "bytes of a cluster, 4k to 64M", kind="size", default=DEFAULT_CLUSTER
        ),
        Option(
            "table_size",
            "clusters of an L1 or L2 table: 1, 2, 4, 8 or 16 (QEMU makes 1 and cannot open it)",
            kind="size",
            default=DEFAULT_TABLE,
        ),
        Option("backing_file", "the image that unwritten clusters are read from"),
        Option("backing_fmt", "format of the backing file; the image can only note that it is raw"),
    ),
    capabilities=Capabilities(
        read=True, write=True, create=True, convert=True, parent=True, check=True
    ),
    limits=Limits(max_size=(1 << 63) - 512, block_sizes=(MIN_CLUSTER, MAX_CLUSTER), larger="qcow2"),
    spec="QEMU docs/interop/qed_spec",
)
