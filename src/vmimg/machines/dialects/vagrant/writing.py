"""A machine as a Vagrantfile for the provider libvirt, with what it cannot say.

What stands in it is run by Ruby on somebody's host: every text is a literal in which nothing is a
program's. Imports the model and the reader's tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from vmimg.machines.dialect import Written
from vmimg.machines.dialects.vagrant.program import LITERAL, quoted, value_of
from vmimg.machines.dialects.vagrant.reading import (
    BOX_BUSES,
    CHIPSETS,
    MAX_MEMORY,
    NICS,
    REMOTES,
    SOUNDS,
    USB,
    VIDEOS,
    mac_of,
    understood,
)
from vmimg.machines.losses import Loss, foreign
from vmimg.machines.model import Drive, Machine, Network

__all__ = ["write", "write_for_box"]

_MIB: Final = 1 << 20
_KEY: Final = re.compile(r"(config|[a-z][a-z0-9_]*)((?:\.[a-z][a-z0-9_]*)+)")


def write(machine: Machine) -> Written:
    """``machine`` as a Vagrantfile for the provider libvirt."""
    return _Writer(machine, ()).written()


def write_for_box(machine: Machine, packed: Sequence[int]) -> Written:
    """The same, for a box that brings the drives with the numbers ``packed``, in that order."""
    return _Writer(machine, packed).written()


# What of a drive a box says by what its disks are, or that is the box's business.
_BOX_SAYS: Final = ("path", "source", "format", "size")


class _Writer:
    """Collects settings and losses."""

    def __init__(self, machine: Machine, packed: Sequence[int]) -> None:
        self._machine = machine
        self._packed = packed
        self._losses: list[Loss] = []
        self._config: list[str] = []
        self._provider: list[str] = []

    def written(self) -> Written:
        """All of it."""
        machine = self._machine
        self._say("title", "name", machine.name)
        self._say("description", "description", machine.description)
        self._say("uuid", "uuid", machine.uuid)
        self._say("machine_arch", "architecture", machine.architecture)
        if machine.chipset:
            self._choose("machine_type", "chipset", machine.chipset, CHIPSETS)
        self._firmware()
        self._processors()
        self._size("memory", "memory", machine.memory, _MIB)
        if machine.clock in ("utc", "localtime"):
            self._say("clock_offset", "clock", machine.clock)
        elif machine.clock:
            self._lose("clock", machine.clock, "time zones are not said")
        if machine.guest:
            self._lose("guest", machine.guest, "Vagrant finds out by itself")
        self._lose_all("controllers", machine.controllers, "the provider chooses them")
        self._drives()
        self._network()
        self._lose_all("serials", machine.serials, "not said")
        self._show()
        self._one("sound_type", "sound", machine.sound, {name: name for name in SOUNDS})
        self._one("usb_controller", "usb", machine.usb, USB)
        self._lose_all("snapshots", machine.snapshots, "Vagrant keeps its own")
        self._losses += foreign(machine, "vagrant")
        others = self._extras()
        lines = ['Vagrant.configure("2") do |config|', *(f"  {line}" for line in self._config)]
        lines += ["  config.vm.provider :libvirt do |libvirt|"]
        lines += [*(f"    {line}" for line in self._provider), "  end", *others, "end", ""]
        return Written("\n".join(lines).encode(), tuple(self._losses))

    def _firmware(self) -> None:
        firmware = self._machine.firmware
        said = self._say("loader", "firmware.loader", firmware.loader)
        if said and firmware.kind != "uefi":
            self._lose("firmware.kind", firmware.kind or "(not said)", "it has a loader", "uefi")
        elif firmware.kind and not said:
            self._lose("firmware.kind", firmware.kind, "said only by naming a loader")
        self._say("nvram", "firmware.variables", firmware.variables)
        if firmware.secure_boot is not None:
            self._lose("firmware.secure_boot", str(firmware.secure_boot), "not said")
        if firmware.tpm:
            self._provider.append('libvirt.tpm_type = "emulator"')
            self._say("tpm_version", "firmware.tpm", firmware.tpm)

    def _processors(self) -> None:
        cpus = self._machine.cpus
        if cpus.count:
            self._provider.append(f"libvirt.cpus = {cpus.count}")
        told = cpus.sockets, cpus.cores, cpus.threads
        if all(told):
            words = "libvirt.cputopology :sockets => '{}', :cores => '{}', :threads => '{}'"
            self._provider.append(words.format(*told))
        else:
            for name in ("sockets", "cores", "threads"):
                if getattr(cpus, name):
                    self._lose(f"cpus.{name}", str(getattr(cpus, name)), "all three or none")
        if cpus.model == "host":
            self._provider.append('libvirt.cpu_mode = "host-passthrough"')
        elif cpus.model:
            self._provider.append('libvirt.cpu_mode = "custom"')
            self._say("cpu_model", "cpus.model", cpus.model)

    def _drives(self) -> None:
        drives = self._machine.drives
        bus = drives[self._packed[0]].bus if self._packed else ""
        if bus in BOX_BUSES:
            self._say("disk_bus", "", bus)
        for at, drive in enumerate(drives):
            if at not in self._packed:
                self._lose(f"drives[{at}]", drive.path or drive.device, "disks come with the box")
                continue
            # On one bus, in a row: as vagrant-libvirt attaches them.
            slot = self._packed.index(at)
            found = Drive(bus=bus if bus in BOX_BUSES else "", slot=slot)
            for field in fields(Drive):
                is_, will_be = getattr(drive, field.name), getattr(found, field.name)
                if is_ != will_be and field.name not in _BOX_SAYS:
                    key = f"drives[{at}].{field.name}"
                    self._lose(key, str(is_), "Vagrant attaches the disks of a box", will_be)

    def _network(self) -> None:
        networks = self._machine.networks
        only = (Network(kind="nat"),)
        if not networks:
            self._lose("networks", "(none)", "Vagrant's machines have one, behind NAT", only)
            return
        first = networks[0]
        if first.kind != "nat":
            kind = first.kind or "(not said)"
            self._lose("networks[0].kind", kind, "Vagrant's first is behind NAT", "nat")
        if first.network:
            self._lose("networks[0].network", first.network, "Vagrant chooses its network")
        if first.mac:
            plain = first.mac.replace(":", "")
            if mac_of(plain) == first.mac:
                self._config.append(f'config.vm.base_mac = "{plain.upper()}"')
            else:
                self._lose("networks[0].mac", first.mac, "is no address")
        if first.model in NICS:
            self._say("nic_model_type", "networks[0].model", first.model)
        elif first.model:
            self._lose("networks[0].model", first.model, "QEMU has no such card")
        if not first.connected:
            self._lose("networks[0].connected", "False", "not said")
        if first.boot:
            self._lose("networks[0].boot", str(first.boot), "not said")
        self._lose_all("networks", networks, "what Vagrant's own network is not", start=1)

    def _show(self) -> None:
        display = self._machine.display
        if display is None:
            return
        before, losses = len(self._provider), len(self._losses)
        if display.model in VIDEOS:
            self._say("video_type", "display.model", display.model)
        elif display.model:
            self._lose("display.model", display.model, "QEMU has no such card")
        self._size("video_vram", "display.memory", display.memory, 1024)
        if display.accelerated is not None:
            self._provider.append(f"libvirt.video_accel3d = {str(display.accelerated).lower()}")
        if display.remote in REMOTES:
            self._say("graphics_type", "display.remote", display.remote)
        elif display.remote:
            self._lose("display.remote", display.remote, "libvirt has no such display")
        if display.heads:
            self._lose("display.heads", str(display.heads), "not said")
        if len(self._provider) == before:
            del self._losses[losses:]
            self._lose("display", display.model or "(of no model)", "nothing of it can be said")

    def _one(self, setting: str, key: str, values: tuple[str, ...], words: dict[str, str]) -> None:
        """The first of a list that there is a word for; the others are lost."""
        said = False
        for at, value in enumerate(values):
            if said or value not in words:
                self._lose(f"{key}[{at}]", value, "one of them can be said" if said else "no word")
            elif setting == "usb_controller":
                self._provider.append(f'libvirt.usb_controller :model => "{words[value]}"')
                said = True
            else:
                said = self._say(setting, f"{key}[{at}]", words[value])

    def _extras(self) -> list[str]:
        """What was read verbatim, in blocks of the providers that it was in."""
        lines: list[str] = []
        scope = "config"
        for at, (key, literal) in enumerate(self._machine.extras.get("vagrant", ())):
            match = _KEY.fullmatch(key)
            known = re.fullmatch(LITERAL, literal) and value_of(literal) is not None
            if not match or not known or understood(match[1], match[2][1:], "libvirt"):
                self._lose(f"extras.vagrant[{at}]", f"{key} = {literal}", "is no plain setting")
                continue
            if match[1] != scope:
                if scope != "config":
                    lines.append("  end")
                if match[1] != "config":
                    lines.append(f"  config.vm.provider :{match[1]} do |{match[1]}|")
                scope = match[1]
            indent = "  " if scope == "config" else "    "
            lines.append(f"{indent}{key} = {literal}")
        if scope != "config":
            lines.append("  end")
        return lines

    def _say(self, setting: str, key: str, value: str) -> bool:
        if not value:
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            self._lose(key, ascii(value), "is no text")
            return False
        self._provider.append(f"libvirt.{setting} = {quoted(value)}")
        return True

    def _choose(self, setting: str, key: str, value: str, words: dict[str, str]) -> None:
        if value in words:
            self._say(setting, key, words[value])
        else:
            self._lose(key, value, "libvirt has no word for it")

    def _size(self, setting: str, key: str, size: int, unit: int) -> None:
        if not size:
            return
        count = size // unit
        usable = 0 < count < 1 << 30 and size <= MAX_MEMORY
        if not usable or size % unit:
            kept = count * unit if usable else None
            self._lose(key, str(size), f"counted in units of {unit} bytes", kept)
        if usable:
            self._provider.append(f"libvirt.{setting} = {count}")

    def _lose(self, key: str, value: str, reason: str, instead: Any = None) -> None:
        self._losses.append(Loss(key, value, reason, instead))

    def _lose_all(self, key: str, members: tuple[Any, ...], reason: str, start: int = 0) -> None:
        for at, member in enumerate(members[start:], start):
            told = getattr(member, "path", "") or getattr(member, "name", "")
            self._lose(f"{key}[{at}]", told or f"number {at + 1}", reason)
