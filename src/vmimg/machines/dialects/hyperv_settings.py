"""A machine in Hyper-V's words: the same keys in the .xml of Windows Server 2008 to 2012 R2 and in
the .vmcx since.

    properties/name, subtype           generation 1 is 0, generation 2 is 1
    settings/processors/count, settings/memory/bank/size (MiB)
    manifest/vdev013/device, instance  which devices there are; what each has is under its instance:
    _83f8638b-8dca-4152-9eda-2ca8b33039b4_/controller0/drive1/type, pathname

Sources: a machine of Windows Server 2012 R2 as the Image Factory of oz generates it; Vagrant's and
vagrant-hyperv's import scripts; dissect.target's Hyper-V loader; ExHyperV (types of devices, keys
of network cards and vTPM). Imports the model.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from vmimg.errors import FormatError
from vmimg.formats.vetting import printable
from vmimg.machines.dialects.hyperv_devices import (
    BIOS,
    COMPONENTS,
    FLOPPY,
    IDE,
    LEGACY_NETWORK,
    NETWORK,
    SCSI,
    SERIAL,
    TPM,
    VIDEO,
)
from vmimg.machines.model import (
    Bus,
    Controller,
    CPUs,
    Display,
    Drive,
    Firmware,
    Machine,
    Network,
    Serial,
)

__all__ = [
    "Reading",
    "Value",
    "boot_words",
    "created",
    "disk_format",
    "guid",
    "machine_of",
    "number_boots",
    "reading",
]

Value = str | int | bool | float | bytes

_MIB: Final = 1 << 20
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DRIVE: Final = re.compile(r"controller(\d{1,3})/drive(\d{1,3})/(?:type|pathname)")
_WORDS: Final = {"Floppy": "floppy", "HardDrive": "disk", "Optical": "cdrom", "Network": "network"}
_BOOTS: Final = {word.lower(): kind for word, kind in _WORDS.items()}
_KNOWN: Final = frozenset((IDE, SCSI, FLOPPY, SERIAL, BIOS, TPM, *COMPONENTS))
_KINDS: Final = {
    "vhd": ("disk", "file"), "iso": ("cdrom", "file"), "vfd": ("floppy", "file"),
    "physical": ("disk", "block"), "passthrough": ("disk", "block"), "atapi": ("cdrom", "block"),
}  # fmt: skip
_FORMATS: Final = {".vhd": "vhd", ".avhd": "vhd", ".vhdx": "vhdx", ".avhdx": "vhdx"}
# What Hyper-V counts, dates and links up for itself.
_BOOKKEEPING: Final = re.compile(
    r"(?:.*/)?(?:VDEVVersion|ChannelInstanceGuid|VpciInstanceGuid|PortName|size|count)"
    r"|global_settings/metrics/.*|manifest/.*|properties/(?:.*_time|type_id|global_id|version)"
    r"|settings/global/logical_id"
    r"|.*/Feature_[^/]*/.*|.*/(?:Features|Features\[\d+\])/.*|global_settings/owner/.*"
)
_MAX_DEVICES: Final = 1024


def machine_of(values: Mapping[str, Value], dialect: str, name: str) -> Machine:
    """The machine that ``values`` describe: by paths below the root "configuration", parts joined
    by "/", a second one of a name as "name[2]".

    Raises FormatError for what is no configuration of a machine.
    """
    found = reading(values, name)
    if not found.rest:
        return found.machine
    extras = tuple((path, _said(values[path])) for path in found.rest)
    return replace(found.machine, extras={dialect: extras})


@dataclass(frozen=True, slots=True)
class Reading:
    """What values say: ``machine``, without extras; ``rest``: the paths of what its owner may have
    set, and the model has no word for. ``networks`` and ``scsi``: the instances of the cards and
    of the SCSI controllers, in their order; ``others``: device and name of what is none of the
    devices that a machine has, by instance.
    """

    machine: Machine
    rest: tuple[str, ...]
    networks: tuple[str, ...]
    scsi: tuple[str, ...]
    others: Mapping[str, tuple[str, str]]


def reading(values: Mapping[str, Value], name: str) -> Reading:
    """As `machine_of`, with what the machine was found in."""
    return _Settings(values, name).reading()


def created(values: Mapping[str, Value]) -> str:
    """When it was made, "" where that is not told."""
    value = values.get("properties/creation_time", b"")
    if not isinstance(value, bytes) or len(value) < 8:
        return ""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:  # a FILETIME; one generator has it the other way
        ticks = int.from_bytes(value[:8], order)
        try:
            time = datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
        except OverflowError:
            continue
        if 2000 <= time.year < 2200:
            return time.strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""


class _Settings:
    """Remembers what was looked at: the rest is kept."""

    def __init__(self, values: Mapping[str, Value], name: str) -> None:
        self._values = values
        self._name = name
        self._paths = {path.lower(): path for path in values}
        self._seen: set[str] = set()
        self._below: dict[str, list[str]] = {}
        for path in values:
            head, _, rest = path.partition("/")
            self._below.setdefault(head.lower(), []).append(rest)
        self._devices = list(self._manifest())

    def reading(self) -> Reading:
        machine = self._machine()
        return Reading(
            machine,
            tuple(self._rest()),
            tuple(instance for device, instance, name in self._devices if _is_card(device, name)),
            tuple(self._instances(SCSI)),
            {
                instance: (device, name)
                for device, instance, name in self._devices
                if device not in _KNOWN and not _is_card(device, name)
            },
        )

    def _machine(self) -> Machine:
        if not any(path.startswith(("properties/", "settings/")) for path in self._paths):
            raise FormatError(f"{self._name}: is no configuration of a machine of Hyper-V")
        boots = self._boots()
        drives = self._drives()
        networks = self._networks()
        number_boots(drives, networks, boots)
        bus = dict.fromkeys((each.bus, each.controller) for each in drives)
        bus |= dict.fromkeys(("scsi", at) for at, _ in enumerate(self._instances(SCSI)))
        return Machine(
            name=self._text("properties/name"),
            description=self._text("properties/notes"),
            uuid=self._uuid(),
            architecture="x86_64",
            firmware=self._firmware(),
            cpus=CPUs(self._number("settings/processors/count", 1 << 16)),
            memory=self._number("settings/memory/bank/size", 1 << 40) * _MIB,
            controllers=tuple(Controller(*place) for place in sorted(bus, key=_rank)),
            drives=tuple(drives),
            networks=tuple(networks),
            serials=self._serials(),
            display=Display("synthvid") if self._instances(VIDEO) else None,
        )

    def _get(self, path: str) -> Value | None:
        real = self._paths.get(path.lower())
        if real is None:
            return None
        self._seen.add(real)
        return self._values[real]

    def _text(self, path: str) -> str:
        value = self._get(path)
        if isinstance(value, bytes):
            return ""
        return "" if value is None else str(value).strip("\0").strip()

    def _flag(self, path: str) -> bool | None:
        return {"true": True, "1": True, "false": False, "0": False}.get(self._text(path).lower())

    def _number(self, path: str, most: int) -> int:
        value = self._get(path)
        if value is None or value == "":
            return 0
        shown = printable(str(value)[:40])
        try:
            found = int(value) if not isinstance(value, bytes) else -1
        except (ValueError, OverflowError):
            raise FormatError(f"{self._name}: {path} is no number: '{shown}'") from None
        if not 0 <= found <= most:
            raise FormatError(f"{self._name}: {path} is {shown}, and may be 0 to {most}")
        return found

    def _manifest(self) -> Iterator[tuple[str, str, str]]:
        """(type, instance, name) of each device, in the order of their numbers."""
        names = dict.fromkeys(rest.partition("/")[0] for rest in self._below.get("manifest", ()))
        if len(names) > _MAX_DEVICES:
            raise FormatError(f"{self._name}: lists {len(names)} devices, more than {_MAX_DEVICES}")
        listed = set()
        for vdev in sorted(names):
            device = guid(self._text(f"manifest/{vdev}/device"))
            instance = guid(self._text(f"manifest/{vdev}/instance")) or device
            if device:
                listed.add(instance)
                yield device, instance, self._text(f"manifest/{vdev}/name")
        # The oldest list less: a device whose instance is called like its type is there as well.
        for device in (IDE, SCSI, FLOPPY, SERIAL):
            if device not in listed and f"_{device}_" in self._below:
                yield device, device, ""

    def _instances(self, device: str) -> list[str]:
        return [instance for kind, instance, _ in self._devices if kind == device]

    def _uuid(self) -> str:
        """The one that the guest sees, or else Hyper-V's own."""
        found = guid(self._text(f"_{BIOS}_/bios_guid"))
        return found or guid(self._text("properties/global_id"))

    def _firmware(self) -> Firmware:
        second = self._number("properties/subtype", 1 << 16) >= 1
        secure = self._flag(f"_{BIOS}_/secure_boot_enabled")
        return Firmware(
            kind="uefi" if second else "bios",
            secure_boot=secure if second else None,
            tpm="2.0" if self._instances(TPM) else "",
        )

    def _boots(self) -> list[str]:
        found = []
        for at in range(8):
            word = self._text(f"_{BIOS}_/boot/device{at}").lower()
            if word in _BOOTS and _BOOTS[word] not in found:
                found.append(_BOOTS[word])
        return found

    def _drives(self) -> list[Drive]:
        drives: list[Drive] = []
        for instance in self._instances(IDE):
            drives += self._on(instance, "ide", 0)
        for at, instance in enumerate(self._instances(SCSI)):
            drives += self._on(instance, "scsi", at)
        for instance in self._instances(FLOPPY):
            drives += self._on(instance, "floppy", 0)
        if len(drives) > _MAX_DEVICES:
            raise FormatError(f"{self._name}: has {len(drives)} drives, more than {_MAX_DEVICES}")
        return drives

    def _on(self, instance: str, bus: Bus, number: int) -> list[Drive]:
        """What hangs on a controller. IDE has its two channels as controllers."""
        head = f"_{instance}_"
        places = {
            (int(found[1]), int(found[2]))
            for rest in self._below.get(head, ())
            if (found := _DRIVE.fullmatch(rest))
        }
        drives = []
        for controller, slot in sorted(places):
            place = f"{head}/controller{controller}/drive{slot}"
            kind = _KINDS.get(self._text(f"{place}/type").lower())
            path = self._text(f"{place}/pathname")
            if kind is None:
                continue
            device, source = kind
            drives.append(
                Drive(
                    device=device,  # type: ignore[arg-type]
                    bus=bus,
                    controller=controller if bus == "ide" else number,
                    slot=slot,
                    path=path,
                    source=source if path else "file",  # type: ignore[arg-type]
                    format=disk_format(path) if device == "disk" else "",
                )
            )
        return drives

    def _networks(self) -> list[Network]:
        found = []
        for device, instance, name in self._devices:
            if not _is_card(device, name):
                continue
            head = f"_{instance}_"
            mac = re.sub(r"[^0-9A-Fa-f]", "", self._text(f"{head}/MacAddress")).lower()
            switch = self._text(f"{head}/Connection/AltSwitchName")
            connected = self._flag(f"{head}/IsConnected") is not False
            # "Not chosen yet" is written as zeros.
            known = len(mac) == 12 and mac.strip("0") != ""
            found.append(
                Network(
                    model="netvsc" if device == NETWORK else "",
                    mac=":".join(re.findall("..", mac)) if known else "",
                    kind="network" if switch else "" if connected else "none",
                    network=switch,
                    connected=connected,
                )
            )
        return found

    def _serials(self) -> tuple[Serial, ...]:
        found = []
        for instance in self._instances(SERIAL):
            for port in range(4):
                path = self._text(f"_{instance}_/port{port}/connection")
                if path:
                    found.append(Serial("pipe", path))
        return tuple(found)

    def _rest(self) -> Iterator[str]:
        for path, value in self._values.items():
            if (
                path not in self._seen
                and value not in ("", b"")
                and not _BOOKKEEPING.fullmatch(path)
            ):
                yield path


def boot_words(kinds: Sequence[str]) -> tuple[str, ...]:
    """Hyper-V's words for what is booted in this order."""
    words = {kind: word for word, kind in _WORDS.items()}
    return tuple(words[kind] for kind in kinds)


def number_boots(drives: list[Drive], networks: list[Network], boots: Sequence[str]) -> None:
    """What boots, numbered: the first device of each kind, in the order of the kinds."""
    rank = 0
    for kind in boots:
        if kind == "network":
            if networks:
                rank += 1
                networks[0] = replace(networks[0], boot=rank)
            continue
        at = next((at for at, each in enumerate(drives) if each.device == kind), None)
        if at is not None:
            rank += 1
            drives[at] = replace(drives[at], boot=rank)


def _said(value: Value) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _is_card(device: str, name: str) -> bool:
    return device == NETWORK or LEGACY_NETWORK in name


def _rank(place: tuple[Bus, int]) -> tuple[int, int]:
    return ("ide", "scsi", "floppy").index(place[0]), place[1]


def guid(text: str) -> str:
    """``text`` as a GUID in lower case, without braces; "" for anything else."""
    plain = text.strip("{} \0").lower()
    return plain if _UUID.fullmatch(plain) else ""


def disk_format(path: str) -> str:
    """The format that the name of a disk tells."""
    lower = path.lower()
    return next((format for end, format in _FORMATS.items() if lower.endswith(end)), "")
