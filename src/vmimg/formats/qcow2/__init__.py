"""qcow2, QEMU's copy-on-write format, versions 2 and 3. This module is only the descriptor."""

from __future__ import annotations

from dataclasses import replace

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.formats.luks import ENCRYPTION_OPTIONS
from vmimg.units import MIB

__all__ = ["QCOW2"]

QCOW2 = Format(
    name="qcow2",
    title="QEMU copy-on-write 2",
    implementation="vmimg.formats.qcow2.driver:Qcow2Driver",
    extensions=(".qcow2", ".qcow"),
    magic=(Magic(0, b"QFI\xfb"),),
    options=(
        Option(
            "compat",
            "version: 0.10 (2) or 1.1 (3)",
            default="1.1",
            choices=("0.10", "1.1", "v2", "v3"),
        ),
        Option("cluster_size", "bytes of a cluster, 512 to 2M", kind="size", default=65536),
        Option(
            "refcount_bits",
            "width of a reference count",
            kind="int",
            default=16,
            choices=(1, 2, 4, 8, 16, 32, 64),
        ),
        Option("lazy_refcounts", "postpone refcount updates", kind="bool", default=False),
        Option(
            "compression_type",
            "coder of compressed clusters",
            default="zlib",
            choices=("zlib", "zstd"),
        ),
        Option(
            "extended_l2", "subclusters: allocate 32nds of a cluster", kind="bool", default=False
        ),
        Option(
            "preallocation",
            "allocate ahead",
            default="off",
            choices=("off", "metadata", "falloc", "full"),
        ),
        Option("data_file", "file that takes the guest data"),
        Option("data_file_raw", "keep the data file a valid raw image", kind="bool", default=False),
        Option("backing_file", "the image that unwritten clusters are read from"),
        Option("backing_fmt", "format of the backing file"),
        Option(
            "encrypt.format",
            "encrypt the data: luks, or QEMU's legacy aes",
            choices=("aes", "luks"),
        ),
        # Without defaults: given or not, they are for LUKS only.
        *(replace(o, name=f"encrypt.{o.name}", default=None) for o in ENCRYPTION_OPTIONS),
        Option("encryption", "the old name of encrypt.format=aes", kind="bool", default=False),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        snapshots="internal",
        compression=("zlib", "zstd"),
        encryption="option",
    ),
    # QEMU reads an L1 table of at most 32 MiB; with 2 MiB clusters that maps 2 EiB.
    limits=Limits(max_size=1 << 61, block_sizes=(512, 2 * MIB)),
    spec="QEMU docs/interop/qcow2",
)
