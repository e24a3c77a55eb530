"""Parallels: expanding images, bundles of Parallels Desktop and Virtuozzo, and ploop. This module
is only the descriptor.
"""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.formats.parallels.structures import (
    DEFAULT_CLUSTER,
    INDEX,
    MAGIC_EXT,
    MAGIC_OLD,
    MAX_NEW_CLUSTER,
    MAX_SIZE,
    MIN_NEW_CLUSTER,
)

__all__ = ["PARALLELS"]

_SUBFORMATS = ("expanding", "expanding-bundle", "plain-bundle", "ploop")

PARALLELS = Format(
    name="parallels",
    title="Parallels disk and ploop",
    implementation="vmimg.formats.parallels.driver:ParallelsDriver",
    extensions=(".hdd", ".hds"),
    aliases=("hdd", "hds"),
    magic=(
        Magic(0, MAGIC_EXT),
        Magic(0, MAGIC_OLD),
        Magic(0, b"<?xml"),
        Magic(0, b"\xef\xbb\xbf<"),
        Magic(0, b"<Parallels_disk_image"),
    ),
    subformats=_SUBFORMATS,
    options=(
        Option(
            "subformat",
            "one expanding file, as qemu-img makes it; a directory with a DiskDescriptor.xml and "
            "an expanding or a plain image; such a directory as ploop makes it",
            default="expanding",
            choices=_SUBFORMATS,
        ),
        Option(
            "cluster_size",
            "bytes of a cluster of an expanding image: a power of two, 4k to 64M",
            kind="size",
            default=DEFAULT_CLUSTER,
        ),
        Option(
            "split",
            "bytes of the disk for each image file of a bundle; one file for all where not given",
            kind="size",
        ),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        check=True,
        snapshots="internal",
    ),
    limits=Limits(max_size=MAX_SIZE, block_sizes=(MIN_NEW_CLUSTER, MAX_NEW_CLUSTER)),
    spec="QEMU docs/interop/parallels, prl-xml; ploop ploop1_image.h",
    index=INDEX,
    notes="A plain image has no header: by itself it is a raw disk, so there is no plain subformat "
    "outside of a bundle. qemu-img reads single files only. ploop's kernel module takes no files "
    "with holes: none are made, but zeroing in place leaves some; ploop check -S fills them.",
)
