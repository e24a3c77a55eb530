"""iso: images of optical discs, ISO 9660 and UDF, as read-only disks. This module is only the
descriptor.
"""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic

__all__ = ["ISO"]

ISO = Format(
    name="iso",
    title="Optical disc image",
    implementation="vmimg.formats.iso.driver:IsoDriver",
    extensions=(".iso", ".udf"),
    # The first volume descriptor of ISO 9660; what a disc of UDF alone has in its place.
    magic=(Magic(0x8001, b"CD001"), Magic(0x8001, b"BEA01")),
    capabilities=Capabilities(read=True),
    # Extents are counted in 32 bits of 2 KiB.
    limits=Limits(max_size=2048 << 32),
    spec="ECMA-119, El Torito 1.0, ECMA-167, IEEE P1281 and P1282, Joliet",
    notes="`vmimg iso create` makes one of the files in a directory.",
)
