"""Vets descriptions of machines in XML: what they would make a host open, share or run.

The XML itself first (entities, size, depth), then what it names. Every program writes absolute
paths where it must: libvirt and Hyper-V always, VirtualBox and Parallels for what is not in the
machine's own directory. That is a warning where it is the rule, and an error where it is not.
Sources: libvirt's formatdomain and drvqemu documentation, VirtualBox-settings.xsd, the files that
Hyper-V and Parallels write, Amazon's AMI tools. Imports the XML reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final
from urllib.parse import unquote

from vmimg.formats.raw.findings import View
from vmimg.formats.telling import bounded
from vmimg.formats.vetting import Finding, Severity, is_outside
from vmimg.probe.vetters.naming import named
from vmimg.probe.xml import MAX_BYTES, Element, scan

__all__ = ["VETTERS", "vet_domain"]

_MAX_PARTS: Final = 64
_W, _E, _N = Severity.WARNING, Severity.ERROR, Severity.NOTE

_Judge = Callable[[Element], Iterator[Finding]]


def _vet(view: View, judges: Mapping[str, _Judge]) -> Iterator[Finding]:
    if view.size > MAX_BYTES:
        yield Finding.of("xml-oversize", f"the XML has {view.size} bytes")
        return
    yield from _vet_data(view.read(0, MAX_BYTES), judges)


def _vet_data(data: bytes, judges: Mapping[str, _Judge], where: str = "") -> Iterator[Finding]:
    found = scan(data, judges)
    if found.code:
        yield Finding.of(found.code, where + found.problem)
    findings = (each for element in found.elements for each in judges[element.name](element))
    yield from bounded(findings)


# libvirt

# Where distributions have their emulators; anything else is a program of the sender's choice.
_EMULATORS: Final = re.compile(
    r"/(?:usr/(?:local/)?(?:bin|sbin|libexec|lib|lib64|lib/xen/bin|lib/x86_64-linux-gnu)|bin|"
    r"run/(?:current-system/sw/bin|libvirt/nix-emulators)|nix/store/[\w.+-]+/bin)/[\w.+/-]+"
)
_LIBVIRTS_OWN: Final = ("/var/lib/libvirt/", "/run/libvirt/", "/var/run/libvirt/")
# exec: of a migration and of a character device runs a shell; plugins are libraries.
_RUNNING_ARGUMENTS: Final = re.compile(r"exec:|system:|-plugin|^(?:down)?script=|,(?:down)?script=")


def _source(element: Element) -> Iterator[Finding]:
    around = element.within[-1] if element.within else ""
    attributes = element.attributes
    path = attributes.get("file") or attributes.get("dev") or attributes.get("path") or ""
    if around in ("disk", "backingStore", "mirror"):
        if attributes.get("protocol"):
            host = f"{attributes['protocol']}:{attributes.get('name', '')}"
            yield Finding.of(
                "names-outside", f"a disk is on the network: '{host}'", evidence=host, severity=_W
            )
        elif path:
            yield from named(path, "a disk", outside=_W, device=_W)
    elif around == "filesystem":
        shared = attributes.get("dir") or path
        if shared:
            severity = _E if shared == "/" else _W
            yield from named(shared, "a directory that the guest sees", outside=severity)
    elif around in ("serial", "parallel", "console", "channel", "rng", "smartcard", "redirdev"):
        if path and not path.startswith(_LIBVIRTS_OWN):
            yield from named(path, f"the other end of its {around}", outside=_W, device=_W)
    elif around == "pool":
        for place in (attributes.get("dir"), path):
            if place:
                yield from named(place, "the source of the pool", outside=_W, device=_W)


def _boot_file(element: Element) -> Iterator[Finding]:
    name = element.text.strip()
    trusted = ("/usr/share/", *_LIBVIRTS_OWN)
    if name and element.within[-1:] == ("os",) and not name.startswith(trusted):
        yield from named(name, f"its {element.name}", outside=_W)


def _emulator(element: Element) -> Iterator[Finding]:
    program = element.text.strip()
    if program and (_EMULATORS.fullmatch(program) is None or ".." in program):
        yield Finding.of("runs-program", f"its emulator is '{program}'", evidence=program)


def _bootloader(element: Element) -> Iterator[Finding]:
    program = element.text.strip()
    if program and element.within[-1:] == ("domain",):
        yield Finding.of("runs-program", f"its boot loader is '{program}'", evidence=program)


def _argument(element: Element) -> Iterator[Finding]:
    if element.within[-1:] != ("commandline",):
        return
    value = element.attributes.get("value", "")
    if _RUNNING_ARGUMENTS.search(value):
        message = f"the emulator's argument '{value}' runs a program"
        yield Finding.of("runs-program", message, evidence=value, severity=_E)


def _commandline(element: Element) -> Iterator[Finding]:
    yield Finding.of("runs-program", "it has arguments of its own for the emulator")


def _script(element: Element) -> Iterator[Finding]:
    path = element.attributes.get("path", "")
    if path and element.within[-1:] == ("interface",):
        yield Finding.of("runs-program", f"its network runs '{path}'", evidence=path)


def _binary(element: Element) -> Iterator[Finding]:
    path = element.attributes.get("path", "")
    if path and _EMULATORS.fullmatch(path) is None:
        yield Finding.of("runs-program", f"its file system runs '{path}'", evidence=path)


def _hostdev(element: Element) -> Iterator[Finding]:
    kind = element.attributes.get("type", "")
    message = f"it takes a device of the host{f' ({kind})' if kind else ''}"
    yield Finding.of("device-extent", message, evidence=kind, severity=_W)


def _log(element: Element) -> Iterator[Finding]:
    name = element.attributes.get("file", "")
    if name and not name.startswith(("/var/log/libvirt/", *_LIBVIRTS_OWN)):
        yield from named(name, "a log that it writes", outside=_W)


def _rom(element: Element) -> Iterator[Finding]:
    name = element.attributes.get("file", "")
    if name and not name.startswith("/usr/share/"):
        yield from named(name, "a device's ROM", outside=_W)


def _target_path(element: Element) -> Iterator[Finding]:
    name = element.text.strip()
    if name and element.within == ("pool", "target"):
        yield from named(name, "the directory of the pool", outside=_W, device=_W)


_LIBVIRT: Final[Mapping[str, _Judge]] = {
    "source": _source,
    "emulator": _emulator,
    "bootloader": _bootloader,
    "commandline": _commandline,
    "arg": _argument,
    "script": _script,
    "binary": _binary,
    "hostdev": _hostdev,
    "log": _log,
    "rom": _rom,
    "kernel": _boot_file,
    "initrd": _boot_file,
    "dtb": _boot_file,
    "loader": _boot_file,
    "nvram": _boot_file,
    "path": _target_path,
}


def vet_domain(data: bytes, where: str = "") -> Iterator[Finding]:
    """What a libvirt domain in ``data`` would make a host do. ``where``: how messages begin."""
    return _vet_data(data, _LIBVIRT, where)


# VirtualBox


def _hard_disk(element: Element) -> Iterator[Finding]:
    location = element.attributes.get("location", "")
    if element.attributes.get("format", "").lower() == "iscsi":
        message = f"a disk is on the network: '{location}'"
        yield Finding.of("names-outside", message, evidence=location, severity=_W)
    elif location:
        yield from named(location, "a disk")


def _medium(element: Element) -> Iterator[Finding]:
    # Discs and floppies are kept together and shared between machines, VirtualBox's own as well.
    location = element.attributes.get("location") or element.attributes.get("src") or ""
    if location:
        yield from named(location, "a disc or floppy", outside=_W, device=_W)


def _host_drive(element: Element) -> Iterator[Finding]:
    source = element.attributes.get("src", "")
    message = f"it takes a drive of the host{f': {source!r}' if source else ''}"
    yield Finding.of("device-extent", message, evidence=source, severity=_W)


def _shared_folder(element: Element) -> Iterator[Finding]:
    path = element.attributes.get("hostPath", "")
    if path:
        severity = _E if path in ("/", "\\") or re.fullmatch(r"[A-Za-z]:[\\/]?", path) else _W
        yield from named(path, "a directory that the guest sees", outside=severity)


def _port(element: Element) -> Iterator[Finding]:
    path = element.attributes.get("path") or element.attributes.get("server") or ""
    mode = element.attributes.get("hostMode", "")
    if not path or mode == "Disconnected" or element.within[-1:] not in (("UART",), ("LPT",)):
        return
    severity = _E if mode == "RawFile" else _W
    yield from named(path, "the other end of a port", outside=severity, device=_W)


def _machine(element: Element) -> Iterator[Finding]:
    for key, what in (
        ("stateFile", "the saved state"),
        ("snapshotFolder", "the directory of snapshots"),
    ):
        name = element.attributes.get(key, "")
        if name:
            yield from named(name, what, outside=_W)


def _nvram(element: Element) -> Iterator[Finding]:
    name = element.attributes.get("path", "")
    if name:
        yield from named(name, "its NVRAM", outside=_W)


def _capture(element: Element) -> Iterator[Finding]:
    name = element.attributes.get("file", "")
    if name and element.attributes.get("enabled", "").lower() == "true":
        yield from named(name, "what its screen is recorded to")


def _extra_data(element: Element) -> Iterator[Finding]:
    name, value = element.attributes.get("name", ""), element.attributes.get("value", "")
    if not name.startswith("VBoxInternal"):
        return
    # PDM/Devices/*/Path and PDM/Drivers/*/Path are libraries that VirtualBox loads.
    severity = _E if "/PDM/" in name and name.endswith("/Path") else _W
    message = f"'{name}' goes past what VirtualBox lets a machine say"
    yield Finding.of("runs-program", message, evidence=f"{name}={value}", severity=severity)


_VIRTUALBOX: Final[Mapping[str, _Judge]] = {
    "HardDisk": _hard_disk,
    "Image": _medium,
    "HostDrive": _host_drive,
    "SharedFolder": _shared_folder,
    "Port": _port,
    "Machine": _machine,
    "NVRAM": _nvram,
    "VideoCapture": _capture,
    "ExtraDataItem": _extra_data,
}

# Hyper-V and Parallels


def _pathname(element: Element) -> Iterator[Finding]:
    name = element.text.strip()
    if name:
        yield from named(name, "a disk or disc", outside=_W)


def _connection(element: Element) -> Iterator[Finding]:
    name = element.text.strip()
    if name:
        yield from named(name, "the other end of a port", outside=_W, device=_W)


_HYPERV: Final[Mapping[str, _Judge]] = {"pathname": _pathname, "connection": _connection}


def _system_name(element: Element) -> Iterator[Finding]:
    device = element.within[-1] if element.within else ""
    name = element.text.strip()
    if not name or ("/" not in name and "\\" not in name):
        return
    if device == "Hdd":
        yield from named(name, "a disk")
    else:
        yield from named(name, f"the other end of its {device}", outside=_W, device=_W)


def _shared_path(element: Element) -> Iterator[Finding]:
    name = element.text.strip()
    if name and element.within[-1:] == ("SharedFolder",):
        yield from named(name, "a directory that the guest sees", outside=_W)


_PARALLELS: Final[Mapping[str, _Judge]] = {"SystemName": _system_name, "Path": _shared_path}

# Packages. What of an OVF does not fit together, `vetters.bundles` says.


def _href(element: Element) -> Iterator[Finding]:
    name = element.attributes.get("href", "")
    if name and "References" in element.within:
        yield from named(name if is_outside(name) else unquote(name), "a file of the package")


def vet_ec2(view: View) -> Iterator[Finding]:
    """The manifest of an EC2 bundle: names of parts, and how many there are."""
    if view.size > MAX_BYTES:
        yield Finding.of("xml-oversize", f"the XML has {view.size} bytes")
        return
    found = scan(view.read(0, MAX_BYTES), ("filename", "parts"))
    if found.code:
        yield Finding.of(found.code, found.problem)
    names = [e.text.strip() for e in found.elements if e.name == "filename"]
    counts = [e.attributes.get("count", "") for e in found.elements if e.name == "parts"]
    for name in islice(names, _MAX_PARTS):
        if "/" in name:
            yield from named(name, "a part")
    if len(set(names)) < len(names):
        yield Finding.of("manifest-lies", "two parts have one name")
    # Longer lists are cut short while they are read.
    if counts and len(names) < 4000 and counts[0] != str(len(names)):
        yield Finding.of("manifest-lies", f"it says {counts[0]} parts and names {len(names)}")


def _by(judges: Mapping[str, _Judge]) -> Callable[[View], Iterator[Finding]]:
    return lambda view: _vet(view, judges)


VETTERS: Final[dict[str, Callable[[View], Iterator[Finding]]]] = {
    "ovf": _by({"File": _href}),
    "vbox": _by(_VIRTUALBOX),
    "libvirt-domain": _by(_LIBVIRT),
    "libvirt-snapshot": _by(_LIBVIRT),
    "libvirt-network": _by({}),
    "libvirt-pool": _by(_LIBVIRT),
    "libvirt-volume": _by({}),
    "hyperv-xml": _by(_HYPERV),
    "pvs": _by(_PARALLELS),
    "parallels-snapshots": _by({}),
    "xva-xml": _by({}),
    "vmxf": _by({}),
    "ec2-bundle": vet_ec2,
}
