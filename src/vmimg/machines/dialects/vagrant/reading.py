"""What the settings of a Vagrantfile and the metadata of a box are in the model.

Sources: see the package. Imports the model and the program's reader.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.vagrant.program import MAX_BYTES, Program, Value, parse
from vmimg.machines.model import CPUs, Display, Drive, Firmware, Machine, Network

__all__ = [
    "ARCHITECTURES",
    "BOX_BUSES",
    "CHIPSETS",
    "MAX_MEMORY",
    "NICS",
    "REMOTES",
    "SOUNDS",
    "USB",
    "VIDEOS",
    "mac_of",
    "read",
    "read_metadata",
    "settings_of",
    "understood",
]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
MAX_MEMORY: Final = 1 << 50
CHIPSETS: Final = {"i440fx": "pc", "q35": "q35", "virt": "virt"}
NICS: Final = ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "vmxnet3", "ne2k_pci")
VIDEOS: Final = ("vga", "cirrus", "qxl", "virtio", "vmvga", "bochs", "ramfb", "none")
REMOTES: Final = ("vnc", "spice", "sdl", "rdp")
SOUNDS: Final = ("ich6", "ich9", "ac97", "es1370", "sb16")
USB: Final = {"xhci": "qemu-xhci", "ehci": "ehci", "uhci": "piix3-uhci", "ohci": "pci-ohci"}
# What Docker and Go call them, and Vagrant since it knows them (2.4).
ARCHITECTURES: Final = {
    "amd64": "x86_64", "386": "i686", "i386": "i686", "arm64": "aarch64", "arm": "armv7l",
    "ppc64le": "ppc64le", "ppc64": "ppc64", "s390x": "s390x", "riscv64": "riscv64",
}  # fmt: skip
BOX_BUSES: Final = ("ide", "sata", "scsi", "virtio", "nvme", "usb")
_MAX_DISKS: Final = 256


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine that a Vagrantfile, or a box's metadata.json, describes."""
    if data.lstrip()[:1] == b"{":
        machine, _ = read_metadata(data, name)
        return (machine,)
    program = parse(data, name)
    providers = program.providers
    provider = "libvirt" if "libvirt" in providers else providers[0] if providers else "libvirt"
    return (settings_of(program, provider),)


def read_metadata(data: bytes, name: str) -> tuple[Machine, dict[str, Any]]:
    """What a metadata.json says: the machine with its disks, and all of it as it is.

    Raises FormatError where it is no JSON or says what it cannot.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"{name}: has {len(data)} bytes, which no metadata of a box has")
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{name}: is no JSON") from None
    if not isinstance(said, dict):
        raise FormatError(f"{name}: is no JSON object")
    drives: list[Drive] = []
    disks = said.get("disks")
    if isinstance(disks, list):
        if len(disks) > _MAX_DISKS:
            raise FormatError(f"{name}: lists {len(disks)} disks, which is beyond all reason")
        for number, disk in enumerate(disks, 1):
            path = disk.get("path") if isinstance(disk, dict) else None
            if not isinstance(path, str) or not path:
                raise FormatError(f"{name}: disk {number} of 'disks' has no path")
            format = disk.get("format")
            drives.append(Drive(path=path, format=format if isinstance(format, str) else ""))
    elif said.get("provider") == "libvirt":
        format, gigabytes = said.get("format"), said.get("virtual_size")
        size = 0
        if isinstance(gigabytes, bool):
            gigabytes = None
        if isinstance(gigabytes, int | float) and 0 < gigabytes < 1 << 30:
            size = int(gigabytes * _GIB)
        drives.append(
            Drive(path="box.img", format=format if isinstance(format, str) else "", size=size)
        )
    named = said.get("architecture")
    architecture = ARCHITECTURES.get(named, "") if isinstance(named, str) else ""
    return Machine(architecture=architecture, drives=_placed(drives, "")), said


# What a setting of a provider is in the model. Those of libvirt are written too.

_NAMES: Final = ("title", "name", "vmname", "vmx[displayname]", "modifyvm --name")
_MEMORIES: Final = ("memory", "vmx[memsize]", "modifyvm --memory")
_COUNTS: Final = ("cpus", "vmx[numvcpus]", "modifyvm --cpus")
_KNOWN: Final = frozenset(
    (
        *_NAMES, *_MEMORIES, *_COUNTS, "description", "uuid", "machine_arch", "machine_type",
        "loader", "nvram", "tpm_version", "tpm_type", "tpm_model", "cpu_mode", "cpu_model",
        "clock_offset", "nic_model_type", "video_type", "video_vram", "video_accel3d",
        "graphics_type", "sound_type", "disk_bus", "modifyvm --firmware", "modifyvm --vram",
        "vmx[firmware]",
    )
)  # fmt: skip


def settings_of(program: Program, provider: str, drives: tuple[Drive, ...] = ()) -> Machine:
    """The machine that ``program`` makes with one of its providers of a box with ``drives``."""
    said = program.of(provider)
    config = program.of("config")
    topology = [_number(said.get(f"cputopology {k}")) for k in ("sockets", "cores", "threads")]
    if not all(topology):
        topology = [0, 0, 0]
    model = _text(said.get("cpu_model"))
    if said.get("cpu_mode") in ("host-passthrough", "host-model"):
        model = "host"
    loader = _text(said.get("loader"))
    efi = "efi" in _text(said.get("modifyvm --firmware")) or said.get("vmx[firmware]") == "efi"
    usb = {word: kind for kind, word in USB.items()}.get(
        _text(said.get("usb_controller model")), ""
    )
    sound = _text(said.get("sound_type"))
    tpm = _text(said.get("tpm_version"))
    clock = _text(said.get("clock_offset"))
    nic = _text(said.get("nic_model_type"))
    machine = Machine(
        name=_text(_first(said, _NAMES)),
        description=_text(said.get("description")),
        uuid=_text(said.get("uuid")).lower(),
        architecture=_text(said.get("machine_arch")),
        chipset=_chipset(_text(said.get("machine_type"))),
        firmware=Firmware(
            "uefi" if loader or efi else "",
            tpm="1.2" if tpm == "1.2" else "2.0" if tpm == "2.0" else "",
            variables=_text(said.get("nvram")),
            loader=loader,
        ),
        cpus=CPUs(_number(_first(said, _COUNTS)), topology[0], topology[1], topology[2], model),
        memory=_sized(_first(said, _MEMORIES), _MIB),
        clock=clock if clock in ("utc", "localtime") else "",
        drives=_placed(drives, _text(said.get("disk_bus"))),
        networks=(
            Network(
                model=nic if nic in NICS else "",
                mac=mac_of(_text(config.get("vm.base_mac"))),
                kind="nat",
            ),
        ),
        display=_display(said),
        sound=(sound,) if sound in SOUNDS else (),
        usb=(usb,) if usb else (),
    )  # fmt: skip
    extras = tuple(
        (f"{scope}.{key}", literal)
        for scope, key, _, literal in program.settings
        if literal and not understood(scope, key, provider)
    )
    if extras:
        object.__setattr__(machine, "extras", {"vagrant": extras})
    return machine


def understood(scope: str, key: str, provider: str) -> bool:
    """Whether a setting is in the model, where ``provider`` is the one that counts."""
    return (scope == provider and key in _KNOWN) or (scope == "config" and key == "vm.base_mac")


def _chipset(machine: str) -> str:
    """Of a machine type of QEMU's: "pc", "q35", or as "pc-q35-7.2"."""
    found = re.fullmatch(r"(?:pc-)?(pc|i440fx|q35|virt)(?:-[\w.]+)?", machine)
    return {"pc": "i440fx"}.get(found[1], found[1]) if found else ""


def _display(said: dict[str, Value]) -> Display | None:
    model, remote = _text(said.get("video_type")), _text(said.get("graphics_type"))
    accelerated = said.get("video_accel3d")
    found = Display(
        model=model if model in VIDEOS else "",
        memory=_sized(said.get("video_vram"), 1024) or _sized(said.get("modifyvm --vram"), _MIB),
        accelerated=accelerated if isinstance(accelerated, bool) else None,
        remote=remote if remote in REMOTES else "",
    )
    return found if found != Display() else None


def _placed(drives: tuple[Drive, ...] | list[Drive], bus: str) -> tuple[Drive, ...]:
    """On one bus, in a row: as vagrant-libvirt attaches the disks of a box."""
    known: Any = bus if bus in BOX_BUSES else ""
    return tuple(
        Drive(path=drive.path, format=drive.format, size=drive.size, bus=known, slot=slot)
        for slot, drive in enumerate(drives)
    )


def _first(said: dict[str, Value], names: tuple[str, ...]) -> Value | None:
    return next((said[name] for name in names if name in said), None)


def _text(value: Value | None) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Value | None) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value, re.ASCII):
        value = int(value)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 30
    return int(value) if usable and value is not None else 0


def _sized(value: Value | None, unit: int) -> int:
    size = _number(value) * unit
    return size if size <= MAX_MEMORY else 0


def mac_of(text: str) -> str:
    """An address as the model has it, "" for what is none."""
    plain = re.sub(r"[:.\-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{12}", plain):
        return ""
    return ":".join(plain[at : at + 2] for at in range(0, 12, 2))
