"""Reading an xl configuration. Imports syntax and the model."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.xl.syntax import Value, parse, said
from vmimg.machines.fitting import booted_by
from vmimg.machines.model import CPUs, Display, Drive, Extra, Firmware, Machine, Network, Serial

__all__ = ["DISK_FORMATS", "REMOTES", "SOUND", "USB", "VGA", "VIFS", "disk_of", "read"]

DISK_FORMATS: Final = {"raw": "raw", "qcow": "qcow", "qcow2": "qcow2", "vhd": "vhd", "qed": "qed"}
VGA: Final = {"vga": "stdvga", "cirrus": "cirrus", "qxl": "qxl", "none": "none"}
REMOTES: Final = ("vnc", "spice", "sdl")
SOUND: Final = ("hda", "ac97", "es1370", "sb16")
USB: Final = ("uhci", "ehci", "xhci")
VIFS: Final = {
    "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139", "pcnet": "pcnet",
    "ne2k_pci": "ne2k_pci", "vmxnet3": "vmxnet3", "virtio": "virtio-net",
}  # fmt: skip
_MAX_DEVICES: Final = 1024
_VDEV: Final = re.compile(r"(hd|sd|xvd)([a-z]{1,2})")
_PREFIX: Final = re.compile(r"(?:(phy|file|tap2?|aio|raw|qcow2?|vhd|qed):)+")
_OLD_FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine of a configuration."""
    return (_Reader(parse(data, name), name).machine(),)


class _Reader:
    """Settings, from which what is understood is taken out."""

    def __init__(self, settings: dict[str, Value], name: str) -> None:
        self._settings = settings
        self._name = name
        self._options: list[Extra] = []

    def machine(self) -> Machine:
        settings = self._settings
        chipset = self._chipset()
        drives = self._disks()
        networks = self._vifs()
        machine = Machine(
            name=self._text("name"),
            uuid=self._text("uuid").lower(),
            chipset=chipset,
            firmware=self._firmware(),
            cpus=CPUs(self._number("vcpus", 1 << 16)),
            memory=self._number("memory", 1 << 40) << 20,
            clock=self._clock(),
            drives=tuple(drives),
            networks=tuple(networks),
            serials=self._serials(),
            display=self._display(),
            sound=self._sound(),
            usb=self._usb(),
        )
        machine = self._booted(machine)
        extras = (*sorted(self._options), *((key, said(value)) for key, value in settings.items()))
        return replace(machine, extras={"xl": extras} if extras else {})

    def _text(self, key: str) -> str:
        value = self._settings.get(key, "")
        if isinstance(value, list):
            raise FormatError(f"{self._name}: {key} is a list")
        self._settings.pop(key, None)
        return str(value)

    def _number(self, key: str, high: int) -> int:
        text = self._text(key) or "0"
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > high:
            raise FormatError(f"{self._name}: {key} is no number up to {high}")
        return int(text)

    def _list(self, key: str) -> list[str]:
        value = self._settings.pop(key, [])
        members = value if isinstance(value, list) else [value]
        if len(members) > _MAX_DEVICES or any(isinstance(each, list) for each in members):
            raise FormatError(f"{self._name}: {key} is no list of at most {_MAX_DEVICES} strings")
        return [str(each) for each in members]

    def _chipset(self) -> str:
        kind = str(self._settings.get("type", self._settings.get("builder", "pv")))
        chipsets = {"hvm": "i440fx", "pv": "xenpv", "generic": "xenpv", "linux": "xenpv"}
        if kind in chipsets:
            self._settings.pop("type", None)
            self._settings.pop("builder", None)
        return chipsets.get(kind, "")

    def _firmware(self) -> Firmware:
        key = "firmware" if "firmware" in self._settings else "bios"
        kinds: dict[str, Any] = {"ovmf": "uefi", "uefi": "uefi", "bios": "bios", "seabios": "bios"}
        kind = kinds.get(str(self._settings.get(key, "")), "")
        if kind:
            self._settings.pop(key)
        loader = self._text("bios_path_override") if kind else ""
        return Firmware(kind, loader=loader)

    def _clock(self) -> str:
        if "localtime" not in self._settings:
            return ""
        return "localtime" if self._number("localtime", 1) else "utc"

    def _disks(self) -> list[Drive]:
        found: list[Drive] = []
        for text in self._list("disk"):
            drive, rest = disk_of(text)
            if drive is None:
                raise FormatError(f"{self._name}: no disk of xl: '{text[:80]}'")
            self._options += [(f"disk[{len(found)}].{key}", value) for key, value in rest.items()]
            found.append(drive)
        return found

    def _vifs(self) -> list[Network]:
        found = []
        names = {name: model for model, name in VIFS.items()}
        for at, text in enumerate(self._list("vif")):
            options = _options(text)
            model = options.get("model", "")
            if options.get("type") == "vif" and not model:
                model = "xen"
                del options["type"]
            elif model in names or model in VIFS:
                options.pop("model", None)
                model = names.get(model, model)
                if options.get("type") == "ioemu":
                    del options["type"]
            else:
                model = ""
            bridge = options.pop("bridge", "")
            mac = options.pop("mac", "").lower()
            self._options += [(f"vif[{at}].{key}", value) for key, value in options.items()]
            kind: Any = "bridge" if bridge else ""
            found.append(Network(model=model, mac=mac, kind=kind, network=bridge))
        return found

    def _booted(self, machine: Machine) -> Machine:
        letters = self._settings.get("boot", "")
        if not isinstance(letters, str) or not re.fullmatch(r"[cdn]{1,3}", letters):
            return machine
        del self._settings["boot"]
        return booted_by(letters, machine)

    def _serials(self) -> tuple[Serial, ...]:
        found: list[Serial] = []
        lines = self._list("serial")
        for text in lines:
            kind, _, path = text.partition(":")
            path = path.removesuffix(",server,nowait")
            if text in ("pty", "null"):
                found.append(Serial(text))  # type: ignore[arg-type]
            elif text.startswith("/dev/"):
                found.append(Serial("device", text))
            elif kind in ("file", "pipe", "unix", "tcp") and path:
                found.append(Serial(kind, path))  # type: ignore[arg-type]
            else:
                self._settings["serial"] = [*lines]
                return ()
        return tuple(found)

    def _display(self) -> Display | None:
        remote = ""
        for key in REMOTES:
            if not remote and self._settings.get(key) in (1, "1"):
                remote = key
                del self._settings[key]
        names = {name: model for model, name in VGA.items()}
        model = names.get(str(self._settings.get("vga", "")), "")
        if model:
            del self._settings["vga"]
        elif self._settings.get("stdvga") in (1, "1"):
            del self._settings["stdvga"]
            model = "vga"
        memory = self._number("videoram", 1 << 20) << 20 if model else 0
        return Display(model, memory, remote=remote) if model or remote else None

    def _sound(self) -> tuple[str, ...]:
        if self._settings.get("soundhw") not in SOUND:
            return ()
        return (self._text("soundhw"),)

    def _usb(self) -> tuple[str, ...]:
        version = self._settings.get("usbversion")
        if not isinstance(version, int) or version not in (1, 2, 3):
            return ()
        del self._settings["usbversion"]
        if self._settings.get("usb") == 1:
            del self._settings["usb"]
        return (USB[version - 1],)


def disk_of(text: str) -> tuple[Drive | None, dict[str, str]]:
    """The drive of a line of `disk`, and the options that the model has no word for: target,
    format, vdev and access by position or name; the target, where named, is the rest of the line.
    """
    named = re.search(r"(?:^|[,\s])target=", text)
    head, target = (text[: named.start()], text[named.end() :]) if named else (text, "")
    said_ = {"target": target.strip()} if named else {}
    positions = ["target", "format", "vdev", "access"]
    place = 0
    for part in head.split(",")[:64]:
        part = part.strip()
        key, equals, value = part.partition("=")
        if equals and re.fullmatch(r"[a-z][a-z-]*", key.strip()):
            said_[key.strip()] = value.strip()
        elif part in ("cdrom", "discard", "no-discard", "direct-io-safe"):
            said_["devtype" if part == "cdrom" else part] = part
        elif place < 4:
            if positions[place] == "format" and _VDEV.match(part):
                place += 1  # the old form has no format: "phy:/dev/vg/a,xvda,w"
            if part:
                said_.setdefault(positions[place], part)
            place += 1
    if len(head.split(",")) > 64:
        return None, {}
    return _drive(said_)


def _drive(options: dict[str, str]) -> tuple[Drive | None, dict[str, str]]:
    target, format_ = options.pop("target", ""), options.pop("format", "")
    vdev, _, kind = options.pop("vdev", "").partition(":")
    access = options.pop("access", "rw")
    cdrom = kind == "cdrom" or options.pop("devtype", "") == "cdrom"
    found = _VDEV.fullmatch(vdev)
    if found is None or access not in ("r", "ro", "w", "rw", "w!"):
        return None, {}
    prefix = _PREFIX.match(target)
    if prefix is not None:
        target = target[prefix.end() :]
        format_ = format_ or (prefix[1] if prefix[1] in _OLD_FORMATS else "")
    if format_ and format_ not in DISK_FORMATS:
        options["format"], format_ = format_, ""
    number = 0
    for letter in found[2]:
        number = number * 26 + ord(letter) - ord("a") + 1
    bus: Any = {"hd": "ide", "sd": "scsi", "xvd": "xen"}[found[1]]
    controller, slot = divmod(number - 1, 2) if bus == "ide" else (0, number - 1)
    return Drive(
        device="cdrom" if cdrom else "disk",
        bus=bus,
        controller=controller,
        slot=slot,
        path=target,
        source="block" if target.startswith("/dev/") else "file",
        format=format_,
        readonly=access in ("r", "ro") and not cdrom,
    ), options


def _options(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(",")[:64]:
        key, sign, value = part.strip().partition("=")
        if key:
            found[key.strip()] = value.strip() if sign else ""
    return found
