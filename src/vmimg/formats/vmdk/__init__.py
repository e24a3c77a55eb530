"""VMDK, the virtual disk of VMware, in all of its kinds. This module is only the descriptor."""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option
from vmimg.units import TIB

__all__ = ["VMDK"]

_SUBFORMATS = (
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
    "vmfsThin",
    "vmfsEagerZeroedThick",
    "vmfsSparse",
)

VMDK = Format(
    name="vmdk",
    title="VMware virtual disk",
    implementation="vmimg.formats.vmdk.driver:VmdkDriver",
    extensions=(".vmdk",),
    magic=(
        Magic(0, b"KDMV"),
        Magic(0, b"COWD"),
        Magic(0, b"\xbe\xba\xfe\xca\0\0\0\0"),  # seSparse
        # A text: comments and blank lines may stand in front of what gives it away.
        *(
            Magic(0, start)
            for start in (b"#", b"version", b" ", b"\t", b"\r", b"\n", b"\xef\xbb\xbf")
        ),
    ),
    subformats=_SUBFORMATS,
    options=(
        Option("subformat", "kind of image", default="monolithicSparse", choices=_SUBFORMATS),
        Option(
            "adapter_type",
            "controller that the disk is made for; unless set, ide; lsilogic for streams and vmfs",
            choices=("ide", "buslogic", "lsilogic", "legacyESX"),
        ),
        Option("compat6", "virtual hardware version 6", kind="bool", default=False),
        Option("hwversion", "virtual hardware version", default="4"),
        Option(
            "toolsversion",
            "version of VMware Tools in the guest; unless set, 2147483647: unmanaged",
        ),
        Option("tools_version", "the same as toolsversion"),
        Option("zeroed_grain", "mark grains of zeros in the tables", kind="bool", default=False),
        Option("backing_file", "the image that unwritten grains are read from"),
        Option("backing_fmt", "format of the backing file: vmdk"),
    ),
    capabilities=Capabilities(
        read=True,
        write=True,
        create=True,
        convert=True,
        parent=True,
        check=True,
        compression=("deflate",),
        parent_format="vmdk",
    ),
    # vSphere's limit for a disk. A sparse file holds 2 TiB, for its tables count sectors in 32
    # bits; the split kinds have many.
    limits=Limits(max_size=62 * TIB),
    spec='VMware "Virtual Disk Format 5.0"',
)
