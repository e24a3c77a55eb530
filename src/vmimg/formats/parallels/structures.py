"""Parallels expanding images (.hds, .hdd, ploop deltas): structures and numbers.

::

    0          header (64 bytes)
    64         BAT: where each cluster lies, 32 bits each, 0 for none
    data_off   clusters; one of them may be the format extension: dirty bitmaps

All numbers are little endian. Spec: QEMU docs/interop/parallels; ploop's ploop1_image.h has the
same structures by other names. No numpy.
"""

from __future__ import annotations

from ctypes import LittleEndianStructure, c_char, c_uint8, c_uint32, c_uint64, sizeof
from typing import Final

from vmimg.units import KIB, MIB, TIB

SECTOR: Final = 512
INDEX: Final = "DiskDescriptor.xml"
"""The file that a bundle begins with."""


class Header(LittleEndianStructure):
    """pvd_header of ploop."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", c_char * 16),
        ("version", c_uint32),
        ("heads", c_uint32),
        ("cylinders", c_uint32),
        ("tracks", c_uint32),  # of a cluster, in sectors, whatever the name says
        ("nb_bat_entries", c_uint32),
        ("nb_sectors", c_uint64),
        ("in_use", c_uint32),
        ("data_off", c_uint32),
        ("flags", c_uint32),
        ("ext_off", c_uint64),
    )


class ExtensionHeader(LittleEndianStructure):
    """What the format extension cluster begins with."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("magic", c_uint64), ("m_CheckSum", c_uint8 * 16))


class FeatureHeader(LittleEndianStructure):
    """In front of each feature of the extension; features begin on multiples of 8 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", c_uint64),
        ("flags", c_uint64),
        ("data_size", c_uint32),
        ("unused32", c_uint32),
    )


class DirtyBitmap(LittleEndianStructure):
    """The data of a dirty bitmap feature; the L1 table follows, 64 bits each."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("size", c_uint64),
        ("id", c_uint8 * 16),
        ("granularity", c_uint32),
        ("l1_size", c_uint32),
    )


HEADER_SIZE: Final = sizeof(Header)
BAT_OFFSET: Final = HEADER_SIZE
BAT_ENTRY: Final = 4
STATE_OFFSET: Final = Header.in_use.offset
"""From here to the end of the header: what changes when an image is opened and closed."""

# Header
MAGIC_OLD: Final = b"WithoutFreeSpace"
"""The BAT counts sectors, nb_sectors has 32 bits."""
MAGIC_EXT: Final = b"WithouFreSpacExt"
"""The BAT counts clusters."""
VERSION: Final = 2
IN_USE: Final = 0x746F6E59
CLOSED: Final = 0
"""How QEMU leaves an image, and whoever keeps no extension."""
CLOSED_21: Final = 0x312E3276
"""How software leaves it that keeps the extension."""
FLAG_EMPTY: Final = 1
"""ploop: nothing was written yet. Taken off with the first write. Not believed when reading: QEMU
writes without taking it off, and reads what the BAT says."""

# What QEMU takes
MAX_CLUSTER_SECTORS: Final = 0x7FFF_FFFF // 513
MAX_ENTRIES: Final = 0x7FFF_FFFF // 4

# Format extension
EXTENSION_MAGIC: Final = 0xAB234CEF23DCEA87
END_OF_FEATURES: Final = 0
DIRTY_BITMAP: Final = 0x20385FAE252CB34A
NECESSARY: Final = 1
TRANSIT: Final = 2
MAX_EXTENSION: Final = 64 * MIB
"""Larger clusters have none: it would have to be read as a whole for its checksum."""

# What new images look like
DEFAULT_CLUSTER: Final = MIB
MIN_NEW_CLUSTER: Final = 4 * KIB
MAX_NEW_CLUSTER: Final = 64 * MIB
"""ploop's largest. A new cluster is written as a whole, so that it must fit in memory, too."""
MAX_SIZE: Final = MAX_ENTRIES * MAX_NEW_CLUSTER // TIB * TIB
HEADS: Final = 16
SECTORS_PER_TRACK: Final = 32
