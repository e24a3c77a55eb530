"""Reading a configuration of Proxmox. Imports lines, words, guests and the model."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.machines import guests
from vmimg.machines.dialects.proxmox import words
from vmimg.machines.dialects.proxmox.lines import Section, drive_of, place_of, properties, sections
from vmimg.machines.model import (
    Controller,
    CPUs,
    Display,
    Drive,
    Extra,
    Firmware,
    Machine,
    Network,
    Serial,
    Snapshot,
)

__all__ = ["read"]

_MAX_SNAPSHOTS: Final = 4096
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_SPECIAL: Final = ("PENDING", "special:")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine, with the snapshots in its sections."""
    first, *others = sections(data, name)
    if "rootfs" in first.lines or "hostname" in first.lines:
        raise UnsupportedFeature(f"{name}: a container of Proxmox, not a virtual machine")
    snapshots: list[Snapshot] = []
    kept: list[Extra] = []
    special: list[Extra] = []
    current = first.lines.pop("parent", "")
    for section in others:
        if section.name.startswith(_SPECIAL):
            special += [(f"[{section.name}] {key}", value) for key, value in section.lines.items()]
            continue
        if len(snapshots) >= _MAX_SNAPSHOTS or section.name in {each.id for each in snapshots}:
            raise FormatError(f"{name}: too many snapshots, or two with the name {section.name}")
        snapshots.append(_snapshot(section, name, current))
        kept += [(f"[{section.name}] {key}", value) for key, value in section.lines.items()]
    machine = _Reader(first, name).machine()
    if current and current not in {each.id for each in snapshots}:
        kept.insert(0, ("parent", current))
    extras = (*machine.extras.get("proxmox", ()), *kept, *special)
    return (
        replace(machine, snapshots=tuple(snapshots), extras={"proxmox": extras} if extras else {}),
    )


def _snapshot(section: Section, name: str, current: str) -> Snapshot:
    lines = section.lines
    seconds = lines.pop("snaptime", "")
    created = ""
    if seconds:
        if not re.fullmatch(r"[0-9]{1,11}", seconds):
            raise FormatError(f"{name}: the time of snapshot {section.name} is no number")
        created = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    drives: list[Drive] = []
    for key in [key for key in lines if place_of(key)]:
        drive, rest = drive_of(key, lines[key], name)
        drives.append(drive)
        del lines[key]
        lines.update({f"{key}.{option}": value for option, value in sorted(rest.items())})
    return Snapshot(
        id=section.name,
        name=section.name,
        description="\n".join(section.description) or lines.pop("description", ""),
        parent=lines.pop("parent", ""),
        created=created,
        current=section.name == current,
        drives=tuple(drives),
        memory=lines.pop("vmstate", ""),
    )


class _Reader:
    """The first section, from which what is understood is taken out."""

    def __init__(self, section: Section, name: str) -> None:
        self._section = section
        self._lines = section.lines
        self._name = name
        self._options: list[Extra] = []  # properties that nobody understood

    def machine(self) -> Machine:
        lines = self._lines
        description = "\n".join(self._section.description)
        cpus = self._cpus()
        smbios = properties(lines.pop("smbios1", ""), "uuid")
        uuid = smbios.pop("uuid", "").lower()
        self._rest("smbios1", smbios)
        numbers = self._numbers(r"net([0-9]{1,3})")
        networks = [self._network(number, at) for at, number in enumerate(numbers)]
        drives, networks = self._booted(self._drives(), networks, numbers)
        guest = guests.by_proxmox(lines.get("ostype", ""))
        if guest and guests.proxmox(guest) == lines["ostype"]:
            del lines["ostype"]
        else:
            guest = ""
        arch = lines.get("arch", "")
        if arch in ("x86_64", "aarch64"):
            del lines["arch"]
        else:
            arch = ""
        machine = Machine(
            name=lines.pop("name", ""),
            description=description,
            uuid=uuid,
            architecture=arch,
            chipset=self._chipset(),
            firmware=self._firmware(),
            cpus=cpus,
            memory=self._memory(),
            clock={"1": "localtime", "0": "utc"}.get(lines.pop("localtime", ""), ""),
            guest=guest,
            controllers=self._controllers(),
            drives=tuple(drives),
            networks=tuple(networks),
            serials=self._serials(),
            display=self._display(),
            sound=self._sound(),
        )
        # A writer of ours puts these two where it has its own word for them.
        first = [(key, lines.pop(key)) for key in ("machine", "scsihw") if key in lines]
        extras = (*sorted(self._options), *first, *lines.items())
        return replace(machine, extras={"proxmox": extras} if extras else {})

    def _rest(self, key: str, options: dict[str, str]) -> None:
        self._options += [(f"{key}.{option}", value) for option, value in options.items()]

    def _number(self, text: str, what: str, high: int = 1 << 16) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > high:
            raise FormatError(f"{self._name}: {what} is no number up to {high}: '{text[:40]}'")
        return int(text)

    def _numbers(self, pattern: str) -> list[int]:
        found = (re.fullmatch(pattern, key) for key in self._lines)
        return sorted(int(each[1]) for each in found if each)

    def _cpus(self) -> CPUs:
        lines = self._lines
        said = properties(lines.pop("cpu", ""), "cputype")
        model = said.pop("cputype", "")
        self._rest("cpu", said)
        cores = self._number(lines.pop("cores", "0"), "the number of cores")
        if "sockets" not in lines:
            return CPUs(cores, model=model)
        sockets = self._number(lines.pop("sockets"), "the number of sockets")
        cores = cores or 1
        return (
            CPUs(sockets * cores, sockets, cores, 1, model) if sockets else CPUs(cores, model=model)
        )

    def _memory(self) -> int:
        said = properties(self._lines.pop("memory", ""), "current")
        size = self._number(said.pop("current", "0") or "0", "the memory", 1 << 40) << 20
        self._rest("memory", said)
        return size

    def _chipset(self) -> str:
        said = properties(self._lines.pop("machine", ""), "type")
        machine = said.pop("type", "")
        found = words.chipset(machine)
        if machine and machine not in ("pc", "q35", "virt"):
            self._lines["machine"] = machine  # a version, which says more
        self._rest("machine", said)
        return found

    def _firmware(self) -> Firmware:
        lines = self._lines
        kind: Any = {"ovmf": "uefi", "seabios": "bios"}.get(lines.pop("bios", ""), "")
        tpm: Any = ""
        if "tpmstate0" in lines:
            said = properties(lines.pop("tpmstate0"), "file")
            version = said.pop("version", "v1.2")
            tpm = {"v2.0": "2.0", "v1.2": "1.2"}.get(version, "2.0")
            if said == {"file": "none"}:
                said = {}
            self._rest("tpmstate0", said)
        variables, secure = "", None
        if "efidisk0" in lines:
            said = properties(lines.pop("efidisk0"), "file")
            variables = said.pop("file", "")
            enrolled = said.pop("pre-enrolled-keys", "")
            secure = {"1": True, "0": False}.get(enrolled)
            self._rest("efidisk0", said)
            kind = kind or "uefi"
        return Firmware(kind, secure, tpm, variables)

    def _controllers(self) -> tuple[Controller, ...]:
        hardware = self._lines.get("scsihw", "")
        model = words.SCSI_NAMES.get(hardware)
        if model is None:
            return ()
        if words.SCSI[model] == hardware:
            del self._lines["scsihw"]
        return (Controller("scsi", 0, model),)

    def _drives(self) -> list[Drive]:
        found = []
        for key in [key for key in self._lines if place_of(key)]:
            drive, rest = drive_of(key, self._lines.pop(key), self._name)
            found.append(drive)
            self._rest(key, rest)
        return found

    def _network(self, number: int, at: int) -> Network:
        said = properties(self._lines.pop(f"net{number}"), "model")
        model, mac = said.pop("model", ""), said.pop("macaddr", "")
        for key in [key for key in said if _MAC.fullmatch(said[key])]:
            model, mac = key, said.pop(key)
        if words.NETWORK_NAMES.get(model, "") != model and model:
            said["model"] = model
        bridge = said.pop("bridge", "")
        down = said.pop("link_down", "0") == "1"
        self._rest(f"net{at}", said)
        return Network(
            model=words.NETWORK_NAMES.get(model, ""),
            mac=mac.lower(),
            kind="bridge" if bridge else "user",
            network=bridge,
            connected=not down,
        )

    def _booted(
        self, drives: list[Drive], networks: list[Network], numbers: list[int]
    ) -> tuple[list[Drive], list[Network]]:
        said = properties(self._lines.get("boot", ""), "legacy")
        disk = self._lines.get("bootdisk", "")
        if "order" in said:
            names = said["order"].split(";")
        else:  # letters of classes, until version 6.3
            first = next((each for each in drives if each.device == "cdrom"), None)
            classes = {"c": disk, "d": _key(first) if first else "", "n": "net0"}
            names = [classes.get(letter, "") for letter in said.get("legacy", "")]
        if said:
            self._lines.pop("boot", None)
            self._lines.pop("bootdisk", None)
        places: dict[str, int] = {}
        for each in names:
            known = {_key(drive) for drive in drives} | {f"net{number}" for number in numbers}
            if each in known:
                places.setdefault(each, len(places) + 1)
        return (
            [replace(drive, boot=places.get(_key(drive), 0)) for drive in drives],
            [
                replace(network, boot=places.get(f"net{number}", 0))
                for network, number in zip(networks, numbers, strict=True)
            ],
        )

    def _serials(self) -> tuple[Serial, ...]:
        found = []
        for number in self._numbers(r"serial([0-9]{1,2})"):
            said = self._lines.pop(f"serial{number}")
            found.append(Serial("device", said) if said.startswith("/") else Serial("pty"))
        return tuple(found)

    def _display(self) -> Display | None:
        if "vga" not in self._lines:
            return None
        said = properties(self._lines["vga"], "type")
        kind, heads, fast = said.get("type", "std"), 0, None
        if kind in ("qxl2", "qxl3", "qxl4"):
            kind, heads = "qxl", int(kind[3])
        elif kind == "virtio-gl":
            kind, fast = "virtio", True
        if kind not in words.VGA_NAMES:
            return None  # a serial terminal
        del self._lines["vga"]
        said.pop("type", None)
        memory = self._number(said.pop("memory", "0"), "the memory of the video card") << 20
        self._rest("vga", said)
        return Display(words.VGA_NAMES[kind], memory, heads, fast)

    def _sound(self) -> tuple[str, ...]:
        if "audio0" not in self._lines:
            return ()
        said = properties(self._lines["audio0"], "device")
        models = {name: model for model, name in words.AUDIO.items()}
        model = models.get(said.pop("device", ""), "")
        if not model:
            return ()
        del self._lines["audio0"]
        self._rest("audio0", said)
        return (model,)


def _key(drive: Drive) -> str:
    number = drive.controller * 2 + drive.slot if drive.bus == "ide" else drive.slot
    return f"{drive.bus}{number}"
