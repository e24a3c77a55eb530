"""Machine: what a virtual machine is made of, in no hypervisor's words.

Everything is plain, immutable data. "" , 0, None and () mean that the description does not say.
What a dialect says and the model has no word for is kept in `extras`, verbatim, under the dialect's
name. Sizes are in bytes. Vocabularies are those of QEMU and libvirt, which have the most words.
Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "ARCHITECTURES",
    "BUSES",
    "CPUs",
    "Controller",
    "Display",
    "Drive",
    "Extra",
    "Firmware",
    "Machine",
    "Network",
    "Serial",
    "Snapshot",
]

ARCHITECTURES: Final = (
    "x86_64", "i686", "aarch64", "armv7l", "ppc64le", "ppc64", "s390x", "riscv64",
)  # fmt: skip
"""As `uname -m` and QEMU call them."""

Bus = Literal["", "ide", "sata", "scsi", "virtio", "nvme", "usb", "floppy", "xen", "vmbus"]
BUSES: Final[tuple[Bus, ...]] = (
    "ide", "sata", "scsi", "virtio", "nvme", "usb", "floppy", "xen", "vmbus",
)  # fmt: skip

Extra = tuple[str, str]
"""(key, value) of a dialect, as they stand there. In XML the key is a path of elements, and the
value the element as text."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """``kind``: "bios" or "uefi". ``tpm``: "1.2" or "2.0". ``variables``: the file with the
    variable store (NVRAM) as the description names it; ``loader``: the file with the code.
    """

    kind: Literal["", "bios", "uefi"] = ""
    secure_boot: bool | None = None
    tpm: Literal["", "1.2", "2.0"] = ""
    variables: str = ""
    loader: str = ""


@dataclass(frozen=True, slots=True)
class CPUs:
    """``count``: virtual processors in all; ``sockets`` * ``cores`` * ``threads`` where the
    topology is told (all three, or none). ``model``: "host", "Skylake-Server", ...
    """

    count: int = 0
    sockets: int = 0
    cores: int = 0
    threads: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Controller:
    """What drives hang on: the ``index``-th of its ``bus``. ``model``: "lsilogic", "lsisas1068",
    "buslogic", "pvscsi", "virtio-scsi" for scsi; "piix3", "piix4", "ich6" for ide; "ahci" for sata;
    "" for what the hypervisor takes by itself.
    """

    bus: Bus
    index: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk, CD or floppy. It hangs on controller number ``controller`` of ``bus``, at ``slot``
    (IDE: 0 and 1 of each of controllers 0 and 1, which are the channels).

    ``path``: the image as the description names it, "" for an empty CD or a disk without file.
    ``format``: name of a disk format of vmimg. ``size``: virtual bytes. ``boot``: 1 boots first, 0
    is not said. ``source``: what ``path`` is, a file of this host or another thing.
    """

    device: Literal["disk", "cdrom", "floppy"] = "disk"
    bus: Bus = ""
    controller: int = 0
    slot: int = 0
    path: str = ""
    source: Literal["file", "block", "network", "volume"] = "file"
    format: str = ""
    size: int = 0
    boot: int = 0
    readonly: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A network interface. ``model``: "virtio", "e1000", "e1000e", "rtl8139", "pcnet", "vmxnet",
    "vmxnet2", "vmxnet3", "netvsc", "xen", "ne2k_pci". ``mac``: "52:54:00:12:34:56", in lower case.
    ``kind`` of what it is attached to, and the ``network``'s name: of the bridge, the virtual
    network or the interface. ``connected``: the cable at the start. ``boot`` as for drives.
    """

    model: str = ""
    mac: str = ""
    kind: Literal["", "nat", "bridge", "network", "hostonly", "internal", "user", "none"] = ""
    network: str = ""
    connected: bool = True
    boot: int = 0


@dataclass(frozen=True, slots=True)
class Serial:
    """A serial port. ``path``: of the file, pipe, socket or device; host:port for "tcp"."""

    kind: Literal["pty", "file", "pipe", "unix", "tcp", "device", "null"] = "pty"
    path: str = ""


@dataclass(frozen=True, slots=True)
class Display:
    """``model`` of the video card: "vga", "cirrus", "qxl", "virtio", "vmvga", "bochs", "vboxvga",
    "vboxsvga", "ramfb", "synthvid"; "none" for no card. ``memory`` in bytes. ``remote``: how it is
    shown: "vnc", "spice", "rdp", "sdl", "gtk".
    """

    model: str = ""
    memory: int = 0
    heads: int = 0
    accelerated: bool | None = None
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that was kept. ``parent``: id of the one that it follows, "" for the first.
    ``created``: "2024-05-01T12:00:00Z". ``current``: the machine stands on this one. ``drives``:
    the disks then, where they are told; ``memory``: the file with the memory, if it ran.
    """

    id: str
    name: str = ""
    description: str = ""
    parent: str = ""
    created: str = ""
    current: bool = False
    drives: tuple[Drive, ...] = ()
    memory: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine.

    ``uuid``: lower case with hyphens. ``chipset``: "i440fx", "q35", "virt", "xenpv". ``clock``:
    "utc", "localtime" or the name of a time zone. ``guest``: the short id of libosinfo
    ("debian12", "win2k22"). ``sound``: models of cards, "ich6", "ich9", "ac97", "es1370", "sb16",
    "hda". ``usb``: controllers, "uhci", "ohci", "ehci", "xhci". ``extras``: for each dialect that
    it was read from, what has no word here.
    """

    name: str = ""
    description: str = ""
    uuid: str = ""
    architecture: str = ""
    chipset: str = ""
    firmware: Firmware = Firmware()
    cpus: CPUs = CPUs()
    memory: int = 0
    clock: str = ""
    guest: str = ""
    controllers: tuple[Controller, ...] = ()
    drives: tuple[Drive, ...] = ()
    networks: tuple[Network, ...] = ()
    serials: tuple[Serial, ...] = ()
    display: Display | None = None
    sound: tuple[str, ...] = ()
    usb: tuple[str, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    extras: Mapping[str, tuple[Extra, ...]] = field(default_factory=dict)
