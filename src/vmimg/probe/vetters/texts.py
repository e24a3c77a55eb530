"""Vets descriptions of machines in plain text: .vmx, Proxmox, xl, Vagrant, manifests.

What a machine is made of may name any file of its host, and some keys name what the host runs. Keys
that nobody knows are left alone: there are thousands. Sources: VMware's documentation of .vmx keys
and what Workstation and ESXi write; qm.conf(5); xl.cfg(5); DSP0243 section 5.1. Imports settings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.telling import bounded
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.settings import MAX_TEXT, as_words, colon_settings, quoted_settings
from vmimg.probe.vetters.naming import is_device, named

__all__ = ["VETTERS"]

_W, _E, _N = Severity.WARNING, Severity.ERROR, Severity.NOTE


def _text(view: View) -> tuple[str, list[Finding]]:
    if view.size > MAX_TEXT:
        finding = Finding.of("malformed", f"it has {view.size} bytes, more than any description")
        return "", [finding]
    text = as_words(view.read(0, MAX_TEXT))
    if text is None:
        return "", [Finding.of("malformed", "there are bytes in it that no text has")]
    return text, []


# VMware

_DISK_SLOT: Final = re.compile(r"(?:scsi|sata|ide|nvme)\d+:\d+")
# What a drive is called that takes whatever the host has.
_AUTOMATIC: Final = ("", "auto detect", "autodetect", "auto", "emptybackingstring", "cdrom", "-1",
                     "thinprint", "client", "remote")  # fmt: skip
_VMWARES_OWN: Final = ("/usr/lib/vmware/isoimages/", "/vmimages/", "/vmfs/volumes/")
_PATHS: Final = {
    "nvram": "its NVRAM",
    "extendedconfigfile": "its additional settings",
    "checkpoint.vmstate": "its saved state",
    "workingdir": "its working directory",
    "bios440.filename": "its firmware",
    "bios.filename": "its firmware",
    "efi32.filename": "its firmware",
    "efi64.filename": "its firmware",
    "log.filename": "the log that it writes",
    "vmx.log.filename": "the log that it writes",
    "usb_xhci.log": "a log that it writes",
}
# Switches that open the host, or the guest, to others.
_SWITCHES: Final = {
    "debugstub.listen.guest32.remote": "whoever reaches the host may debug the guest",
    "debugstub.listen.guest64.remote": "whoever reaches the host may debug the guest",
    "remotedisplay.vnc.enabled": "its screen is served by VNC",
}


def vet_vmx(view: View) -> Iterator[Finding]:
    """The settings of a VMware machine."""
    text, problems = _text(view)
    yield from problems
    pairs, others = quoted_settings(text)
    if others:
        yield Finding.of("odd-field", f"{others} lines are no settings")
    known = {key.lower(): value for key, value in pairs}
    twice = [key for key, count in Counter(key.lower() for key, _ in pairs).items() if count > 1]
    if twice:
        # VMware takes the one, a parser of somebody else's the other.
        yield Finding.of("odd-field", f"settings are there twice: {', '.join(twice[:4])}")
    if "encryption.data" in known:
        yield Finding.of("encrypted")
    yield from bounded(_vmx_settings(known))


def _vmx_settings(known: dict[str, str]) -> Iterator[Finding]:
    for key, value in known.items():
        slot, _, field = key.partition(".")
        if key in _PATHS:
            severity = _E if "log" in key else _W if value.startswith(_VMWARES_OWN) else _E
            # "." is the directory of the .vmx itself.
            if value and value != ".":
                yield from named(value, _PATHS[key], outside=severity)
        elif field == "filename":
            yield from _vmx_file(known, slot, value)
        elif field == "devicetype" and value.lower() in (
            "rawdisk",
            "scsi-passthru",
            "scsi-passthrough",
        ):
            message = f"{slot} is a disk of the host ({value})"
            yield Finding.of("device-extent", message, evidence=f'{key} = "{value}"')
        elif re.fullmatch(r"pcipassthru\d+\.present", key) and value.lower() == "true":
            yield Finding.of("device-extent", "it takes a PCI device of the host", severity=_W)
        elif re.fullmatch(r"sharedfolder\d+\.hostpath", key) and value:
            severity = _E if value == "/" or re.fullmatch(r"[A-Za-z]:\\?", value) else _W
            yield from named(value, "a directory that the guest sees", outside=severity)
        elif key in _SWITCHES and value.lower() == "true":
            yield Finding.of("odd-field", _SWITCHES[key], evidence=f'{key} = "{value}"')


def _vmx_file(known: dict[str, str], slot: str, value: str) -> Iterator[Finding]:
    if value.lower() in _AUTOMATIC:
        return
    kind = (known.get(f"{slot}.devicetype") or known.get(f"{slot}.filetype") or "").lower()
    if _DISK_SLOT.fullmatch(slot):
        if "cdrom" in kind or "atapi" in kind:
            if not value.startswith(_VMWARES_OWN):
                yield from named(value, f"the disc in {slot}", outside=_W, device=_W)
        elif value.startswith("/vmfs/volumes/"):
            # The datastores of ESXi: elsewhere there is no such directory.
            yield from named(value, f"the disk {slot}", outside=_W)
        else:
            yield from named(value, f"the disk {slot}")
    elif slot.startswith("floppy"):
        severity = _W if kind in ("device", "") else _E
        if re.fullmatch(r"[A-Za-z]:\\?", value):
            message = f"{slot} is the drive '{value}' of the host"
            yield Finding.of("device-extent", message, evidence=value, severity=_W)
        else:
            yield from named(value, f"the floppy {slot}", outside=_W, device=severity)
    elif slot.startswith(("serial", "parallel")):
        if kind == "network":
            message = f"{slot} is a connection: '{value}'"
            yield Finding.of("names-outside", message, evidence=value, severity=_W)
        elif kind in ("pipe", "device") or is_device(value):
            message = f"{slot} is a {kind or 'device'} of the host: '{value}'"
            yield Finding.of("device-extent", message, evidence=value, severity=_W)
        else:
            # The guest writes into it whatever it likes.
            yield from named(value, f"the file that {slot} writes")
    elif slot.startswith(("scsi", "sata", "ide", "nvme")):
        yield from named(value, f"the disk {slot}")


def vet_vmsd(view: View) -> Iterator[Finding]:
    """The list of a VMware machine's snapshots."""
    text, problems = _text(view)
    yield from problems
    pairs, _ = quoted_settings(text)
    count = next((value for key, value in pairs if key.lower() == "snapshot.numsnapshots"), "0")
    if count not in ("", "0"):
        yield Finding.of("snapshots", f"the machine has {count} snapshots")
    files = ((k, v) for k, v in pairs if k.lower().endswith(".filename") and v)
    yield from bounded(f for key, value in files for f in named(value, f"the file of {key}"))


# Others


def vet_proxmox(view: View) -> Iterator[Finding]:
    """The settings of a Proxmox machine or container."""
    text, problems = _text(view)
    yield from problems
    pairs, _ = colon_settings(text)
    yield from bounded(each for key, value in pairs for each in _proxmox(key, value))


def _proxmox(key: str, value: str) -> Iterator[Finding]:
    first = value.split(",")[0].removeprefix("file=").removeprefix("volume=")
    if key in ("args", "hookscript"):
        message = f"'{key}' is given to the host to run: '{value}'"
        yield Finding.of("runs-program", message, evidence=f"{key}: {value}")
    elif re.fullmatch(r"(?:hostpci|usb|serial|parallel)\d+", key) and value not in (
        "spice",
        "socket",
    ):
        message = f"it takes a device of the host: '{value}'"
        yield Finding.of("device-extent", message, evidence=f"{key}: {value}", severity=_W)
    elif re.fullmatch(r"(?:scsi|virtio|ide|sata|efidisk|unused|mp)\d+|rootfs", key) and (
        # storage:volume is Proxmox's own; a path is the host's.
        first.startswith("/")
    ):
        yield from named(first, f"the disk {key}", outside=_W, device=_W)


_MAX_LIST: Final = 64 << 10
_QUOTED: Final = re.compile(r"""(['"])((?:(?!\1).){1,4096})\1""")


def vet_xl(view: View) -> Iterator[Finding]:
    """The settings of a Xen machine."""
    text, problems = _text(view)
    yield from problems
    yield from bounded(_xl(text))


def _xl(text: str) -> Iterator[Finding]:
    for match in re.finditer(
        r"^(bootloader|device_model_override|device_model_args\w*)\s*=\s*(.{0,400})", text, re.M
    ):
        message = f"'{match[1]}' is given to the host to run: {match[2].strip()}"
        yield Finding.of("runs-program", message, evidence=match[0].strip())
    for match in re.finditer(r"script=([^,'\"\]]{1,400})", text):
        yield Finding.of("runs-program", f"a device runs '{match[1]}'", evidence=match[1])
    disks = re.search(r"^disk\s*=\s*\[", text, re.MULTILINE)
    end = text.find("]", disks.end(), disks.end() + _MAX_LIST) if disks is not None else -1
    for _, spec in _QUOTED.findall(text[disks.end() : end]) if disks is not None else ():
        target = re.search(r"target=(.+)", spec)
        name = target[1] if target is not None else spec.split(",")[0]
        kind, colon, rest = name.partition(":")
        if colon and kind in ("phy", "file", "tap", "aio", "qcow2", "raw"):
            name = rest if kind != "phy" or rest.startswith("/") else f"/dev/{rest}"
        if name.startswith(("/", ".")):
            yield from named(name, "a disk", outside=_W, device=_W)
    for match in re.finditer(
        r"^(kernel|ramdisk|firmware_override)\s*=\s*['\"](.{1,4096})['\"]", text, re.M
    ):
        yield from named(match[2], f"its {match[1]}", outside=_W)
    if re.search(r"^(?:pci|usbdev|dtdev)\s*=\s*\[\s*['\"]", text, re.MULTILINE):
        yield Finding.of("device-extent", "it takes a device of the host", severity=_W)


def vet_vagrantfile(view: View) -> Iterator[Finding]:
    """Ruby, which Vagrant runs on the host whatever it says."""
    _, problems = _text(view)
    yield from problems
    yield Finding.of("runs-program", "a Vagrantfile is a program in Ruby, which the host runs")


_LINE: Final = re.compile(r"SHA\d+\s?\(([^()]{1,1024})\)\s?=\s?[0-9a-fA-F]+")


def vet_manifest(view: View) -> Iterator[Finding]:
    """The checksums of an OVF package: the names in them."""
    text, problems = _text(view)
    yield from problems
    names = _LINE.findall(text)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        yield Finding.of("manifest-lies", f"it names '{twice[0]}' twice", evidence=twice[0])
    yield from bounded(f for name in names for f in named(name, "a file of the package"))


VETTERS: Final[dict[str, Callable[[View], Iterator[Finding]]]] = {
    "vmx": vet_vmx,
    "vmsd": vet_vmsd,
    "proxmox-conf": vet_proxmox,
    "xl-config": vet_xl,
    "vagrantfile": vet_vagrantfile,
    "ovf-manifest": vet_manifest,
    "ovf-cert": vet_manifest,
}
