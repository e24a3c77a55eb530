"""Machines to hold every dialect to: `SMALL`, `RICH`, and the hypothesis strategy `machines()`.

A machine here is sane: it could be somebody's. That means, so that a reader has one right answer:

- texts are stripped, of one line, with quotes, backslashes, &<>, unicode; no control characters;
- controllers are listed for every (bus, index) that a drive hangs on, or not at all; drives stand
  in the order of BUSES, controller, slot, and no two share a slot;
- a CD or floppy has no size, format or serial, and `readonly` is said of disks only; either may be
  empty, a disk has a path;
- boot orders are 1, 2, 3... each once;
- snapshots are one tree, parents before children, depth first; one of them is current;
- `count` is sockets * cores * threads, where those are told; sizes are whole MiB;
- a network of kind nat, user or none has no name, the others have one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from vmimg.machines.model import (
    BUSES,
    Controller,
    CPUs,
    Display,
    Drive,
    Firmware,
    Machine,
    Network,
    Serial,
    Snapshot,
)

__all__ = ["RICH", "SMALL", "machines", "texts"]

MIB = 1 << 20

SMALL = Machine(name="small", memory=512 * MIB, drives=(Drive(path="small.qcow2"),))
"""As little as a description can say."""

_RICH_DISKS = (
    Drive("disk", "ide", 1, 0, "old disk.vmdk", "file", "vmdk", 2048 * MIB, 0, False, "WD-1234"),
    Drive("disk", "sata", 0, 0, "data & more.raw", "file", "raw", 4096 * MIB, 0, True, ""),
    Drive("disk", "scsi", 0, 0, "/images/system.qcow2", "file", "qcow2", 20480 * MIB, 1),
    Drive("disk", "scsi", 0, 3, "/dev/vg0/logs", "block", "raw", 1024 * MIB, 0, False, "LOGS_01"),
    Drive("disk", "virtio", 0, 0, "fast.qcow2", "file", "qcow2", 8192 * MIB),
)

RICH = Machine(
    name='Büro-Server "Nr. 3" <test> & Söhne',
    description="Rechnet ab: 100 % pünktlich; back\\slash, 'quotes' \U0001f427",
    uuid="4c4c4544-0042-4c10-8052-b4c04f4e4d32",
    architecture="x86_64",
    chipset="q35",
    firmware=Firmware("uefi", True, "2.0", "/nvram/server_VARS.fd", "/firmware/OVMF_CODE.fd"),
    cpus=CPUs(8, 2, 2, 2, "Skylake-Server"),
    memory=6144 * MIB,
    clock="utc",
    guest="debian12",
    controllers=(
        Controller("ide", 0, "piix4"),
        Controller("ide", 1, "piix4"),
        Controller("sata", 0, "ahci"),
        Controller("scsi", 0, "virtio-scsi"),
        Controller("virtio", 0),
        Controller("floppy", 0),
    ),
    drives=(
        Drive("cdrom", "ide", 0, 0, "install disc.iso", boot=2),
        Drive("cdrom", "ide", 0, 1),
        *_RICH_DISKS,
        Drive("floppy", "floppy", 0, 0, "drivers.img"),
    ),
    networks=(
        Network("virtio", "52:54:00:12:34:56", "bridge", "br0", True, 3),
        Network("e1000", "52:54:00:12:34:57", "network", "default"),
        Network("rtl8139", "52:54:00:12:34:58", "user", "", False),
    ),
    serials=(Serial("pty"), Serial("tcp", "127.0.0.1:4555")),
    display=Display("qxl", 64 * MIB, 2, True, "spice"),
    sound=("ich9",),
    usb=("xhci",),
    snapshots=(
        Snapshot("clean", "clean", "after the installation", "", "2024-05-01T12:00:00Z"),
        Snapshot("patched", "patched", "", "clean", "2024-06-01T08:30:00Z", True),
        Snapshot("broken", "broken", "", "clean", "2024-05-15T00:00:01Z"),
    ),
)
"""What a person would know: a server with one of everything."""

_PLAIN = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_."
_AWKWARD = " \"'&<>\\$%#=;:,()[]{}|!~`@^*+?äßñéø日本語\U0001f427"


def texts(most: int = 24, without: str = "") -> st.SearchStrategy[str]:
    """A line of text that is not empty, with what has to be quoted somewhere; stripped."""
    letters = "".join(each for each in _PLAIN * 2 + _AWKWARD if each not in without)
    return st.text(letters, min_size=1, max_size=most).map(str.strip).filter(bool)


def _paths(*extensions: str) -> st.SearchStrategy[str]:
    names = texts(12).filter(lambda name: name.strip(".") and not name.startswith("-"))
    folders = st.sampled_from(["", "", "/var/lib/images/", "/mnt/a b/", "disks/"])
    return st.builds(
        lambda folder, name, extension: folder + name + extension,
        folders, names, st.sampled_from(extensions),
    )  # fmt: skip


_IDENTIFIERS = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
_UUIDS = st.uuids(version=4).map(str)
_TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(
    lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ")
)
_FORMATS = {
    ".qcow2": "qcow2", ".raw": "raw", ".vmdk": "vmdk", ".vdi": "vdi", ".vhd": "vhd",
    ".vhdx": "vhdx",
}  # fmt: skip
_SLOTS = {
    "ide": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "sata": [(0, slot) for slot in range(6)],
    "scsi": [(bus, slot) for bus in (0, 1) for slot in (0, 1, 2, 3, 4, 5, 6)],
    "virtio": [(0, slot) for slot in range(4)],
    "nvme": [(0, 0)],
    "usb": [(0, 0), (0, 1)],
    "floppy": [(0, 0), (0, 1)],
    "xen": [(0, slot) for slot in range(4)],
    "vmbus": [(0, slot) for slot in range(4)],
}
_MODELS = {
    "ide": ["", "piix3", "piix4", "ich6"],
    "sata": ["", "ahci"],
    "scsi": ["", "lsilogic", "lsisas1068", "buslogic", "pvscsi", "virtio-scsi"],
}


@st.composite
def _drive(draw: st.DrawFn, bus: str, controller: int, slot: int) -> Drive:
    place: dict[str, Any] = {"bus": bus, "controller": controller, "slot": slot}
    if bus == "floppy":
        return Drive("floppy", path=draw(st.just("") | _paths(".img", ".flp")), **place)
    if bus in ("ide", "sata", "scsi") and draw(st.integers(0, 3)) == 0:
        return Drive("cdrom", path=draw(st.just("") | _paths(".iso", ".ISO")), **place)
    extension = draw(st.sampled_from([*_FORMATS]))
    source = draw(st.sampled_from(["file"] * 5 + ["block", "network", "volume"]))
    told = draw(st.booleans())
    format_ = _FORMATS[extension]
    if source == "block":
        path, format_ = "/dev/" + draw(_IDENTIFIERS), "raw"
    elif source == "network":
        path, format_ = f"nbd://{draw(_IDENTIFIERS)}.example:10809/export", "raw"
    elif source == "volume":
        path = f"{draw(_IDENTIFIERS)}/{draw(_IDENTIFIERS)}{extension}"
    else:
        path = draw(_paths(extension))
    return Drive(
        path=path,
        source=source,
        format=format_ if told else "",
        size=draw(st.sampled_from([0, MIB, 513 * MIB, 20 << 30, 3 << 40])),
        readonly=draw(st.integers(0, 5)) == 0,
        serial=draw(st.just("") | st.from_regex(r"[A-Z0-9][A-Z0-9_-]{0,15}", fullmatch=True)),
        **place,
    )


@st.composite
def _network(draw: st.DrawFn, at: int) -> Network:
    kind = draw(
        st.sampled_from(["", "nat", "bridge", "network", "hostonly", "internal", "user", "none"])
    )
    named = kind in ("bridge", "network", "hostonly", "internal")
    tail = draw(st.integers(0, 0xFFFF))
    prefix = draw(st.sampled_from(["52:54:00", "00:0c:29", "08:00:27", "00:16:3e"]))
    mac = f"{prefix}:{tail >> 8:02x}:{tail & 255:02x}:{at:02x}"
    models = [
        "", "virtio", "e1000", "e1000e", "rtl8139", "pcnet", "vmxnet", "vmxnet2", "vmxnet3",
        "netvsc", "xen", "ne2k_pci",
    ]  # fmt: skip
    return Network(
        model=draw(st.sampled_from(models)),
        mac=draw(st.sampled_from(["", mac, mac, mac])),
        kind=kind,
        network=draw(_IDENTIFIERS) if named else "",
        connected=draw(st.integers(0, 4)) != 0,
    )


@st.composite
def _serials(draw: st.DrawFn) -> Serial:
    kind = draw(st.sampled_from(["pty", "file", "pipe", "unix", "tcp", "device", "null"]))
    if kind in ("pty", "null"):
        return Serial(kind)
    if kind == "tcp":
        return Serial(kind, f"{draw(_IDENTIFIERS)}:{draw(st.integers(1, 65535))}")
    if kind == "device":
        return Serial(kind, f"/dev/ttyS{draw(st.integers(0, 3))}")
    return Serial(kind, f"/run/{draw(_IDENTIFIERS)}")


@st.composite
def _snapshots(draw: st.DrawFn, disks: tuple[Drive, ...]) -> tuple[Snapshot, ...]:
    count = draw(st.sampled_from([0, 0, 0, 1, 2, 4]))
    style = draw(st.sampled_from(["number", "word", "uuid"]))
    line: list[str] = []  # from the root to the one that came last
    made: list[Snapshot] = []
    current = draw(st.integers(0, max(count - 1, 0)))
    for at in range(count):
        id_ = str(at + 1) if style == "number" else f"state-{at + 1}"
        if style == "uuid":
            id_ = draw(_UUIDS.filter(lambda each: all(each != other.id for other in made)))
        if line:
            line = line[: draw(st.integers(1, len(line)))]
        drives: tuple[Drive, ...] = ()
        if draw(st.integers(0, 2)) == 0:
            drives = tuple(Drive(each.device, each.bus, each.controller, each.slot,
                                 f"then-{at}-{place}.vmdk", "file", "vmdk")
                           for place, each in enumerate(disks))  # fmt: skip
        made.append(
            Snapshot(
                id=id_,
                name=draw(texts(16)),
                description=draw(st.just("") | texts()),
                parent=line[-1] if line else "",
                created=draw(st.just("") | _TIMES),
                current=at == current,
                drives=drives,
                memory=draw(st.sampled_from(["", "", f"memory-{at}.bin"])),
            )
        )
        line.append(id_)
    return tuple(made)


@st.composite
def _firmware(draw: st.DrawFn, *, x86: bool) -> Firmware:
    kind = draw(st.sampled_from(["", "bios", "uefi"] if x86 else ["", "uefi"]))
    tpm = draw(st.sampled_from(["", "", "1.2", "2.0"]))
    if kind != "uefi":
        return Firmware(kind, tpm=tpm)
    files = draw(st.booleans())
    return Firmware(
        "uefi",
        draw(st.sampled_from([None, True, False])),
        tpm,
        draw(_paths(".fd", ".nvram")) if files and draw(st.booleans()) else "",
        draw(_paths(".fd")) if files else "",
    )


@st.composite
def _cpus(draw: st.DrawFn) -> CPUs:
    model = draw(st.sampled_from(["", "", "host", "Skylake-Server", "qemu64"]))
    if draw(st.booleans()):
        return CPUs(draw(st.integers(1, 64)), model=model)
    sockets, cores, threads = draw(
        st.tuples(st.integers(1, 4), st.integers(1, 8), st.sampled_from([1, 2]))
    )
    return CPUs(sockets * cores * threads, sockets, cores, threads, model)


@st.composite
def _display(draw: st.DrawFn) -> Display:
    models = [
        "vga", "cirrus", "qxl", "virtio", "vmvga", "bochs", "vboxvga", "vboxsvga", "ramfb",
        "synthvid", "none",
    ]  # fmt: skip
    model = draw(st.sampled_from(models))
    remote = draw(st.sampled_from(["", "vnc", "spice", "rdp", "sdl", "gtk"]))
    if model == "none":
        return Display("none")
    return Display(
        model=model,
        memory=draw(st.sampled_from([0, 8, 16, 64, 128])) * MIB,
        heads=draw(st.integers(0, 4)),
        accelerated=draw(st.sampled_from([None, None, True, False])),
        remote=remote,
    )


def _in_boot_order(
    draw: st.DrawFn, drives: list[Drive], networks: list[Network]
) -> tuple[tuple[Drive, ...], tuple[Network, ...]]:
    places = [*range(len(drives) + len(networks))]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=3)) if places else []
    order = {place: at for at, place in enumerate(chosen, 1)}
    return (
        tuple(replace(drive, boot=order.get(at, 0)) for at, drive in enumerate(drives)),
        tuple(
            replace(network, boot=order.get(len(drives) + at, 0))
            for at, network in enumerate(networks)
        ),
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Whole, sane machines with every field of the model, or without it."""
    architecture = draw(
        st.sampled_from(
            ["", "x86_64", "x86_64", "x86_64", "x86_64", "i686", "aarch64", "armv7l",
             "ppc64le", "ppc64", "s390x", "riscv64"]
        )
    )  # fmt: skip
    x86 = architecture in ("", "x86_64", "i686")
    chipset = ""
    if x86:
        chipset = draw(st.sampled_from(["", "i440fx", "q35", "xenpv"]))
    elif architecture in ("aarch64", "armv7l", "riscv64"):
        chipset = draw(st.sampled_from(["", "virt"]))

    places = [(bus, *place) for bus in BUSES for place in _SLOTS[bus]]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=6))
    drives = [draw(_drive(*place)) for place in sorted(chosen, key=places.index)]
    controllers: tuple[Controller, ...] = ()
    if draw(st.booleans()):
        used = dict.fromkeys((drive.bus, drive.controller) for drive in drives)
        models: dict[str, str] = {}
        for bus, _ in used:
            if bus not in models or bus == "scsi":
                models[bus] = draw(st.sampled_from(_MODELS.get(bus, [""])))
        controllers = tuple(Controller(bus, index, models[bus]) for bus, index in used)
    networks = [draw(_network(at)) for at in range(draw(st.integers(0, 3)))]
    booted, reached = _in_boot_order(draw, drives, networks)

    return Machine(
        name=draw(texts(without="/")),
        description=draw(st.just("") | texts(60)),
        uuid=draw(st.just("") | _UUIDS),
        architecture=architecture,
        chipset=chipset,
        firmware=draw(_firmware(x86=x86)),
        cpus=draw(st.just(CPUs()) | _cpus()),
        memory=draw(st.sampled_from([0, 256, 512, 1024, 1536, 4096, 65536])) * MIB,
        clock=draw(st.sampled_from(["", "utc", "localtime", "Europe/Berlin"])),
        guest=draw(st.sampled_from(["", "debian12", "ubuntu22.04", "win10", "win2k22", "rhel9.0"])),
        controllers=controllers,
        drives=booted,
        networks=reached,
        serials=tuple(draw(st.lists(_serials(), max_size=2))),
        display=draw(st.none() | _display()),
        sound=tuple(
            draw(
                st.lists(
                    st.sampled_from(["ich6", "ich9", "ac97", "es1370", "sb16", "hda"]), max_size=1
                )
            )
        ),
        usb=tuple(
            draw(
                st.lists(st.sampled_from(["uhci", "ohci", "ehci", "xhci"]), max_size=2, unique=True)
            )
        ),
        snapshots=draw(_snapshots(tuple(each for each in booted if each.device == "disk"))),
    )
