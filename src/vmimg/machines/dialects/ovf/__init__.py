"""OVF: the Open Virtualization Format's descriptor, and the virtual hardware in it.

Read: 1.0, 1.1, 2.0, what came before 1.0, and the flavours of VMware, VirtualBox, oVirt, Xen and
AWS. Written: 1.1, with the extensions of VMware and VirtualBox marked as not required, so that
every other reader may pass over them. `envelope` and `write_envelope` are for packages: they tell
of files and disks besides machines. Specification: DSP0243 1.1.1 and 2.0.1.

    Envelope
      References / File            what lies beside the descriptor
      DiskSection / Disk           virtual disks, each with a File or empty
      NetworkSection / Network     names that interfaces connect to
      VirtualSystem                one machine (in a VirtualSystemCollection: several)
        OperatingSystemSection, VirtualHardwareSection / Item, AnnotationSection, ...
"""

from __future__ import annotations

from collections.abc import Sequence

from vmimg.machines.dialect import Written
from vmimg.machines.dialects.ovf.envelope import (
    Envelope,
    File,
    Network,
    OvfDisk,
    Product,
    Property,
)
from vmimg.machines.dialects.ovf.names import format_name, format_uri
from vmimg.machines.dialects.ovf.reading import envelope
from vmimg.machines.dialects.ovf.writing import write_envelope
from vmimg.machines.model import Machine

__all__ = [
    "Envelope",
    "File",
    "Network",
    "OvfDisk",
    "Product",
    "Property",
    "envelope",
    "format_name",
    "format_uri",
    "read",
    "write",
    "write_all",
    "write_envelope",
]


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machines of a descriptor."""
    return envelope(data, name).machines


def write(machine: Machine) -> Written:
    """One machine, whose drives' paths become the files of the package."""
    return write_envelope([machine])


def write_all(machines: Sequence[Machine]) -> Written:
    """Several machines, in a collection."""
    return write_envelope(machines)
