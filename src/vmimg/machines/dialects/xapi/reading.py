"""Reading an ova.xml, of today and of XenServer 4. Imports XML, values, records and the model."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.xapi.records import DEFAULTS, MAPPED, NULL, PARTLY, PASSING
from vmimg.machines.dialects.xapi.values import Value, to_text, value_of
from vmimg.machines.fitting import booted_by
from vmimg.machines.model import (
    CPUs,
    Display,
    Drive,
    Extra,
    Firmware,
    Machine,
    Network,
    Snapshot,
)
from vmimg.machines.xml import Element, children, local, number, parse, text

__all__ = ["read"]

_MAX_MACHINES: Final = 256
_MAX_DEVICES: Final = 1024
_MAX_SNAPSHOTS: Final = 4096
_TIME: Final = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)Z?")


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machines of an export, without their snapshots, which each of them lists."""
    root = parse(data, name, root=("value", "appliance"))
    if local(root) == "appliance":
        return _appliance(root, name)
    return _Export(root, name).machines()


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    record: dict[str, Value]


class _Export:
    def __init__(self, root: Element, name: str) -> None:
        self._name = name
        document = value_of(root, name)
        objects = document.get("objects") if isinstance(document, dict) else None
        if not isinstance(objects, list):
            raise FormatError(f"{name}: there are no objects of xapi in it")
        self._objects: dict[str, _Object] = {}
        for each in objects:
            record = each.get("snapshot") if isinstance(each, dict) else None
            if not isinstance(each, dict) or not isinstance(record, dict):
                raise FormatError(f"{name}: an object of xapi has no record")
            self._objects[str(each.get("id"))] = _Object(str(each.get("class")), record)

    def machines(self) -> tuple[Machine, ...]:
        found, snapshots = [], []
        for ref, each in self._objects.items():
            if each.kind != "VM" or each.record.get("is_control_domain") is True:
                continue
            if each.record.get("is_a_snapshot") is True:
                snapshots.append((ref, each.record))
            else:
                found.append((ref, each.record))
        if not found or len(found) > _MAX_MACHINES or len(snapshots) > _MAX_SNAPSHOTS:
            raise FormatError(
                f"{self._name}: {len(found)} machines and {len(snapshots)} snapshots are not 1 to "
                f"{_MAX_MACHINES} and up to {_MAX_SNAPSHOTS}"
            )
        return tuple(self._machine(ref, record, snapshots) for ref, record in found)

    def _machine(
        self, ref: str, vm: dict[str, Value], snapshots: list[tuple[str, dict[str, Value]]]
    ) -> Machine:
        platform, boot = _struct(vm, "platform"), _struct(vm, "HVM_boot_params")
        pv = self._kind(vm) == "pv"
        extras: list[Extra] = []
        drives = self._drives(vm, extras)
        networks = self._networks(vm, extras)
        count = self._count(vm, "VCPUs_max", 1 << 16)
        cores = platform.get("cores-per-socket", "")
        cpus = CPUs(count)
        told = isinstance(cores, str) and re.fullmatch(r"[1-9][0-9]{0,3}", cores)
        if told and count and count % int(str(cores)) == 0:
            cpus = CPUs(count, count // int(str(cores)), int(str(cores)), 1)
            del platform["cores-per-socket"]
        kinds: dict[Value, Any] = {"uefi": "uefi", "bios": "bios"}
        secure = {"true": True, "false": False}.get(str(platform.get("secureboot")))
        kind = kinds.get(str(boot.get("firmware")), "")
        if kind:
            del boot["firmware"]
        if secure is not None and kind == "uefi":
            del platform["secureboot"]
        else:
            secure = None
        machine = Machine(
            name=_text(vm, "name_label"),
            description=_text(vm, "name_description"),
            uuid=_text(vm, "uuid").lower(),
            chipset={"pv": "xenpv", "hvm": "i440fx"}.get(self._kind(vm), ""),
            firmware=Firmware(kind, secure),
            cpus=cpus,
            memory=self._count(vm, "memory_static_max", 1 << 62),
            drives=tuple(drives),
            networks=tuple(networks),
            display=None if pv else self._display(platform),
            snapshots=self._snapshots(ref, vm, snapshots),
        )
        order = boot.get("order", "")
        if isinstance(order, str) and re.fullmatch(r"[cdn]{1,8}", order) and not pv:
            machine = booted_by(order, machine)
            del boot["order"]
        vm = {**vm, "platform": dict(platform), "HVM_boot_params": dict(boot)}
        if self._kind(vm) in ("pv", "hvm"):
            vm.pop("domain_type", None)
        if pv and vm.get("PV_bootloader") == "pygrub":
            del vm["PV_bootloader"]
        elif pv and not _text(vm, "PV_bootloader"):
            extras.append(("VM.PV_bootloader", to_text("")))
        extras = [*self._rest(vm), *sorted(extras)]
        return replace(machine, extras={"xapi": tuple(extras)} if extras else {})

    def _kind(self, vm: dict[str, Value]) -> str:
        kind = _text(vm, "domain_type")
        if kind in ("hvm", "pv", "pvh", "pv_in_pvh"):
            return kind
        return "hvm" if _text(vm, "HVM_boot_policy") else "pv"

    def _count(self, record: dict[str, Value], key: str, high: int) -> int:
        return number(str(record.get(key) or ""), key, self._name, high=high)

    def _refs(self, vm: dict[str, Value], field: str, kind: str) -> list[dict[str, Value]]:
        refs = vm.get(field)
        if not isinstance(refs, list) or len(refs) > _MAX_DEVICES:
            refs = []
        found = [self._objects.get(str(ref)) for ref in refs]
        return [each.record for each in found if each is not None and each.kind == kind]

    def _record(self, ref: Value) -> dict[str, Value]:
        found = self._objects.get(str(ref))
        return found.record if found is not None else {}

    def _drives(self, vm: dict[str, Value], extras: list[Extra]) -> list[Drive]:
        found: list[Drive] = []
        records = self._refs(vm, "VBDs", "VBD")
        slots = [
            self._count(vbd, "userdevice", 255)
            if re.fullmatch(r"[0-9]{1,3}", _text(vbd, "userdevice")) else at
            for at, vbd in enumerate(records)
        ]  # fmt: skip
        for slot, vbd in sorted(zip(slots, records, strict=True), key=lambda each: each[0]):
            cdrom = _text(vbd, "type") == "CD"
            empty = vbd.get("empty") is True or vbd.get("VDI") in (NULL, None, "")
            vdi = self._record(vbd.get("VDI"))
            path = "" if empty else _text(vbd, "VDI")
            if cdrom and not empty:
                path = _text(vdi, "location") or _text(vdi, "name_label") or path
            self._note(f"VBD[{len(found)}]", "VBD", vbd, extras)
            found.append(
                Drive(
                    device="cdrom" if cdrom else "disk",
                    bus="xen",
                    slot=slot,
                    path=path,
                    format="" if cdrom or empty else "raw",
                    size=0 if cdrom else self._count(vdi, "virtual_size", 1 << 62),
                    readonly=_text(vbd, "mode") == "RO" and not cdrom,
                )
            )
        return found

    def _networks(self, vm: dict[str, Value], extras: list[Extra]) -> list[Network]:
        found: list[Network] = []
        for vif in self._refs(vm, "VIFs", "VIF"):
            network = self._record(vif.get("network"))
            label, bridge = _text(network, "name_label"), _text(network, "bridge")
            at = len(found)
            if label and bridge:
                extras.append((f"network[{at}].bridge", to_text(bridge)))
            self._note(f"VIF[{at}]", "VIF", vif, extras)
            kind: Any = "network" if label else "bridge" if bridge else ""
            found.append(Network("xen", _text(vif, "MAC").lower(), kind, label or bridge))
        return found

    def _display(self, platform: dict[str, Value]) -> Display | None:
        model = {"std": "vga", "cirrus": "cirrus"}.get(str(platform.get("vga")), "")
        if not model:
            return None
        memory = str(platform.get("videoram", "0"))
        mebibytes = number(memory, "videoram", self._name, high=1 << 20)
        platform.pop("vga")
        platform.pop("videoram", None)
        return Display(model, mebibytes << 20)

    def _snapshots(
        self, ref: str, vm: dict[str, Value], others: list[tuple[str, dict[str, Value]]]
    ) -> tuple[Snapshot, ...]:
        own = [(each, record) for each, record in others if record.get("snapshot_of") == ref]
        ids = {each: _text(record, "uuid") or each for each, record in own}
        found = []
        for each, record in own:
            time = _TIME.fullmatch(_text(record, "snapshot_time"))
            found.append(
                Snapshot(
                    id=ids[each],
                    name=_text(record, "name_label"),
                    description=_text(record, "name_description"),
                    parent=ids.get(str(record.get("parent")), ""),
                    created="{}-{}-{}T{}:{}:{}Z".format(*time.groups()) if time else "",
                    current=vm.get("parent") == each,
                    drives=tuple(self._drives(record, [])),
                )
            )
        return tuple(found)

    def _rest(self, vm: dict[str, Value]) -> list[Extra]:
        extras: list[Extra] = []
        for key in PARTLY:
            known = DEFAULTS["VM"][key]
            said = _struct(vm, key)
            assert isinstance(known, dict)
            extras += [(f"VM.{key}.{inner}", to_text(value)) for inner, value in said.items()
                       if known.get(inner) != value]  # fmt: skip
            extras += [(f"VM.{key}.{inner}", "") for inner in known if inner not in said]
        self._note("VM", "VM", {key: vm[key] for key in vm if key not in PARTLY}, extras)
        return extras

    def _note(self, path: str, kind: str, record: dict[str, Value], extras: list[Extra]) -> None:
        """Keep what is neither the model's nor of the moment, and not what we would write."""
        extras += [
            (f"{path}.{key}", to_text(value))
            for key, value in sorted(record.items())
            if key not in MAPPED[kind] and key not in PASSING
            and DEFAULTS[kind].get(key, None) != value and value not in ("", [], {}, None, NULL)
            and not (isinstance(value, str) and value.startswith(("Ref:", "OpaqueRef:")))
            and re.fullmatch(r"[\w-]+", key)
        ]  # fmt: skip


def _text(record: dict[str, Value], key: str) -> str:
    value = record.get(key)
    return str(value) if isinstance(value, str) else ""


def _struct(record: dict[str, Value], key: str) -> dict[str, Value]:
    value = record.get(key)
    if not isinstance(value, dict):
        return {}
    return {inner: each for inner, each in value.items() if re.fullmatch(r"[\w.-]+", inner)}


def _appliance(root: Element, name: str) -> tuple[Machine, ...]:
    """The form of XenServer 4: elements of their own instead of records."""
    sizes = {
        vdi.get("name", ""): (
            vdi.get("source", "").removeprefix("file://"),
            number(vdi.get("size", ""), "the size of a disk", name, high=1 << 62),
        )
        for vdi in children(root, "vdi")
    }
    found = []
    for vm in children(root, "vm"):
        config, hacks = next(children(vm, "config"), None), next(children(vm, "hacks"), None)
        memory = "" if config is None else config.get("mem_set", "")
        vcpus = "" if config is None else config.get("vcpus", "")
        hvm = hacks is not None and hacks.get("is_hvm") == "true"
        drives: list[Drive] = []
        for vbd in list(children(vm, "vbd"))[:_MAX_DEVICES]:
            device = re.fullmatch(r"(?:xvd|sd|hd)([a-z])", vbd.get("device", ""))
            path, size = sizes.get(vbd.get("vdi", ""), ("", 0))
            drives.append(
                Drive(
                    bus="xen",
                    slot=ord(device[1]) - ord("a") if device else len(drives),
                    path=path,
                    format="raw",
                    size=size,
                    boot=1
                    if vbd.get("function") == "root" and not any(d.boot for d in drives)
                    else 0,
                    readonly=vbd.get("mode") in ("ro", "r"),
                )
            )
        extras: tuple[Extra, ...] = ()
        if hacks is not None and hacks.get("kernel_boot_cmdline", "").strip():
            extras = (("VM.PV_args", to_text(hacks.get("kernel_boot_cmdline", "").strip())),)
        found.append(
            Machine(
                name=text(vm, "label"),
                description=text(vm, "shortdesc"),
                chipset="i440fx" if hvm else "xenpv",
                cpus=CPUs(number(vcpus, "vcpus", name, high=1 << 16)),
                memory=number(memory, "mem_set", name, high=1 << 62),
                drives=tuple(drives),
                extras={"xapi": extras} if extras else {},
            )
        )
    if not found or len(found) > _MAX_MACHINES:
        raise FormatError(f"{name}: {len(found)} machines in it")
    return tuple(found)
