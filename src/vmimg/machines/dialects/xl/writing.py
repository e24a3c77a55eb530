"""Writing an xl configuration. Imports syntax, the tables of reading, fitting and the model."""

from __future__ import annotations

import re
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.xl.reading import (
    DISK_FORMATS,
    REMOTES,
    SOUND,
    USB,
    VGA,
    VIFS,
    disk_of,
    read,
)
from vmimg.machines.dialects.xl.syntax import Value, parse, said
from vmimg.machines.fitting import (
    Fitting,
    Rule,
    boot_by_class,
    boot_letters,
    no_boot_order,
    own_extras,
)
from vmimg.machines.model import Drive, Machine, Network, Serial

__all__ = ["write"]

_ROOM: Final = {"ide": (2, 2), "scsi": (1, 26), "xen": (1, 26)}
_PARAVIRTUAL: Final = {"scsi": (1, 26), "xen": (1, 26)}
_MEBIBYTE: Final = 1 << 20
_BRIDGE: Final = re.compile(r"[^\s,=\"'\\]+")
_OPTION: Final = re.compile(r"(disk|vif)\[(\d{1,4})\]\.([a-z][a-z-]*)")

_RULES: Final = (
    Rule("name", "a guest of Xen has a name", lambda name: name, "machine", needed=True),
    Rule("description", "xl has no place for it"),
    Rule("architecture", "a guest has that of its host"),
    Rule("firmware.secure_boot", "xl does not set it"),
    Rule("firmware.tpm", "xl has none for such a guest"),
    Rule("firmware.variables", "Xen keeps none"),
    Rule("cpus.model", "xl passes on the host's"),
    Rule("memory", "xl counts MiB, and must be told", lambda size: size and size % _MEBIBYTE == 0,
         lambda machine: (machine.memory >> 20 << 20) or 1 << 30, needed=True),
    Rule("clock", "xl has UTC and local time", ("utc", "localtime")),
    Rule("guest", "xl does not ask what runs in it"),
    Rule("controllers[]", "xl has no controllers; a disk's name says where it hangs"),
    Rule("drives[].device", "xl has no floppy drives", ("disk", "cdrom"), drop=True),
    Rule("drives[].source", "xl has files and devices", ("file", "block"), drop=True),
    Rule("drives[].format", "Xen has no such format", DISK_FORMATS),
    Rule("drives[].size", "the image says how large it is"),
    Rule("drives[].serial", "xl does not set it"),
    Rule("networks[].connected", "xl has no cable to pull"),
    Rule("display.heads", "xl does not set it"),
    Rule("display.accelerated", "xl does not set it"),
    Rule("snapshots[]", "xl has none"),
)  # fmt: skip
_FULL: Final = (
    Rule("networks[].model", "Xen has no such card", (*VIFS, "xen"), "e1000"),
    Rule("display.model", "Xen has no such video card", VGA, "vga"),
    Rule("display.remote", "Xen shows no screen so", REMOTES, "vnc"),
    Rule("sound[]", "Xen has no such sound card", SOUND, "hda"),
    Rule("usb[]", "Xen has no such USB controller", USB, "uhci"),
)


def write(machine: Machine) -> Written:
    """The .cfg."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    settings = _settings(fitted)
    extras = tuple(machine.extras.get("xl", ()))
    failed = [at for at, (key, value) in enumerate(extras) if not _put(settings, key, value)]
    text = "".join(f"{key} = {said(value)}\n" for key, value in settings.items())
    (found,) = read(text.encode(), machine.name)
    return Written(text.encode(), fitting.losses + own_extras(machine, "xl", failed, found))


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "xl", _RULES)
    pv = machine.chipset == "xenpv"
    kept = dict(machine.extras.get("xl", ()))
    if machine.cpus.sockets:
        for key in ("sockets", "cores", "threads"):
            fitting.lose(f"cpus.{key}", "xl counts processors only")
    if not pv and not (not machine.chipset and ("type" in kept or "builder" in kept)):
        fitting.lose("chipset", "a whole guest of Xen has an i440fx", "i440fx")
    firmware = machine.firmware
    if pv:
        reason = "a paravirtual guest has none"
        for key in ("firmware.kind", "firmware.loader", "display", "sound", "usb"):
            fitting.lose(key, reason)
        for at, network in fitting.members("networks"):
            if network.model:
                fitting.lose(f"networks[{at}].model", "a paravirtual guest has Xen's card", "xen")
        for at, _ in fitting.members("serials"):
            fitting.lose(f"serials[{at}]", "a paravirtual guest has Xen's console")
    else:
        for rule in _FULL:
            fitting.apply(rule)
        if firmware.loader and not firmware.kind:
            fitting.lose("firmware.loader", "xl is told the kind of firmware with it")
        for name in ("sound", "usb"):
            for at, _ in list(fitting.members(name))[1:]:
                fitting.lose(f"{name}[{at}]", "Xen has one")
        _fit_serials(fitting)
        _fit_display(fitting)
    _fit_drives(fitting, pv)
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network)
    if pv:
        no_boot_order(fitting, "a paravirtual guest's loader decides")
    else:
        boot_by_class(fitting, "xl boots classes of devices")
    return fitting


def _fit_serials(fitting: Fitting) -> None:
    for at, serial in fitting.members("serials"):
        key, path = f"serials[{at}]", serial.path
        if serial.kind == "device" and not path.startswith("/dev/"):
            fitting.lose(key, "a device lies in /dev")
        elif serial.kind in ("file", "pipe", "unix", "tcp") and (not path or "," in path):
            fitting.lose(key, "QEMU, which gets it, takes a comma for the next option")


def _fit_display(fitting: Fitting) -> None:
    display = fitting.machine.display
    if display is None:
        return
    if not fitting.now("display.model"):
        fitting.lose("display.memory", "it is said of a video card")
        if not fitting.now("display.remote"):
            fitting.lose("display", "nothing is said of it")
    elif display.memory % _MEBIBYTE:
        fitting.lose("display.memory", "counted in MiB", display.memory >> 20 << 20)


def _fit_drives(fitting: Fitting, pv: bool) -> None:
    machine = fitting.machine
    for at, drive in fitting.members("drives"):
        key = f"drives[{at}]"
        block = drive.path.startswith("/dev/")
        fitting.lose(
            f"{key}.source", "xl knows a device by its folder, /dev", "block" if block else "file"
        )
        if drive.device == "cdrom":
            fitting.lose(f"{key}.readonly", "a CD is so by itself")
        back, _ = disk_of(_disk(Drive(path=drive.path, bus="xen")))
        if back is None or back.path != drive.path:
            fitting.lose(key, "xl would read another name of the file")

    def fallback(drive: Drive) -> str:
        whole = not pv and (drive.device == "cdrom" or machine.guest.startswith("win"))
        return "ide" if whole else "xen"

    fitting.place(_PARAVIRTUAL if pv else _ROOM, fallback, "Xen")


def _fit_network(fitting: Fitting, key: str, network: Network) -> None:
    if not network.kind:
        fitting.lose(f"{key}.network", "only a bridge has a name")
    elif network.kind != "bridge" or not _BRIDGE.fullmatch(network.network):
        reason = "an interface is on a bridge; this is Xen's own"
        fitting.lose(f"{key}.kind", reason, "bridge")
        fitting.lose(f"{key}.network", reason, "xenbr0")
    if not re.fullmatch(r"([0-9a-f]{2}(:[0-9a-f]{2}){5})?", network.mac):
        fitting.lose(f"{key}.mac", "it is no address")


def _settings(machine: Machine) -> dict[str, Value]:
    settings: dict[str, Value] = {"name": machine.name}
    types = {"i440fx": "hvm", "xenpv": "pv"}
    if machine.chipset:
        settings["type"] = types[machine.chipset]
    if machine.uuid:
        settings["uuid"] = machine.uuid
    if machine.firmware.kind:
        settings["firmware"] = "ovmf" if machine.firmware.kind == "uefi" else "bios"
    if machine.firmware.loader:
        settings["bios_path_override"] = machine.firmware.loader
    if machine.cpus.count:
        settings["vcpus"] = machine.cpus.count
    settings["memory"] = machine.memory >> 20
    if machine.clock:
        settings["localtime"] = int(machine.clock == "localtime")
    if boot := boot_letters(machine):
        settings["boot"] = boot
    if machine.drives:
        settings["disk"] = [_disk(drive) for drive in machine.drives]
    if machine.networks:
        settings["vif"] = [_vif(network) for network in machine.networks]
    if machine.serials:
        settings["serial"] = [_serial(serial) for serial in machine.serials]
    display = machine.display
    if display is not None:
        if display.model:
            settings["vga"] = VGA[display.model]
        if display.memory:
            settings["videoram"] = display.memory >> 20
        if display.remote:
            settings[display.remote] = 1
    for model in machine.sound:
        settings["soundhw"] = model
    for model in machine.usb:
        settings["usb"] = 1
        settings["usbversion"] = USB.index(model) + 1
    return settings


def _disk(drive: Drive) -> str:
    prefix = {"ide": "hd", "scsi": "sd", "xen": "xvd"}[drive.bus]
    number = drive.controller * 2 + drive.slot if drive.bus == "ide" else drive.slot
    options = [f"format={drive.format}"] if drive.format else []
    options.append(f"vdev={prefix}{chr(ord('a') + number)}")
    if drive.device == "cdrom":
        options.append("devtype=cdrom")
    readonly = drive.readonly or drive.device == "cdrom"
    options.append("access=ro" if readonly else "access=rw")
    if drive.path:
        options.append(f"target={drive.path}")  # to the end of the line, commas and all
    return ", ".join(options)


def _vif(network: Network) -> str:
    options = [f"mac={network.mac}"] if network.mac else []
    if network.kind == "bridge":
        options.append(f"bridge={network.network}")
    if network.model == "xen":
        options.append("type=vif")
    elif network.model:
        options += [f"model={VIFS[network.model]}", "type=ioemu"]
    return ", ".join(options)


def _serial(serial: Serial) -> str:
    if serial.kind in ("pty", "null"):
        return serial.kind
    if serial.kind == "device":
        return serial.path
    wait = ",server,nowait" if serial.kind in ("unix", "tcp") else ""
    return f"{serial.kind}:{serial.path}{wait}"


def _put(settings: dict[str, Value], key: str, value: str) -> bool:
    option = _OPTION.fullmatch(key)
    if option is not None:
        members = settings.get(option[1], [])
        at = int(option[2])
        if not isinstance(members, list) or at >= len(members) or re.search(r"[,\n\r]", value):
            return False
        pair = f"{option[3]}={value}" if value and value != option[3] else option[3]
        # In front: the target of a disk has to stay the last.
        members[at] = f"{pair}, {members[at]}" if members[at] else pair
        return True
    if key in settings or not re.fullmatch(r"[A-Za-z_]\w*", key):
        return False
    try:
        found = parse(f"{key} = {value}".encode(), "extras")
    except FormatError:
        return False
    if list(found) != [key]:
        return False
    settings[key] = found[key]
    return True
