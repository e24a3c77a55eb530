"""The words of OVF: namespaces, resource types, disk formats, units.

Sources: DSP0243 1.0, 1.1.1 and 2.0.1 (schemas DSP8023), CIM_ResourceAllocationSettingData (values
of ResourceType), DSP0004 annex C (programmatic units), files of ovftool, VirtualBox and oVirt.
Imports xml and errors.
"""

from __future__ import annotations

import re
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines import xml

__all__ = [
    "ENVELOPES",
    "FORMATS",
    "FORMAT_URIS",
    "OVF1",
    "OVF2",
    "RASD",
    "VBOX",
    "VMW",
    "VSSD",
    "XSI",
    "Resource",
    "format_name",
    "format_uri",
    "units",
]

OVF1: Final = "http://schemas.dmtf.org/ovf/envelope/1"
OVF2: Final = "http://schemas.dmtf.org/ovf/envelope/2"
_CIM: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
RASD: Final = f"{_CIM}/CIM_ResourceAllocationSettingData"
VSSD: Final = f"{_CIM}/CIM_VirtualSystemSettingData"
# Elements of 2.0's StorageItem and EthernetPortItem; with the ".xsd" that the standard gives them.
SASD: Final = f"{_CIM}/CIM_StorageAllocationSettingData.xsd"
EPASD: Final = f"{_CIM}/CIM_EthernetPortAllocationSettingData.xsd"
VMW: Final = "http://www.vmware.com/schema/ovf"
VBOX: Final = "http://www.virtualbox.org/ovf/machine"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"

ENVELOPES: Final = {
    "http://www.vmware.com/schema/ovf/1/envelope": "0.9",
    "http://schemas.dmtf.org/ovf/envelope": "0.9",
    OVF1: "1.1",
    OVF1 + "/": "1.1",  # oVirt's
    OVF2: "2.0",
}
"""Namespaces of the root, and the version that a file of each has at most."""


class Resource:
    """Values of rasd:ResourceType that machines have (CIM_ResourceAllocationSettingData)."""

    OTHER: Final = 1
    CPU: Final = 3
    MEMORY: Final = 4
    IDE: Final = 5
    SCSI: Final = 6
    ETHERNET: Final = 10
    FLOPPY: Final = 14
    CD: Final = 15
    DVD: Final = 16
    DISK: Final = 17
    OTHER_STORAGE: Final = 20
    SERIAL: Final = 21
    USB: Final = 23
    DISPLAY: Final = 24
    SOUND: Final = 35


# What the URI of a disk's format begins with, without its scheme, in lower case.
FORMATS: Final = (
    ("www.vmware.com/interfaces/specifications/vmdk.html", "vmdk"),
    ("www.vmware.com/specifications/vmdk.html", "vmdk"),
    ("vmware.com/interfaces/specifications/vmdk.html", "vmdk"),
    ("www.gnome.org/~markmc/qcow-image-format.html", "qcow2"),
    ("technet.microsoft.com/en-us/virtualserver/bb676673.aspx", "vhd"),
    ("technet.microsoft.com/en-us/library/bb676673.aspx", "vhd"),
    ("www.microsoft.com/en-us/download/details.aspx?id=23850", "vhd"),
    ("www.microsoft.com/downloads/details.aspx", "vhd"),
    ("www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx", "vhd"),
    ("go.microsoft.com/fwlink/p/?linkid=137171", "vhd"),
    ("www.microsoft.com/en-us/download/details.aspx?id=34750", "vhdx"),
    ("forums.virtualbox.org/viewtopic.php?t=8046", "vdi"),
    ("www.virtualbox.org/wiki/vdi", "vdi"),
    ("en.wikipedia.org/wiki/byte", "raw"),
    ("www.raw-uri", "raw"),
)
FORMAT_URIS: Final = {
    "vmdk": "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized",
    "qcow2": "http://www.gnome.org/~markmc/qcow-image-format.html",
    "vhd": "https://www.microsoft.com/en-us/download/details.aspx?id=23850",
    "vhdx": "https://www.microsoft.com/en-us/download/details.aspx?id=34750",
    "vdi": "https://forums.virtualbox.org/viewtopic.php?t=8046",
    "raw": "http://en.wikipedia.org/wiki/Byte",
}
_OTHER_FORMAT: Final = "urn:vmimg:disk-format:"
_UNITS: Final = re.compile(
    r"\s*bytes?\s*(?:\*\s*(?P<base>2|10)\s*\^\s*(?P<power>\d{1,2})|\*\s*(?P<times>\d{1,18}))?\s*"
)
# Before 1.0 units were words, and VirtualBox still writes one of them.
_WORDS: Final = {
    "kilobytes": 10, "kb": 10, "megabytes": 20, "mb": 20, "gigabytes": 30, "gb": 30,
    "terabytes": 40, "tb": 40,
}  # fmt: skip


def format_name(uri: str) -> str:
    """The name that vmimg has for the disk format at ``uri``, "" for one that it does not know."""
    if uri.startswith(_OTHER_FORMAT):
        return uri[len(_OTHER_FORMAT) :]
    plain = uri.strip().lower().partition("://")[2].partition("#")[0]
    return next((name for start, name in FORMATS if plain.startswith(start)), "")


def format_uri(name: str) -> str:
    """The URI for a disk format of vmimg; "" for "", whose URI then says nothing."""
    return FORMAT_URIS.get(name, _OTHER_FORMAT + name)


def units(text: str, name: str, default: int = 1) -> int:
    """Bytes in one unit: "byte * 2^30" (DSP0004), "MegaBytes" (before 1.0); ``default`` for "".

    Raises FormatError for another unit.
    """
    plain = text.strip().lower()
    if not plain:
        return default
    if plain in _WORDS:
        return 1 << _WORDS[plain]
    found = _UNITS.fullmatch(plain)
    if found is None:
        raise FormatError(f"{name}: no unit of bytes: '{xml.printable(text[:40])}'")
    if found["times"]:
        return int(found["times"])
    if not found["base"]:
        return 1
    power = int(found["power"])
    if power > 60:
        raise FormatError(f"{name}: the unit '{xml.printable(text[:40])}' is too large")
    base: int = int(found["base"])
    return int(base**power)
