"""KubeVirt's VirtualMachine, as YAML for `kubectl apply`. Written only.

A disk is a volume of the pod. One that is a volume of a pool becomes a persistentVolumeClaim with
the volume's name; every other image is to come in a container, whose name is made of the machine's
and the disk's ("registry.example/web-disk0": `vmimg pack -O containerdisk` makes it). Source:
https://kubevirt.io/api-reference/ (v1.VirtualMachine). Imports PyYAML and fitting.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

import yaml

from vmimg.machines.dialect import Written
from vmimg.machines.fitting import Fitting, Rule
from vmimg.machines.model import Drive, Machine

__all__ = ["write"]

_NO: Final = "KubeVirt has no"
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REGISTRY: Final = "registry.example"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "s390x": "s390x"}
_NETWORK: Final = ("virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci")
_ROOM: Final = {"virtio": (1, 64), "sata": (1, 6), "scsi": (1, 64), "usb": (1, 8)}
_MACHINES: Final = {"q35": "q35", "virt": "virt"}


def _label(machine: Machine) -> str:
    plain = unicodedata.normalize("NFKD", machine.name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].strip("-") or "machine"


_RULES: Final = (
    Rule("name", "an object of Kubernetes is called by small letters, digits and hyphens",
         _LABEL.fullmatch, _label, needed=True),
    Rule("architecture", "KubeVirt has amd64, arm64 and s390x", _ARCHITECTURES),
    Rule("chipset", "KubeVirt has q35 and virt", _MACHINES),
    Rule("firmware.variables", "KubeVirt keeps them by itself"),
    Rule("firmware.loader", "KubeVirt brings its firmware"),
    Rule("firmware.tpm", "KubeVirt has TPM 2.0", ("2.0",), "2.0"),
    Rule("cpus.count", "a machine has processors", lambda count: count > 0, 1, needed=True),
    Rule("memory", "a machine has memory", lambda size: size > 0, 1 << 30, needed=True),
    Rule("clock", "KubeVirt has UTC and time zones", lambda clock: clock != "localtime", "utc"),
    Rule("guest", "an instance type and a preference say it, which the cluster has"),
    Rule("controllers[]", f"{_NO} controllers to choose from"),
    Rule("drives[].device", "KubeVirt has no floppy drives", ("disk", "cdrom"), drop=True),
    Rule("drives[].size", "the volume says how large it is"),
    Rule("drives[].format", "a volume is raw or what its container holds"),
    Rule("networks[].model", "KubeVirt has no such card", _NETWORK),
    Rule("networks[].kind", "the pod's network by NAT, or one that the cluster names",
         ("nat", "network"), lambda machine: "nat", needed=True),
    Rule("serials[]", "KubeVirt gives every machine a console"),
    Rule("display", "KubeVirt gives every machine a screen, by VNC"),
    Rule("usb[]", "KubeVirt brings USB by itself"),
    Rule("snapshots[]", "snapshots are objects of their own in the cluster"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The YAML."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    domain = _domain(fitted)
    spec: dict[str, Any] = {"domain": domain}
    if fitted.architecture:
        spec["architecture"] = _ARCHITECTURES[fitted.architecture]
    spec["networks"] = [
        {"name": f"net{at}"}
        | ({"multus": {"networkName": each.network}} if each.kind == "network" else {"pod": {}})
        for at, each in enumerate(fitted.networks)
    ]
    spec["volumes"] = [
        _volume(fitted, drive, at)
        for at, drive in enumerate(fitted.drives)
        if drive.path or drive.device == "disk"
    ]
    metadata: dict[str, Any] = {"name": fitted.name}
    if fitted.description:
        metadata["annotations"] = {"kubevirt.io/description": fitted.description}
    document = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata,
        "spec": {"runStrategy": "Halted", "template": {"spec": spec}},
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return Written(text.encode(), fitting.losses)


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "kubevirt", _RULES)
    firmware = machine.firmware
    if firmware.kind != "uefi":
        fitting.lose("firmware.secure_boot", "only UEFI has it")
    for at, model in fitting.members("sound"):
        if at:
            fitting.lose(f"sound[{at}]", "KubeVirt has one sound card")
        elif model not in ("ich9", "ac97"):
            fitting.lose("sound[0]", "KubeVirt has ich9 and ac97", "ich9")
    cpus = machine.cpus
    if cpus.sockets and cpus.count != cpus.sockets * cpus.cores * cpus.threads:
        for key in ("sockets", "cores", "threads"):
            fitting.lose(f"cpus.{key}", "the processors do not fill the sockets")
    fitting.place(
        _ROOM,
        lambda drive: "sata" if drive.device == "cdrom" else "virtio",
        "KubeVirt",
        lambda device, bus: device == "disk" or bus in ("sata", "scsi"),
    )
    for at, drive in fitting.members("drives"):
        key = f"drives[{at}]"
        if not drive.path:
            if drive.device == "disk":
                fitting.lose(key, "a disk is a volume, and this has none")
            continue
        if drive.source == "volume" and _LABEL.fullmatch(drive.path.rpartition("/")[2]):
            continue  # the claim is in the machine's namespace; the pool has no name there
        image = f"{_REGISTRY}/{fitting.now('name')}-disk{at}"
        fitting.lose(f"{key}.path", "the container that has to hold the image", image)
        fitting.lose(f"{key}.source", "the container that has to hold the image", "volume")
    pods = 0
    for at, network in fitting.members("networks"):
        key = f"networks[{at}]"
        kind = fitting.now(f"{key}.kind")
        if kind == "network" and not re.fullmatch(
            r"[a-z0-9]([a-z0-9./-]*[a-z0-9])?", network.network
        ):
            kind = "nat"
            fitting.lose(f"{key}.kind", "a network is called as objects of Kubernetes are", kind)
        if kind == "nat":
            pods += 1
            if pods > 1:
                fitting.lose(key, "a pod has one network of its own; others have to be named")
            else:
                fitting.lose(f"{key}.network", "it is the pod's network")
    return fitting


def _domain(machine: Machine) -> dict[str, Any]:
    cpus = machine.cpus
    cpu: dict[str, Any] = {"cores": cpus.count}
    if cpus.sockets:
        cpu = {"sockets": cpus.sockets, "cores": cpus.cores, "threads": cpus.threads}
    if cpus.model:
        cpu["model"] = "host-passthrough" if cpus.model == "host" else cpus.model
    domain: dict[str, Any] = {"cpu": cpu, "memory": {"guest": _quantity(machine.memory)}}
    if machine.chipset:
        domain["machine"] = {"type": _MACHINES[machine.chipset]}
    firmware: dict[str, Any] = {"uuid": machine.uuid} if machine.uuid else {}
    if machine.firmware.kind == "uefi":
        secure = bool(machine.firmware.secure_boot)
        firmware["bootloader"] = {"efi": {"secureBoot": secure}}
        if secure:
            domain["features"] = {"smm": {"enabled": True}}
    elif machine.firmware.kind == "bios":
        firmware["bootloader"] = {"bios": {}}
    if firmware:
        domain["firmware"] = firmware
    if machine.clock:
        utc = machine.clock == "utc"
        domain["clock"] = {"utc": {}} if utc else {"timezone": machine.clock}
    devices: dict[str, Any] = {
        "disks": [_disk(drive, at) for at, drive in enumerate(machine.drives)]
    }
    interfaces = []
    for at, network in enumerate(machine.networks):
        interface: dict[str, Any] = {"name": f"net{at}"}
        interface["bridge" if network.kind == "network" else "masquerade"] = {}
        if network.model:
            interface["model"] = network.model
        if network.mac:
            interface["macAddress"] = network.mac
        if network.boot:
            interface["bootOrder"] = network.boot
        if not network.connected:
            interface["state"] = "down"
        interfaces.append(interface)
    devices["interfaces"] = interfaces
    if machine.firmware.tpm:
        devices["tpm"] = {}
    for model in machine.sound:
        devices["sound"] = {"name": "sound0", "model": model}
    domain["devices"] = devices
    return domain


def _quantity(size: int) -> str:
    for unit, power in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


def _disk(drive: Drive, at: int) -> dict[str, Any]:
    kind = "cdrom" if drive.device == "cdrom" else "disk"
    target: dict[str, Any] = {"bus": drive.bus}
    if drive.readonly and kind == "disk":
        target["readonly"] = True
    disk: dict[str, Any] = {"name": f"disk{at}", kind: target}
    if drive.boot:
        disk["bootOrder"] = drive.boot
    if drive.serial:
        disk["serial"] = drive.serial
    return disk


def _volume(machine: Machine, drive: Drive, at: int) -> dict[str, Any]:
    name = drive.path.rpartition("/")[2]
    if drive.path.startswith(_REGISTRY + "/"):
        return {"name": f"disk{at}", "containerDisk": {"image": drive.path}}
    return {"name": f"disk{at}", "persistentVolumeClaim": {"claimName": name}}
