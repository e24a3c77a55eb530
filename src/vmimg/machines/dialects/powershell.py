"""A PowerShell script that makes the machine in Hyper-V (New-VM, Add-VMHardDiskDrive ...).

Run it beside the disks: paths that are not absolute are taken from where the script lies. It stops
at the first error. What came from a description stands in it as data only: in single quotes, in
which nothing is expanded, quotes doubled; and in ASCII, since Windows PowerShell 5 reads a script
without a mark in the code page of its host, in which other bytes would be quotes.

Source: https://learn.microsoft.com/powershell/module/hyper-v. Imports fitting and guests.
"""

from __future__ import annotations

import re
from typing import Final

from vmimg.machines.dialect import Written
from vmimg.machines.fitting import Fitting, Rule
from vmimg.machines.guests import secure_boot_template
from vmimg.machines.model import Drive, Machine, Network

__all__ = ["quoted", "write"]

_MIB: Final = 1 << 20
_UNIT: Final = 2 * _MIB
"""Of memory."""
_PIPE: Final = "\\\\.\\pipe\\"
_ABSOLUTE: Final = re.compile(r"[A-Za-z]:[\\/]|[\\/]")
_DEFAULT_SWITCH: Final = "Default Switch"
"""Windows 10 and later have it, with NAT."""
_KINDS: Final = {"cdrom": "CD", "disk": "IDE", "floppy": "Floppy"}
_STARTUP: Final = ("CD", "IDE", "LegacyNetworkAdapter", "Floppy")
_UNSAID: Final = "Hyper-V has no word for it"

_RULES: Final = (
    Rule("name", "a machine has a name", bool, "machine", needed=True),
    Rule("uuid", "Hyper-V makes one of its own"),
    Rule("architecture", "Hyper-V runs x86_64", ("x86_64",), "x86_64"),
    Rule("chipset", "Hyper-V has its own"),
    Rule("firmware.variables", "Hyper-V keeps them in a file of its own"),
    Rule("firmware.loader", "Hyper-V has its own"),
    Rule("firmware.tpm", "the TPM of Hyper-V is 2.0", ("2.0",), "2.0"),
    Rule("cpus.count", "a machine has processors", lambda count: 0 < count <= 2048, 1, needed=True),
    Rule("cpus.sockets", "the topology is the host's"),
    Rule("cpus.cores", "the topology is the host's"),
    Rule("cpus.threads", "the topology is the host's"),
    Rule("cpus.model", "the host's is taken"),
    Rule("memory", "memory comes in 2 MiB", lambda size: size and size % _UNIT == 0,
         lambda machine: max(-(-machine.memory // _UNIT) * _UNIT, 32 * _MIB)
         if machine.memory else 1 << 30, needed=True),
    Rule("clock", _UNSAID),
    Rule("guest", _UNSAID),
    Rule("drives[].size", "the image says it"),
    Rule("drives[].format", "Hyper-V attaches VHD and VHDX only: convert it first",
         ("vhd", "vhdx")),
    Rule("drives[].readonly", _UNSAID),
    Rule("drives[].serial", _UNSAID),
    Rule("networks[].model", "Hyper-V has one card", ("netvsc",), "netvsc"),
    Rule("display.model", "Hyper-V has its own card", ("synthvid",), "synthvid"),
    Rule("display.memory", _UNSAID),
    Rule("display.heads", _UNSAID),
    Rule("display.accelerated", _UNSAID),
    Rule("display.remote", "Hyper-V shows the screen itself"),
    Rule("sound[]", "Hyper-V has no sound card"),
    Rule("usb[]", "Hyper-V has no USB controller"),
    Rule("snapshots[]", "the disks are attached as they are now"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The script."""
    fitting = _fitting(machine)
    return Written(_script(fitting.fitted, machine.guest).encode("ascii"), fitting.losses)


def quoted(text: str) -> str:
    """``text`` as an expression of PowerShell, in printable ASCII of one line."""
    parts: list[str] = []
    for run in re.findall(r"[ -~]+|[^ -~]", text):
        if re.fullmatch(r"[ -~]+", run):
            parts.append("'" + run.replace("'", "''") + "'")
        elif ord(run) < 0x10000:
            parts.append(f"[char]0x{ord(run):04X}")
        else:
            parts.append(f"[char]::ConvertFromUtf32(0x{ord(run):X})")
    if len(parts) == 1 and parts[0].startswith("'"):
        return parts[0]
    if not parts or not parts[0].startswith("'"):
        parts.insert(0, "''")  # what it begins with decides what + means
    return "(" + " + ".join(parts) + ")" if len(parts) > 1 else parts[0]


def _second(machine: Machine) -> bool:
    """Whether it is of generation 2."""
    return machine.firmware.kind == "uefi"


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "powershell", _RULES)
    second = _second(machine)
    if not second:
        reason = "only machines of generation 2 have it"
        fitting.lose("firmware.secure_boot", reason)
        fitting.lose("firmware.tpm", reason)
        fitting.lose("firmware.kind", "a machine is of generation 1 or 2", "bios")
    elif machine.firmware.secure_boot is None:
        fitting.lose("firmware.secure_boot", "it is on or off", False)
    _fit_drives(fitting, second)
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network)
    ports = 0
    for at, serial in fitting.members("serials"):
        if serial.kind != "pipe" or not serial.path.startswith(_PIPE) or ports == 2:
            fitting.lose(f"serials[{at}]", "there are two ports, on named pipes of Windows")
        else:
            ports += 1
    _fit_boots(fitting, second)
    fitting.controllers((), "Hyper-V has those that the disks need")
    return fitting


def _fit_drives(fitting: Fitting, second: bool) -> None:
    for at, drive in fitting.members("drives"):
        if drive.source != "file":
            fitting.lose(f"drives[{at}]", "Hyper-V attaches files; other disks are told by number")
        elif second and drive.device == "floppy":
            fitting.lose(f"drives[{at}]", "machines of generation 2 have no floppy")
        elif drive.device == "disk" and not drive.path:
            fitting.lose(f"drives[{at}]", "there is no file")
    room = {"scsi": (4, 64)}
    if not second:
        room |= {"ide": (2, 2), "floppy": (1, 1)}
    # The BIOS of generation 1 boots from IDE; CDs are on nothing else there.
    left = 4 - sum(drive.bus == "ide" for _, drive in fitting.members("drives"))

    def fallback(drive: Drive) -> str:
        nonlocal left
        if drive.device == "floppy":
            return "floppy"
        if second or (drive.device == "disk" and left <= 0):
            return "scsi"
        left -= 1
        return "ide"

    def fits(device: str, bus: str) -> bool:
        if bus == "floppy" or device == "floppy":
            return device == bus
        return second or device == "disk" or bus == "ide"

    fitting.place(room, fallback, "Hyper-V", fits)


def _fit_network(fitting: Fitting, key: str, network: Network) -> None:
    if network.mac and not re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", network.mac):
        fitting.lose(f"{key}.mac", "it is no address")
    if not network.connected or network.kind in ("", "none"):
        fitting.lose(f"{key}.kind", "it is on no switch", "none")
        fitting.lose(f"{key}.network", "it is on no switch")
        fitting.lose(f"{key}.connected", "it is on no switch", False)
    elif network.kind in ("nat", "user") or not network.network:
        fitting.lose(f"{key}.kind", "the default switch has NAT", "nat")
        fitting.lose(f"{key}.network", "the default switch has NAT")
    else:
        fitting.lose(f"{key}.kind", "a switch is what its host made it", "network")


def _fit_boots(fitting: Fitting, second: bool) -> None:
    order = sorted(
        (member.boot, name, at)
        for name in ("drives", "networks")
        for at, member in fitting.members(name)
        if member.boot > 0
    )
    seen: set[str] = set()
    rank = 0
    for _, name, at in order:
        key = f"{name}[{at}].boot"
        kind = "network" if name == "networks" else fitting.machine.drives[at].device
        scsi = name == "drives" and fitting.now(f"drives[{at}].bus") == "scsi"
        if not second and (kind in seen or kind == "network" or scsi):
            fitting.lose(key, "a BIOS boots from a kind of device, and from IDE")
            continue
        seen.add(kind)
        rank += 1
        fitting.lose(key, "what boots is numbered without gaps", rank)


def _script(machine: Machine, guest: str) -> str:
    second = _second(machine)
    lines = [
        "#Requires -Modules Hyper-V",
        "# Makes the machine in Hyper-V; the disks are attached where they lie.",
        "$ErrorActionPreference = 'Stop'",
        "Set-StrictMode -Version 3",
        "",
        f"$vm = New-VM -Name {quoted(machine.name)} -Generation {2 if second else 1} "
        f"-MemoryStartupBytes {machine.memory} -NoVHD",
        "Set-VM -VM $vm -StaticMemory",
        f"Set-VMProcessor -VM $vm -Count {machine.cpus.count}",
    ]
    if machine.description:
        lines.append(f"Set-VM -VM $vm -Notes {quoted(machine.description)}")
    lines += ["", "# What New-VM puts in by itself", "Get-VMDvdDrive -VM $vm | Remove-VMDvdDrive"]
    lines.append("Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter")
    lines += ["", *_disks(machine)]
    lines += [_card(at, each) for at, each in enumerate(machine.networks)]
    lines += [
        f"Set-VMComPort -VM $vm -Number {at} -Path {quoted(each.path)}"
        for at, each in enumerate(machine.serials, 1)
    ]
    lines += ["", *(_firmware(machine, guest) if second else _bios(machine))]
    return "\r\n".join(lines) + "\r\n"


def _disks(machine: Machine) -> list[str]:
    lines = []
    last = max((each.controller for each in machine.drives if each.bus == "scsi"), default=-1)
    if last >= 0:
        lines.append(
            f"while (@(Get-VMScsiController -VM $vm).Count -lt {last + 1}) "
            "{ Add-VMScsiController -VM $vm }"
        )
    for at, drive in enumerate(machine.drives):
        path = _path(drive.path)
        if drive.device == "floppy":
            if path:
                lines.append(f"Set-VMFloppyDiskDrive -VM $vm -Path {path}")
            continue
        place = f"-ControllerNumber {drive.controller} -ControllerLocation {drive.slot}"
        if drive.device == "disk":
            kind = f"-ControllerType {'IDE' if drive.bus == 'ide' else 'SCSI'}"
            line = f"Add-VMHardDiskDrive -VM $vm {kind} {place} -Path {path}"
        else:
            line = f"Add-VMDvdDrive -VM $vm {place}" + (f" -Path {path}" if path else "")
        lines.append(f"$drive{at} = {line} -Passthru")
    return lines


def _path(path: str) -> str:
    if not path:
        return ""
    if _ABSOLUTE.match(path):
        return quoted(path)
    return f"(Join-Path $PSScriptRoot {quoted(path)})"


def _card(at: int, network: Network) -> str:
    line = f"$card{at} = Add-VMNetworkAdapter -VM $vm -Name 'Network Adapter {at + 1}'"
    if network.kind == "nat":
        line += f" -SwitchName '{_DEFAULT_SWITCH}'"
    elif network.network:
        line += f" -SwitchName {quoted(network.network)}"
    if network.mac:
        line += f" -StaticMacAddress '{network.mac.replace(':', '').upper()}'"
    return line + " -Passthru"


def _firmware(machine: Machine, guest: str) -> list[str]:
    lines = ["Set-VMFirmware -VM $vm -EnableSecureBoot Off"]
    if machine.firmware.secure_boot:
        template = secure_boot_template(guest)
        lines = [f"Set-VMFirmware -VM $vm -EnableSecureBoot On -SecureBootTemplate '{template}'"]
    if machine.firmware.tpm:
        lines += ["Set-VMKeyProtector -VM $vm -NewLocalKeyProtector", "Enable-VMTPM -VM $vm"]
    order = [(each.boot, f"$drive{at}") for at, each in enumerate(machine.drives) if each.boot]
    order += [(each.boot, f"$card{at}") for at, each in enumerate(machine.networks) if each.boot]
    if order:
        devices = ", ".join(device for _, device in sorted(order))
        lines.append(f"Set-VMFirmware -VM $vm -BootOrder @({devices})")
    return lines


def _bios(machine: Machine) -> list[str]:
    order = sorted((each.boot, _KINDS[each.device]) for each in machine.drives if each.boot)
    if not order:
        return []
    kinds = [kind for _, kind in order]
    kinds += [kind for kind in _STARTUP if kind not in kinds]
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    return [f"Set-VMBios -VM $vm -StartupOrder @({listed})"]
