"""libvirt's words and the model's, and names of devices. Imports the model and XML.

A domain names a disk by what the guest may call it: "vdb" is the second on virtio. Where there is
no <address>, libvirt takes controller and unit from that name (virDomainDiskDefAssignAddress): two
on an IDE channel, six on a SATA controller, seven on a SCSI one.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "BUSES",
    "BY_NAME",
    "CHIPSETS",
    "CONTROLLERS",
    "CONTROLLER_MODELS",
    "FORMATS",
    "GUESTS",
    "NETWORK_MODELS",
    "NETWORK_NAMES",
    "OSINFO",
    "PREFIXES",
    "PROTOCOLS",
    "SERIALS",
    "SOUND",
    "UNITS",
    "USB",
    "USB_NAMES",
    "VIDEO",
    "VIDEO_NAMES",
    "chipset",
    "device_name",
    "device_number",
    "guest",
    "guest_id",
    "join_url",
    "split_url",
]

OSINFO: Final = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

BUSES: Final = {
    "ide": "ide", "sata": "sata", "scsi": "scsi", "virtio": "virtio", "usb": "usb",
    "floppy": "fdc", "xen": "xen",
}  # fmt: skip
PREFIXES: Final = {
    "ide": "hd", "sata": "sd", "scsi": "sd", "usb": "sd", "virtio": "vd", "floppy": "fd",
    "xen": "xvd",
}  # fmt: skip
BY_NAME: Final = {"hd": "ide", "sd": "scsi", "vd": "virtio", "fd": "floppy", "xvd": "xen"}
"""The bus of a disk that does not say it, by the name it has."""

CONTROLLERS: Final = {
    "ide": "ide",
    "sata": "sata",
    "scsi": "scsi",
    "floppy": "fdc",
    "xen": "xenbus",
}
CONTROLLER_MODELS: Final = {
    "ide": {"piix3": "piix3", "piix4": "piix4", "ich6": "ich6"},
    "scsi": {
        "lsilogic": "lsilogic", "lsisas1068": "lsisas1068", "buslogic": "buslogic",
        "pvscsi": "vmpvscsi", "virtio-scsi": "virtio-scsi",
    },
}  # fmt: skip
USB: Final = {"uhci": "piix3-uhci", "ohci": "pci-ohci", "ehci": "ehci", "xhci": "qemu-xhci"}
USB_NAMES: Final = {
    **{name: model for model, name in USB.items()},
    "piix4-uhci": "uhci", "vt82c686b-uhci": "uhci", "ich9-uhci1": "uhci",
    "ich9-ehci1": "ehci", "nec-xhci": "xhci",
}  # fmt: skip

FORMATS: Final = {
    "raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "cow": "cow", "vmdk": "vmdk", "vhd": "vpc",
    "vdi": "vdi", "dmg": "dmg", "iso": "iso", "cloop": "cloop", "qed": "qed", "bochs": "bochs",
    "luks": "luks",
}  # fmt: skip
"""storageFormat of the schema; it has no word for vhdx and parallels."""

NETWORK_MODELS: Final = {
    **{model: model for model in ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci")},
    **{model: model for model in ("vmxnet", "vmxnet2", "vmxnet3")},
    "xen": "netfront",
}
NETWORK_NAMES: Final = {
    **{name: model for model, name in NETWORK_MODELS.items()},
    "Am79C970A": "pcnet", "Am79C973": "pcnet", "vlance": "pcnet", "82540EM": "e1000",
    "82545EM": "e1000", "82543GC": "e1000", "virtio-transitional": "virtio",
    "virtio-non-transitional": "virtio", "virtio-net": "virtio",
}  # fmt: skip
SERIALS: Final = {
    "pty": "pty", "file": "file", "pipe": "pipe", "unix": "unix", "tcp": "tcp", "device": "dev",
    "null": "null",
}  # fmt: skip
VIDEO: Final = {
    "vga": "vga", "cirrus": "cirrus", "qxl": "qxl", "virtio": "virtio", "vmvga": "vmvga",
    "bochs": "bochs", "vboxvga": "vbox", "ramfb": "ramfb", "none": "none",
}  # fmt: skip
VIDEO_NAMES: Final = {name: model for model, name in VIDEO.items()}
SOUND: Final = ("ich6", "ich9", "ac97", "es1370", "sb16")
CHIPSETS: Final = {"i440fx": "pc", "q35": "q35", "virt": "virt", "xenpv": "xenpv"}

PROTOCOLS: Final = (
    "nbd", "rbd", "iscsi", "http", "https", "ftp", "ftps", "tftp", "gluster", "sheepdog", "ssh",
    "vxhs", "nfs",
)  # fmt: skip

UNITS: Final = {
    "b": 1, "bytes": 1, "kb": 1000, "k": 1 << 10, "kib": 1 << 10, "mb": 10**6, "m": 1 << 20,
    "mib": 1 << 20, "gb": 10**9, "g": 1 << 30, "gib": 1 << 30, "tb": 10**12, "t": 1 << 40,
    "tib": 1 << 40,
}  # fmt: skip

GUESTS: Final = {
    "alma": "almalinux.org/alma", "almalinux": "almalinux.org/almalinux",
    "alpinelinux": "alpinelinux.org/alpinelinux", "centos": "centos.org/centos",
    "centos-stream": "centos.org/centos-stream", "debian": "debian.org/debian",
    "fedora": "fedoraproject.org/fedora", "freebsd": "freebsd.org/freebsd",
    "freedos": "freedos.org/freedos", "linux": "libosinfo.org/linux",
    "macosx": "apple.com/macosx", "netbsd": "netbsd.org/netbsd", "ol": "oracle.com/ol",
    "openbsd": "openbsd.org/openbsd", "opensuse": "opensuse.org/opensuse",
    "rhel": "redhat.com/rhel", "rocky": "rockylinux.org/rocky", "sles": "suse.com/sles",
    "solaris": "oracle.com/solaris", "ubuntu": "ubuntu.com/ubuntu", "win": "microsoft.com/win",
}  # fmt: skip
"""Families of libosinfo and where their ids lie: "debian12" is http://debian.org/debian/12."""

_SHORT: Final = re.compile(r"([a-z]+(?:-[a-z]+)?)(-?[0-9][0-9a-z.]*|xp|vista|me)")
_ID: Final = re.compile(r"https?://([a-z.]+/[a-z-]+)/([0-9a-z.]+)")
_NAME: Final = re.compile(r"(hd|sd|vd|fd|xvd)([a-z]{1,3})[0-9]*")
_URL: Final = re.compile(
    r"([a-z]+)://(\[[0-9a-fA-F:]+\]|[^/:\[\]]*)(?::([0-9]{1,5}))?(?:/(.*))?", re.S
)


def guest_id(short: str) -> str:
    """The id in libosinfo of a short id, "" where it is not known."""
    found = _SHORT.fullmatch(short)
    if found is None or found[1] not in GUESTS or found[2].startswith("-"):
        return ""
    return f"http://{GUESTS[found[1]]}/{found[2]}"


def guest(identifier: str) -> str:
    """The short id of one of libosinfo's; "" where `guest_id` would not give it back."""
    found = _ID.fullmatch(identifier)
    if found is None:
        return ""
    family = next((name for name, place in GUESTS.items() if place == found[1]), "")
    short = family + found[2]
    return short if family and guest_id(short) == identifier else ""


def chipset(machine: str) -> str:
    """The chipset of a machine type, "" for those that the model has no word for."""
    if machine == "q35" or machine.startswith("pc-q35"):
        return "q35"
    if machine in ("pc", "xenfv") or re.match(r"pc-(i440fx|[0-9])", machine):
        return "i440fx"
    if machine == "virt" or machine.startswith("virt-"):
        return "virt"
    return "xenpv" if machine == "xenpv" else ""


def device_name(prefix: str, number: int) -> str:
    """The name of a device by its number, from 0: "vd" and 27 are "vdab"."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return prefix + letters


def device_number(name: str) -> tuple[str, int]:
    """The prefix of a device's name and its number; ("", 0) for what is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return "", 0
    number = 0
    for letter in found[2]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return found[1], number - 1


def split_url(url: str) -> tuple[str, str, str, str] | None:
    """Protocol, host, port and name of an address that `join_url` gives back as it is."""
    found = _URL.fullmatch(url)
    if found is None or found[1] not in PROTOCOLS:
        return None
    protocol, host, port, name = found[1], found[2].strip("[]"), found[3] or "", found[4] or ""
    return (protocol, host, port, name) if join_url(protocol, host, port, name) == url else None


def join_url(protocol: str, host: str, port: str, name: str) -> str:
    """One line for a disk that lies on a server."""
    place = f"[{host}]" if ":" in host else host
    return f"{protocol}://{place}{':' + port if port else ''}{'/' + name if name else ''}"
