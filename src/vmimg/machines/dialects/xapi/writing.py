"""Writing an ova.xml that XenServer and XCP-ng import. Imports values, records, fitting, the model.

References are given in the order of objects: the machine is Ref:0, then come its networks, then its
drives. uuids that nobody gave are left empty: the host makes them.
"""

from __future__ import annotations

import re
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.xapi.reading import read
from vmimg.machines.dialects.xapi.records import NULL, PARTLY, fresh
from vmimg.machines.dialects.xapi.values import Value, from_text, whole
from vmimg.machines.fitting import (
    Fitting,
    Rule,
    boot_by_class,
    boot_letters,
    no_boot_order,
    own_extras,
)
from vmimg.machines.model import Drive, Machine, Network
from vmimg.machines.xml import printable

__all__ = ["write"]

_ROOM: Final = {"xen": (1, 255)}
_NETWORK: Final = "Pool-wide network associated with eth0"
_KEY: Final = re.compile(r"(VM|VBD|VIF|network)(?:\[(\d{1,4})\])?\.([\w-]+)(?:\.([\w.-]+))?")


def _clean(value: str) -> str:
    return printable(value).replace("\r", "")


def _sayable(value: str) -> bool:
    return value == _clean(value)


_RULES: Final = (
    Rule("name", "XML has no such characters", _sayable, lambda machine: _clean(machine.name)),
    Rule("description", "XML has no such characters", _sayable,
         lambda machine: _clean(machine.description)),
    Rule("uuid", "XML has no such characters", _sayable),
    Rule("architecture", "a guest has that of its host"),
    Rule("firmware.tpm", "the state of a TPM is not exported"),
    Rule("firmware.variables", "XenServer keeps them in its database"),
    Rule("firmware.loader", "XenServer brings its firmware"),
    Rule("cpus.model", "the pool decides"),
    Rule("cpus.count", "a machine has processors", lambda count: count > 0, 1, needed=True),
    Rule("memory", "a machine has memory", lambda size: size > 0, 1 << 30, needed=True),
    Rule("clock", "XenServer keeps the offset of a clock only"),
    Rule("guest", "XenServer names templates"),
    Rule("controllers[]", "XenServer has no controllers"),
    Rule("drives[].device", "XenServer has no floppy drives", ("disk", "cdrom"), drop=True),
    Rule("drives[].source", "a disk is part of the export"),
    Rule("drives[].serial", "XenServer does not set it"),
    Rule("networks[].model", "a guest has Xen's card", ("xen",), "xen", needed=True),
    Rule("networks[].mac", "XML has no such characters", _sayable),
    Rule("networks[].connected", "XenServer does not say it"),
    Rule("serials[]", "the host gives a console"),
    Rule("display.remote", "the host shows it"),
    Rule("display.heads", "XenServer has one"),
    Rule("display.accelerated", "it is said of the host's graphics card"),
    Rule("sound[]", "XenServer has no sound"),
    Rule("usb[]", "XenServer brings USB by itself"),
    Rule("snapshots[]", "the disks of snapshots would have to be exported with it"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The ova.xml; where a drive's data belong says the loss of its path ("Ref:4")."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    extras = tuple(machine.extras.get("xapi", ()))
    objects = _objects(fitted)
    failed = [at for at, (key, value) in enumerate(extras) if not _put(objects, key, value)]
    version: dict[str, Value] = {
        "hostname": "localhost", "date": "2024-01-01", "product_version": "8.2.0",
        "product_brand": "XCP-ng", "build_number": "release", "xapi_major": "1",
        "xapi_minor": "20", "export_vsn": "2",
    }  # fmt: skip
    listed: list[Value] = [
        {"class": kind, "id": ref, "snapshot": dict(record)} for kind, ref, record in objects
    ]
    data = whole({"version": version, "objects": listed})
    (found,) = read(data, machine.name)
    return Written(data, fitting.losses + own_extras(machine, "xapi", failed, found))


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "xapi", _RULES)
    pv = machine.chipset == "xenpv"
    kept = dict(machine.extras.get("xapi", ()))
    if not pv and not (not machine.chipset and "VM.domain_type" in kept):
        fitting.lose("chipset", "a whole guest of Xen has an i440fx", "i440fx")
    if pv:
        for key in ("firmware.kind", "firmware.secure_boot", "display"):
            fitting.lose(key, "a paravirtual guest has none")
    elif machine.firmware.kind != "uefi":
        fitting.lose("firmware.secure_boot", "only UEFI has it")
    cpus = machine.cpus
    if cpus.sockets:
        if cpus.count != cpus.sockets * cpus.cores * cpus.threads:
            for key in ("sockets", "cores", "threads"):
                fitting.lose(f"cpus.{key}", "the processors do not fill the sockets")
        else:
            fitting.lose("cpus.threads", "XenServer has sockets and cores", 1)
            fitting.lose("cpus.cores", "threads are counted as cores", cpus.cores * cpus.threads)
    display = machine.display
    if display is not None and not pv:
        fitting.lose(
            "display.model",
            "XenServer has VGA and Cirrus",
            display.model if display.model in ("vga", "cirrus") else "vga",
        )
        if display.memory % (1 << 20):
            fitting.lose("display.memory", "counted in MiB", display.memory >> 20 << 20)
    fitting.place(_ROOM, lambda drive: "xen", "XenServer")
    for at, drive in fitting.members("drives"):
        if drive.device == "cdrom":
            fitting.lose(f"drives[{at}].readonly", "a CD is so by itself")
            if drive.path != _clean(drive.path):
                fitting.lose(f"drives[{at}].path", "XML has no such characters")
    for at, network in fitting.members("networks"):
        _fit_network(fitting, f"networks[{at}]", network)
    if pv:
        no_boot_order(fitting, "a paravirtual guest's loader decides")
    else:
        boot_by_class(fitting, "XenServer boots classes of devices")
    _fit_disks(fitting)
    return fitting


def _fit_network(fitting: Fitting, key: str, network: Network) -> None:
    if network.kind == "network" and network.network == _clean(network.network) != "":
        return
    if network.kind == "bridge" and network.network == _clean(network.network) != "":
        return
    fitting.lose(f"{key}.kind", "an interface is on a network of the pool", "network")
    fitting.lose(f"{key}.network", "it is the first of every host", _NETWORK)


def _fit_disks(fitting: Fitting) -> None:
    """Drives are read by their slots; and the path of a disk is its reference."""
    live = list(fitting.members("drives"))
    slots = [fitting.now(f"drives[{at}].slot") for at, _ in live]
    if slots != sorted(slots):
        for slot, (at, _) in enumerate(live):
            fitting.lose(f"drives[{at}].slot", "drives are numbered in their order", slot)
    first = 1 + 2 * len(list(fitting.members("networks")))
    for number, (at, drive) in enumerate(live):
        if drive.device == "disk":
            ref = f"Ref:{first + 2 * number + 1}"
            fitting.lose(f"drives[{at}].path", "the folder with the data of the disk", ref)
            fitting.lose(f"drives[{at}].format", "the blocks of a disk", "raw")


_Objects = list[tuple[str, str, dict[str, Value]]]


def _objects(machine: Machine) -> _Objects:
    vm = _vm(machine)
    objects: _Objects = [("VM", "Ref:0", vm)]
    vifs: list[Value] = []
    vbds: list[Value] = []
    for at, network in enumerate(machine.networks):
        vif, ref = f"Ref:{len(objects)}", f"Ref:{len(objects) + 1}"
        vifs.append(vif)
        record = fresh("VIF") | {"device": str(at), "network": ref, "MAC": network.mac}
        record["MAC_autogenerated"] = not network.mac
        field = "name_label" if network.kind == "network" else "bridge"
        objects.append(("VIF", vif, record))
        objects.append(("network", ref, fresh("network") | {field: network.network, "VIFs": [vif]}))
    disks: list[Value] = []
    storage = f"Ref:{len(objects) + 2 * len(machine.drives)}"
    for drive in machine.drives:
        vbd, vdi = f"Ref:{len(objects)}", f"Ref:{len(objects) + 1}"
        vbds.append(vbd)
        disks.append(vdi)
        objects.append(("VBD", vbd, _vbd(drive, vdi)))
        objects.append(("VDI", vdi, _vdi(drive, vbd, storage, machine.name)))
    if machine.drives:
        record = fresh("SR") | {"name_label": "Local storage", "VDIs": disks}
        objects.append(("SR", storage, record))
    vm["VIFs"], vm["VBDs"] = vifs, vbds
    return objects


def _vm(machine: Machine) -> dict[str, Value]:
    vm = fresh("VM")
    vm["uuid"] = machine.uuid
    vm["name_label"], vm["name_description"] = machine.name, machine.description
    for key in ("static_max", "dynamic_max", "dynamic_min", "target"):
        vm[f"memory_{key}"] = str(machine.memory)
    vm["VCPUs_max"] = vm["VCPUs_at_startup"] = str(machine.cpus.count)
    platform, boot = vm["platform"], vm["HVM_boot_params"]
    assert isinstance(platform, dict) and isinstance(boot, dict)
    if machine.cpus.sockets:
        platform["cores-per-socket"] = str(machine.cpus.cores)
    if machine.chipset == "xenpv":
        vm["domain_type"], vm["PV_bootloader"] = "pv", "pygrub"
    else:
        vm["HVM_boot_policy"] = "BIOS order"
        if machine.chipset:
            vm["domain_type"] = "hvm"
    if machine.firmware.kind:
        boot["firmware"] = machine.firmware.kind
    if machine.firmware.secure_boot is not None:
        platform["secureboot"] = str(machine.firmware.secure_boot).lower()
    if letters := boot_letters(machine):
        boot["order"] = letters
    if machine.display is not None:
        platform["vga"] = "std" if machine.display.model == "vga" else "cirrus"
        if machine.display.memory:
            platform["videoram"] = str(machine.display.memory >> 20)
    return vm


def _vbd(drive: Drive, vdi: str) -> dict[str, Value]:
    empty = drive.device == "cdrom" and not drive.path
    letter = chr(ord("a") + drive.slot) if drive.slot < 26 else ""
    return fresh("VBD") | {
        "VDI": NULL if empty else vdi,
        "device": f"xvd{letter}" if letter else "",
        "userdevice": str(drive.slot),
        "bootable": drive.boot == 1,
        "mode": "RO" if drive.readonly or drive.device == "cdrom" else "RW",
        "type": "CD" if drive.device == "cdrom" else "Disk",
        "empty": empty,
    }


def _vdi(drive: Drive, vbd: str, storage: str, name: str) -> dict[str, Value]:
    cdrom = drive.device == "cdrom"
    return fresh("VDI") | {
        "name_label": drive.path.rpartition("/")[2] if cdrom else f"{name} {drive.slot}",
        "SR": storage,
        "VBDs": [vbd],
        "virtual_size": str(drive.size),
        "read_only": cdrom,
        "location": drive.path if cdrom else "",
    }


def _put(objects: _Objects, key: str, value: str) -> bool:
    found = _KEY.fullmatch(key)
    if found is None:
        return False
    kind, at, field, inner = found[1], int(found[2] or 0), found[3], found[4] or ""
    records = [record for each, _, record in objects if each == kind]
    if at >= len(records) or (inner and (kind != "VM" or field not in PARTLY)):
        return False
    record = records[at]
    if inner:
        struct = record[field]
        assert isinstance(struct, dict)
        if not value:
            return struct.pop(inner, None) is not None
        record = struct
    elif field in ("name_label", "VM", "VDI", "network") or (kind, field) == ("VM", "uuid"):
        return False
    try:
        said = from_text(value)
    except FormatError:
        return False
    if record.get(inner or field) == said:
        return False
    record[inner or field] = said
    return True
