"""Writing a configuration of Proxmox. Imports lines, words, guests, fitting and the model."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Final

from vmimg.machines import guests
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.proxmox import words
from vmimg.machines.dialects.proxmox.lines import (
    Section,
    drive_line,
    drive_of,
    encoded,
    joined,
    properties,
)
from vmimg.machines.dialects.proxmox.reading import read
from vmimg.machines.fitting import Fitting, Rule, network_card, own_extras
from vmimg.machines.model import Controller, Drive, Machine, Network

__all__ = ["write"]

_NAME: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_SECTION: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,39}")
_POOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*/[^\s,].*")
_BRIDGE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_PROPERTY: Final = re.compile(r"[^,\s=][^,\n\r]*")
_DRIVE_FORMATS: Final = ("raw", "qcow", "qcow2", "qed", "vmdk", "cloop", "cow")
_ROOM: Final = {"ide": (2, 2), "sata": (1, 6), "scsi": (1, 31), "virtio": (1, 16)}


def _plain_name(machine: Machine) -> str:
    ascii_ = unicodedata.normalize("NFKD", machine.name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", ascii_).strip("-") or "machine"


_RULES: Final = (
    Rule("name", "a name is one of DNS: letters, digits, hyphens", _NAME.fullmatch, _plain_name),
    Rule("description", "a line of it ends otherwise", lambda text: text == text.strip()
         and not re.search(r"[\r\ud800-\udfff]", text),
         lambda machine: re.sub(r"[\r\ud800-\udfff]", "", machine.description).strip()),
    Rule("architecture", "Proxmox has x86_64 and aarch64", ("x86_64", "aarch64")),
    Rule("chipset", "Proxmox has no such machine", ("i440fx", "q35", "virt")),
    Rule("firmware.loader", "Proxmox brings its firmware"),
    Rule("memory", "counted in MiB", lambda size: size % (1 << 20) == 0,
         lambda machine: machine.memory >> 20 << 20),
    Rule("clock", "Proxmox has UTC and local time", ("utc", "localtime")),
    Rule("cpus.model", "it cannot have commas", _PROPERTY.fullmatch),
    Rule("drives[].device", "Proxmox has no floppy drives", ("disk", "cdrom"), drop=True),
    Rule("drives[].source", "Proxmox has files, devices and volumes of its storages",
         ("file", "block", "volume"), drop=True),
    Rule("drives[].format", "Proxmox has no such format", _DRIVE_FORMATS),
    Rule("drives[].serial", "a serial has 20 characters", lambda serial: len(serial) <= 20),
    Rule("networks[].model", "Proxmox has no such card, or none was named", words.NETWORK,
         network_card, needed=True),
    Rule("serials[].kind", "a port is a socket of Proxmox's or a device", ("pty", "device"), "pty"),
    Rule("display.model", "Proxmox has no such video card", words.VGA, "vga"),
    Rule("display.remote", "Proxmox decides how it is shown"),
    Rule("usb[]", "Proxmox brings USB controllers by itself"),
    Rule("sound[]", "Proxmox has no such sound card", words.AUDIO),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The .conf."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    if not _main(fitted).lines:
        fitting.lose("name", "a configuration has at least one setting", "machine")
        fitted = fitting.fitted
    extras = tuple(machine.extras.get("proxmox", ()))
    sections = [_main(fitted), *_snapshots(fitted)]
    failed = _put_back(sections, extras, fitted)
    data = "".join(map(_text, sections)).encode()
    (found,) = read(data, machine.name)
    return Written(data, fitting.losses + own_extras(machine, "proxmox", failed, found))


def _text(section: Section) -> str:
    lines = [f"[{section.name}]"] if section.name else []
    lines += ["#" + encoded(line) for line in section.description]
    lines += [f"{key}: {value}" for key, value in section.lines.items()]
    return "\n".join(lines) + "\n" + ("" if section.name else "\n")


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "proxmox", _RULES)
    if machine.guest:
        found = guests.by_proxmox(guests.proxmox(machine.guest))
        if guests.proxmox(found) != guests.proxmox(machine.guest):
            found = ""
        fitting.lose("guest", "Proxmox names families of systems", found)
    if machine.uuid and not re.fullmatch(r"[0-9a-f-]{36}", machine.uuid):
        fitting.lose("uuid", "it is no UUID")
    firmware, cpus = machine.firmware, machine.cpus
    if firmware.kind != "uefi":
        fitting.lose("firmware.variables", "only UEFI has them")
    elif firmware.variables and not _PROPERTY.fullmatch(firmware.variables):
        fitting.lose("firmware.variables", "a file of Proxmox's has no commas in its name")
    if not fitting.now("firmware.variables"):
        fitting.lose("firmware.secure_boot", "it is said of the disk with UEFI's variables")
    if cpus.threads > 1:
        fitting.lose("cpus.threads", "Proxmox has sockets and cores", 1)
        fitting.lose("cpus.cores", "threads are counted as cores", cpus.cores * cpus.threads)
    if cpus.sockets and cpus.count != cpus.sockets * cpus.cores * cpus.threads:
        reason = "sockets times cores"
        fitting.lose("cpus.count", reason, cpus.sockets * cpus.cores * max(cpus.threads, 1))
    _fit_drives(fitting)
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network, at)
    for at, serial in fitting.members("serials"):
        if at > 3:
            fitting.lose(f"serials[{at}]", "Proxmox has four at most")
        elif fitting.now(f"serials[{at}].kind") != "device":
            fitting.lose(f"serials[{at}].path", "Proxmox names its sockets by itself")
        elif not serial.path.startswith("/"):
            fitting.lose(f"serials[{at}]", "a device has an absolute name")
    for at, _ in list(fitting.members("sound"))[1:]:
        fitting.lose(f"sound[{at}]", "Proxmox has one sound card")
    _fit_display(fitting)
    _fit_snapshots(fitting)
    model = next((each.model for each in machine.controllers
                  if (each.bus, each.index) == ("scsi", 0)), "")  # fmt: skip
    found_ = (Controller("scsi", 0, model),) if model in words.SCSI else ()
    fitting.controllers(found_, "Proxmox is told the model of one SCSI controller only")
    return fitting


def _fit_drives(fitting: Fitting) -> None:
    machine = fitting.machine
    for at, drive in fitting.members("drives"):
        key = f"drives[{at}]"
        unsaid = _unsayable(drive)
        if unsaid:
            fitting.lose(key, unsaid)
            continue
        if drive.source == "file" and re.match(r"[A-Za-z][A-Za-z0-9_.-]*:\S", drive.path):
            reason = "Proxmox would take it for a volume of a storage"
            fitting.lose(f"{key}.path", reason, "./" + drive.path)
        elif drive.source != "volume" and drive.path:
            block = drive.path.startswith("/dev/") or drive.path == "cdrom"
            reason = "Proxmox knows devices by their folder, /dev"
            fitting.lose(f"{key}.source", reason, "block" if block else "file")
        elif not drive.path:
            fitting.lose(f"{key}.source", "there is no file", "file")

    def fallback(drive: Drive) -> str:
        if drive.device == "cdrom":
            return "ide" if machine.chipset == "i440fx" else "sata"
        return "sata" if machine.guest.startswith("win") else "scsi"

    fitting.place(
        _ROOM, fallback, "Proxmox", lambda device, bus: not (device == "cdrom" and bus == "virtio")
    )
    for at, _ in fitting.members("drives"):
        if fitting.now(f"drives[{at}].bus") in ("ide", "sata"):
            fitting.lose(f"drives[{at}].readonly", "QEMU has no such ATA disk")
    booted = sorted(
        (member.boot, name, at)
        for name in ("drives", "networks")
        for at, member in fitting.members(name)
        if member.boot
    )
    for order, (_, name, at) in enumerate(booted, 1):
        fitting.lose(f"{name}[{at}].boot", "the order counts what is there", order)


def _unsayable(drive: Drive) -> str:
    """Why the drive cannot be said at all, "" if it can."""
    if drive.source == "volume" and not _POOL.fullmatch(drive.path):
        return "a volume is named by storage and name"
    if drive.path in ("none", "cdrom") and not (drive.path == "cdrom" and drive.device == "cdrom"):
        return "the name of the file means something else to Proxmox"
    if drive.path and not _PROPERTY.fullmatch("x" + drive.path):
        return "a file of Proxmox's has no commas in its name"
    return ""


def _fit_network(fitting: Fitting, key: str, network: Network, at: int) -> None:
    if at > 31:
        fitting.lose(key, "Proxmox has 32 at most")
        return
    kind = network.kind
    if kind in ("user", "nat", "none"):
        if kind == "none":
            fitting.lose(f"{key}.connected", "it is on nothing", False)
        fitting.lose(f"{key}.kind", "Proxmox has bridges and user networks", "user")
        fitting.lose(f"{key}.network", "a user network has no name")
    elif kind != "bridge":
        fitting.lose(f"{key}.kind", "Proxmox has bridges and user networks", "bridge")
        fitting.lose(f"{key}.network", "it is Proxmox's first bridge", "vmbr0")
    elif not _BRIDGE.fullmatch(network.network):
        fitting.lose(f"{key}.network", "it is Proxmox's first bridge", "vmbr0")
    if network.mac and not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", network.mac):
        fitting.lose(f"{key}.mac", "it is no address")


def _fit_display(fitting: Fitting) -> None:
    display = fitting.machine.display
    if display is None:
        return
    model = fitting.now("display.model")
    if not model:
        model = "vga"
        fitting.lose("display.model", "Proxmox is told a card", model)
    mebibytes = display.memory >> 20
    if display.memory and (
        display.memory % (1 << 20) or not 4 <= mebibytes <= 512 or model == "none"
    ):
        fitting.lose("display.memory", "Proxmox has 4 to 512 MiB")
    if not (model == "qxl" and 2 <= display.heads <= 4):
        fitting.lose("display.heads", "Proxmox has two to four on QXL")
    if not (model == "virtio" and display.accelerated):
        fitting.lose("display.accelerated", "Proxmox has it with virtio-gl")


def _fit_snapshots(fitting: Fitting) -> None:
    names: dict[str, str] = {}
    for at, snapshot in fitting.members("snapshots"):
        key, id_ = f"snapshots[{at}]", snapshot.id
        if not _SECTION.fullmatch(id_) or id_ == "PENDING" or id_ in names.values():
            id_ = f"snapshot-{at + 1}"
        names[snapshot.id] = id_
        fitting.lose(f"{key}.id", "a snapshot is called by letters, digits and hyphens", id_)
        fitting.lose(f"{key}.name", "a snapshot has one name", id_)
        if snapshot.parent:
            parent = names.get(snapshot.parent, "")
            fitting.lose(f"{key}.parent", "what its parent is called", parent or None)
        if re.search(r"[\r\ud800-\udfff]", snapshot.description):
            fitting.lose(f"{key}.description", "a line of it ends otherwise")
        if snapshot.created and not re.fullmatch(
            r"[12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ", snapshot.created
        ):
            fitting.lose(f"{key}.created", "it is no time")
        if any(_back(drive) != drive for drive in snapshot.drives):
            fitting.lose(
                f"{key}.drives", "a snapshot of Proxmox's has the disks of the machine", ()
            )
        if snapshot.memory and not re.fullmatch(r"\S+", snapshot.memory):
            fitting.lose(f"{key}.memory", "a volume has no spaces")
    current = [at for at, snapshot in fitting.members("snapshots") if snapshot.current]
    for at in current[1:]:
        fitting.lose(f"snapshots[{at}].current", "the machine stands on one")


def _back(drive: Drive) -> Drive | None:
    """What a reader would make of a drive."""
    if drive.bus not in _ROOM or drive.device == "floppy" or _unsayable(drive):
        return None
    key, said = drive_line(drive)
    return drive_of(key, joined(said, "file"), "")[0]


def _main(machine: Machine) -> Section:
    section = Section("", machine.description.split("\n") if machine.description else [])
    lines, firmware, cpus = section.lines, machine.firmware, machine.cpus
    if machine.architecture:
        lines["arch"] = machine.architecture
    if firmware.kind:
        lines["bios"] = "ovmf" if firmware.kind == "uefi" else "seabios"
    order = sorted(
        [(drive.boot, drive_line(drive)[0]) for drive in machine.drives if drive.boot]
        + [(each.boot, f"net{at}") for at, each in enumerate(machine.networks) if each.boot]
    )
    if order:
        lines["boot"] = "order=" + ";".join(name for _, name in order)
    if cpus.sockets:
        lines["cores"], lines["sockets"] = str(cpus.cores), str(cpus.sockets)
    elif cpus.count:
        lines["cores"] = str(cpus.count)
    if cpus.model:
        lines["cpu"] = joined({"cputype": cpus.model}, "cputype")
    if firmware.variables:
        secure: dict[bool | None, dict[str, str]] = {
            None: {}, True: {"pre-enrolled-keys": "1"}, False: {"pre-enrolled-keys": "0"},
        }  # fmt: skip
        said = {"file": firmware.variables} | secure[firmware.secure_boot]
        lines["efidisk0"] = joined(said, "file")
    if machine.clock:
        lines["localtime"] = "1" if machine.clock == "localtime" else "0"
    if machine.chipset:
        lines["machine"] = {"i440fx": "pc"}.get(machine.chipset, machine.chipset)
    if machine.memory:
        lines["memory"] = str(machine.memory >> 20)
    if machine.name:
        lines["name"] = machine.name
    if machine.guest:
        lines["ostype"] = guests.proxmox(machine.guest)
    for controller in machine.controllers:
        lines["scsihw"] = words.SCSI[controller.model]
    for drive in machine.drives:
        key, said = drive_line(drive)
        lines[key] = joined(said, "file")
    for at, network in enumerate(machine.networks):
        lines[f"net{at}"] = _network(network)
    for at, serial in enumerate(machine.serials):
        lines[f"serial{at}"] = serial.path if serial.kind == "device" else "socket"
    if machine.uuid:
        lines["smbios1"] = f"uuid={machine.uuid}"
    for model in machine.sound:
        lines["audio0"] = f"device={words.AUDIO[model]}"
    if firmware.tpm:  # the volume with its state is made by Proxmox, and nothing of ours
        lines["tpmstate0"] = f"none,version=v{firmware.tpm}"
    if machine.display is not None:
        display = machine.display
        kind = words.VGA[display.model]
        kind += str(display.heads) if display.heads else "-gl" if display.accelerated else ""
        lines["vga"] = kind + (f",memory={display.memory >> 20}" if display.memory else "")
    current = next((each.id for each in machine.snapshots if each.current), "")
    if current:
        lines["parent"] = current
    return section


def _network(network: Network) -> str:
    said = {network.model: network.mac.upper()} if network.mac else {"model": network.model}
    if network.kind == "bridge":
        said["bridge"] = network.network
    if not network.connected:
        said["link_down"] = "1"
    return joined(said, "model")


def _snapshots(machine: Machine) -> list[Section]:
    found = []
    for snapshot in machine.snapshots:
        lines = {}
        if snapshot.parent:
            lines["parent"] = snapshot.parent
        for drive in snapshot.drives:
            key, said = drive_line(drive)
            lines[key] = joined(said, "file")
        if snapshot.created:
            made = datetime.strptime(snapshot.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            lines["snaptime"] = str(int(made.timestamp()))
        if snapshot.memory:
            lines["vmstate"] = snapshot.memory
        description = snapshot.description.split("\n") if snapshot.description else []
        found.append(Section(snapshot.id, description, lines))
    return found


def _put_back(
    sections: list[Section], extras: tuple[tuple[str, str], ...], machine: Machine
) -> list[int]:
    failed = []
    by_name = {section.name: section for section in sections}
    for at, (key, value) in enumerate(extras):
        found = re.fullmatch(
            r"(?:\[([a-zA-Z][a-zA-Z0-9:_-]*)\] )?([a-z][a-z_0-9]*)(?:\.([\w-]+))?", key
        )
        if found is None or "\n" in value or "\r" in value or value != value.strip():
            failed.append(at)
            continue
        heading, line, option = found[1] or "", found[2], found[3] or ""
        if heading and heading not in by_name and heading.startswith(("PENDING", "special:")):
            by_name[heading] = Section(heading)
            sections.append(by_name[heading])
        section = by_name.get(heading)
        if section is None or not _put(section.lines, line, option, value):
            failed.append(at)
    return failed


def _put(lines: dict[str, str], line: str, option: str, value: str) -> bool:
    if option:
        first = {"cpu": "cputype", "memory": "current", "machine": "type", "vga": "type",
                 "smbios1": "uuid", "audio0": "device"}.get(line, "file")  # fmt: skip
        if line.startswith("net"):
            first = "model"
        if line not in lines and line not in ("smbios1",):
            return False
        said = properties(lines.get(line, ""), first)
        if line == "tpmstate0" and option == "file":
            said.pop("file", None)
        if option in said and not (line.startswith("net") and option == "model"):
            return False
        if line.startswith("net") and option == "model":
            old = next(iter(said))
            if words.NETWORK_NAMES.get(value) != (said[old] if old == "model" else old):
                return False
            said = {
                (old if old == "model" else value): (value if old == "model" else said.pop(old))
            } | {key: each for key, each in said.items() if key != old}
        elif "," in value:
            return False
        else:
            said[option] = value
        lines[line] = joined(said, "" if line in ("smbios1", "audio0") else first)
        return True
    if line == "machine" and lines.get(line) and words.chipset(value) == words.chipset(lines[line]):
        lines[line] = value
        return True
    if (
        line == "scsihw"
        and lines.get(line)
        and words.SCSI_NAMES.get(value) == words.SCSI_NAMES[lines[line]]
    ):
        lines[line] = value
        return True
    if line in lines:
        return False
    lines[line] = value
    return True
